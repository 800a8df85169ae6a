//! An event that processes share.
//!
//! Two words of device memory that others can open as they open any: how often the event was recorded, and which of
//! these places was reached last. Whoever waits for it looks at them, for nobody can wake another process's threads.
//! A process that ends before its place is reached leaves those that wait for it waiting, as on a GPU.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::ipc::{self, Handle};
use crate::memory::Allocation;
use crate::schedule::Work;
use crate::transfer::Span;

/// Begins a handle in the place of [`ipc::MAGIC`]: memory and events are not opened as each other.
const MAGIC: [u8; 8] = *b"softevt1";
const WORD_BYTES: u64 = 8;

/// An event whose words other processes may have too.
#[derive(Debug)]
pub struct SharedEvent {
    context: Arc<Context>,
    words: Arc<Words>,
    /// Of this process's own; otherwise it was opened.
    own: Option<Arc<Allocation>>,
}

#[derive(Debug)]
struct Words {
    start: u64,
    recorded: Span,
    reached: Span,
}

impl SharedEvent {
    /// One that was never recorded.
    ///
    /// # Errors
    /// As [`Context::allocate`].
    pub fn new(context: &Arc<Context>) -> Result<Self> {
        let made = context.allocate(2 * WORD_BYTES)?;
        let words = Words::at(context, made.start)?;
        words.recorded.store(0);
        words.reached.store(0);
        Ok(Self {
            context: Arc::clone(context),
            words: Arc::new(words),
            own: Some(made),
        })
    }

    /// What another process opens it with; the same every time.
    ///
    /// # Errors
    /// As [`ipc::Ipc::export`]; [`Error::InvalidValue`] for one that was opened.
    pub fn handle(&self) -> Result<Handle> {
        let own = self.own.as_ref().ok_or(Error::InvalidValue)?;
        let mut handle = self.context.gpu().ipc().export(&self.context, own)?;
        handle[..8].copy_from_slice(&MAGIC);
        Ok(handle)
    }

    /// Another process's.
    ///
    /// # Errors
    /// As [`ipc::Ipc::open`].
    pub fn open(context: &Arc<Context>, handle: &Handle) -> Result<Self> {
        let mut handle = *handle;
        if handle[..8] != MAGIC {
            return Err(Error::InvalidHandle);
        }
        handle[..8].copy_from_slice(&ipc::MAGIC);
        let ipc = context.gpu().ipc();
        let start = ipc.open(context, &handle)?;
        let words = Words::at(context, start).inspect_err(|_| {
            // It was opened a line ago.
            let _ = ipc.let_go(context, start);
        })?;
        Ok(Self {
            context: Arc::clone(context),
            words: Arc::new(words),
            own: None,
        })
    }

    /// Records it: the place is reached when this is run.
    #[must_use]
    pub fn record(&self) -> Work {
        let words = Arc::clone(&self.words);
        // SYNC: counts only; the place itself is published by `reached`.
        let place = word(&words.recorded).fetch_add(1, Ordering::Relaxed) + 1;
        Box::new(move || {
            // SYNC: pairs with the acquire load in `reached`: who sees it sees what came before in the stream.
            word(&words.reached).fetch_max(place, Ordering::Release);
        })
    }

    /// What waits for the place recorded last, or for the end of the context; none if it is reached.
    #[must_use]
    pub fn wait(&self) -> Option<Work> {
        let place = self.words.recorded();
        if self.words.reached() >= place {
            return None;
        }
        let (words, context) = (Arc::clone(&self.words), Arc::clone(&self.context));
        Some(Box::new(move || {
            context.watch(|| words.reached() >= place);
        }))
    }
}

impl Drop for SharedEvent {
    fn drop(&mut self) {
        let (gpu, start) = (self.context.gpu(), self.words.start);
        // Work that is under way keeps the words. Nothing is found if the context went first, with its memory.
        match &self.own {
            Some(own) => drop(gpu.space().remove(start, |found| found.id == own.id)),
            None => drop(gpu.ipc().let_go(&self.context, start)),
        }
    }
}

impl Words {
    fn at(context: &Context, start: u64) -> Result<Self> {
        let space = context.gpu().space();
        let words = Self {
            start,
            recorded: Span::device(space, start, WORD_BYTES)?,
            reached: Span::device(space, start + WORD_BYTES, WORD_BYTES)?,
        };
        match (words.recorded.word(), words.reached.word()) {
            (Some(_), Some(_)) => Ok(words),
            _ => Err(Error::InvalidHandle),
        }
    }

    fn recorded(&self) -> u64 {
        // SYNC: pairs with nothing: a recording that this misses is one that nobody waited for yet.
        word(&self.recorded).load(Ordering::Relaxed)
    }

    fn reached(&self) -> u64 {
        // SYNC: pairs with the release in `record`.
        word(&self.reached).load(Ordering::Acquire)
    }
}

/// One of the words, which [`Words::at`] has found to be one.
fn word(span: &Span) -> &AtomicU64 {
    static NEVER: AtomicU64 = AtomicU64::new(0);
    span.word().unwrap_or(&NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::gpu::Gpu;

    fn process() -> Arc<Context> {
        let gpu = Gpu::new(Config::default()).unwrap();
        gpu.create_context(0, 0).unwrap()
    }

    #[test]
    fn what_one_process_records_the_other_waits_for() {
        let (one, other) = (process(), process());
        let event = SharedEvent::new(&one).unwrap();
        let opened = SharedEvent::open(&other, &event.handle().unwrap()).unwrap();
        assert!(opened.wait().is_none(), "never recorded");
        let (first, second) = (event.record(), opened.record());
        let wait = opened.wait().expect("two places ahead");
        first();
        assert!(event.wait().is_some(), "the second is still ahead");
        second();
        wait();
        assert!(event.wait().is_none());
        drop(event);
        assert!(opened.wait().is_none(), "the words are still there");
    }

    #[test]
    fn an_event_is_no_memory_and_memory_no_event() {
        let (one, other) = (process(), process());
        let event = SharedEvent::new(&one).unwrap();
        let handle = event.handle().unwrap();
        let ipc = other.gpu().ipc();
        assert_eq!(ipc.open(&other, &handle), Err(Error::InvalidHandle));
        let memory = one.allocate(64).unwrap();
        let handle = one.gpu().ipc().export(&one, &memory).unwrap();
        let opened = SharedEvent::open(&other, &handle).map(drop);
        assert_eq!(opened, Err(Error::InvalidHandle));
        let again = SharedEvent::open(&other, &event.handle().unwrap()).unwrap();
        assert_eq!(again.handle(), Err(Error::InvalidValue), "not its own");
    }

    #[test]
    fn a_wait_ends_with_its_context() {
        let one = process();
        let event = SharedEvent::new(&one).unwrap();
        let _never = event.record();
        let wait = event.wait().expect("ahead");
        one.destroy([]);
        wait();
    }
}
