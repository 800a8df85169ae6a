//! What the client knows of stream captures: that there are some, and what the program was told of them.
//!
//! The driver captures, and a stream may come into a capture by an event that another one recorded. All that
//! matters here is whether any capture may be open: then every record is answered before its call returns,
//! on its own lane's thread (D7).

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cuda_abi::types::CUgraphEdgeData;

/// The captures of a session.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    open: AtomicUsize,
    streams: Mutex<HashSet<Place>>,
    told: Mutex<HashMap<Place, Told>>,
}

/// A stream: its handle, and for a default stream the context and the lane that it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) stream: u64,
    pub(crate) context: u64,
    pub(crate) lane: u16,
}

/// What a stream's next node waits for, as the program was told; it looks at it until it asks again.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) nodes: Box<[u64]>,
    pub(crate) edges: Box<[CUgraphEdgeData]>,
}

impl Captures {
    /// Whether any may be open. Who knows of one from another thread has synchronised with it.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// One began on a stream.
    pub(crate) fn begun(&self, place: Place) {
        let mut streams = lock(&self.streams);
        streams.insert(place);
        self.open.store(streams.len(), Ordering::Relaxed);
    }

    /// The one that began on a stream is over.
    pub(crate) fn ended(&self, place: Place) {
        self.retain(|other| *other != place);
    }

    /// A stream is destroyed.
    pub(crate) fn forget_stream(&self, stream: u64) {
        self.retain(|place| place.stream != stream);
    }

    /// A context is destroyed.
    pub(crate) fn forget_context(&self, context: u64) {
        self.retain(|place| place.context != context);
    }

    fn retain(&self, wanted: impl Fn(&Place) -> bool) {
        if !self.any() {
            return;
        }
        let mut streams = lock(&self.streams);
        streams.retain(&wanted);
        self.open.store(streams.len(), Ordering::Relaxed);
        lock(&self.told).retain(|place, _| wanted(place));
    }

    /// Keeps what the program is told, and says where.
    pub(crate) fn tell(&self, place: Place, told: Told) -> (*const u64, *const CUgraphEdgeData) {
        let at = (told.nodes.as_ptr(), told.edges.as_ptr());
        lock(&self.told).insert(place, told);
        at
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_are_over_when_they_end_or_their_stream_or_context_does() {
        let captures = Captures::default();
        let place = |stream, context| Place {
            stream,
            context,
            lane: 0,
        };
        for (stream, context) in [(10, 1), (11, 1), (12, 2)] {
            captures.begun(place(stream, context));
        }
        captures.ended(place(10, 1));
        captures.forget_stream(11);
        assert!(captures.any());
        captures.forget_context(2);
        assert!(!captures.any());
    }
}
