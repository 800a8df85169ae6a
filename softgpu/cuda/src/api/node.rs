//! Nodes of graphs: adding them, and what they do.

use std::ffi::{c_uint, c_void};
use std::sync::Arc;

use cuda_abi::types::{
    CUDA_BATCH_MEM_OP_NODE_PARAMS, CUDA_HOST_NODE_PARAMS_v1, CUDA_KERNEL_NODE_PARAMS_v1,
    CUDA_KERNEL_NODE_PARAMS_v2, CUDA_MEMCPY_NODE_PARAMS, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS_v1,
    CUDA_MEMSET_NODE_PARAMS_v2, CUcontext, CUevent, CUgraph, CUgraphEdgeData, CUgraphNode,
    CUgraphNodeParams, CUgraphNodeType as Type, CUlaunchAttribute, CUlaunchAttributeID,
    CUlaunchAttributeValue,
};
use softgpu_core::context::Context;
use softgpu_core::error::Error;

use crate::api::copy::Copy3D;
use crate::api::event;
use crate::api::graph::{edges, find, node};
use crate::api::launch::{self, HostCall, Shape};
use crate::api::memop::{self, MemOps};
use crate::api::memset::Fill;
use crate::driver::driver;
use crate::edge::{self, Outcome, put};
use crate::graph::Operation;
use crate::graph::operation::KernelNode;

pub unsafe fn cuGraphAddEmptyNode(
    made: *mut CUgraphNode,
    graph: CUgraph,
    before: *const CUgraphNode,
    count: usize,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { add(made, graph, before, count, || Ok(Operation::Empty)) }
}

pub unsafe fn cuGraphAddKernelNode(
    made: *mut CUgraphNode,
    graph: CUgraph,
    before: *const CUgraphNode,
    count: usize,
    params: *const CUDA_KERNEL_NODE_PARAMS_v1,
) -> Outcome {
    // SAFETY: the caller's promise.
    let operation = || unsafe { kernel_v1_at(params, Vec::new()) };
    // SAFETY: the caller's promise.
    unsafe { add(made, graph, before, count, operation) }
}

pub unsafe fn cuGraphAddKernelNode_v2(
    made: *mut CUgraphNode,
    graph: CUgraph,
    before: *const CUgraphNode,
    count: usize,
    params: *const CUDA_KERNEL_NODE_PARAMS_v2,
) -> Outcome {
    // SAFETY: the caller's promise.
    let operation = || unsafe { kernel_at(params, Vec::new()) };
    // SAFETY: the caller's promise.
    unsafe { add(made, graph, before, count, operation) }
}

pub unsafe fn cuGraphAddMemcpyNode(
    made: *mut CUgraphNode,
    graph: CUgraph,
    before: *const CUgraphNode,
    count: usize,
    params: *const CUDA_MEMCPY3D,
    context: CUcontext,
) -> Outcome {
    // SAFETY: the caller's promise.
    let operation = || copy(&unsafe { edge::take(params) }?, context);
    // SAFETY: the caller's promise.
    unsafe { add(made, graph, before, count, operation) }
}

pub unsafe fn cuGraphAddMemsetNode(
    made: *mut CUgraphNode,
    graph: CUgraph,
    before: *const CUgraphNode,
    count: usize,
    params: *const CUDA_MEMSET_NODE_PARAMS_v1,
    context: CUcontext,
) -> Outcome {
    // SAFETY: the caller's promise.
    let operation = || fill(&unsafe { edge::take(params) }?, context);
    // SAFETY: the caller's promise.
    unsafe { add(made, graph, before, count, operation) }
}

pub unsafe fn cuGraphAddHostNode(
    made: *mut CUgraphNode,
    graph: CUgraph,
    before: *const CUgraphNode,
    count: usize,
    params: *const CUDA_HOST_NODE_PARAMS_v1,
) -> Outcome {
    // SAFETY: the caller's promise.
    let operation = || host(&unsafe { edge::take(params) }?);
    // SAFETY: the caller's promise.
    unsafe { add(made, graph, before, count, operation) }
}

/// The graph inside is a copy: what is done to the original later changes nothing here.
pub unsafe fn cuGraphAddChildGraphNode(
    made: *mut CUgraphNode,
    graph: CUgraph,
    before: *const CUgraphNode,
    count: usize,
    child: CUgraph,
) -> Outcome {
    let operation = || Ok(Operation::Child(find(child)?.clone_graph()?));
    // SAFETY: the caller's promise.
    unsafe { add(made, graph, before, count, operation) }
}

pub unsafe fn cuGraphAddEventRecordNode(
    made: *mut CUgraphNode,
    graph: CUgraph,
    before: *const CUgraphNode,
    count: usize,
    event: CUevent,
) -> Outcome {
    let operation = || Ok(Operation::Record(event as u64, event::find(event)?));
    // SAFETY: the caller's promise.
    unsafe { add(made, graph, before, count, operation) }
}

pub unsafe fn cuGraphAddEventWaitNode(
    made: *mut CUgraphNode,
    graph: CUgraph,
    before: *const CUgraphNode,
    count: usize,
    event: CUevent,
) -> Outcome {
    let operation = || Ok(Operation::Wait(event as u64, event::find(event)?));
    // SAFETY: the caller's promise.
    unsafe { add(made, graph, before, count, operation) }
}

pub unsafe fn cuGraphAddBatchMemOpNode(
    made: *mut CUgraphNode,
    graph: CUgraph,
    before: *const CUgraphNode,
    count: usize,
    params: *const CUDA_BATCH_MEM_OP_NODE_PARAMS,
) -> Outcome {
    // SAFETY: the caller's promise.
    let operation = || unsafe { mem_ops_at(params) };
    // SAFETY: the caller's promise.
    unsafe { add(made, graph, before, count, operation) }
}

pub unsafe fn cuGraphAddNode(
    made: *mut CUgraphNode,
    graph: CUgraph,
    before: *const CUgraphNode,
    count: usize,
    params: *mut CUgraphNodeParams,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuGraphAddNode_v2(made, graph, before, std::ptr::null(), count, params) }
}

pub unsafe fn cuGraphAddNode_v2(
    made: *mut CUgraphNode,
    graph: CUgraph,
    before: *const CUgraphNode,
    data: *const CUgraphEdgeData,
    count: usize,
    params: *mut CUgraphNodeParams,
) -> Outcome {
    // SAFETY: the caller's promise.
    let operation = || unsafe { any_at(params, Vec::new()) };
    // SAFETY: the caller's promise.
    unsafe { add_behind(made, graph, before, data, count, operation) }
}

pub unsafe fn cuGraphAddNode_v3(
    made: *mut CUgraphNode,
    graph: CUgraph,
    before: *const CUgraphNode,
    data: *const CUgraphEdgeData,
    count: usize,
    params: *mut CUgraphNodeParams,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuGraphAddNode_v2(made, graph, before, data, count, params) }
}

/// # Safety
/// `made` is null or valid; `before` has `count` elements.
unsafe fn add(
    made: *mut CUgraphNode,
    graph: CUgraph,
    before: *const CUgraphNode,
    count: usize,
    operation: impl FnOnce() -> Result<Operation, Error>,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { add_behind(made, graph, before, std::ptr::null(), count, operation) }
}

/// # Safety
/// As [`add`]; `data` has as many elements or is null.
unsafe fn add_behind(
    made: *mut CUgraphNode,
    graph: CUgraph,
    before: *const CUgraphNode,
    data: *const CUgraphEdgeData,
    count: usize,
    operation: impl FnOnce() -> Result<Operation, Error>,
) -> Outcome {
    let graph = find(graph)?;
    if made.is_null() {
        return Err(Error::InvalidValue);
    }
    // SAFETY: the caller's promise.
    let before = unsafe { edges(&graph, before, data, count) }?;
    let handle = graph.add(operation()?, before)?.handle()?;
    // SAFETY: the caller's promise.
    unsafe { put(made, handle as CUgraphNode) }
}

/// What a node of the generic form does.
///
/// # Safety
/// The parameters are those of a node of their type.
unsafe fn any(
    params: &CUgraphNodeParams,
    attributes: Vec<CUlaunchAttribute>,
) -> Result<Operation, Error> {
    if params.reserved0 != [0; 3] {
        return Err(Error::InvalidValue);
    }
    let start = (&raw const params.words).cast::<c_void>();
    let handle = params.words[0];
    match params.type_ {
        Type::CU_GRAPH_NODE_TYPE_KERNEL => {
            // SAFETY: the union is larger than each of its parts.
            let part = unsafe { start.cast::<CUDA_KERNEL_NODE_PARAMS_v2>().read_unaligned() };
            // SAFETY: the caller's promise.
            unsafe { kernel(&part, attributes) }
        }
        Type::CU_GRAPH_NODE_TYPE_MEMCPY => {
            // SAFETY: as above.
            let part = unsafe { start.cast::<CUDA_MEMCPY_NODE_PARAMS>().read_unaligned() };
            if part.flags != 0 || part.reserved != 0 {
                return Err(Error::InvalidValue);
            }
            copy(&part.copyParams, part.copyCtx)
        }
        Type::CU_GRAPH_NODE_TYPE_MEMSET => {
            // SAFETY: as above.
            let part = unsafe { start.cast::<CUDA_MEMSET_NODE_PARAMS_v2>().read_unaligned() };
            fill(&part.v1, part.ctx)
        }
        Type::CU_GRAPH_NODE_TYPE_HOST => {
            // SAFETY: as above.
            host(&unsafe { start.cast::<CUDA_HOST_NODE_PARAMS_v1>().read_unaligned() })
        }
        Type::CU_GRAPH_NODE_TYPE_GRAPH => {
            let child = find(handle as CUgraph)?;
            Ok(Operation::Child(child.clone_graph()?))
        }
        Type::CU_GRAPH_NODE_TYPE_EMPTY => Ok(Operation::Empty),
        Type::CU_GRAPH_NODE_TYPE_WAIT_EVENT => {
            Ok(Operation::Wait(handle, event::find(handle as CUevent)?))
        }
        Type::CU_GRAPH_NODE_TYPE_EVENT_RECORD => {
            Ok(Operation::Record(handle, event::find(handle as CUevent)?))
        }
        Type::CU_GRAPH_NODE_TYPE_BATCH_MEM_OP => {
            let part = start.cast::<CUDA_BATCH_MEM_OP_NODE_PARAMS>();
            // SAFETY: as above, and the caller's promise.
            unsafe { mem_ops_at(part) }
        }
        other if other.name().is_some() => Err(Error::NotSupported),
        _ => Err(Error::InvalidValue),
    }
}

/// # Safety
/// `params` is null or readable; the rest as [`any`].
pub(super) unsafe fn any_at(
    params: *const CUgraphNodeParams,
    attributes: Vec<CUlaunchAttribute>,
) -> Result<Operation, Error> {
    // SAFETY: the caller's promise.
    let params = unsafe { edge::take(params) }?;
    // SAFETY: the caller's promise.
    unsafe { any(&params, attributes) }
}

/// # Safety
/// `params` is null or readable; the rest as [`kernel`].
pub(super) unsafe fn kernel_at(
    params: *const CUDA_KERNEL_NODE_PARAMS_v2,
    attributes: Vec<CUlaunchAttribute>,
) -> Result<Operation, Error> {
    // SAFETY: the caller's promise.
    let params = unsafe { edge::take(params) }?;
    // SAFETY: the caller's promise.
    unsafe { kernel(&params, attributes) }
}

/// # Safety
/// As [`kernel_at`].
pub(super) unsafe fn kernel_v1_at(
    params: *const CUDA_KERNEL_NODE_PARAMS_v1,
    attributes: Vec<CUlaunchAttribute>,
) -> Result<Operation, Error> {
    // SAFETY: the caller's promise.
    let params = unsafe { edge::take(params) }?;
    // SAFETY: the caller's promise.
    unsafe { kernel(&params.into(), attributes) }
}

/// # Safety
/// `params` is null or readable, and its array has as many elements as its count says.
pub(super) unsafe fn mem_ops_at(
    params: *const CUDA_BATCH_MEM_OP_NODE_PARAMS,
) -> Result<Operation, Error> {
    // SAFETY: the caller's promise.
    let params = unsafe { edge::take(params) }?;
    // SAFETY: the caller's promise.
    unsafe { mem_ops(&params) }
}

fn context_of(context: CUcontext) -> Result<Arc<Context>, Error> {
    let found = driver()?.context(context as u64)?;
    found.check()?;
    Ok(found)
}

/// # Safety
/// As `cuLaunchKernel`.
unsafe fn kernel(
    params: &CUDA_KERNEL_NODE_PARAMS_v2,
    attributes: Vec<CUlaunchAttribute>,
) -> Result<Operation, Error> {
    let named = if params.func.is_null() {
        params.kern as u64
    } else {
        params.func as u64
    };
    let driver = driver()?;
    let function = match driver.functions.get(named) {
        Some(function) => function,
        None => driver.launchable(named, &context_of(params.ctx)?)?,
    };
    let cooperative = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
    let shape = Shape {
        grid: [params.gridDimX, params.gridDimY, params.gridDimZ],
        block: [params.blockDimX, params.blockDimY, params.blockDimZ],
        shared_bytes: params.sharedMemBytes,
        cooperative: attributes
            .iter()
            .any(|known| known.id == cooperative && known.value.bytes[0] & 0xffff_ffff != 0),
    };
    // SAFETY: the caller's promise.
    let request = unsafe { launch::request(&function, &shape, params.kernelParams, params.extra) }?;
    request.check(function.context.device())?;
    let node = KernelNode::new(named, function, request, attributes);
    Ok(Operation::Kernel(node))
}

pub(super) fn copy(params: &CUDA_MEMCPY3D, context: CUcontext) -> Result<Operation, Error> {
    let context = context_of(context)?;
    let copy = Copy3D(*params);
    copy.ready(&context)?;
    Ok(Operation::Copy(context, copy))
}

pub(super) fn fill(
    params: &CUDA_MEMSET_NODE_PARAMS_v1,
    context: CUcontext,
) -> Result<Operation, Error> {
    let context = context_of(context)?;
    let fill = Fill {
        to: params.dst,
        pitch: if params.height > 1 { params.pitch } else { 0 },
        value: params.value,
        size: params.elementSize.into(),
        width: params.width,
        height: params.height,
    };
    fill.ready(&context)?;
    Ok(Operation::Fill(context, fill))
}

pub(super) fn host(params: &CUDA_HOST_NODE_PARAMS_v1) -> Result<Operation, Error> {
    let function = params.fn_.ok_or(Error::InvalidValue)?;
    let argument = params.userData;
    Ok(Operation::Host(HostCall { function, argument }))
}

/// # Safety
/// The array has as many elements as the count says.
unsafe fn mem_ops(params: &CUDA_BATCH_MEM_OP_NODE_PARAMS) -> Result<Operation, Error> {
    let context = context_of(params.ctx)?;
    // SAFETY: the caller's promise.
    let list = unsafe { memop::list(params.count, params.paramArray) }?;
    let ops = Arc::new(MemOps::new(list, params.flags)?);
    drop(ops.ready(&context)?);
    Ok(Operation::MemOps(context, ops))
}

/// Changes what a node does to another thing of the same kind.
pub(super) fn set(
    handle: CUgraphNode,
    operation: impl FnOnce(&Operation) -> Result<Operation, Error>,
) -> Outcome {
    let node = node(handle)?;
    let old = node.operation()?;
    let new = operation(&old)?;
    if old.kind() != new.kind() {
        return Err(Error::InvalidValue);
    }
    node.graph()?.set_operation(node.id, new)
}

/// The attributes that a kernel's node keeps when its parameters change.
pub(super) fn attributes_of(operation: &Operation) -> Vec<CUlaunchAttribute> {
    match operation {
        Operation::Kernel(kernel) => kernel.attributes.clone(),
        _ => Vec::new(),
    }
}

fn kernel_of(handle: CUgraphNode) -> Result<Arc<KernelNode>, Error> {
    match node(handle)?.operation()? {
        Operation::Kernel(kernel) => Ok(kernel),
        _ => Err(Error::InvalidValue),
    }
}

pub unsafe fn cuGraphKernelNodeGetParams(
    handle: CUgraphNode,
    params: *mut CUDA_KERNEL_NODE_PARAMS_v1,
) -> Outcome {
    let kernel = kernel_of(handle)?;
    let told = told(&kernel)?;
    // SAFETY: the caller's promise.
    unsafe { put(params, told.into()) }
}

pub unsafe fn cuGraphKernelNodeGetParams_v2(
    handle: CUgraphNode,
    params: *mut CUDA_KERNEL_NODE_PARAMS_v2,
) -> Outcome {
    let told = told(&*kernel_of(handle)?)?;
    // SAFETY: the caller's promise.
    unsafe { put(params, told) }
}

/// A kernel's parameters; the arrays in it are the node's and stay until it changes.
fn told(kernel: &KernelNode) -> Result<CUDA_KERNEL_NODE_PARAMS_v2, Error> {
    let driver = driver()?;
    let of_library = driver.kernels.get(kernel.named).is_some();
    let [gridDimX, gridDimY, gridDimZ] = kernel.request.grid;
    let [blockDimX, blockDimY, blockDimZ] = kernel.request.block;
    let handle = |wanted| if wanted { kernel.named } else { 0 };
    let context = driver.context_handle(kernel.function.context.id());
    Ok(CUDA_KERNEL_NODE_PARAMS_v2 {
        func: handle(!of_library) as cuda_abi::types::CUfunction,
        gridDimX,
        gridDimY,
        gridDimZ,
        blockDimX,
        blockDimY,
        blockDimZ,
        sharedMemBytes: kernel.request.shared_bytes,
        kernelParams: kernel.pointers.as_ptr().cast_mut().cast(),
        extra: std::ptr::null_mut(),
        kern: handle(of_library) as cuda_abi::types::CUkernel,
        ctx: context.filter(|_| of_library).unwrap_or(0) as CUcontext,
    })
}

pub unsafe fn cuGraphKernelNodeSetParams(
    handle: CUgraphNode,
    params: *const CUDA_KERNEL_NODE_PARAMS_v1,
) -> Outcome {
    // SAFETY: the caller's promise.
    set(handle, |old| unsafe {
        kernel_v1_at(params, attributes_of(old))
    })
}

pub unsafe fn cuGraphKernelNodeSetParams_v2(
    handle: CUgraphNode,
    params: *const CUDA_KERNEL_NODE_PARAMS_v2,
) -> Outcome {
    // SAFETY: the caller's promise.
    set(handle, |old| unsafe {
        kernel_at(params, attributes_of(old))
    })
}

pub unsafe fn cuGraphKernelNodeGetAttribute(
    handle: CUgraphNode,
    id: CUlaunchAttributeID,
    value: *mut CUlaunchAttributeValue,
) -> Outcome {
    let kernel = kernel_of(handle)?;
    if id.name().is_none() {
        return Err(Error::InvalidValue);
    }
    let known = kernel.attributes.iter().find(|known| known.id == id);
    let unset = CUlaunchAttributeValue { bytes: [0; 8] };
    // SAFETY: the caller's promise.
    unsafe { put(value, known.map_or(unset, |known| known.value)) }
}

pub unsafe fn cuGraphKernelNodeSetAttribute(
    handle: CUgraphNode,
    id: CUlaunchAttributeID,
    value: *const CUlaunchAttributeValue,
) -> Outcome {
    let kernel = kernel_of(handle)?;
    // SAFETY: the caller's promise.
    let value = unsafe { edge::take(value) }?;
    let attribute = CUlaunchAttribute {
        id,
        pad: [0; 4],
        value,
    };
    if id != CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE {
        launch::check_attribute(&attribute)?;
    }
    let mut attributes = kernel.attributes.clone();
    attributes.retain(|known| known.id != id);
    attributes.push(attribute);
    set(handle, |_| Ok(with_attributes(&kernel, attributes)))
}

pub unsafe fn cuGraphKernelNodeCopyAttributes(to: CUgraphNode, from: CUgraphNode) -> Outcome {
    let attributes = kernel_of(from)?.attributes.clone();
    let kernel = kernel_of(to)?;
    set(to, |_| Ok(with_attributes(&kernel, attributes)))
}

fn with_attributes(kernel: &KernelNode, attributes: Vec<CUlaunchAttribute>) -> Operation {
    let mut request = kernel.request.clone();
    let cooperative = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
    request.cooperative = attributes
        .iter()
        .any(|known| known.id == cooperative && known.value.bytes[0] & 0xffff_ffff != 0);
    let function = Arc::clone(&kernel.function);
    Operation::Kernel(KernelNode::new(kernel.named, function, request, attributes))
}

pub unsafe fn cuGraphMemcpyNodeGetParams(
    handle: CUgraphNode,
    params: *mut CUDA_MEMCPY3D,
) -> Outcome {
    let Operation::Copy(_, copy) = node(handle)?.operation()? else {
        return Err(Error::InvalidValue);
    };
    // SAFETY: the caller's promise.
    unsafe { put(params, copy.0) }
}

pub unsafe fn cuGraphMemcpyNodeSetParams(
    handle: CUgraphNode,
    params: *const CUDA_MEMCPY3D,
) -> Outcome {
    set(handle, |old| {
        let Operation::Copy(context, _) = old else {
            return Err(Error::InvalidValue);
        };
        // SAFETY: the caller's promise.
        let copy = Copy3D(unsafe { edge::take(params) }?);
        copy.ready(context)?;
        Ok(Operation::Copy(Arc::clone(context), copy))
    })
}

pub unsafe fn cuGraphMemsetNodeGetParams(
    handle: CUgraphNode,
    params: *mut CUDA_MEMSET_NODE_PARAMS_v1,
) -> Outcome {
    let Operation::Fill(_, fill) = node(handle)?.operation()? else {
        return Err(Error::InvalidValue);
    };
    let told = CUDA_MEMSET_NODE_PARAMS_v1 {
        dst: fill.to,
        pitch: fill.pitch,
        value: fill.value,
        elementSize: c_uint::try_from(fill.size).map_err(|_| Error::Unknown)?,
        width: fill.width,
        height: fill.height,
    };
    // SAFETY: the caller's promise.
    unsafe { put(params, told) }
}

pub unsafe fn cuGraphMemsetNodeSetParams(
    handle: CUgraphNode,
    params: *const CUDA_MEMSET_NODE_PARAMS_v1,
) -> Outcome {
    set(handle, |old| {
        let context = old.context().ok_or(Error::InvalidValue)?;
        let context = driver()?.context_handle(context.id()).unwrap_or(0);
        // SAFETY: the caller's promise.
        fill(&unsafe { edge::take(params) }?, context as CUcontext)
    })
}

pub unsafe fn cuGraphHostNodeGetParams(
    handle: CUgraphNode,
    params: *mut CUDA_HOST_NODE_PARAMS_v1,
) -> Outcome {
    let Operation::Host(call) = node(handle)?.operation()? else {
        return Err(Error::InvalidValue);
    };
    let told = CUDA_HOST_NODE_PARAMS_v1 {
        fn_: Some(call.function),
        userData: call.argument,
    };
    // SAFETY: the caller's promise.
    unsafe { put(params, told) }
}

pub unsafe fn cuGraphHostNodeSetParams(
    handle: CUgraphNode,
    params: *const CUDA_HOST_NODE_PARAMS_v1,
) -> Outcome {
    // SAFETY: the caller's promise.
    set(handle, |_| host(&unsafe { edge::take(params) }?))
}

pub unsafe fn cuGraphChildGraphNodeGetGraph(handle: CUgraphNode, graph: *mut CUgraph) -> Outcome {
    let Operation::Child(child) = node(handle)?.operation()? else {
        return Err(Error::InvalidValue);
    };
    // SAFETY: the caller's promise.
    unsafe { put(graph, child.handle()? as CUgraph) }
}

pub unsafe fn cuGraphEventRecordNodeGetEvent(handle: CUgraphNode, event: *mut CUevent) -> Outcome {
    let Operation::Record(named, _) = node(handle)?.operation()? else {
        return Err(Error::InvalidValue);
    };
    // SAFETY: the caller's promise.
    unsafe { put(event, named as CUevent) }
}

pub unsafe fn cuGraphEventRecordNodeSetEvent(handle: CUgraphNode, event: CUevent) -> Outcome {
    set(handle, |_| {
        Ok(Operation::Record(event as u64, event::find(event)?))
    })
}

pub unsafe fn cuGraphEventWaitNodeGetEvent(handle: CUgraphNode, event: *mut CUevent) -> Outcome {
    let Operation::Wait(named, _) = node(handle)?.operation()? else {
        return Err(Error::InvalidValue);
    };
    // SAFETY: the caller's promise.
    unsafe { put(event, named as CUevent) }
}

pub unsafe fn cuGraphEventWaitNodeSetEvent(handle: CUgraphNode, event: CUevent) -> Outcome {
    set(handle, |_| {
        Ok(Operation::Wait(event as u64, event::find(event)?))
    })
}

/// The array that is told is the node's and stays until it changes.
pub unsafe fn cuGraphBatchMemOpNodeGetParams(
    handle: CUgraphNode,
    params: *mut CUDA_BATCH_MEM_OP_NODE_PARAMS,
) -> Outcome {
    let Operation::MemOps(context, ops) = node(handle)?.operation()? else {
        return Err(Error::InvalidValue);
    };
    let told = CUDA_BATCH_MEM_OP_NODE_PARAMS {
        ctx: driver()?.context_handle(context.id()).unwrap_or(0) as CUcontext,
        count: c_uint::try_from(ops.list.len()).map_err(|_| Error::Unknown)?,
        paramArray: ops.list.as_ptr().cast_mut(),
        flags: ops.flags,
    };
    // SAFETY: the caller's promise.
    unsafe { put(params, told) }
}

pub unsafe fn cuGraphBatchMemOpNodeSetParams(
    handle: CUgraphNode,
    params: *const CUDA_BATCH_MEM_OP_NODE_PARAMS,
) -> Outcome {
    // SAFETY: the caller's promise.
    set(handle, |_| unsafe { mem_ops_at(params) })
}

pub unsafe fn cuGraphNodeGetParams(handle: CUgraphNode, params: *mut CUgraphNodeParams) -> Outcome {
    let operation = node(handle)?.operation()?;
    let mut all = CUgraphNodeParams {
        type_: operation.kind(),
        reserved0: [0; 3],
        words: [0; 29],
        reserved2: 0,
    };
    let part = (&raw mut all.words).cast::<c_void>();
    // In each arm, SAFETY: the function writes one part of the union, which is larger than each of them.
    match operation {
        Operation::Kernel(kernel) => {
            // SAFETY: as above.
            unsafe { put(part.cast(), told(&kernel)?) }?;
        }
        Operation::Copy(context, copy) => {
            let told = CUDA_MEMCPY_NODE_PARAMS {
                flags: 0,
                reserved: 0,
                copyCtx: named(&context)?,
                copyParams: copy.0,
            };
            // SAFETY: as above.
            unsafe { put(part.cast(), told) }?;
        }
        Operation::Fill(context, _) => {
            // SAFETY: as above.
            unsafe { cuGraphMemsetNodeGetParams(handle, part.cast()) }?;
            let offset = std::mem::offset_of!(CUDA_MEMSET_NODE_PARAMS_v2, ctx);
            // SAFETY: as above.
            let place = unsafe { part.byte_add(offset) };
            // SAFETY: as above.
            unsafe { put(place.cast(), named(&context)?) }?;
        }
        // SAFETY: as above.
        Operation::Host(_) => unsafe { cuGraphHostNodeGetParams(handle, part.cast()) }?,
        Operation::Child(child) => all.words[0] = child.handle()?,
        Operation::Record(event, _) | Operation::Wait(event, _) => all.words[0] = event,
        Operation::MemOps(..) => {
            // SAFETY: as above.
            unsafe { cuGraphBatchMemOpNodeGetParams(handle, part.cast()) }?;
        }
        Operation::Empty => {}
    }
    // SAFETY: the caller's promise.
    unsafe { put(params, all) }
}

fn named(context: &Context) -> Result<CUcontext, Error> {
    let handle = driver()?.context_handle(context.id());
    Ok(handle.unwrap_or(0) as CUcontext)
}

pub unsafe fn cuGraphNodeSetParams(handle: CUgraphNode, params: *mut CUgraphNodeParams) -> Outcome {
    // SAFETY: the caller's promise.
    set(handle, |old| unsafe { any_at(params, attributes_of(old)) })
}

pub unsafe fn cuGraphNodeSetParams_v2(
    handle: CUgraphNode,
    params: *mut CUgraphNodeParams,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuGraphNodeSetParams(handle, params) }
}
