//! The admin socket: tells an administrator how things are, and has the policy read again. The status socket: tells the
//! api how things are, and does nothing else.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::unistd::{Uid, read, write};
use proxy_audit::event::Event;
use proxy_audit::text::Text;
use proxy_channel::admin::{ALLOCATIONS_REQUEST, MAX_REQUEST_LEN, RELOAD_REQUEST, STATUS_REQUEST};
use tracing::warn;

use crate::listener::{Access, ListenError, Listener};

/// Conversations at one time; more wait in the kernel's queue.
const MAX_CONVERSATIONS: usize = 8;

/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The socket and those who have connected to it.
#[derive(Debug)]
pub struct Admin {
    listener: Listener,
    /// Whom it answers beside root and the proxy's own user.
    reader: Option<u32>,
    /// It answers nothing but [`Request::Status`].
    is_status_only: bool,
    conversations: BTreeMap<u64, Conversation>,
    next_id: u64,
}

#[derive(Debug)]
struct Conversation {
    socket: OwnedFd,
    peer: Peer,
    deadline: Instant,
    request: Vec<u8>,
    reply: Option<Vec<u8>>,
}

/// An administrator, as the kernel told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Their user.
    pub uid: u32,
    /// Their process.
    pub pid: i32,
}

impl Peer {
    /// For the record.
    #[must_use]
    pub fn did(self, act: String) -> Event {
        Event::Admin {
            act: Text::new(act),
            uid: self.uid,
            pid: self.pid,
        }
    }
}

/// What an administrator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// To know how things are.
    Status,
    /// The policy read again.
    Reload,
    /// To know what the clients of a zone hold.
    Allocations(String),
}

impl Request {
    fn of(line: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(line).ok()?;
        if let Some(zone) = text.strip_prefix(ALLOCATIONS_REQUEST) {
            return Some(Self::Allocations(zone.trim_end().to_owned()));
        }
        let all = [
            (STATUS_REQUEST, Self::Status),
            (RELOAD_REQUEST, Self::Reload),
        ];
        let found = all.into_iter().find(|(known, _)| *known == text);
        found.map(|(_, request)| request)
    }
}

/// Something to poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Somebody connects.
    Listener,
    /// Somebody asks.
    Request(u64),
    /// Somebody takes the answer.
    Reply(u64),
}

impl Admin {
    /// Listens, for root and the proxy's own user only.
    pub fn open(path: &Path) -> Result<Self, ListenError> {
        Self::listen(path, None, false)
    }

    /// Listens for one more user, root or not, and answers nothing but [`Request::Status`].
    pub fn open_status(path: &Path, reader: Option<u32>) -> Result<Self, ListenError> {
        Self::listen(path, reader, true)
    }

    fn listen(path: &Path, reader: Option<u32>, is_status_only: bool) -> Result<Self, ListenError> {
        // Only root can give the socket to somebody else.
        let reader = reader.filter(|_| Uid::effective().is_root());
        let access = Access {
            mode: 0o600,
            uid: reader,
            gid: None,
        };
        let listener = Listener::open(path, SockType::Stream, access)?;
        Ok(Self {
            listener,
            reader,
            is_status_only,
            conversations: BTreeMap::new(),
            next_id: 0,
        })
    }

    /// Everything to poll.
    pub fn sources(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>)> {
        let room = self.conversations.len() < MAX_CONVERSATIONS;
        let listener = room.then(|| (Source::Listener, self.listener.as_fd()));
        let conversations = self.conversations.iter().map(|(&id, conversation)| {
            let source = match conversation.reply {
                None => Source::Request(id),
                Some(_) => Source::Reply(id),
            };
            (source, conversation.socket.as_fd())
        });
        conversations.chain(listener)
    }

    /// When the next conversation has taken too long.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.conversations
            .values()
            .map(|conversation| conversation.deadline)
            .min()
    }

    /// Gives up conversations that take too long.
    pub fn expire(&mut self, now: Instant) {
        self.conversations
            .retain(|_, conversation| conversation.deadline > now);
    }

    /// A source is ready; `answer` is asked for the document that answers a request.
    pub fn on(
        &mut self,
        source: Source,
        now: Instant,
        answer: impl FnOnce(Request, Peer) -> Vec<u8>,
    ) {
        match source {
            Source::Listener => self.accept(now),
            Source::Request(id) => {
                let Some(conversation) = self.conversations.get_mut(&id) else {
                    return;
                };
                if !conversation.hear(self.is_status_only, answer) {
                    self.conversations.remove(&id);
                }
            }
            Source::Reply(id) => {
                let Some(conversation) = self.conversations.get_mut(&id) else {
                    return;
                };
                if !conversation.speak() {
                    self.conversations.remove(&id);
                }
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        let Ok(socket) = self.listener.accept() else {
            return;
        };
        // The permissions of the socket say the same; this holds even where they were changed.
        let peer = getsockopt(&socket, sockopt::PeerCredentials).map(|peer| Peer {
            uid: peer.uid(),
            pid: peer.pid(),
        });
        let is_allowed = |peer: &Peer| {
            let own = Uid::effective().as_raw();
            peer.uid == 0 || peer.uid == own || Some(peer.uid) == self.reader
        };
        let Some(peer) = peer.ok().filter(is_allowed) else {
            let uid = peer.map(|peer| peer.uid).ok();
            let which = if self.is_status_only {
                "status"
            } else {
                "admin"
            };
            warn!(
                uid,
                "a user that is not the administrator connected to the {which} socket"
            );
            return;
        };
        self.next_id += 1;
        let deadline = now + PATIENCE;
        let conversation = Conversation {
            socket,
            peer,
            deadline,
            request: Vec::new(),
            reply: None,
        };
        self.conversations.insert(self.next_id, conversation);
    }
}

impl Conversation {
    /// Reads the request; false if the conversation is over.
    fn hear(
        &mut self,
        is_status_only: bool,
        answer: impl FnOnce(Request, Peer) -> Vec<u8>,
    ) -> bool {
        let mut buffer = [0; MAX_REQUEST_LEN];
        match read(&self.socket, &mut buffer) {
            Ok(0) => return false,
            Ok(len) => self.request.extend_from_slice(&buffer[..len]),
            Err(Errno::EAGAIN | Errno::EINTR) => return true,
            Err(_) => return false,
        }
        if self.request.ends_with(b"\n") {
            let reply = match Request::of(&self.request) {
                Some(request) if !is_status_only || request == Request::Status => {
                    answer(request, self.peer)
                }
                _ if is_status_only => {
                    br#"{"error":"this socket answers only 'status 1'; ask at the admin socket"}"#
                        .to_vec()
                }
                _ => {
                    br#"{"error":"this proxy understands only 'status 1', 'policy reload 1' and 'allocations 1 ZONE'"}"#
                        .to_vec()
                }
            };
            self.reply = Some(reply);
            return self.speak();
        }
        self.request.len() < MAX_REQUEST_LEN
    }

    /// Writes what can be written; false if the conversation is over.
    fn speak(&mut self) -> bool {
        let Some(reply) = &mut self.reply else {
            return true;
        };
        while !reply.is_empty() {
            match write(&self.socket, reply) {
                Ok(len) => drop(reply.drain(..len)),
                Err(Errno::EAGAIN) => return true,
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
        false
    }
}
