//! Shared words on the heap: what loom, Miri and the unit tests run the rings over.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::Memory;
use crate::sync::Word;

/// Zeroed words of this process, with a doorbell that works between its threads.
#[derive(Clone)]
pub struct Heap {
    words: Arc<[Word]>,
    pub(crate) bell: Arc<crate::wait::HeapBell>,
}

impl Heap {
    /// `count` words, all zero: the valid empty state of everything in this crate.
    pub fn zeroed(count: usize) -> Self {
        Self {
            words: (0..count).map(|_| Word::new(0)).collect(),
            bell: Arc::default(),
        }
    }
}

impl std::fmt::Debug for Heap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.words.len() * super::WORD_BYTES;
        f.debug_struct("Heap")
            .field("bytes", &bytes)
            .finish_non_exhaustive()
    }
}

impl Memory for Heap {
    #[inline]
    fn words(&self) -> &[Word] {
        &self.words
    }
}
