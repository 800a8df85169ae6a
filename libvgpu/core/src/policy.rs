//! Calls that the operator's policy refuses.
//!
//! The worker decides, record by record. The client looks at the same word of the capability page first, so that a
//! refusal is synchronous for calls that nobody waits for too; then the worker never sees the call, and is told of
//! it for the operator's record.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use cuda_abi::function::{Function, Group};
use cuda_abi::types::CUresult;
use idm_protocol::wire;

use crate::call::{Call, Outcome};
use crate::log::say;

/// Refuses a call; says so once for each group.
#[cold]
pub(crate) fn refused(group: Group, call: &'static str) -> CUresult {
    static SAID: AtomicU64 = AtomicU64::new(0);
    if SAID.fetch_or(group.bit(), Ordering::Relaxed) & group.bit() == 0 {
        say!(
            Warn,
            "{call} is refused: the operator's policy does not grant this zone {} ({}): {:?}",
            group.name(),
            group.about(),
            CUresult::CUDA_ERROR_NOT_PERMITTED
        );
    }
    // The answer is the same if the worker cannot be told: it is gone, and so is what there was to refuse.
    let _ = report(call);
    CUresult::CUDA_ERROR_NOT_PERMITTED
}

fn report(name: &str) -> Outcome {
    let mut call = Call::begin_anywhere(Function::vgpuRefused)?;
    let bytes = u64::try_from(name.len()).unwrap_or(0);
    call.post_with(&wire::VgpuRefused { bytes }, &[name.as_bytes()])
}
