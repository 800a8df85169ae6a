//! What the supervisor and a worker say to each other, and what the supervisor says to an administrator.
//!
//! A worker is presumed compromised (D16), so everything it sends is hostile input to the supervisor:
//! fixed-size packets, each checked as a private copy, a violation ends that worker.
//!
//! - [`message`]: the packets of both directions;
//! - [`worker`]: the worker's end of the channel; [`supervisor`]: the other end;
//! - [`bound`]: what else can be limited;
//! - [`calls`]: what a worker writes down of each call, for the auditor;
//! - [`credit`]: device memory that a worker may spend without asking (D18);
//! - [`shares`]: memory that clients of one zone share;
//! - [`stats`]: counters that a worker publishes and the supervisor reads;
//! - [`holdings`]: what a worker's client holds, piece by piece, read in the same way;
//! - [`args`]: the command line a worker is started with;
//! - [`monitor`]: what the monitor tells of device memory; [`api`]: where the api listens; [`companion`]: how either is
//!   heard;
//! - [`jail`]: the layers of a worker's jail, and whether they are on;
//! - `admin` (feature): the reply of the admin socket.

#![warn(missing_docs)]
#![deny(unsafe_code)]

#[cfg(feature = "admin")]
pub mod admin;
pub mod api;
pub mod args;
pub mod bound;
pub mod calls;
pub mod companion;
pub mod credit;
pub mod holdings;
pub mod jail;
pub mod message;
pub mod monitor;
pub mod shares;
pub mod stats;
pub mod supervisor;
pub mod worker;

pub use idm_protocol::attach::{DriverKind, Text};
pub use idm_protocol::layout::Limits;

/// The descriptor that a worker finds its channel on.
pub const CHANNEL_FD: i32 = 3;
