//! Chunks of staging, as the worker uses them: registered with the driver, so that copies out of
//! them are direct.

#![forbid(unsafe_code)]

use std::sync::{Mutex, PoisonError};

use idm_protocol::bulk::Piece;
use idm_protocol::layout::CHUNK_BYTES;
use idm_protocol::window::Arena;

use crate::contexts::ContextKey;
use crate::driver::Table;

/// The staging part of the arena.
#[derive(Debug)]
pub struct Staging {
    start: u64,
    bytes: u64,
    chunk_count: u32,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not registered with the driver.
    Plain,
    /// Registered in this context, for all contexts.
    Registered(ContextKey),
    /// The driver refuses; copies go through its own staging.
    Refused,
}

impl Staging {
    /// The first chunks of the arena.
    pub fn new(arena: &Arena, chunk_count: u32) -> Self {
        Self {
            start: arena.start(),
            bytes: u64::from(chunk_count) * CHUNK_BYTES as u64,
            chunk_count,
            state: Mutex::new(State::Plain),
        }
    }

    /// Bytes of all chunks.
    pub fn byte_len(&self) -> u64 {
        self.bytes
    }

    /// Number of chunks.
    pub fn chunk_count(&self) -> u32 {
        self.chunk_count
    }

    /// Address of a piece's chunk.
    pub fn address(&self, piece: &Piece) -> u64 {
        // The plan that the piece comes from bounds the chunk and the piece in it.
        self.start + u64::from(piece.chunk) * CHUNK_BYTES as u64 + piece.start as u64
    }

    /// Registers the chunks at first use. The context must be current.
    pub fn register(&self, context: ContextKey, driver: &Table) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state == State::Plain {
            *state = match driver.register(self.start, self.bytes) {
                Ok(()) => State::Registered(context),
                Err(status) => {
                    tracing::warn!(
                        ?status,
                        "the driver does not register staging; pageable copies are staged twice"
                    );
                    State::Refused
                }
            };
        }
    }

    /// The context is destroyed; a registration made in it went with it.
    pub fn forget_context(&self, context: ContextKey) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state == State::Registered(context) {
            *state = State::Plain;
        }
    }
}
