//! What a warp sees as memory: the spaces, the checks, the atomics.
#![allow(
    clippy::cast_possible_truncation,
    reason = "values are cut to the width of the access"
)]

use std::sync::atomic::Ordering;

use super::access::{Allowed, Cell, Checked, Group, Pattern, Span};
use super::fault::FaultKind;
use super::float::Format;
use super::warp::FULL;
use super::{AddressSpace, Range};
use crate::ptx::ir::*;

/// A fault and the lane it befell.
pub type LaneFault = (usize, FaultKind);

/// The memory of one warp.
pub struct View<'a> {
    pub space: &'a dyn AddressSpace,
    pub shared: &'a mut [u8],
    /// Local memory of all lanes, one after the other.
    pub local: &'a mut [u8],
    /// Bytes of local memory per lane.
    pub stride: usize,
    pub params: &'a [u8],
    pub spans: &'a mut Spans,
}

/// The ranges used last.
#[derive(Debug)]
pub struct Spans {
    spans: [Span; 4],
    next: usize,
}

impl Default for Spans {
    fn default() -> Self {
        Self {
            spans: [Span::EMPTY; 4],
            next: 0,
        }
    }
}

impl Spans {
    /// The accesses of all lanes, if one range allows them.
    #[inline(always)]
    fn allow<'a, C: Cell>(
        &mut self,
        space: &dyn AddressSpace,
        group: &Group<'a, C>,
        write: bool,
    ) -> Option<Allowed<'a, C>> {
        match self.spans.iter().find_map(|span| span.allow(group, write)) {
            Some(allowed) => Some(allowed),
            None => self.resolve(space, group.low())?.allow(group, write),
        }
    }

    #[cold]
    fn resolve(&mut self, space: &dyn AddressSpace, address: u64) -> Option<Span> {
        if address >= SHARED_WINDOW {
            return None;
        }
        let range: Range = space.resolve(address)?;
        // SAFETY: the address space has just returned it, and `self` lives no longer than the run.
        let span = unsafe { Span::new(range) };
        self.spans[self.next] = span;
        self.next = (self.next + 1) % self.spans.len();
        Some(span)
    }
}

/// Where one access goes.
enum Place {
    Host(Checked),
    Shared(usize),
    Local(usize),
    Param(usize),
}

impl View<'_> {
    fn place(
        &mut self,
        space: Space,
        address: u64,
        bytes: u64,
        write: bool,
        lane: usize,
    ) -> Result<Place, FaultKind> {
        if address & (bytes - 1) != 0 {
            return Err(FaultKind::MisalignedAddress { address });
        }
        let illegal = FaultKind::IllegalAddress { address, write };
        let (space, offset) = match space {
            Space::Generic => match address.checked_sub(SHARED_WINDOW) {
                None => (Space::Global, address),
                Some(offset) => match offset / WINDOW_BYTES {
                    0 => (Space::Shared, offset),
                    1 => (Space::Local, offset - WINDOW_BYTES),
                    2 => (Space::Param, offset - 2 * WINDOW_BYTES),
                    _ => return Err(illegal),
                },
            },
            space => (space, address),
        };
        let inside = |size: usize| -> Result<usize, FaultKind> {
            let end = offset
                .checked_add(bytes)
                .and_then(|end| usize::try_from(end).ok());
            match end {
                Some(end) if end <= size => Ok(end - bytes as usize),
                _ => Err(illegal.clone()),
            }
        };
        Ok(match space {
            Space::Shared => Place::Shared(inside(self.shared.len())?),
            Space::Local => Place::Local(lane * self.stride + inside(self.stride)?),
            Space::Param if write => return Err(illegal),
            Space::Param => Place::Param(inside(self.params.len())?),
            Space::Generic | Space::Global => {
                let cached = self
                    .spans
                    .spans
                    .iter()
                    .find_map(|span| span.place(address, bytes, write));
                let found = cached.or_else(|| {
                    self.spans
                        .resolve(self.space, address)?
                        .place(address, bytes, write)
                });
                Place::Host(found.ok_or(illegal)?)
            }
        })
    }

    /// Reads one lane's value, zero-extended.
    pub fn load(
        &mut self,
        space: Space,
        address: u64,
        bytes: u64,
        lane: usize,
    ) -> Result<u64, FaultKind> {
        Ok(match self.place(space, address, bytes, false, lane)? {
            Place::Host(place) => match bytes {
                1 => place.load8().into(),
                2 => place.load16().into(),
                4 => place.load32().into(),
                _ => place.load64(),
            },
            Place::Shared(offset) => read(self.shared, offset, bytes),
            Place::Local(offset) => read(self.local, offset, bytes),
            Place::Param(offset) => read(self.params, offset, bytes),
        })
    }

    /// Writes one lane's value.
    pub fn store(
        &mut self,
        space: Space,
        address: u64,
        bytes: u64,
        lane: usize,
        value: u64,
    ) -> Result<(), FaultKind> {
        match self.place(space, address, bytes, true, lane)? {
            Place::Host(place) => match bytes {
                1 => place.store8(value as u8),
                2 => place.store16(value as u16),
                4 => place.store32(value as u32),
                _ => place.store64(value),
            },
            Place::Shared(offset) => write(self.shared, offset, bytes, value),
            Place::Local(offset) => write(self.local, offset, bytes, value),
            Place::Param(_) => {}
        }
        Ok(())
    }

    /// One lane's access to 16 bytes at once; `change` says what is stored. Returns what was there.
    pub fn wide(
        &mut self,
        space: Space,
        address: u64,
        lane: usize,
        f: WideOp,
        change: impl Fn([u64; 2]) -> [u64; 2],
    ) -> Result<[u64; 2], FaultKind> {
        let atomic = matches!(f, WideOp::Exchange | WideOp::Compare);
        let (bytes, offset) = match self.place(space, address, 16, f != WideOp::Load, lane)? {
            Place::Host(place) => {
                return Ok(match f {
                    WideOp::Load => place.load128(),
                    WideOp::Store => {
                        let value = change([0; 2]);
                        place.store128(value);
                        value
                    }
                    WideOp::Exchange | WideOp::Compare => place.update128(change),
                });
            }
            Place::Local(_) | Place::Param(_) if atomic => {
                return Err(FaultKind::InvalidAddressSpace { address });
            }
            Place::Param(offset) => {
                return Ok([0, 8].map(|half| read(self.params, offset + half, 8)));
            }
            Place::Shared(offset) => (&mut *self.shared, offset),
            Place::Local(offset) => (&mut *self.local, offset),
        };
        let old = [0, 8].map(|half| read(bytes, offset + half, 8));
        for (half, value) in [0, 8].into_iter().zip(change(old)) {
            write(bytes, offset + half, 8, value);
        }
        Ok(old)
    }

    /// A word of shared memory that a lane may read and write.
    pub fn shared_word(
        &mut self,
        space: Space,
        address: u64,
        lane: usize,
    ) -> Result<&mut [u8; 8], FaultKind> {
        let place = self.place(space, address, 8, true, lane)?;
        let word = match place {
            Place::Shared(offset) => self.shared[offset..].first_chunk_mut(),
            _ => None,
        };
        word.ok_or(FaultKind::InvalidAddressSpace { address })
    }

    /// Checks the alignment of a whole vector access.
    pub fn check_vector(addresses: &[u64; 32], mask: u32, bytes: u64) -> Result<(), LaneFault> {
        for lane in lanes(mask) {
            if addresses[lane] & (bytes - 1) != 0 {
                return Err((
                    lane,
                    FaultKind::MisalignedAddress {
                        address: addresses[lane],
                    },
                ));
            }
        }
        Ok(())
    }

    /// Reads a cell in every active lane, where that is simple; `false`, with some read, if not.
    #[inline(always)]
    fn load_cells<C: Cell, T: Copy, const N: usize>(
        &mut self,
        space: Space,
        addresses: &[u64; 32],
        mask: u32,
        out: &mut [T; 32],
        of_bytes: impl Fn([u8; N]) -> C,
        widen: impl Fn(C) -> T,
    ) -> bool {
        match space {
            Space::Shared => {
                let cells = self.shared.as_chunks::<N>().0;
                let first = (addresses[0] as usize / N, addresses[0] & (N as u64 - 1));
                match (Pattern::of::<C>(addresses, mask), first) {
                    (Pattern::Same, (first, 0)) => {
                        let cell = cells.get(first);
                        return cell.is_some_and(|cell| {
                            *out = [widen(of_bytes(*cell)); 32];
                            true
                        });
                    }
                    (Pattern::Row, (first, 0)) => {
                        let row = cells.get(first..).and_then(<[_]>::first_chunk::<32>);
                        return row.is_some_and(|row| {
                            *out = row.map(|cell| widen(of_bytes(cell)));
                            true
                        });
                    }
                    _ => {}
                }
                if low_bits(addresses, mask) & (N as u64 - 1) != 0 {
                    return false;
                }
                if mask == FULL {
                    for (out, address) in out.iter_mut().zip(addresses) {
                        let Some(cell) = cells.get(*address as usize / N) else {
                            return false;
                        };
                        *out = widen(of_bytes(*cell));
                    }
                    return true;
                }
                for lane in 0..32 {
                    if mask >> lane & 1 != 0 {
                        let Some(cell) = cells.get(addresses[lane] as usize / N) else {
                            return false;
                        };
                        out[lane] = widen(of_bytes(*cell));
                    }
                }
                true
            }
            Space::Global | Space::Generic => {
                let group = Group::<C>::of(addresses, mask);
                let allowed = self.spans.allow(self.space, &group, false);
                allowed.map(|allowed| allowed.load(out, widen)).is_some()
            }
            _ => false,
        }
    }

    /// Writes a cell from every active lane, where that is simple; `false`, with some written, if
    /// not.
    #[inline(always)]
    fn store_cells<C: Cell, T: Copy, const N: usize>(
        &mut self,
        space: Space,
        addresses: &[u64; 32],
        mask: u32,
        values: &[T; 32],
        to_bytes: impl Fn(C) -> [u8; N],
        narrow: impl Fn(T) -> C,
    ) -> bool {
        match space {
            Space::Shared => {
                let cells = self.shared.as_chunks_mut::<N>().0;
                if low_bits(addresses, mask) & (N as u64 - 1) != 0 {
                    return false;
                }
                for lane in 0..32 {
                    if mask >> lane & 1 != 0 {
                        let Some(cell) = cells.get_mut(addresses[lane] as usize / N) else {
                            return false;
                        };
                        *cell = to_bytes(narrow(values[lane]));
                    }
                }
                true
            }
            Space::Global | Space::Generic => {
                let group = Group::<C>::of(addresses, mask);
                let allowed = self.spans.allow(self.space, &group, true);
                allowed
                    .map(|allowed| allowed.store(values, narrow))
                    .is_some()
            }
            _ => false,
        }
    }

    /// Reads a value of up to 32 bits in every active lane; the others keep what they have.
    #[inline(always)]
    pub fn load_w(
        &mut self,
        space: Space,
        ty: MemType,
        addresses: &[u64; 32],
        mask: u32,
        out: &mut [u32; 32],
    ) -> Result<(), LaneFault> {
        let (of8, of16) = (u8::from_le_bytes, u16::from_le_bytes);
        let simple = match ty {
            MemType::U8 => self.load_cells(space, addresses, mask, out, of8, u32::from),
            MemType::S8 => self.load_cells(space, addresses, mask, out, of8, |v| {
                i32::from(v.cast_signed()).cast_unsigned()
            }),
            MemType::U16 => self.load_cells(space, addresses, mask, out, of16, u32::from),
            MemType::S16 => self.load_cells(space, addresses, mask, out, of16, |v| {
                i32::from(v.cast_signed()).cast_unsigned()
            }),
            _ => self.load_cells(space, addresses, mask, out, u32::from_le_bytes, |v: u32| v),
        };
        if simple {
            return Ok(());
        }
        self.load_w_slow(space, ty, addresses, mask, out)
    }

    #[inline(never)]
    fn load_w_slow(
        &mut self,
        space: Space,
        ty: MemType,
        addresses: &[u64; 32],
        mask: u32,
        out: &mut [u32; 32],
    ) -> Result<(), LaneFault> {
        for lane in lanes(mask) {
            let value = self
                .load(space, addresses[lane], ty.bytes().into(), lane)
                .map_err(|kind| (lane, kind))?;
            out[lane] = match ty {
                MemType::S8 => i32::from((value as u8).cast_signed()).cast_unsigned(),
                MemType::S16 => i32::from((value as u16).cast_signed()).cast_unsigned(),
                _ => value as u32,
            };
        }
        Ok(())
    }

    /// Reads a 64-bit value in every active lane.
    #[inline(always)]
    pub fn load_d(
        &mut self,
        space: Space,
        addresses: &[u64; 32],
        mask: u32,
        out: &mut [u64; 32],
    ) -> Result<(), LaneFault> {
        let id = |value: u64| value;
        if self.load_cells(space, addresses, mask, out, u64::from_le_bytes, id) {
            return Ok(());
        }
        for lane in lanes(mask) {
            out[lane] = self
                .load(space, addresses[lane], 8, lane)
                .map_err(|kind| (lane, kind))?;
        }
        Ok(())
    }

    /// Writes a value of up to 32 bits from every active lane.
    #[inline(always)]
    pub fn store_w(
        &mut self,
        space: Space,
        ty: MemType,
        addresses: &[u64; 32],
        mask: u32,
        values: &[u32; 32],
    ) -> Result<(), LaneFault> {
        let bytes = u64::from(ty.bytes());
        let simple = match bytes {
            1 => self.store_cells(space, addresses, mask, values, u8::to_le_bytes, |v| v as u8),
            2 => self.store_cells(space, addresses, mask, values, u16::to_le_bytes, |v| {
                v as u16
            }),
            _ => self.store_cells(space, addresses, mask, values, u32::to_le_bytes, |v| v),
        };
        if simple {
            return Ok(());
        }
        for lane in lanes(mask) {
            self.store(space, addresses[lane], bytes, lane, values[lane].into())
                .map_err(|kind| (lane, kind))?;
        }
        Ok(())
    }

    /// Writes a 64-bit value from every active lane.
    #[inline(always)]
    pub fn store_d(
        &mut self,
        space: Space,
        addresses: &[u64; 32],
        mask: u32,
        values: &[u64; 32],
    ) -> Result<(), LaneFault> {
        if self.store_cells(space, addresses, mask, values, u64::to_le_bytes, |v| v) {
            return Ok(());
        }
        for lane in lanes(mask) {
            self.store(space, addresses[lane], 8, lane, values[lane])
                .map_err(|kind| (lane, kind))?;
        }
        Ok(())
    }

    /// A 32-bit atomic operation in every active lane, where that is simple; `false`, with nothing
    /// done, if not. `old` receives what was there.
    pub fn atomic_w(
        &mut self,
        op: Atomic,
        addresses: &[u64; 32],
        mask: u32,
        (b, c): (&[u32; 32], &[u32; 32]),
        old: &mut [u32; 32],
    ) -> bool {
        match op.space {
            Space::Shared => {
                let cells = self.shared.as_chunks_mut::<4>().0;
                let inside = lanes(mask).all(|lane| addresses[lane] / 4 < cells.len() as u64);
                if !inside || low_bits(addresses, mask) & 3 != 0 {
                    return false;
                }
                match op.f {
                    AtomOp::Add => exchange(cells, addresses, mask, old, |old, lane| {
                        old.wrapping_add(b[lane])
                    }),
                    _ => exchange(cells, addresses, mask, old, |old, lane| {
                        modify(op, old.into(), b[lane].into(), c[lane].into()) as u32
                    }),
                }
                true
            }
            Space::Global | Space::Generic => {
                let group = Group::<u32>::of(addresses, mask);
                let Some(allowed) = self.spans.allow(self.space, &group, true) else {
                    return false;
                };
                allowed.each(|lane, place| {
                    old[lane] = host_atomic(op, place, b[lane].into(), c[lane].into()) as u32;
                });
                true
            }
            _ => false,
        }
    }

    /// One lane's atomic operation; returns the value that was there.
    pub fn atomic(
        &mut self,
        op: Atomic,
        address: u64,
        lane: usize,
        b: u64,
        c: u64,
    ) -> Result<u64, FaultKind> {
        let bytes = u64::from(op.ty.bytes());
        match self.place(op.space, address, bytes, true, lane)? {
            Place::Host(place) => Ok(host_atomic(op, place, b, c)),
            Place::Shared(offset) => {
                let old = read(self.shared, offset, bytes);
                write(self.shared, offset, bytes, modify(op, old, b, c));
                Ok(old)
            }
            // Atomics reach global and shared memory only.
            Place::Local(_) | Place::Param(_) => Err(FaultKind::InvalidAddressSpace { address }),
        }
    }

    /// Text up to a zero byte, for messages; empty where it cannot be read.
    pub fn text(&mut self, address: u64, lane: usize) -> Vec<u8> {
        const LONGEST: u64 = 1 << 16;
        let mut text = Vec::new();
        for place in 0..LONGEST {
            match self.load(Space::Generic, address.wrapping_add(place), 1, lane) {
                Ok(0) | Err(_) => break,
                Ok(byte) => text.push(byte as u8),
            }
        }
        text
    }

    /// One lane's value at a generic address.
    pub fn peek(&mut self, address: u64, bytes: u64, lane: usize) -> Result<u64, FaultKind> {
        self.load(Space::Generic, address, bytes, lane)
    }

    /// Bytes of the lane's local memory.
    pub fn frame(&mut self, lane: usize, offset: u32, size: u32) -> Option<&mut [u8]> {
        let (offset, size) = (offset as usize, size as usize);
        let lane = self
            .local
            .get_mut(lane * self.stride..(lane + 1) * self.stride)?;
        lane.get_mut(offset..offset.checked_add(size)?)
    }
}

/// An atomic operation.
#[derive(Debug, Clone, Copy)]
pub struct Atomic {
    pub space: Space,
    pub f: AtomOp,
    pub ty: MemType,
}

fn host_atomic(op: Atomic, place: Checked, b: u64, c: u64) -> u64 {
    // The order is stronger than PTX's default and costs nothing more on this hardware.
    const ORDER: Ordering = Ordering::SeqCst;
    match (op.f, op.ty) {
        (AtomOp::Add, MemType::B32) => place.cell32().fetch_add(b as u32, ORDER).into(),
        (AtomOp::And, MemType::B32) => place.cell32().fetch_and(b as u32, ORDER).into(),
        (AtomOp::Or, MemType::B32) => place.cell32().fetch_or(b as u32, ORDER).into(),
        (AtomOp::Exch, MemType::B32) => place.cell32().swap(b as u32, ORDER).into(),
        (AtomOp::Cas, MemType::B32) => place
            .cell32()
            .compare_exchange(b as u32, c as u32, ORDER, ORDER)
            .unwrap_or_else(|old| old)
            .into(),
        (AtomOp::Add, MemType::B64) => place.cell64().fetch_add(b, ORDER),
        (AtomOp::Exch, MemType::B64) => place.cell64().swap(b, ORDER),
        (AtomOp::Cas, MemType::B64) => place
            .cell64()
            .compare_exchange(b, c, ORDER, ORDER)
            .unwrap_or_else(|old| old),
        (_, MemType::B64) => {
            let update = place
                .cell64()
                .fetch_update(ORDER, Ordering::Relaxed, |old| Some(modify(op, old, b, c)));
            update.unwrap_or_else(|old| old)
        }
        (_, MemType::B32) => {
            let update = place
                .cell32()
                .fetch_update(ORDER, Ordering::Relaxed, |old| {
                    Some(modify(op, old.into(), b, c) as u32)
                });
            update.unwrap_or_else(|old| old).into()
        }
        _ => {
            let update = place
                .cell16()
                .fetch_update(ORDER, Ordering::Relaxed, |old| {
                    Some(modify(op, old.into(), b, c) as u16)
                });
            update.unwrap_or_else(|old| old).into()
        }
    }
}

/// The value that an atomic operation stores.
fn modify(op: Atomic, old: u64, b: u64, c: u64) -> u64 {
    let wide = op.ty == MemType::B64;
    let signed = |value: u64| {
        if wide {
            value.cast_signed()
        } else {
            i64::from((value as u32).cast_signed())
        }
    };
    match op.f {
        AtomOp::Add if wide => old.wrapping_add(b),
        AtomOp::Add => u64::from((old as u32).wrapping_add(b as u32)),
        AtomOp::And => old & b,
        AtomOp::Or => old | b,
        AtomOp::Xor => old ^ b,
        AtomOp::Exch => b,
        AtomOp::Cas => {
            if old == b {
                c
            } else {
                old
            }
        }
        AtomOp::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        AtomOp::MinS => {
            if signed(b) < signed(old) {
                b
            } else {
                old
            }
        }
        AtomOp::MaxS => {
            if signed(b) > signed(old) {
                b
            } else {
                old
            }
        }
        AtomOp::MinU => old.min(b),
        AtomOp::MaxU => old.max(b),
        AtomOp::AddF(FloatType::F32) => (f32::from_bits(old as u32) + f32::from_bits(b as u32))
            .to_bits()
            .into(),
        AtomOp::AddF(FloatType::F64) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        AtomOp::AddF(ty) => Format::of(ty).add(old, b, Round::Nearest),
        AtomOp::AddFx2(ty) => halves(old, b, |a, b| Format::of(ty).add(a, b, Round::Nearest)),
        AtomOp::MinF(ty) => Format::of(ty).extreme(old, b, false),
        AtomOp::MaxF(ty) => Format::of(ty).extreme(old, b, true),
        AtomOp::MinFx2(ty) => halves(old, b, |a, b| Format::of(ty).extreme(a, b, false)),
        AtomOp::MaxFx2(ty) => halves(old, b, |a, b| Format::of(ty).extreme(a, b, true)),
    }
}

/// Two values of 16 bits each.
fn halves(a: u64, b: u64, one: impl Fn(u64, u64) -> u64) -> u64 {
    one(a & 0xffff, b & 0xffff) | one(a >> 16 & 0xffff, b >> 16 & 0xffff) << 16
}

/// Modifies each active lane's cell of shared memory, in lane order.
#[inline(always)]
fn exchange(
    cells: &mut [[u8; 4]],
    addresses: &[u64; 32],
    mask: u32,
    old: &mut [u32; 32],
    modify: impl Fn(u32, usize) -> u32,
) {
    for lane in lanes(mask) {
        let cell = &mut cells[addresses[lane] as usize / 4];
        old[lane] = u32::from_le_bytes(*cell);
        *cell = modify(old[lane], lane).to_le_bytes();
    }
}

/// An atomic operation of each active lane in turn; what they found.
#[inline(never)]
pub fn atomic_lanes(
    memory: &mut View<'_>,
    op: Atomic,
    addresses: &[u64; 32],
    mask: u32,
    b: &[u64; 32],
    c: &[u64; 32],
) -> Result<[u64; 32], LaneFault> {
    let mut old = [0; 32];
    for lane in lanes(mask) {
        old[lane] = memory
            .atomic(op, addresses[lane], lane, b[lane], c[lane])
            .map_err(|kind| (lane, kind))?;
    }
    Ok(old)
}

/// The lowest bits that any active lane's address has.
#[inline(always)]
fn low_bits(addresses: &[u64; 32], mask: u32) -> u64 {
    if mask == FULL {
        return addresses.iter().fold(0, |bits, address| bits | address) & 7;
    }
    let mut bits = 0;
    for (lane, &address) in addresses.iter().enumerate() {
        bits |= if mask >> lane & 1 != 0 { address } else { 0 };
    }
    bits & 7
}

fn read(bytes: &[u8], offset: usize, size: u64) -> u64 {
    let mut value = [0; 8];
    let size = size as usize;
    value[..size].copy_from_slice(&bytes[offset..offset + size]);
    u64::from_le_bytes(value)
}

fn write(bytes: &mut [u8], offset: usize, size: u64, value: u64) {
    let size = size as usize;
    bytes[offset..offset + size].copy_from_slice(&value.to_le_bytes()[..size]);
}

/// The lanes of a mask, lowest first.
pub fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut mask = mask;
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}
