//! Samples and what is said of them.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Measured values of one kind.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub fn median(&self) -> f64 {
        self.percentile(50)
    }

    /// The value that `percent` of the samples do not exceed; NaN if there are none.
    pub fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted
            .get(last * percent / 100)
            .copied()
            .unwrap_or(f64::NAN)
    }
}

pub fn nanoseconds(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1e9
}

/// GB/s.
pub fn rate(bytes: usize, elapsed: Duration) -> f64 {
    // A double holds every size we copy exactly.
    #[allow(clippy::cast_precision_loss)]
    let bytes = bytes as f64;
    bytes / elapsed.as_secs_f64() / 1e9
}
