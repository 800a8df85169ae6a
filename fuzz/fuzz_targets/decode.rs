//! Records of arbitrary content through lane and decoder, as a dispatcher would open them.

#![no_main]

use std::sync::LazyLock;

use idm_protocol::handle::{Handle, HandleLimits, Kind, WorkerTable};
use idm_protocol::lane::WorkerLane;
use idm_protocol::layout::{Layout, Limits};
use idm_protocol::memory::{Heap, Memory};
use idm_protocol::record::{Flags, Head, Record, Request, Tail, decode_response};
use idm_protocol::wire;
use libfuzzer_sys::{arbitrary, fuzz_target};

#[derive(arbitrary::Arbitrary, Debug)]
struct Input {
    opcode: u16,
    flags: u8,
    lane: u16,
    bytes: Vec<u8>,
    side: Vec<u8>,
    takes: Vec<u64>,
    handles: Vec<(u8, u64)>,
}

static LIMITS: LazyLock<Limits> = LazyLock::new(|| Limits {
    lanes: 1,
    side_bytes: 4096,
    handles_per_kind: 16,
    ..Limits::default()
});

static REGION: LazyLock<(Heap, Layout)> = LazyLock::new(|| {
    let layout = Layout::new(&LIMITS).expect("in range");
    (Heap::zeroed(layout.word_count()), layout)
});

fuzz_target!(|input: Input| {
    let (heap, layout) = &*REGION;
    let lane = WorkerLane::new(heap, layout, 0).expect("the region has one lane");
    let side = layout.lane(0).expect("as above").start * 8 + 4096;
    let side_bytes = &input.side[..input.side.len().min(4096)];
    heap.write(side, side_bytes).expect("inside the side buffer");

    // Any opcode half of the time, one that some decoder below takes otherwise.
    let known = [wire::VgpuNop::OPCODE, wire::CuLaunchKernel::OPCODE, wire::VgpuCopyIn::OPCODE];
    let opcode = match input.opcode {
        odd if odd % 2 == 1 => odd,
        even => known[usize::from(even / 2) % known.len()],
    };
    let head =
        Head { opcode, flags: Flags(input.flags), lane: input.lane, ..Head::default() };
    let Some(record) = Record::from_bytes(1, head, &input.bytes) else { return };
    let mut scratch = Vec::new();
    open::<wire::VgpuNop>(&lane, &record, &mut scratch, &input.takes);
    open::<wire::CuLaunchKernel>(&lane, &record, &mut scratch, &input.takes);
    open::<wire::VgpuCopyIn>(&lane, &record, &mut scratch, &input.takes);
    let _ = decode_response::<wire::VgpuSnapshotReply>(record.bytes());

    let mut table = WorkerTable::new(HandleLimits::new(&LIMITS));
    for (order, value) in input.handles {
        let kind = Handle::from_value(value).map_or(Kind::EVENT, Handle::kind);
        match order % 4 {
            0 => drop(table.bind(value, kind, order)),
            1 => drop(table.poison(value, kind, 2)),
            2 => drop(table.unbind(value, kind)),
            _ => drop(table.resolve(value, kind)),
        }
    }
});

fn open<T: Request>(
    lane: &WorkerLane<Heap>,
    record: &Record,
    scratch: &mut Vec<u8>,
    takes: &[u64],
) {
    let Ok((_, mut tail)) = lane.open::<T>(record, scratch) else { return };
    let all: Tail<'_> = tail;
    let mut taken = 0;
    for len in takes {
        let len = usize::try_from(*len).expect("64 bits");
        if let Ok(part) = tail.take(len) {
            assert_eq!(part.len(), len);
            taken += len;
        }
    }
    assert!(taken <= all.bytes().len());
}
