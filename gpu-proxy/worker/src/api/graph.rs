//! Graphs and executable graphs.

#![forbid(unsafe_code)]

use std::collections::HashSet;

use cuda_abi::types::CUresult;
use idm_protocol::handle::Kind;
use idm_protocol::wire::{self, graph::list};

use super::capture::{edges, give};
use crate::callbacks;
use crate::driver::Edges;
use crate::session::{Frame, Outcome, Session};

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

/// Lists nodes or edges.
pub fn vgpuListNodes(
    session: &Session,
    request: &wire::VgpuListNodes,
    frame: &mut Frame<'_>,
) -> Outcome {
    let driver = session.driver();
    let of_node = matches!(request.which, list::BEFORE | list::AFTER);
    let (graph, node) = if of_node {
        let node = session.resolve(frame, Kind::GRAPH_NODE, request.object)?;
        (
            session.graphs().parent(Kind::GRAPH_NODE, request.object),
            node,
        )
    } else {
        (request.object, 0)
    };
    let pointer = session.resolve(frame, Kind::GRAPH, graph)?;
    let edges = match request.which {
        list::NODES => Edges {
            from: driver.graph_nodes(pointer)?,
            ..Edges::default()
        },
        list::ROOTS => {
            let targets: HashSet<usize> = driver.graph_edges(pointer)?.to.into_iter().collect();
            let mut from = driver.graph_nodes(pointer)?;
            from.retain(|node| !targets.contains(node));
            Edges {
                from,
                ..Edges::default()
            }
        }
        list::EDGES => driver.graph_edges(pointer)?,
        list::BEFORE | list::AFTER => {
            neighbours(&driver.graph_edges(pointer)?, node, request.which)
        }
        _ => return Err(INVALID.into()),
    };
    let given = if request.wanted == 0 {
        0
    } else {
        give(session, frame, graph, &edges, request.first)?
    };
    frame.reply(&wire::VgpuListNodesReply {
        total: u32::try_from(edges.from.len()).unwrap_or(u32::MAX),
        given,
    });
    Ok(())
}

/// The nodes at the other end of a node's edges, with what the edges say.
fn neighbours(edges: &Edges, node: usize, which: u32) -> Edges {
    let mut found = Edges::default();
    let all = edges.from.iter().zip(&edges.to).zip(&edges.data);
    for ((from, to), data) in all {
        let (own, other) = match which {
            list::BEFORE => (to, from),
            _ => (from, to),
        };
        if *own == node {
            found.from.push(*other);
            found.data.push(*data);
        }
    }
    found
}

/// Adds or removes edges.
pub fn vgpuEdges(session: &Session, request: &wire::VgpuEdges, frame: &mut Frame<'_>) -> Outcome {
    let graph = session.resolve(frame, Kind::GRAPH, request.graph)?;
    let edges = edges::<wire::VgpuEdges>(session, frame, request.count)?;
    if edges.to.len() != edges.from.len() {
        return Err(INVALID.into());
    }
    let driver = session.driver();
    Ok(driver.change_edges(graph, &edges, request.remove != 0)?)
}

/// Clones a graph, with the references that it holds.
pub fn cuGraphClone(
    session: &Session,
    request: &wire::CuGraphClone,
    frame: &mut Frame<'_>,
) -> Outcome {
    let graph = session.resolve(frame, Kind::GRAPH, request.originalGraph)?;
    let clone = session.driver().clone_graph(graph)?;
    let phGraphClone = session.name(Kind::GRAPH, clone, 0)?;
    let mut graphs = session.graphs();
    graphs.clone_held(request.originalGraph, phGraphClone);
    drop(graphs);
    frame.reply(&wire::CuGraphCloneReply { phGraphClone });
    Ok(())
}

/// Makes a graph ready to be launched.
pub fn vgpuInstantiate(
    session: &Session,
    request: &wire::VgpuInstantiate,
    frame: &mut Frame<'_>,
) -> Outcome {
    let graph = session.resolve(frame, Kind::GRAPH, request.graph)?;
    let stream = session.resolve(frame, Kind::STREAM, request.stream)?;
    session.check_free(Kind::GRAPH_EXEC, request.exec)?;
    let driver = session.driver();
    let (made, result, node) = driver.instantiate(graph, request.flags, stream);
    let known = || session.graphs().known(Kind::GRAPH_NODE, node);
    let node = match node {
        0 => 0,
        // One of the graph itself; of one inside it, only if the client knows it.
        _ if driver.graph_nodes(graph)?.contains(&node) => {
            session.name(Kind::GRAPH_NODE, node, request.graph)?
        }
        _ => known().unwrap_or(0),
    };
    frame.reply(&wire::VgpuInstantiateReply {
        node,
        result: result.0,
        reserved: 0,
    });
    session.bind(
        frame,
        Kind::GRAPH_EXEC,
        request.exec,
        made?,
        CUresult::CUDA_SUCCESS,
    )
}

/// Launches a graph.
pub fn cuGraphLaunch(
    session: &Session,
    request: &wire::CuGraphLaunch,
    frame: &mut Frame<'_>,
) -> Outcome {
    let exec = session.resolve(frame, Kind::GRAPH_EXEC, request.exec)?;
    let stream = session.resolve(frame, Kind::STREAM, request.stream)?;
    session.driver().launch_graph(exec, stream)?;
    session.execs().launched(exec, (request.stream, stream));
    frame.issued_on(stream);
    Ok(())
}

/// Destroys an executable graph; launches under way go on.
pub fn cuGraphExecDestroy(
    session: &Session,
    request: &wire::CuGraphExecDestroy,
    frame: &mut Frame<'_>,
) -> Outcome {
    let exec = session.take(frame, Kind::GRAPH_EXEC, request.exec)?;
    let kept = session.execs().destroyed(exec);
    let destroyed = session.driver().destroy_exec(exec);
    let last = kept.last.filter(|&(handle, stream)| {
        // A stream that is gone takes nothing any more.
        let same = session.resolve(frame, Kind::STREAM, handle) == Ok(stream);
        same && session.captures.includes(stream, session.driver()) == Ok(false)
    });
    for callback in kept.callbacks {
        match (kept.last, last) {
            (_, Some((_, stream))) => callbacks::end_after(session, stream, callback),
            (None, None) => callbacks::end(callback),
            // A launch may be under way, and nobody can tell: the function stays.
            (Some(_), None) => {}
        }
    }
    Ok(destroyed?)
}
