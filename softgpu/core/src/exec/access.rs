//! The only place where kernels touch host memory: atomic cells at checked addresses.
//!
//! Kernels race with each other and with the host program by design. Every access is therefore an
//! atomic one, relaxed where PTX asks for no order; on x86-64 and AArch64 these are ordinary loads
//! and stores. Accesses of different sizes to one place may race too, as they may on a device; the
//! hardware defines what such a race yields, and no Rust reference to the memory ever exists.
//!
//! Most accesses of a warp are to neighbouring cells. Where those start at a multiple of 16 and the
//! processor has AVX2, they are moved 16 bytes at a time by `vmovdqa`, which such processors execute
//! as one atomic access. It stands in inline assembly, since Rust has no atomic of that width: to
//! the compiler it is a foreign access like those of the host program.

mod wide;

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// A piece of memory whose start and end have been checked against an [`super::AddressSpace`].
#[derive(Debug, Clone, Copy)]
pub struct Checked(u64);

impl Checked {
    /// Vouches for `address`.
    ///
    /// # Safety
    /// `address` must be a multiple of the size of every access made through the value, and that
    /// many bytes from it on must lie in a range an `AddressSpace` returned during the current run;
    /// a writable one if anything is stored.
    #[inline(always)]
    pub unsafe fn new(address: u64) -> Self {
        Self(address)
    }
}

macro_rules! cells {
    ($($name:ident: $atomic:ident, $int:ident, $load:ident, $store:ident;)*) => {
        impl Checked {
            $(
                /// The cell of this width at the address.
                #[inline(always)]
                pub fn $name<'a>(self) -> &'a $atomic {
                    // Addresses of this platform have 64 bits.
                    #[allow(clippy::cast_possible_truncation)]
                    let pointer = std::ptr::with_exposed_provenance_mut::<$int>(self.0 as usize);
                    // SAFETY: `new` was told that the address is aligned and lies in valid memory;
                    // its users keep the reference no longer than one access.
                    unsafe { $atomic::from_ptr(pointer) }
                }

                #[inline(always)]
                pub fn $load(self) -> $int {
                    self.$name().load(Ordering::Relaxed)
                }

                #[inline(always)]
                pub fn $store(self, value: $int) {
                    self.$name().store(value, Ordering::Relaxed);
                }
            )*
        }
    };
}

cells! {
    cell8: AtomicU8, u8, load8, store8;
    cell16: AtomicU16, u16, load16, store16;
    cell32: AtomicU32, u32, load32, store32;
    cell64: AtomicU64, u64, load64, store64;
}

/// What one lane reads or writes.
pub trait Cell: Copy + Default {
    /// Its size.
    const BYTES: u64;

    /// Reads it, relaxed.
    fn load(place: Checked) -> Self;
    /// Writes it, relaxed.
    fn store(self, place: Checked);
}

macro_rules! cell {
    ($($int:ident, $load:ident, $store:ident;)*) => {
        $(
            impl Cell for $int {
                const BYTES: u64 = size_of::<$int>() as u64;

                #[inline(always)]
                fn load(place: Checked) -> Self {
                    place.$load()
                }

                #[inline(always)]
                fn store(self, place: Checked) {
                    place.$store(self);
                }
            }
        )*
    };
}

cell! {
    u8, load8, store8;
    u16, load16, store16;
    u32, load32, store32;
    u64, load64, store64;
}

/// Moves the cells of a warp between memory that others may access and memory that they may not.
#[cfg(target_arch = "x86_64")]
mod pieces {
    use std::arch::asm;
    use std::arch::x86_64::{
        __m128i, __m256i, _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_loadu_si256,
        _mm256_set_m128i, _mm256_storeu_si256,
    };

    /// Whether the processor can.
    #[inline(always)]
    pub fn available() -> bool {
        std::arch::is_x86_feature_detected!("avx2")
    }

    /// Reads `bytes` bytes.
    ///
    /// # Safety
    /// The processor must be able to. `from` must be a multiple of 16; that many bytes must be
    /// readable there and writable at `to`; `bytes` must be a multiple of 32.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub unsafe fn load(from: u64, to: *mut u8, bytes: usize) {
        for (offset, place) in (0..bytes).step_by(32).zip((from..).step_by(32)) {
            let (low, high): (__m128i, __m128i);
            // SAFETY: the place lies inside what the caller vouches for.
            unsafe {
                asm!(
                    "vmovdqa {low}, [{place}]",
                    "vmovdqa {high}, [{place} + 16]",
                    place = in(reg) place,
                    low = lateout(xmm_reg) low,
                    high = lateout(xmm_reg) high,
                    options(nostack, preserves_flags, readonly),
                );
            }
            let both = _mm256_set_m128i(high, low);
            // SAFETY: the offset is less than `bytes`.
            let to = unsafe { to.add(offset) }.cast::<__m256i>();
            // SAFETY: the caller vouches for this memory.
            unsafe { _mm256_storeu_si256(to, both) };
        }
    }

    /// Writes `bytes` bytes.
    ///
    /// # Safety
    /// As for [`load`], with `to` the multiple of 16.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub unsafe fn store(from: *const u8, to: u64, bytes: usize) {
        for (offset, place) in (0..bytes).step_by(32).zip((to..).step_by(32)) {
            // SAFETY: the offset is less than `bytes`.
            let from = unsafe { from.add(offset) }.cast::<__m256i>();
            // SAFETY: the caller vouches for this memory.
            let both = unsafe { _mm256_loadu_si256(from) };
            let low = _mm256_castsi256_si128(both);
            let high = _mm256_extracti128_si256::<1>(both);
            // SAFETY: the place lies inside what the caller vouches for.
            unsafe {
                asm!(
                    "vmovdqa [{place}], {low}",
                    "vmovdqa [{place} + 16], {high}",
                    place = in(reg) place,
                    low = in(xmm_reg) low,
                    high = in(xmm_reg) high,
                    options(nostack, preserves_flags),
                );
            }
        }
    }
}

/// A range that an [`super::AddressSpace`] has vouched for during the current run.
#[derive(Debug, Clone, Copy)]
pub struct Span(super::Range);

/// The memory of a launch: what the embedder vouches for and, beside it, the grid's own workspace.
pub struct WithWorkspace<'a> {
    space: &'a dyn super::AddressSpace,
    workspace: Box<[AtomicU64; 8]>,
    range: super::Range,
}

impl<'a> WithWorkspace<'a> {
    pub fn new(space: &'a dyn super::AddressSpace) -> Self {
        let workspace = Box::new([const { AtomicU64::new(0) }; 8]);
        let start = workspace.as_ptr().expose_provenance() as u64;
        let end = start + size_of_val(&*workspace) as u64;
        let range = super::Range {
            start,
            end,
            writable: true,
        };
        Self {
            space,
            workspace,
            range,
        }
    }

    /// Where the workspace lies.
    pub fn address(&self) -> u64 {
        debug_assert_eq!(self.workspace.as_ptr().addr() as u64, self.range.start);
        self.range.start
    }
}

// SAFETY: the workspace consists of atomics and lives as long as `self`; all other ranges are those
// of an address space that keeps its promise.
unsafe impl super::AddressSpace for WithWorkspace<'_> {
    fn resolve(&self, address: u64) -> Option<super::Range> {
        let own = self.range.start <= address && address < self.range.end;
        if own {
            Some(self.range)
        } else {
            self.space.resolve(address)
        }
    }

    fn image(&self, object: u64) -> Option<std::sync::Arc<super::image::Image>> {
        self.space.image(object)
    }

    fn resolve_image(&self, address: u64) -> Option<super::Range> {
        self.space.resolve_image(address)
    }
}

/// How the cells lie that the lanes of a warp access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// All lanes are active and access one cell after the other.
    Row,
    /// All lanes are active and access one cell.
    Same,
    Other,
}

impl Pattern {
    #[inline(always)]
    pub fn of<C: Cell>(addresses: &[u64; 32], mask: u32) -> Self {
        if mask != u32::MAX {
            return Self::Other;
        }
        let (first, last) = (addresses[0], addresses[31]);
        let step_is = |step: u64| {
            let steps = (0u64..).zip(addresses);
            steps.fold(0, |differ, (lane, &address)| {
                differ | address ^ first.wrapping_add(lane * step)
            }) == 0
        };
        // The last lane alone tells most of the others.
        if first.checked_add(31 * C::BYTES) == Some(last) && step_is(C::BYTES) {
            Self::Row
        } else if first == last && step_is(0) {
            Self::Same
        } else {
            Self::Other
        }
    }
}

/// The addresses of a warp's active lanes, summed up for one check.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a, C> {
    addresses: &'a [u64; 32],
    mask: u32,
    low: u64,
    high: u64,
    bits: u64,
    pattern: Pattern,
    cell: PhantomData<C>,
}

impl<'a, C: Cell> Group<'a, C> {
    /// Sums up the lanes of `mask`, which must not be empty.
    #[inline(always)]
    pub fn of(addresses: &'a [u64; 32], mask: u32) -> Self {
        let first = addresses[(mask.trailing_zeros() & 31) as usize];
        let mut group = Self {
            addresses,
            mask,
            low: first,
            high: first,
            bits: first,
            pattern: Pattern::of::<C>(addresses, mask),
            cell: PhantomData,
        };
        match group.pattern {
            Pattern::Row => {
                group.high = first + 31 * C::BYTES;
                return group;
            }
            Pattern::Same => return group,
            Pattern::Other => {}
        }
        for (lane, &address) in addresses.iter().enumerate() {
            let address = if mask >> lane & 1 != 0 {
                address
            } else {
                first
            };
            group.low = group.low.min(address);
            group.high = group.high.max(address);
            group.bits |= address;
        }
        group
    }

    /// The lowest address.
    pub fn low(&self) -> u64 {
        self.low
    }
}

/// Accesses of a warp that have been checked.
#[derive(Debug)]
pub struct Allowed<'a, C>(Group<'a, C>);

impl<C: Cell> Allowed<'_, C> {
    /// Calls `access` for every active lane, in lane order.
    #[inline(always)]
    pub fn each(&self, mut access: impl FnMut(usize, Checked)) {
        for (lane, &address) in self.0.addresses.iter().enumerate() {
            if self.0.mask >> lane & 1 != 0 {
                // SAFETY: `Span::allow` has checked every active lane against the valid range.
                access(lane, unsafe { Checked::new(address) });
            }
        }
    }

    /// Whether the cells can be moved in pieces.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn in_pieces(&self) -> bool {
        self.0.pattern == Pattern::Row && self.0.low & 15 == 0 && pieces::available()
    }

    /// Reads each active lane's cell into its place in `out`.
    #[inline(always)]
    pub fn load<T: Copy>(&self, out: &mut [T; 32], widen: impl Fn(C) -> T) {
        if self.0.pattern == Pattern::Same {
            // SAFETY: `Span::allow` has checked the address.
            let place = unsafe { Checked::new(self.0.low) };
            *out = [widen(C::load(place)); 32];
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if self.in_pieces() {
            let mut cells = [C::default(); 32];
            // SAFETY: the processor can, and the row of 32 checked cells starts at a multiple of 16.
            unsafe { pieces::load(self.0.low, (&raw mut cells).cast(), size_of_val(&cells)) };
            for (out, cell) in out.iter_mut().zip(cells) {
                *out = widen(cell);
            }
            return;
        }
        self.each(|lane, place| out[lane] = widen(C::load(place)));
    }

    /// Writes each active lane's value, in lane order.
    #[inline(always)]
    pub fn store<T: Copy>(&self, values: &[T; 32], narrow: impl Fn(T) -> C) {
        #[cfg(target_arch = "x86_64")]
        if self.in_pieces() {
            let cells: [C; 32] = std::array::from_fn(|lane| narrow(values[lane]));
            // SAFETY: the processor can, and the row of 32 checked cells starts at a multiple of 16.
            unsafe { pieces::store((&raw const cells).cast(), self.0.low, size_of_val(&cells)) };
            return;
        }
        self.each(|lane, place| narrow(values[lane]).store(place));
    }
}

impl Span {
    /// Nothing.
    pub const EMPTY: Self = Self(super::Range {
        start: 0,
        end: 0,
        writable: false,
    });

    /// Believes a range.
    ///
    /// # Safety
    /// An `AddressSpace` must have returned the range during the current run, and the value must
    /// not outlive that run.
    pub unsafe fn new(range: super::Range) -> Self {
        Self(range)
    }

    /// The memory that an image's texels lie in; to be used no longer than the current instruction.
    pub fn of_image(space: &dyn super::AddressSpace, address: u64) -> Option<Self> {
        space.resolve_image(address).map(Self)
    }

    #[inline(always)]
    fn covers(self, low: u64, high: u64, bytes: u64, write: bool) -> bool {
        low >= self.0.start
            && high < self.0.end
            && self.0.end - high >= bytes
            && (self.0.writable || !write)
    }

    /// The accesses of all lanes, if they lie inside and are aligned.
    #[inline(always)]
    pub fn allow<'a, C: Cell>(self, group: &Group<'a, C>, write: bool) -> Option<Allowed<'a, C>> {
        let inside = self.covers(group.low, group.high, C::BYTES, write);
        (inside && group.bits & (C::BYTES - 1) == 0).then_some(Allowed(*group))
    }

    /// The place of one aligned access, if it lies inside.
    #[inline(always)]
    pub fn place(self, address: u64, bytes: u64, write: bool) -> Option<Checked> {
        let inside = self.covers(address, address, bytes, write) && address & (bytes - 1) == 0;
        // SAFETY: the range is valid by the promise made to `new`; the access was just checked
        // against it.
        inside.then(|| unsafe { Checked::new(address) })
    }
}
