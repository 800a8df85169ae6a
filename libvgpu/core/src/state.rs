//! What this process is to the GPU: not yet attached, attached, refused, ended, a forked child, exiting.
//!
//! One word says which; it is the first thing every call looks at. A session is made once, at the first
//! call that needs one, and lives until the process ends: it is never torn down under a thread that may
//! be inside a call.

use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use cuda_abi::function::Group;
use cuda_abi::types::CUresult;

use crate::call::Outcome;
use crate::log::say;
use crate::policy;
use crate::session::Session;

/// Nobody has asked for the GPU yet.
const UNATTACHED: u8 = 0;
/// A thread is attaching.
const ATTACHING: u8 = 1;
/// Attached; `cuInit` has not succeeded.
const ATTACHED: u8 = 2;
/// Attached and initialised.
const READY: u8 = 3;
/// The proxy did not let us in; the reason stays.
const REFUSED: u8 = 4;
/// The worker is gone.
const ENDED: u8 = 5;
/// Forked from a process that had attached: its memory is not here.
const FORKED: u8 = 6;
/// The process is being torn down.
const EXITED: u8 = 7;

static PHASE: AtomicU8 = AtomicU8::new(UNATTACHED);
static SESSION: OnceLock<Session> = OnceLock::new();
static REFUSAL: AtomicU32 = AtomicU32::new(0);
/// The code that a process whose worker is gone gets.
static END: AtomicU32 = AtomicU32::new(0);
/// The attach socket's descriptor, for the forked child to close; -1 for none.
static LIFELINE: AtomicI32 = AtomicI32::new(-1);
static ATTACH: Mutex<()> = Mutex::new(());

/// The session of an initialised process: the way in of every ordinary call.
#[inline]
pub(crate) fn ready() -> Outcome<&'static Session> {
    if PHASE.load(Ordering::Acquire) == READY
        && let Some(session) = SESSION.get()
    {
        return Ok(session);
    }
    Err(unready())
}

/// Refuses a call of a group that the zone is not granted at this moment. One load beyond what every call looks
/// at; a process that is not ready has nothing to be refused.
#[inline]
pub(crate) fn granted(group: Group, call: &'static str) -> Outcome {
    match ready() {
        Ok(session) if !session.is_granted(group) => {
            Err(policy::refused(group, call, session.is_stopped()))
        }
        _ => Ok(()),
    }
}

/// The session, attached to now if need be. Initialised or not.
pub(crate) fn attached() -> Outcome<&'static Session> {
    match PHASE.load(Ordering::Acquire) {
        UNATTACHED | ATTACHING => attach(),
        ATTACHED | READY => SESSION.get().ok_or(CUresult::CUDA_ERROR_NOT_INITIALIZED),
        REFUSED => Err(CUresult(REFUSAL.load(Ordering::Relaxed))),
        _ => Err(unready()),
    }
}

/// `cuInit` succeeded.
pub(crate) fn initialised() {
    let _ = PHASE.compare_exchange(ATTACHED, READY, Ordering::AcqRel, Ordering::Relaxed);
}

/// The worker is gone, and this is what calls return from now on. True for the first who says so; that one tells
/// the person.
pub(crate) fn ended(code: CUresult) -> bool {
    let _ = END.compare_exchange(0, code.0, Ordering::AcqRel, Ordering::Relaxed);
    [READY, ATTACHED].into_iter().any(|phase| {
        PHASE
            .compare_exchange(phase, ENDED, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    })
}

/// What calls return since the worker is gone.
pub(crate) fn end() -> CUresult {
    CUresult(END.load(Ordering::Acquire))
}

/// Whether what the session maps and holds belongs to this process.
pub(crate) fn forked() -> bool {
    PHASE.load(Ordering::Relaxed) == FORKED
}

/// The dynamic linker is tearing the process down: from now on calls answer that the driver is gone.
/// Nothing is waited for and nothing sent; the proxy learns of our end when the kernel closes the socket.
pub fn exit() {
    if PHASE.load(Ordering::Relaxed) != FORKED {
        PHASE.store(EXITED, Ordering::Release);
    }
}

#[cold]
fn unready() -> CUresult {
    match PHASE.load(Ordering::Acquire) {
        ENDED => end(),
        EXITED => CUresult::CUDA_ERROR_DEINITIALIZED,
        _ => CUresult::CUDA_ERROR_NOT_INITIALIZED,
    }
}

#[cold]
fn attach() -> Outcome<&'static Session> {
    let _one = ATTACH.lock().unwrap_or_else(PoisonError::into_inner);
    match PHASE.compare_exchange(UNATTACHED, ATTACHING, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        // Another thread did it, or failed to, while we waited.
        Err(ATTACHED | READY) => return SESSION.get().ok_or(CUresult::CUDA_ERROR_NOT_INITIALIZED),
        Err(REFUSED) => return Err(CUresult(REFUSAL.load(Ordering::Relaxed))),
        Err(_) => return Err(unready()),
    }
    watch_forks();
    match Session::attach() {
        Ok(session) => {
            LIFELINE.store(session.lifeline_descriptor(), Ordering::Relaxed);
            let session = SESSION.get_or_init(|| session);
            PHASE.store(ATTACHED, Ordering::Release);
            Ok(session)
        }
        Err(refusal) => {
            say!(Error, "{refusal}");
            let code = refusal.code();
            REFUSAL.store(code.0, Ordering::Relaxed);
            PHASE.store(REFUSED, Ordering::Release);
            Err(code)
        }
    }
}

/// Has a forked child told that it is one.
fn watch_forks() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        // SAFETY: the handler is a function of this library, which is never unloaded, and does only what
        // a child between fork and exec may: atomics and `close`. Without memory for the registration
        // the child would use mappings it does not have and fault, which harms nobody else.
        unsafe { libc::pthread_atfork(None, None, Some(in_forked_child)) };
    });
}

extern "C" fn in_forked_child() {
    if PHASE.load(Ordering::Relaxed) == UNATTACHED {
        return;
    }
    PHASE.store(FORKED, Ordering::Relaxed);
    let lifeline = LIFELINE.swap(-1, Ordering::Relaxed);
    if lifeline >= 0 {
        // Otherwise the child would keep its parent's worker alive.
        // SAFETY: the descriptor is the session's; in this process nobody uses it any more, for every
        // call looks at the phase first.
        unsafe { libc::close(lifeline) };
    }
}
