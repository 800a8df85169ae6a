//! Accesses of 16 bytes at once.
//!
//! PTX has loads, stores and exchanges of 128 bits that no other such access may tear. On x86-64 they are one
//! instruction each, so that they are atomic for the host program too; elsewhere, and under Miri, a lock keeps
//! them apart from each other.

use super::Checked;

/// What 16 bytes hold, low half first.
pub type Wide = [u64; 2];

impl Checked {
    /// Reads 16 bytes.
    pub fn load128(self) -> Wide {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if hardware::available() {
            // SAFETY: the processor can, and `new` vouches for an aligned address in valid memory.
            return unsafe { hardware::load(self.0) };
        }
        locked(|| self.halves())
    }

    /// Writes 16 bytes.
    pub fn store128(self, value: Wide) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if hardware::available() {
            // SAFETY: as above; the memory is writable, as `new` was told.
            return unsafe { hardware::store(self.0, value) };
        }
        locked(|| self.set_halves(value));
    }

    /// Replaces 16 bytes by what `change` makes of them; returns what they were.
    pub fn update128(self, change: impl Fn(Wide) -> Wide) -> Wide {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if hardware::available() {
            let mut old = self.load128();
            loop {
                // SAFETY: as above.
                let found = unsafe { hardware::exchange(self.0, old, change(old)) };
                if found == old {
                    return old;
                }
                old = found;
            }
        }
        locked(|| {
            let old = self.halves();
            self.set_halves(change(old));
            old
        })
    }

    /// The two halves, one after the other.
    fn halves(self) -> Wide {
        // `new` was told that 16 bytes are there.
        [self.load64(), Self(self.0 + 8).load64()]
    }

    fn set_halves(self, [low, high]: Wide) {
        self.store64(low);
        Self(self.0 + 8).store64(high);
    }
}

/// Runs `access` while no other such access runs.
fn locked<T>(access: impl FnOnce() -> T) -> T {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _held = LOCK
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    access()
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod hardware {
    use std::arch::asm;
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_storeu_si128};

    use super::Wide;

    /// Whether the processor has what this needs: one with AVX reads and writes 16 aligned bytes at once.
    pub fn available() -> bool {
        std::arch::is_x86_feature_detected!("cmpxchg16b")
            && std::arch::is_x86_feature_detected!("avx")
    }

    /// # Safety
    /// The processor must be able to; `from` must be a multiple of 16 with as many readable bytes.
    pub unsafe fn load(from: u64) -> Wide {
        let found: __m128i;
        // SAFETY: the caller vouches for the place.
        unsafe {
            asm!(
                "vmovdqa {found}, [{from}]",
                from = in(reg) from,
                found = lateout(xmm_reg) found,
                options(nostack, preserves_flags, readonly),
            );
        }
        let mut value = [0; 2];
        // SAFETY: `value` has 16 bytes.
        unsafe { _mm_storeu_si128((&raw mut value).cast(), found) };
        value
    }

    /// # Safety
    /// As for [`load`], and the bytes must be writable.
    pub unsafe fn store(to: u64, value: Wide) {
        // SAFETY: `value` has 16 bytes.
        let value = unsafe { _mm_loadu_si128((&raw const value).cast()) };
        // SAFETY: the caller vouches for the place.
        unsafe {
            asm!(
                "vmovdqa [{to}], {value}",
                to = in(reg) to,
                value = in(xmm_reg) value,
                options(nostack, preserves_flags),
            );
        }
    }

    /// Writes `new` where `old` lies; returns what lay there.
    ///
    /// # Safety
    /// As for [`store`].
    pub unsafe fn exchange(at: u64, old: Wide, new: Wide) -> Wide {
        let [mut low, mut high] = old;
        // SAFETY: the caller vouches for the place. The instruction wants a half of the new value in `rbx`,
        // which the compiler keeps for itself: it is given back.
        unsafe {
            asm!(
                "xchg {new}, rbx",
                "lock cmpxchg16b xmmword ptr [rdi]",
                "mov rbx, {new}",
                new = inout(reg) new[0] => _,
                in("rcx") new[1],
                inout("rax") low,
                inout("rdx") high,
                in("rdi") at,
                options(nostack),
            );
        }
        [low, high]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(16))]
    struct Place([u64; 2]);

    #[test]
    fn sixteen_bytes_are_read_written_and_exchanged() {
        let mut place = Place([1, 2]);
        let address = (&raw mut place.0).expose_provenance() as u64;
        // SAFETY: the place is aligned, writable and outlives the value.
        let checked = unsafe { Checked::new(address) };
        assert_eq!(checked.load128(), [1, 2]);
        checked.store128([3, u64::MAX]);
        assert_eq!(checked.update128(|[low, high]| [high, low]), [3, u64::MAX]);
        assert_eq!(checked.load128(), [u64::MAX, 3]);
    }

    #[test]
    fn exchanges_of_several_threads_are_not_torn() {
        let mut place = Place([0, 0]);
        let address = (&raw mut place.0).expose_provenance() as u64;
        let rounds = if cfg!(miri) { 20 } else { 20_000 };
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    // SAFETY: the place is aligned, writable and outlives the threads.
                    let checked = unsafe { Checked::new(address) };
                    for _ in 0..rounds {
                        let [low, high] = checked.update128(|[low, high]| [low + 1, high + 2]);
                        assert_eq!(low * 2, high);
                        let [low, high] = checked.load128();
                        assert_eq!(low * 2, high);
                    }
                });
            }
        });
        // SAFETY: as above.
        let checked = unsafe { Checked::new(address) };
        assert_eq!(checked.load128(), [3 * rounds, 6 * rounds]);
    }
}
