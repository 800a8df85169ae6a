//! The bulk pipe's two ends against counters that the other side makes up.

#![no_main]

use idm_protocol::bulk::{PIECE_BYTES, PIPE_WORDS, Pipe, Plan};
use idm_protocol::layout::CHUNK_BYTES;
use idm_protocol::memory::{Heap, Memory};
use idm_protocol::sync::Ordering;
use libfuzzer_sys::{arbitrary, fuzz_target};

#[derive(arbitrary::Arbitrary, Debug)]
struct Input {
    bytes: u64,
    chunks: Vec<u32>,
    staging: u32,
    skew: u32,
    sequence: u64,
    steps: Vec<(u8, u64)>,
}

fuzz_target!(|input: Input| {
    let plan = Plan::new(input.bytes, &input.chunks, input.staging);
    let Ok(plan) = plan.and_then(|plan| plan.skewed(input.skew)) else { return };
    let heap = Heap::zeroed(PIPE_WORDS);
    let pipe = Pipe::new(&heap, 0).expect("the heap has the words");
    let mut filler = pipe.fill(input.sequence, plan.clone());
    let mut drainer = pipe.drain(input.sequence, plan.clone());
    let (mut claimed, mut taken) = (0u32, 0u32);
    for (order, value) in input.steps {
        match order % 3 {
            0 => {
                let at = usize::from(order) % PIPE_WORDS;
                heap.words()[at].store(value, Ordering::Relaxed);
            }
            1 => {
                if let Ok(Some(piece)) = filler.try_claim() {
                    assert_eq!(piece.offset, u64::from(claimed) * PIECE_BYTES as u64);
                    assert!(plan.chunks().contains(&piece.chunk));
                    assert!(piece.start + piece.len <= CHUNK_BYTES);
                    claimed += 1;
                    filler.publish();
                }
            }
            _ => {
                if let Ok(Some(piece)) = drainer.try_take() {
                    assert_eq!(piece.offset, u64::from(taken) * PIECE_BYTES as u64);
                    assert!(piece.offset + piece.len as u64 <= plan.byte_len());
                    taken += 1;
                    drainer.release();
                }
            }
        }
    }
    assert!(claimed <= plan.piece_count() && taken <= plan.piece_count());
});
