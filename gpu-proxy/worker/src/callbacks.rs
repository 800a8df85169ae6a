//! Host functions of the client, run from the driver's callback threads (D8).
//!
//! The driver calls our trampoline where the stream comes to it; the trampoline asks the client to
//! run the function and waits until it has, for the stream must not go on before. If the client ends,
//! the trampoline returns.
//!
//! What the driver is given is a number, not a pointer: a host function of a graph is called by each launch,
//! from copies of the graph that nobody tells us of, and one that comes late finds nothing and returns. A
//! user object that the graph keeps alive says when the last copy is gone.

use core::ffi::c_void;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cuda_abi::types::{CUresult, CUstream};
use idm_protocol::callback::CallbackError;
use idm_protocol::control::WorkerControl;
use idm_protocol::memory::Mapped;
use idm_protocol::wait::{Liveness, StopFlag};
use idm_protocol::wire::callback::{Forget, HostFunction};

use crate::session::Session;

/// What a trampoline is to do: which function of the client to run.
#[derive(Debug)]
struct Call {
    control: Arc<WorkerControl<Mapped>>,
    stop: Arc<StopFlag>,
    context: u16,
    callback: u64,
    /// Whether a graph may call it again.
    again: bool,
}

/// What trampolines may be called for, by the number that the driver has.
static CALLS: LazyLock<Mutex<HashMap<usize, Arc<Call>>>> = LazyLock::new(Mutex::default);

/// A host function that a graph may call again and again: what to give to the driver.
#[derive(Debug)]
pub struct Registered(usize);

impl Registered {
    /// The function and its argument, for the driver.
    pub fn parts(&self) -> (unsafe extern "C" fn(*mut c_void), *mut c_void) {
        (run, core::ptr::without_provenance_mut(self.0))
    }

    /// The same for a destructor.
    pub fn destructor_parts(&self) -> (unsafe extern "C" fn(*mut c_void), *mut c_void) {
        (destroy, core::ptr::without_provenance_mut(self.0))
    }

    /// Ends with the driver's graph: the client hears of it then.
    pub fn tie(self, session: &Session, graph: usize) {
        let data = core::ptr::without_provenance_mut(self.0);
        // SAFETY: the destructor takes any number, once or more often.
        let tied = unsafe { session.driver().tie_to_graph(graph, data, Some(forget)) };
        if let Err(status) = tied {
            // It stays as long as the session does.
            tracing::debug!(?status, "host function outlives its graph");
        }
    }

    /// The driver did not take it.
    pub fn cancel(self) {
        calls().remove(&self.0);
    }

    /// The number, for whoever ends it later.
    pub const fn number(&self) -> usize {
        self.0
    }
}

/// Keeps a host function of the client for a graph.
pub fn register(session: &Session, context: u16, callback: u64) -> Registered {
    Registered(keep(session, context, callback, true))
}

/// Keeps a function of the client for the end of a user object: it is run once, and nobody waits for it.
pub fn destructor(session: &Session, context: u16, callback: u64) -> Registered {
    Registered(keep(session, context, callback, false))
}

/// The number that the client knows a function by.
pub fn callback_of(number: usize) -> Option<u64> {
    calls().get(&number).map(|call| call.callback)
}

/// Ends a function once what is on a stream now is done.
pub fn end_after(session: &Session, stream: usize, number: usize) {
    let data = core::ptr::without_provenance_mut(number);
    // SAFETY: the trampoline takes any number, at any time.
    let enqueued = unsafe { session.driver().launch_host(stream, Some(forget), data) };
    if let Err(status) = enqueued {
        // It stays as long as the session does.
        tracing::debug!(?status, number, "host function outlives its graph");
    }
}

/// Whether a function may still be called.
pub fn is_waiting(number: usize) -> bool {
    calls().contains_key(&number)
}

/// Nobody calls a registered function any more.
pub fn end(number: usize) {
    // SAFETY: it takes any number, and follows it nowhere.
    unsafe { forget(core::ptr::without_provenance_mut(number)) };
}

/// Enqueues a host function of the client.
///
/// # Errors
/// The driver's.
pub fn launch(
    session: &Session,
    context: u16,
    stream: usize,
    callback: u64,
    with_status: bool,
) -> Result<(), CUresult> {
    // Nothing changes between the look at the stream and the call.
    let _gate = session.captures.hold();
    let again = session.captures.includes(stream, session.driver())?;
    let number = keep(session, context, callback, again);
    let data = core::ptr::without_provenance_mut(number);
    let enqueued = if with_status {
        // SAFETY: the trampoline takes any number, at any time.
        unsafe {
            session
                .driver()
                .add_callback(stream, Some(run_with_status), data)
        }
    } else {
        // SAFETY: as above.
        unsafe { session.driver().launch_host(stream, Some(run), data) }
    };
    if enqueued.is_err() {
        calls().remove(&number);
    } else if again && let Ok(info) = session.driver().capture_info(stream) {
        Registered(number).tie(session, info.graph);
    }
    enqueued
}

fn keep(session: &Session, context: u16, callback: u64, again: bool) -> usize {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    let call = Call {
        control: Arc::clone(&session.parts.control),
        stop: Arc::clone(&session.stop),
        context,
        callback,
        again,
    };
    calls().insert(number, Arc::new(call));
    number
}

/// The call of this number; for the last time, unless a graph may call again.
fn find(data: *mut c_void) -> Option<Arc<Call>> {
    let mut calls = calls();
    let number = data.addr();
    match calls.get(&number) {
        Some(call) if call.again => Some(Arc::clone(call)),
        _ => calls.remove(&number),
    }
}

/// A panic aborts the worker, so the lock is never poisoned in earnest.
fn calls() -> MutexGuard<'static, HashMap<usize, Arc<Call>>> {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner)
}

unsafe extern "C" fn run(data: *mut c_void) {
    if let Some(call) = find(data) {
        call.deliver(0);
    }
}

unsafe extern "C" fn run_with_status(_: CUstream, status: CUresult, data: *mut c_void) {
    if let Some(call) = find(data) {
        call.deliver(status.0);
    }
}

unsafe extern "C" fn destroy(data: *mut c_void) {
    if let Some(call) = find(data) {
        let request = HostFunction {
            callback: call.callback,
            status: 0,
            last: 1,
        };
        let posted = call
            .control
            .callbacks
            .post(call.context, &request, &[], &*call.stop);
        if let Err(error) = posted {
            tracing::debug!(%error, callback = call.callback, "destructor not run");
        }
    }
}

unsafe extern "C" fn forget(data: *mut c_void) {
    let Some(call) = calls().remove(&data.addr()) else {
        return;
    };
    let request = Forget {
        callback: call.callback,
    };
    let posted = call
        .control
        .callbacks
        .post(call.context, &request, &[], &*call.stop);
    if let Err(error) = posted {
        tracing::debug!(%error, callback = call.callback, "end of a host function not told");
    }
}

impl Call {
    fn deliver(&self, status: u32) {
        let request = HostFunction {
            callback: self.callback,
            status,
            last: u32::from(!self.again),
        };
        let (callbacks, stop) = (&self.control.callbacks, &*self.stop);
        loop {
            match callbacks.call(self.context, &request, &[], stop) {
                Ok(()) => return,
                // More callbacks at once than slots, which only many streams can cause.
                Err(CallbackError::Busy) if !stop.ended() => {
                    std::thread::sleep(Duration::from_micros(100));
                }
                Err(error) => {
                    tracing::debug!(%error, callback = self.callback, "host function not run");
                    return;
                }
            }
        }
    }
}
