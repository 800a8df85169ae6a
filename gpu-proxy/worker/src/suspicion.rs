//! Tells the supervisor when calls fail as they do on a device that is lost.
//!
//! Which device it is and whether it is lost, the supervisor finds out by a process that has met no tenant: this one's
//! word is not enough to keep others from a device.

#![forbid(unsafe_code)]

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cuda_abi::types::CUresult;

use crate::session::Session;

/// A device that is lost fails every call; so much is told of it.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// When the supervisor was last told.
#[derive(Debug, Default)]
pub struct Suspicion(Mutex<Option<Instant>>);

impl Suspicion {
    /// Whether it is time to tell again.
    fn is_news(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = last.is_none_or(|last| now.saturating_duration_since(last) >= AT_MOST_EVERY);
        if is_news {
            *last = Some(now);
        }
        is_news
    }
}

/// Whether a driver says so where a device is lost. It may say so for other reasons.
const fn hints_at_loss(status: CUresult) -> bool {
    matches!(
        status,
        CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE
            | CUresult::CUDA_ERROR_NO_DEVICE
            | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUresult::CUDA_ERROR_CONTAINED
            | CUresult::CUDA_ERROR_UNKNOWN
    )
}

impl Session {
    /// The driver answered this.
    pub(crate) fn suspect(&self, status: CUresult) {
        if hints_at_loss(status) && self.suspicion.is_news(Instant::now()) {
            // If the supervisor is gone, nobody needs to be told.
            let _ = self.parts.channel.suspect(status.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_device_is_told_of_once_in_a_second() {
        let (suspicion, now) = (Suspicion::default(), Instant::now());
        assert!(suspicion.is_news(now));
        assert!(!suspicion.is_news(now));
        assert!(suspicion.is_news(now + AT_MOST_EVERY));
    }

    #[test]
    fn what_a_program_does_wrong_is_no_hint() {
        assert!(hints_at_loss(CUresult(999)));
        for status in [0, 1, 2, 201, 700, 716, 719] {
            assert!(!hints_at_loss(CUresult(status)), "{status}");
        }
    }
}
