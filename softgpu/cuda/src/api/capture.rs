//! Stream capture.

use std::ffi::c_uint;
use std::sync::Arc;

use cuda_abi::types::{
    CUgraph, CUgraphEdgeData, CUgraphNode, CUstream, CUstreamCaptureMode, CUstreamCaptureStatus,
    CUstreamUpdateCaptureDependencies_flags as Update,
};
use softgpu_core::error::Error;

use crate::api::graph;
use crate::capture;
use crate::current;
use crate::driver::{driver, place};
use crate::edge::{self, Outcome, put, put_if_wanted};

pub unsafe fn cuStreamBeginCapture(stream: CUstream) -> Outcome {
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
    // SAFETY: no pointers.
    unsafe { cuStreamBeginCapture_v2(stream, mode) }
}

pub unsafe fn cuStreamBeginCapture_v2(stream: CUstream, mode: CUstreamCaptureMode) -> Outcome {
    capture::begin(&place(stream as u64)?, None, mode)
}

pub unsafe fn cuStreamBeginCaptureToGraph(
    stream: CUstream,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    data: *const CUgraphEdgeData,
    count: usize,
    mode: CUstreamCaptureMode,
) -> Outcome {
    let place = place(stream as u64)?;
    let graph = graph::find(graph)?;
    // SAFETY: the caller's promise.
    let before = unsafe { graph::edges(&graph, dependencies, data, count) }?;
    capture::begin(&place, Some((graph, before)), mode)
}

pub unsafe fn cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph) -> Outcome {
    let place = place(stream as u64)?;
    if graph.is_null() {
        return Err(Error::InvalidValue);
    }
    let ended = capture::end(&place);
    let handle = ended.as_ref().map_or(Ok(0), |made| made.handle())?;
    // SAFETY: the caller's promise.
    unsafe { put(graph, handle as CUgraph) }?;
    ended.map(drop)
}

pub unsafe fn cuStreamIsCapturing(stream: CUstream, status: *mut CUstreamCaptureStatus) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuStreamGetCaptureInfo(stream, status, std::ptr::null_mut()) }
}

pub unsafe fn cuStreamGetCaptureInfo(
    stream: CUstream,
    status: *mut CUstreamCaptureStatus,
    id: *mut u64,
) -> Outcome {
    let none = std::ptr::null_mut();
    // SAFETY: the caller's promise.
    unsafe {
        info(
            stream,
            status,
            id,
            none,
            std::ptr::null_mut(),
            None,
            std::ptr::null_mut(),
        )
    }
}

pub unsafe fn cuStreamGetCaptureInfo_v2(
    stream: CUstream,
    status: *mut CUstreamCaptureStatus,
    id: *mut u64,
    graph: *mut CUgraph,
    dependencies: *mut *const CUgraphNode,
    count: *mut usize,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { info(stream, status, id, graph, dependencies, None, count) }
}

pub unsafe fn cuStreamGetCaptureInfo_v3(
    stream: CUstream,
    status: *mut CUstreamCaptureStatus,
    id: *mut u64,
    graph: *mut CUgraph,
    dependencies: *mut *const CUgraphNode,
    edges: *mut *const CUgraphEdgeData,
    count: *mut usize,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { info(stream, status, id, graph, dependencies, Some(edges), count) }
}

/// # Safety
/// All but `status` are null or valid for a write.
unsafe fn info(
    stream: CUstream,
    status: *mut CUstreamCaptureStatus,
    id: *mut u64,
    graph: *mut CUgraph,
    dependencies: *mut *const CUgraphNode,
    edges: Option<*mut *const CUgraphEdgeData>,
    count: *mut usize,
) -> Outcome {
    use CUstreamCaptureStatus as S;
    let Some(found) = capture::info(&place(stream as u64)?)? else {
        // SAFETY: the caller's promise.
        return unsafe { put(status, S::CU_STREAM_CAPTURE_STATUS_NONE) };
    };
    if found.invalid {
        // SAFETY: the caller's promise.
        return unsafe { put(status, S::CU_STREAM_CAPTURE_STATUS_INVALIDATED) };
    }
    let untold = edges.is_none_or(<*mut _>::is_null);
    if found.special && untold && !dependencies.is_null() {
        return Err(Error::LossyQuery);
    }
    // SAFETY: the caller's promise.
    unsafe { put(status, S::CU_STREAM_CAPTURE_STATUS_ACTIVE) }?;
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(id, found.id) };
    if !graph.is_null() {
        let handle = found.graph.handle()?;
        // SAFETY: the caller's promise.
        unsafe { put_if_wanted(graph, handle as CUgraph) };
    }
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(dependencies, found.nodes.cast()) };
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(edges.unwrap_or(std::ptr::null_mut()), found.edges) };
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(count, found.count) };
    Ok(())
}

pub unsafe fn cuStreamUpdateCaptureDependencies(
    stream: CUstream,
    dependencies: *mut CUgraphNode,
    count: usize,
    flags: c_uint,
) -> Outcome {
    let none = std::ptr::null();
    // SAFETY: the caller's promise.
    unsafe { cuStreamUpdateCaptureDependencies_v2(stream, dependencies, none, count, flags) }
}

pub unsafe fn cuStreamUpdateCaptureDependencies_v2(
    stream: CUstream,
    dependencies: *mut CUgraphNode,
    data: *const CUgraphEdgeData,
    count: usize,
    flags: c_uint,
) -> Outcome {
    let place = place(stream as u64)?;
    let replace = match Update(flags) {
        Update::CU_STREAM_ADD_CAPTURE_DEPENDENCIES => false,
        Update::CU_STREAM_SET_CAPTURE_DEPENDENCIES => true,
        _ => return Err(Error::InvalidValue),
    };
    let found = capture::info(&place)?.ok_or(Error::IllegalState)?;
    if found.invalid {
        return Err(Error::StreamCaptureInvalidated);
    }
    let graph = Arc::clone(&found.graph);
    // SAFETY: the caller's promise.
    let edges = unsafe { graph::edges(&graph, dependencies.cast_const(), data, count) }?;
    capture::update(&place, edges, replace)
}

pub unsafe fn cuThreadExchangeStreamCaptureMode(mode: *mut CUstreamCaptureMode) -> Outcome {
    driver()?;
    // SAFETY: the caller's promise.
    let wanted = unsafe { edge::take(mode) }?;
    if wanted.name().is_none() {
        return Err(Error::InvalidValue);
    }
    let before = CUstreamCaptureMode(current::exchange_capture_mode(wanted.0));
    // SAFETY: the caller's promise.
    unsafe { put(mode, before) }
}
