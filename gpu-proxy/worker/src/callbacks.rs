//! Host functions of the client, run from the driver's callback threads (D8).
//!
//! The driver calls our trampoline where the stream comes to it; the trampoline asks the client to
//! run the function and waits until it has, for the stream must not go on before. If the client ends,
//! the trampoline returns.

use core::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use cuda_abi::types::{CUresult, CUstream};
use idm_protocol::callback::CallbackError;
use idm_protocol::control::WorkerControl;
use idm_protocol::memory::Mapped;
use idm_protocol::wait::{Liveness, StopFlag};
use idm_protocol::wire::callback::HostFunction;

use crate::session::Session;

/// What a trampoline is given: which function of the client to run.
struct Call {
    control: Arc<WorkerControl<Mapped>>,
    stop: Arc<StopFlag>,
    context: u16,
    callback: u64,
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
    let call = Box::new(Call {
        control: Arc::clone(&session.parts.control),
        stop: Arc::clone(&session.stop),
        context,
        callback,
    });
    let data = Box::into_raw(call);
    let enqueued = if with_status {
        // SAFETY: the trampoline takes the box back, once.
        unsafe {
            session
                .driver()
                .add_callback(stream, Some(run_with_status), data.cast())
        }
    } else {
        // SAFETY: the trampoline takes the box back, once.
        unsafe { session.driver().launch_host(stream, Some(run), data.cast()) }
    };
    if enqueued.is_err() {
        // SAFETY: the driver refused and will not call the trampoline; made by `into_raw` above.
        drop(unsafe { Box::from_raw(data) });
    }
    enqueued
}

unsafe extern "C" fn run(data: *mut c_void) {
    // SAFETY: `launch` gave this pointer away to be taken here, once.
    let call = unsafe { Box::from_raw(data.cast::<Call>()) };
    call.deliver(0);
}

unsafe extern "C" fn run_with_status(_: CUstream, status: CUresult, data: *mut c_void) {
    // SAFETY: `launch` gave this pointer away to be taken here, once.
    let call = unsafe { Box::from_raw(data.cast::<Call>()) };
    call.deliver(status.0);
}

impl Call {
    fn deliver(&self, status: u32) {
        let request = HostFunction {
            callback: self.callback,
            status,
            reserved: 0,
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
