//! Calls, from the pages that workers write them to into the spool.
//!
//! A page is looked at every few milliseconds while calls come, and left alone while none do: its worker wakes the
//! auditor then. What is in a page is the worker's claim; whose page it is, the supervisor says. A page is let go of
//! only as far as its calls are in the spool, so that an auditor that is killed loses none and records none twice.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use idm_protocol::memory::Mapped;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use proxy_audit::block::Origin;
use proxy_audit::call::{COMPLETED, CallError, CallRecord, Calls, MAX_RECORDS, Name, SUMMARY};
use proxy_audit::event::Stamp;
use proxy_audit::hash::{Hash, LogId};
use proxy_audit::spool::{Spool, SpoolError};
use proxy_audit::text::Text;
use proxy_audit::wire::{Collection, Detail};
use proxy_channel::calls::{
    Call, CallPage, CallReader, IMAGE_NAME, KERNEL_NAME, NO_NAME, PageError, Rest, SLOTS,
};
use thiserror::Error;
use tracing::warn;

/// Between two looks at a page while calls come.
const INTERVAL: Duration = Duration::from_millis(4);

/// Where the zone's share of the spool is full.
const SLOW_INTERVAL: Duration = Duration::from_millis(50);

/// A page without calls for so long is left alone until its worker makes one.
const DOZE_AFTER: Duration = Duration::from_millis(50);

/// How long a summary waits for more calls.
const SUMMARY_AFTER: Duration = Duration::from_secs(1);

/// Between two records of what was lost.
const LOST_AFTER: Duration = Duration::from_secs(1);

/// Most kinds of call that are summed up at one time.
const MAX_KINDS: usize = 1024;

/// Why a call is not in the log.
const UNREAD: &str =
    "calls came faster than the log took them, and their worker did not wait any longer";

/// The same at the auditor's end.
const NO_ROOM: &str = "the zone's share of the spool was full when the log was closed";

/// Why calls cannot be collected.
#[derive(Debug, Error)]
pub enum CollectError {
    /// The page.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// What wakes the auditor.
    #[error("cannot watch a page: {0}")]
    Watch(#[from] Errno),
}

/// All pages.
#[derive(Debug)]
pub struct Collector {
    clients: BTreeMap<u64, Client>,
    wakes: Epoll,
    /// When it was last woken: not again at once, however often a worker tries.
    woken: Option<Instant>,
    next_look: Option<Instant>,
}

/// One client's page.
#[derive(Debug)]
struct Client {
    collection: Collection,
    session: LogId,
    reader: CallReader<Mapped>,
    _wake: OwnedFd,
    names: HashMap<u16, Option<Name>>,
    /// The number of the first call that is not in the spool.
    first: u64,
    /// Taken from the page, and not in the spool yet.
    held: Vec<Rest>,
    summary: Summary,
    /// Calls to take before the channel is heard again: what had a slot before it was.
    until: u64,
    lost: u64,
    lost_told: Option<Instant>,
    last_call: Instant,
    dozes: bool,
    finished: bool,
}

/// Calls of a kind, summed up.
#[derive(Debug, Default)]
struct Summary {
    kinds: BTreeMap<Kind, Sum>,
    calls: u64,
    since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    opcode: u16,
    kernel: u16,
    image: u16,
    device: u8,
    result: u32,
    is_answered: bool,
}

#[derive(Clone, Copy, Debug)]
struct Sum {
    start_ns: u64,
    calls: u64,
    nanos: u64,
    longest: u32,
}

impl Collector {
    /// No pages.
    pub fn new() -> Result<Self, CollectError> {
        Ok(Self {
            clients: BTreeMap::new(),
            wakes: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            woken: None,
            next_look: None,
        })
    }

    /// A page to collect from, where an auditor before this one may have begun.
    pub fn collect(
        &mut self,
        collection: Collection,
        page: CallPage,
        session: LogId,
        spool: &Spool,
    ) -> Result<(), CollectError> {
        let id = collection.client;
        let (reader, wake) = page.reader(spool.chain().recorded(session, id))?;
        // The worker has the descriptor too and can do with it what it likes: it is never read.
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        self.wakes.add(&wake, EpollEvent::new(flags, id))?;
        let client = Client {
            first: reader.next(),
            until: reader.next(),
            // An auditor before this one may have told of some: twice is better than never.
            lost: 0,
            lost_told: None,
            collection,
            session,
            reader,
            _wake: wake,
            names: HashMap::new(),
            held: Vec::new(),
            summary: Summary::default(),
            last_call: Instant::now(),
            dozes: false,
            finished: false,
        };
        self.clients.insert(id, client);
        self.next_look = Some(Instant::now());
        Ok(())
    }

    /// The worker of a client is gone; what it wrote is taken at once.
    pub fn finish(&mut self, client: u64, spool: &mut Spool) -> Result<(), CollectError> {
        if let Some(client) = self.clients.get_mut(&client) {
            client.finish(spool)?;
        }
        self.next_look = Some(Instant::now());
        Ok(())
    }

    /// The supervisor is gone, and all workers with it. What the spool does not take is lost now.
    pub fn finish_all(&mut self, spool: &mut Spool) -> Result<(), CollectError> {
        for client in self.clients.values_mut() {
            client.finish(spool)?;
            while !client.is_empty() && client.record(spool, Instant::now())? {}
            let left = client.summary.calls + client.held.len() as u64;
            if left > 0 {
                let zone = &client.collection.zone;
                spool.lost(zone, Stamp::now(), None, left, NO_ROOM)?;
            }
        }
        Ok(())
    }

    /// Whether some worker may still write.
    pub fn is_unfinished(&self) -> bool {
        self.clients.values().any(|client| !client.finished)
    }

    /// Notes which calls there are, so that what the supervisor says of clients before them is heard first.
    pub fn look(&mut self) -> Result<(), CollectError> {
        let mut events = [EpollEvent::empty(); 64];
        let now = Instant::now();
        let count = match self.wakes.wait(&mut events, EpollTimeout::ZERO) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        for event in events.iter().take(count) {
            self.woken = Some(now);
            if let Some(client) = self.clients.get_mut(&event.data()) {
                client.dozes = false;
                client.last_call = now;
            }
        }
        for client in self.clients.values_mut() {
            client.until = client.reader.claimed();
        }
        Ok(())
    }

    /// Takes the calls that were noted into the spool; tells the clients whose pages are done with.
    pub fn take(&mut self, spool: &mut Spool, now: Instant) -> Result<Vec<u64>, CollectError> {
        let mut done = Vec::new();
        let mut next: Option<Duration> = None;
        for (&id, client) in &mut self.clients {
            let again = client.take(spool, now)?;
            if client.finished && client.is_empty() {
                done.push(id);
            } else if let Some(again) = again {
                next = Some(next.map_or(again, |next| next.min(again)));
            }
        }
        done.iter().for_each(|id| drop(self.clients.remove(id)));
        self.next_look = next.map(|next| now + next);
        Ok(done)
    }

    /// When to look again without being woken.
    pub fn next_look(&self) -> Option<Instant> {
        let rested = self.rests_until();
        self.next_look.into_iter().chain(rested).min()
    }

    /// What is readable when a worker wakes the auditor, where it may.
    pub fn wakes(&self) -> Option<BorrowedFd<'_>> {
        self.rests_until().is_none().then(|| self.wakes.0.as_fd())
    }

    fn rests_until(&self) -> Option<Instant> {
        let rested = self.woken.map(|woken| woken + INTERVAL);
        rested.filter(|rested| *rested > Instant::now())
    }
}

impl Client {
    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.summary.calls == 0
    }

    /// Takes what there is; tells after which time to look again, if not only when it is woken.
    fn take(&mut self, spool: &mut Spool, now: Instant) -> Result<Option<Duration>, CollectError> {
        if self.held.is_empty() && !self.finished {
            let most = self.until.saturating_sub(self.reader.next());
            let most = usize::try_from(most)
                .unwrap_or(MAX_RECORDS)
                .min(MAX_RECORDS);
            let mut calls = Vec::new();
            self.reader.take(most, &mut calls);
            if !calls.is_empty() {
                self.last_call = now;
                self.dozes = false;
            }
            let is_answered = true;
            let calls = calls.into_iter().map(|call| Rest { call, is_answered });
            self.held.extend(calls);
        }
        if !self.record(spool, now)? {
            return Ok(Some(SLOW_INTERVAL));
        }
        self.tell_lost(spool)?;
        if self.dozes || self.finished {
            return Ok(None);
        }
        let quiet = now.saturating_duration_since(self.last_call) >= DOZE_AFTER;
        if quiet && self.summary.calls == 0 && self.reader.doze() {
            self.dozes = true;
            return Ok(None);
        }
        Ok(Some(INTERVAL))
    }

    /// Takes what the worker has left behind.
    fn finish(&mut self, spool: &mut Spool) -> Result<(), CollectError> {
        if !self.finished {
            self.finished = true;
            self.held.extend(self.reader.take_rest());
        }
        self.record(spool, Instant::now())?;
        self.tell_lost(spool)
    }

    /// Writes what is held; false if the zone's share has no room.
    fn record(&mut self, spool: &mut Spool, now: Instant) -> Result<bool, CollectError> {
        let fits = match self.collection.detail {
            Detail::Every => self.record_every(spool)?,
            Detail::Summary => self.record_summary(spool, now)?,
        };
        if self.is_empty() {
            // Only now: an auditor after this one finds in the page what is not in the spool.
            self.reader.release();
        }
        Ok(fits)
    }

    fn record_every(&mut self, spool: &mut Spool) -> Result<bool, CollectError> {
        while !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            let (calls, start, count) = self.block(&held);
            self.held = held;
            if !self.write(spool, &calls, start)? {
                return Ok(false);
            }
            self.held.drain(..count);
        }
        Ok(true)
    }

    fn record_summary(&mut self, spool: &mut Spool, now: Instant) -> Result<bool, CollectError> {
        loop {
            self.sum_up(now);
            let since = self.summary.since;
            let is_old =
                since.is_some_and(|since| now.saturating_duration_since(since) >= SUMMARY_AFTER);
            // The worker must not run out of room in the page, nor this out of kinds.
            let is_full = self.summary.calls >= SLOTS as u64 / 2 || !self.held.is_empty();
            if self.summary.calls == 0 || !(self.finished || is_old || is_full) {
                return Ok(true);
            }
            let (calls, start) = self.summary_block();
            if !self.write(spool, &calls, start)? {
                return Ok(false);
            }
            self.summary = Summary::default();
        }
    }

    /// A block of the first calls, with the start of the earliest; and how many they are.
    fn block(&mut self, held: &[Rest]) -> (Calls, u64, usize) {
        let start = held.iter().map(|rest| self.start_of(&rest.call)).min();
        let start = start.unwrap_or(self.collection.since_ns);
        let mut calls = Calls::default();
        let mut known = HashMap::new();
        let mut count = 0;
        // Mostly it is the same kernel as before.
        let mut last = ([NO_NAME; 2], [NO_NAME; 2]);
        for rest in held.iter().take(MAX_RECORDS) {
            let call = &rest.call;
            let numbers = [call.kernel, call.image];
            if numbers != last.0 {
                let Ok(indices) = self.intern(&mut calls, &mut known, call.kernel, call.image)
                else {
                    break;
                };
                last = (numbers, indices);
            }
            let [kernel, image] = last.1;
            let flags = if rest.is_answered { COMPLETED } else { 0 };
            let record = CallRecord {
                client: self.collection.client.into(),
                start_ns: (self.start_of(call) - start).into(),
                size: call.size.into(),
                object: call.object.into(),
                duration_ns: call.duration_ns.into(),
                result: call.result.into(),
                opcode: call.opcode.into(),
                kernel: kernel.into(),
                image: image.into(),
                device: call.device,
                flags,
            };
            if calls.push(record).is_err() {
                break;
            }
            count += 1;
        }
        (calls, start, count)
    }

    /// Moves what is held into the sums.
    fn sum_up(&mut self, now: Instant) {
        let mut taken = 0;
        for at in 0..self.held.len() {
            let rest = self.held[at];
            let call = &rest.call;
            let kind = Kind {
                opcode: call.opcode,
                kernel: call.kernel,
                image: call.image,
                device: call.device,
                result: call.result,
                is_answered: rest.is_answered,
            };
            let kinds = &self.summary.kinds;
            if kinds.len() >= MAX_KINDS && !kinds.contains_key(&kind) {
                break;
            }
            taken += 1;
            let start_ns = self.start_of(call);
            let sum = self.summary.kinds.entry(kind).or_insert(Sum {
                start_ns,
                calls: 0,
                nanos: 0,
                longest: 0,
            });
            sum.start_ns = sum.start_ns.min(start_ns);
            sum.calls += 1;
            sum.nanos = sum.nanos.saturating_add(call.duration_ns.into());
            sum.longest = sum.longest.max(call.duration_ns);
            self.summary.calls += 1;
            self.summary.since.get_or_insert(now);
        }
        self.held.drain(..taken);
    }

    /// The sums as a block, with the start of the earliest call.
    fn summary_block(&mut self) -> (Calls, u64) {
        let kinds: Vec<(Kind, Sum)> = self.summary.kinds.iter().map(|(k, s)| (*k, *s)).collect();
        let start = kinds.iter().map(|(_, sum)| sum.start_ns).min().unwrap_or(0);
        let mut calls = Calls::default();
        let mut known = HashMap::new();
        for (kind, sum) in kinds {
            // There are fewer kinds than a block has records; a name that is one too many is left out.
            let [kernel, image] = self
                .intern(&mut calls, &mut known, kind.kernel, kind.image)
                .unwrap_or([NO_NAME, NO_NAME]);
            let answered = if kind.is_answered { COMPLETED } else { 0 };
            let record = CallRecord {
                client: self.collection.client.into(),
                start_ns: (sum.start_ns - start).into(),
                size: sum.calls.into(),
                object: sum.nanos.into(),
                duration_ns: sum.longest.into(),
                result: kind.result.into(),
                opcode: kind.opcode.into(),
                kernel: kernel.into(),
                image: image.into(),
                device: kind.device,
                flags: answered | SUMMARY,
            };
            // See above.
            let _ = calls.push(record);
        }
        (calls, start)
    }

    /// Writes a block whose earliest call began at `start`; false if the zone's share has no room.
    fn write(
        &mut self,
        spool: &mut Spool,
        calls: &Calls,
        start: u64,
    ) -> Result<bool, CollectError> {
        let now = Stamp::now();
        let age = now.mono_ns.saturating_sub(start);
        let stamp = Stamp {
            wall_ns: now.wall_ns.saturating_sub(age),
            mono_ns: start,
        };
        let &Collection { worker, client, .. } = &self.collection;
        let origin = Origin {
            worker,
            session: self.session,
            client,
            first: self.first,
        };
        match spool.calls(&self.collection.zone, stamp, origin, calls) {
            // What was dropped is counted there.
            Ok(_) => {
                self.first = self.first.saturating_add(calls.stand_for());
                Ok(true)
            }
            Err(SpoolError::Full(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Records how many calls found no room in the page.
    fn tell_lost(&mut self, spool: &mut Spool) -> Result<(), CollectError> {
        let lost = self.reader.lost();
        let new = lost.saturating_sub(self.lost);
        let again = self
            .lost_told
            .is_none_or(|told| told.elapsed() >= LOST_AFTER);
        if new > 0 && (again || self.finished) {
            self.lost = lost;
            self.lost_told = Some(Instant::now());
            let zone = &self.collection.zone;
            warn!(%zone, client = self.collection.client, calls = new, "calls are lost: {UNREAD}");
            spool.lost(zone, Stamp::now(), None, new, UNREAD)?;
        }
        Ok(())
    }

    /// No call began before its page was made.
    fn start_of(&self, call: &Call) -> u64 {
        call.start_ns.max(self.collection.since_ns)
    }

    /// The indices of a kernel's and an image's name in a block, where `known` are those that it has.
    fn intern(
        &mut self,
        calls: &mut Calls,
        known: &mut HashMap<u16, u16>,
        kernel: u16,
        image: u16,
    ) -> Result<[u16; 2], CallError> {
        let mut index_of = |number: u16, is_kernel: bool| -> Result<u16, CallError> {
            if number == NO_NAME {
                return Ok(NO_NAME);
            }
            let index = match known.get(&number) {
                Some(&index) => index,
                None => {
                    let name = self.name(number);
                    let index = name.map_or(Ok(NO_NAME), |name| calls.intern(name))?;
                    known.insert(number, index);
                    index
                }
            };
            // A kernel's number at an image's place names nothing.
            let fits = matches!(calls.name(index), Some(Name::Kernel(_))) == is_kernel;
            Ok(if fits { index } else { NO_NAME })
        };
        Ok([index_of(kernel, true)?, index_of(image, false)?])
    }

    /// A name in the page, as it was when it was first asked for.
    fn name(&mut self, number: u16) -> Option<&Name> {
        let reader = &self.reader;
        let name = self.names.entry(number).or_insert_with(|| {
            let name = reader.name(number)?;
            match name.kind {
                KERNEL_NAME => Some(Name::Kernel(Text::new(&name.bytes))),
                IMAGE_NAME => Some(Name::Image(Hash(name.bytes.try_into().ok()?))),
                _ => None,
            }
        });
        name.as_ref()
    }
}
