//! Loops compiled for the processor at hand.
//!
//! What a warp's lanes do is a loop over arrays, which only becomes vector instructions when it is
//! compiled alone: as one arm of the interpreter's large `match`, the compiler would merge it with
//! its neighbours lane by lane. [`Processor::apart`] makes such a loop a function of its own, with
//! the features of the processor that a value of the type stands for.

/// Features of the processor that may be relied on.
pub trait Processor: Copy {
    /// Runs `work` as a function of its own.
    fn apart<R>(self, work: impl FnOnce() -> R) -> R;
}

/// What every processor of the architecture has.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Processor for Plain {
    #[inline(never)]
    fn apart<R>(self, work: impl FnOnce() -> R) -> R {
        work()
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
    fn apart<R>(self, work: impl FnOnce() -> R) -> R {
        #[inline(never)]
        #[target_feature(enable = "avx2,fma,bmi2,lzcnt,popcnt")]
        fn with_features<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        // SAFETY: `detect` has found the features, or there would be no `self`.
        unsafe { with_features(work) }
    }
}
