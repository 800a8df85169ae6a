//! Keeps who fails from trying all the time: a zone whose workers do not start, a device that cannot be scrubbed.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);

/// Failures in a row, and when to try again.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    retry_at: Option<Instant>,
    reason: String,
}

impl Backoff {
    /// It failed. Returns how long to wait before the next try.
    pub(crate) fn failed(&mut self, now: Instant, reason: &str) -> Duration {
        let doublings = self.failures.min(16);
        let delay = FIRST.saturating_mul(1 << doublings).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now.checked_add(delay);
        reason.clone_into(&mut self.reason);
        delay
    }

    /// It works.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// When the next try may be, if not now.
    pub(crate) fn blocked_until(&self, now: Instant) -> Option<Instant> {
        self.retry_at.filter(|&at| at > now)
    }

    /// Why clients are turned away, if they are. The first failure is not held against them: they wait for
    /// the second try.
    pub(crate) fn refusal(&self, now: Instant) -> Option<&str> {
        (self.failures > 1 && self.blocked_until(now).is_some()).then_some(&self.reason)
    }

    /// Why the last try failed, if there was a failure since the last success.
    pub(crate) fn reason(&self) -> Option<&str> {
        (self.failures > 0).then_some(&self.reason)
    }

    /// Failures in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_limit_and_a_success_forgets_them() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.failed(now, "a"), FIRST);
        assert_eq!(backoff.refusal(now), None);
        assert_eq!(backoff.failed(now, "b"), FIRST * 2);
        assert_eq!(backoff.refusal(now), Some("b"));
        assert_eq!(backoff.blocked_until(now + FIRST * 2), None);
        for _ in 0..100 {
            backoff.failed(now, "c");
        }
        assert_eq!(backoff.failed(now, "c"), LONGEST);
        backoff.succeeded();
        assert_eq!((backoff.reason(), backoff.failures()), (None, 0));
    }
}
