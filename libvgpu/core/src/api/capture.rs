//! Stream capture.

use std::ffi::c_uint;

use cuda_abi::function::Function;
use cuda_abi::types::{
    CUgraph, CUgraphEdgeData, CUgraphNode, CUresult, CUstream, CUstreamCaptureMode,
    CUstreamCaptureStatus,
};
use idm_protocol::handle::Kind;
use idm_protocol::wire::{self, graph::Edge};
use zerocopy::{FromBytes, IntoBytes};

use super::memory::captured::free_unused;
use crate::call::{Call, Outcome, accepted, failed, parse};
use crate::captures::{Place, Told};
use crate::edge;
use crate::thread::Thread;

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
const NONE: CUstreamCaptureStatus = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;

pub unsafe fn cuStreamBeginCapture(hStream: CUstream) -> Outcome {
    let call = Call::begin(Function::cuStreamBeginCapture)?;
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
    begin(call, hStream, 0, &[], mode)
}

pub unsafe fn cuStreamBeginCapture_v2(hStream: CUstream, mode: CUstreamCaptureMode) -> Outcome {
    let call = Call::begin(Function::cuStreamBeginCapture_v2)?;
    begin(call, hStream, 0, &[], mode)
}

pub unsafe fn cuStreamBeginCaptureToGraph(
    hStream: CUstream,
    hGraph: CUgraph,
    dependencies: *const CUgraphNode,
    dependencyData: *const CUgraphEdgeData,
    numDependencies: usize,
    mode: CUstreamCaptureMode,
) -> Outcome {
    let call = Call::begin(Function::cuStreamBeginCaptureToGraph)?;
    call.handle(Kind::STREAM, hStream as u64)?;
    if hGraph.is_null() {
        return Err(INVALID);
    }
    // SAFETY: the caller's promise.
    let before = unsafe { edges(dependencies, None, dependencyData, numDependencies) }?;
    begin(call, hStream, hGraph as u64, &before, mode)
}

fn begin(
    mut call: Call,
    stream: CUstream,
    graph: u64,
    before: &[Edge],
    mode: CUstreamCaptureMode,
) -> Outcome {
    let stream = call.handle(Kind::STREAM, stream as u64)?;
    free_unused(&mut call);
    let request = wire::VgpuBeginCapture {
        stream,
        graph,
        count: u32::try_from(before.len()).map_err(|_| INVALID)?,
        mode: mode.0,
    };
    call.complete_with(&request, &[before.as_bytes()])?;
    let place = place(&call, stream)?;
    call.session.captures.begun(place);
    Ok(())
}

pub unsafe fn cuStreamEndCapture(hStream: CUstream, phGraph: *mut CUgraph) -> Outcome {
    let mut call = Call::begin(Function::cuStreamEndCapture)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    edge::require(phGraph)?;
    let place = place(&call, stream)?;
    let session = call.session;
    let request = wire::CuStreamEndCapture { stream };
    let (status, graph) = call.exchange_raw(&request, &[], |_, status, body| {
        // A refusal of the worker's own, that did not get as far, says nothing of the capture.
        let told = parse::<wire::CuStreamEndCaptureReply>(body).unwrap_or_default();
        if told.ended != 0 {
            session.captures.ended(place);
        }
        Ok((status, told.graph))
    })?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(phGraph, graph as CUgraph) }?;
    accepted(status)
}

pub unsafe fn cuStreamIsCapturing(
    hStream: CUstream,
    captureStatus: *mut CUstreamCaptureStatus,
) -> Outcome {
    let mut call = Call::begin(Function::cuStreamIsCapturing)?;
    edge::require(captureStatus)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    let status = ask(&mut call, stream)?.map_or(NONE, |info| CUstreamCaptureStatus(info.status));
    // SAFETY: the caller's promise.
    unsafe { edge::put(captureStatus, status) }
}

/// Whether a stream is in a capture.
pub(crate) fn is_capturing(call: &mut Call, stream: u64) -> Outcome<bool> {
    let info = ask(call, stream)?;
    Ok(info.is_some_and(|info| CUstreamCaptureStatus(info.status) != NONE))
}

/// What the worker says; nothing if there is no capture at all.
fn ask(call: &mut Call, stream: u64) -> Outcome<Option<wire::VgpuCaptureInfoReply>> {
    if !call.session.captures.any() {
        return Ok(None);
    }
    let request = wire::VgpuCaptureInfo {
        stream,
        first: 0,
        wanted: 0,
    };
    call.round_trip(&request).map(Some)
}

pub unsafe fn cuStreamGetCaptureInfo(
    hStream: CUstream,
    captureStatus_out: *mut CUstreamCaptureStatus,
    id_out: *mut u64,
) -> Outcome {
    let mut call = Call::begin(Function::cuStreamGetCaptureInfo)?;
    edge::require(captureStatus_out)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    let told = ask(&mut call, stream)?;
    let status = told.map_or(NONE, |info| CUstreamCaptureStatus(info.status));
    // SAFETY: the caller's promise.
    unsafe { edge::put(captureStatus_out, status) }?;
    if let Some(info) = told
        && status == CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE
    {
        // SAFETY: the caller's promise.
        unsafe { edge::put_optional(id_out, info.id) };
    }
    Ok(())
}

pub unsafe fn cuStreamGetCaptureInfo_v2(
    hStream: CUstream,
    captureStatus_out: *mut CUstreamCaptureStatus,
    id_out: *mut u64,
    graph_out: *mut CUgraph,
    dependencies_out: *mut *const CUgraphNode,
    numDependencies_out: *mut usize,
) -> Outcome {
    let call = Call::begin(Function::cuStreamGetCaptureInfo_v2)?;
    // SAFETY: the caller's promise.
    unsafe {
        info(
            call,
            hStream,
            captureStatus_out,
            id_out,
            graph_out,
            dependencies_out,
            std::ptr::null_mut(),
            numDependencies_out,
        )
    }
}

pub unsafe fn cuStreamGetCaptureInfo_v3(
    hStream: CUstream,
    captureStatus_out: *mut CUstreamCaptureStatus,
    id_out: *mut u64,
    graph_out: *mut CUgraph,
    dependencies_out: *mut *const CUgraphNode,
    edgeData_out: *mut *const CUgraphEdgeData,
    numDependencies_out: *mut usize,
) -> Outcome {
    let call = Call::begin(Function::cuStreamGetCaptureInfo_v3)?;
    // SAFETY: the caller's promise.
    unsafe {
        info(
            call,
            hStream,
            captureStatus_out,
            id_out,
            graph_out,
            dependencies_out,
            edgeData_out,
            numDependencies_out,
        )
    }
}

/// # Safety
/// All but the status are null or valid for a write.
unsafe fn info(
    mut call: Call,
    stream: CUstream,
    status: *mut CUstreamCaptureStatus,
    id: *mut u64,
    graph: *mut CUgraph,
    dependencies: *mut *const CUgraphNode,
    data: *mut *const CUgraphEdgeData,
    count: *mut usize,
) -> Outcome {
    edge::require(status)?;
    let stream = call.handle(Kind::STREAM, stream as u64)?;
    let place = place(&call, stream)?;
    let mut list = Vec::new();
    let mut told = wire::VgpuCaptureInfoReply::default();
    let wanted = !graph.is_null() || !dependencies.is_null() || !data.is_null();
    while call.session.captures.any() {
        let request = wire::VgpuCaptureInfo {
            stream,
            first: u32::try_from(list.len()).map_err(|_| INVALID)?,
            wanted: u32::from(wanted),
        };
        let had = list.len();
        told = page(
            &mut call,
            &request,
            &mut list,
            |reply: &wire::VgpuCaptureInfoReply| reply.count,
        )?;
        let all = usize::try_from(told.count).unwrap_or(usize::MAX);
        if !wanted || list.len() >= all || list.len() == had {
            break;
        }
    }
    let found = CUstreamCaptureStatus(told.status);
    let active = found == CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE;
    let special = list.iter().any(|edge| edge.data != [0; 8]);
    if special && data.is_null() && !dependencies.is_null() {
        return Err(CUresult::CUDA_ERROR_LOSSY_QUERY);
    }
    // SAFETY: the caller's promise.
    unsafe { edge::put(status, found) }?;
    if !active {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    unsafe { edge::put_optional(id, told.id) };
    // SAFETY: the caller's promise.
    unsafe { edge::put_optional(graph, told.graph as CUgraph) };
    // SAFETY: the caller's promise.
    unsafe { edge::put_optional(count, usize::try_from(told.count).unwrap_or(0)) };
    if wanted {
        let kept = Told {
            nodes: list.iter().map(|edge| edge.from).collect(),
            edges: list.iter().map(|edge| data_of(edge.data)).collect(),
        };
        let (nodes, edges) = call.session.captures.tell(place, kept);
        // SAFETY: the caller's promise.
        unsafe { edge::put_optional(dependencies, nodes.cast()) };
        // SAFETY: the caller's promise.
        unsafe { edge::put_optional(data, edges) };
    }
    Ok(())
}

pub unsafe fn cuStreamUpdateCaptureDependencies(
    hStream: CUstream,
    dependencies: *mut CUgraphNode,
    numDependencies: usize,
    flags: c_uint,
) -> Outcome {
    let call = Call::begin(Function::cuStreamUpdateCaptureDependencies)?;
    check_captured(&call, hStream, flags)?;
    let none = std::ptr::null();
    // SAFETY: the caller's promise.
    let before = unsafe { edges(dependencies, None, none, numDependencies) }?;
    update(call, hStream, &before, flags)
}

pub unsafe fn cuStreamUpdateCaptureDependencies_v2(
    hStream: CUstream,
    dependencies: *mut CUgraphNode,
    dependencyData: *const CUgraphEdgeData,
    numDependencies: usize,
    flags: c_uint,
) -> Outcome {
    let call = Call::begin(Function::cuStreamUpdateCaptureDependencies_v2)?;
    check_captured(&call, hStream, flags)?;
    // SAFETY: the caller's promise.
    let before = unsafe { edges(dependencies, None, dependencyData, numDependencies) }?;
    update(call, hStream, &before, flags)
}

/// While nothing is captured, a stream has no dependencies, whatever they are said to be.
fn check_captured(call: &Call, stream: CUstream, flags: c_uint) -> Outcome {
    call.handle(Kind::STREAM, stream as u64)?;
    // Added to, or put in the place of, those there are.
    if flags > 1 {
        return Err(INVALID);
    }
    if call.session.captures.any() {
        Ok(())
    } else {
        Err(CUresult::CUDA_ERROR_ILLEGAL_STATE)
    }
}

fn update(mut call: Call, stream: CUstream, before: &[Edge], flags: c_uint) -> Outcome {
    let stream = call.handle(Kind::STREAM, stream as u64)?;
    let request = wire::VgpuUpdateDependencies {
        stream,
        count: u32::try_from(before.len()).map_err(|_| INVALID)?,
        flags,
    };
    call.complete_with(&request, &[before.as_bytes()])
}

pub unsafe fn cuThreadExchangeStreamCaptureMode(mode: *mut CUstreamCaptureMode) -> Outcome {
    let mut call = Call::begin_anywhere(Function::cuThreadExchangeStreamCaptureMode)?;
    // SAFETY: the caller's promise.
    let wanted = unsafe { edge::take(mode) }?;
    if wanted.name().is_none() {
        return Err(INVALID);
    }
    let request = wire::CuThreadExchangeStreamCaptureMode {
        mode: wanted.0,
        reserved: 0,
    };
    let reply: wire::CuThreadExchangeStreamCaptureModeReply = call.round_trip(&request)?;
    Thread::current().set_capture_mode(wanted.0);
    // SAFETY: the caller's promise.
    unsafe { edge::put(mode, CUstreamCaptureMode(reply.before)) }
}

/// The stream as captures know it.
fn place(call: &Call, stream: u64) -> Outcome<Place> {
    let context = call.context_handle();
    let lane = match stream {
        2 => call.with_lane(|lane| Ok(lane.index()))?,
        _ => 0,
    };
    Ok(Place {
        stream,
        context,
        lane,
    })
}

/// Asks for a page of edges and appends it to the list; `total` says how many there are in all.
pub(super) fn page<T: idm_protocol::record::Request, R: FromBytes>(
    call: &mut Call,
    request: &T,
    list: &mut Vec<Edge>,
    total: impl Fn(&R) -> u32,
) -> Outcome<R> {
    let session = call.session;
    call.exchange(request, &[], |lane, body| {
        let reply: R = parse(body)?;
        let all = usize::try_from(total(&reply)).unwrap_or(usize::MAX);
        let room = lane.side_byte_len() / size_of::<Edge>();
        let count = all.saturating_sub(list.len()).min(room);
        let mut bytes = vec![0; count * size_of::<Edge>()];
        lane.read_side(&mut bytes)
            .map_err(|error| failed(session, &error))?;
        let read = bytes.chunks_exact(size_of::<Edge>());
        list.extend(read.filter_map(|bytes| Edge::read_from_bytes(bytes).ok()));
        Ok(reply)
    })
}

/// Edges of nodes that a program lists, as they travel.
///
/// # Safety
/// `from` has `count` elements, and so have the others unless they are absent or null.
pub(super) unsafe fn edges(
    from: *const CUgraphNode,
    to: Option<*const CUgraphNode>,
    data: *const CUgraphEdgeData,
    count: usize,
) -> Outcome<Vec<Edge>> {
    if count > 0 {
        edge::require(from)?;
        to.map_or(Ok(()), edge::require)?;
    }
    let mut edges = Vec::new();
    for index in 0..count {
        // SAFETY: inside the array by the caller's promise.
        let start = unsafe { edge::element(from, index) } as u64;
        // SAFETY: as above.
        let end = to.map_or(0, |to| unsafe { edge::element(to, index) } as u64);
        let said = if data.is_null() {
            [0; 8]
        } else {
            // SAFETY: as above.
            bytes_of(unsafe { edge::element(data, index) })
        };
        if start == 0 || (to.is_some() && end == 0) {
            return Err(INVALID);
        }
        edges.push(Edge {
            from: start,
            to: end,
            data: said,
        });
    }
    Ok(edges)
}

pub(super) fn data_of(bytes: [u8; 8]) -> CUgraphEdgeData {
    let [from_port, to_port, type_, reserved @ ..] = bytes;
    CUgraphEdgeData {
        from_port,
        to_port,
        type_,
        reserved,
    }
}

fn bytes_of(data: CUgraphEdgeData) -> [u8; 8] {
    let [r0, r1, r2, r3, r4] = data.reserved;
    [data.from_port, data.to_port, data.type_, r0, r1, r2, r3, r4]
}
