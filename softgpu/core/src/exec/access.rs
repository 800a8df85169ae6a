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

use super::processor::Processor;
use super::warp::FULL;

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
    /// Whether these are the addresses of one cell after the other.
    fn is_row(cpu: impl Processor, addresses: &[u64; 32]) -> bool;
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

                #[inline(always)]
                fn is_row(cpu: impl Processor, addresses: &[u64; 32]) -> bool {
                    cpu.is_row::<{ Self::BYTES }>(addresses)
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

/// Where each lane accesses memory: a register's value and what is added to it.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    pub base: &'a [u64; 32],
    pub offset: i64,
    /// The lanes that do; not empty.
    pub mask: u32,
}

impl<'a> Places<'a> {
    /// These addresses.
    pub fn at(addresses: &'a [u64; 32], mask: u32) -> Self {
        Self {
            base: addresses,
            offset: 0,
            mask,
        }
    }

    #[inline(always)]
    pub fn address(&self, lane: usize) -> u64 {
        self.base[lane].wrapping_add_signed(self.offset)
    }

    /// All of them, those of inactive lanes included.
    #[inline(always)]
    pub fn addresses(&self) -> [u64; 32] {
        self.base.map(|base| base.wrapping_add_signed(self.offset))
    }

    /// An active lane's.
    #[inline(always)]
    pub fn first(&self) -> u64 {
        self.address((self.mask.trailing_zeros() & 31) as usize)
    }

    /// How they lie.
    #[inline(always)]
    pub fn pattern<C: Cell>(&self, cpu: impl Processor) -> Pattern {
        if self.mask != FULL {
            return Pattern::Other;
        }
        // The last lane alone tells most of the others.
        let distance = self.base[31].wrapping_sub(self.base[0]);
        if distance == 31 * C::BYTES && C::is_row(cpu, self.base) {
            Pattern::Row
        } else if distance == 0 && cpu.is_row::<0>(self.base) {
            Pattern::Same
        } else {
            Pattern::Other
        }
    }

    /// The lowest bits that any active lane's address has.
    #[inline(always)]
    pub fn low_bits(&self) -> u64 {
        let mut bits = 0;
        for lane in 0..32 {
            let address = self.address(lane);
            bits |= if self.mask >> lane & 1 != 0 {
                address
            } else {
                0
            };
        }
        bits & 7
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

/// The addresses of a warp's active lanes, summed up for one check.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a, C> {
    places: Places<'a>,
    low: u64,
    high: u64,
    bits: u64,
    cell: PhantomData<C>,
}

impl<'a, C: Cell> Group<'a, C> {
    #[inline(always)]
    pub fn of(places: Places<'a>) -> Self {
        let first = places.first();
        let mut group = Self {
            places,
            low: first,
            high: first,
            bits: first,
            cell: PhantomData,
        };
        for lane in 0..32 {
            let address = if places.mask >> lane & 1 != 0 {
                places.address(lane)
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
        let places = self.0.places;
        for lane in 0..32 {
            if places.mask >> lane & 1 != 0 {
                // SAFETY: `Span::allow` has checked every active lane against the valid range.
                access(lane, unsafe { Checked::new(places.address(lane)) });
            }
        }
    }
}

/// 32 cells in a row that have been checked.
#[derive(Debug, Clone, Copy)]
pub struct Cells<C> {
    first: u64,
    cell: PhantomData<C>,
}

impl<C: Cell> Cells<C> {
    #[inline(always)]
    fn place(self, lane: u64) -> Checked {
        // SAFETY: `Span::row` has checked all 32 of them.
        unsafe { Checked::new(self.first + lane * C::BYTES) }
    }

    /// Whether they can be moved in pieces.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn in_pieces(self) -> bool {
        self.first & 15 == 0 && pieces::available()
    }

    /// Reads each lane's cell.
    #[inline(always)]
    pub fn load<T: Copy>(self, out: &mut [T; 32], widen: impl Fn(C) -> T) {
        #[cfg(target_arch = "x86_64")]
        if self.in_pieces() {
            let mut cells = [C::default(); 32];
            // SAFETY: the processor can, and the row of 32 checked cells starts at a multiple of 16.
            unsafe { pieces::load(self.first, (&raw mut cells).cast(), size_of_val(&cells)) };
            for (out, cell) in out.iter_mut().zip(cells) {
                *out = widen(cell);
            }
            return;
        }
        for (out, lane) in out.iter_mut().zip(0..) {
            *out = widen(C::load(self.place(lane)));
        }
    }

    /// Writes each lane's value.
    #[inline(always)]
    pub fn store<T: Copy>(self, values: &[T; 32], narrow: impl Fn(T) -> C) {
        #[cfg(target_arch = "x86_64")]
        if self.in_pieces() {
            let cells: [C; 32] = std::array::from_fn(|lane| narrow(values[lane]));
            // SAFETY: the processor can, and the row of 32 checked cells starts at a multiple of 16.
            unsafe { pieces::store((&raw const cells).cast(), self.first, size_of_val(&cells)) };
            return;
        }
        for (value, lane) in values.iter().zip(0..) {
            narrow(*value).store(self.place(lane));
        }
    }
}

/// Asks for the cache line at an address, which need not be one.
#[inline(always)]
pub fn prefetch(address: u64) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // Addresses of this platform have 64 bits.
        #[allow(clippy::cast_possible_truncation)]
        let pointer = std::ptr::without_provenance(address as usize);
        // SAFETY: the instruction reads nothing that a program could see and faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(pointer) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
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

    /// The 32 cells from `first` on, if they lie inside and are aligned.
    #[inline(always)]
    pub fn row<C: Cell>(self, first: u64, write: bool) -> Option<Cells<C>> {
        let last = first.checked_add(31 * C::BYTES)?;
        let inside = self.covers(first, last, C::BYTES, write) && first & (C::BYTES - 1) == 0;
        inside.then_some(Cells {
            first,
            cell: PhantomData,
        })
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
