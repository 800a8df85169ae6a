//! The client's side of the attach conversation.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use zerocopy::IntoBytes;

use crate::layout::{Layout, LimitsError, PAGE_BYTES};
use crate::memory::{FileError, SealedFile};

use super::socket::{Packet, receive_with_descriptors, send};
use super::survey::{SURVEY_LEN, Survey, SurveyRequest};
use super::{
    Answer, Hello, MAX_PACKET_LEN, Malformed, Refusal, RefusalCode, WELCOME_DESCRIPTORS, Welcome,
};

/// What a successful attach hands over.
#[derive(Debug)]
pub struct Attachment {
    /// The supervisor's consent.
    pub welcome: Welcome,
    /// Where everything lies in the control region, computed from the welcome's limits.
    pub layout: Layout,
    /// Rings, lanes, latches: read and write.
    pub control: SealedFile,
    /// Pinned host memory: read and write, never executable.
    pub arena: SealedFile,
    /// The supervisor's word on this client: read only.
    pub status: SealedFile,
    /// The sign of life. Keep it open; when it becomes readable the worker is gone.
    pub lifeline: Lifeline,
}

/// The open attach socket. Dropping it detaches.
#[derive(Debug)]
pub struct Lifeline(OwnedFd);

impl Lifeline {
    /// Whether the supervisor has ended this client. Costs one system call; for slow paths only.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        // Nothing is ever sent after the welcome, so whatever is readable is the end.
        wait_readable(self.0.as_fd(), Some(Instant::now())).unwrap_or(true)
    }

    /// Blocks until the supervisor ends this client.
    pub fn wait_cut(&self) {
        while !wait_readable(self.0.as_fd(), None).unwrap_or(true) {}
    }
}

impl AsFd for Lifeline {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Connects to the zone's socket, greets, and waits for the answer, for `timeout` in all.
pub fn attach(path: &Path, hello: &Hello, timeout: Duration) -> Result<Attachment, AttachError> {
    let mut buffer = [0; MAX_PACKET_LEN];
    let (link, packet) = converse(path, hello.as_bytes(), &mut buffer, timeout)?;
    match Answer::decode(&buffer[..packet.len])? {
        Answer::Refusal(refusal) => Err(refused(&refusal)),
        Answer::Welcome(welcome) => {
            let layout = Layout::new(&welcome.limits)?;
            let arena_len = usize::try_from(welcome.limits.arena_bytes)
                .map_err(|_| FileError::Size(usize::MAX))?;
            let count = packet.descriptors.len();
            let [control, arena, status] =
                <[OwnedFd; WELCOME_DESCRIPTORS]>::try_from(packet.descriptors)
                    .map_err(|_| AttachError::Descriptors(count))?;
            Ok(Attachment {
                control: SealedFile::receive(control, layout.byte_len())?,
                arena: SealedFile::receive(arena, arena_len)?,
                status: SealedFile::receive(status, PAGE_BYTES)?,
                lifeline: Lifeline(link),
                welcome,
                layout,
            })
        }
    }
}

/// Connects to the zone's socket and asks what the zone looks like, for `timeout` in all. Nothing stays open.
pub fn survey(path: &Path, timeout: Duration) -> Result<Box<Survey>, AttachError> {
    let mut buffer = [0; SURVEY_LEN];
    let request = SurveyRequest::new();
    let (_, packet) = converse(path, request.as_bytes(), &mut buffer, timeout)?;
    let packet = &buffer[..packet.len];
    // Anything but a survey is told by the survey's own decoder.
    Refusal::decode(packet).map_or_else(
        |_| Ok(Survey::decode(packet)?),
        |refusal| Err(refused(&refusal)),
    )
}

/// Says one thing on a new connection and waits for the answer.
fn converse(
    path: &Path,
    opening: &[u8],
    buffer: &mut [u8],
    timeout: Duration,
) -> Result<(OwnedFd, Packet), AttachError> {
    let deadline = Instant::now().checked_add(timeout);
    let link = connect_to(path)?;
    if let Err(errno) = send(link.as_fd(), opening, &[]) {
        // A supervisor that had to refuse before we spoke has closed its end; its reason waits for us.
        if errno != Errno::EPIPE && errno != Errno::ECONNRESET {
            return Err(AttachError::Broken(errno.into()));
        }
    }
    if !wait_readable(link.as_fd(), deadline).map_err(|errno| AttachError::Broken(errno.into()))? {
        return Err(AttachError::Timeout(timeout));
    }
    let packet = receive_with_descriptors(link.as_fd(), buffer)
        .or_else(|errno| match errno {
            // Told once when the supervisor hung up on unread words of ours; its own last word is still there.
            Errno::ECONNRESET => receive_with_descriptors(link.as_fd(), buffer),
            errno => Err(errno),
        })
        .map_err(|errno| AttachError::Broken(errno.into()))?;
    if packet.len == 0 {
        return Err(AttachError::HungUp);
    }
    Ok((link, packet))
}

fn refused(refusal: &Refusal) -> AttachError {
    AttachError::Refused {
        code: refusal.code,
        text: refusal.text.to_string(),
    }
}

/// Why there is no attachment. Each message stands alone as the one line that the program's user sees.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The socket is not there, not ours to open, or nobody listens.
    #[error("cannot connect to the GPU proxy at {path}: {error}{hint}", path = path.display())]
    Connect {
        /// The zone's socket.
        path: PathBuf,
        /// What `connect` said.
        error: io::Error,
        /// What to look at, beginning with punctuation.
        hint: &'static str,
    },
    /// The supervisor said no.
    #[error("the GPU proxy refused this program: {text}")]
    Refused {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        text: String,
    },
    /// No answer in time.
    #[error("the GPU proxy did not answer within {0:?}")]
    Timeout(Duration),
    /// The supervisor closed the connection without a word.
    #[error("the GPU proxy closed the connection without an answer")]
    HungUp,
    /// A system call on the connection failed.
    #[error("the connection to the GPU proxy broke: {0}")]
    Broken(io::Error),
    /// The answer made no sense; most likely the builds do not match.
    #[error(
        "the GPU proxy's answer is not understood ({0}); install matching versions of proxy and libvgpu"
    )]
    Malformed(#[from] Malformed),
    /// The answer asks for a layout that cannot be.
    #[error("the GPU proxy's answer is not usable: {0}")]
    Limits(#[from] LimitsError),
    /// The answer came with memory that is not what it announced.
    #[error("the GPU proxy's answer is not usable: {0}")]
    Memory(#[from] FileError),
    /// The answer came without its memory.
    #[error("the GPU proxy sent {0} descriptors where {WELCOME_DESCRIPTORS} were due")]
    Descriptors(usize),
}

fn connect_to(path: &Path) -> Result<OwnedFd, AttachError> {
    let failed = |errno: Errno| AttachError::Connect {
        path: path.to_owned(),
        error: errno.into(),
        hint: match errno {
            Errno::ENOENT => "; is gpu-proxy running, and is the zone's socket mounted here?",
            Errno::ECONNREFUSED => "; gpu-proxy is not running",
            Errno::EACCES | Errno::EPERM => {
                "; this user may not use the zone (see uid, gid and mode in its configuration)"
            }
            _ => "",
        },
    };
    let link = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(failed)?;
    let address = UnixAddr::new(path).map_err(failed)?;
    loop {
        match connect(link.as_raw_fd(), &address) {
            Ok(()) => return Ok(link),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
}

/// Waits until the descriptor is readable or at its end; false when the deadline passed first.
fn wait_readable(fd: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<bool, Errno> {
    loop {
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so that the last wait is not a spin.
            let millis = left.as_micros().div_ceil(1000);
            u16::try_from(millis).map_or(PollTimeout::MAX, PollTimeout::from)
        });
        let mut watched = [PollFd::new(fd, PollFlags::POLLIN)];
        match poll(&mut watched, timeout) {
            Ok(0) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                return Ok(false);
            }
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::thread;

    use nix::sys::socket::{Backlog, bind, listen};

    use super::*;
    use crate::attach::socket::{accept, receive};
    use crate::attach::{MessageKind, Opening};
    use crate::layout::Limits;

    /// A supervisor that answers one client with `answer` and as many copies of its own socket as asked.
    fn answer_once(answer: Vec<u8>, files: Vec<SealedFile>) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gpu.sock");
        let listener = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&listener, Backlog::new(1).unwrap()).unwrap();
        thread::spawn(move || {
            let link = accept(listener.as_fd(), SockFlag::empty()).unwrap();
            let mut buffer = [0; MAX_PACKET_LEN];
            let packet = receive(link.as_fd(), &mut buffer).unwrap();
            Opening::decode(&buffer[..packet.len]).unwrap();
            if !answer.is_empty() {
                send(
                    link.as_fd(),
                    &answer,
                    &files.iter().map(AsFd::as_fd).collect::<Vec<_>>(),
                )
                .unwrap();
            }
        });
        (folder, path)
    }

    fn attach_to(answer: &[u8], lens: &[usize]) -> Result<Attachment, AttachError> {
        let files = lens
            .iter()
            .map(|&len| SealedFile::create(c"test", len).unwrap())
            .collect();
        let (_folder, path) = answer_once(answer.to_vec(), files);
        attach(&path, &Hello::new(1, 0, 1, "test"), Duration::from_secs(20))
    }

    fn lens() -> [usize; 3] {
        let limits = Limits::default();
        let control = Layout::new(&limits).unwrap().byte_len();
        [
            control,
            usize::try_from(limits.arena_bytes).unwrap(),
            PAGE_BYTES,
        ]
    }

    fn welcome() -> Welcome {
        Welcome {
            header: super::super::Header::new(MessageKind::WELCOME),
            client_id: 7,
            capabilities: 1,
            memory_limit: 1 << 32,
            limits: Limits::default(),
            window: 0,
            driver_kind: super::super::DriverKind::SOFTGPU,
            driver_version: 13000,
            device_count: 1,
        }
    }

    #[test]
    fn welcome_with_three_descriptors_attaches_and_the_lifeline_shows_the_end() {
        let attached = attach_to(welcome().as_bytes(), &lens()).unwrap();
        assert_eq!(attached.welcome, welcome());
        attached.lifeline.wait_cut();
        assert!(attached.lifeline.is_cut());
    }

    #[test]
    fn welcome_with_too_few_or_too_many_descriptors_is_an_error() {
        for count in [0, 2, 4] {
            assert!(matches!(
                attach_to(welcome().as_bytes(), &[PAGE_BYTES; 4][..count]),
                Err(AttachError::Descriptors(found)) if found == count
            ));
        }
    }

    #[test]
    fn welcome_with_impossible_limits_is_an_error() {
        let mut bad = welcome();
        bad.limits.lanes = 0;
        assert!(matches!(
            attach_to(bad.as_bytes(), &lens()),
            Err(AttachError::Limits(_))
        ));
    }

    #[test]
    fn welcome_with_memory_of_another_size_is_an_error() {
        let [control, arena, status] = lens();
        for wrong in [
            [control + PAGE_BYTES, arena, status],
            [control, PAGE_BYTES, status],
        ] {
            assert!(matches!(
                attach_to(welcome().as_bytes(), &wrong),
                Err(AttachError::Memory(FileError::WrongSize { .. }))
            ));
        }
    }

    #[test]
    fn refusal_reaches_the_user_as_one_line() {
        let refusal = Refusal::new(RefusalCode::ZONE_FULL, "zone \"a\" has its 4 clients");
        let error = attach_to(refusal.as_bytes(), &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the GPU proxy refused this program: zone \"a\" has its 4 clients"
        );
    }

    #[test]
    fn a_survey_a_refusal_and_nonsense_are_told_apart() {
        let ask = |answer: &[u8]| {
            let (_folder, path) = answer_once(answer.to_vec(), Vec::new());
            survey(&path, Duration::from_secs(20))
        };
        let mut sent = Survey::empty();
        sent.memory_used = 7;
        assert_eq!(ask(sent.as_bytes()).unwrap(), sent);
        let refusal = Refusal::new(RefusalCode::UID_NOT_ALLOWED, "not for you");
        assert!(matches!(
            ask(refusal.as_bytes()),
            Err(AttachError::Refused {
                code: RefusalCode::UID_NOT_ALLOWED,
                ..
            })
        ));
        for answer in [welcome().as_bytes(), &[1; 40]] {
            assert!(matches!(ask(answer), Err(AttachError::Malformed(_))));
        }
        assert!(matches!(ask(&[]), Err(AttachError::HungUp)));
    }

    #[test]
    fn hang_up_and_nonsense_are_told_apart() {
        assert!(matches!(attach_to(&[], &[]), Err(AttachError::HungUp)));
        assert!(matches!(
            attach_to(&[1; 40], &[]),
            Err(AttachError::Malformed(_))
        ));
    }

    #[test]
    fn missing_socket_names_the_path_and_the_likely_cause() {
        let error = attach(
            Path::new("/nowhere/gpu.sock"),
            &Hello::new(0, 0, 0, ""),
            Duration::ZERO,
        )
        .unwrap_err()
        .to_string();
        assert!(
            error.contains("/nowhere/gpu.sock") && error.contains("is gpu-proxy running"),
            "{error}"
        );
    }
}
