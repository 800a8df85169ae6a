//! Host functions and stream callbacks: the worker rings, one thread of ours runs them (D8).
//!
//! The thread starts when the first is enqueued, with all signals blocked, and sleeps without a time
//! limit in between. A function that is enqueued has a number; the worker names it when its turn in the
//! stream comes, and the stream waits for the acknowledgement. A number is run once, or, of a host function
//! of a graph, until the worker says that the graph is gone; one that nobody gave is answered and nothing is
//! run.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cuda_abi::types::{CUresult, CUstream};
use idm_protocol::callback::CallbackEnd;
use idm_protocol::handle::Kind;
use idm_protocol::memory::Mapped;
use idm_protocol::record::{Record, Request};
use idm_protocol::ring::Next;
use idm_protocol::wire::callback::{Forget, HostFunction};

use crate::api::memory::captured;
use crate::call::Outcome;
use crate::log::say;
use crate::session::Session;

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// `cuLaunchHostFunc`.
    HostFunction(unsafe extern "C" fn(*mut c_void)),
    /// `cuStreamAddCallback`; it is told the stream and how the work before it went.
    StreamCallback(unsafe extern "C" fn(CUstream, CUresult, *mut c_void), u64),
    /// Bytes of a captured copy, on their way between the program's own memory and a piece of the arena (0 for
    /// none) that is the graph's.
    Move {
        to: u64,
        from: u64,
        bytes: usize,
        piece: u64,
    },
    /// The end of a user object, and its handle.
    Destructor(unsafe extern "C" fn(*mut c_void), u64),
}

/// The functions enqueued and not yet run.
#[derive(Debug)]
pub(crate) struct Callbacks {
    /// The ring's end, until the thread takes it.
    end: Mutex<Option<CallbackEnd<Mapped>>>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    /// Work and the address of its data, by number.
    work: HashMap<u64, (Work, usize)>,
}

impl Callbacks {
    pub(crate) fn new(end: CallbackEnd<Mapped>) -> Self {
        Self {
            end: Mutex::new(Some(end)),
            waiting: Mutex::default(),
        }
    }

    /// Keeps a function until the worker names it. Returns its number.
    pub(crate) fn enqueue(
        &self,
        session: &'static Session,
        work: Work,
        data: *mut c_void,
    ) -> Outcome<u64> {
        self.start(session)?;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.last += 1;
        let number = waiting.last;
        waiting
            .work
            .insert(number, (work, data.expose_provenance()));
        Ok(number)
    }

    /// The worker never heard of this number.
    pub(crate) fn forget(&self, number: u64) {
        let _ = self.take(number);
    }

    fn take(&self, number: u64) -> Option<Work> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.work.remove(&number).map(|(work, _)| work)
    }

    /// The host function of a graph's node, and its data.
    pub(crate) fn host_function(
        &self,
        number: u64,
    ) -> Outcome<(unsafe extern "C" fn(*mut c_void), *mut c_void)> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.work.get(&number) {
            Some((Work::HostFunction(function), data)) => {
                Ok((*function, std::ptr::with_exposed_provenance_mut(*data)))
            }
            // A node that moves the bytes of a captured copy: it has no function of the program's.
            _ => Err(CUresult::CUDA_ERROR_NOT_SUPPORTED),
        }
    }

    /// A graph that needed this number is gone.
    fn release(&self, session: &Session, number: u64) {
        if let Some(Work::Move { piece, .. }) = self.take(number)
            && piece != 0
        {
            captured::put(session, piece);
        }
    }

    fn start(&self, session: &'static Session) -> Outcome {
        let mut slot = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(end) = slot.take() else {
            return Ok(());
        };
        let started = with_signals_blocked(|| {
            std::thread::Builder::new()
                .name("vgpu-callbacks".to_owned())
                .spawn(move || serve(session, end))
        });
        match started {
            Ok(_) => Ok(()),
            Err(error) => {
                say!(
                    Error,
                    "cannot start the thread that runs host functions: {error}"
                );
                Err(CUresult::CUDA_ERROR_OPERATING_SYSTEM)
            }
        }
    }

    fn run(&self, session: &Session, number: u64, status: u32, last: bool) {
        let found = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if last {
                waiting.work.remove(&number)
            } else {
                waiting.work.get(&number).copied()
            }
        };
        match found {
            Some((
                Work::Move {
                    to, from, bytes, ..
                },
                _,
            )) => {
                let at = |address| usize::try_from(address).unwrap_or(0);
                let from: *const u8 = std::ptr::with_exposed_provenance(at(from));
                let to: *mut u8 = std::ptr::with_exposed_provenance_mut(at(to));
                // SAFETY: the program passed its memory to a copy that is done whenever the graph runs, and a
                // piece of the arena is as long as the copy and the graph's.
                unsafe { std::ptr::copy(from, to, bytes) }
            }
            Some((Work::Destructor(function, object), data)) => {
                // SAFETY: the program passed both to `cuUserObjectCreate`, to be called with each other.
                unsafe { function(std::ptr::with_exposed_provenance_mut(data)) }
                let _ = session.objects_mut().remove(object, Kind::USER_OBJECT);
            }
            Some((Work::HostFunction(function), data)) => {
                // SAFETY: the program passed both to `cuLaunchHostFunc`, to be called with each other.
                unsafe { function(std::ptr::with_exposed_provenance_mut(data)) }
            }
            Some((Work::StreamCallback(function, stream), data)) => {
                let stream =
                    std::ptr::with_exposed_provenance_mut(usize::try_from(stream).unwrap_or(0));
                // SAFETY: as above, for `cuStreamAddCallback`.
                unsafe {
                    function(
                        stream,
                        CUresult(status),
                        std::ptr::with_exposed_provenance_mut(data),
                    )
                }
            }
            None => say!(
                Warn,
                "the worker named host function {number}, which is not waiting"
            ),
        }
    }
}

fn serve(session: &'static Session, mut end: CallbackEnd<Mapped>) {
    let mut record = Record::new();
    let patience = session.patience.unsliced();
    loop {
        match end.next(&mut record, &patience, &session.live()) {
            Ok(Next::Record) => {}
            Ok(Next::Ended) => return,
            Err(violation) => {
                session.lost(&format!("its worker broke the protocol: {violation}"));
                return;
            }
        }
        match record.head().opcode {
            <Forget as Request>::OPCODE => {
                if let Ok(request) = record.body::<Forget>() {
                    session.callbacks.release(session, request.callback);
                }
            }
            _ => match record.body::<HostFunction>() {
                Ok(HostFunction {
                    callback,
                    status,
                    last,
                }) => session.callbacks.run(session, callback, status, last != 0),
                Err(error) => say!(Warn, "the worker asks for something unknown: {error}"),
            },
        }
        if end.acknowledge(&record).is_err() {
            session.lost("its worker named a callback slot that does not exist");
            return;
        }
    }
}

/// Runs `work` with every signal blocked, which a thread started meanwhile inherits.
fn with_signals_blocked<T>(work: impl FnOnce() -> T) -> T {
    use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
    let mut before = SigSet::empty();
    let blocked = pthread_sigmask(
        SigmaskHow::SIG_BLOCK,
        Some(&SigSet::all()),
        Some(&mut before),
    );
    let result = work();
    if blocked.is_ok() {
        // It worked a moment ago with a set of the same make.
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    }
    result
}
