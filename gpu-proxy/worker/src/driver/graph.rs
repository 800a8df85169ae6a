//! Calls for stream capture, graphs and words that streams wait for. What they name is ours (see `calls`);
//! graphs and nodes are the driver's answers to earlier calls, kept until they are gone.

use core::ffi::{c_uint, c_void};

use cuda_abi::types::{
    CUDA_GRAPH_INSTANTIATE_PARAMS, CUgraph, CUgraphEdgeData, CUgraphExec, CUgraphInstantiateResult,
    CUgraphNode, CUresult, CUstream, CUstreamBatchMemOpParams, CUstreamCaptureMode,
    CUstreamCaptureStatus, CUuserObject,
};

use super::Table;
use super::calls::{Result, ok};
use crate::callbacks::Registered;

/// Nodes or edges of a graph.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Edges {
    /// The driver's nodes.
    pub from: Vec<usize>,
    /// Of edges the other end.
    pub to: Vec<usize>,
    /// Of edges what else they say.
    pub data: Vec<CUgraphEdgeData>,
}

/// The capture that a stream is in.
#[derive(Debug)]
pub struct CaptureInfo {
    /// Whether it goes on, or is only to be ended.
    pub status: CUstreamCaptureStatus,
    /// Its number.
    pub id: u64,
    /// The driver's graph.
    pub graph: usize,
    /// What the stream's next node waits for.
    pub before: Edges,
}

fn nodes(pointers: &[usize]) -> Vec<CUgraphNode> {
    pointers.iter().map(|node| *node as CUgraphNode).collect()
}

fn addresses(nodes: &[CUgraphNode]) -> Vec<usize> {
    nodes.iter().map(|node| node.addr()).collect()
}

impl Table {
    pub(crate) fn exchange_capture_mode(
        &self,
        mode: CUstreamCaptureMode,
    ) -> Result<CUstreamCaptureMode> {
        let function = self.cuThreadExchangeStreamCaptureMode()?;
        let mut mode = mode;
        // SAFETY: a pointer to a local.
        ok(unsafe { function(&raw mut mode) })?;
        Ok(mode)
    }

    /// Whether the stream is in a capture, be it a broken one.
    pub(crate) fn is_capturing(&self, stream: usize) -> Result<bool> {
        let function = self.cuStreamIsCapturing()?;
        let mut status = CUstreamCaptureStatus::default();
        // SAFETY: ours, and a pointer to a local.
        ok(unsafe { function(stream as CUstream, &raw mut status) })?;
        Ok(status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    pub(crate) fn begin_capture(&self, stream: usize, mode: CUstreamCaptureMode) -> Result<()> {
        let function = self.cuStreamBeginCapture_v2()?;
        // SAFETY: ours.
        ok(unsafe { function(stream as CUstream, mode) })
    }

    pub(crate) fn begin_capture_to(
        &self,
        stream: usize,
        graph: usize,
        before: &Edges,
        mode: CUstreamCaptureMode,
    ) -> Result<()> {
        let function = self.cuStreamBeginCaptureToGraph()?;
        let (stream, graph) = (stream as CUstream, graph as CUgraph);
        let (from, data) = (nodes(&before.from), before.data.as_ptr());
        // SAFETY: ours, and slices of the length given.
        ok(unsafe { function(stream, graph, from.as_ptr(), data, from.len(), mode) })
    }

    pub(crate) fn end_capture(&self, stream: usize) -> Result<usize> {
        let function = self.cuStreamEndCapture()?;
        let mut graph: CUgraph = core::ptr::null_mut();
        // SAFETY: ours, and a pointer to a local.
        ok(unsafe { function(stream as CUstream, &raw mut graph) })?;
        Ok(graph.addr())
    }

    pub(crate) fn capture_info(&self, stream: usize) -> Result<CaptureInfo> {
        let stream = stream as CUstream;
        let mut status = CUstreamCaptureStatus::default();
        let (mut id, mut graph, mut count) = (0, core::ptr::null_mut(), 0usize);
        let mut from: *const CUgraphNode = core::ptr::null();
        let mut data: *const CUgraphEdgeData = core::ptr::null();
        if let Ok(function) = self.cuStreamGetCaptureInfo_v3() {
            // SAFETY: ours, and pointers to locals.
            ok(unsafe {
                function(
                    stream,
                    &raw mut status,
                    &raw mut id,
                    &raw mut graph,
                    &raw mut from,
                    &raw mut data,
                    &raw mut count,
                )
            })?;
        } else {
            let function = self.cuStreamGetCaptureInfo_v2()?;
            // SAFETY: ours, and pointers to locals.
            ok(unsafe {
                function(
                    stream,
                    &raw mut status,
                    &raw mut id,
                    &raw mut graph,
                    &raw mut from,
                    &raw mut count,
                )
            })?;
        }
        let active = status == CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE;
        let mut before = Edges::default();
        for index in 0..if active && !from.is_null() { count } else { 0 } {
            // SAFETY: the driver's array has `count` elements and stays until the next call for the stream.
            let at = unsafe { from.add(index) };
            // SAFETY: as above.
            before.from.push(unsafe { at.read() }.addr());
            let mut edge = CUgraphEdgeData::default();
            if !data.is_null() {
                // SAFETY: as above.
                let at = unsafe { data.add(index) };
                // SAFETY: as above.
                edge = unsafe { at.read() };
            }
            before.data.push(edge);
        }
        Ok(CaptureInfo {
            status,
            id,
            graph: graph.addr(),
            before,
        })
    }

    pub(crate) fn update_capture(&self, stream: usize, before: &Edges, flags: u32) -> Result<()> {
        let stream = stream as CUstream;
        let mut from = nodes(&before.from);
        let (list, count) = (from.as_mut_ptr(), from.len());
        let plain = before
            .data
            .iter()
            .all(|data| *data == CUgraphEdgeData::default());
        if plain {
            let function = self.cuStreamUpdateCaptureDependencies()?;
            // SAFETY: ours, and a slice of the length given.
            return ok(unsafe { function(stream, list, count, flags) });
        }
        let function = self.cuStreamUpdateCaptureDependencies_v2()?;
        // SAFETY: as above, twice.
        ok(unsafe { function(stream, list, before.data.as_ptr(), count, flags) })
    }

    pub(crate) fn graph_nodes(&self, graph: usize) -> Result<Vec<usize>> {
        let function = self.cuGraphGetNodes()?;
        let graph = graph as CUgraph;
        let mut count = 0;
        // SAFETY: ours, and a pointer to a local; there is no list.
        ok(unsafe { function(graph, core::ptr::null_mut(), &raw mut count) })?;
        let mut list: Vec<CUgraphNode> = vec![core::ptr::null_mut(); count];
        // SAFETY: ours, a slice of the length given, and a pointer to a local.
        ok(unsafe { function(graph, list.as_mut_ptr(), &raw mut count) })?;
        list.truncate(count);
        Ok(addresses(&list))
    }

    /// The executable graph, or the node that is in its way.
    pub(crate) fn instantiate(
        &self,
        graph: usize,
        flags: u64,
        stream: usize,
    ) -> (Result<usize>, CUgraphInstantiateResult, usize) {
        let mut exec: CUgraphExec = core::ptr::null_mut();
        let mut params = CUDA_GRAPH_INSTANTIATE_PARAMS {
            flags,
            hUploadStream: stream as CUstream,
            hErrNode_out: core::ptr::null_mut(),
            result_out: CUgraphInstantiateResult::CUDA_GRAPH_INSTANTIATE_ERROR,
        };
        let status = if let Ok(function) = self.cuGraphInstantiateWithParams() {
            // SAFETY: ours, and pointers to locals.
            unsafe { function(&raw mut exec, graph as CUgraph, &raw mut params) }
        } else {
            match self.cuGraphInstantiateWithFlags() {
                // SAFETY: ours, and a pointer to a local.
                Ok(function) => unsafe { function(&raw mut exec, graph as CUgraph, flags) },
                Err(status) => status,
            }
        };
        let made = ok(status).map(|()| exec.addr());
        (made, params.result_out, params.hErrNode_out.addr())
    }

    pub(crate) fn launch_graph(&self, exec: usize, stream: usize) -> Result<()> {
        let function = self.cuGraphLaunch()?;
        // SAFETY: ours.
        ok(unsafe { function(exec as CUgraphExec, stream as CUstream) })
    }

    pub(crate) fn destroy_exec(&self, exec: usize) -> Result<()> {
        let function = self.cuGraphExecDestroy()?;
        // SAFETY: ours; its owner has taken it out of every table.
        ok(unsafe { function(exec as CUgraphExec) })
    }

    /// Words to write and to wait for, whose places were checked by the caller.
    pub(crate) fn memory_operations(
        &self,
        stream: usize,
        operations: &mut [CUstreamBatchMemOpParams],
        flags: u32,
    ) -> Result<()> {
        let function = self.cuStreamBatchMemOp_v2()?;
        let count =
            c_uint::try_from(operations.len()).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let list = operations.as_mut_ptr();
        // SAFETY: ours, and a slice of the length given.
        ok(unsafe { function(stream as CUstream, count, list, flags) })
    }

    pub(crate) fn create_user_object(
        &self,
        destructor: &Registered,
        count: u32,
        flags: u32,
    ) -> Result<usize> {
        let function = self.cuUserObjectCreate()?;
        let mut object: CUuserObject = core::ptr::null_mut();
        let (destroy, data) = destructor.destructor_parts();
        // SAFETY: a pointer to a local; the destructor takes any number, at any time.
        ok(unsafe { function(&raw mut object, data, Some(destroy), count, flags) })?;
        Ok(object.addr())
    }

    pub(crate) fn retain_user_object(&self, object: usize, count: u32) -> Result<()> {
        let function = self.cuUserObjectRetain()?;
        // SAFETY: ours, and not ended.
        ok(unsafe { function(object as CUuserObject, count) })
    }

    pub(crate) fn release_user_object(&self, object: usize, count: u32) -> Result<()> {
        let function = self.cuUserObjectRelease()?;
        // SAFETY: ours, not ended, and the client holds as many references.
        ok(unsafe { function(object as CUuserObject, count) })
    }

    pub(crate) fn tie_user_object(
        &self,
        graph: usize,
        object: usize,
        count: u32,
        flags: u32,
    ) -> Result<()> {
        let function = self.cuGraphRetainUserObject()?;
        // SAFETY: ours, and not ended; what is moved the client holds.
        ok(unsafe { function(graph as CUgraph, object as CUuserObject, count, flags) })
    }

    pub(crate) fn untie_user_object(&self, graph: usize, object: usize, count: u32) -> Result<()> {
        let function = self.cuGraphReleaseUserObject()?;
        // SAFETY: ours, not ended, and the graph holds as many references.
        ok(unsafe { function(graph as CUgraph, object as CUuserObject, count) })
    }

    /// A user object whose end calls `destroy`, and which the graph alone keeps alive.
    ///
    /// # Safety
    ///
    /// `destroy` must be callable with `data` once, on any thread, at any later time.
    pub(crate) unsafe fn tie_to_graph(
        &self,
        graph: usize,
        data: *mut c_void,
        destroy: cuda_abi::types::CUhostFn,
    ) -> Result<()> {
        let create = self.cuUserObjectCreate()?;
        let retain = self.cuGraphRetainUserObject()?;
        let release = self.cuUserObjectRelease()?;
        let (without_waiting, moved) = (1, 1);
        let mut object = core::ptr::null_mut();
        // SAFETY: a pointer to a local, and the caller's promise.
        ok(unsafe { create(&raw mut object, data, destroy, 1, without_waiting) })?;
        // SAFETY: ours, and made just now; its one reference becomes the graph's.
        let kept = ok(unsafe { retain(graph as CUgraph, object, 1, moved) });
        if kept.is_err() {
            // SAFETY: made just now and not given away.
            let _ = unsafe { release(object, 1) };
        }
        kept
    }
}
