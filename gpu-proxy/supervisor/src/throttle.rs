//! Keeps what a tenant or a worker can cause to be logged within bounds.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(10);

/// Lets so many through in each ten seconds and counts the rest.
#[derive(Debug)]
pub struct Throttle {
    most: u32,
    let_through: u32,
    suppressed: u64,
    window_start: Option<Instant>,
}

impl Throttle {
    /// Lets `most` through in each ten seconds.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self {
            most,
            let_through: 0,
            suppressed: 0,
            window_start: None,
        }
    }

    /// `Some` if this one may pass, with the number of those that could not since the last that did.
    pub fn pass(&mut self, now: Instant) -> Option<u64> {
        let over = |start| now.saturating_duration_since(start) >= WINDOW;
        if self.window_start.is_none_or(over) {
            self.window_start = Some(now);
            self.let_through = 0;
        }
        if self.let_through == self.most {
            self.suppressed += 1;
            return None;
        }
        self.let_through += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_its_size_is_told_afterwards() {
        let start = Instant::now();
        let mut throttle = Throttle::new(2);
        let passed = (0..10).filter(|_| throttle.pass(start).is_some()).count();
        assert_eq!(passed, 2);
        assert_eq!(throttle.pass(start + WINDOW), Some(8));
        assert_eq!(throttle.pass(start + WINDOW), Some(0));
    }
}
