//! Graphs, and graphs made ready to be launched.

use std::ffi::{c_char, c_uint};
use std::sync::Arc;

use cuda_abi::resolver::DefaultStream;
use cuda_abi::types::{
    CUDA_GRAPH_INSTANTIATE_PARAMS, CUgraph, CUgraphEdgeData, CUgraphExec, CUgraphInstantiate_flags,
    CUgraphInstantiateResult, CUgraphNode, CUstream,
};
use softgpu_core::error::Error;

use crate::capture;
use crate::driver::{driver, place};
use crate::edge::{self, Outcome, put, put_if_wanted};
use crate::graph::exec::{Exec, Misfit};
use crate::graph::{Edge, Graph, Node, Operation};

pub unsafe fn cuGraphCreate(graph: *mut CUgraph, flags: c_uint) -> Outcome {
    driver()?;
    if graph.is_null() || flags != 0 {
        return Err(Error::InvalidValue);
    }
    let handle = Graph::new().handle()?;
    // SAFETY: the caller's promise.
    unsafe { put(graph, handle as CUgraph) }
}

pub unsafe fn cuGraphDestroy(graph: CUgraph) -> Outcome {
    let driver = driver()?;
    find(graph)?.forget(driver);
    Ok(())
}

pub unsafe fn cuGraphGetNodes(
    graph: CUgraph,
    nodes: *mut CUgraphNode,
    count: *mut usize,
) -> Outcome {
    let all = find(graph)?.snapshot();
    let all: Vec<_> = all.into_iter().map(|found| found.node).collect();
    // SAFETY: the caller's promise.
    unsafe { list(&all, nodes, count) }
}

pub unsafe fn cuGraphInstantiate(
    exec: *mut CUgraphExec,
    graph: CUgraph,
    node: *mut CUgraphNode,
    log: *mut c_char,
    length: usize,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuGraphInstantiate_v2(exec, graph, node, log, length) }
}

pub unsafe fn cuGraphInstantiate_v2(
    exec: *mut CUgraphExec,
    graph: CUgraph,
    node: *mut CUgraphNode,
    log: *mut c_char,
    length: usize,
) -> Outcome {
    if !log.is_null() && length > 0 {
        // SAFETY: the caller's promise: room for one byte at least.
        unsafe { log.write(0) };
    }
    // SAFETY: the caller's promise.
    let made = unsafe { instantiate(exec, graph, 0) };
    let at = made.as_ref().err().and_then(|misfit| misfit.node);
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(node, handle_of(graph, at)?) };
    made.map_err(|misfit| misfit.error)
}

pub unsafe fn cuGraphInstantiateWithFlags(
    exec: *mut CUgraphExec,
    graph: CUgraph,
    flags: u64,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { instantiate(exec, graph, flags) }.map_err(|misfit| misfit.error)
}

pub unsafe fn cuGraphInstantiateWithParams(
    _default: DefaultStream,
    exec: *mut CUgraphExec,
    graph: CUgraph,
    params: *mut CUDA_GRAPH_INSTANTIATE_PARAMS,
) -> Outcome {
    use CUgraphInstantiateResult as R;
    // SAFETY: the caller's promise.
    let mut told = unsafe { edge::take(params.cast_const()) }?;
    if told.flags & u64::from(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD.0) != 0 {
        // Nothing is to be brought to a device, but the stream must be one.
        place(told.hUploadStream as u64)?;
    }
    // SAFETY: the caller's promise.
    let made = unsafe { instantiate(exec, graph, told.flags) };
    let at = made.as_ref().err().and_then(|misfit| misfit.node);
    told.hErrNode_out = handle_of(graph, at)?;
    told.result_out = match &made {
        Ok(()) => R::CUDA_GRAPH_INSTANTIATE_SUCCESS,
        Err(misfit) if misfit.error == Error::NotSupported => {
            R::CUDA_GRAPH_INSTANTIATE_NODE_OPERATION_NOT_SUPPORTED
        }
        Err(misfit) if misfit.node.is_none() => R::CUDA_GRAPH_INSTANTIATE_INVALID_STRUCTURE,
        Err(_) => R::CUDA_GRAPH_INSTANTIATE_ERROR,
    };
    // SAFETY: the caller's promise.
    unsafe { put(params, told) }?;
    made.map_err(|misfit| misfit.error)
}

/// # Safety
/// `exec` is null or valid for a write.
unsafe fn instantiate(exec: *mut CUgraphExec, graph: CUgraph, flags: u64) -> Result<(), Misfit> {
    use CUgraphInstantiate_flags as F;
    if exec.is_null() {
        return Err(Error::InvalidValue.into());
    }
    let known = F::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH.0
        | F::CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD.0
        | F::CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY.0;
    let on_device = u64::from(F::CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH.0);
    if flags & !(u64::from(known) | on_device) != 0 {
        return Err(Error::InvalidValue.into());
    }
    if flags & on_device != 0 {
        return Err(Error::NotSupported.into());
    }
    let made = Exec::new(&*find(graph)?, flags)?;
    let handle = driver()?
        .execs
        .insert(Arc::new(made))
        .ok_or(Error::OutOfMemory)?;
    // SAFETY: the caller's promise.
    Ok(unsafe { put(exec, handle as CUgraphExec) }?)
}

pub unsafe fn cuGraphLaunch(exec: CUgraphExec, stream: CUstream) -> Outcome {
    let place = place(stream as u64)?;
    let exec = find_exec(exec)?;
    // A captured launch is the graph itself as a node; what was updated since is not in it.
    let child = || Ok(Operation::Child(exec.as_graph()?));
    if capture::take(&place, child)? {
        return Ok(());
    }
    exec.launch(&place)
}

/// Nothing is to be brought to a device.
pub unsafe fn cuGraphUpload(exec: CUgraphExec, stream: CUstream) -> Outcome {
    let place = place(stream as u64)?;
    capture::waits_for(&place)?;
    find_exec(exec)?;
    place.context.check()
}

pub unsafe fn cuGraphExecDestroy(exec: CUgraphExec) -> Outcome {
    let gone = driver()?.execs.remove(exec as u64);
    gone.map(drop).ok_or(Error::InvalidValue)
}

/// The graph that a program names.
pub(super) fn find(graph: CUgraph) -> Result<Arc<Graph>, Error> {
    driver()?
        .graphs
        .get(graph as u64)
        .ok_or(Error::InvalidValue)
}

/// The node that a program names.
pub(super) fn node(node: CUgraphNode) -> Result<Arc<Node>, Error> {
    driver()?.nodes.get(node as u64).ok_or(Error::InvalidValue)
}

/// The executable graph that a program names.
pub(super) fn find_exec(exec: CUgraphExec) -> Result<Arc<Exec>, Error> {
    driver()?.execs.get(exec as u64).ok_or(Error::InvalidValue)
}

/// The handle of a node of a graph, or of one inside it.
pub(super) fn handle_of(graph: CUgraph, id: Option<u64>) -> Result<CUgraphNode, Error> {
    let Some(id) = id else {
        return Ok(std::ptr::null_mut());
    };
    let found = find(graph)?.node_within(id);
    let handle = found.map_or(Ok(0), |node| node.handle())?;
    Ok(handle as CUgraphNode)
}

/// Edges from the nodes that a program lists.
///
/// # Safety
/// `nodes` has `count` elements, `data` as many or is null.
pub(super) unsafe fn edges(
    graph: &Graph,
    nodes: *const CUgraphNode,
    data: *const CUgraphEdgeData,
    count: usize,
) -> Result<Vec<Edge>, Error> {
    let mut edges = Vec::new();
    for index in 0..count {
        // SAFETY: inside the array by the caller's promise.
        let from = node(unsafe { edge::element(nodes, index) }?)?;
        if graph.node(from.id).is_none() {
            return Err(Error::InvalidValue);
        }
        let data = if data.is_null() {
            CUgraphEdgeData::default()
        } else {
            // SAFETY: as above.
            unsafe { edge::element(data, index) }?
        };
        edges.push(Edge {
            from: from.id,
            data,
        });
    }
    Ok(edges)
}

/// Tells a list of nodes: how many there are, or as many as there is room for.
///
/// # Safety
/// `count` is null or valid; `nodes` is null or has room for as many nodes as `count` says.
pub(super) unsafe fn list(
    all: &[Arc<Node>],
    nodes: *mut CUgraphNode,
    count: *mut usize,
) -> Outcome {
    // SAFETY: the caller's promise.
    let room = unsafe { edge::take(count.cast_const()) }?;
    if nodes.is_null() {
        // SAFETY: the caller's promise.
        return unsafe { put(count, all.len()) };
    }
    for index in 0..room {
        let handle = all.get(index).map_or(Ok(0), Node::handle)?;
        // SAFETY: inside the room by the caller's promise.
        let place = unsafe { nodes.add(index) };
        // SAFETY: as above. What there is no node for is null.
        unsafe { put(place, handle as CUgraphNode) }?;
    }
    // SAFETY: the caller's promise.
    unsafe { put(count, all.len().min(room)) }
}

pub unsafe fn cuGraphGetRootNodes(
    graph: CUgraph,
    nodes: *mut CUgraphNode,
    count: *mut usize,
) -> Outcome {
    let all = find(graph)?.snapshot();
    let roots = all.into_iter().filter(|found| found.before.is_empty());
    let roots: Vec<_> = roots.map(|found| found.node).collect();
    // SAFETY: the caller's promise.
    unsafe { list(&roots, nodes, count) }
}

/// An edge as it is told.
struct Told {
    from: Arc<Node>,
    to: Arc<Node>,
    data: CUgraphEdgeData,
}

/// All edges of a graph, by the nodes they lead to.
fn all_edges(graph: &Graph) -> Vec<Told> {
    let all = graph.snapshot();
    let mut edges = Vec::new();
    for found in &all {
        for edge in &found.before {
            edges.extend(graph.node(edge.from).map(|from| Told {
                from,
                to: Arc::clone(&found.node),
                data: edge.data,
            }));
        }
    }
    edges
}

pub unsafe fn cuGraphGetEdges(
    graph: CUgraph,
    from: *mut CUgraphNode,
    to: *mut CUgraphNode,
    count: *mut usize,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuGraphGetEdges_v2(graph, from, to, std::ptr::null_mut(), count) }
}

pub unsafe fn cuGraphGetEdges_v2(
    graph: CUgraph,
    from: *mut CUgraphNode,
    to: *mut CUgraphNode,
    data: *mut CUgraphEdgeData,
    count: *mut usize,
) -> Outcome {
    let edges = all_edges(&*find(graph)?);
    if from.is_null() != to.is_null() {
        return Err(Error::InvalidValue);
    }
    let starts: Vec<_> = edges.iter().map(|edge| Arc::clone(&edge.from)).collect();
    let ends: Vec<_> = edges.iter().map(|edge| Arc::clone(&edge.to)).collect();
    // SAFETY: the caller's promise.
    let mut room = unsafe { edge::take(count.cast_const()) }?;
    // SAFETY: the caller's promise.
    unsafe { put_data(&edges, from.is_null(), data, room) }?;
    // SAFETY: a local, and the caller's promise.
    unsafe { list(&ends, to, &raw mut room) }?;
    // SAFETY: the caller's promise.
    unsafe { list(&starts, from, count) }
}

/// Tells what edges say besides the order.
///
/// # Safety
/// `data` is null or has room for `room` elements.
unsafe fn put_data(
    edges: &[Told],
    only_count: bool,
    data: *mut CUgraphEdgeData,
    room: usize,
) -> Outcome {
    if only_count {
        return Ok(());
    }
    let special = |edge: &Told| edge.data != CUgraphEdgeData::default();
    if data.is_null() {
        return match edges.iter().any(special) {
            true => Err(Error::LossyQuery),
            false => Ok(()),
        };
    }
    for (index, edge) in edges.iter().enumerate().take(room) {
        // SAFETY: inside the room by the caller's promise.
        let place = unsafe { data.add(index) };
        // SAFETY: as above.
        unsafe { put(place, edge.data) }?;
    }
    Ok(())
}

pub unsafe fn cuGraphNodeGetDependencies(
    handle: CUgraphNode,
    nodes: *mut CUgraphNode,
    count: *mut usize,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuGraphNodeGetDependencies_v2(handle, nodes, std::ptr::null_mut(), count) }
}

pub unsafe fn cuGraphNodeGetDependencies_v2(
    handle: CUgraphNode,
    nodes: *mut CUgraphNode,
    data: *mut CUgraphEdgeData,
    count: *mut usize,
) -> Outcome {
    let node = node(handle)?;
    let mut edges = all_edges(&*node.graph()?);
    edges.retain(|edge| edge.to.id == node.id);
    let found: Vec<_> = edges.iter().map(|edge| Arc::clone(&edge.from)).collect();
    // SAFETY: the caller's promise.
    let room = unsafe { edge::take(count.cast_const()) }?;
    // SAFETY: the caller's promise.
    unsafe { put_data(&edges, nodes.is_null(), data, room) }?;
    // SAFETY: the caller's promise.
    unsafe { list(&found, nodes, count) }
}

pub unsafe fn cuGraphNodeGetDependentNodes(
    handle: CUgraphNode,
    nodes: *mut CUgraphNode,
    count: *mut usize,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuGraphNodeGetDependentNodes_v2(handle, nodes, std::ptr::null_mut(), count) }
}

pub unsafe fn cuGraphNodeGetDependentNodes_v2(
    handle: CUgraphNode,
    nodes: *mut CUgraphNode,
    data: *mut CUgraphEdgeData,
    count: *mut usize,
) -> Outcome {
    let node = node(handle)?;
    let mut edges = all_edges(&*node.graph()?);
    edges.retain(|edge| edge.from.id == node.id);
    let found: Vec<_> = edges.iter().map(|edge| Arc::clone(&edge.to)).collect();
    // SAFETY: the caller's promise.
    let room = unsafe { edge::take(count.cast_const()) }?;
    // SAFETY: the caller's promise.
    unsafe { put_data(&edges, nodes.is_null(), data, room) }?;
    // SAFETY: the caller's promise.
    unsafe { list(&found, nodes, count) }
}

/// The edges that a program lists.
///
/// # Safety
/// `from` and `to` have `count` elements, `data` as many or is null.
unsafe fn pairs(
    graph: &Graph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    data: *const CUgraphEdgeData,
    count: usize,
) -> Result<Vec<(u64, Edge)>, Error> {
    // SAFETY: the caller's promise.
    let starts = unsafe { edges(graph, from, data, count) }?;
    // SAFETY: the caller's promise.
    let ends = unsafe { edges(graph, to, std::ptr::null(), count) }?;
    Ok(ends.iter().map(|end| end.from).zip(starts).collect())
}

pub unsafe fn cuGraphAddDependencies(
    graph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    count: usize,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuGraphAddDependencies_v2(graph, from, to, std::ptr::null(), count) }
}

pub unsafe fn cuGraphAddDependencies_v2(
    graph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    data: *const CUgraphEdgeData,
    count: usize,
) -> Outcome {
    let graph = find(graph)?;
    // SAFETY: the caller's promise.
    let edges = unsafe { pairs(&graph, from, to, data, count) }?;
    graph.connect(&edges)
}

pub unsafe fn cuGraphRemoveDependencies(
    graph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    count: usize,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuGraphRemoveDependencies_v2(graph, from, to, std::ptr::null(), count) }
}

pub unsafe fn cuGraphRemoveDependencies_v2(
    graph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    data: *const CUgraphEdgeData,
    count: usize,
) -> Outcome {
    let graph = find(graph)?;
    // SAFETY: the caller's promise.
    let edges = unsafe { pairs(&graph, from, to, data, count) }?;
    graph.disconnect(&edges)
}

pub unsafe fn cuGraphDestroyNode(handle: CUgraphNode) -> Outcome {
    let node = node(handle)?;
    node.graph()?.remove(&node)
}

pub unsafe fn cuGraphClone(clone: *mut CUgraph, original: CUgraph) -> Outcome {
    let graph = find(original)?;
    if clone.is_null() {
        return Err(Error::InvalidValue);
    }
    let handle = graph.clone_graph()?.handle()?;
    // SAFETY: the caller's promise.
    unsafe { put(clone, handle as CUgraph) }
}

pub unsafe fn cuGraphNodeFindInClone(
    found: *mut CUgraphNode,
    original: CUgraphNode,
    clone: CUgraph,
) -> Outcome {
    let handle = find(clone)?.find_clone(&*node(original)?)?.handle()?;
    // SAFETY: the caller's promise.
    unsafe { put(found, handle as CUgraphNode) }
}

pub unsafe fn cuGraphNodeGetType(
    handle: CUgraphNode,
    kind: *mut cuda_abi::types::CUgraphNodeType,
) -> Outcome {
    let found = node(handle)?.operation()?.kind();
    // SAFETY: the caller's promise.
    unsafe { put(kind, found) }
}

pub unsafe fn cuGraphNodeGetContainingGraph(handle: CUgraphNode, graph: *mut CUgraph) -> Outcome {
    let found = node(handle)?.graph()?.handle()?;
    // SAFETY: the caller's promise.
    unsafe { put(graph, found as CUgraph) }
}

pub unsafe fn cuGraphNodeGetLocalId(handle: CUgraphNode, id: *mut c_uint) -> Outcome {
    let found = node(handle)?.local;
    // SAFETY: the caller's promise.
    unsafe { put(id, found) }
}

pub unsafe fn cuGraphNodeGetToolsId(handle: CUgraphNode, id: *mut u64) -> Outcome {
    let found = node(handle)?.id;
    // SAFETY: the caller's promise.
    unsafe { put(id, found) }
}

pub unsafe fn cuGraphGetId(graph: CUgraph, id: *mut c_uint) -> Outcome {
    let found = find(graph)?.id;
    // SAFETY: the caller's promise.
    unsafe { put(id, found) }
}

pub unsafe fn cuGraphDebugDotPrint(graph: CUgraph, path: *const c_char, _flags: c_uint) -> Outcome {
    use std::fmt::Write as _;
    let graph = find(graph)?;
    // SAFETY: the caller's promise.
    let path = unsafe { edge::name(path) }?;
    let mut text = format!("digraph graph_{} {{\n", graph.id);
    for found in graph.snapshot() {
        let kind = found.operation.kind();
        let kind = kind.name().unwrap_or_default();
        let kind = kind.trim_start_matches("CU_GRAPH_NODE_TYPE_");
        let kernel = match &found.operation {
            Operation::Kernel(kernel) => kernel.function.name.to_string_lossy().into_owned(),
            _ => String::new(),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "    node_{0} [label=\"{0} {kind} {kernel}\"];",
            found.node.local
        );
        for edge in &found.before {
            if let Some(from) = graph.node(edge.from) {
                let _ = writeln!(
                    text,
                    "    node_{} -> node_{};",
                    from.local, found.node.local
                );
            }
        }
    }
    text.push_str("}\n");
    std::fs::write(path, text).map_err(|_| Error::OperatingSystem)
}
