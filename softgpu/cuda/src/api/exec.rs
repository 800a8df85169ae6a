//! Changing graphs that are ready to be launched.

use std::ffi::c_uint;

use cuda_abi::types::{
    CUDA_BATCH_MEM_OP_NODE_PARAMS, CUDA_HOST_NODE_PARAMS_v1, CUDA_KERNEL_NODE_PARAMS_v1,
    CUDA_KERNEL_NODE_PARAMS_v2, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS_v1, CUcontext, CUevent,
    CUgraph, CUgraphExec, CUgraphExecUpdateResult, CUgraphExecUpdateResultInfo, CUgraphNode,
    CUgraphNodeParams,
};
use softgpu_core::error::Error;

use crate::api::event;
use crate::api::graph::{find, find_exec, handle_of, node};
use crate::api::node::{
    any_at, attributes_of, copy, fill, host, kernel_at, kernel_v1_at, mem_ops_at,
};
use crate::edge::{self, Outcome, put, put_if_wanted};
use crate::graph::Operation;
use crate::graph::exec::Misfit;

/// Changes what a node does in an executable graph, and there alone.
fn set(
    exec: CUgraphExec,
    handle: CUgraphNode,
    operation: impl FnOnce(&Operation) -> Result<Operation, Error>,
) -> Outcome {
    let exec = find_exec(exec)?;
    let node = node(handle)?;
    let operation = operation(&node.operation()?)?;
    exec.set_operation(node.id, operation)
}

pub unsafe fn cuGraphExecKernelNodeSetParams(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const CUDA_KERNEL_NODE_PARAMS_v1,
) -> Outcome {
    // SAFETY: the caller's promise.
    set(exec, node, |old| unsafe {
        kernel_v1_at(params, attributes_of(old))
    })
}

pub unsafe fn cuGraphExecKernelNodeSetParams_v2(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const CUDA_KERNEL_NODE_PARAMS_v2,
) -> Outcome {
    // SAFETY: the caller's promise.
    set(exec, node, |old| unsafe {
        kernel_at(params, attributes_of(old))
    })
}

pub unsafe fn cuGraphExecMemcpyNodeSetParams(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const CUDA_MEMCPY3D,
    context: CUcontext,
) -> Outcome {
    set(exec, node, |_| {
        // SAFETY: the caller's promise.
        let params = unsafe { edge::take(params) }?;
        copy(&params, context)
    })
}

pub unsafe fn cuGraphExecMemsetNodeSetParams(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const CUDA_MEMSET_NODE_PARAMS_v1,
    context: CUcontext,
) -> Outcome {
    set(exec, node, |_| {
        // SAFETY: the caller's promise.
        let params = unsafe { edge::take(params) }?;
        fill(&params, context)
    })
}

pub unsafe fn cuGraphExecHostNodeSetParams(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const CUDA_HOST_NODE_PARAMS_v1,
) -> Outcome {
    // SAFETY: the caller's promise.
    set(exec, node, |_| host(&unsafe { edge::take(params) }?))
}

pub unsafe fn cuGraphExecChildGraphNodeSetParams(
    exec: CUgraphExec,
    handle: CUgraphNode,
    child: CUgraph,
) -> Outcome {
    let exec = find_exec(exec)?;
    let Operation::Child(before) = node(handle)?.operation()? else {
        return Err(Error::InvalidValue);
    };
    exec.set_child(&before, &*find(child)?)
}

pub unsafe fn cuGraphExecEventRecordNodeSetEvent(
    exec: CUgraphExec,
    node: CUgraphNode,
    event: CUevent,
) -> Outcome {
    let operation = |_: &_| Ok(Operation::Record(event as u64, event::find(event)?));
    set(exec, node, operation)
}

pub unsafe fn cuGraphExecEventWaitNodeSetEvent(
    exec: CUgraphExec,
    node: CUgraphNode,
    event: CUevent,
) -> Outcome {
    let operation = |_: &_| Ok(Operation::Wait(event as u64, event::find(event)?));
    set(exec, node, operation)
}

pub unsafe fn cuGraphExecBatchMemOpNodeSetParams(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const CUDA_BATCH_MEM_OP_NODE_PARAMS,
) -> Outcome {
    // SAFETY: the caller's promise.
    set(exec, node, |_| unsafe { mem_ops_at(params) })
}

pub unsafe fn cuGraphExecNodeSetParams(
    exec: CUgraphExec,
    handle: CUgraphNode,
    params: *mut CUgraphNodeParams,
) -> Outcome {
    if let Operation::Child(before) = node(handle)?.operation()? {
        // SAFETY: the caller's promise.
        let params = unsafe { edge::take(params.cast_const()) }?;
        let child = find(params.words[0] as CUgraph)?;
        return find_exec(exec)?.set_child(&before, &child);
    }
    // SAFETY: the caller's promise.
    set(exec, handle, |old| unsafe {
        any_at(params, attributes_of(old))
    })
}

pub unsafe fn cuGraphNodeGetEnabled(
    exec: CUgraphExec,
    handle: CUgraphNode,
    enabled: *mut c_uint,
) -> Outcome {
    let found = find_exec(exec)?.is_enabled(node(handle)?.id)?;
    // SAFETY: the caller's promise.
    unsafe { put(enabled, found.into()) }
}

pub unsafe fn cuGraphNodeSetEnabled(
    exec: CUgraphExec,
    handle: CUgraphNode,
    enabled: c_uint,
) -> Outcome {
    find_exec(exec)?.set_enabled(node(handle)?.id, enabled != 0)
}

pub unsafe fn cuGraphExecUpdate(
    exec: CUgraphExec,
    graph: CUgraph,
    error_node: *mut CUgraphNode,
    result: *mut CUgraphExecUpdateResult,
) -> Outcome {
    let updated = update(exec, graph)?;
    let (status, told) = told(graph, updated)?;
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(error_node, told.errorNode) };
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(result, told.result) };
    status
}

pub unsafe fn cuGraphExecUpdate_v2(
    exec: CUgraphExec,
    graph: CUgraph,
    info: *mut CUgraphExecUpdateResultInfo,
) -> Outcome {
    let updated = update(exec, graph)?;
    let (status, told) = told(graph, updated)?;
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(info, told) };
    status
}

fn update(exec: CUgraphExec, graph: CUgraph) -> Result<Result<(), Misfit>, Error> {
    Ok(find_exec(exec)?.update(&*find(graph)?))
}

fn told(
    graph: CUgraph,
    updated: Result<(), Misfit>,
) -> Result<(Outcome, CUgraphExecUpdateResultInfo), Error> {
    let none = std::ptr::null_mut();
    let mut told = CUgraphExecUpdateResultInfo {
        result: CUgraphExecUpdateResult::CU_GRAPH_EXEC_UPDATE_SUCCESS,
        errorNode: none,
        errorFromNode: none,
    };
    let Err(misfit) = updated else {
        return Ok((Ok(()), told));
    };
    told.result = misfit.update;
    told.errorNode = handle_of(graph, misfit.node)?;
    Ok((Err(Error::GraphExecUpdateFailure), told))
}

pub unsafe fn cuGraphExecGetFlags(exec: CUgraphExec, flags: *mut u64) -> Outcome {
    let found = find_exec(exec)?.flags;
    // SAFETY: the caller's promise.
    unsafe { put(flags, found) }
}

pub unsafe fn cuGraphExecGetId(exec: CUgraphExec, id: *mut c_uint) -> Outcome {
    let found = find_exec(exec)?.id;
    // SAFETY: the caller's promise.
    unsafe { put(id, found) }
}
