//! The wire between a tenant's process and its worker: records, rings, lanes, handles, arenas, and the
//! handshake that hands them out.
//!
//! Read in this order: [`memory`] and [`wait`] (a transport is pages that both see and a way to
//! wake the other, D21), [`layout`] (what lies where), [`ring`] and [`record`] (calls), [`lane`]
//! (replies and large parameters), [`status`] and [`callback`] (the way back), [`handle`]
//! (names of objects), [`window`] and [`staging`] (bulk data). [`control`] puts one client's set of
//! them together for either side.
//!
//! Every byte here may have been written by a hostile process. It is copied once, the copy is
//! checked, and the copy is used (D14).

#![warn(missing_docs)]

#[cfg(not(loom))]
pub mod attach;
pub mod bulk;
pub mod callback;
pub mod control;
pub mod handle;
pub mod lane;
pub mod layout;
pub mod memory;
pub mod record;
pub mod ring;
pub mod staging;
pub mod status;
pub mod sync;
pub mod wait;
pub mod window;
pub mod wire;
