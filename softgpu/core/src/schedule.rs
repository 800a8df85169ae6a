//! Streams: work in order in each, concurrent among them, on threads that exist only while needed.
//!
//! A stream is a queue and two counters, not a thread. An operation runs when it is first in its queue and
//! everything it waits for (its [`Ticket`]s) is done. Ready streams are served by a pool; it has a few
//! threads, and grows when all of them are held by operations that do not end (a kernel that waits for a
//! flag in pinned memory, a host function that sleeps) while other streams could run.
//!
//! The legacy default stream of a context waits for what was submitted before to the context's blocking
//! streams, and they wait for it, by tickets captured at submission.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::os;

/// Names a stream for the life of the process; never used twice.
pub type StreamId = u64;
/// Names the context that streams belong to.
pub type GroupId = u64;
/// Work that a pool thread runs.
pub type Work = Box<dyn FnOnce() + Send>;

/// A place in a stream: reached when the operation submitted there is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    stream: StreamId,
    sequence: u64,
}

/// When an operation was reached, in nanoseconds of the scheduler's clock.
#[derive(Debug, Default)]
pub struct Stamp(AtomicU64);

impl Stamp {
    /// Nanoseconds, or none while it is not reached.
    #[must_use]
    pub fn nanoseconds(&self) -> Option<u64> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            n => Some(n),
        }
    }
}

/// What a stream is to its context's legacy default stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It is that stream.
    Legacy,
    /// It waits for it and it waits for this.
    Blocking,
    /// It has nothing to do with it.
    NonBlocking,
}

/// Threads that stay; more are added only while operations hold all of them.
const STEADY_THREADS: usize = 2;
/// Operations that may run at a time: what a large GPU runs, with room for host functions.
const MOST_THREADS: usize = 256;
/// How long all threads may be held before one is added.
const PATIENCE: Duration = Duration::from_micros(300);
/// How long an added thread waits for more work.
const LINGER: Duration = Duration::from_secs(1);

/// All streams of a process.
pub struct Scheduler {
    shared: Arc<Shared>,
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").finish_non_exhaustive()
    }
}

impl Default for Scheduler {
    fn default() -> Self {
        Self::new()
    }
}

impl Scheduler {
    /// Without any thread yet.
    #[must_use]
    pub fn new() -> Self {
        let shared = Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            pressure: Condvar::new(),
            quiet: Condvar::new(),
            origin: Instant::now(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Nanoseconds since the scheduler was made, never 0.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.shared.now()
    }

    /// Makes a stream.
    #[must_use]
    pub fn create(&self, group: GroupId, order: Order) -> StreamId {
        let mut state = self.shared.lock();
        state.last_stream += 1;
        let id = state.last_stream;
        state.streams.insert(id, Stream::new(group, order));
        if order == Order::Legacy {
            state.groups.entry(group).or_default().legacy = Some(id);
        }
        id
    }

    /// Lets a stream end once its work is done.
    pub fn close(&self, stream: StreamId) {
        let mut state = self.shared.lock();
        if let Some(found) = state.streams.get_mut(&stream) {
            found.closing = true;
            state.collect(stream);
        }
    }

    /// Appends work to a stream; it runs after everything before it and after `after`.
    /// A stream that is gone takes nothing and its ticket is reached.
    pub fn submit(&self, stream: StreamId, after: &[Ticket], work: Work) -> Ticket {
        self.shared.append(stream, after, Action::Run(work))
    }

    /// Appends a mark, which takes the time when it is reached.
    pub fn mark(&self, stream: StreamId, after: &[Ticket], stamp: Arc<Stamp>) -> Ticket {
        self.shared.append(stream, after, Action::Stamp(stamp))
    }

    /// Runs work at the stream's end and waits for it: on this thread if the stream is idle (no thread
    /// needs to wake then), else on the pool.
    pub fn run(&self, stream: StreamId, work: Work) {
        if let Some(work) = self.run_if_idle(stream, work) {
            let ticket = self.submit(stream, &[], work);
            self.wait(&[ticket]);
        }
    }

    /// Appends work that takes less time than waking a thread for it: where the stream is idle, it is done
    /// when this returns.
    pub fn submit_short(&self, stream: StreamId, work: Work) {
        if let Some(work) = self.run_if_idle(stream, work) {
            self.submit(stream, &[], work);
        }
    }

    /// Runs work on this thread while no stream's work runs. Waits for what runs, and nothing begins meanwhile.
    pub fn run_alone<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut state = self.shared.lock();
        state.held += 1;
        while state.running > 0 {
            state = self
                .shared
                .quiet
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        let _release = Release(&self.shared);
        work()
    }

    /// Runs work on this thread if the stream is idle; else gives it back.
    fn run_if_idle(&self, stream: StreamId, work: Work) -> Option<Work> {
        let mut state = self.shared.lock();
        let after = state.implied(stream, &[]);
        let free = after.is_empty() && state.held == 0;
        let idle = |found: &&mut Stream| found.is_idle() && free;
        let Some(found) = state.streams.get_mut(&stream).filter(idle) else {
            return Some(work);
        };
        found.running = true;
        found.submitted += 1;
        state.running += 1;
        state.note_busy(stream);
        drop(state);
        let finish = Finish {
            shared: &self.shared,
            stream,
        };
        work();
        drop(finish);
        None
    }

    /// Everything submitted so far to a stream; for the legacy stream that includes what it waits for.
    #[must_use]
    pub fn tail(&self, stream: StreamId) -> Vec<Ticket> {
        let state = self.shared.lock();
        let mut tickets = state.ordered(stream);
        tickets.extend(state.streams.get(&stream).and_then(|s| s.tail(stream)));
        tickets
    }

    /// Everything submitted so far to all streams of a context.
    #[must_use]
    pub fn group_tail(&self, group: GroupId) -> Vec<Ticket> {
        let state = self.shared.lock();
        let busy = state
            .groups
            .get(&group)
            .into_iter()
            .flat_map(|g| g.busy.iter());
        busy.filter_map(|id| state.streams.get(id).and_then(|s| s.tail(*id)))
            .collect()
    }

    /// Makes everything submitted from now on to any stream of a context wait for some places.
    pub fn hold_group(&self, group: GroupId, after: &[Ticket]) {
        let mut state = self.shared.lock();
        let mut barrier = std::mem::take(&mut state.groups.entry(group).or_default().barrier);
        barrier.extend(after);
        barrier.retain(|ticket| !state.is_done(*ticket));
        state.groups.entry(group).or_default().barrier = barrier;
    }

    /// Everything submitted so far to all streams of all contexts.
    #[must_use]
    pub fn all_tails(&self) -> Vec<Ticket> {
        let groups: Vec<GroupId> = self.shared.lock().groups.keys().copied().collect();
        groups
            .into_iter()
            .flat_map(|group| self.group_tail(group))
            .collect()
    }

    /// Whether a place was reached.
    #[must_use]
    pub fn is_done(&self, ticket: Ticket) -> bool {
        self.shared.lock().is_done(ticket)
    }

    /// Blocks until all places are reached.
    pub fn wait(&self, tickets: &[Ticket]) {
        for ticket in tickets {
            self.wait_one(*ticket);
        }
    }

    /// Forgets a context whose streams are all closed.
    pub fn forget_group(&self, group: GroupId) {
        self.shared.lock().groups.remove(&group);
    }

    fn wait_one(&self, ticket: Ticket) {
        let waiter = {
            let mut state = self.shared.lock();
            if state.is_done(ticket) {
                return;
            }
            let waiter = Arc::new(Waiter {
                done: AtomicBool::new(false),
                thread: std::thread::current(),
            });
            if let Some(stream) = state.streams.get_mut(&ticket.stream) {
                stream.waiters.push((ticket.sequence, Arc::clone(&waiter)));
            }
            waiter
        };
        // Most waits are for something short: look a few times before asking the system to sleep.
        for _ in 0..16 {
            // SYNC: pairs with the release store in `Shared::finish`.
            if waiter.done.load(Ordering::Acquire) {
                return;
            }
            std::thread::yield_now();
        }
        while !waiter.done.load(Ordering::Acquire) {
            std::thread::park();
        }
    }

    #[cfg(test)]
    fn thread_count(&self) -> usize {
        self.shared.lock().threads
    }
}

struct Waiter {
    done: AtomicBool,
    thread: Thread,
}

enum Action {
    Run(Work),
    Stamp(Arc<Stamp>),
}

struct Operation {
    after: Vec<Ticket>,
    action: Action,
}

struct Stream {
    group: GroupId,
    order: Order,
    queue: VecDeque<Operation>,
    submitted: u64,
    completed: u64,
    running: bool,
    /// In the ready queue.
    ready: bool,
    closing: bool,
    /// Streams whose first operation waits for this one to get this far.
    dependents: Vec<(u64, StreamId)>,
    waiters: Vec<(u64, Arc<Waiter>)>,
}

impl Stream {
    fn new(group: GroupId, order: Order) -> Self {
        Self {
            group,
            order,
            queue: VecDeque::new(),
            submitted: 0,
            completed: 0,
            running: false,
            ready: false,
            closing: false,
            dependents: Vec::new(),
            waiters: Vec::new(),
        }
    }

    fn is_idle(&self) -> bool {
        self.submitted == self.completed
    }

    fn tail(&self, id: StreamId) -> Option<Ticket> {
        (!self.is_idle()).then_some(Ticket {
            stream: id,
            sequence: self.submitted,
        })
    }
}

#[derive(Default)]
struct Group {
    legacy: Option<StreamId>,
    /// Streams with work in them.
    busy: BTreeSet<StreamId>,
    /// What whatever is submitted waits for.
    barrier: Vec<Ticket>,
}

#[derive(Default)]
struct State {
    streams: HashMap<StreamId, Stream>,
    groups: HashMap<GroupId, Group>,
    ready: VecDeque<StreamId>,
    last_stream: StreamId,
    threads: usize,
    idle: usize,
    /// Operations handed to threads so far: tells whether the pool moves.
    started: u64,
    watched: bool,
    /// Operations that run now.
    running: usize,
    /// How many want or have the device for themselves; while any does, nothing begins.
    held: usize,
}

impl State {
    fn is_done(&self, ticket: Ticket) -> bool {
        self.streams
            .get(&ticket.stream)
            .is_none_or(|s| s.completed >= ticket.sequence)
    }

    /// What an operation appended to `stream` now has to wait for, beyond the stream's own order.
    fn implied(&self, stream: StreamId, after: &[Ticket]) -> Vec<Ticket> {
        let mut tickets = self.ordered(stream);
        let group = self.streams.get(&stream).map(|found| found.group);
        let barrier = group.and_then(|group| self.groups.get(&group));
        let barrier = barrier.into_iter().flat_map(|group| &group.barrier);
        tickets.extend(after.iter().chain(barrier).filter(|t| !self.is_done(**t)));
        tickets
    }

    /// The ends of other streams that this one's next operation comes behind.
    fn ordered(&self, stream: StreamId) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        let Some(found) = self.streams.get(&stream) else {
            return tickets;
        };
        let Some(group) = self.groups.get(&found.group) else {
            return tickets;
        };
        match found.order {
            Order::Legacy => tickets.extend(group.busy.iter().filter_map(|id| {
                let other = self.streams.get(id)?;
                if other.order == Order::Blocking {
                    other.tail(*id)
                } else {
                    None
                }
            })),
            Order::Blocking => {
                let legacy = group.legacy.and_then(|id| self.streams.get(&id)?.tail(id));
                tickets.extend(legacy);
            }
            Order::NonBlocking => {}
        }
        tickets
    }

    fn note_busy(&mut self, stream: StreamId) {
        if let Some(found) = self.streams.get(&stream) {
            self.groups
                .entry(found.group)
                .or_default()
                .busy
                .insert(stream);
        }
    }

    /// Drops a stream that is closed and done.
    fn collect(&mut self, stream: StreamId) {
        let Some(found) = self.streams.get(&stream) else {
            return;
        };
        if !found.is_idle() {
            return;
        }
        if let Some(group) = self.groups.get_mut(&found.group) {
            group.busy.remove(&stream);
        }
        if found.closing {
            self.streams.remove(&stream);
        }
    }
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    pressure: Condvar,
    /// Nothing runs any more, and somebody waits for that.
    quiet: Condvar,
    origin: Instant,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos())
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }

    fn append(self: &Arc<Self>, stream: StreamId, after: &[Ticket], action: Action) -> Ticket {
        let mut state = self.lock();
        let after = state.implied(stream, after);
        let Some(found) = state.streams.get_mut(&stream) else {
            return Ticket {
                stream,
                sequence: 0,
            };
        };
        found.submitted += 1;
        found.queue.push_back(Operation { after, action });
        let ticket = Ticket {
            stream,
            sequence: found.submitted,
        };
        state.note_busy(stream);
        self.advance(&mut state, stream);
        self.staff(&mut state);
        ticket
    }

    /// Moves every stream on that can move: marks are passed here, work is handed to the pool.
    fn advance(&self, state: &mut State, stream: StreamId) {
        let mut look = vec![stream];
        while let Some(id) = look.pop() {
            while let Some(found) = state.streams.get(&id) {
                if found.running || found.ready {
                    break;
                }
                let Some(first) = found.queue.front() else {
                    break;
                };
                if let Some(open) = first.after.iter().copied().find(|t| !state.is_done(*t)) {
                    if let Some(other) = state.streams.get_mut(&open.stream) {
                        other.dependents.push((open.sequence, id));
                    }
                    break;
                }
                let Some(found) = state.streams.get_mut(&id) else {
                    break;
                };
                if matches!(
                    found.queue.front(),
                    Some(Operation {
                        action: Action::Run(_),
                        ..
                    })
                ) {
                    found.ready = true;
                    state.ready.push_back(id);
                    self.work.notify_one();
                    break;
                }
                if let Some(Operation {
                    action: Action::Stamp(stamp),
                    ..
                }) = found.queue.pop_front()
                {
                    // SYNC: pairs with the acquire load in `Stamp::nanoseconds`.
                    stamp.0.store(self.now(), Ordering::Release);
                }
                self.complete(state, id, &mut look);
            }
        }
    }

    /// Counts one operation of a stream as done and tells whoever waited for it.
    fn complete(&self, state: &mut State, stream: StreamId, look: &mut Vec<StreamId>) {
        let Some(found) = state.streams.get_mut(&stream) else {
            return;
        };
        found.completed += 1;
        let reached = found.completed;
        found.dependents.retain(|(sequence, id)| {
            if *sequence <= reached {
                look.push(*id);
            }
            *sequence > reached
        });
        found.waiters.retain(|(sequence, waiter)| {
            if *sequence <= reached {
                // SYNC: pairs with the acquire loads in `Scheduler::wait_one`.
                waiter.done.store(true, Ordering::Release);
                waiter.thread.unpark();
            }
            *sequence > reached
        });
        state.collect(stream);
    }

    fn finish(self: &Arc<Self>, stream: StreamId) {
        let mut state = self.lock();
        if let Some(found) = state.streams.get_mut(&stream) {
            found.running = false;
        }
        state.running -= 1;
        if state.running == 0 && state.held > 0 {
            self.quiet.notify_all();
        }
        let mut look = Vec::new();
        self.complete(&mut state, stream, &mut look);
        look.push(stream);
        for id in look {
            self.advance(&mut state, id);
        }
        self.staff(&mut state);
    }

    /// Sees that there are threads for what is ready.
    fn staff(self: &Arc<Self>, state: &mut State) {
        while state.ready.len() > state.idle && state.threads < STEADY_THREADS {
            if !self.hire(state, None) {
                return;
            }
        }
        if state.ready.len() > state.idle {
            if !state.watched {
                state.watched = true;
                let shared = Arc::clone(self);
                if os::spawn_quiet("softgpu-watch", move || shared.watch()).is_err() {
                    state.watched = false;
                }
            }
            self.pressure.notify_one();
        }
    }

    fn hire(self: &Arc<Self>, state: &mut State, linger: Option<Duration>) -> bool {
        let shared = Arc::clone(self);
        let hired = os::spawn_quiet("softgpu-stream", move || shared.serve(linger)).is_ok();
        if hired {
            state.threads += 1;
        }
        hired
    }

    /// A pool thread: runs what is ready; with `linger` it leaves when nothing has come for so long.
    fn serve(self: &Arc<Self>, linger: Option<Duration>) {
        let mut state = self.lock();
        loop {
            if state.held == 0
                && let Some(id) = state.ready.pop_front()
            {
                let Some(found) = state.streams.get_mut(&id) else {
                    continue;
                };
                found.ready = false;
                found.running = true;
                let operation = found.queue.pop_front();
                state.running += 1;
                state.started += 1;
                drop(state);
                let finish = Finish {
                    shared: self,
                    stream: id,
                };
                if let Some(Operation {
                    action: Action::Run(work),
                    ..
                }) = operation
                {
                    // A panic in work is that work's defect; the stream and the thread go on.
                    drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)));
                }
                drop(finish);
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let timed_out;
            (state, timed_out) = match linger {
                None => (
                    self.work
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner),
                    false,
                ),
                Some(time) => {
                    let (state, result) = self
                        .work
                        .wait_timeout(state, time)
                        .unwrap_or_else(PoisonError::into_inner);
                    (state, result.timed_out())
                }
            };
            state.idle -= 1;
            if timed_out && state.ready.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }

    /// Adds a thread whenever work has been ready for a while and no thread came free for it.
    fn watch(self: &Arc<Self>) {
        let mut state = self.lock();
        loop {
            if state.ready.len() <= state.idle || state.threads >= MOST_THREADS || state.held > 0 {
                state = self
                    .pressure
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let before = state.started;
            drop(state);
            std::thread::sleep(PATIENCE);
            state = self.lock();
            if state.started == before
                && state.ready.len() > state.idle
                && state.threads < MOST_THREADS
                && state.held == 0
            {
                self.hire(&mut state, Some(LINGER));
            }
        }
    }
}

/// Lets work begin again that waited for somebody to be alone.
struct Release<'a>(&'a Arc<Shared>);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.held -= 1;
        self.0.work.notify_all();
        self.0.staff(&mut state);
    }
}

/// Ends an operation even if its work panics.
struct Finish<'a> {
    shared: &'a Arc<Shared>,
    stream: StreamId,
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.shared.finish(self.stream);
    }
}

#[cfg(test)]
mod tests;
