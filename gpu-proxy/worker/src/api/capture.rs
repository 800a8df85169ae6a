//! Stream capture. The driver captures; here is what must be known of it.

#![forbid(unsafe_code)]

use cuda_abi::types::{CUgraphEdgeData, CUresult, CUstreamCaptureMode, CUstreamCaptureStatus};
use idm_protocol::handle::Kind;
use idm_protocol::wire::{self, graph::Edge};
use zerocopy::{FromBytes, IntoBytes};

use crate::captures::Capture;
use crate::driver::Edges;
use crate::session::{Frame, Outcome, Refusal, Session};

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

/// Begins a capture on a stream.
pub fn vgpuBeginCapture(
    session: &Session,
    request: &wire::VgpuBeginCapture,
    frame: &mut Frame<'_>,
) -> Outcome {
    let context = frame
        .context()
        .ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
    let stream = session.resolve(frame, Kind::STREAM, request.stream)?;
    let mode = CUstreamCaptureMode(request.mode);
    let driver = session.driver();
    if request.graph == 0 {
        let _gate = session.captures.close();
        driver.begin_capture(stream, mode)?;
        session.captures.begun(stream, Capture { context, into: 0 });
        return Ok(());
    }
    let graph = session.resolve(frame, Kind::GRAPH, request.graph)?;
    let before = edges::<wire::VgpuBeginCapture>(session, frame, request.count)?;
    let _gate = session.captures.close();
    driver.begin_capture_to(stream, graph, &before, mode)?;
    let into = request.graph;
    session.captures.begun(stream, Capture { context, into });
    Ok(())
}

/// Ends the capture that began on a stream.
pub fn cuStreamEndCapture(
    session: &Session,
    request: &wire::CuStreamEndCapture,
    frame: &mut Frame<'_>,
) -> Outcome {
    let stream = session.resolve(frame, Kind::STREAM, request.stream)?;
    let driver = session.driver();
    let capture = session.captures.on(stream);
    // A graph of the capture's own that the client has been told of goes if this fails.
    let own = match capture {
        Some(Capture { into: 0, .. }) => driver.capture_info(stream).map_or(0, |info| info.graph),
        _ => 0,
    };
    let ended = driver.end_capture(stream);
    let over = driver.is_capturing(stream) == Ok(false);
    if over {
        session.captures.ended(stream);
    }
    let graph = match (&ended, capture) {
        (Ok(graph), _) => session.name(Kind::GRAPH, *graph, 0)?,
        (Err(_), Some(capture)) if over => {
            abandon(session, own, capture);
            0
        }
        (Err(_), _) => 0,
    };
    frame.reply(&wire::CuStreamEndCaptureReply {
        graph,
        ended: u32::from(over),
        reserved: 0,
    });
    Ok(ended.map(drop)?)
}

/// A capture came to nothing: the driver has dropped its nodes.
fn abandon(session: &Session, own: usize, capture: Capture) {
    let mut graphs = session.graphs();
    if let Some(graph) = graphs.known(Kind::GRAPH, own).filter(|_| own != 0) {
        graphs.forget(Kind::GRAPH, graph);
    } else if let Ok(graph) = graphs.resolve(Kind::GRAPH, capture.into)
        && let Ok(nodes) = session.driver().graph_nodes(graph)
    {
        graphs.keep_only(capture.into, &nodes);
    }
}

/// What is known about the capture that a stream is in.
pub fn vgpuCaptureInfo(
    session: &Session,
    request: &wire::VgpuCaptureInfo,
    frame: &mut Frame<'_>,
) -> Outcome {
    let stream = session.resolve(frame, Kind::STREAM, request.stream)?;
    let info = session.driver().capture_info(stream)?;
    let active = info.status == CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE;
    let mut graph = 0;
    if request.wanted != 0 && active {
        graph = session.name(Kind::GRAPH, info.graph, 0)?;
        give(session, frame, graph, &info.before, request.first)?;
    }
    frame.reply(&wire::VgpuCaptureInfoReply {
        id: if active { info.id } else { 0 },
        graph,
        count: u32::try_from(info.before.from.len()).unwrap_or(u32::MAX),
        status: info.status.0,
    });
    Ok(())
}

/// Changes what the stream's next node waits for.
pub fn vgpuUpdateDependencies(
    session: &Session,
    request: &wire::VgpuUpdateDependencies,
    frame: &mut Frame<'_>,
) -> Outcome {
    let stream = session.resolve(frame, Kind::STREAM, request.stream)?;
    let before = edges::<wire::VgpuUpdateDependencies>(session, frame, request.count)?;
    let driver = session.driver();
    Ok(driver.update_capture(stream, &before, request.flags)?)
}

/// Exchanges the mode of the lane's thread.
pub fn cuThreadExchangeStreamCaptureMode(
    session: &Session,
    request: &wire::CuThreadExchangeStreamCaptureMode,
    frame: &mut Frame<'_>,
) -> Outcome {
    let wanted = CUstreamCaptureMode(request.mode);
    let before = session.driver().exchange_capture_mode(wanted)?.0;
    frame.reply(&wire::CuThreadExchangeStreamCaptureModeReply {
        before,
        reserved: 0,
    });
    Ok(())
}

/// The edges that follow a record, with the nodes that they name. An end that is 0 is none.
pub(super) fn edges<T: idm_protocol::record::Request>(
    session: &Session,
    frame: &Frame<'_>,
    count: u32,
) -> Result<Edges, Refusal> {
    let bytes = usize::try_from(count)
        .ok()
        .and_then(|count| count.checked_mul(size_of::<Edge>()))
        .ok_or(INVALID)?;
    let graphs = session.graphs();
    let mut found = Edges::default();
    for bytes in frame.tail::<T>(bytes)?.chunks_exact(size_of::<Edge>()) {
        let edge = Edge::read_from_bytes(bytes).map_err(|_| INVALID)?;
        found
            .from
            .push(graphs.resolve(Kind::GRAPH_NODE, edge.from)?);
        if edge.to != 0 {
            found.to.push(graphs.resolve(Kind::GRAPH_NODE, edge.to)?);
        }
        found.data.push(data_of(edge.data));
    }
    if !found.to.is_empty() && found.to.len() != found.from.len() {
        return Err(INVALID.into());
    }
    Ok(found)
}

/// Answers with edges of a graph: as many as fit, from the first that is asked for on.
pub(super) fn give(
    session: &Session,
    frame: &Frame<'_>,
    graph: u64,
    edges: &Edges,
    first: u32,
) -> Result<u32, Refusal> {
    let first = usize::try_from(first).map_err(|_| INVALID)?;
    let room = frame.side_byte_len() / size_of::<Edge>();
    let mut given = Vec::new();
    {
        let mut graphs = session.graphs();
        for (index, &from) in edges.from.iter().enumerate().skip(first).take(room) {
            let mut name = |node: usize| graphs.name(Kind::GRAPH_NODE, node, graph);
            let edge = Edge {
                from: name(from)?,
                to: edges.to.get(index).map_or(Ok(0), |to| name(*to))?,
                data: edges.data.get(index).map_or([0; 8], bytes_of),
            };
            given.extend_from_slice(edge.as_bytes());
        }
    }
    frame.reply_aside(0, &given)?;
    Ok(u32::try_from(given.len() / size_of::<Edge>()).unwrap_or(u32::MAX))
}

fn data_of([from_port, to_port, type_, reserved @ ..]: [u8; 8]) -> CUgraphEdgeData {
    CUgraphEdgeData {
        from_port,
        to_port,
        type_,
        reserved,
    }
}

fn bytes_of(data: &CUgraphEdgeData) -> [u8; 8] {
    let [r0, r1, r2, r3, r4] = data.reserved;
    [data.from_port, data.to_port, data.type_, r0, r1, r2, r3, r4]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edge_data_travels_unchanged() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        let data = data_of(bytes);
        assert_eq!((data.from_port, data.to_port, data.type_), (1, 2, 3));
        assert_eq!(bytes_of(&data), bytes);
    }
}
