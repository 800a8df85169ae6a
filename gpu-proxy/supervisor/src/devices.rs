//! What the supervisor knows of the devices: who may have left bytes there and who must wait for that (D13), and
//! whether they are there at all.
//!
//! A worker that did not end in order leaves its devices dirty: nothing there is granted to another zone until a
//! scrubber has zeroed what the driver gives out as free. That a driver clears memory itself is not counted on. Only
//! where processes share a device is there anything to do: each process of the software GPU has its own.
//!
//! A worker that says that a device is lost is not believed; a probe is, a process that has met no tenant. While a
//! device is lost no new client sees it. It is probed again and again, and dirty when it is back.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use cuda_abi::types::CUresult;
use proxy_channel::admin;
use proxy_channel::args::Task;
use proxy_channel::message::Scrubbed;

use crate::backoff::Backoff;

/// What the driver may keep from a scrubber: pages too small or too scattered to be given out to anybody.
const LEFT_OVER: u64 = 64 << 20;

/// What a probe found is true for so long, whatever workers say.
const PROBE_REST: Duration = Duration::from_secs(10);

const FULL: CUresult = CUresult::CUDA_ERROR_OUT_OF_MEMORY;

/// All devices that workers have told of.
#[derive(Debug)]
pub struct Devices {
    /// One process may find what another left.
    is_shared: bool,
    patience: Duration,
    list: BTreeMap<u32, Device>,
}

#[derive(Debug, Default)]
struct Device {
    /// What is done about it at the moment.
    busy: Option<Task>,
    dirt: Option<Dirt>,
    /// What has come since the scrubber at work began, which it may have missed.
    later: Option<Dirt>,
    scrub_backoff: Backoff,
    /// Somebody says that it is lost: when to look.
    suspected: Option<Instant>,
    probed: Option<Instant>,
    probe_backoff: Backoff,
    lost: Option<Loss>,
    /// Processes that were killed and do not go, and since when.
    stuck: BTreeMap<u32, Instant>,
    scrubs: u64,
    bytes: u64,
    micros: u64,
}

/// Who left something.
#[derive(Debug)]
struct Dirt {
    /// Zones whose workers died.
    zones: BTreeSet<String>,
    /// Before anybody can say: by whoever used the device before this supervisor started.
    is_old: bool,
    since: Instant,
}

impl Device {
    /// Why no new client may see it, if none may.
    fn objection(&self, ordinal: u32) -> Option<String> {
        if let Some(loss) = &self.lost {
            return Some(format!("device {ordinal} is lost: {}", loss.why));
        }
        let (pid, _) = self.stuck.first_key_value()?;
        Some(format!(
            "device {ordinal} is quarantined: process {pid} does not go away although it was killed"
        ))
    }

    /// What is to be done about it next, and when. Whether it is there comes first.
    fn next(&self, now: Instant) -> Option<(Task, Instant)> {
        if self.busy.is_some() || !self.stuck.is_empty() {
            return None;
        }
        let after = |backoff: &Backoff| backoff.blocked_until(now).unwrap_or(now);
        if self.lost.is_some() {
            return Some((Task::Probe, after(&self.probe_backoff)));
        }
        let probe = self.suspected.map(|at| {
            let at = at.max(after(&self.probe_backoff));
            (Task::Probe, at)
        });
        let scrub = self.dirt.as_ref();
        let scrub = scrub.map(|_| (Task::Scrub, after(&self.scrub_backoff)));
        match (probe, scrub) {
            (Some(probe), Some(scrub)) if probe.1 > scrub.1 => Some(scrub),
            (probe, scrub) => probe.or(scrub),
        }
    }
}

impl Dirt {
    fn new(since: Instant) -> Self {
        Self {
            zones: BTreeSet::new(),
            is_old: false,
            since,
        }
    }

    fn old(since: Instant) -> Self {
        Self {
            is_old: true,
            ..Self::new(since)
        }
    }

    fn is_only_of(&self, zone: &str) -> bool {
        !self.is_old && self.zones.iter().all(|left| left == zone)
    }
}

/// A device that a probe did not find.
#[derive(Debug)]
struct Loss {
    since: Instant,
    why: String,
}

/// What has become of a device by a process that ended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// What is free there is zero.
    Clean,
    /// It does what it is told.
    Alive,
    /// It was lost, and does what it is told.
    Back,
}

/// What has become of a device by a process that came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It stays as dirty as it was, or nobody knows whether it is lost.
    Again {
        /// When it is tried again.
        after: Duration,
        /// How many failed in a row.
        failures: u32,
    },
    /// It is lost since now.
    Lost,
    /// It still is.
    StillLost,
}

/// Why a scrub or a probe came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// For people.
    pub why: String,
    /// What the driver said, if it is that.
    pub status: Option<CUresult>,
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        Self { why, status: None }
    }
}

/// Whether a zone may be granted memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// It may.
    Given,
    /// Not before a scrub, or until then.
    Wait(Instant),
    /// It has waited for long enough, or others have.
    Denied {
        /// The device that stays dirty.
        device: u32,
    },
}

impl Devices {
    /// No device is known yet. Grants wait for a scrub for at most `patience`.
    #[must_use]
    pub fn new(is_shared: bool, patience: Duration) -> Self {
        Self {
            is_shared,
            patience,
            list: BTreeMap::new(),
        }
    }

    /// A worker sees these devices. What is new is dirty: nobody knows who used it before. Tells which.
    pub fn learn(&mut self, seen: &[u32], now: Instant) -> Vec<u32> {
        let mut new = Vec::new();
        for &ordinal in seen.iter().filter(|_| self.is_shared) {
            self.list.entry(ordinal).or_insert_with(|| {
                new.push(ordinal);
                Device {
                    dirt: Some(Dirt::old(now)),
                    ..Device::default()
                }
            });
        }
        new
    }

    /// A worker of a zone died that had these devices. Tells which are dirty for it.
    pub fn soil(&mut self, seen: &[u32], zone: &str, now: Instant) -> Vec<u32> {
        let mut soiled = Vec::new();
        for ordinal in seen {
            let Some(device) = self.list.get_mut(ordinal) else {
                continue;
            };
            let dirt = match device.busy {
                Some(Task::Scrub) => &mut device.later,
                _ => &mut device.dirt,
            };
            let dirt = dirt.get_or_insert_with(|| Dirt::new(now));
            dirt.zones.insert(zone.to_owned());
            soiled.push(*ordinal);
        }
        soiled
    }

    /// Whether a zone that sees these devices may be granted so much. While a scrubber holds all that is free nobody
    /// is granted anything, so that nobody finds the device full for it; what a zone left itself it may have again.
    #[must_use]
    pub fn leave(&self, seen: &[u32], zone: &str, bytes: u64, now: Instant) -> Leave {
        let mut leave = Leave::Given;
        for ordinal in seen {
            let Some((device, dirt)) = self
                .list
                .get(ordinal)
                // Of a lost device nobody gets anything, whatever is granted.
                .filter(|device| device.lost.is_none())
                .and_then(|device| Some((device, device.dirt.as_ref()?)))
            else {
                continue;
            };
            let mut all = std::iter::once(dirt).chain(&device.later);
            let is_foreign = bytes > 0 && !all.all(|dirt| dirt.is_only_of(zone));
            let until = dirt.since + self.patience;
            if until > now {
                if is_foreign || device.busy == Some(Task::Scrub) {
                    leave = Leave::Wait(until);
                }
            } else if is_foreign {
                return Leave::Denied { device: *ordinal };
            }
        }
        leave
    }

    /// A driver that sees these (none for all) does not come up.
    pub fn suspect_granted(&mut self, granted: Option<&[u32]>, now: Instant) {
        let seen = granted.map_or_else(|| self.list.keys().copied().collect(), <[u32]>::to_vec);
        self.suspect(&seen, now);
    }

    /// A worker says that one of these is lost. Tells whether that is news.
    pub fn suspect(&mut self, seen: &[u32], now: Instant) -> bool {
        let mut is_news = false;
        for ordinal in seen {
            let Some(device) = self.list.get_mut(ordinal) else {
                continue;
            };
            if device.lost.is_none() && device.suspected.is_none() {
                let rested = device.probed.map_or(now, |probed| probed + PROBE_REST);
                device.suspected = Some(rested.max(now));
                is_news = true;
            }
        }
        is_news
    }

    /// A process that sees these was killed and does not go. Tells which it holds.
    pub fn quarantine(&mut self, seen: &[u32], pid: u32, now: Instant) -> Vec<u32> {
        let mut held = Vec::new();
        for ordinal in seen {
            if let Some(device) = self.list.get_mut(ordinal) {
                device.stuck.insert(pid, now);
                held.push(*ordinal);
            }
        }
        held
    }

    /// It is gone after all.
    pub fn release(&mut self, seen: &[u32], pid: u32) {
        for ordinal in seen {
            if let Some(device) = self.list.get_mut(ordinal) {
                device.stuck.remove(&pid);
            }
        }
    }

    /// What is left of the devices that a zone is granted: none for all. Left out is what is lost or quarantined.
    ///
    /// # Errors
    /// Why nothing is left.
    pub fn left_of(&self, granted: Option<&[u32]>) -> Result<Option<Vec<u32>>, String> {
        let objection = |ordinal: &u32| self.list.get(ordinal)?.objection(*ordinal);
        let known: Vec<u32>;
        let wanted = match granted {
            Some(list) => list,
            None => {
                known = self.list.keys().copied().collect();
                &known
            }
        };
        let objections: Vec<String> = wanted.iter().filter_map(objection).collect();
        if objections.is_empty() {
            return Ok(granted.map(<[u32]>::to_vec));
        }
        let left = wanted.iter().copied();
        let left: Vec<u32> = left
            .filter(|ordinal| objection(ordinal).is_none())
            .collect();
        if left.is_empty() {
            return Err(objections.join("; "));
        }
        Ok(Some(left))
    }

    /// What is to be done now.
    #[must_use]
    pub fn due(&self, now: Instant) -> Vec<(u32, Task)> {
        let due = self.list.iter().filter_map(|(&ordinal, device)| {
            let (task, at) = device.next(now)?;
            (at <= now).then_some((ordinal, task))
        });
        due.collect()
    }

    /// When the next thing is to be done.
    #[must_use]
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let next = self.list.values().filter_map(|device| device.next(now));
        next.map(|(_, at)| at).min()
    }

    /// A process starts to scrub or to probe a device.
    pub fn begin(&mut self, ordinal: u32, task: Task) {
        if let Some(device) = self.list.get_mut(&ordinal) {
            device.busy = Some(task);
        }
    }

    /// That process has ended in order and says this.
    ///
    /// # Errors
    /// Why that cannot be, or is not enough.
    pub fn finish(
        &mut self,
        ordinal: u32,
        said: &Scrubbed,
        took: Duration,
        now: Instant,
    ) -> Result<Found, Trouble> {
        if said.status != 0 {
            let status = CUresult(said.status);
            let why = format!("the driver says {status:?} ({})", said.status);
            let status = Some(status);
            return Err(Trouble { why, status });
        }
        let Some(device) = self.list.get_mut(&ordinal) else {
            return Ok(Found::Alive);
        };
        if device.busy == Some(Task::Scrub) {
            check(said)?;
            device.scrubs += 1;
            device.bytes = device.bytes.saturating_add(said.zeroed);
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            device.micros = device.micros.saturating_add(micros);
            device.scrub_backoff.succeeded();
            device.dirt = device.later.take();
        }
        let found = match (device.busy.take(), device.lost.take()) {
            (Some(Task::Scrub), _) => Found::Clean,
            (_, None) => Found::Alive,
            (_, Some(_)) => {
                // Nobody knows what a reset left there.
                device.dirt = Some(Dirt::old(now));
                Found::Back
            }
        };
        // A device that was scrubbed is not lost either.
        device.suspected = None;
        if found != Found::Clean {
            device.probed = Some(now);
        }
        device.probe_backoff.succeeded();
        Ok(found)
    }

    /// That process came to nothing.
    pub fn fail(&mut self, ordinal: u32, trouble: &Trouble, now: Instant) -> Failure {
        let again = |after, failures| Failure::Again { after, failures };
        let Some(device) = self.list.get_mut(&ordinal) else {
            return again(Duration::ZERO, 0);
        };
        let is_refused = trouble.status.is_some_and(|status| status != FULL);
        if device.busy.take() == Some(Task::Scrub) {
            if let (Some(dirt), Some(later)) = (&mut device.dirt, device.later.take()) {
                dirt.zones.extend(later.zones);
            }
            if is_refused {
                // It may be lost: a probe finds out.
                device.suspected = Some(now);
            }
            let after = device.scrub_backoff.failed(now, &trouble.why);
            return again(after, device.scrub_backoff.failures());
        }
        device.probed = Some(now);
        let after = device.probe_backoff.failed(now, &trouble.why);
        if device.lost.is_some() {
            return Failure::StillLost;
        }
        if is_refused {
            device.suspected = None;
            let why = trouble.why.clone();
            device.lost = Some(Loss { since: now, why });
            return Failure::Lost;
        }
        again(after, device.probe_backoff.failures())
    }

    /// The devices, for an administrator.
    #[must_use]
    pub fn status(&self, now: Instant) -> Vec<admin::Device> {
        let one = |(&ordinal, device): (&u32, &Device)| {
            let dirt = device.dirt.as_ref();
            let dirty_since = dirt.map(|dirt| dirt.since);
            let stuck_since = device.stuck.values().min().copied();
            let (state, since) = match (&device.lost, device.busy) {
                (Some(loss), _) => ("lost", Some(loss.since)),
                (None, _) if stuck_since.is_some() => ("quarantined", stuck_since),
                (None, _) if dirt.is_none() => ("clean", None),
                (None, Some(Task::Scrub)) => ("scrubbing", dirty_since),
                (None, _) => ("dirty", dirty_since),
            };
            let backoff = match device.probe_backoff.failures() {
                0 => &device.scrub_backoff,
                _ => &device.probe_backoff,
            };
            admin::Device {
                ordinal,
                state: state.into(),
                since_seconds: since.map(|since| now.saturating_duration_since(since).as_secs()),
                left_by: dirt.map_or_else(Vec::new, |dirt| dirt.zones.iter().cloned().collect()),
                stuck: device.stuck.keys().copied().collect(),
                failures: backoff.failures(),
                failure: backoff.reason().map(str::to_owned),
                scrubs: device.scrubs,
                scrubbed_bytes: device.bytes,
                scrub_micros: device.micros,
            }
        };
        self.list.iter().map(one).collect()
    }
}

/// Whether what a scrubber says can be, and is enough.
fn check(said: &Scrubbed) -> Result<(), String> {
    let &Scrubbed {
        reserved,
        total,
        free,
        zeroed,
        left,
        ..
    } = said;
    if reserved != 0 || total == 0 || free > total || zeroed > total || left > total - zeroed {
        return Err("the scrubber tells numbers that cannot be".into());
    }
    let allowed = LEFT_OVER.min(total / 16);
    if left > allowed || zeroed.saturating_add(allowed) < free {
        return Err(format!(
            "{left} bytes are free that the scrubber was not given, beside {zeroed} of {free} that it was"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);
    const ALL: Scrubbed = Scrubbed {
        status: 0,
        reserved: 0,
        total: 1 << 30,
        free: 1 << 29,
        zeroed: 1 << 29,
        left: 0,
    };

    /// One device that has been scrubbed once.
    fn clean(now: Instant) -> Devices {
        let mut devices = Devices::new(true, PATIENCE);
        assert_eq!(devices.learn(&[0], now), [0]);
        devices.begin(0, Task::Scrub);
        devices
            .finish(0, &ALL, Duration::from_millis(3), now)
            .unwrap();
        devices
    }

    #[test]
    fn a_device_that_nobody_knows_anything_of_is_dirty_for_everybody() {
        let now = Instant::now();
        let mut devices = Devices::new(true, PATIENCE);
        devices.learn(&[0, 1], now);
        assert_eq!(devices.due(now), [(0, Task::Scrub), (1, Task::Scrub)]);
        let until = Leave::Wait(now + PATIENCE);
        assert_eq!(devices.leave(&[0], "a", 1, now), until);
        assert_eq!(devices.leave(&[0], "a", 0, now), Leave::Given);
        assert!(devices.learn(&[0, 1], now).is_empty());
    }

    #[test]
    fn where_processes_have_memory_of_their_own_nothing_is_ever_dirty() {
        let now = Instant::now();
        let mut devices = Devices::new(false, PATIENCE);
        devices.learn(&[0], now);
        assert!(devices.soil(&[0], "a", now).is_empty());
        assert!(devices.due(now).is_empty());
        assert_eq!(devices.leave(&[0], "b", 1, now), Leave::Given);
    }

    #[test]
    fn what_a_zone_left_waits_for_others_and_not_for_itself() {
        let now = Instant::now();
        let mut devices = clean(now);
        devices.soil(&[0], "a", now);
        assert_eq!(devices.leave(&[0], "a", 1, now), Leave::Given);
        let wait = Leave::Wait(now + PATIENCE);
        assert_eq!(devices.leave(&[0], "b", 1, now), wait);
        assert_eq!(devices.leave(&[1], "b", 1, now), Leave::Given);
        devices.soil(&[0], "b", now);
        assert_eq!(devices.leave(&[0], "a", 1, now), wait);
        let late = now + PATIENCE;
        let denied = Leave::Denied { device: 0 };
        assert_eq!(devices.leave(&[0], "a", 1, late), denied);
        assert_eq!(devices.leave(&[0], "a", 0, late), Leave::Given);
    }

    #[test]
    fn while_a_scrubber_holds_what_is_free_everybody_waits() {
        let now = Instant::now();
        let mut devices = clean(now);
        devices.soil(&[0], "a", now);
        devices.begin(0, Task::Scrub);
        let wait = Leave::Wait(now + PATIENCE);
        assert_eq!(devices.leave(&[0], "a", 0, now), wait);
        assert!(devices.due(now).is_empty());
        devices
            .finish(0, &ALL, Duration::from_millis(3), now)
            .unwrap();
        assert_eq!(devices.leave(&[0], "b", 1, now), Leave::Given);
        let status = &devices.status(now)[0];
        assert_eq!((status.state.as_str(), status.scrubs), ("clean", 2));
        assert_eq!(status.scrubbed_bytes, 1 << 30);
        assert_eq!(status.scrub_micros, 6000);
    }

    #[test]
    fn what_becomes_free_during_a_scrub_is_scrubbed_again() {
        let now = Instant::now();
        let mut devices = clean(now);
        devices.soil(&[0], "a", now);
        devices.begin(0, Task::Scrub);
        devices.soil(&[0], "b", now);
        let wait = Leave::Wait(now + PATIENCE);
        assert_eq!(devices.leave(&[0], "a", 1, now), wait);
        devices.finish(0, &ALL, Duration::ZERO, now).unwrap();
        assert_eq!(devices.due(now), [(0, Task::Scrub)]);
        assert_eq!(devices.leave(&[0], "a", 1, now), wait);
        assert_eq!(devices.leave(&[0], "b", 1, now), Leave::Given);
    }

    #[test]
    fn a_failed_scrub_leaves_the_device_dirty_and_the_next_one_is_later() {
        let now = Instant::now();
        let mut devices = clean(now);
        devices.soil(&[0], "a", now);
        devices.begin(0, Task::Scrub);
        devices.soil(&[0], "b", now);
        let died = Trouble::from("it died".to_owned());
        let Failure::Again { after, failures: 1 } = devices.fail(0, &died, now) else {
            panic!("it is not lost");
        };
        assert!(devices.due(now).is_empty());
        assert_eq!(devices.next_deadline(now), Some(now + after));
        assert_eq!(devices.due(now + after), [(0, Task::Scrub)]);
        let status = &devices.status(now)[0];
        assert_eq!(status.failure.as_deref(), Some("it died"));
        assert_eq!(status.left_by, ["a", "b"]);
    }

    /// The device is not there, by a probe.
    fn lose(devices: &mut Devices, now: Instant) {
        assert!(devices.suspect(&[0], now));
        let at = devices.next_deadline(now).unwrap();
        assert!(devices.due(at).contains(&(0, Task::Probe)));
        devices.begin(0, Task::Probe);
        let gone = Scrubbed { status: 46, ..ALL };
        let trouble = devices.finish(0, &gone, Duration::ZERO, at).unwrap_err();
        assert_eq!(devices.fail(0, &trouble, at), Failure::Lost);
    }

    #[test]
    fn a_device_that_a_probe_does_not_find_is_nobodys_until_one_does() {
        let now = Instant::now();
        let mut devices = clean(now);
        devices.learn(&[1], now);
        assert_eq!(devices.left_of(None), Ok(None));
        lose(&mut devices, now);
        assert_eq!(devices.left_of(None), Ok(Some(vec![1])));
        assert_eq!(devices.left_of(Some(&[1])), Ok(Some(vec![1])));
        let why = devices.left_of(Some(&[0])).unwrap_err();
        assert!(why.contains("device 0 is lost: the driver says"), "{why}");
        assert_eq!(devices.status(now)[0].state, "lost");
        assert!(!devices.suspect(&[0], now), "that is known");

        let later = now + Duration::from_secs(60);
        assert!(devices.due(later).contains(&(0, Task::Probe)));
        devices.begin(0, Task::Probe);
        let found = devices.finish(0, &ALL, Duration::ZERO, later);
        assert_eq!(found, Ok(Found::Back));
        assert_eq!(devices.left_of(Some(&[0])), Ok(Some(vec![0])));
        assert!(devices.due(later).contains(&(0, Task::Scrub)));
        assert_ne!(devices.leave(&[0], "a", 1, later), Leave::Given);
    }

    #[test]
    fn whoever_cries_wolf_has_a_device_probed_now_and_then_only() {
        let now = Instant::now();
        let mut devices = clean(now);
        assert!(devices.suspect(&[0], now));
        assert_eq!(devices.due(now), [(0, Task::Probe)]);
        devices.begin(0, Task::Probe);
        let found = devices.finish(0, &ALL, Duration::ZERO, now);
        assert_eq!(found, Ok(Found::Alive));
        assert!(devices.suspect(&[0], now));
        assert!(devices.due(now).is_empty());
        assert_eq!(devices.next_deadline(now), Some(now + PROBE_REST));
        assert_eq!(devices.left_of(Some(&[0])), Ok(Some(vec![0])));
    }

    #[test]
    fn a_probe_that_gets_no_memory_or_dies_does_not_make_a_device_lost() {
        let now = Instant::now();
        let mut devices = clean(now);
        devices.suspect(&[0], now);
        for status in [Some(FULL), None] {
            devices.begin(0, Task::Probe);
            let why = "no".to_owned();
            let failure = devices.fail(0, &Trouble { why, status }, now);
            assert!(matches!(failure, Failure::Again { .. }), "{failure:?}");
        }
        assert_eq!(devices.left_of(None), Ok(None));
    }

    #[test]
    fn a_device_that_a_killed_process_holds_is_quarantined_until_it_is_gone() {
        let now = Instant::now();
        let mut devices = clean(now);
        devices.soil(&[0], "a", now);
        assert_eq!(devices.quarantine(&[0, 7], 4711, now), [0]);
        let why = devices.left_of(None).unwrap_err();
        assert!(why.contains("process 4711 does not go away"), "{why}");
        assert!(devices.due(now).is_empty(), "a scrubber would hang as well");
        let status = &devices.status(now)[0];
        assert_eq!(status.state, "quarantined");
        assert_eq!(status.stuck, [4711]);
        devices.release(&[0], 4711);
        assert_eq!(devices.left_of(None), Ok(None));
        assert_eq!(devices.due(now), [(0, Task::Scrub)]);
    }

    #[test]
    fn a_scrub_that_the_driver_refuses_has_the_device_probed() {
        let now = Instant::now();
        let mut devices = clean(now);
        devices.soil(&[0], "a", now);
        devices.begin(0, Task::Scrub);
        let gone = Scrubbed { status: 999, ..ALL };
        let trouble = devices.finish(0, &gone, Duration::ZERO, now).unwrap_err();
        devices.fail(0, &trouble, now);
        assert_eq!(devices.due(now), [(0, Task::Probe)]);
    }

    #[test]
    fn a_scrubber_that_lies_or_did_too_little_is_not_believed() {
        let too_little = 1 << 20;
        for said in [
            Scrubbed { status: 2, ..ALL },
            Scrubbed { reserved: 1, ..ALL },
            Scrubbed { total: 0, ..ALL },
            Scrubbed {
                free: (1 << 30) + 1,
                ..ALL
            },
            Scrubbed {
                zeroed: u64::MAX,
                ..ALL
            },
            Scrubbed {
                zeroed: too_little,
                ..ALL
            },
            Scrubbed {
                left: 1 << 29,
                ..ALL
            },
        ] {
            let now = Instant::now();
            let mut devices = clean(now);
            devices.soil(&[0], "a", now);
            devices.begin(0, Task::Scrub);
            assert!(
                devices.finish(0, &said, Duration::ZERO, now).is_err(),
                "{said:?}"
            );
            assert_eq!(devices.status(now)[0].state, "scrubbing");
        }
    }
}
