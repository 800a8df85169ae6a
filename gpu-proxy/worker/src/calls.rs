//! What is written down of every driver call, for the log; the page itself is [`proxy_channel::calls`] (D20).
//!
//! A call is noted before the driver is called, and told of before the client hears of its result: what a client has
//! an answer for is in the page, which outlives this process. Where the log does not keep up, the client waits.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cuda_abi::types::CUresult;
use idm_protocol::memory::Mapped;
use idm_protocol::record::Request;
use idm_protocol::wire;
use nix::time::{ClockId, clock_gettime};
use proxy_channel::calls::{
    Call, CallPage, CallWriter, IMAGE_NAME, KERNEL_NAME, NO_DEVICE, NO_NAME, PageError,
};
use proxy_channel::worker::WorkerChannel;
use sha2::{Digest, Sha256};

/// What a program says it did, which no driver hears of either, is written down like a call.
const OPERATION: u16 = <wire::VgpuLogOperation as Request>::OPCODE;

/// Opcodes before this one serve the session itself, and no driver hears of them.
const FIRST: u16 = <wire::CuDevicePrimaryCtxRetain as Request>::OPCODE;

/// How long a client waits for the log before the supervisor hears of it: a disk may take a second for what is written.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);

/// How long a client waits for the log. By then a zone that is to fail closed is closed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks whether there is room.
const PAUSE: Duration = Duration::from_micros(50);

/// Names in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// Of a kernel.
    pub kernel: u16,
    /// Of the image that it came from.
    pub image: u16,
}

impl Names {
    /// No names.
    pub const NONE: Self = Self {
        kernel: NO_NAME,
        image: NO_NAME,
    };
}

/// What is known of a call while it is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    start_ns: u64,
    /// The address or handle that it is about.
    pub object: u64,
    /// Bytes moved or allocated; threads of a launch.
    pub size: u64,
    /// Its kernel and image.
    pub names: Names,
    /// Its device.
    pub device: u8,
}

impl Claim {
    /// It began so many nanoseconds ago, whenever the record of it came.
    pub fn lasted(&mut self, nanoseconds: u64) {
        self.start_ns = now().saturating_sub(nanoseconds);
    }

    /// Nothing is known.
    pub const NOTHING: Self = Self {
        start_ns: 0,
        object: 0,
        size: 0,
        names: Names::NONE,
        device: NO_DEVICE,
    };
}

/// Writes calls down, if somebody wants to have them.
#[derive(Debug, Default)]
pub struct Calls(Option<Pen>);

#[derive(Debug)]
struct Pen {
    writer: CallWriter<Mapped>,
    wake: OwnedFd,
    channel: Arc<WorkerChannel>,
    /// The supervisor was told that there is no room, and there has been none since.
    told: AtomicBool,
    /// A call waited as long as calls do, and there has been no room since.
    hopeless: AtomicBool,
}

impl Calls {
    /// Into a page that the supervisor keeps, if there is one.
    ///
    /// # Errors
    /// [`PageError`] if it cannot be mapped.
    pub fn new(page: Option<CallPage>, channel: &Arc<WorkerChannel>) -> Result<Self, PageError> {
        let pen = page.map(|page| {
            let (writer, wake) = page.writer()?;
            Ok(Pen {
                writer,
                wake,
                channel: Arc::clone(channel),
                told: AtomicBool::new(false),
                hopeless: AtomicBool::new(false),
            })
        });
        pen.transpose().map(Self)
    }

    /// The driver will be called.
    #[inline]
    pub fn begin(&self, cell: usize, opcode: u16, claim: &mut Claim) {
        let Some(pen) = self.pen(opcode) else { return };
        claim.start_ns = now();
        pen.writer.begin(cell, &call(opcode, claim, 0, 0));
    }

    /// The driver has answered, and the client is about to hear of it.
    #[inline]
    pub fn end(&self, cell: usize, opcode: u16, claim: &Claim, status: CUresult) {
        let Some(pen) = self.pen(opcode) else { return };
        let end = now();
        // One that was over before it could begin.
        let start_ns = if claim.start_ns == 0 {
            end
        } else {
            claim.start_ns
        };
        let duration = u32::try_from(end.saturating_sub(start_ns)).unwrap_or(u32::MAX);
        let claim = Claim { start_ns, ..*claim };
        pen.put(cell, &call(opcode, &claim, duration, status.0));
    }

    /// The call goes on in another thread.
    #[inline]
    pub fn hand_on(&self, cell: usize, opcode: u16) {
        if let Some(pen) = self.pen(opcode) {
            pen.writer.forget(cell);
        }
    }

    /// The number of a kernel's name.
    pub fn kernel(&self, name: &[u8]) -> u16 {
        let pen = self.0.as_ref();
        pen.map_or(NO_NAME, |pen| pen.writer.name(KERNEL_NAME, name))
    }

    /// The number of an image: of its SHA-256, as the client sent it.
    pub fn image(&self, image: &[u8]) -> u16 {
        let pen = self.0.as_ref();
        pen.map_or(NO_NAME, |pen| {
            pen.writer.name(IMAGE_NAME, &Sha256::digest(image))
        })
    }

    #[inline]
    fn pen(&self, opcode: u16) -> Option<&Pen> {
        let pen = self.0.as_ref();
        pen.filter(|_| opcode >= FIRST || opcode == OPERATION)
    }
}

impl Pen {
    #[inline]
    fn put(&self, cell: usize, call: &Call) {
        if !self.writer.end(cell, call) {
            self.wait(cell, call);
        }
        if self.writer.must_wake() {
            // One that cannot be woken looks by itself before long.
            let _ = nix::unistd::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    /// There is no room: the log is behind.
    #[cold]
    fn wait(&self, cell: usize, call: &Call) {
        // SYNC: a hint that saves waits; nothing hangs on when another thread sees it.
        let patience = match self.hopeless.load(Ordering::Relaxed) {
            true => Duration::ZERO,
            false => PATIENCE,
        };
        let since = Instant::now();
        loop {
            if self.writer.end(cell, call) {
                self.hopeless.store(false, Ordering::Relaxed);
                self.told.store(false, Ordering::Relaxed);
                return;
            }
            if since.elapsed() >= FIRST_PATIENCE && !self.told.swap(true, Ordering::Relaxed) {
                // If the supervisor is gone, nobody needs to be told.
                let _ = self.channel.behind();
            }
            if since.elapsed() >= patience {
                break;
            }
            thread::sleep(PAUSE);
        }
        self.writer.lose(cell);
        if !self.hopeless.swap(true, Ordering::Relaxed) {
            tracing::warn!("calls cannot be recorded: the log does not take them");
        }
    }
}

fn call(opcode: u16, claim: &Claim, duration_ns: u32, result: u32) -> Call {
    Call {
        start_ns: claim.start_ns,
        size: claim.size,
        object: claim.object,
        duration_ns,
        result,
        opcode,
        kernel: claim.names.kernel,
        image: claim.names.image,
        device: claim.device,
        reserved: 0,
    }
}

/// Nanoseconds of the host's clock that only goes on.
#[inline]
fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proxy_channel::calls::{CallReader, SLOTS};
    use proxy_channel::message::FromWorker;
    use proxy_channel::supervisor::{Received, SupervisorChannel};

    use super::*;

    fn channel() -> (Arc<WorkerChannel>, SupervisorChannel) {
        let (near, far) = SupervisorChannel::pair().unwrap();
        (Arc::new(WorkerChannel::new(far).unwrap()), near)
    }

    fn pair() -> (Calls, CallReader<Mapped>, SupervisorChannel) {
        let page = CallPage::create().unwrap();
        let fds = page
            .descriptors()
            .map(|fd| fd.try_clone_to_owned().unwrap());
        let (reader, _) = CallPage::receive(fds.into()).unwrap().reader(0).unwrap();
        let (channel, supervisor) = channel();
        let calls = Calls::new(Some(page), &channel).unwrap();
        (calls, reader, supervisor)
    }

    #[test]
    fn a_call_is_there_when_it_has_ended_and_as_it_was_claimed() {
        let (calls, mut reader, _supervisor) = pair();
        let mut claim = Claim::NOTHING;
        calls.begin(0, FIRST, &mut claim);
        claim.object = 7;
        claim.size = 4096;
        claim.names.kernel = calls.kernel(b"saxpy");
        claim.names.image = calls.image(b"");
        let mut found = Vec::new();
        reader.take(10, &mut found);
        assert_eq!(found, []);
        calls.end(0, FIRST, &claim, CUresult::CUDA_ERROR_INVALID_VALUE);
        reader.take(10, &mut found);
        let [call] = found[..] else {
            panic!("{found:?}")
        };
        assert_eq!((call.object, call.size, call.result), (7, 4096, 1));
        assert!(call.start_ns > 0 && call.opcode == FIRST);
        assert_eq!(reader.name(call.kernel).unwrap().bytes, b"saxpy");
        let image = reader.name(call.image).unwrap();
        assert_eq!(
            (image.kind, &image.bytes[..4]),
            (IMAGE_NAME, &[0xe3, 0xb0, 0xc4, 0x42][..])
        );
    }

    #[test]
    fn records_of_the_session_itself_are_no_calls() {
        let (calls, mut reader, _supervisor) = pair();
        calls.begin(0, FIRST - 1, &mut Claim::NOTHING.clone());
        calls.end(0, FIRST - 1, &Claim::NOTHING, CUresult::CUDA_SUCCESS);
        assert_eq!(reader.take_rest(), []);
    }

    #[test]
    fn a_log_that_is_behind_is_waited_for_once_and_what_is_lost_is_counted() {
        let (calls, mut reader, supervisor) = pair();
        let end = || calls.end(0, FIRST, &Claim::NOTHING, CUresult::CUDA_SUCCESS);
        (0..SLOTS).for_each(|_| end());
        assert_eq!(reader.lost(), 0);
        let since = Instant::now();
        (0..10).for_each(|_| end());
        assert!((PATIENCE..2 * PATIENCE).contains(&since.elapsed()));
        assert_eq!(reader.lost(), 10);
        let told = supervisor.receive().unwrap();
        assert!(
            matches!(told, Received::Message(FromWorker::Behind)),
            "{told:?}"
        );
        let mut found = Vec::new();
        reader.take(usize::MAX, &mut found);
        reader.release();
        end();
        assert_eq!((found.len(), reader.lost()), (SLOTS, 10));
        assert_eq!(reader.claimed(), SLOTS as u64 + 1);
    }
}
