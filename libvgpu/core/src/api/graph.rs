//! Graphs and executable graphs. Handles of graphs and nodes are the worker's to know; those of executable
//! graphs are minted here, for they are launched without waiting.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr, c_char, c_uint};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cuda_abi::function::Function;
use cuda_abi::resolver::DefaultStream;
use cuda_abi::types::{
    CUDA_GRAPH_INSTANTIATE_PARAMS, CUgraph, CUgraphEdgeData, CUgraphExec, CUgraphInstantiateResult,
    CUgraphNode, CUgraphNodeType, CUresult, CUstream,
};
use idm_protocol::handle::Kind;
use idm_protocol::wire::{
    self,
    graph::{Edge, list},
};

use super::capture::{data_of, edges, page};
use super::memory::stream_of;
use crate::call::{Call, Outcome, accepted, parse};
use crate::edge;
use crate::objects::{self, Detail};
use zerocopy::IntoBytes;

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

pub unsafe fn cuGraphGetNodes(
    hGraph: CUgraph,
    nodes: *mut CUgraphNode,
    numNodes: *mut usize,
) -> Outcome {
    let call = Call::begin(Function::cuGraphGetNodes)?;
    // SAFETY: the caller's promise.
    unsafe { list_nodes(call, hGraph as u64, list::NODES, nodes, numNodes) }
}

/// Tells a list of nodes: how many there are, or as many as there is room for.
///
/// # Safety
/// `count` is null or valid; `nodes` is null or has room for as many nodes as `count` says.
pub(super) unsafe fn list_nodes(
    mut call: Call,
    object: u64,
    which: u32,
    nodes: *mut CUgraphNode,
    count: *mut usize,
) -> Outcome {
    // SAFETY: the caller's promise.
    let room = unsafe { edge::take(count) }?;
    let (total, found) = ask(&mut call, object, which, !nodes.is_null(), room)?;
    if nodes.is_null() {
        // SAFETY: the caller's promise.
        return unsafe { edge::put(count, total) };
    }
    for index in 0..room {
        let handle = found.get(index).map_or(0, |edge| edge.from);
        // SAFETY: inside the room by the caller's promise.
        let place = unsafe { nodes.add(index) };
        // SAFETY: as above. What there is no node for is null.
        unsafe { edge::put(place, handle as CUgraphNode) }?;
    }
    // SAFETY: the caller's promise.
    unsafe { edge::put(count, total.min(room)) }
}

/// How many there are, and with `wanted` the first ones, as many as there is room for.
pub(super) fn ask(
    call: &mut Call,
    object: u64,
    which: u32,
    wanted: bool,
    room: usize,
) -> Outcome<(usize, Vec<Edge>)> {
    let mut found = Vec::new();
    loop {
        let request = wire::VgpuListNodes {
            object,
            which,
            first: u32::try_from(found.len()).map_err(|_| INVALID)?,
            wanted: u32::from(wanted),
            reserved: 0,
        };
        let had = found.len();
        let total = if wanted {
            let reply: wire::VgpuListNodesReply = page(
                call,
                &request,
                &mut found,
                |reply: &wire::VgpuListNodesReply| reply.total,
            )?;
            reply.total
        } else {
            call.round_trip::<_, wire::VgpuListNodesReply>(&request)?
                .total
        };
        let total = usize::try_from(total).unwrap_or(0);
        if !wanted || found.len() >= total.min(room) || found.len() == had {
            return Ok((total, found));
        }
    }
}

pub unsafe fn cuGraphInstantiate(
    phGraphExec: *mut CUgraphExec,
    hGraph: CUgraph,
    phErrorNode: *mut CUgraphNode,
    logBuffer: *mut c_char,
    bufferSize: usize,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuGraphInstantiate_v2(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize) }
}

pub unsafe fn cuGraphInstantiate_v2(
    phGraphExec: *mut CUgraphExec,
    hGraph: CUgraph,
    phErrorNode: *mut CUgraphNode,
    logBuffer: *mut c_char,
    bufferSize: usize,
) -> Outcome {
    let call = Call::begin(Function::cuGraphInstantiate_v2)?;
    if !logBuffer.is_null() && bufferSize > 0 {
        // Drivers have long said nothing here.
        // SAFETY: the caller's promise: room for one byte at least.
        unsafe { logBuffer.write(0) };
    }
    // SAFETY: the caller's promise.
    let (status, told) = unsafe { instantiate(call, phGraphExec, hGraph, 0, 0) }?;
    // SAFETY: the caller's promise.
    unsafe { edge::put_optional(phErrorNode, told.node as CUgraphNode) };
    accepted(status)
}

pub unsafe fn cuGraphInstantiateWithFlags(
    phGraphExec: *mut CUgraphExec,
    hGraph: CUgraph,
    flags: u64,
) -> Outcome {
    let call = Call::begin(Function::cuGraphInstantiateWithFlags)?;
    // SAFETY: the caller's promise.
    let (status, _) = unsafe { instantiate(call, phGraphExec, hGraph, flags, 0) }?;
    accepted(status)
}

pub unsafe fn cuGraphInstantiateWithParams(
    default: DefaultStream,
    phGraphExec: *mut CUgraphExec,
    hGraph: CUgraph,
    instantiateParams: *mut CUDA_GRAPH_INSTANTIATE_PARAMS,
) -> Outcome {
    let call = Call::begin(Function::cuGraphInstantiateWithParams)?;
    // SAFETY: the caller's promise.
    let mut params = unsafe { edge::take(instantiateParams) }?;
    let stream = match params.hUploadStream as u64 {
        0 => stream_of(default),
        named => call.handle(Kind::STREAM, named)?,
    };
    // SAFETY: the caller's promise.
    let (status, told) = unsafe { instantiate(call, phGraphExec, hGraph, params.flags, stream) }?;
    params.hErrNode_out = told.node as CUgraphNode;
    params.result_out = CUgraphInstantiateResult(told.result);
    // SAFETY: the caller's promise.
    unsafe { edge::put(instantiateParams, params) }?;
    accepted(status)
}

/// The status, and what is said about it.
///
/// # Safety
/// `exec` is null or valid for a write.
unsafe fn instantiate(
    mut call: Call,
    exec: *mut CUgraphExec,
    graph: CUgraph,
    flags: u64,
    stream: u64,
) -> Outcome<(CUresult, wire::VgpuInstantiateReply)> {
    edge::require(exec)?;
    let launched = Detail::Exec(Arc::default());
    // Graphs outlive contexts, and so do these.
    let handle = call.mint_with(Kind::GRAPH_EXEC, 0, launched)?;
    let request = wire::VgpuInstantiate {
        exec: handle.value(),
        graph: graph as u64,
        flags,
        stream,
    };
    let (status, told) = call.exchange_raw(&request, &[], |_, status, body| {
        let told = parse::<wire::VgpuInstantiateReply>(body).unwrap_or_default();
        Ok((status, told))
    })?;
    if status == CUresult::CUDA_SUCCESS {
        call.keep(Kind::GRAPH_EXEC, handle);
        // SAFETY: the caller's promise.
        unsafe { edge::put(exec, handle.value() as CUgraphExec) }?;
    }
    Ok((status, told))
}

/// What the driver finds wrong at the first launch is told at once; later ones are like it.
pub unsafe fn cuGraphLaunch(hGraphExec: CUgraphExec, hStream: CUstream) -> Outcome {
    let mut call = Call::begin(Function::cuGraphLaunch)?;
    let exec = hGraphExec as u64;
    let (stream, launched) = {
        let objects = call.session.objects();
        let stream = call.handle_in(&objects, Kind::STREAM, hStream as u64)?;
        let found = objects.resolve(exec, Kind::GRAPH_EXEC);
        let (_, object) = found.map_err(|error| objects::refusal(Kind::GRAPH_EXEC, &error))?;
        let Detail::Exec(launched) = &object.detail else {
            return Err(INVALID);
        };
        (stream, Arc::clone(launched))
    };
    let request = wire::CuGraphLaunch { exec, stream };
    let credit = call.take_credit(stream)?;
    // What it records, other processes may wait for as soon as this returns.
    let shares = call.session.shares_events.load(Ordering::Relaxed);
    if launched.load(Ordering::Relaxed) && !shares {
        return call.post_charged(&request, &[], credit);
    }
    // An answer, whatever it says, means that the worker had the record and returns the credit.
    let status = call.exchange_raw(&request, &[], |_, status, _| Ok(status))?;
    credit.spend();
    accepted(status)?;
    launched.store(true, Ordering::Relaxed);
    Ok(())
}

pub unsafe fn cuGraphExecDestroy(hGraphExec: CUgraphExec) -> Outcome {
    let mut call = Call::begin(Function::cuGraphExecDestroy)?;
    let exec = call.handle(Kind::GRAPH_EXEC, hGraphExec as u64)?;
    call.complete(&wire::CuGraphExecDestroy { exec })?;
    call.retire(Kind::GRAPH_EXEC, exec);
    Ok(())
}

/// Whether an executable graph was launched: what the driver finds wrong then is known.
pub(crate) type Launched = Arc<AtomicBool>;

pub unsafe fn cuGraphGetRootNodes(
    hGraph: CUgraph,
    rootNodes: *mut CUgraphNode,
    numRootNodes: *mut usize,
) -> Outcome {
    let call = Call::begin(Function::cuGraphGetRootNodes)?;
    // SAFETY: the caller's promise.
    unsafe { list_nodes(call, hGraph as u64, list::ROOTS, rootNodes, numRootNodes) }
}

pub unsafe fn cuGraphGetEdges(
    hGraph: CUgraph,
    from: *mut CUgraphNode,
    to: *mut CUgraphNode,
    numEdges: *mut usize,
) -> Outcome {
    let call = Call::begin(Function::cuGraphGetEdges)?;
    let lists = Lists::both(from, to, std::ptr::null_mut())?;
    // SAFETY: the caller's promise.
    unsafe { list_edges(call, hGraph as u64, list::EDGES, lists, numEdges) }
}

pub unsafe fn cuGraphGetEdges_v2(
    hGraph: CUgraph,
    from: *mut CUgraphNode,
    to: *mut CUgraphNode,
    edgeData: *mut CUgraphEdgeData,
    numEdges: *mut usize,
) -> Outcome {
    let call = Call::begin(Function::cuGraphGetEdges_v2)?;
    let lists = Lists::both(from, to, edgeData)?;
    // SAFETY: the caller's promise.
    unsafe { list_edges(call, hGraph as u64, list::EDGES, lists, numEdges) }
}

pub unsafe fn cuGraphNodeGetDependencies(
    hNode: CUgraphNode,
    dependencies: *mut CUgraphNode,
    numDependencies: *mut usize,
) -> Outcome {
    let call = Call::begin(Function::cuGraphNodeGetDependencies)?;
    let lists = Lists::one(dependencies, std::ptr::null_mut());
    // SAFETY: the caller's promise.
    unsafe { list_edges(call, hNode as u64, list::BEFORE, lists, numDependencies) }
}

pub unsafe fn cuGraphNodeGetDependencies_v2(
    hNode: CUgraphNode,
    dependencies: *mut CUgraphNode,
    edgeData: *mut CUgraphEdgeData,
    numDependencies: *mut usize,
) -> Outcome {
    let call = Call::begin(Function::cuGraphNodeGetDependencies_v2)?;
    let lists = Lists::one(dependencies, edgeData);
    // SAFETY: the caller's promise.
    unsafe { list_edges(call, hNode as u64, list::BEFORE, lists, numDependencies) }
}

pub unsafe fn cuGraphNodeGetDependentNodes(
    hNode: CUgraphNode,
    dependentNodes: *mut CUgraphNode,
    numDependentNodes: *mut usize,
) -> Outcome {
    let call = Call::begin(Function::cuGraphNodeGetDependentNodes)?;
    let lists = Lists::one(dependentNodes, std::ptr::null_mut());
    // SAFETY: the caller's promise.
    unsafe { list_edges(call, hNode as u64, list::AFTER, lists, numDependentNodes) }
}

pub unsafe fn cuGraphNodeGetDependentNodes_v2(
    hNode: CUgraphNode,
    dependentNodes: *mut CUgraphNode,
    edgeData: *mut CUgraphEdgeData,
    numDependentNodes: *mut usize,
) -> Outcome {
    let call = Call::begin(Function::cuGraphNodeGetDependentNodes_v2)?;
    let lists = Lists::one(dependentNodes, edgeData);
    // SAFETY: the caller's promise.
    unsafe { list_edges(call, hNode as u64, list::AFTER, lists, numDependentNodes) }
}

/// Where a program wants edges to be told; nowhere if it wants their number only.
struct Lists {
    from: *mut CUgraphNode,
    to: *mut CUgraphNode,
    data: *mut CUgraphEdgeData,
}

impl Lists {
    fn both(
        from: *mut CUgraphNode,
        to: *mut CUgraphNode,
        data: *mut CUgraphEdgeData,
    ) -> Outcome<Self> {
        if from.is_null() != to.is_null() {
            return Err(INVALID);
        }
        Ok(Self { from, to, data })
    }

    /// The other end is known.
    fn one(nodes: *mut CUgraphNode, data: *mut CUgraphEdgeData) -> Self {
        Self {
            from: nodes,
            to: std::ptr::null_mut(),
            data,
        }
    }
}

/// # Safety
/// `count` is null or valid; each list is null or has room for as many elements as `count` says.
unsafe fn list_edges(
    mut call: Call,
    object: u64,
    which: u32,
    lists: Lists,
    count: *mut usize,
) -> Outcome {
    // SAFETY: the caller's promise.
    let room = unsafe { edge::take(count) }?;
    let wanted = !lists.from.is_null();
    let (total, found) = ask(&mut call, object, which, wanted, room)?;
    if !wanted {
        // SAFETY: the caller's promise.
        return unsafe { edge::put(count, total) };
    }
    if lists.data.is_null() && found.iter().any(|edge| edge.data != [0; 8]) {
        return Err(CUresult::CUDA_ERROR_LOSSY_QUERY);
    }
    for index in 0..room {
        let edge = found.get(index).copied().unwrap_or_default();
        // SAFETY: inside the room by the caller's promise. What there is no edge for is null.
        unsafe { put_at(lists.from, index, edge.from as CUgraphNode) }?;
        // SAFETY: as above.
        unsafe { put_at(lists.to, index, edge.to as CUgraphNode) }?;
        // SAFETY: as above.
        unsafe { put_at(lists.data, index, data_of(edge.data)) }?;
    }
    // SAFETY: the caller's promise.
    unsafe { edge::put(count, total.min(room)) }
}

/// Writes an element of a list, if it is wanted.
///
/// # Safety
/// `list` is null or has more than `index` elements.
unsafe fn put_at<T>(list: *mut T, index: usize, value: T) -> Outcome {
    if list.is_null() {
        return Ok(());
    }
    // SAFETY: inside the list by the caller's promise.
    let place = unsafe { list.add(index) };
    // SAFETY: as above.
    unsafe { edge::put(place, value) }
}

macro_rules! edge_changes {
    ($($name:ident, $remove:literal;)+) => {$(
        pub unsafe fn $name(
            hGraph: CUgraph,
            from: *const CUgraphNode,
            to: *const CUgraphNode,
            numDependencies: usize,
        ) -> Outcome {
            let call = Call::begin(Function::$name)?;
            let none = std::ptr::null();
            // SAFETY: the caller's promise.
            let edges = unsafe { edges(from, Some(to), none, numDependencies) }?;
            change_edges(call, hGraph, &edges, $remove)
        }
    )+};
}

macro_rules! edge_changes_with_data {
    ($($name:ident, $remove:literal;)+) => {$(
        pub unsafe fn $name(
            hGraph: CUgraph,
            from: *const CUgraphNode,
            to: *const CUgraphNode,
            edgeData: *const CUgraphEdgeData,
            numDependencies: usize,
        ) -> Outcome {
            let call = Call::begin(Function::$name)?;
            // SAFETY: the caller's promise.
            let edges = unsafe { edges(from, Some(to), edgeData, numDependencies) }?;
            change_edges(call, hGraph, &edges, $remove)
        }
    )+};
}

edge_changes! {
    cuGraphAddDependencies, 0;
    cuGraphRemoveDependencies, 1;
}

edge_changes_with_data! {
    cuGraphAddDependencies_v2, 0;
    cuGraphRemoveDependencies_v2, 1;
}

fn change_edges(mut call: Call, graph: CUgraph, edges: &[Edge], remove: u32) -> Outcome {
    let request = wire::VgpuEdges {
        graph: graph as u64,
        count: u32::try_from(edges.len()).map_err(|_| INVALID)?,
        remove,
    };
    call.complete_with(&request, &[edges.as_bytes()])
}

/// The file is the program's, so it is written here: nodes, what they are, and edges.
pub unsafe fn cuGraphDebugDotPrint(
    hGraph: CUgraph,
    path: *const c_char,
    _flags: c_uint,
) -> Outcome {
    use std::fmt::Write as _;
    let mut call = Call::begin(Function::cuGraphDebugDotPrint)?;
    edge::require(path)?;
    // SAFETY: not null, so a C string by the caller's promise.
    let path = unsafe { CStr::from_ptr(path) };
    let (_, nodes) = ask(&mut call, hGraph as u64, list::NODES, true, usize::MAX)?;
    let (_, edges) = ask(&mut call, hGraph as u64, list::EDGES, true, usize::MAX)?;
    let number: HashMap<u64, usize> = nodes.iter().map(|node| node.from).zip(1..).collect();
    let mut text = "digraph graph {\n".to_owned();
    for node in &nodes {
        let request = wire::CuGraphNodeGetType { hNode: node.from };
        let kind: wire::CuGraphNodeGetTypeReply = call.round_trip(&request)?;
        let kind = CUgraphNodeType(kind.type_);
        let kind = kind.name().unwrap_or_default();
        let kind = kind.trim_start_matches("CU_GRAPH_NODE_TYPE_");
        let number = number[&node.from];
        // Writing to a string does not fail.
        let _ = writeln!(text, "    node_{number} [label=\"{number} {kind}\"];");
    }
    for edge in &edges {
        if let (Some(from), Some(to)) = (number.get(&edge.from), number.get(&edge.to)) {
            let _ = writeln!(text, "    node_{from} -> node_{to};");
        }
    }
    text.push_str("}\n");
    let path = OsStr::from_bytes(path.to_bytes());
    std::fs::write(path, text).map_err(|_| CUresult::CUDA_ERROR_OPERATING_SYSTEM)
}
