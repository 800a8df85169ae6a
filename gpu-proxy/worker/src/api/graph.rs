//! Graphs and executable graphs.

#![forbid(unsafe_code)]

use cuda_abi::types::CUresult;
use idm_protocol::handle::Kind;
use idm_protocol::wire::{self, graph::list};

use super::capture::give;
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
    let graph = request.object;
    let pointer = session.resolve(frame, Kind::GRAPH, graph)?;
    let edges = match request.which {
        list::NODES => Edges {
            from: driver.graph_nodes(pointer)?,
            ..Edges::default()
        },
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
    for callback in kept {
        callbacks::end(callback);
    }
    Ok(destroyed?)
}
