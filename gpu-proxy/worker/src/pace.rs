//! How fast a client may go: calls and launches per second.
//!
//! The supervisor writes the client's share of its zone's rate on the status page, where every record finds it with
//! one load. A client that is faster waits in its ring, as behind any busy worker; nothing fails. What only gives
//! back or waits costs nothing.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use idm_protocol::record::Request;
use idm_protocol::wire;
use proxy_channel::bound::Bound;

use crate::session::Session;

/// What a client may save up while it is idle, as time.
const BURST: u128 = 100 * PICOS_PER_MILLI;

const PICOS_PER_MILLI: u128 = 1_000_000_000;

/// Opcodes that launch.
const LAUNCHES: [u16; 2] = [
    <wire::CuLaunchKernel as Request>::OPCODE,
    <wire::CuGraphLaunch as Request>::OPCODE,
];

/// What the dispatcher keeps.
#[derive(Debug)]
pub struct Pace {
    calls: Bucket,
    launches: Bucket,
}

impl Pace {
    /// From now on.
    #[must_use]
    pub fn new() -> Self {
        let start = Instant::now();
        Self {
            calls: Bucket::new(start),
            launches: Bucket::new(start),
        }
    }

    /// Waits until a record may be executed. `costs`: it needs a grant, so that it counts as a call.
    #[inline]
    pub fn wait(&mut self, session: &Session, opcode: u16, costs: bool) {
        let rates = session.parts.status.rates();
        if rates != (0, 0) && costs {
            self.wait_for(session, opcode, rates);
        }
    }

    #[cold]
    fn wait_for(&mut self, session: &Session, opcode: u16, (calls, launches): (u32, u32)) {
        let now = Instant::now();
        let of_calls = self.calls.take(calls, now);
        let of_launches = match LAUNCHES.contains(&opcode) {
            true => self.launches.take(launches, now),
            false => Duration::ZERO,
        };
        let wait = of_calls.max(of_launches);
        if wait.is_zero() {
            return;
        }
        let (bound, rate) = match of_launches > of_calls {
            true => (Bound::LAUNCHES, launches),
            false => (Bound::CALLS, calls),
        };
        session.deny(bound, rate.into());
        std::thread::sleep(wait);
        session.parts.stats.count_paced(wait);
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

/// Counts in time: when everything that was let through would have been, at the rate.
#[derive(Debug)]
struct Bucket {
    start: Instant,
    /// Since the start, in picoseconds.
    arrival: u128,
}

impl Bucket {
    const fn new(start: Instant) -> Self {
        Self { start, arrival: 0 }
    }

    /// One more, at so many per second; 0 for any number. Tells how long it has to wait.
    fn take(&mut self, rate: u32, now: Instant) -> Duration {
        if rate == 0 {
            return Duration::ZERO;
        }
        let now = now.saturating_duration_since(self.start).as_nanos() * 1000;
        let each = 1000 * PICOS_PER_MILLI / u128::from(rate);
        self.arrival = self.arrival.max(now) + each;
        let ahead = self.arrival.saturating_sub(now + BURST.max(each));
        Duration::from_nanos(u64::try_from(ahead.div_ceil(1000)).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let mut now = start;
        // A client that makes 1000 calls as fast as it is let, at 100 in a second.
        for _ in 0..1000 {
            now += bucket.take(100, now);
        }
        let took = now - start;
        assert_eq!(took, Duration::from_millis(9_900), "10 s less the burst");
    }

    #[test]
    fn what_is_saved_up_is_no_more_than_a_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let later = start + Duration::from_secs(3600);
        let free = (0..1000).take_while(|_| bucket.take(100, later).is_zero());
        assert_eq!(free.count(), 10);
    }

    #[test]
    fn without_a_rate_nobody_waits_and_a_slow_one_is_not_forgotten() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        assert!((0..1000).all(|_| bucket.take(0, start).is_zero()));
        assert_eq!(bucket.take(1, start), Duration::ZERO);
        assert_eq!(bucket.take(1, start), Duration::from_secs(1));
    }
}
