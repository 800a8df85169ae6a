//! Calls for the nodes of graphs. What they name is ours (see `calls` and `graph`).

use core::ffi::{c_uint, c_void};
use core::mem::offset_of;

use cuda_abi::types::{
    CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CU_LAUNCH_PARAM_END,
    CUDA_BATCH_MEM_OP_NODE_PARAMS, CUDA_HOST_NODE_PARAMS_v1, CUDA_KERNEL_NODE_PARAMS_v2,
    CUDA_MEMCPY_NODE_PARAMS, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS_v1, CUDA_MEMSET_NODE_PARAMS_v2,
    CUcontext, CUevent, CUfunction, CUgraph, CUgraphExec, CUgraphExecUpdateResultInfo, CUgraphNode,
    CUgraphNodeParams, CUgraphNodeType as Type, CUhostFn, CUkernel, CUlaunchAttributeID,
    CUlaunchAttributeValue, CUresult, CUstreamBatchMemOpParams, CopySide,
};

use super::Table;
use super::calls::{Launch, Result, ok};
use super::graph::Edges;

/// What a node does, decoded and checked.
#[derive(Debug)]
pub enum NodeParams<'a> {
    /// A launch; the kernel is a function's or a library's.
    Kernel {
        /// The driver's function, or 0.
        function: usize,
        /// The driver's kernel, or 0.
        kernel: usize,
        /// Where and how large.
        shape: Launch,
        /// Packed.
        parameters: &'a [u8],
    },
    /// A copy between checked places.
    Copy {
        /// Where the box goes.
        to: CopySide,
        /// Where it comes from.
        from: CopySide,
        /// Bytes, rows, planes.
        extent: [usize; 3],
    },
    /// A fill of checked memory.
    Fill(CUDA_MEMSET_NODE_PARAMS_v1),
    /// A trampoline and its number.
    Host(unsafe extern "C" fn(*mut c_void), *mut c_void),
    /// The driver's graph.
    Child(usize),
    /// Nothing.
    Empty,
    /// The driver's event.
    Wait(usize),
    /// The driver's event.
    Record(usize),
    /// Words whose places were checked, and flags.
    MemOps(Vec<CUstreamBatchMemOpParams>, u32),
}

/// A kernel's node, as the driver tells it.
#[derive(Debug)]
pub struct KernelNode {
    /// The driver's function, or 0.
    pub function: usize,
    /// The driver's kernel, or 0.
    pub kernel: usize,
    /// Where and how large.
    pub shape: Launch,
    /// Packed.
    pub parameters: Vec<u8>,
}

impl NodeParams<'_> {
    /// Has `call` look at the C form.
    fn with_c(
        &mut self,
        context: usize,
        call: impl FnOnce(*mut CUgraphNodeParams) -> CUresult,
    ) -> Result<()> {
        let mut all = CUgraphNodeParams {
            type_: Type::CU_GRAPH_NODE_TYPE_EMPTY,
            reserved0: [0; 3],
            words: [0; 29],
            reserved2: 0,
        };
        let part = (&raw mut all.words).cast::<c_void>();
        let context = context as CUcontext;
        // Live until the call is over.
        let mut bytes = 0usize;
        let mut extra = [core::ptr::null_mut(); 5];
        match self {
            Self::Kernel {
                function,
                kernel,
                shape,
                parameters,
            } => {
                all.type_ = Type::CU_GRAPH_NODE_TYPE_KERNEL;
                bytes = parameters.len();
                extra = [
                    CU_LAUNCH_PARAM_BUFFER_POINTER,
                    parameters.as_ptr().cast_mut().cast(),
                    CU_LAUNCH_PARAM_BUFFER_SIZE,
                    (&raw mut bytes).cast(),
                    CU_LAUNCH_PARAM_END,
                ];
                let packed = match parameters.is_empty() {
                    true => core::ptr::null_mut(),
                    false => extra.as_mut_ptr(),
                };
                let ([gx, gy, gz], [bx, by, bz]) = (shape.grid, shape.block);
                let told = CUDA_KERNEL_NODE_PARAMS_v2 {
                    func: *function as CUfunction,
                    gridDimX: gx,
                    gridDimY: gy,
                    gridDimZ: gz,
                    blockDimX: bx,
                    blockDimY: by,
                    blockDimZ: bz,
                    sharedMemBytes: shape.shared_bytes,
                    kernelParams: core::ptr::null_mut(),
                    extra: packed,
                    kern: *kernel as CUkernel,
                    ctx: context,
                };
                // SAFETY: the union is larger than each of its parts.
                unsafe { part.cast::<CUDA_KERNEL_NODE_PARAMS_v2>().write(told) };
            }
            Self::Copy { to, from, extent } => {
                all.type_ = Type::CU_GRAPH_NODE_TYPE_MEMCPY;
                let told = CUDA_MEMCPY_NODE_PARAMS {
                    flags: 0,
                    reserved: 0,
                    copyCtx: context,
                    copyParams: CUDA_MEMCPY3D::between(to, from, *extent),
                };
                // SAFETY: as above.
                unsafe { part.cast::<CUDA_MEMCPY_NODE_PARAMS>().write(told) };
            }
            Self::Fill(fill) => {
                all.type_ = Type::CU_GRAPH_NODE_TYPE_MEMSET;
                let told = CUDA_MEMSET_NODE_PARAMS_v2 {
                    v1: *fill,
                    ctx: context,
                };
                // SAFETY: as above.
                unsafe { part.cast::<CUDA_MEMSET_NODE_PARAMS_v2>().write(told) };
            }
            Self::Host(function, data) => {
                all.type_ = Type::CU_GRAPH_NODE_TYPE_HOST;
                let told = CUDA_HOST_NODE_PARAMS_v1 {
                    fn_: Some(*function),
                    userData: *data,
                };
                // SAFETY: as above.
                unsafe { part.cast::<CUDA_HOST_NODE_PARAMS_v1>().write(told) };
            }
            Self::Child(graph) => {
                all.type_ = Type::CU_GRAPH_NODE_TYPE_GRAPH;
                all.words[0] = *graph as u64;
            }
            Self::Empty => {}
            Self::Wait(event) => {
                all.type_ = Type::CU_GRAPH_NODE_TYPE_WAIT_EVENT;
                all.words[0] = *event as u64;
            }
            Self::Record(event) => {
                all.type_ = Type::CU_GRAPH_NODE_TYPE_EVENT_RECORD;
                all.words[0] = *event as u64;
            }
            Self::MemOps(list, flags) => {
                all.type_ = Type::CU_GRAPH_NODE_TYPE_BATCH_MEM_OP;
                let told = CUDA_BATCH_MEM_OP_NODE_PARAMS {
                    ctx: context,
                    count: c_uint::try_from(list.len()).unwrap_or(c_uint::MAX),
                    paramArray: list.as_mut_ptr(),
                    flags: *flags,
                };
                // SAFETY: as above.
                unsafe { part.cast::<CUDA_BATCH_MEM_OP_NODE_PARAMS>().write(told) };
            }
        }
        let done = ok(call(&raw mut all));
        // What the parameters point to has lived until here.
        let _ = (&bytes, &extra);
        done
    }
}

impl Table {
    pub(crate) fn add_node(
        &self,
        graph: usize,
        before: &Edges,
        context: usize,
        params: &mut NodeParams<'_>,
    ) -> Result<usize> {
        let function = self.cuGraphAddNode_v2()?;
        let mut node: CUgraphNode = core::ptr::null_mut();
        let from: Vec<CUgraphNode> = before
            .from
            .iter()
            .map(|node| *node as CUgraphNode)
            .collect();
        let (list, data, count) = (from.as_ptr(), before.data.as_ptr(), from.len());
        params.with_c(context, |params| {
            // SAFETY: ours, slices of the length given, a local, and parameters that were checked.
            unsafe { function(&raw mut node, graph as CUgraph, list, data, count, params) }
        })?;
        Ok(node.addr())
    }

    pub(crate) fn set_node(
        &self,
        node: usize,
        context: usize,
        params: &mut NodeParams<'_>,
    ) -> Result<()> {
        let function = self.cuGraphNodeSetParams()?;
        params.with_c(context, |params| {
            // SAFETY: ours, and parameters that were checked.
            unsafe { function(node as CUgraphNode, params) }
        })
    }

    pub(crate) fn set_exec_node(
        &self,
        exec: usize,
        node: usize,
        context: usize,
        params: &mut NodeParams<'_>,
    ) -> Result<()> {
        let function = self.cuGraphExecNodeSetParams()?;
        params.with_c(context, |params| {
            // SAFETY: ours, and parameters that were checked.
            unsafe { function(exec as CUgraphExec, node as CUgraphNode, params) }
        })
    }

    pub(crate) fn node_type(&self, node: usize) -> Result<Type> {
        let function = self.cuGraphNodeGetType()?;
        let mut kind = Type::default();
        // SAFETY: ours, and a pointer to a local.
        ok(unsafe { function(node as CUgraphNode, &raw mut kind) })?;
        Ok(kind)
    }

    /// What a kernel's node does.
    pub(crate) fn kernel_node(&self, node: usize) -> Result<KernelNode> {
        let function = self.cuGraphKernelNodeGetParams_v2()?;
        let mut told = core::mem::MaybeUninit::<CUDA_KERNEL_NODE_PARAMS_v2>::zeroed();
        // SAFETY: ours, and a pointer to a local.
        ok(unsafe { function(node as CUgraphNode, told.as_mut_ptr()) })?;
        // SAFETY: zero is a valid value of every field, and the driver wrote others.
        let told = unsafe { told.assume_init() };
        let (function, kernel) = (told.func.addr(), told.kern.addr());
        let mut layout = Vec::new();
        for index in 0.. {
            let found = match function {
                0 => self.kernel_parameter(kernel, index),
                _ => self.function_parameter(function, index),
            };
            match found {
                Ok(found) => layout.push(found),
                Err(_) => break,
            }
        }
        let end = layout.iter().map(|(offset, size)| offset + size).max();
        let mut parameters = vec![0; end.unwrap_or(0)];
        for (index, (offset, size)) in layout.into_iter().enumerate() {
            if told.kernelParams.is_null() {
                return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
            }
            // SAFETY: the driver's array has an element for each parameter.
            let place = unsafe { told.kernelParams.add(index) };
            // SAFETY: as above.
            let from = unsafe { place.read() };
            let room = &mut parameters[offset..offset + size];
            // SAFETY: each points to a value as long as its parameter; the room is as long.
            unsafe { core::ptr::copy_nonoverlapping(from.cast(), room.as_mut_ptr(), size) };
        }
        Ok(KernelNode {
            function,
            kernel,
            shape: Launch {
                grid: [told.gridDimX, told.gridDimY, told.gridDimZ],
                block: [told.blockDimX, told.blockDimY, told.blockDimZ],
                shared_bytes: told.sharedMemBytes,
            },
            parameters,
        })
    }

    /// What a copy's node does: both corners and the extent.
    pub(crate) fn copy_node(&self, node: usize) -> Result<(CopySide, CopySide, [usize; 3])> {
        let function = self.cuGraphMemcpyNodeGetParams()?;
        let mut told = core::mem::MaybeUninit::<CUDA_MEMCPY3D>::zeroed();
        // SAFETY: ours, and a pointer to a local.
        ok(unsafe { function(node as CUgraphNode, told.as_mut_ptr()) })?;
        // SAFETY: zero is a valid value of every field, and the driver wrote others.
        let told = unsafe { told.assume_init() };
        let (to, from) = told.sides();
        Ok((to, from, told.extent()))
    }

    /// The context that a node works in; 0 for none.
    pub(crate) fn node_context(&self, node: usize) -> Result<usize> {
        let function = self.cuGraphNodeGetParams()?;
        let mut told = CUgraphNodeParams {
            type_: Type::default(),
            reserved0: [0; 3],
            words: [0; 29],
            reserved2: 0,
        };
        // SAFETY: ours, and a pointer to a local.
        ok(unsafe { function(node as CUgraphNode, &raw mut told) })?;
        // Every part of the union consists of whole words, and the context is one of them.
        let word = match told.type_ {
            Type::CU_GRAPH_NODE_TYPE_KERNEL => offset_of!(CUDA_KERNEL_NODE_PARAMS_v2, ctx),
            Type::CU_GRAPH_NODE_TYPE_MEMCPY => offset_of!(CUDA_MEMCPY_NODE_PARAMS, copyCtx),
            Type::CU_GRAPH_NODE_TYPE_MEMSET => offset_of!(CUDA_MEMSET_NODE_PARAMS_v2, ctx),
            Type::CU_GRAPH_NODE_TYPE_BATCH_MEM_OP => offset_of!(CUDA_BATCH_MEM_OP_NODE_PARAMS, ctx),
            _ => return Ok(0),
        } / size_of::<u64>();
        usize::try_from(told.words[word]).map_err(|_| CUresult::CUDA_ERROR_UNKNOWN)
    }

    pub(crate) fn fill_node(&self, node: usize) -> Result<CUDA_MEMSET_NODE_PARAMS_v1> {
        let function = self.cuGraphMemsetNodeGetParams()?;
        let mut told = CUDA_MEMSET_NODE_PARAMS_v1 {
            dst: 0,
            pitch: 0,
            value: 0,
            elementSize: 0,
            width: 0,
            height: 0,
        };
        // SAFETY: ours, and a pointer to a local.
        ok(unsafe { function(node as CUgraphNode, &raw mut told) })?;
        Ok(told)
    }

    /// The number that a trampoline in a node has.
    pub(crate) fn host_node(&self, node: usize) -> Result<usize> {
        let function = self.cuGraphHostNodeGetParams()?;
        let none: CUhostFn = None;
        let mut told = CUDA_HOST_NODE_PARAMS_v1 {
            fn_: none,
            userData: core::ptr::null_mut(),
        };
        // SAFETY: ours, and a pointer to a local.
        ok(unsafe { function(node as CUgraphNode, &raw mut told) })?;
        Ok(told.userData.addr())
    }

    /// The driver's event of a node that records it, or waits for it.
    pub(crate) fn event_node(&self, node: usize, records: bool) -> Result<usize> {
        let mut event: CUevent = core::ptr::null_mut();
        let status = if records {
            let function = self.cuGraphEventRecordNodeGetEvent()?;
            // SAFETY: ours, and a pointer to a local.
            unsafe { function(node as CUgraphNode, &raw mut event) }
        } else {
            let function = self.cuGraphEventWaitNodeGetEvent()?;
            // SAFETY: as above.
            unsafe { function(node as CUgraphNode, &raw mut event) }
        };
        ok(status)?;
        Ok(event.addr())
    }

    pub(crate) fn mem_ops_node(
        &self,
        node: usize,
    ) -> Result<(usize, Vec<CUstreamBatchMemOpParams>, u32)> {
        let function = self.cuGraphBatchMemOpNodeGetParams()?;
        let mut told = CUDA_BATCH_MEM_OP_NODE_PARAMS {
            ctx: core::ptr::null_mut(),
            count: 0,
            paramArray: core::ptr::null_mut(),
            flags: 0,
        };
        // SAFETY: ours, and a pointer to a local.
        ok(unsafe { function(node as CUgraphNode, &raw mut told) })?;
        let mut list = Vec::new();
        let count = usize::try_from(told.count).unwrap_or(0);
        for index in 0..if told.paramArray.is_null() { 0 } else { count } {
            // SAFETY: the driver's array has `count` elements, and stays as long as the node.
            let at = unsafe { told.paramArray.add(index) };
            // SAFETY: as above.
            list.push(unsafe { at.read() });
        }
        Ok((told.ctx.addr(), list, told.flags))
    }

    pub(crate) fn node_attribute(
        &self,
        node: usize,
        attribute: CUlaunchAttributeID,
    ) -> Result<CUlaunchAttributeValue> {
        let function = self.cuGraphKernelNodeGetAttribute()?;
        let mut value = CUlaunchAttributeValue { bytes: [0; 8] };
        // SAFETY: ours, and a pointer to a local.
        ok(unsafe { function(node as CUgraphNode, attribute, &raw mut value) })?;
        Ok(value)
    }

    pub(crate) fn set_node_attribute(
        &self,
        node: usize,
        attribute: CUlaunchAttributeID,
        value: &CUlaunchAttributeValue,
    ) -> Result<()> {
        let function = self.cuGraphKernelNodeSetAttribute()?;
        // SAFETY: ours, and a reference; the caller has seen that the value holds no pointer.
        ok(unsafe { function(node as CUgraphNode, attribute, value) })
    }

    pub(crate) fn child_graph(&self, node: usize) -> Result<usize> {
        let function = self.cuGraphChildGraphNodeGetGraph()?;
        let mut graph: CUgraph = core::ptr::null_mut();
        // SAFETY: ours, and a pointer to a local.
        ok(unsafe { function(node as CUgraphNode, &raw mut graph) })?;
        Ok(graph.addr())
    }

    pub(crate) fn clone_graph(&self, graph: usize) -> Result<usize> {
        let function = self.cuGraphClone()?;
        let mut clone: CUgraph = core::ptr::null_mut();
        // SAFETY: ours, and a pointer to a local.
        ok(unsafe { function(&raw mut clone, graph as CUgraph) })?;
        Ok(clone.addr())
    }

    pub(crate) fn find_in_clone(&self, node: usize, clone: usize) -> Result<usize> {
        let function = self.cuGraphNodeFindInClone()?;
        let mut found: CUgraphNode = core::ptr::null_mut();
        // SAFETY: ours, and a pointer to a local.
        ok(unsafe { function(&raw mut found, node as CUgraphNode, clone as CUgraph) })?;
        Ok(found.addr())
    }

    pub(crate) fn change_edges(&self, graph: usize, edges: &Edges, remove: bool) -> Result<()> {
        let nodes = |list: &[usize]| -> Vec<CUgraphNode> {
            list.iter().map(|node| *node as CUgraphNode).collect()
        };
        let (from, to) = (nodes(&edges.from), nodes(&edges.to));
        let function = if remove {
            self.cuGraphRemoveDependencies_v2()?
        } else {
            self.cuGraphAddDependencies_v2()?
        };
        let (graph, count) = (graph as CUgraph, from.len());
        // SAFETY: ours, and slices of the length given.
        ok(unsafe {
            function(
                graph,
                from.as_ptr(),
                to.as_ptr(),
                edges.data.as_ptr(),
                count,
            )
        })
    }

    /// All edges of a graph.
    pub(crate) fn graph_edges(&self, graph: usize) -> Result<Edges> {
        let function = self.cuGraphGetEdges_v2()?;
        let graph = graph as CUgraph;
        let none = core::ptr::null_mut();
        let mut count = 0usize;
        // SAFETY: ours, and a pointer to a local; there are no lists.
        ok(unsafe { function(graph, none, none, core::ptr::null_mut(), &raw mut count) })?;
        let mut from: Vec<CUgraphNode> = vec![core::ptr::null_mut(); count];
        let mut to = from.clone();
        let mut data = vec![cuda_abi::types::CUgraphEdgeData::default(); count];
        let (first, second) = (from.as_mut_ptr(), to.as_mut_ptr());
        // SAFETY: ours, slices of the length given, and a pointer to a local.
        ok(unsafe { function(graph, first, second, data.as_mut_ptr(), &raw mut count) })?;
        let addresses = |nodes: &[CUgraphNode]| nodes.iter().map(|node| node.addr()).collect();
        data.truncate(count);
        Ok(Edges {
            from: addresses(&from[..count.min(from.len())]),
            to: addresses(&to[..count.min(to.len())]),
            data,
        })
    }

    pub(crate) fn update_exec(
        &self,
        exec: usize,
        graph: usize,
    ) -> Result<(CUresult, CUgraphExecUpdateResultInfo)> {
        let function = self.cuGraphExecUpdate_v2()?;
        let mut told = CUgraphExecUpdateResultInfo {
            result: cuda_abi::types::CUgraphExecUpdateResult::CU_GRAPH_EXEC_UPDATE_ERROR,
            errorNode: core::ptr::null_mut(),
            errorFromNode: core::ptr::null_mut(),
        };
        // SAFETY: ours, and a pointer to a local.
        let status = unsafe { function(exec as CUgraphExec, graph as CUgraph, &raw mut told) };
        Ok((status, told))
    }
}
