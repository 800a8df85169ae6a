//! What a warp sees as memory: the spaces and the checks.
#![allow(
    clippy::cast_possible_truncation,
    reason = "values are cut to the width of the access"
)]

use super::access::{Allowed, Cell, Cells, Checked, Group, Pattern, Places, Span, prefetch};
use super::atomic::{Atomic, exchange, host_atomic, modify};
use super::fault::FaultKind;
use super::processor::Processor;
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
    /// How rows were read of each.
    traces: [Trace; 4],
    next: usize,
}

impl Default for Spans {
    fn default() -> Self {
        Self {
            spans: [Span::EMPTY; 4],
            traces: [Trace::default(); 4],
            next: 0,
        }
    }
}

/// Rows of a range that are read at equal distances, as in a loop over a grid's threads: the processor
/// does not see that across pages.
#[derive(Debug, Clone, Copy, Default)]
struct Trace {
    last: u64,
    step: u64,
}

/// Distances from which on the processor is helped.
const FAR: u64 = 512;

impl Trace {
    /// Takes note of a row that is read, and asks for one that may be read soon.
    #[inline(always)]
    fn follow<C: Cell>(&mut self, first: u64) {
        let step = first.wrapping_sub(std::mem::replace(&mut self.last, first));
        let usual = std::mem::replace(&mut self.step, step);
        if step == usual && step.wrapping_add(FAR) > 2 * FAR {
            // The next one may be wanted before it is here.
            let soon = first.wrapping_add(step.wrapping_mul(2));
            for line in (0..32 * C::BYTES).step_by(64) {
                prefetch(soon.wrapping_add(line));
            }
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

    /// The row of cells from `first` on, if one range allows them to be read.
    #[inline(always)]
    fn row_to_read<C: Cell>(&mut self, space: &dyn AddressSpace, first: u64) -> Option<Cells<C>> {
        for (span, trace) in self.spans.iter().zip(&mut self.traces) {
            if let Some(row) = span.row(first, false) {
                trace.follow::<C>(first);
                return Some(row);
            }
        }
        self.resolve(space, first)?.row(first, false)
    }

    /// The row of cells from `first` on, if one range allows them to be written.
    #[inline(always)]
    fn row_to_write<C: Cell>(&mut self, space: &dyn AddressSpace, first: u64) -> Option<Cells<C>> {
        match self.spans.iter().find_map(|span| span.row(first, true)) {
            Some(row) => Some(row),
            None => self.resolve(space, first)?.row(first, true),
        }
    }

    /// One cell, if a range allows it.
    #[inline(always)]
    fn cell(
        &mut self,
        space: &dyn AddressSpace,
        address: u64,
        bytes: u64,
        write: bool,
    ) -> Option<Checked> {
        let known = |span: &Span| span.place(address, bytes, write);
        match self.spans.iter().find_map(known) {
            Some(place) => Some(place),
            None => self.resolve(space, address)?.place(address, bytes, write),
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
                let found = self.spans.cell(self.space, address, bytes, write);
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
    pub fn check_vector(places: Places<'_>, bytes: u64) -> Result<(), LaneFault> {
        for lane in lanes(places.mask) {
            let address = places.address(lane);
            if address & (bytes - 1) != 0 {
                return Err((lane, FaultKind::MisalignedAddress { address }));
            }
        }
        Ok(())
    }

    /// Reads a cell in every active lane, where that is simple; `false`, with some read, if not.
    #[inline(always)]
    fn load_cells<C: Cell, T: Copy, const N: usize>(
        &mut self,
        cpu: impl Processor,
        space: Space,
        places: Places<'_>,
        out: &mut [T; 32],
        of_bytes: impl Fn([u8; N]) -> C,
        widen: impl Fn(C) -> T,
    ) -> bool {
        let pattern = places.pattern::<C>(cpu);
        let first = places.address(0);
        match (space, pattern) {
            (Space::Global | Space::Generic, Pattern::Row) => {
                let cells = self.spans.row_to_read(self.space, first);
                cells.map(|cells| cells.load(out, widen)).is_some()
            }
            (Space::Global | Space::Generic, Pattern::Same) => {
                let cell = self.spans.cell(self.space, first, C::BYTES, false);
                cell.map(|cell| *out = [widen(C::load(cell)); 32]).is_some()
            }
            (Space::Global | Space::Generic, Pattern::Other) => {
                let group = Group::<C>::of(places);
                let allowed = self.spans.allow(self.space, &group, false);
                let read = |allowed: Allowed<'_, C>| {
                    allowed.each(|lane, place| out[lane] = widen(C::load(place)));
                };
                allowed.map(read).is_some()
            }
            (Space::Shared, pattern) => {
                let cells = self.shared.as_chunks::<N>().0;
                let low_bits = match pattern {
                    Pattern::Other => places.low_bits(),
                    _ => first,
                };
                if low_bits & (N as u64 - 1) != 0 {
                    return false;
                }
                let place = |address: u64| address as usize / N;
                match pattern {
                    Pattern::Row => {
                        let row = cells.get(place(first)..);
                        let row = row.and_then(<[_]>::first_chunk::<32>);
                        row.map(|row| *out = row.map(|cell| widen(of_bytes(cell))))
                            .is_some()
                    }
                    Pattern::Same => {
                        let cell = cells.get(place(first));
                        cell.map(|cell| *out = [widen(of_bytes(*cell)); 32])
                            .is_some()
                    }
                    Pattern::Other => (0..32).all(|lane| {
                        if places.mask >> lane & 1 == 0 {
                            return true;
                        }
                        let cell = cells.get(place(places.address(lane)));
                        cell.map(|cell| out[lane] = widen(of_bytes(*cell)))
                            .is_some()
                    }),
                }
            }
            _ => false,
        }
    }

    /// Writes a cell from every active lane, in lane order, where that is simple; `false`, with some
    /// written, if not.
    #[inline(always)]
    fn store_cells<C: Cell, T: Copy, const N: usize>(
        &mut self,
        cpu: impl Processor,
        space: Space,
        places: Places<'_>,
        values: &[T; 32],
        to_bytes: impl Fn(C) -> [u8; N],
        narrow: impl Fn(T) -> C,
    ) -> bool {
        let pattern = places.pattern::<C>(cpu);
        let first = places.address(0);
        match (space, pattern) {
            (Space::Global | Space::Generic, Pattern::Row) => {
                let cells = self.spans.row_to_write(self.space, first);
                cells.map(|cells| cells.store(values, narrow)).is_some()
            }
            (Space::Global | Space::Generic, _) => {
                let group = Group::<C>::of(places);
                let allowed = self.spans.allow(self.space, &group, true);
                let write = |allowed: Allowed<'_, C>| {
                    allowed.each(|lane, place| narrow(values[lane]).store(place));
                };
                allowed.map(write).is_some()
            }
            (Space::Shared, Pattern::Row) if first & (N as u64 - 1) == 0 => {
                let cells = self.shared.as_chunks_mut::<N>().0;
                let row = cells.get_mut(first as usize / N..);
                let row = row.and_then(<[_]>::first_chunk_mut::<32>);
                row.map(|row| *row = values.map(|value| to_bytes(narrow(value))))
                    .is_some()
            }
            (Space::Shared, _) => {
                let cells = self.shared.as_chunks_mut::<N>().0;
                places.low_bits() & (N as u64 - 1) == 0
                    && (0..32).all(|lane| {
                        if places.mask >> lane & 1 == 0 {
                            return true;
                        }
                        let cell = cells.get_mut(places.address(lane) as usize / N);
                        cell.map(|cell| *cell = to_bytes(narrow(values[lane])))
                            .is_some()
                    })
            }
            _ => false,
        }
    }

    /// Reads a value of up to 32 bits in every active lane; the others keep what they have.
    #[inline(always)]
    pub fn load_w(
        &mut self,
        cpu: impl Processor,
        space: Space,
        ty: MemType,
        places: Places<'_>,
        out: &mut [u32; 32],
    ) -> Result<(), LaneFault> {
        let (of8, of16) = (u8::from_le_bytes, u16::from_le_bytes);
        let simple = match ty {
            MemType::U8 => self.load_cells(cpu, space, places, out, of8, u32::from),
            MemType::S8 => self.load_cells(cpu, space, places, out, of8, |v| {
                i32::from(v.cast_signed()).cast_unsigned()
            }),
            MemType::U16 => self.load_cells(cpu, space, places, out, of16, u32::from),
            MemType::S16 => self.load_cells(cpu, space, places, out, of16, |v| {
                i32::from(v.cast_signed()).cast_unsigned()
            }),
            _ => self.load_cells(cpu, space, places, out, u32::from_le_bytes, |v: u32| v),
        };
        if simple {
            return Ok(());
        }
        self.load_w_slow(space, ty, places, out)
    }

    #[inline(never)]
    fn load_w_slow(
        &mut self,
        space: Space,
        ty: MemType,
        places: Places<'_>,
        out: &mut [u32; 32],
    ) -> Result<(), LaneFault> {
        for lane in lanes(places.mask) {
            let value = self
                .load(space, places.address(lane), ty.bytes().into(), lane)
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
        cpu: impl Processor,
        space: Space,
        places: Places<'_>,
        out: &mut [u64; 32],
    ) -> Result<(), LaneFault> {
        let id = |value: u64| value;
        if self.load_cells(cpu, space, places, out, u64::from_le_bytes, id) {
            return Ok(());
        }
        for lane in lanes(places.mask) {
            out[lane] = self
                .load(space, places.address(lane), 8, lane)
                .map_err(|kind| (lane, kind))?;
        }
        Ok(())
    }

    /// Writes a value of up to 32 bits from every active lane.
    #[inline(always)]
    pub fn store_w(
        &mut self,
        cpu: impl Processor,
        space: Space,
        ty: MemType,
        places: Places<'_>,
        values: &[u32; 32],
    ) -> Result<(), LaneFault> {
        let bytes = u64::from(ty.bytes());
        let (of8, of16) = (u8::to_le_bytes, u16::to_le_bytes);
        let simple = match bytes {
            1 => self.store_cells(cpu, space, places, values, of8, |v| v as u8),
            2 => self.store_cells(cpu, space, places, values, of16, |v| v as u16),
            _ => self.store_cells(cpu, space, places, values, u32::to_le_bytes, |v| v),
        };
        if simple {
            return Ok(());
        }
        for lane in lanes(places.mask) {
            self.store(
                space,
                places.address(lane),
                bytes,
                lane,
                values[lane].into(),
            )
            .map_err(|kind| (lane, kind))?;
        }
        Ok(())
    }

    /// Writes a 64-bit value from every active lane.
    #[inline(always)]
    pub fn store_d(
        &mut self,
        cpu: impl Processor,
        space: Space,
        places: Places<'_>,
        values: &[u64; 32],
    ) -> Result<(), LaneFault> {
        if self.store_cells(cpu, space, places, values, u64::to_le_bytes, |v| v) {
            return Ok(());
        }
        for lane in lanes(places.mask) {
            self.store(space, places.address(lane), 8, lane, values[lane])
                .map_err(|kind| (lane, kind))?;
        }
        Ok(())
    }

    /// A 32-bit atomic operation in every active lane, where that is simple; `false`, with nothing
    /// done, if not. `old` receives what was there.
    #[inline(always)]
    pub fn atomic_w(
        &mut self,
        op: Atomic,
        places: Places<'_>,
        (b, c): (&[u32; 32], &[u32; 32]),
        old: &mut [u32; 32],
    ) -> bool {
        let mask = places.mask;
        match op.space {
            Space::Shared => {
                let cells = self.shared.as_chunks_mut::<4>().0;
                let addresses = &places.addresses();
                let inside = |lane: usize| addresses[lane] / 4 < cells.len() as u64;
                if !lanes(mask).all(inside) || places.low_bits() & 3 != 0 {
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
                let group = Group::<u32>::of(places);
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
