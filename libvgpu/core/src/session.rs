//! An attachment: the memory that the proxy handed over, and everything that belongs to it.

use std::cell::Cell;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{
    Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::time::{Duration, Instant};

use cuda_abi::function::Group;
use cuda_abi::managed::Managed;
use cuda_abi::types::CUresult;
use cuda_abi::visible::visible;
use idm_protocol::attach::client::{AttachError, Lifeline, attach};
use idm_protocol::attach::{Capabilities, Hello, RefusalCode, Welcome};
use idm_protocol::callback::CallbackEnd;
use idm_protocol::control::ClientControl;
use idm_protocol::handle::{ClientTable, HandleLimits, Kind};
use idm_protocol::layout::CHUNK_BYTES;
use idm_protocol::memory::Mapped;
use idm_protocol::status::{ClientState, StatusPage};
use idm_protocol::wait::{Liveness, Patience};
use idm_protocol::window::{Arena, CANDIDATES, WINDOW_BYTES, reserve_candidates};
use idm_protocol::wire::{self, snapshot};

use crate::api::node::Told;
use crate::api::texture::ImageObject;
use crate::call::Outcome;
use crate::callbacks::Callbacks;
use crate::captures::Captures;
use crate::context::Primary;
use crate::log::say;
use crate::mirrors::Mirrors;
use crate::objects::{Detail, Object, Objects};
use crate::pinned::Pieces;
use crate::pools::Pools;
use crate::ranges::Ranges;
use crate::state;
use crate::vmm::Vmm;

const SOCKET: &str = "/run/vgpu/gpu.sock";
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
const HANG_TIMEOUT: Duration = Duration::from_secs(30);

/// One attachment to the proxy. There is at most one in a process, and it lives as long as that.
#[derive(Debug)]
pub(crate) struct Session {
    /// What the supervisor said.
    pub(crate) welcome: Welcome,
    /// The shared rings, lanes and words.
    pub(crate) control: ClientControl<Mapped>,
    /// Pinned host memory, staging first.
    pub(crate) arena: Arena,
    /// How long to wait in which way.
    pub(crate) patience: Patience,
    /// The ranges that addresses are looked up in.
    pub(crate) ranges: Ranges,
    /// Reserved addresses of device memory.
    pub(crate) mirrors: Mirrors,
    /// The arena's free pieces.
    pub(crate) pieces: Mutex<Pieces>,
    /// Host functions on their way.
    pub(crate) callbacks: Callbacks,
    /// Held by who prints what kernels printed.
    pub(crate) printing: Mutex<()>,
    /// Addresses of pinned memory that graphs needed and no graph needs any more.
    pub(crate) unused: Mutex<Vec<u64>>,
    /// Lists that the program was told of nodes, by handle.
    pub(crate) told: Mutex<HashMap<u64, Told>>,
    /// Stream captures.
    pub(crate) captures: Captures,
    /// Length of each piece handed out, by address.
    pub(crate) pinned: Mutex<HashMap<u64, usize>>,
    /// Other processes have events of this one, or this one has theirs.
    pub(crate) shares_events: AtomicBool,
    /// What is opened and closed of other processes' memory, one after the other.
    imports: Mutex<()>,
    /// What texture and surface objects were made with, by value.
    pub(crate) images: Mutex<HashMap<u64, ImageObject>>,
    /// Reserved addresses, and memory without one.
    pub(crate) vmm: Mutex<Vmm>,
    /// What the program said about managed memory, by address.
    pub(crate) managed: Mutex<HashMap<u64, Managed>>,
    /// Pools, and which is used where.
    pub(crate) pools: Mutex<Pools>,
    objects: RwLock<Objects>,
    /// For each context slot the generation of the context that is alive there, or 0.
    alive: Vec<AtomicU32>,
    devices: OnceLock<Devices>,
    status: StatusPage,
    lifeline: Lifeline,
    hang_timeout: Duration,
    last_upload: AtomicU64,
}

/// The devices that the program sees.
#[derive(Debug)]
pub(crate) struct Devices {
    /// What the driver says about each, in the program's order.
    pub(crate) list: Vec<snapshot::Device>,
    /// The worker's ordinal of each.
    worker: Vec<i32>,
    /// The primary context of each.
    pub(crate) primary: Vec<Mutex<Primary>>,
}

/// Why there is no session. The text is the one line that the program's user gets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The conversation with the supervisor failed.
    #[error("{error} (socket {}; VGPU_SOCKET names another)", socket.display())]
    Attach { error: AttachError, socket: PathBuf },
    /// The supervisor chose a window that we do not have.
    #[error("the GPU proxy chose address window {window}, which this process cannot use (socket {}); report this as a bug", socket.display())]
    Window { window: u32, socket: PathBuf },
    /// What it handed over cannot be put to use.
    #[error("cannot map what the GPU proxy handed over: {reason} (socket {}); is there enough memory and address space?", socket.display())]
    Memory { reason: String, socket: PathBuf },
}

impl Refusal {
    /// What `cuInit` returns for it.
    pub(crate) fn code(&self) -> CUresult {
        let Self::Attach { error, .. } = self else {
            return CUresult::CUDA_ERROR_SYSTEM_NOT_READY;
        };
        match error {
            AttachError::Refused { code, .. } => match *code {
                RefusalCode::WRONG_VERSION | RefusalCode::WRONG_TABLE | RefusalCode::MALFORMED => {
                    CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
                }
                RefusalCode::ZONE_FULL
                | RefusalCode::UID_NOT_ALLOWED
                | RefusalCode::NOT_GRANTED => CUresult::CUDA_ERROR_NOT_PERMITTED,
                RefusalCode::DEVICE_LOST => CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE,
                _ => CUresult::CUDA_ERROR_SYSTEM_NOT_READY,
            },
            AttachError::Malformed(_)
            | AttachError::Limits(_)
            | AttachError::Memory(_)
            | AttachError::Descriptors(_) => CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,
            _ => CUresult::CUDA_ERROR_SYSTEM_NOT_READY,
        }
    }
}

impl Session {
    /// Attaches to the zone whose socket the environment names.
    pub(crate) fn attach() -> Result<Self, Refusal> {
        Self::attach_to(&socket(), attach_timeout())
    }

    fn attach_to(socket: &Path, timeout: Duration) -> Result<Self, Refusal> {
        let at = || socket.to_owned();
        let memory = |reason: &dyn std::fmt::Display| Refusal::Memory {
            reason: reason.to_string(),
            socket: at(),
        };
        let (mask, mut windows) = reserve_candidates(WINDOW_BYTES);
        let hello = Hello::new(wire::TABLE_HASH, Capabilities::ALL, mask, &program_name());
        let attached = attach(socket, &hello, timeout).map_err(|error| Refusal::Attach {
            error,
            socket: at(),
        })?;
        let welcome = attached.welcome;
        let window = usize::try_from(welcome.window)
            .ok()
            .filter(|&index| index < CANDIDATES.len());
        let window = window
            .and_then(|index| windows[index].take())
            .ok_or_else(|| Refusal::Window {
                window: welcome.window,
                socket: at(),
            })?;
        drop(windows);
        let arena = Arena::map(window, &attached.arena).map_err(|error| memory(&error))?;
        let region = Mapped::new(&attached.control).map_err(|error| memory(&error))?;
        let status = StatusPage::open(&attached.status).map_err(|error| memory(&error))?;
        let patience = Patience::detect();
        let (control, callback_end) = ClientControl::open(&region, &welcome.limits, patience)
            .map_err(|error| memory(&error))?;
        say!(
            Info,
            "attached to {} as client {}: driver {} {}, {} device(s), {} MiB of pinned memory",
            socket.display(),
            welcome.client_id,
            welcome.driver_kind.name(),
            welcome.driver_version,
            welcome.device_count,
            arena.byte_len() >> 20
        );
        Ok(Self::assemble(
            welcome,
            control,
            callback_end,
            arena,
            status,
            attached.lifeline,
            patience,
        ))
    }

    fn assemble(
        welcome: Welcome,
        control: ClientControl<Mapped>,
        callback_end: CallbackEnd<Mapped>,
        arena: Arena,
        status: StatusPage,
        lifeline: Lifeline,
        patience: Patience,
    ) -> Self {
        let limits = welcome.limits;
        let mut objects = ClientTable::new(HandleLimits::new(&limits));
        // The first stream slot counts the credits of all default streams (`wire::credit`); no stream
        // ever gets it.
        let _ = objects.mint(
            Kind::STREAM,
            Object {
                context: 0,
                detail: Detail::Plain,
            },
        );
        let staging = usize::try_from(limits.staging_chunks)
            .unwrap_or(usize::MAX)
            .saturating_mul(CHUNK_BYTES);
        Self {
            pieces: Mutex::new(Pieces::new(staging, arena.byte_len())),
            callbacks: Callbacks::new(callback_end),
            printing: Mutex::default(),
            captures: Captures::default(),
            told: Mutex::default(),
            unused: Mutex::default(),
            pinned: Mutex::default(),
            shares_events: AtomicBool::new(false),
            imports: Mutex::default(),
            images: Mutex::default(),
            vmm: Mutex::default(),
            managed: Mutex::default(),
            pools: Mutex::default(),
            objects: RwLock::new(objects),
            alive: (0..limits.contexts).map(|_| AtomicU32::new(0)).collect(),
            devices: OnceLock::new(),
            ranges: Ranges::default(),
            mirrors: Mirrors::default(),
            hang_timeout: seconds("VGPU_HANG_TIMEOUT", HANG_TIMEOUT),
            last_upload: AtomicU64::new(0),
            welcome,
            control,
            arena,
            patience,
            status,
            lifeline,
        }
    }

    /// The handle table, to look at.
    #[inline]
    pub(crate) fn objects(&self) -> RwLockReadGuard<'_, Objects> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a texture or surface object was made with.
    pub(crate) fn image(&self, object: u64) -> Option<ImageObject> {
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.get(&object).copied()
    }

    /// Notes what a texture or surface object was made with. A driver that gives out a value again has ended
    /// the object that had it before, with its context.
    pub(crate) fn keep_image(&self, object: u64, made_with: ImageObject) {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.insert(object, made_with);
    }

    /// The object is gone.
    pub(crate) fn forget_image(&self, object: u64) {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.remove(&object);
    }

    /// The handle table, to change.
    pub(crate) fn objects_mut(&self) -> RwLockWriteGuard<'_, Objects> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The devices, once `cuInit` has brought them.
    pub(crate) fn devices(&self) -> Outcome<&Devices> {
        self.devices
            .get()
            .ok_or(CUresult::CUDA_ERROR_NOT_INITIALIZED)
    }

    /// Takes in the snapshot of all devices and keeps what the program may see.
    pub(crate) fn set_devices(&self, all: Vec<snapshot::Device>) -> Outcome<&Devices> {
        if let Some(known) = self.devices.get() {
            return Ok(known);
        }
        let uuids: Vec<_> = all.iter().map(|device| device.uuid).collect();
        let shown = visible(
            std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref(),
            &uuids,
        );
        let mut devices = Devices {
            list: Vec::new(),
            worker: Vec::new(),
            primary: Vec::new(),
        };
        for index in shown {
            let ordinal = i32::try_from(devices.list.len()).unwrap_or(i32::MAX);
            devices
                .primary
                .push(Mutex::new(Primary::new(self, ordinal)?));
            devices
                .worker
                .push(i32::try_from(index).unwrap_or(i32::MAX));
            devices.list.extend(all.get(index));
        }
        Ok(self.devices.get_or_init(|| devices))
    }

    /// The context in `slot` is alive in this generation; 0 says that it is not.
    pub(crate) fn set_alive(&self, slot: u32, generation: u32) {
        if let Some(word) = self.alive.get(usize::try_from(slot).unwrap_or(usize::MAX)) {
            word.store(generation, Ordering::Release);
        }
    }

    /// Whether the context that had this slot in this generation still does.
    #[inline]
    pub(crate) fn is_alive(&self, slot: u32, generation: u32) -> bool {
        let word = self.alive.get(usize::try_from(slot).unwrap_or(usize::MAX));
        generation != 0 && word.is_some_and(|word| word.load(Ordering::Acquire) == generation)
    }

    /// A number for an upload that no other one has; never 0.
    pub(crate) fn next_upload(&self) -> u64 {
        self.last_upload.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// For one wait: how it learns that what it waits for will never come.
    #[inline]
    pub(crate) fn live(&self) -> Live<'_> {
        Live {
            session: self,
            asked: Cell::new(None),
        }
    }

    /// Held while another process's memory is opened or closed.
    pub(crate) fn imports(&self) -> MutexGuard<'_, ()> {
        self.imports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker is gone, for this reason: every call fails from now on. The first one to notice says so.
    #[cold]
    pub(crate) fn lost(&self, reason: &str) -> CUresult {
        // A worker that ended itself over lost contexts has said with which error.
        let code = self
            .control
            .latches
            .any_context()
            .map(|error| CUresult(error.code));
        if state::ended(code.unwrap_or(CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE)) {
            say!(
                Error,
                "the GPU is gone: {reason} (client {}); every CUDA call of this process fails from now on",
                self.welcome.client_id
            );
        }
        state::end()
    }

    /// As [`Session::lost`], when a wait noticed and the supervisor may know why.
    #[cold]
    pub(crate) fn gone(&self) -> CUresult {
        if self.status.state() == ClientState::ENDED {
            self.lost(&self.status.end_reason().to_string())
        } else {
            self.lost("its worker ended or stopped answering")
        }
    }

    /// Whether the zone is granted the functions of this group at this moment.
    #[inline]
    pub(crate) fn is_granted(&self, group: Group) -> bool {
        self.status.capabilities() & group.bit() != 0
    }

    /// Whether the zone may acquire and run nothing at this moment.
    pub(crate) fn is_stopped(&self) -> bool {
        self.status.capabilities() == 0
    }

    /// The attach socket's number.
    pub(crate) fn lifeline_descriptor(&self) -> i32 {
        self.lifeline.as_fd().as_raw_fd()
    }
}

impl Devices {
    /// The worker's ordinal of a device of the program's.
    pub(crate) fn worker_ordinal(&self, device: i32) -> Outcome<i32> {
        let index = usize::try_from(device).map_err(|_| CUresult::CUDA_ERROR_INVALID_DEVICE)?;
        self.worker
            .get(index)
            .copied()
            .ok_or(CUresult::CUDA_ERROR_INVALID_DEVICE)
    }

    /// What is known about a device.
    pub(crate) fn get(&self, device: i32) -> Outcome<&snapshot::Device> {
        let index = usize::try_from(device).map_err(|_| CUresult::CUDA_ERROR_INVALID_DEVICE)?;
        self.list
            .get(index)
            .ok_or(CUresult::CUDA_ERROR_INVALID_DEVICE)
    }

    /// A device's primary context.
    pub(crate) fn primary(&self, device: i32) -> Outcome<&Mutex<Primary>> {
        let index = usize::try_from(device).map_err(|_| CUresult::CUDA_ERROR_INVALID_DEVICE)?;
        self.primary
            .get(index)
            .ok_or(CUresult::CUDA_ERROR_INVALID_DEVICE)
    }
}

/// The sign of life of one wait. A worker that computes is alive; one that answers no ping for long is not.
#[derive(Debug)]
pub(crate) struct Live<'a> {
    session: &'a Session,
    asked: Cell<Option<(u64, Instant)>>,
}

impl Liveness for Live<'_> {
    #[inline]
    fn ended(&self) -> bool {
        self.session.status.state() == ClientState::ENDED
    }

    fn probe(&self) -> bool {
        if self.ended() || self.session.lifeline.is_cut() {
            return true;
        }
        let ping = &self.session.control.ping;
        match self.asked.get() {
            Some((question, since)) if !ping.answered(question) => {
                let hangs = since.elapsed() >= self.session.hang_timeout;
                if hangs {
                    self.session
                        .lost("its worker does not answer (VGPU_HANG_TIMEOUT)");
                }
                hangs
            }
            _ => {
                self.asked.set(Some((ping.ask(), Instant::now())));
                false
            }
        }
    }
}

/// A time in seconds from the environment.
/// The zone's socket, as the environment names it.
pub(crate) fn socket() -> PathBuf {
    std::env::var_os("VGPU_SOCKET").map_or_else(|| PathBuf::from(SOCKET), PathBuf::from)
}

/// How long to wait for the supervisor's answer.
pub(crate) fn attach_timeout() -> Duration {
    seconds("VGPU_ATTACH_TIMEOUT", ATTACH_TIMEOUT)
}

fn seconds(name: &str, default: Duration) -> Duration {
    let Ok(text) = std::env::var(name) else {
        return default;
    };
    match text
        .trim()
        .parse::<f64>()
        .ok()
        .and_then(|value| Duration::try_from_secs_f64(value).ok())
    {
        Some(value) => value,
        None => {
            say!(
                Warn,
                "{name}={text} is no number of seconds; {} is used",
                default.as_secs()
            );
            default
        }
    }
}

/// What the program is called, for the operator's eyes.
fn program_name() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    path.file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_socket_is_not_ready_and_one_line_says_where_it_was_looked_for() {
        let refusal =
            Session::attach_to(Path::new("/nowhere/gpu.sock"), Duration::ZERO).unwrap_err();
        assert_eq!(refusal.code(), CUresult::CUDA_ERROR_SYSTEM_NOT_READY);
        let line = refusal.to_string();
        assert!(
            line.contains("/nowhere/gpu.sock")
                && line.contains("VGPU_SOCKET")
                && !line.contains('\n'),
            "{line}"
        );
    }

    #[test]
    fn refusals_map_to_permission_mismatch_or_not_ready() {
        let code = |code| {
            let error = AttachError::Refused {
                code,
                text: String::new(),
            };
            Refusal::Attach {
                error,
                socket: PathBuf::new(),
            }
            .code()
        };
        assert_eq!(
            code(RefusalCode::WRONG_TABLE),
            CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
        );
        assert_eq!(
            code(RefusalCode::UID_NOT_ALLOWED),
            CUresult::CUDA_ERROR_NOT_PERMITTED
        );
        assert_eq!(
            code(RefusalCode::DEVICE_LOST),
            CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE
        );
        assert_eq!(
            code(RefusalCode::NO_WORKER),
            CUresult::CUDA_ERROR_SYSTEM_NOT_READY
        );
        let timeout = Refusal::Attach {
            error: AttachError::Timeout(Duration::ZERO),
            socket: PathBuf::new(),
        };
        assert_eq!(timeout.code(), CUresult::CUDA_ERROR_SYSTEM_NOT_READY);
    }
}
