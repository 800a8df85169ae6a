//! What one process of a user opens of another's: device memory, as `cuIpcGetMemHandle` gives it out.
//!
//! A handle holds a name and a token, both random. Under the name (an abstract socket address, which goes with
//! its process) the exporting process answers whoever runs as the same user and knows the token: with the file
//! that the memory lies in and where in it. So a handle is good for nothing once the memory is freed or the
//! process is gone, and what was opened before stays mapped. Processes that are to share must be in one network
//! namespace. Not a security boundary between processes of one user.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::memory::{Allocation, Kind, Space};
use crate::os;

/// Bytes of a handle, in the Driver API too.
pub const HANDLE_BYTES: usize = 64;

/// What a handle is.
pub type Handle = [u8; HANDLE_BYTES];

type Name = [u8; 16];
type Token = [u8; 16];

/// Begins every handle.
pub(crate) const MAGIC: [u8; 8] = *b"softipc1";
/// How long the other process may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What this process exports and what it has opened.
#[derive(Debug, Default)]
pub struct Ipc {
    /// Made by the first export.
    server: Mutex<Option<Server>>,
    opened: Mutex<HashMap<(u64, Handle), Opened>>,
}

#[derive(Debug)]
struct Server {
    name: Name,
    exports: Arc<Exports>,
}

type Exports = Mutex<HashMap<Token, Export>>;

#[derive(Debug)]
struct Export {
    /// As long as it is there, the handle is good.
    allocation: Weak<Allocation>,
    /// UUID of its device, the same in all processes.
    device: [u8; 16],
    file: File,
    offset: u64,
}

/// Another process's memory, opened in one context.
#[derive(Debug)]
struct Opened {
    start: u64,
    /// Of the allocation that it is here.
    id: u64,
    count: u64,
}

impl Ipc {
    /// A handle of an allocation; the same one every time.
    ///
    /// # Errors
    /// As [`crate::memory::Space::export`]; [`Error::OperatingSystem`].
    pub fn export(&self, context: &Context, allocation: &Arc<Allocation>) -> Result<Handle> {
        let mut server = lock(&self.server);
        let server = match &mut *server {
            Some(server) => server,
            none => none.insert(Server::start().map_err(|_| Error::OperatingSystem)?),
        };
        let mut exports = lock(&server.exports);
        exports.retain(|_, export| export.allocation.strong_count() > 0);
        let known =
            |export: &Export| std::ptr::eq(export.allocation.as_ptr(), Arc::as_ptr(allocation));
        let token = match exports.iter().find(|(_, export)| known(export)) {
            Some((token, _)) => *token,
            None => {
                let gpu = context.gpu();
                let ordinal = usize::try_from(allocation.device).unwrap_or(usize::MAX);
                let device = gpu.devices().get(ordinal).ok_or(Error::InvalidDevice)?;
                let export = || gpu.space().export(allocation);
                let (file, offset) = if Space::moves_to_export(allocation) {
                    // Kernels hold addresses in it; none may run while it moves into a file.
                    gpu.scheduler().run_alone(export)?
                } else {
                    export()?
                };
                let mut token = [0; 16];
                getrandom::fill(&mut token).map_err(|_| Error::OperatingSystem)?;
                let export = Export {
                    allocation: Arc::downgrade(allocation),
                    device: device.uuid,
                    file,
                    offset,
                };
                exports.insert(token, export);
                token
            }
        };
        let mut handle = [0; HANDLE_BYTES];
        handle[..8].copy_from_slice(&MAGIC);
        handle[8..24].copy_from_slice(&server.name);
        handle[24..40].copy_from_slice(&token);
        Ok(handle)
    }

    /// Where another process's memory is in a context. Opened again, it is at the same place.
    ///
    /// # Errors
    /// [`Error::InvalidContext`] for a handle of this process's own, [`Error::InvalidHandle`] for one that is
    /// none or of memory that is gone, [`Error::PeerAccessUnsupported`] for memory of another device.
    pub fn open(&self, context: &Context, handle: &Handle) -> Result<u64> {
        let (name, token) = parts(handle).ok_or(Error::InvalidHandle)?;
        if lock(&self.server)
            .as_ref()
            .is_some_and(|own| own.name == name)
        {
            return Err(Error::InvalidContext);
        }
        let (gpu, key) = (context.gpu(), (context.id(), *handle));
        let mut opened = lock(&self.opened);
        // Those of contexts that are gone went with them.
        opened.retain(|_, one| {
            gpu.space()
                .at(one.start)
                .is_some_and(|found| found.id == one.id)
        });
        if let Some(known) = opened.get_mut(&key) {
            known.count += 1;
            return Ok(known.start);
        }
        let answer = ask(&name, &token).map_err(|_| Error::InvalidHandle)?;
        if answer.device != context.device().uuid {
            return Err(Error::PeerAccessUnsupported);
        }
        let made = gpu.space().import(
            context.device().ordinal,
            context.id(),
            (&answer.file, answer.offset),
            answer.size,
        )?;
        let (start, id) = (made.start, made.id);
        opened.insert(
            key,
            Opened {
                start,
                id,
                count: 1,
            },
        );
        Ok(start)
    }

    /// Closes what was opened once less; after the last time the memory is gone from here.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if nothing is open at this address, or the context's fault.
    pub fn close(&self, context: &Context, start: u64) -> Result<()> {
        if self.close_once(context, start)? {
            context.release(start, |kind| kind == Kind::Imported)?;
        }
        Ok(())
    }

    /// As [`Ipc::close`], without waiting for work: whatever uses the memory keeps it.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if nothing is open at this address.
    pub(crate) fn let_go(&self, context: &Context, start: u64) -> Result<()> {
        if self.close_once(context, start)? {
            let imported = |found: &Allocation| found.kind == Kind::Imported;
            drop(context.gpu().space().remove(start, imported));
        }
        Ok(())
    }

    /// Whether it was the last time.
    fn close_once(&self, context: &Context, start: u64) -> Result<bool> {
        let mut opened = lock(&self.opened);
        let space = context.gpu().space();
        let found = opened.iter_mut().find(|(_, one)| {
            one.start == start && space.at(start).is_some_and(|found| found.id == one.id)
        });
        let (&key, one) = found.ok_or(Error::InvalidValue)?;
        if one.count > 1 {
            one.count -= 1;
            return Ok(false);
        }
        opened.remove(&key);
        Ok(true)
    }
}

impl Server {
    fn start() -> io::Result<Self> {
        let mut name = [0; 16];
        getrandom::fill(&mut name)?;
        let listener = UnixListener::bind_addr(&address(&name)?)?;
        let exports: Arc<Exports> = Arc::default();
        let answered = Arc::downgrade(&exports);
        os::spawn_quiet("softgpu-ipc", move || serve(&listener, &answered))?;
        Ok(Self { name, exports })
    }
}

/// Answers for as long as there is anything to answer for.
fn serve(listener: &UnixListener, exports: &Weak<Exports>) {
    for stream in listener.incoming() {
        let Some(exports) = exports.upgrade() else {
            return;
        };
        if let Ok(stream) = stream {
            // Whoever asks wrongly, or not at all, gets no answer.
            let _ = answer(&stream, &exports);
        }
    }
}

fn answer(mut stream: &UnixStream, exports: &Exports) -> io::Result<()> {
    if !os::is_own_user(stream) {
        return Ok(());
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut token = Token::default();
    stream.read_exact(&mut token)?;
    let exports = lock(exports);
    let found = exports
        .get(&token)
        .and_then(|export| Some((export, export.allocation.upgrade()?)));
    if let Some((export, allocation)) = found {
        let mut bytes = [0; ANSWER_BYTES];
        bytes[..16].copy_from_slice(&export.device);
        bytes[16..24].copy_from_slice(&export.offset.to_le_bytes());
        bytes[24..].copy_from_slice(&allocation.size.to_le_bytes());
        os::send_file(stream, &bytes, &export.file)?;
    }
    Ok(())
}

/// Device, offset, size.
const ANSWER_BYTES: usize = 32;

struct Answer {
    device: [u8; 16],
    offset: u64,
    size: u64,
    file: File,
}

/// Asks the process that answers to a name.
fn ask(name: &Name, token: &Token) -> io::Result<Answer> {
    let mut stream = UnixStream::connect_addr(&address(name)?)?;
    if !os::is_own_user(&stream) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(token)?;
    let (bytes, file) = os::receive_file::<ANSWER_BYTES>(&stream)?;
    let (halves, _) = bytes.as_chunks::<16>();
    let (words, _) = bytes.as_chunks::<8>();
    Ok(Answer {
        device: halves[0],
        offset: u64::from_le_bytes(words[2]),
        size: u64::from_le_bytes(words[3]),
        file,
    })
}

fn address(name: &Name) -> io::Result<SocketAddr> {
    let digits: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
    SocketAddr::from_abstract_name(format!("softgpu-ipc-{digits}"))
}

fn parts(handle: &Handle) -> Option<(Name, Token)> {
    let valid = handle[..8] == MAGIC && handle[40..].iter().all(|byte| *byte == 0);
    let part = |from: usize| handle[from..from + 16].try_into().ok();
    Some((part(8)?, part(24)?)).filter(|_| valid)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::gpu::Gpu;
    use crate::transfer::Span;

    /// A process's, as far as this goes: another address space and other names.
    fn process() -> (Arc<Gpu>, Arc<Context>) {
        let gpu = Gpu::new(Config::default()).unwrap();
        let context = gpu.create_context(0, 0).unwrap();
        (gpu, context)
    }

    #[test]
    fn opened_memory_is_the_same_memory_until_it_is_closed_as_often() {
        let ((_one, exporter), (two, importer)) = (process(), process());
        let (here, there) = (Ipc::default(), Ipc::default());
        let made = exporter.allocate(1000).unwrap();
        let handle = here.export(&exporter, &made).unwrap();
        assert_eq!(
            here.export(&exporter, &made),
            Ok(handle),
            "the same every time"
        );
        let start = there.open(&importer, &handle).unwrap();
        assert_eq!(there.open(&importer, &handle), Ok(start));
        Span::device(exporter.gpu().space(), made.start, 4)
            .unwrap()
            .write(b"here");
        let seen = Span::device(two.space(), start, 4).unwrap().to_bytes();
        assert_eq!(seen, b"here");
        assert_eq!(
            importer.free(start),
            Err(Error::InvalidValue),
            "it is not freed but closed"
        );
        assert_eq!(there.close(&importer, start), Ok(()));
        assert_eq!(there.close(&importer, start), Ok(()));
        assert_eq!(there.close(&importer, start), Err(Error::InvalidValue));
        assert!(two.space().find(start).is_none());
    }

    #[test]
    fn handles_of_oneself_of_nobody_and_of_what_is_freed_are_refused() {
        let ((_one, exporter), (_two, importer)) = (process(), process());
        let (here, there) = (Ipc::default(), Ipc::default());
        let made = exporter.allocate(3 << 20).unwrap();
        let handle = here.export(&exporter, &made).unwrap();
        assert_eq!(here.open(&exporter, &handle), Err(Error::InvalidContext));
        for index in [0, 8, 24, 40, 63] {
            let mut wrong = handle;
            wrong[index] ^= 1;
            assert_eq!(
                there.open(&importer, &wrong),
                Err(Error::InvalidHandle),
                "{index}"
            );
        }
        let start = made.start;
        drop(made);
        exporter.free(start).unwrap();
        assert_eq!(there.open(&importer, &handle), Err(Error::InvalidHandle));
        let again = exporter.allocate(3 << 20).unwrap();
        assert_eq!(again.start, start);
        assert_ne!(
            here.export(&exporter, &again),
            Ok(handle),
            "other memory, another handle"
        );
    }

    #[test]
    fn what_a_context_opened_goes_with_it() {
        let ((_one, exporter), (two, importer)) = (process(), process());
        let (here, there) = (Ipc::default(), Ipc::default());
        let made = exporter.allocate(64).unwrap();
        let handle = here.export(&exporter, &made).unwrap();
        let start = there.open(&importer, &handle).unwrap();
        importer.destroy([]);
        assert!(two.space().find(start).is_none());
        let next = two.create_context(0, 0).unwrap();
        assert_eq!(there.close(&next, start), Err(Error::InvalidValue));
        assert!(there.open(&next, &handle).is_ok());
    }
}
