//! Nodes of graphs: adding them, and what they do.

use std::ffi::{c_uint, c_void};
use std::mem::MaybeUninit;
use std::sync::{Arc, PoisonError};

use cuda_abi::function::Function;
use cuda_abi::types::{
    CUDA_BATCH_MEM_OP_NODE_PARAMS, CUDA_HOST_NODE_PARAMS_v1, CUDA_KERNEL_NODE_PARAMS_v1,
    CUDA_KERNEL_NODE_PARAMS_v2, CUDA_MEMCPY_NODE_PARAMS, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS_v1,
    CUDA_MEMSET_NODE_PARAMS_v2, CUcontext, CUevent, CUfunction, CUgraph, CUgraphEdgeData,
    CUgraphNode, CUgraphNodeParams, CUgraphNodeType as Type, CUhostFn, CUkernel,
    CUlaunchAttributeID, CUlaunchAttributeValue, CUresult, CUstreamBatchMemOpParams,
};
use idm_protocol::handle::{Handle, Kind};
use idm_protocol::wire::{
    self,
    graph::{Copy, Edge, Fill, Kernel, action},
};
use zerocopy::{FromBytes, IntoBytes};

use super::capture::edges;
use super::copy;
use super::launch::{SMALL, gather};
use super::memop;
use crate::call::{Call, Outcome, failed, parse};
use crate::callbacks::Work;
use crate::edge;
use crate::objects;

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
/// The worker says what cannot be.
const BROKEN: CUresult = CUresult::CUDA_ERROR_UNKNOWN;

/// Where what a node does is to be put.
pub(super) enum Target {
    /// A new node of a graph, behind these.
    Graph(u64, Vec<Edge>),
    /// A node.
    Node(u64),
    /// A node, in an executable graph alone.
    Exec(u64, u64),
}

/// What a node does, as it travels.
#[derive(Default)]
pub(super) struct Content {
    kind: Type,
    handle: u64,
    context: u64,
    count: u32,
    flags: u32,
    payload: Vec<u8>,
    host: Option<(unsafe extern "C" fn(*mut c_void), *mut c_void)>,
}

impl Content {
    fn of(kind: Type) -> Self {
        Self {
            kind,
            ..Self::default()
        }
    }

    /// A child graph or an event, by handle.
    pub(super) fn naming(kind: Type, handle: u64) -> Self {
        Self {
            handle,
            ..Self::of(kind)
        }
    }
}

/// Sends it. Returns a new node's handle.
pub(super) fn put(call: &mut Call, target: &Target, content: Content) -> Outcome<u64> {
    let none = Vec::new();
    let (place, exec, what, before) = match target {
        Target::Graph(graph, before) => (*graph, 0, action::ADD, before),
        Target::Node(node) => (*node, 0, action::SET, &none),
        Target::Exec(exec, node) => (*node, *exec, action::EXEC, &none),
    };
    let session = call.session;
    let mut handle = content.handle;
    if let Some((function, data)) = content.host {
        handle = session
            .callbacks
            .enqueue(session, Work::HostFunction(function), data)?;
    }
    let request = wire::VgpuSetNode {
        target: place,
        exec,
        context: content.context,
        handle,
        action: what,
        kind: content.kind.0,
        before: u32::try_from(before.len()).map_err(|_| INVALID)?,
        count: content.count,
        flags: content.flags,
        reserved: 0,
    };
    let tail = [before.as_bytes(), &content.payload];
    let sent = call.round_trip_with::<_, wire::VgpuSetNodeReply>(&request, &tail);
    if sent.is_err() && content.host.is_some() {
        session.callbacks.forget(handle);
    }
    Ok(sent?.node)
}

/// # Safety
/// `made` is null or valid; `before` has `count` elements, `data` as many or is null.
unsafe fn add(
    mut call: Call,
    made: *mut CUgraphNode,
    graph: CUgraph,
    before: *const CUgraphNode,
    data: *const CUgraphEdgeData,
    count: usize,
    content: impl FnOnce(&Call) -> Outcome<Content>,
) -> Outcome {
    edge::require(made)?;
    if graph.is_null() {
        return Err(INVALID);
    }
    // SAFETY: the caller's promise.
    let before = unsafe { edges(before, None, data, count) }?;
    let content = content(&call)?;
    let node = put(&mut call, &Target::Graph(graph as u64, before), content)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(made, node as CUgraphNode) }
}

macro_rules! adders {
    ($($name:ident($($argument:ident: $type:ty),*) => $content:expr;)+) => {$(
        pub unsafe fn $name(
            phGraphNode: *mut CUgraphNode,
            hGraph: CUgraph,
            dependencies: *const CUgraphNode,
            numDependencies: usize,
            $($argument: $type),*
        ) -> Outcome {
            let call = Call::begin(Function::$name)?;
            let none = std::ptr::null();
            let content = |call: &Call| -> Outcome<Content> {
                let make = $content;
                make(call)
            };
            // SAFETY: the caller's promise.
            unsafe { add(call, phGraphNode, hGraph, dependencies, none, numDependencies, content) }
        }
    )+};
}

adders! {
    cuGraphAddEmptyNode() => |_: &Call| Ok(Content::of(Type::CU_GRAPH_NODE_TYPE_EMPTY));
    cuGraphAddKernelNode(nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v1) => |call: &Call| {
        // SAFETY: the caller's promise.
        unsafe { kernel_v1_at(call, nodeParams) }
    };
    cuGraphAddKernelNode_v2(nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v2) => |call: &Call| {
        // SAFETY: the caller's promise.
        unsafe { kernel_at(call, nodeParams) }
    };
    cuGraphAddMemcpyNode(copyParams: *const CUDA_MEMCPY3D, ctx: CUcontext) => |call: &Call| {
        // SAFETY: the caller's promise.
        copy_of(call, &unsafe { edge::take(copyParams) }?, ctx)
    };
    cuGraphAddMemsetNode(memsetParams: *const CUDA_MEMSET_NODE_PARAMS_v1, ctx: CUcontext) => |call: &Call| {
        // SAFETY: the caller's promise.
        fill(call, &unsafe { edge::take(memsetParams) }?, ctx)
    };
    cuGraphAddHostNode(nodeParams: *const CUDA_HOST_NODE_PARAMS_v1) => |_: &Call| {
        // SAFETY: the caller's promise.
        host(&unsafe { edge::take(nodeParams) }?)
    };
    cuGraphAddChildGraphNode(childGraph: CUgraph) => |_: &Call| {
        Ok(Content::naming(Type::CU_GRAPH_NODE_TYPE_GRAPH, childGraph as u64))
    };
    cuGraphAddEventRecordNode(event: CUevent) => |call: &Call| event_of(call, event, true);
    cuGraphAddEventWaitNode(event: CUevent) => |call: &Call| event_of(call, event, false);
    cuGraphAddBatchMemOpNode(nodeParams: *const CUDA_BATCH_MEM_OP_NODE_PARAMS) => |call: &Call| {
        // SAFETY: the caller's promise.
        unsafe { mem_ops_at(call, nodeParams) }
    };
    cuGraphAddNode(nodeParams: *mut CUgraphNodeParams) => |call: &Call| {
        // SAFETY: the caller's promise.
        unsafe { any_at(call, nodeParams) }
    };
}

macro_rules! adders_with_edges {
    ($($name:ident;)+) => {$(
        pub unsafe fn $name(
            phGraphNode: *mut CUgraphNode,
            hGraph: CUgraph,
            dependencies: *const CUgraphNode,
            dependencyData: *const CUgraphEdgeData,
            numDependencies: usize,
            nodeParams: *mut CUgraphNodeParams,
        ) -> Outcome {
            let call = Call::begin(Function::$name)?;
            // SAFETY: the caller's promise.
            let content = |call: &Call| unsafe { any_at(call, nodeParams) };
            // SAFETY: the caller's promise.
            unsafe {
                add(call, phGraphNode, hGraph, dependencies, dependencyData, numDependencies, content)
            }
        }
    )+};
}

adders_with_edges! {
    cuGraphAddNode_v2;
    cuGraphAddNode_v3;
}

macro_rules! setters {
    ($($name:ident($argument:ident: $type:ty) => $content:expr;)+) => {$(
        pub unsafe fn $name(hNode: CUgraphNode, $argument: $type) -> Outcome {
            let mut call = Call::begin(Function::$name)?;
            let make = $content;
            let content = make(&call)?;
            put(&mut call, &Target::Node(hNode as u64), content).map(drop)
        }
    )+};
}

setters! {
    cuGraphKernelNodeSetParams(nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v1) => |call: &Call| {
        // SAFETY: the caller's promise.
        unsafe { kernel_v1_at(call, nodeParams) }
    };
    cuGraphKernelNodeSetParams_v2(nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v2) => |call: &Call| {
        // SAFETY: the caller's promise.
        unsafe { kernel_at(call, nodeParams) }
    };
    cuGraphMemcpyNodeSetParams(nodeParams: *const CUDA_MEMCPY3D) => |call: &Call| {
        // SAFETY: the caller's promise.
        copy_of(call, &unsafe { edge::take(nodeParams) }?, std::ptr::null_mut())
    };
    cuGraphMemsetNodeSetParams(nodeParams: *const CUDA_MEMSET_NODE_PARAMS_v1) => |call: &Call| {
        // SAFETY: the caller's promise.
        fill(call, &unsafe { edge::take(nodeParams) }?, std::ptr::null_mut())
    };
    cuGraphHostNodeSetParams(nodeParams: *const CUDA_HOST_NODE_PARAMS_v1) => |_: &Call| {
        // SAFETY: the caller's promise.
        host(&unsafe { edge::take(nodeParams) }?)
    };
    cuGraphEventRecordNodeSetEvent(event: CUevent) => |call: &Call| event_of(call, event, true);
    cuGraphEventWaitNodeSetEvent(event: CUevent) => |call: &Call| event_of(call, event, false);
    cuGraphBatchMemOpNodeSetParams(nodeParams: *const CUDA_BATCH_MEM_OP_NODE_PARAMS) => |call: &Call| {
        // SAFETY: the caller's promise.
        unsafe { mem_ops_at(call, nodeParams) }
    };
    cuGraphNodeSetParams(nodeParams: *mut CUgraphNodeParams) => |call: &Call| {
        // SAFETY: the caller's promise.
        unsafe { any_at(call, nodeParams) }
    };
    cuGraphNodeSetParams_v2(nodeParams: *mut CUgraphNodeParams) => |call: &Call| {
        // SAFETY: the caller's promise.
        unsafe { any_at(call, nodeParams) }
    };
}

/// # Safety
/// `params` is null or readable; the rest as [`any`].
pub(super) unsafe fn any_at(call: &Call, params: *const CUgraphNodeParams) -> Outcome<Content> {
    // SAFETY: the caller's promise.
    let params = unsafe { edge::take(params) }?;
    // SAFETY: the caller's promise.
    unsafe { any(call, &params) }
}

/// # Safety
/// `params` is null or readable; the rest as [`kernel`].
pub(super) unsafe fn kernel_at(
    call: &Call,
    params: *const CUDA_KERNEL_NODE_PARAMS_v2,
) -> Outcome<Content> {
    // SAFETY: the caller's promise.
    let params = unsafe { edge::take(params) }?;
    // SAFETY: the caller's promise.
    unsafe { kernel(call, &params) }
}

/// # Safety
/// As [`kernel_at`].
pub(super) unsafe fn kernel_v1_at(
    call: &Call,
    params: *const CUDA_KERNEL_NODE_PARAMS_v1,
) -> Outcome<Content> {
    // SAFETY: the caller's promise.
    let params = unsafe { edge::take(params) }?;
    // SAFETY: the caller's promise.
    unsafe { kernel(call, &params.into()) }
}

/// # Safety
/// `params` is null or readable, and its array has as many elements as its count says.
pub(super) unsafe fn mem_ops_at(
    call: &Call,
    params: *const CUDA_BATCH_MEM_OP_NODE_PARAMS,
) -> Outcome<Content> {
    // SAFETY: the caller's promise.
    let params = unsafe { edge::take(params) }?;
    // SAFETY: the caller's promise.
    unsafe { mem_ops(call, &params) }
}

/// The context that a node works in: the one named, or the current one.
fn context_of(call: &Call, context: CUcontext) -> Outcome<u64> {
    match context as u64 {
        0 => Ok(call.context_handle()),
        named => call.handle(Kind::CONTEXT, named),
    }
}

/// # Safety
/// As `cuLaunchKernel`.
unsafe fn kernel(call: &Call, params: &CUDA_KERNEL_NODE_PARAMS_v2) -> Outcome<Content> {
    let function = match params.func as u64 {
        0 => params.kern as u64,
        function => function,
    };
    let code = Arc::clone(objects::code(&call.session.objects(), function)?);
    let mut small = [MaybeUninit::uninit(); SMALL];
    let mut large = Vec::new();
    // SAFETY: the caller's promise.
    let parameters = unsafe {
        gather(
            &code,
            params.kernelParams,
            params.extra,
            &mut small,
            &mut large,
        )
    }?;
    let told = Kernel {
        function,
        grid: [params.gridDimX, params.gridDimY, params.gridDimZ],
        block: [params.blockDimX, params.blockDimY, params.blockDimZ],
        shared_bytes: params.sharedMemBytes,
        parameter_bytes: u32::try_from(parameters.len()).map_err(|_| INVALID)?,
    };
    let mut content = Content::of(Type::CU_GRAPH_NODE_TYPE_KERNEL);
    let of_library =
        Handle::from_value(function).is_some_and(|handle| handle.kind() == Kind::KERNEL);
    if of_library {
        content.context = context_of(call, params.ctx)?;
    }
    content.payload.extend_from_slice(told.as_bytes());
    content.payload.extend_from_slice(parameters);
    Ok(content)
}

/// Memory of the program's own is in no node: the worker cannot reach it when the graph runs.
pub(super) fn copy_of(call: &Call, params: &CUDA_MEMCPY3D, context: CUcontext) -> Outcome<Content> {
    let mut content = Content::of(Type::CU_GRAPH_NODE_TYPE_MEMCPY);
    content.context = context_of(call, context)?;
    let copy = copy::described(call, params)?;
    content.payload.extend_from_slice(copy.as_bytes());
    Ok(content)
}

pub(super) fn fill(
    call: &Call,
    params: &CUDA_MEMSET_NODE_PARAMS_v1,
    context: CUcontext,
) -> Outcome<Content> {
    let mut content = Content::of(Type::CU_GRAPH_NODE_TYPE_MEMSET);
    content.context = context_of(call, context)?;
    let several = params.height > 1;
    let told = Fill {
        to: params.dst,
        pitch: if several { params.pitch as u64 } else { 0 },
        width: params.width as u64,
        height: params.height as u64,
        value: params.value,
        element_bytes: params.elementSize,
    };
    content.payload.extend_from_slice(told.as_bytes());
    Ok(content)
}

pub(super) fn host(params: &CUDA_HOST_NODE_PARAMS_v1) -> Outcome<Content> {
    let function = params.fn_.ok_or(INVALID)?;
    let mut content = Content::of(Type::CU_GRAPH_NODE_TYPE_HOST);
    content.host = Some((function, params.userData));
    Ok(content)
}

pub(super) fn event_of(call: &Call, event: CUevent, records: bool) -> Outcome<Content> {
    let event = call.handle(Kind::EVENT, event as u64)?;
    let kind = match records {
        true => Type::CU_GRAPH_NODE_TYPE_EVENT_RECORD,
        false => Type::CU_GRAPH_NODE_TYPE_WAIT_EVENT,
    };
    Ok(Content::naming(kind, event))
}

/// # Safety
/// The array has as many elements as the count says.
unsafe fn mem_ops(call: &Call, params: &CUDA_BATCH_MEM_OP_NODE_PARAMS) -> Outcome<Content> {
    let mut content = Content::of(Type::CU_GRAPH_NODE_TYPE_BATCH_MEM_OP);
    content.context = context_of(call, params.ctx)?;
    // SAFETY: the caller's promise.
    for operation in unsafe { memop::operations(params.count, params.paramArray) }? {
        memop::check(call, &operation)?;
        memop::append(&mut content.payload, &operation);
    }
    (content.count, content.flags) = (params.count, params.flags);
    Ok(content)
}

/// What a node of the generic form does.
///
/// # Safety
/// The parameters are those of a node of their type.
unsafe fn any(call: &Call, params: &CUgraphNodeParams) -> Outcome<Content> {
    if params.reserved0 != [0; 3] {
        return Err(INVALID);
    }
    let part = (&raw const params.words).cast::<c_void>();
    let handle = params.words[0];
    match params.type_ {
        Type::CU_GRAPH_NODE_TYPE_KERNEL => {
            // SAFETY: the union is larger than each of its parts; the rest is the caller's promise.
            unsafe { kernel_at(call, part.cast()) }
        }
        Type::CU_GRAPH_NODE_TYPE_MEMCPY => {
            // SAFETY: as above.
            let part = unsafe { part.cast::<CUDA_MEMCPY_NODE_PARAMS>().read_unaligned() };
            copy_of(call, &part.copyParams, part.copyCtx)
        }
        Type::CU_GRAPH_NODE_TYPE_MEMSET => {
            // SAFETY: as above.
            let part = unsafe { part.cast::<CUDA_MEMSET_NODE_PARAMS_v2>().read_unaligned() };
            fill(call, &part.v1, part.ctx)
        }
        Type::CU_GRAPH_NODE_TYPE_HOST => {
            // SAFETY: as above.
            host(&unsafe { part.cast::<CUDA_HOST_NODE_PARAMS_v1>().read_unaligned() })
        }
        Type::CU_GRAPH_NODE_TYPE_GRAPH => Ok(Content::naming(params.type_, handle)),
        Type::CU_GRAPH_NODE_TYPE_EMPTY => Ok(Content::of(params.type_)),
        Type::CU_GRAPH_NODE_TYPE_WAIT_EVENT => event_of(call, handle as CUevent, false),
        Type::CU_GRAPH_NODE_TYPE_EVENT_RECORD => event_of(call, handle as CUevent, true),
        Type::CU_GRAPH_NODE_TYPE_BATCH_MEM_OP => {
            // SAFETY: as above.
            unsafe { mem_ops_at(call, part.cast()) }
        }
        other if other.name().is_some() => Err(CUresult::CUDA_ERROR_NOT_SUPPORTED),
        _ => Err(INVALID),
    }
}

/// What a node does, if it is of the kind.
fn ask(call: &mut Call, node: CUgraphNode, kind: Type) -> Outcome<(wire::VgpuNodeReply, Vec<u8>)> {
    let asked = ask_any(call, node, false)?;
    if Type(asked.0.kind) != kind {
        return Err(INVALID);
    }
    Ok(asked)
}

/// What a node does; where it does it too, if the driver tells.
fn ask_any(
    call: &mut Call,
    node: CUgraphNode,
    with_context: bool,
) -> Outcome<(wire::VgpuNodeReply, Vec<u8>)> {
    let session = call.session;
    let request = wire::VgpuNode {
        node: node as u64,
        with_context: with_context.into(),
        reserved: 0,
    };
    call.exchange(&request, &[], |lane, body| {
        let reply: wire::VgpuNodeReply = parse(body)?;
        let bytes = usize::try_from(reply.bytes).unwrap_or(usize::MAX);
        let mut payload = vec![0; bytes.min(lane.side_byte_len())];
        lane.read_side(&mut payload)
            .map_err(|error| failed(session, &error))?;
        Ok((reply, payload))
    })
}

/// Lists that the program was told of a node, and looks at until it asks again.
#[derive(Debug)]
pub(crate) enum Told {
    /// A kernel's parameters, and where each is.
    Parameters(
        #[expect(dead_code, reason = "the pointers lead here")] Box<[u8]>,
        Box<[usize]>,
    ),
    /// Operations on words.
    Operations(Box<[CUstreamBatchMemOpParams]>),
}

fn keep(call: &Call, node: CUgraphNode, told: Told) -> *mut c_void {
    let at: *const c_void = match &told {
        Told::Parameters(_, pointers) => pointers.as_ptr().cast(),
        Told::Operations(list) => list.as_ptr().cast(),
    };
    let mut all = call
        .session
        .told
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    all.insert(node as u64, told);
    at.cast_mut()
}

fn told_kernel(mut call: Call, node: CUgraphNode) -> Outcome<CUDA_KERNEL_NODE_PARAMS_v2> {
    let (_, payload) = ask(&mut call, node, Type::CU_GRAPH_NODE_TYPE_KERNEL)?;
    kernel_of(&call, node, &payload)
}

fn kernel_of(
    call: &Call,
    node: CUgraphNode,
    payload: &[u8],
) -> Outcome<CUDA_KERNEL_NODE_PARAMS_v2> {
    let (told, bytes) = Kernel::read_from_prefix(payload).map_err(|_| BROKEN)?;
    let code = Arc::clone(objects::code(&call.session.objects(), told.function)?);
    let bytes: Box<[u8]> = bytes.into();
    let start = bytes.as_ptr().expose_provenance();
    let layout = code.parameters.iter().flatten();
    let pointers = layout.map(|(offset, _)| start + usize::try_from(*offset).unwrap_or(0));
    let pointers: Box<[usize]> = pointers.collect();
    let of_library =
        Handle::from_value(told.function).is_some_and(|handle| handle.kind() == Kind::KERNEL);
    let [gridDimX, gridDimY, gridDimZ] = told.grid;
    let [blockDimX, blockDimY, blockDimZ] = told.block;
    let one_of = |wanted| if wanted { told.function } else { 0 };
    Ok(CUDA_KERNEL_NODE_PARAMS_v2 {
        func: one_of(!of_library) as CUfunction,
        gridDimX,
        gridDimY,
        gridDimZ,
        blockDimX,
        blockDimY,
        blockDimZ,
        sharedMemBytes: told.shared_bytes,
        kernelParams: keep(call, node, Told::Parameters(bytes, pointers)).cast(),
        extra: std::ptr::null_mut(),
        kern: one_of(of_library) as CUkernel,
        ctx: if of_library { call.context_handle() } else { 0 } as CUcontext,
    })
}

pub unsafe fn cuGraphKernelNodeGetParams(
    hNode: CUgraphNode,
    nodeParams: *mut CUDA_KERNEL_NODE_PARAMS_v1,
) -> Outcome {
    let call = Call::begin(Function::cuGraphKernelNodeGetParams)?;
    edge::require(nodeParams)?;
    let told = told_kernel(call, hNode)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(nodeParams, told.into()) }
}

pub unsafe fn cuGraphKernelNodeGetParams_v2(
    hNode: CUgraphNode,
    nodeParams: *mut CUDA_KERNEL_NODE_PARAMS_v2,
) -> Outcome {
    let call = Call::begin(Function::cuGraphKernelNodeGetParams_v2)?;
    edge::require(nodeParams)?;
    let told = told_kernel(call, hNode)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(nodeParams, told) }
}

pub unsafe fn cuGraphMemcpyNodeGetParams(
    hNode: CUgraphNode,
    nodeParams: *mut CUDA_MEMCPY3D,
) -> Outcome {
    let mut call = Call::begin(Function::cuGraphMemcpyNodeGetParams)?;
    edge::require(nodeParams)?;
    let (_, payload) = ask(&mut call, hNode, Type::CU_GRAPH_NODE_TYPE_MEMCPY)?;
    let told = copied(&payload)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(nodeParams, told) }
}

pub unsafe fn cuGraphMemsetNodeGetParams(
    hNode: CUgraphNode,
    nodeParams: *mut CUDA_MEMSET_NODE_PARAMS_v1,
) -> Outcome {
    let mut call = Call::begin(Function::cuGraphMemsetNodeGetParams)?;
    edge::require(nodeParams)?;
    let (_, payload) = ask(&mut call, hNode, Type::CU_GRAPH_NODE_TYPE_MEMSET)?;
    let told = filled(&payload)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(nodeParams, told) }
}

pub unsafe fn cuGraphHostNodeGetParams(
    hNode: CUgraphNode,
    nodeParams: *mut CUDA_HOST_NODE_PARAMS_v1,
) -> Outcome {
    let mut call = Call::begin(Function::cuGraphHostNodeGetParams)?;
    edge::require(nodeParams)?;
    let (reply, _) = ask(&mut call, hNode, Type::CU_GRAPH_NODE_TYPE_HOST)?;
    let told = called(&call, &reply)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(nodeParams, told) }
}

pub unsafe fn cuGraphEventRecordNodeGetEvent(
    hNode: CUgraphNode,
    event_out: *mut CUevent,
) -> Outcome {
    let mut call = Call::begin(Function::cuGraphEventRecordNodeGetEvent)?;
    edge::require(event_out)?;
    let (reply, _) = ask(&mut call, hNode, Type::CU_GRAPH_NODE_TYPE_EVENT_RECORD)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(event_out, reply.handle as CUevent) }
}

pub unsafe fn cuGraphEventWaitNodeGetEvent(hNode: CUgraphNode, event_out: *mut CUevent) -> Outcome {
    let mut call = Call::begin(Function::cuGraphEventWaitNodeGetEvent)?;
    edge::require(event_out)?;
    let (reply, _) = ask(&mut call, hNode, Type::CU_GRAPH_NODE_TYPE_WAIT_EVENT)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(event_out, reply.handle as CUevent) }
}

pub unsafe fn cuGraphBatchMemOpNodeGetParams(
    hNode: CUgraphNode,
    nodeParams_out: *mut CUDA_BATCH_MEM_OP_NODE_PARAMS,
) -> Outcome {
    let mut call = Call::begin(Function::cuGraphBatchMemOpNodeGetParams)?;
    edge::require(nodeParams_out)?;
    let (reply, payload) = ask(&mut call, hNode, Type::CU_GRAPH_NODE_TYPE_BATCH_MEM_OP)?;
    let told = batched(&call, hNode, &reply, &payload);
    // SAFETY: the caller's promise.
    unsafe { edge::put(nodeParams_out, told) }
}

pub unsafe fn cuGraphNodeGetParams(
    hNode: CUgraphNode,
    nodeParams: *mut CUgraphNodeParams,
) -> Outcome {
    let mut call = Call::begin(Function::cuGraphNodeGetParams)?;
    edge::require(nodeParams)?;
    let (reply, payload) = ask_any(&mut call, hNode, true)?;
    let context = reply.context as CUcontext;
    let mut told = CUgraphNodeParams {
        type_: Type(reply.kind),
        reserved0: [0; 3],
        words: [0; 29],
        reserved2: 0,
    };
    let part = (&raw mut told.words).cast::<c_void>();
    match told.type_ {
        Type::CU_GRAPH_NODE_TYPE_KERNEL => {
            let kernel = kernel_of(&call, hNode, &payload)?;
            let kernel = CUDA_KERNEL_NODE_PARAMS_v2 {
                ctx: context,
                ..kernel
            };
            // SAFETY: the union is larger than each of its parts.
            unsafe { edge::put(part.cast(), kernel) }?;
        }
        Type::CU_GRAPH_NODE_TYPE_MEMCPY => {
            let copy = CUDA_MEMCPY_NODE_PARAMS {
                flags: 0,
                reserved: 0,
                copyCtx: context,
                copyParams: copied(&payload)?,
            };
            // SAFETY: as above.
            unsafe { edge::put(part.cast(), copy) }?;
        }
        Type::CU_GRAPH_NODE_TYPE_MEMSET => {
            let fill = CUDA_MEMSET_NODE_PARAMS_v2 {
                v1: filled(&payload)?,
                ctx: context,
            };
            // SAFETY: as above.
            unsafe { edge::put(part.cast(), fill) }?;
        }
        Type::CU_GRAPH_NODE_TYPE_HOST => {
            // SAFETY: as above.
            unsafe { edge::put(part.cast(), called(&call, &reply)?) }?;
        }
        Type::CU_GRAPH_NODE_TYPE_BATCH_MEM_OP => {
            // SAFETY: as above.
            unsafe { edge::put(part.cast(), batched(&call, hNode, &reply, &payload)) }?;
        }
        _ => told.words[0] = reply.handle,
    }
    // SAFETY: the caller's promise.
    unsafe { edge::put(nodeParams, told) }
}

fn copied(payload: &[u8]) -> Outcome<CUDA_MEMCPY3D> {
    let told = Copy::read_from_bytes(payload).map_err(|_| BROKEN)?;
    Ok(copy::params_of(&told))
}

fn filled(payload: &[u8]) -> Outcome<CUDA_MEMSET_NODE_PARAMS_v1> {
    let told = Fill::read_from_bytes(payload).map_err(|_| BROKEN)?;
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    Ok(CUDA_MEMSET_NODE_PARAMS_v1 {
        dst: told.to,
        pitch: size(told.pitch),
        value: told.value,
        elementSize: told.element_bytes,
        width: size(told.width),
        height: size(told.height),
    })
}

fn called(call: &Call, reply: &wire::VgpuNodeReply) -> Outcome<CUDA_HOST_NODE_PARAMS_v1> {
    let (function, data) = call.session.callbacks.host_function(reply.handle)?;
    Ok(CUDA_HOST_NODE_PARAMS_v1 {
        fn_: Some(function) as CUhostFn,
        userData: data,
    })
}

fn batched(
    call: &Call,
    node: CUgraphNode,
    reply: &wire::VgpuNodeReply,
    payload: &[u8],
) -> CUDA_BATCH_MEM_OP_NODE_PARAMS {
    let (words, _) = payload.as_chunks::<8>();
    let (operations, _) = words.as_chunks::<6>();
    let list: Box<[CUstreamBatchMemOpParams]> = operations
        .iter()
        .map(|words| CUstreamBatchMemOpParams {
            words: words.map(u64::from_le_bytes),
        })
        .collect();
    CUDA_BATCH_MEM_OP_NODE_PARAMS {
        ctx: reply.context as CUcontext,
        count: c_uint::try_from(list.len()).unwrap_or(c_uint::MAX),
        paramArray: keep(call, node, Told::Operations(list)).cast(),
        flags: reply.flags,
    }
}

pub unsafe fn cuGraphKernelNodeGetAttribute(
    hNode: CUgraphNode,
    attr: CUlaunchAttributeID,
    value_out: *mut CUlaunchAttributeValue,
) -> Outcome {
    let mut call = Call::begin(Function::cuGraphKernelNodeGetAttribute)?;
    edge::require(value_out)?;
    let request = wire::CuGraphKernelNodeGetAttribute {
        node: hNode as u64,
        attribute: attr.0,
        reserved: 0,
    };
    let bytes = call.round_trip(&request)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(value_out, CUlaunchAttributeValue { bytes }) }
}

pub unsafe fn cuGraphKernelNodeSetAttribute(
    hNode: CUgraphNode,
    attr: CUlaunchAttributeID,
    value: *const CUlaunchAttributeValue,
) -> Outcome {
    let mut call = Call::begin(Function::cuGraphKernelNodeSetAttribute)?;
    // SAFETY: the caller's promise.
    let value = unsafe { edge::take(value) }?;
    let request = wire::CuGraphKernelNodeSetAttribute {
        node: hNode as u64,
        attribute: attr.0,
        reserved: 0,
    };
    call.complete_with(&request, &[value.bytes.as_bytes()])
}
