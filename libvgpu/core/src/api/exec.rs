//! Changing graphs that are ready to be launched.

use cuda_abi::function::Function;
use cuda_abi::types::{
    CUDA_BATCH_MEM_OP_NODE_PARAMS, CUDA_HOST_NODE_PARAMS_v1, CUDA_KERNEL_NODE_PARAMS_v1,
    CUDA_KERNEL_NODE_PARAMS_v2, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS_v1, CUcontext, CUevent,
    CUgraph, CUgraphExec, CUgraphExecUpdateResult, CUgraphExecUpdateResultInfo, CUgraphNode,
    CUgraphNodeParams, CUgraphNodeType as Type, CUresult,
};
use idm_protocol::handle::Kind;
use idm_protocol::wire;

use super::node::{
    Content, Target, any_at, copy_of, event_of, fill, host, kernel_at, kernel_v1_at, mem_ops_at,
    put,
};
use crate::call::{Call, Outcome, accepted, parse};
use crate::edge;

/// Changes what a node does in an executable graph.
fn set(
    mut call: Call,
    exec: CUgraphExec,
    node: CUgraphNode,
    content: impl FnOnce(&Call) -> Outcome<Content>,
) -> Outcome {
    let exec = call.handle(Kind::GRAPH_EXEC, exec as u64)?;
    let content = content(&call)?;
    put(&mut call, &Target::Exec(exec, node as u64), content).map(drop)
}

macro_rules! setters {
    ($($name:ident($($argument:ident: $type:ty),*) => $content:expr;)+) => {$(
        pub unsafe fn $name(hGraphExec: CUgraphExec, hNode: CUgraphNode, $($argument: $type),*) -> Outcome {
            let call = Call::begin(Function::$name)?;
            set(call, hGraphExec, hNode, $content)
        }
    )+};
}

setters! {
    cuGraphExecKernelNodeSetParams(nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v1) => |call| {
        // SAFETY: the caller's promise.
        unsafe { kernel_v1_at(call, nodeParams) }
    };
    cuGraphExecKernelNodeSetParams_v2(nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v2) => |call| {
        // SAFETY: the caller's promise.
        unsafe { kernel_at(call, nodeParams) }
    };
    cuGraphExecMemcpyNodeSetParams(copyParams: *const CUDA_MEMCPY3D, ctx: CUcontext) => |call| {
        // SAFETY: the caller's promise.
        copy_of(call, &unsafe { edge::take(copyParams) }?, ctx)
    };
    cuGraphExecMemsetNodeSetParams(memsetParams: *const CUDA_MEMSET_NODE_PARAMS_v1, ctx: CUcontext) => |call| {
        // SAFETY: the caller's promise.
        fill(call, &unsafe { edge::take(memsetParams) }?, ctx)
    };
    cuGraphExecHostNodeSetParams(nodeParams: *const CUDA_HOST_NODE_PARAMS_v1) => |_| {
        // SAFETY: the caller's promise.
        host(&unsafe { edge::take(nodeParams) }?)
    };
    cuGraphExecChildGraphNodeSetParams(childGraph: CUgraph) => |_| {
        Ok(Content::naming(Type::CU_GRAPH_NODE_TYPE_GRAPH, childGraph as u64))
    };
    cuGraphExecEventRecordNodeSetEvent(event: CUevent) => |call| event_of(call, event, true);
    cuGraphExecEventWaitNodeSetEvent(event: CUevent) => |call| event_of(call, event, false);
    cuGraphExecBatchMemOpNodeSetParams(nodeParams: *const CUDA_BATCH_MEM_OP_NODE_PARAMS) => |call| {
        // SAFETY: the caller's promise.
        unsafe { mem_ops_at(call, nodeParams) }
    };
    cuGraphExecNodeSetParams(nodeParams: *mut CUgraphNodeParams) => |call| {
        // SAFETY: the caller's promise.
        unsafe { any_at(call, nodeParams) }
    };
}

pub unsafe fn cuGraphExecUpdate(
    hGraphExec: CUgraphExec,
    hGraph: CUgraph,
    hErrorNode_out: *mut CUgraphNode,
    updateResult_out: *mut CUgraphExecUpdateResult,
) -> Outcome {
    let call = Call::begin(Function::cuGraphExecUpdate)?;
    let (status, told) = update(call, hGraphExec, hGraph)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put_optional(hErrorNode_out, told.errorNode) };
    // SAFETY: the caller's promise.
    unsafe { edge::put_optional(updateResult_out, told.result) };
    accepted(status)
}

pub unsafe fn cuGraphExecUpdate_v2(
    hGraphExec: CUgraphExec,
    hGraph: CUgraph,
    resultInfo: *mut CUgraphExecUpdateResultInfo,
) -> Outcome {
    let call = Call::begin(Function::cuGraphExecUpdate_v2)?;
    let (status, told) = update(call, hGraphExec, hGraph)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put_optional(resultInfo, told) };
    accepted(status)
}

/// The status, and what is said about it.
fn update(
    mut call: Call,
    exec: CUgraphExec,
    graph: CUgraph,
) -> Outcome<(CUresult, CUgraphExecUpdateResultInfo)> {
    let request = wire::CuGraphExecUpdateV2 {
        exec: call.handle(Kind::GRAPH_EXEC, exec as u64)?,
        graph: graph as u64,
    };
    call.exchange_raw(&request, &[], |_, status, body| {
        let answered = parse::<wire::CuGraphExecUpdateV2Reply>(body);
        // Without a verdict there is nothing to tell.
        let told = answered.or(Err(status))?;
        let info = CUgraphExecUpdateResultInfo {
            result: CUgraphExecUpdateResult(told.result),
            errorNode: told.node as CUgraphNode,
            errorFromNode: told.from as CUgraphNode,
        };
        Ok((status, info))
    })
}
