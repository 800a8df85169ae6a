//! The only place where kernels touch host memory: atomic cells at checked addresses.
//!
//! Kernels race with each other and with the host program by design. Every access is therefore an
//! atomic one, relaxed where PTX asks for no order; on x86-64 and AArch64 these are ordinary loads
//! and stores. Accesses of different sizes to one place may race too, as they may on a device; the
//! hardware defines what such a race yields, and no Rust reference to the memory ever exists.

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
}

/// The addresses of a warp's active lanes, summed up for one check.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    low: u64,
    high: u64,
    bits: u64,
}

impl Extent {
    /// Sums up the lanes of `mask`, which must not be empty.
    #[inline(always)]
    pub fn of(addresses: &[u64; 32], mask: u32) -> Self {
        let first = addresses[(mask.trailing_zeros() & 31) as usize];
        let (mut low, mut high, mut bits) = (first, first, first);
        for (lane, &address) in addresses.iter().enumerate() {
            let address = if mask >> lane & 1 != 0 {
                address
            } else {
                first
            };
            low = low.min(address);
            high = high.max(address);
            bits |= address;
        }
        Self { low, high, bits }
    }

    /// The lowest address.
    pub fn low(self) -> u64 {
        self.low
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

    #[inline(always)]
    fn covers(self, low: u64, high: u64, bytes: u64, write: bool) -> bool {
        low >= self.0.start
            && high < self.0.end
            && self.0.end - high >= bytes
            && (self.0.writable || !write)
    }

    /// Whether an access of every lane lies inside and is aligned.
    #[inline(always)]
    pub fn covers_all(self, extent: Extent, bytes: u64, write: bool) -> bool {
        self.covers(extent.low, extent.high, bytes, write) && extent.bits & (bytes - 1) == 0
    }

    /// The place of one aligned access, if it lies inside.
    #[inline(always)]
    pub fn place(self, address: u64, bytes: u64, write: bool) -> Option<Checked> {
        let inside = self.covers(address, address, bytes, write) && address & (bytes - 1) == 0;
        // SAFETY: the range is valid by the promise made to `new`; the access was just checked
        // against it.
        inside.then(|| unsafe { Checked::new(address) })
    }

    /// Reads each active lane; `false`, with nothing read, if any access is not allowed.
    #[inline(always)]
    pub fn load_all<T>(
        self,
        addresses: &[u64; 32],
        mask: u32,
        bytes: u64,
        out: &mut [T; 32],
        read: impl Fn(Checked) -> T,
    ) -> bool {
        if !self.covers_all(Extent::of(addresses, mask), bytes, false) {
            return false;
        }
        for (lane, (&address, out)) in addresses.iter().zip(out).enumerate() {
            if mask >> lane & 1 != 0 {
                // SAFETY: `covers_all` has checked every active lane against the valid range.
                *out = read(unsafe { Checked::new(address) });
            }
        }
        true
    }

    /// Writes each active lane, in lane order; `false`, with nothing written, if any access is not
    /// allowed.
    #[inline(always)]
    pub fn store_all<T: Copy>(
        self,
        addresses: &[u64; 32],
        mask: u32,
        bytes: u64,
        values: &[T; 32],
        write: impl Fn(Checked, T),
    ) -> bool {
        if !self.covers_all(Extent::of(addresses, mask), bytes, true) {
            return false;
        }
        for (lane, (&address, &value)) in addresses.iter().zip(values).enumerate() {
            if mask >> lane & 1 != 0 {
                // SAFETY: `covers_all` has checked every active lane against the valid range.
                write(unsafe { Checked::new(address) }, value);
            }
        }
        true
    }
}
