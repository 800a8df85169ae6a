//! What is made of a tenant's code at the moment, and since when: an image can keep a translator busy for as long as its
//! author likes.

#![forbid(unsafe_code)]

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The loads and links under way.
#[derive(Debug, Default)]
pub struct Translations(Mutex<Vec<Instant>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Translation<'a> {
    all: &'a Translations,
    since: Instant,
}

impl Translations {
    /// One begins.
    pub fn begin(&self) -> Translation<'_> {
        let since = Instant::now();
        self.lock().push(since);
        Translation { all: self, since }
    }

    /// When the one began that takes longest; none if there is none.
    pub fn oldest(&self) -> Option<Instant> {
        self.lock().iter().min().copied()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Translation<'_> {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        // Of several that began at the same instant any will do.
        if let Some(at) = all.iter().position(|since| *since == self.since) {
            all.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_known_until_it_ends() {
        let all = Translations::default();
        assert_eq!(all.oldest(), None);
        let first = all.begin();
        let since = all.oldest().unwrap();
        let second = all.begin();
        assert_eq!(all.oldest(), Some(since));
        drop(first);
        assert!(all.oldest().unwrap() >= since);
        drop(second);
        assert_eq!(all.oldest(), None);
    }
}
