//! Copies of boxes of tensors between global and shared memory, complete as soon as they are issued.
//!
//! What does not lie in the tensor is zero when it is read and dropped when it is written. Each access is
//! checked as any other is: a map only says where a kernel wants to go.
#![forbid(unsafe_code)]

use super::asynchronous::update;
use super::atomic::Atomic;
use super::fault::FaultKind;
use super::mbarrier;
use super::memory::{LaneFault, View, lanes};
use super::processor::Plain;
use super::register::addresses;
use super::warp::Frame;
use crate::ptx::ir::*;
use crate::tensor_map::{self, Element, MOST_RANK, TensorMap};

/// What the address of a box in shared memory is a multiple of.
const BOX_ALIGNMENT: u64 = 128;
/// Bytes of shared memory that stay together, whatever the swizzle.
const PIECE: u64 = 8;

/// Executes a copy.
#[inline(never)]
pub fn execute(
    op: Op,
    frame: &mut Frame,
    memory: &mut View<'_>,
    mask: u32,
) -> Result<(), LaneFault> {
    let Op::CopyTensor {
        f,
        space,
        map,
        at,
        place,
        barrier,
    } = op
    else {
        return Ok(());
    };
    let address = |frame: &Frame, base| addresses(Plain, frame, base, 0);
    let (maps, places) = (address(frame, map), address(frame, place));
    let barriers = barrier.map(|base| address(frame, base));
    for lane in lanes(mask) {
        let fault = |kind| (lane, kind);
        let map = read_map(memory, space, maps[lane], lane).map_err(fault)?;
        if map.rank != at.iter().flatten().count() {
            return Err(fault(FaultKind::IllegalInstruction));
        }
        let at = at.map(|w| w.map_or(0, |w| frame.w[w.index()][lane].cast_signed().into()));
        let mut copy = Copy {
            memory,
            lane,
            map,
            at,
            place: places[lane],
            f,
        };
        let bytes = copy.run().map_err(fault)?;
        if let Some(barriers) = &barriers {
            update(memory, Space::Shared, barriers[lane], lane, |old| {
                mbarrier::apply(MbarrierOp::CompleteTx, old, 0, bytes)
            })?;
        }
    }
    Ok(())
}

/// The map at an address, which may be anything.
fn read_map(
    memory: &mut View<'_>,
    space: Space,
    address: u64,
    lane: usize,
) -> Result<TensorMap, FaultKind> {
    if !address.is_multiple_of(tensor_map::ALIGNMENT) {
        return Err(FaultKind::MisalignedAddress { address });
    }
    let mut bytes = [0; tensor_map::BYTES];
    for (word, offset) in bytes
        .as_chunks_mut::<8>()
        .0
        .iter_mut()
        .zip((0..).step_by(8))
    {
        let value = memory.load(space, address.wrapping_add(offset), 8, lane)?;
        *word = value.to_le_bytes();
    }
    TensorMap::decode(&bytes).ok_or(FaultKind::IllegalInstruction)
}

/// One lane's copy.
struct Copy<'a, 'v> {
    memory: &'a mut View<'v>,
    lane: usize,
    map: TensorMap,
    /// The box's first element; it may lie anywhere.
    at: [i64; MOST_RANK],
    /// The box in shared memory.
    place: u64,
    f: TensorCopy,
}

impl Copy<'_, '_> {
    /// Moves the box; its bytes.
    fn run(&mut self) -> Result<u32, FaultKind> {
        let address = self.place;
        if !address.is_multiple_of(BOX_ALIGNMENT) {
            return Err(FaultKind::MisalignedAddress { address });
        }
        let map = self.map;
        let counts: [u64; MOST_RANK] =
            std::array::from_fn(|axis| map.boxes[axis].div_ceil(map.steps[axis]).into());
        let row = counts[0] * u64::from(map.element.bytes());
        // At most 256 to the power of 4.
        let rows: u64 = counts[1..].iter().product();
        // Before anything is done: the work is bounded by what shared memory can hold.
        let bytes = row * rows;
        let fits = address
            .checked_add(bytes)
            .is_some_and(|end| end <= self.memory.shared.len() as u64);
        let Some(bytes) = u32::try_from(bytes).ok().filter(|_| fits) else {
            let write = self.f == TensorCopy::Load;
            return Err(FaultKind::IllegalAddress { address, write });
        };
        for index in 0..rows {
            self.row(index, &counts, row)?;
        }
        Ok(bytes)
    }

    /// Moves one row of `bytes` bytes.
    fn row(&mut self, index: u64, counts: &[u64; MOST_RANK], bytes: u64) -> Result<(), FaultKind> {
        let map = self.map;
        let (mut left, mut start, mut inside) = (index, map.address, true);
        for (axis, count) in counts.iter().enumerate().skip(1) {
            let step = (left % count) * u64::from(map.steps[axis]);
            left /= count;
            let at = self.at[axis].wrapping_add_unsigned(step);
            inside &= u64::try_from(at).is_ok_and(|at| at < map.extents[axis]);
            // Addresses wrap around, as a GPU's do; each one is checked where it is used.
            start = start.wrapping_add(map.strides[axis].wrapping_mul(at.cast_unsigned()));
        }
        let size = u64::from(map.element.bytes());
        for offset in (0..bytes).step_by(8) {
            let place = map.swizzle.place(self.place + index * bytes + offset);
            let first = self.at[0].wrapping_add_unsigned(offset / size);
            let from = start.wrapping_add(first.cast_unsigned().wrapping_mul(size));
            // Elements of the piece that lie in the tensor.
            let mut whole = 0;
            for number in 0..PIECE / size {
                let at = u64::try_from(first.wrapping_add_unsigned(number)).ok();
                if inside && at.is_some_and(|at| at < map.extents[0]) {
                    whole |= 1 << number;
                }
            }
            self.piece(place, from, whole)?;
        }
        Ok(())
    }

    /// Moves those elements of 8 bytes that `wanted` has a bit for.
    fn piece(&mut self, place: u64, address: u64, wanted: u32) -> Result<(), FaultKind> {
        let size = u64::from(self.map.element.bytes());
        let all = u64::from(wanted.count_ones()) * size == PIECE;
        let each = if all && address.is_multiple_of(PIECE) {
            PIECE
        } else {
            size
        };
        let mask = u64::MAX >> (64 - 8 * each);
        let elements = (0..PIECE / each).filter(|number| wanted >> number & 1 != 0);
        let lane = self.lane;
        match self.f {
            TensorCopy::Load => {
                let mut value = 0;
                for number in elements {
                    let from = address.wrapping_add(number * each);
                    let element = self.memory.load(Space::Global, from, each, lane)?;
                    value |= element << (8 * each * number);
                }
                self.memory.store(Space::Shared, place, PIECE, lane, value)
            }
            TensorCopy::Store => {
                let value = self.memory.load(Space::Shared, place, PIECE, lane)?;
                for number in elements {
                    let to = address.wrapping_add(number * each);
                    let element = value >> (8 * each * number) & mask;
                    self.memory.store(Space::Global, to, each, lane, element)?;
                }
                Ok(())
            }
            TensorCopy::Reduce(f) => {
                let op = reduction(f, self.map.element).ok_or(FaultKind::IllegalInstruction)?;
                let value = self.memory.load(Space::Shared, place, PIECE, lane)?;
                let mask = u64::MAX >> (64 - 8 * size);
                for number in (0..PIECE / size).filter(|number| wanted >> number & 1 != 0) {
                    let to = address.wrapping_add(number * size);
                    let element = value >> (8 * size * number) & mask;
                    self.memory.atomic(op, to, lane, element, 0)?;
                }
                Ok(())
            }
        }
    }
}

/// What a reduction does to elements of a type, if it is defined for them.
fn reduction(f: TensorReduction, element: Element) -> Option<Atomic> {
    use Element as E;
    use TensorReduction as R;
    let half = match element {
        E::F16 => Some(FloatType::F16),
        E::Bf16 => Some(FloatType::Bf16),
        _ => None,
    };
    let signed = matches!(element, E::S32 | E::S64);
    let whole = signed || matches!(element, E::U32 | E::U64);
    let f = match (f, half) {
        (R::Add, Some(ty)) => AtomOp::AddF(ty),
        (R::Min, Some(ty)) => AtomOp::MinF(ty),
        (R::Max, Some(ty)) => AtomOp::MaxF(ty),
        (R::Add, None) if element == E::F32 => AtomOp::AddF(FloatType::F32),
        (R::Add, None) if element == E::F64 => AtomOp::AddF(FloatType::F64),
        _ if !whole => return None,
        (R::Add, _) => AtomOp::Add,
        (R::Min, _) if signed => AtomOp::MinS,
        (R::Min, _) => AtomOp::MinU,
        (R::Max, _) if signed => AtomOp::MaxS,
        (R::Max, _) => AtomOp::MaxU,
        (R::Inc, _) if element == E::U32 => AtomOp::Inc,
        (R::Dec, _) if element == E::U32 => AtomOp::Dec,
        (R::Inc | R::Dec, _) => return None,
        (R::And, _) => AtomOp::And,
        (R::Or, _) => AtomOp::Or,
        (R::Xor, _) => AtomOp::Xor,
    };
    let ty = match element.bytes() {
        2 => MemType::U16,
        4 => MemType::B32,
        _ => MemType::B64,
    };
    Some(Atomic {
        space: Space::Global,
        f,
        ty,
    })
}
