//! Whether kernels have printed something that the client has not read yet.

use crate::layout::HeadLine;
use crate::memory::{OutOfBounds, Region, View};
use crate::sync::Ordering;

/// One word, written by the worker before a reply and looked at by the client after it. It is a hint: what
/// there is to read comes as the answer to a request of its own.
#[derive(Debug)]
pub struct Output<R> {
    word: View<R>,
}

impl<R: Region> Output<R> {
    /// The word of a region.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the region has no head page.
    pub fn new(region: &R) -> Result<Self, OutOfBounds> {
        let word = HeadLine::Output.word();
        Ok(Self {
            word: View::new(region, word..word + 1)?,
        })
    }

    /// Worker: so many bytes wait. Said under the lock of what waits, before the reply that makes it seen.
    pub fn tell(&self, bytes: u64) {
        self.word.words()[0].store(bytes, Ordering::Relaxed);
    }

    /// Client: whether something waits. One load; the reply that came before it orders it.
    #[inline]
    pub fn waits(&self) -> bool {
        self.word.words()[0].load(Ordering::Relaxed) != 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::layout::PAGE_WORDS;
    use crate::memory::Heap;

    #[test]
    fn what_is_told_is_seen_until_it_is_taken_back() {
        let region = Heap::zeroed(PAGE_WORDS);
        let (worker, client) = (Output::new(&region).unwrap(), Output::new(&region).unwrap());
        assert!(!client.waits());
        worker.tell(7);
        assert!(client.waits());
        worker.tell(0);
        assert!(!client.waits());
    }

    #[test]
    fn a_region_without_a_head_page_is_refused() {
        assert!(Output::new(&Heap::zeroed(8)).is_err());
    }
}
