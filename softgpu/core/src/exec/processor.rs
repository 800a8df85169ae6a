//! Loops compiled for the processor at hand.
//!
//! What a warp's lanes do is a loop over arrays, which only becomes vector instructions when it is
//! compiled alone: as one arm of the interpreter's large `match`, the compiler would merge it with
//! its neighbours lane by lane. [`Processor::apart`] makes such a loop a function of its own, with
//! the features of the processor that a value of the type stands for. Beside it stand the few things
//! that such loops are not recognised for.

/// Features of the processor that may be relied on.
pub trait Processor: Copy {
    /// Runs `work` as a function of its own. Its three arguments travel in registers; what it captures
    /// would go through memory.
    fn apart_with<A, B, C, R>(self, a: A, b: B, c: C, work: impl FnOnce(A, B, C) -> R) -> R;

    /// Runs `work` as a function of its own.
    #[inline(always)]
    fn apart<R>(self, work: impl FnOnce() -> R) -> R {
        self.apart_with(
            (),
            (),
            (),
            #[inline(always)]
            |(), (), ()| work(),
        )
    }

    /// The highest bit of each lane. Fastest as a part of `work`.
    #[inline(always)]
    fn signs(self, lanes: &[u32; 32]) -> u32 {
        (0..32).fold(0, |bits, lane| bits | (lanes[lane] >> 31) << lane)
    }

    /// As [`Processor::signs`].
    #[inline(always)]
    fn signs_wide(self, lanes: &[u64; 32]) -> u32 {
        let sign = |lane: usize| u32::from(lanes[lane] >> 63 != 0);
        (0..32).fold(0, |bits, lane| bits | sign(lane) << lane)
    }

    /// Whether each lane holds `STEP` more than the one before it.
    #[inline(always)]
    fn is_row<const STEP: u64>(self, lanes: &[u64; 32]) -> bool {
        let steps = (0u64..).zip(lanes);
        steps.fold(0, |differ, (lane, &value)| {
            differ | value ^ lanes[0].wrapping_add(lane * STEP)
        }) == 0
    }
}

/// What every processor of the architecture has.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Processor for Plain {
    #[inline(never)]
    fn apart_with<A, B, C, R>(self, a: A, b: B, c: C, work: impl FnOnce(A, B, C) -> R) -> R {
        work(a, b, c)
    }
}

/// AVX2 and its contemporaries: a value exists only where the processor has them.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// The features, if the processor has them.
    pub fn detect() -> Option<Self> {
        let has = std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("bmi2")
            && std::arch::is_x86_feature_detected!("lzcnt")
            && std::arch::is_x86_feature_detected!("popcnt");
        has.then_some(Self(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Processor for Avx2 {
    #[inline(always)]
    fn apart_with<A, B, C, R>(self, a: A, b: B, c: C, work: impl FnOnce(A, B, C) -> R) -> R {
        #[inline(never)]
        #[target_feature(enable = "avx2,fma,bmi2,lzcnt,popcnt")]
        fn with_features<A, B, C, R>(a: A, b: B, c: C, work: impl FnOnce(A, B, C) -> R) -> R {
            work(a, b, c)
        }
        // SAFETY: `detect` has found the features, or there would be no `self`.
        unsafe { with_features(a, b, c, work) }
    }

    #[inline(always)]
    fn signs(self, lanes: &[u32; 32]) -> u32 {
        // SAFETY: as above.
        unsafe { avx2::signs(lanes) }
    }

    #[inline(always)]
    fn signs_wide(self, lanes: &[u64; 32]) -> u32 {
        // SAFETY: as above.
        unsafe { avx2::signs_wide(lanes) }
    }

    #[inline(always)]
    fn is_row<const STEP: u64>(self, lanes: &[u64; 32]) -> bool {
        // SAFETY: as above.
        unsafe { avx2::is_row::<STEP>(lanes) }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi64, _mm256_castsi256_pd, _mm256_castsi256_ps, _mm256_loadu_si256,
        _mm256_movemask_pd, _mm256_movemask_ps, _mm256_or_si256, _mm256_set1_epi64x,
        _mm256_setr_epi64x, _mm256_setzero_si256, _mm256_testz_si256, _mm256_xor_si256,
    };

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load<T: Copy, const N: usize>(lanes: &[T; N]) -> __m256i {
        const { assert!(size_of::<T>() * N == size_of::<__m256i>()) }
        // SAFETY: the array is as large as what is read.
        unsafe { _mm256_loadu_si256(std::ptr::from_ref(lanes).cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn signs(lanes: &[u32; 32]) -> u32 {
        let parts = lanes.as_chunks::<8>().0.iter().zip([0, 8, 16, 24]);
        parts.fold(0, |bits, (part, at)| {
            let signs = _mm256_movemask_ps(_mm256_castsi256_ps(load(part)));
            bits | signs.cast_unsigned() << at
        })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn signs_wide(lanes: &[u64; 32]) -> u32 {
        let parts = lanes.as_chunks::<4>().0.iter().zip((0u32..).step_by(4));
        parts.fold(0, |bits, (part, at)| {
            let signs = _mm256_movemask_pd(_mm256_castsi256_pd(load(part)));
            bits | signs.cast_unsigned() << at
        })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn is_row<const STEP: u64>(lanes: &[u64; 32]) -> bool {
        let step = const { STEP.cast_signed() };
        let next = _mm256_set1_epi64x(4 * step);
        let mut expected = _mm256_add_epi64(
            _mm256_set1_epi64x(lanes[0].cast_signed()),
            _mm256_setr_epi64x(0, step, 2 * step, 3 * step),
        );
        let mut differ = _mm256_setzero_si256();
        for part in lanes.as_chunks::<4>().0 {
            differ = _mm256_or_si256(differ, _mm256_xor_si256(load(part), expected));
            expected = _mm256_add_epi64(expected, next);
        }
        _mm256_testz_si256(differ, differ) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cpu: impl Processor) {
        let bits = 0x8421_0ff7u32;
        let narrow: [u32; 32] = std::array::from_fn(|lane| (bits >> lane & 1) << 31 | 0x7fff_ffff);
        let wide = narrow.map(|value| u64::from(value) << 32);
        assert_eq!(cpu.signs(&narrow), bits);
        assert_eq!(cpu.signs_wide(&wide), bits);
        let row: [u64; 32] = std::array::from_fn(|lane| (lane as u64 * 4).wrapping_sub(16));
        assert!(cpu.is_row::<4>(&row) && !cpu.is_row::<8>(&row) && !cpu.is_row::<0>(&row));
        for lane in 1..32 {
            let mut other = row;
            other[lane] ^= 1 << (lane * 2);
            assert!(!cpu.is_row::<4>(&other), "lane {lane}");
        }
        assert!(cpu.is_row::<0>(&[7; 32]));
        assert_eq!(cpu.apart_with(1, 2, 3, |a, b, c| a * 100 + b * 10 + c), 123);
    }

    #[test]
    fn every_processor_sees_the_same_signs_and_rows() {
        check(Plain);
        #[cfg(target_arch = "x86_64")]
        if let Some(cpu) = Avx2::detect() {
            check(cpu);
        }
    }
}
