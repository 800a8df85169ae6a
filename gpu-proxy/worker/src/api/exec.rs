//! Changing graphs that are ready to be launched.

#![forbid(unsafe_code)]

use idm_protocol::handle::Kind;
use idm_protocol::wire;

use crate::session::{Frame, Outcome, Session};

/// Has an executable graph do what the nodes of another graph do.
pub fn cuGraphExecUpdate_v2(
    session: &Session,
    request: &wire::CuGraphExecUpdateV2,
    frame: &mut Frame<'_>,
) -> Outcome {
    let exec = session.resolve(frame, Kind::GRAPH_EXEC, request.exec)?;
    let graph = session.resolve(frame, Kind::GRAPH, request.graph)?;
    let driver = session.driver();
    let (status, told) = driver.update_exec(exec, graph)?;
    let name = |node: usize| match node {
        0 => Ok(0),
        // One of the graph itself; of one inside it, only if the client knows it.
        _ if driver.graph_nodes(graph)?.contains(&node) => {
            session.name(Kind::GRAPH_NODE, node, request.graph)
        }
        _ => Ok(session.graphs().known(Kind::GRAPH_NODE, node).unwrap_or(0)),
    };
    frame.reply(&wire::CuGraphExecUpdateV2Reply {
        node: name(told.errorNode.addr())?,
        from: name(told.errorFromNode.addr())?,
        result: told.result.0,
        reserved: 0,
    });
    session.checked(status)
}
