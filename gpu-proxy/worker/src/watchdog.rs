//! Ends a client whose work never does.
//!
//! Work on a GPU cannot be called off, so what is ended is the worker, and with it the work. A driver tells whether events
//! were reached and nothing between them, so what is watched is the oldest work of each stream between two of the
//! worker's own events: at most 64 records. What is made of an image is watched too.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use cuda_abi::types::CUresult;
use idm_protocol::status::Latched;
use proxy_channel::message::Ending;

use crate::harden;
use crate::session::Session;

/// Ends the worker once some stream's oldest work has been the same for `limit`, or an image has taken so long.
pub fn watch(session: &Session, limit: Duration) -> ! {
    let pause = (limit / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
    let mut seen: HashMap<(usize, u64), Instant> = HashMap::new();
    loop {
        thread::sleep(pause);
        let now = Instant::now();
        let mut now_seen = HashMap::new();
        session.look_at_work(|slot, serial| {
            let work = (slot, serial);
            let since = seen.get(&work).copied().unwrap_or(now);
            now_seen.insert(work, since);
        });
        if now_seen.values().any(|since| now - *since >= limit) {
            end(session, "work on a stream did not end", limit);
        }
        if session
            .translations
            .oldest()
            .is_some_and(|since| now.saturating_duration_since(since) >= limit)
        {
            end(session, "an image was not translated", limit);
        }
        seen = now_seen;
    }
}

fn end(session: &Session, what: &str, limit: Duration) -> ! {
    // The client finds why its contexts are lost where it finds every such error.
    session.latch_all(Latched {
        code: CUresult::CUDA_ERROR_LAUNCH_TIMEOUT.0,
        opcode: 0,
    });
    let text = format!("{what} within {limit:?}, the zone's stuck_after");
    tracing::warn!(%text, "the client is ended");
    // If the supervisor is gone, nobody needs to be told.
    let _ = session.parts.channel.ended(&text, Ending::Stuck);
    harden::exit(1)
}
