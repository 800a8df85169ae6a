//! Stream capture: what is submitted to some streams becomes nodes of a graph instead of being done.
//!
//! A capture begins on one stream and spreads to others through events; it ends where it began. Each stream
//! in it remembers the nodes that its next one will wait for. Whatever conflicts with a capture invalidates
//! it, and all that is left then is to end it.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cuda_abi::types::{CUgraphEdgeData, CUstreamCaptureMode as Mode};
use softgpu_core::context::Context;
use softgpu_core::error::{Error, Result};
use softgpu_core::schedule::StreamId;

use crate::current;
use crate::driver::{Event, Place, driver};
use crate::graph::{Edge, Graph, Operation};

/// The captures of a process.
#[derive(Default)]
pub(crate) struct Captures {
    /// How many there are: for the way through every call.
    open: AtomicUsize,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    last_id: u64,
    open: Vec<Capture>,
}

struct Capture {
    id: u64,
    mode: Mode,
    /// The thread that began it.
    thread: u64,
    /// The stream that it began on.
    origin: StreamId,
    graph: Arc<Graph>,
    /// Whether the graph was the program's before.
    borrowed: bool,
    invalid: bool,
    streams: HashMap<StreamId, Member>,
}

/// A stream in a capture.
struct Member {
    context: u64,
    /// Whether its context's legacy default stream waits for it.
    blocking: bool,
    /// What its next node waits for.
    before: Vec<Edge>,
    /// What the program was told last, where it still looks.
    told: Told,
}

/// Lists that stay where they are until the next call for the stream.
#[derive(Default)]
pub(crate) struct Told {
    nodes: Box<[u64]>,
    edges: Box<[CUgraphEdgeData]>,
}

/// What there is to know about a capture. The lists are the capture's.
pub(crate) struct Info {
    pub id: u64,
    pub invalid: bool,
    pub graph: Arc<Graph>,
    pub nodes: *const u64,
    pub edges: *const CUgraphEdgeData,
    pub count: usize,
    /// Whether an edge says more than the order.
    pub special: bool,
}

/// An event's place in a capture.
#[derive(Clone, Debug)]
pub(crate) struct Captured {
    capture: u64,
    before: Vec<Edge>,
}

impl Place {
    /// Whether its context's legacy default stream has to do with it.
    fn is_blocking(&self) -> bool {
        self.flags & crate::driver::NON_BLOCKING == 0
    }

    fn is_legacy(&self) -> bool {
        self.stream == self.context.legacy_stream()
    }
}

impl Captures {
    fn lock(&self) -> Option<MutexGuard<'_, List>> {
        // A capture that another thread is just beginning does not bind this call.
        (self.open.load(Ordering::Acquire) > 0).then(|| self.list())
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, list: &List) {
        self.open.store(list.open.len(), Ordering::Release);
    }

    /// Forgets captures of streams or contexts that are gone.
    fn retain(&self, wanted: impl Fn(&Capture) -> bool) {
        let Some(mut list) = self.lock() else {
            return;
        };
        let (keep, gone): (Vec<_>, Vec<_>) = list.open.drain(..).partition(|found| wanted(found));
        list.open = keep;
        self.count(&list);
        drop(list);
        for capture in gone {
            capture.abandon();
        }
    }

    /// A stream is destroyed.
    pub fn forget_stream(&self, stream: StreamId) {
        self.retain(|capture| !capture.streams.contains_key(&stream));
    }

    /// A context is destroyed.
    pub fn forget_context(&self, context: u64) {
        self.retain(|capture| {
            capture
                .streams
                .values()
                .all(|member| member.context != context)
        });
    }
}

impl List {
    fn of(&mut self, stream: StreamId) -> Option<&mut Capture> {
        let mut all = self.open.iter_mut();
        all.find(|capture| capture.streams.contains_key(&stream))
    }

    /// Invalidates the captures that `wanted` accepts; tells whether there were any.
    fn invalidate(&mut self, wanted: impl Fn(&Capture) -> bool) -> bool {
        let mut any = false;
        for capture in self.open.iter_mut().filter(|capture| wanted(capture)) {
            capture.invalid = true;
            any = true;
        }
        any
    }
}

/// Whether a context's legacy default stream would wait for a captured stream.
fn entangles(context: u64) -> impl Fn(&Capture) -> bool {
    move |capture| {
        let mut members = capture.streams.values();
        members.any(|member| member.context == context && member.blocking)
    }
}

impl Capture {
    /// Nobody will see what it has made.
    fn abandon(self) {
        if !self.borrowed
            && let Ok(driver) = driver()
        {
            self.graph.forget(driver);
        }
    }

    fn member(&mut self, stream: StreamId) -> Result<&mut Member> {
        if self.invalid {
            return Err(Error::StreamCaptureInvalidated);
        }
        self.streams.get_mut(&stream).ok_or(Error::IllegalState)
    }

    /// Whether every stream's last nodes are, or come before, those of the origin.
    fn is_joined(&self) -> bool {
        let before: HashMap<u64, Vec<u64>> = self
            .graph
            .snapshot()
            .into_iter()
            .map(|found| (found.node.id, found.before.iter().map(|e| e.from).collect()))
            .collect();
        let mut reached = BTreeSet::new();
        let mut look: Vec<u64> = Vec::new();
        if let Some(origin) = self.streams.get(&self.origin) {
            look.extend(origin.before.iter().map(|edge| edge.from));
        }
        while let Some(id) = look.pop() {
            if reached.insert(id) {
                look.extend(before.get(&id).into_iter().flatten());
            }
        }
        let mut ends = self.streams.values().flat_map(|member| &member.before);
        ends.all(|edge| reached.contains(&edge.from))
    }
}

/// Makes an operation a node if the stream is captured. `false`: the caller does it.
///
/// # Errors
/// Those of a stream that cannot be used now, and those of `operation`.
pub(crate) fn take(place: &Place, operation: impl FnOnce() -> Result<Operation>) -> Result<bool> {
    let captures = &driver()?.captures;
    let Some(mut list) = captures.lock() else {
        return Ok(false);
    };
    if let Some(capture) = list.of(place.stream) {
        let graph = Arc::clone(&capture.graph);
        let member = capture.member(place.stream)?;
        let node = graph.add(operation()?, member.before.clone())?;
        member.before = vec![Edge::plain(node.id)];
        return Ok(true);
    }
    free_to_use(&mut list, place).map(|()| false)
}

/// Whether a stream that is in no capture can be used.
fn free_to_use(list: &mut List, place: &Place) -> Result<()> {
    if !place.is_legacy() {
        return Ok(());
    }
    let entangled = entangles(place.context.id());
    if list.invalidate(entangled) {
        return Err(Error::StreamCaptureImplicit);
    }
    Ok(())
}

/// A call that waits for a stream, or asks how far it is.
pub(crate) fn waits_for(place: &Place) -> Result<()> {
    let captures = &driver()?.captures;
    let Some(mut list) = captures.lock() else {
        return Ok(());
    };
    if let Some(capture) = list.of(place.stream) {
        capture.invalid = true;
        return Err(Error::StreamCaptureUnsupported);
    }
    free_to_use(&mut list, place)
}

/// A call that waits for a context.
pub(crate) fn waits_for_context(context: &Context) -> Result<()> {
    let captures = &driver()?.captures;
    let Some(mut list) = captures.lock() else {
        return Ok(());
    };
    let id = context.id();
    let inside = |capture: &Capture| capture.streams.values().any(|m| m.context == id);
    if list.invalidate(inside) {
        return Err(Error::StreamCaptureUnsupported);
    }
    Ok(())
}

/// A call that makes a context wait for an event, which is of use only once its capture is over and it was
/// recorded again.
pub(crate) fn waits_for_event(event: &Event) -> Result<()> {
    let Some(captured) = event.captured() else {
        return Ok(());
    };
    let mut list = driver()?.captures.list();
    if list.invalidate(|capture| capture.id == captured.capture) {
        return Err(Error::StreamCaptureUnsupported);
    }
    Err(Error::CapturedEvent)
}

/// A call that may wait for work of any stream, unseen: the thread's mode and those of the captures decide.
pub(crate) fn unsafe_call() -> Result<()> {
    let captures = &driver()?.captures;
    let Some(mut list) = captures.lock() else {
        return Ok(());
    };
    let thread = current::thread_number();
    let mode = Mode(current::capture_mode());
    let conflicts = |capture: &Capture| {
        let own = capture.thread == thread && capture.mode != Mode::CU_STREAM_CAPTURE_MODE_RELAXED;
        let other = capture.mode == Mode::CU_STREAM_CAPTURE_MODE_GLOBAL;
        match mode {
            Mode::CU_STREAM_CAPTURE_MODE_RELAXED => false,
            Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL => own,
            _ => own || other,
        }
    };
    if list.invalidate(conflicts) {
        return Err(Error::StreamCaptureUnsupported);
    }
    Ok(())
}

/// Records an event if the stream is captured: it stands for the stream's place in the capture, or is
/// recorded by a node. `false`: the caller does it.
pub(crate) fn record(place: &Place, event: (u64, &Arc<Event>), external: bool) -> Result<bool> {
    if external {
        return take(place, || {
            Ok(Operation::Record(event.0, Arc::clone(event.1)))
        });
    }
    let captures = &driver()?.captures;
    let Some(mut list) = captures.lock() else {
        return Ok(false);
    };
    if let Some(capture) = list.of(place.stream) {
        let id = capture.id;
        let before = capture.member(place.stream)?.before.clone();
        event.1.capture(Captured {
            capture: id,
            before,
        });
        return Ok(true);
    }
    free_to_use(&mut list, place).map(|()| false)
}

/// Makes a stream wait for an event if one of them is in a capture. `false`: the caller does it.
pub(crate) fn wait(place: &Place, event: (u64, &Arc<Event>), external: bool) -> Result<bool> {
    let captured = event.1.captured();
    let captures = &driver()?.captures;
    let Some(mut list) = captures.lock() else {
        return match captured {
            Some(_) => Err(Error::CapturedEvent),
            None => Ok(false),
        };
    };
    let Some(captured) = captured else {
        if external {
            drop(list);
            return take(place, || Ok(Operation::Wait(event.0, Arc::clone(event.1))));
        }
        if let Some(capture) = list.of(place.stream) {
            capture.member(place.stream)?;
            capture.invalid = true;
            return Err(Error::StreamCaptureIsolation);
        }
        return free_to_use(&mut list, place).map(|()| false);
    };
    let own = list.of(place.stream).map(|capture| capture.id);
    if own.is_some_and(|own| own != captured.capture) {
        let both = [own, Some(captured.capture)];
        list.invalidate(|capture| both.contains(&Some(capture.id)));
        return Err(Error::StreamCaptureMerge);
    }
    let mut all = list.open.iter_mut();
    let capture = all.find(|capture| capture.id == captured.capture);
    let capture = capture.ok_or(Error::CapturedEvent)?;
    if capture.invalid {
        return Err(Error::StreamCaptureInvalidated);
    }
    if place.is_legacy() {
        capture.invalid = true;
        return Err(Error::StreamCaptureImplicit);
    }
    let member = capture
        .streams
        .entry(place.stream)
        .or_insert_with(|| Member {
            context: place.context.id(),
            blocking: place.is_blocking(),
            before: Vec::new(),
            told: Told::default(),
        });
    for edge in captured.before {
        if !member.before.iter().any(|known| known.from == edge.from) {
            member.before.push(edge);
        }
    }
    Ok(true)
}

/// Begins a capture on a stream, into a graph of its own or at a place in one of the program's.
pub(crate) fn begin(
    place: &Place,
    into: Option<(Arc<Graph>, Vec<Edge>)>,
    mode: Mode,
) -> Result<()> {
    place.context.check()?;
    if place.is_legacy() {
        return Err(Error::StreamCaptureUnsupported);
    }
    if mode.name().is_none() {
        return Err(Error::InvalidValue);
    }
    let captures = &driver()?.captures;
    let mut list = captures.list();
    if list.of(place.stream).is_some() {
        return Err(Error::IllegalState);
    }
    let borrowed = into.is_some();
    let (graph, before) = into.unwrap_or_else(|| (Graph::new(), Vec::new()));
    if !before.iter().all(|edge| graph.node(edge.from).is_some()) {
        return Err(Error::InvalidValue);
    }
    list.last_id += 1;
    let member = Member {
        context: place.context.id(),
        blocking: place.is_blocking(),
        before,
        told: Told::default(),
    };
    let capture = Capture {
        id: list.last_id,
        mode,
        thread: current::thread_number(),
        origin: place.stream,
        graph,
        borrowed,
        invalid: false,
        streams: HashMap::from([(place.stream, member)]),
    };
    list.open.push(capture);
    captures.count(&list);
    Ok(())
}

/// Ends the capture that began on a stream.
pub(crate) fn end(place: &Place) -> Result<Arc<Graph>> {
    let captures = &driver()?.captures;
    let mut list = captures.list();
    let capture = list.of(place.stream).ok_or(Error::IllegalState)?;
    if capture.origin != place.stream {
        capture.invalid = true;
        return Err(Error::StreamCaptureUnmatched);
    }
    let own = capture.mode == Mode::CU_STREAM_CAPTURE_MODE_RELAXED
        || capture.thread == current::thread_number();
    if !own {
        return Err(Error::StreamCaptureWrongThread);
    }
    let id = capture.id;
    let at = list.open.iter().position(|capture| capture.id == id);
    let capture = list.open.swap_remove(at.ok_or(Error::IllegalState)?);
    captures.count(&list);
    drop(list);
    let verdict = if capture.invalid {
        Err(Error::StreamCaptureInvalidated)
    } else if !capture.is_joined() {
        Err(Error::StreamCaptureUnjoined)
    } else {
        Ok(Arc::clone(&capture.graph))
    };
    if verdict.is_err() {
        capture.abandon();
    }
    verdict
}

/// What is known about the capture that a stream is in, if it is in one.
pub(crate) fn info(place: &Place) -> Result<Option<Info>> {
    let captures = &driver()?.captures;
    let Some(mut list) = captures.lock() else {
        return Ok(None);
    };
    let Some(capture) = list.of(place.stream) else {
        // To ask does no harm, but there is no good answer.
        let entangled = entangles(place.context.id());
        return if place.is_legacy() && list.open.iter().any(entangled) {
            Err(Error::StreamCaptureImplicit)
        } else {
            Ok(None)
        };
    };
    let (id, invalid, graph) = (capture.id, capture.invalid, Arc::clone(&capture.graph));
    let member = capture
        .streams
        .get_mut(&place.stream)
        .ok_or(Error::Unknown)?;
    let handle = |edge: &Edge| graph.node(edge.from).ok_or(Error::Unknown)?.handle();
    let nodes: Result<Box<[u64]>> = member.before.iter().map(handle).collect();
    member.told = Told {
        nodes: nodes?,
        edges: member.before.iter().map(|edge| edge.data).collect(),
    };
    let special = |edge: &Edge| edge.data != CUgraphEdgeData::default();
    Ok(Some(Info {
        id,
        invalid,
        nodes: member.told.nodes.as_ptr(),
        edges: member.told.edges.as_ptr(),
        count: member.before.len(),
        special: member.before.iter().any(special),
        graph,
    }))
}

/// Changes what the stream's next node waits for.
pub(crate) fn update(place: &Place, edges: Vec<Edge>, replace: bool) -> Result<()> {
    let captures = &driver()?.captures;
    let mut list = captures.list();
    let capture = list.of(place.stream).ok_or(Error::IllegalState)?;
    let graph = Arc::clone(&capture.graph);
    let member = capture.member(place.stream)?;
    if !edges.iter().all(|edge| graph.node(edge.from).is_some()) {
        return Err(Error::InvalidValue);
    }
    if replace {
        member.before.clear();
    }
    for edge in edges {
        if !member.before.iter().any(|known| known.from == edge.from) {
            member.before.push(edge);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(blocking: bool, before: &[u64]) -> Member {
        Member {
            context: 1,
            blocking,
            before: before.iter().map(|id| Edge::plain(*id)).collect(),
            told: Told::default(),
        }
    }

    fn capture_of(graph: &Arc<Graph>, streams: Vec<(StreamId, Member)>) -> Capture {
        Capture {
            id: 1,
            mode: Mode::CU_STREAM_CAPTURE_MODE_GLOBAL,
            thread: 1,
            origin: 1,
            graph: Arc::clone(graph),
            borrowed: false,
            invalid: false,
            streams: streams.into_iter().collect(),
        }
    }

    #[test]
    fn a_fork_is_joined_when_the_origin_waits_for_its_last_node() {
        let graph = Graph::new();
        let add = |before: &[u64]| {
            let before = before.iter().map(|id| Edge::plain(*id)).collect();
            graph.add(Operation::Empty, before).unwrap().id
        };
        let first = add(&[]);
        let (left, right) = (add(&[first]), add(&[first]));
        let forked = |origin: &[u64]| {
            let streams = vec![(1, member(true, origin)), (2, member(true, &[right]))];
            capture_of(&graph, streams).is_joined()
        };
        assert!(!forked(&[left]));
        assert!(forked(&[left, right]));
        let joint = add(&[left, right]);
        assert!(forked(&[joint]));
    }

    #[test]
    fn only_blocking_streams_of_the_context_entangle_its_legacy_stream() {
        let graph = Graph::new();
        let loose = capture_of(&graph, vec![(1, member(false, &[]))]);
        let tied = capture_of(&graph, vec![(1, member(true, &[]))]);
        assert!(!entangles(1)(&loose));
        assert!(entangles(1)(&tied));
        assert!(!entangles(2)(&tied));
    }
}
