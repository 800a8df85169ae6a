//! What kernels print, brought to the program's own output (D8).
//!
//! CUDA prints when the program synchronises, from the thread that does. The reply of a call that may have made
//! the driver print finds the worker's word that something waits; the same thread then reads it and writes it
//! to the C library's streams, so that it keeps its place in what the program itself prints there.

use std::sync::PoisonError;

use idm_protocol::lane::ClientLane;
use idm_protocol::memory::Mapped;
use idm_protocol::record::Flags;
use idm_protocol::wire::{VgpuOutput, VgpuOutputReply};

use crate::call::{Outcome, accepted, failed, parse};
use crate::session::Session;

unsafe extern "C" {
    static mut stdout: *mut libc::FILE;
    static mut stderr: *mut libc::FILE;
}

/// Prints what waits, if anything does. One load where nothing does.
#[inline]
pub(crate) fn print_waiting(session: &Session, lane: &mut ClientLane<Mapped>) -> Outcome {
    if !session.control.output.waits() {
        return Ok(());
    }
    print_all(session, lane)
}

#[cold]
fn print_all(session: &Session, lane: &mut ClientLane<Mapped>) -> Outcome {
    // A second thread whose call is over must not go on before what the first one reads is printed.
    let _printing = session
        .printing
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let live = session.live();
    loop {
        // Not the lane's thread: the dispatcher answers at once, whatever the lanes are doing.
        let flags = Flags::REPLY;
        let sequence = lane
            .send(
                &session.control.submissions,
                flags,
                0,
                &VgpuOutput {},
                &[],
                &live,
            )
            .map_err(|error| failed(session, &error))?;
        let reply = lane
            .await_reply(sequence, &live)
            .map_err(|error| failed(session, &error))?;
        accepted(cuda_abi::types::CUresult(reply.status))?;
        let reply: VgpuOutputReply = parse(reply.body)?;
        let bytes = usize::try_from(reply.bytes).unwrap_or(usize::MAX);
        if bytes == 0 {
            return Ok(());
        }
        let side = usize::try_from(session.welcome.limits.side_bytes).unwrap_or(0);
        let mut text = vec![0; bytes.min(side)];
        lane.read_side(&mut text)
            .map_err(|error| failed(session, &error))?;
        write(reply.stream, &text);
    }
}

fn write(stream: u32, text: &[u8]) {
    let stream = if stream == 2 {
        // SAFETY: the C library sets it before any code of ours runs.
        unsafe { stderr }
    } else {
        // SAFETY: as above.
        unsafe { stdout }
    };
    // SAFETY: a stream of the C library's, which locks it, and a slice of ours.
    unsafe { libc::fwrite(text.as_ptr().cast(), 1, text.len(), stream) };
}
