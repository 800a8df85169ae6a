//! What each thread of the program holds: its stack of contexts and, from its first posted call on, a lane.
//!
//! The thread-local is one pointer without a destructor, so that calls from other libraries'
//! destructors still find it or make it anew. A pthread key gives the lane back when the thread ends.

use std::cell::{Cell, RefCell};
use std::sync::OnceLock;

use cuda_abi::types::CUresult;
use idm_protocol::handle::Handle;
use idm_protocol::lane::ClientLane;
use idm_protocol::memory::Mapped;
use idm_protocol::record::Flags;
use idm_protocol::wire::CuThreadExchangeStreamCaptureMode;

use crate::call::Outcome;
use crate::log::say;
use crate::session::Session;
use crate::state;

/// A thread's state.
#[derive(Debug, Default)]
pub(crate) struct Thread {
    lane: RefCell<Option<ClientLane<Mapped>>>,
    lane_index: Cell<Option<u16>>,
    contexts: RefCell<Vec<Current>>,
    /// The last of `contexts`.
    current: Cell<Option<Current>>,
    session: Cell<Option<&'static Session>>,
    /// The mode that the lane's thread has for captures: 0, unless this thread has exchanged it.
    capture_mode: Cell<u32>,
}

/// A context on a thread's stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Current {
    /// As the program names it.
    pub(crate) handle: u64,
    /// Its slot.
    pub(crate) slot: u32,
    /// The slot's generation that the handle is of.
    pub(crate) generation: u32,
    /// Ordinal of its device, as the program counts.
    pub(crate) device: i32,
}

impl Current {
    /// The context that `handle` names.
    pub(crate) fn new(handle: Handle, device: i32) -> Self {
        Self {
            handle: handle.value(),
            slot: handle.slot(),
            generation: handle.generation(),
            device,
        }
    }
}

thread_local! {
    static THREAD: Cell<*const Thread> = const { Cell::new(std::ptr::null()) };
}

impl Thread {
    /// The calling thread's.
    #[inline]
    pub(crate) fn current() -> &'static Self {
        let mut thread = THREAD.get();
        if thread.is_null() {
            thread = make();
        }
        // SAFETY: made by `make` for this very thread and freed by the key's destructor, which runs on it
        // after all its calls and clears the pointer. Nobody hands the reference to another thread:
        // `Thread` is not `Sync`, and no call outlives itself.
        unsafe { &*thread }
    }

    /// The current context.
    #[inline]
    pub(crate) fn context(&self) -> Option<Current> {
        self.current.get()
    }

    /// Replaces the current context; `None` takes it off the stack.
    pub(crate) fn set_context(&self, context: Option<Current>) {
        let mut stack = self.contexts.borrow_mut();
        stack.pop();
        stack.extend(context);
        self.current.set(stack.last().copied());
    }

    /// Makes a context current on top of the others.
    pub(crate) fn push_context(&self, context: Current) {
        self.contexts.borrow_mut().push(context);
        self.current.set(Some(context));
    }

    /// Takes the current context off the stack.
    pub(crate) fn pop_context(&self) -> Option<Current> {
        let mut stack = self.contexts.borrow_mut();
        let popped = stack.pop();
        self.current.set(stack.last().copied());
        popped
    }

    /// The number of the thread's lane, if it has one.
    #[inline]
    pub(crate) fn lane_index(&self) -> Option<u16> {
        self.lane_index.get()
    }

    /// The lane's thread has another mode for captures now.
    pub(crate) fn set_capture_mode(&self, mode: u32) {
        self.capture_mode.set(mode);
    }

    /// Works with the thread's lane; takes one first if need be.
    #[inline]
    pub(crate) fn with_lane<T>(
        &self,
        session: &'static Session,
        work: impl FnOnce(&mut ClientLane<Mapped>) -> Outcome<T>,
    ) -> Outcome<T> {
        // A call from a signal handler that interrupted a call of the same thread.
        let mut held = self
            .lane
            .try_borrow_mut()
            .map_err(|_| CUresult::CUDA_ERROR_NOT_PERMITTED)?;
        let lane = match &mut *held {
            Some(lane) => lane,
            None => {
                let lane = held.insert(take(session)?);
                self.lane_index.set(Some(lane.index()));
                self.session.set(Some(session));
                lane
            }
        };
        work(lane)
    }
}

#[cold]
fn take(session: &'static Session) -> Outcome<ClientLane<Mapped>> {
    session.control.lanes.take().ok_or_else(|| {
        say!(
            Error,
            "more than {} threads use the GPU at once; raise the zone's limit of lanes or use fewer threads: CUDA_ERROR_OUT_OF_MEMORY",
            session.welcome.limits.lanes
        );
        CUresult::CUDA_ERROR_OUT_OF_MEMORY
    })
}

#[cold]
fn make() -> *const Thread {
    static KEY: OnceLock<libc::pthread_key_t> = OnceLock::new();
    let thread = Box::into_raw(Box::<Thread>::default());
    let key = KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: `key` is a local; `end` is a function of a library that is never unloaded. Should the
        // process be out of keys, key 0 belongs to somebody else, so it is not used.
        if unsafe { libc::pthread_key_create(&raw mut key, Some(end)) } == 0 {
            key
        } else {
            libc::pthread_key_t::MAX
        }
    });
    // SAFETY: the value is what `end` expects. A failure, as with a key that could not be made, costs the
    // lane's return at the thread's end and nothing else.
    unsafe { libc::pthread_setspecific(*key, thread.cast()) };
    THREAD.set(thread);
    thread
}

/// The thread ends: its lane is free for another one.
extern "C" fn end(thread: *mut libc::c_void) {
    THREAD.set(std::ptr::null());
    if state::forked() {
        // The lane is the parent's, and its lock may be held for ever in this copy of the process.
        return;
    }
    // SAFETY: the value that `make` set, and the key's destructor gets each once.
    let thread = unsafe { Box::from_raw(thread.cast::<Thread>()) };
    if let (Some(mut lane), Some(session)) = (thread.lane.take(), thread.session.get()) {
        if thread.capture_mode.get() != 0 {
            // The next thread of the program's that gets the lane begins as every thread does.
            let begin = CuThreadExchangeStreamCaptureMode::default();
            let ring = &session.control.submissions;
            // A worker that is gone needs no telling.
            let _ = lane.send(ring, Flags::LANE, 0, &begin, &[], &session.live());
        }
        session.control.lanes.put(lane);
    }
}

#[cfg(test)]
mod tests {
    use idm_protocol::handle::Kind;

    use super::*;

    #[test]
    fn contexts_stack_and_setting_replaces_the_top_only() {
        let thread = Thread::default();
        let [a, b, c] =
            [1, 2, 3].map(|slot| Current::new(Handle::new(Kind::CONTEXT, slot, 1).unwrap(), 0));
        assert_eq!(thread.context(), None);
        thread.set_context(Some(a));
        thread.push_context(b);
        thread.set_context(Some(c));
        assert_eq!(thread.pop_context(), Some(c));
        assert_eq!(thread.context(), Some(a));
        thread.set_context(None);
        assert_eq!(thread.context(), None);
        assert_eq!(thread.pop_context(), None);
    }

    #[test]
    fn every_thread_has_its_own_state() {
        let context = Current::new(Handle::new(Kind::CONTEXT, 1, 1).unwrap(), 0);
        Thread::current().push_context(context);
        assert_eq!(
            std::thread::spawn(|| Thread::current().context())
                .join()
                .unwrap(),
            None
        );
        assert_eq!(Thread::current().pop_context(), Some(context));
    }
}
