//! Calls that the operator's policy refuses.
//!
//! The worker decides, record by record. The client looks at the same word of the capability page first, so that a
//! refusal is synchronous for calls that nobody waits for too; then the worker never sees the call, and is told of
//! it for the operator's record. So it is of a limit of handles, which the client finds first.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use cuda_abi::function::{Function, Group};
use cuda_abi::types::CUresult;
use idm_protocol::wire::{self, refused};

use crate::call::{Call, Outcome};
use crate::log::say;

/// Refuses a call; says so once for each group. `is_stopped` says that the zone may call nothing of any group.
#[cold]
pub(crate) fn refused(group: Group, call: &'static str, is_stopped: bool) -> CUresult {
    static SAID: AtomicU64 = AtomicU64::new(0);
    if SAID.fetch_or(group.bit(), Ordering::Relaxed) & group.bit() == 0 {
        let code = CUresult::CUDA_ERROR_NOT_PERMITTED;
        if is_stopped {
            say!(
                Warn,
                "{call} is refused: the operator has this zone acquire and run nothing at the moment, by policy or \
                 because it cannot be recorded: {code:?}"
            );
        } else {
            say!(
                Warn,
                "{call} is refused: the operator's policy does not grant this zone {} ({}): {code:?}",
                group.name(),
                group.about(),
            );
        }
    }
    // The answer is the same if the worker cannot be told: it is gone, and so is what there was to refuse.
    let _ = report(call);
    CUresult::CUDA_ERROR_NOT_PERMITTED
}

fn report(name: &str) -> Outcome {
    let mut call = Call::begin_anywhere(Function::vgpuRefused)?;
    let bytes = u64::try_from(name.len()).unwrap_or(0);
    let request = wire::VgpuRefused {
        bytes,
        kind: refused::CALL,
        reserved: 0,
    };
    call.post_with(&request, &[name.as_bytes()])
}

/// There may be no more of something, of which `asked` bytes were asked for: the operator hears of it, as of other
/// limits. `kind` is that of handles, or one of [`refused`].
#[cold]
pub(crate) fn limited(kind: u32, asked: u64) {
    let told = Call::begin_anywhere(Function::vgpuRefused).and_then(|mut call| {
        let request = wire::VgpuRefused {
            bytes: asked,
            kind,
            reserved: 0,
        };
        call.post_with(&request, &[])
    });
    // If the worker is gone, nobody needs to be told.
    let _ = told;
}
