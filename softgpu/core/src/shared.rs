//! A device that several processes share: a mode for tests, off unless `SOFTGPU_SHARED` names a folder.
//!
//! A real GPU has one memory for all its processes, gives one process's freed memory to another as it was
//! left, and can hang or be lost for all of them. What isolation and recovery are worth can only be tested
//! where this is so. Every process that names the same folder has the same devices:
//!
//! | file of `device-N` | holds |
//! |---|---|
//! | `memory` | the device's memory, mapped by whoever was granted a part |
//! | `table` | for each granule of it the number of the process that has it, from one (u16, little endian) |
//! | `processes/K` | the id of process number K, which holds its lock |
//! | `state` | `running`, `hung` or `lost`, written by `softgpu-device` |
//!
//! Locks are the system's, so those of a process that died are free: whoever needs memory then takes what
//! that process had. All of this is slow, simple and without unsafe code. Not a security boundary.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, create_dir_all};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::memory::GRANULE;
use crate::os;

/// Processes that one device takes.
const MOST_PROCESSES: u16 = 1024;
/// How soon a process learns that its device hangs or is lost.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What is the matter with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Running,
    /// What is submitted begins no more, and what runs never ends.
    Hung,
    /// Every call in every context fails for good.
    Lost,
}

impl State {
    const ALL: [Self; 3] = [Self::Running, Self::Hung, Self::Lost];

    /// As the file says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Hung => "hung",
            Self::Lost => "lost",
        }
    }

    fn of(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|state| state.name() == text.trim())
    }
}

/// One process's part of a shared device's memory.
#[derive(Debug)]
pub struct Pool {
    memory: File,
    table: File,
    processes: PathBuf,
    /// This process's number, and the lock that says that it lives.
    number: u16,
    _alive: File,
    granules: u64,
}

impl Pool {
    /// Joins the device in `folder`, and makes it first if there is none.
    ///
    /// # Errors
    /// The system's; or that the device there has another size.
    pub fn join(folder: &Path, bytes: u64) -> io::Result<Self> {
        let processes = folder.join("processes");
        create_dir_all(&processes)?;
        let memory = open(&folder.join("memory"))?;
        let table = open(&folder.join("table"))?;
        let granules = bytes / GRANULE;
        table.lock()?;
        let known = table.metadata()?.len() / 2;
        if known == 0 {
            memory.set_len(granules * GRANULE)?;
            table.set_len(granules * 2)?;
        } else if known != granules {
            let (has, asked) = (known * GRANULE, granules * GRANULE);
            let text =
                format!("the shared device has {has} bytes of memory, SOFTGPU_MEMORY says {asked}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let (number, alive) = enrol(&processes)?;
        let pool = Self {
            memory,
            table,
            processes,
            number,
            _alive: alive,
            granules,
        };
        // The number may have been a dead process's.
        let mut owners = pool.read()?;
        owners
            .iter_mut()
            .filter(|owner| **owner == number)
            .for_each(|owner| *owner = 0);
        pool.write(&owners)?;
        pool.table.unlock()?;
        Ok(pool)
    }

    /// Takes `count` granules, those with the lowest numbers, as their last owner left them. `None`: there
    /// are not so many.
    ///
    /// # Errors
    /// The system's.
    pub fn take(&self, count: u64) -> io::Result<Option<Vec<u32>>> {
        self.locked(|owners| {
            let free: Vec<u32> = (0..)
                .zip(owners.iter())
                .filter(|(_, owner)| **owner == 0)
                .map(|(granule, _)| granule)
                .take(os::usize_of(count))
                .collect();
            if (free.len() as u64) < count {
                return None;
            }
            for granule in &free {
                owners[os::usize_of(u64::from(*granule))] = self.number;
            }
            Some(free)
        })
    }

    /// Gives granules back.
    pub(crate) fn give_back(&self, granules: &[u32]) -> io::Result<()> {
        self.locked(|owners| {
            for granule in granules {
                owners[os::usize_of(u64::from(*granule))] = 0;
            }
        })
    }

    /// Free and total bytes.
    pub(crate) fn room(&self) -> io::Result<(u64, u64)> {
        let free = self.locked(|owners| owners.iter().filter(|owner| **owner == 0).count())?;
        Ok((free as u64 * GRANULE, self.granules * GRANULE))
    }

    /// The memory itself.
    pub(crate) const fn memory(&self) -> &File {
        &self.memory
    }

    /// Works on the table, of which the dead have been struck off, while no other process does.
    fn locked<T>(&self, work: impl FnOnce(&mut [u16]) -> T) -> io::Result<T> {
        self.table.lock()?;
        let done = self.read().and_then(|mut owners| {
            strike_off_the_dead(&self.processes, self.number, &mut owners);
            let result = work(&mut owners);
            self.write(&owners)?;
            Ok(result)
        });
        self.table.unlock()?;
        done
    }

    fn read(&self) -> io::Result<Vec<u16>> {
        read_table(&self.table, self.granules)
    }

    fn write(&self, owners: &[u16]) -> io::Result<()> {
        let bytes: Vec<u8> = owners
            .iter()
            .flat_map(|owner| owner.to_le_bytes())
            .collect();
        self.table.write_all_at(&bytes, 0)
    }
}

/// Bytes of a device that each living process has, by process id.
///
/// # Errors
/// The system's; among them that there is no such device.
pub fn usage(folder: &Path) -> io::Result<BTreeMap<u32, u64>> {
    let table = File::open(folder.join("table"))?;
    let processes = folder.join("processes");
    table.lock_shared()?;
    let mut owners = read_table(&table, table.metadata()?.len() / 2)?;
    strike_off_the_dead(&processes, 0, &mut owners);
    let mut usage = BTreeMap::new();
    for number in 1..=MOST_PROCESSES {
        let Ok(mut file) = File::open(processes.join(number.to_string())) else {
            break;
        };
        if is_dead(&processes, number) {
            continue;
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        if let Ok(id) = text.trim().parse() {
            let count = owners.iter().filter(|owner| **owner == number).count();
            usage.insert(id, count as u64 * GRANULE);
        }
    }
    Ok(usage)
}

/// What is the matter with the device in `folder`.
///
/// # Errors
/// The system's, or that the file holds something else.
pub fn state(folder: &Path) -> io::Result<State> {
    match std::fs::read_to_string(folder.join("state")) {
        Ok(text) => State::of(&text)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no such state")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::Running),
        Err(error) => Err(error),
    }
}

/// Has every process find the device in `folder` in this state.
///
/// # Errors
/// The system's.
pub fn set_state(folder: &Path, state: State) -> io::Result<()> {
    // At once as a whole: nobody finds half a word.
    let new = folder.join("state.new");
    std::fs::write(&new, state.name())?;
    std::fs::rename(new, folder.join("state"))
}

/// Where a device is in a shared folder.
#[must_use]
pub fn device_folder(shared: &Path, ordinal: u32) -> PathBuf {
    shared.join(format!("device-{ordinal}"))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

fn read_table(table: &File, granules: u64) -> io::Result<Vec<u16>> {
    let mut bytes = vec![0; os::usize_of(granules * 2)];
    table.read_exact_at(&mut bytes, 0)?;
    let (owners, _) = bytes.as_chunks::<2>();
    Ok(owners
        .iter()
        .map(|bytes| u16::from_le_bytes(*bytes))
        .collect())
}

/// The lowest number that no living process has.
fn enrol(processes: &Path) -> io::Result<(u16, File)> {
    for number in 1..=MOST_PROCESSES {
        let mut file = open(&processes.join(number.to_string()))?;
        if file.try_lock().is_ok() {
            file.set_len(0)?;
            file.write_all(std::process::id().to_string().as_bytes())?;
            return Ok((number, file));
        }
    }
    Err(io::Error::other("too many processes share the device"))
}

fn is_dead(processes: &Path, number: u16) -> bool {
    // A lock that can be had is held by nobody; it goes with the file at the end of this function.
    File::open(processes.join(number.to_string())).is_ok_and(|file| file.try_lock_shared().is_ok())
}

fn strike_off_the_dead(processes: &Path, own: u16, owners: &mut [u16]) {
    let mut known = BTreeMap::new();
    for owner in owners.iter_mut() {
        let dead = |number| number != own && is_dead(processes, number);
        if *owner != 0 && *known.entry(*owner).or_insert_with(|| dead(*owner)) {
            *owner = 0;
        }
    }
}

/// What a process knows of its shared device's state, a few milliseconds late.
pub struct Health {
    state: AtomicU8,
    /// Told when the device is lost; gone ones say no.
    mourners: Mutex<Vec<Box<dyn Fn() -> bool + Send>>>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health")
            .field("state", &self.get())
            .finish_non_exhaustive()
    }
}

impl Health {
    /// Watches the device in `folder` for as long as anybody asks.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn watch(folder: PathBuf) -> io::Result<Arc<Self>> {
        let health = Arc::new(Self {
            state: AtomicU8::new(state(&folder)? as u8),
            mourners: Mutex::default(),
        });
        let watched = Arc::downgrade(&health);
        os::spawn_quiet("softgpu-health", move || look(&watched, &folder))?;
        Ok(health)
    }

    /// What is the matter.
    pub(crate) fn get(&self) -> State {
        let found = self.state.load(Ordering::Acquire);
        State::ALL
            .into_iter()
            .find(|state| *state as u8 == found)
            .unwrap_or(State::Lost)
    }

    /// Has `mourn` called when the device is lost, until it says that nobody is left to tell.
    pub(crate) fn on_loss(&self, mourn: impl Fn() -> bool + Send + 'static) {
        let mut mourners = self.mourners.lock().unwrap_or_else(PoisonError::into_inner);
        mourners.push(Box::new(mourn));
    }

    /// Returns when the device does not hang.
    pub(crate) fn hold(&self) {
        while self.get() == State::Hung {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn look(health: &Weak<Health>, folder: &Path) {
    while let Some(health) = health.upgrade() {
        // A folder that is gone takes its device with it.
        let found = state(folder).unwrap_or(State::Lost);
        health.state.store(found as u8, Ordering::Release);
        if found == State::Lost {
            let mut mourners = health
                .mourners
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            mourners.retain(|mourn| mourn());
        }
        drop(health);
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("softgpu-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn processes_share_one_memory_and_what_a_dead_one_had_is_free() {
        let folder = folder("pool");
        let first = Pool::join(&folder, 4 * GRANULE).unwrap();
        let second = Pool::join(&folder, 4 * GRANULE).unwrap();
        assert_eq!(first.take(3).unwrap(), Some(vec![0, 1, 2]));
        assert_eq!(second.take(2).unwrap(), None, "only one is left");
        assert_eq!(second.room().unwrap(), (GRANULE, 4 * GRANULE));
        first.give_back(&[1]).unwrap();
        assert_eq!(second.take(2).unwrap(), Some(vec![1, 3]));
        drop(first);
        assert_eq!(second.room().unwrap().0, 2 * GRANULE);
        let third = Pool::join(&folder, 4 * GRANULE).unwrap();
        assert_eq!(third.take(2).unwrap(), Some(vec![0, 2]));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_device_of_another_size_is_refused_and_says_which() {
        let folder = folder("size");
        let _first = Pool::join(&folder, 4 * GRANULE).unwrap();
        let error = Pool::join(&folder, 8 * GRANULE).unwrap_err().to_string();
        assert!(
            error.contains(&(4 * GRANULE).to_string()) && error.contains("SOFTGPU_MEMORY"),
            "{error}"
        );
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_state_is_what_was_set_and_running_before() {
        let folder = folder("state");
        create_dir_all(&folder).unwrap();
        assert_eq!(state(&folder).unwrap(), State::Running);
        for wanted in State::ALL {
            set_state(&folder, wanted).unwrap();
            assert_eq!(state(&folder).unwrap(), wanted);
        }
        std::fs::write(folder.join("state"), "odd").unwrap();
        assert!(state(&folder).is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
