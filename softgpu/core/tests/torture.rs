//! Divergence and barriers at their hardest: lanes of one warp that wait for each other, operations
//! of a warp reached at different places, barriers of every kind used over and over.

mod support;

use support::{Arguments, Program};

/// A kernel over `o`, a buffer of words, and its `%r0`, the thread's number; `%rd1` is its word.
fn run(body: &str, threads: u32, words: usize) -> Vec<u32> {
    let text = format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 o) {{\n\
         .reg .b32 %r<24>; .reg .b64 %rd<8>; .reg .pred %p<8>; .shared .align 8 .b8 s[1024];\n\
         ld.param.u64 %rd0, [o]; mov.u32 %r0, %tid.x; mad.wide.u32 %rd1, %r0, 4, %rd0;\n\
         and.b32 %r1, %r0, 31;\n{body}\nret;\n}}\n"
    );
    let program = Program::new(&text);
    let out = program.memory.buffer(words * 4);
    program.launch("k", 1, threads, Arguments::new().buffer(out));
    out.read()
}

#[test]
fn every_lane_of_a_warp_takes_a_spin_lock_in_turn() {
    // The lock is the last word, the counter before it is only ever changed under the lock.
    let got = run(
        "mov.u32 %r9, 0;\nAGAIN:\nTRY: atom.global.cas.b32 %r2, [%rd0+132], 0, 1; setp.ne.u32 %p0, %r2, 0; @%p0 bra TRY;\n\
         membar.gl; ld.volatile.global.u32 %r3, [%rd0+128]; add.u32 %r3, %r3, 1; st.volatile.global.u32 [%rd0+128], %r3; membar.gl;\n\
         atom.global.exch.b32 %r2, [%rd0+132], 0;\nadd.u32 %r9, %r9, 1; setp.lt.u32 %p0, %r9, 20; @%p0 bra AGAIN;",
        96,
        34,
    );
    assert_eq!(got[32], 96 * 20);
}

#[test]
fn lock_held_across_a_divergent_branch_is_released_by_its_holder() {
    // The holder leaves the loop by a branch that the waiting lanes do not take.
    let got = run(
        "LOOP: atom.global.cas.b32 %r2, [%rd0+132], 0, 1; setp.eq.u32 %p0, %r2, 0; @%p0 bra HELD; bra LOOP;\n\
         HELD: ld.volatile.global.u32 %r3, [%rd0+128]; add.u32 %r3, %r3, %r0; st.volatile.global.u32 [%rd0+128], %r3;\n\
         st.release.gpu.global.u32 [%rd0+132], 0;",
        32,
        34,
    );
    assert_eq!(got[32], (0..32).sum::<u32>());
}

#[test]
fn chain_of_lanes_hands_a_value_on_in_both_directions() {
    // Lane n waits for lane n+1's flag, so that the last lane must run first; then back again.
    let got = run(
        "setp.eq.u32 %p0, %r1, 31; @%p0 bra GO;\nWAIT: ld.volatile.global.u32 %r2, [%rd1+4]; setp.eq.u32 %p1, %r2, 0; @%p1 bra WAIT;\n\
         add.u32 %r3, %r2, 1; bra SET;\nGO: mov.u32 %r3, 1;\nSET: st.volatile.global.u32 [%rd1], %r3;\n\
         setp.eq.u32 %p0, %r1, 0; @%p0 bra FIRST;\nBACK: ld.volatile.global.u32 %r4, [%rd1+124]; setp.eq.u32 %p1, %r4, 0; @%p1 bra BACK;\n\
         add.u32 %r4, %r4, 1; bra OUT;\nFIRST: mov.u32 %r4, 100;\nOUT: st.volatile.global.u32 [%rd1+128], %r4;",
        32,
        64,
    );
    for lane in 0..32u32 {
        assert_eq!(got[lane as usize], 32 - lane);
        assert_eq!(got[32 + lane as usize], 100 + lane);
    }
}

#[test]
fn producer_and_consumer_lanes_pass_items_through_one_cell() {
    let got = run(
        "setp.eq.u32 %p0, %r1, 7; @%p0 bra PRODUCE; setp.eq.u32 %p0, %r1, 3; @%p0 bra CONSUME; ret;\n\
         PRODUCE: mov.u32 %r2, 1;\nFULL: ld.acquire.cta.global.u32 %r3, [%rd0+128]; setp.ne.u32 %p1, %r3, 0; @%p1 bra FULL;\n\
         st.release.cta.global.u32 [%rd0+128], %r2; add.u32 %r2, %r2, 1; setp.le.u32 %p1, %r2, 50; @%p1 bra FULL; ret;\n\
         CONSUME: mov.u32 %r4, 0; mov.u32 %r5, 0;\nEMPTY: ld.acquire.cta.global.u32 %r3, [%rd0+128]; setp.eq.u32 %p1, %r3, 0; @%p1 bra EMPTY;\n\
         st.release.cta.global.u32 [%rd0+128], 0; add.u32 %r4, %r4, %r3; add.u32 %r5, %r5, 1; setp.lt.u32 %p1, %r5, 50; @%p1 bra EMPTY;\n\
         st.global.u32 [%rd1], %r4;",
        32,
        33,
    );
    assert_eq!(got[3], 50 * 51 / 2);
}

#[test]
fn warp_operations_of_disjoint_masks_run_in_divergent_branches() {
    // The halves of the warp shuffle, vote and reduce at different places, each with its own mask.
    let got = run(
        "setp.lt.u32 %p0, %r1, 16; @%p0 bra LOW;\n\
         shfl.sync.bfly.b32 %r2, %r1, 1, 0x1f, 0xffff0000; redux.sync.add.u32 %r3, %r1, 0xffff0000;\n\
         and.b32 %r5, %r1, 2; setp.ne.u32 %p1, %r5, 0; vote.sync.ballot.b32 %r4, %p1, 0xffff0000; bra OUT;\n\
         LOW: shfl.sync.up.b32 %r2, %r1, 1, 0x0, 0x0000ffff; redux.sync.max.u32 %r3, %r1, 0x0000ffff;\n\
         and.b32 %r5, %r1, 1; setp.ne.u32 %p1, %r5, 0; vote.sync.ballot.b32 %r4, %p1, 0x0000ffff;\n\
         OUT: st.global.u32 [%rd1], %r2; st.global.u32 [%rd1+128], %r3; st.global.u32 [%rd1+256], %r4;",
        32,
        96,
    );
    for lane in 0..32u32 {
        let place = lane as usize;
        let (shuffled, reduced, ballot) = if lane < 16 {
            (lane.saturating_sub(1), 15, 0xaaaa)
        } else {
            (lane ^ 1, (16..32).sum(), 0xcccc_0000)
        };
        assert_eq!(got[place], shuffled);
        assert_eq!(got[32 + place], reduced);
        assert_eq!(got[64 + place], ballot);
    }
}

#[test]
fn nested_divergence_meets_at_the_masks_it_names() {
    // Quarters of the warp, reached through two levels of branches, reduce among themselves, then
    // halves, then all.
    let got = run(
        "shr.u32 %r2, %r1, 3; shl.b32 %r3, %r2, 3; shl.b32 %r4, 0xff, %r3;\n\
         setp.lt.u32 %p0, %r1, 16; @%p0 bra LOW; setp.lt.u32 %p1, %r1, 24; @%p1 bra THIRD;\n\
         redux.sync.add.u32 %r5, %r1, %r4; bra HIGH;\nTHIRD: redux.sync.add.u32 %r5, %r1, %r4;\n\
         HIGH: redux.sync.min.u32 %r6, %r5, 0xffff0000; bra ALL;\n\
         LOW: setp.lt.u32 %p1, %r1, 8; @%p1 bra FIRST; redux.sync.add.u32 %r5, %r1, %r4; bra HALF;\nFIRST: redux.sync.add.u32 %r5, %r1, %r4;\n\
         HALF: redux.sync.min.u32 %r6, %r5, 0x0000ffff;\n\
         ALL: redux.sync.add.u32 %r7, %r6, -1; st.global.u32 [%rd1], %r5; st.global.u32 [%rd1+128], %r7;",
        32,
        64,
    );
    for lane in 0..32u32 {
        let first = lane / 8 * 8;
        assert_eq!(got[lane as usize], (first..first + 8).sum::<u32>());
        assert_eq!(got[32 + lane as usize], 16 * 28 + 16 * 156);
    }
}

#[test]
fn threads_of_one_mask_synchronise_from_both_sides_of_a_branch() {
    // Each side writes, synchronises at its own place and reads what the other side wrote.
    let got = run(
        "mov.u32 %r8, s; shl.b32 %r9, %r0, 2; add.u32 %r8, %r8, %r9; mov.u32 %r10, 0;\n\
         LOOP: setp.lt.u32 %p0, %r1, 16; @%p0 bra LOW;\n\
         add.u32 %r2, %r1, %r10; st.shared.u32 [%r8], %r2; bar.warp.sync -1; ld.shared.u32 %r3, [%r8+-64]; bar.warp.sync -1; bra NEXT;\n\
         LOW: mul.lo.u32 %r2, %r1, 3; add.u32 %r2, %r2, %r10; st.shared.u32 [%r8], %r2; bar.warp.sync -1; ld.shared.u32 %r3, [%r8+64]; bar.warp.sync -1;\n\
         NEXT: add.u32 %r4, %r4, %r3; add.u32 %r10, %r10, 1; setp.lt.u32 %p1, %r10, 8; @%p1 bra LOOP;\n\
         st.global.u32 [%rd1], %r4;",
        64,
        64,
    );
    for thread in 0..64u32 {
        let lane = thread % 32;
        let other = if lane < 16 {
            lane + 16
        } else {
            (lane - 16) * 3
        };
        assert_eq!(got[thread as usize], (0..8).map(|k| other + k).sum::<u32>());
    }
}

#[test]
fn block_barrier_counts_threads_from_both_sides_of_a_branch() {
    let got = run(
        "mov.u32 %r8, s; shl.b32 %r9, %r0, 2; add.u32 %r8, %r8, %r9; xor.b32 %r11, %r9, 252; mov.u32 %r12, s; add.u32 %r11, %r11, %r12; mov.u32 %r10, 0; mov.u32 %r4, 0;\n\
         LOOP: and.b32 %r2, %r0, 1; setp.eq.u32 %p0, %r2, 0; @%p0 bra EVEN;\n\
         add.u32 %r2, %r0, %r10; st.shared.u32 [%r8], %r2; barrier.sync 0; bra READ;\n\
         EVEN: mad.lo.u32 %r2, %r0, 5, %r10; st.shared.u32 [%r8], %r2; barrier.sync 0;\n\
         READ: ld.shared.u32 %r3, [%r11]; add.u32 %r4, %r4, %r3; barrier.sync 1;\n\
         add.u32 %r10, %r10, 1; setp.lt.u32 %p1, %r10, 10; @%p1 bra LOOP;\nst.global.u32 [%rd1], %r4;",
        64,
        64,
    );
    for thread in 0..64u32 {
        let other = 63 - thread;
        let value = if other % 2 == 0 { other * 5 } else { other };
        assert_eq!(got[thread as usize], 10 * value + 45);
    }
}

#[test]
fn named_barriers_pair_warps_over_many_rounds() {
    // Warps 0 and 1 produce with arrive and wait with sync; warps 2 and 3 the other way round.
    let got = run(
        "shr.u32 %r2, %r0, 5; and.b32 %r3, %r2, 1; mov.u32 %r8, s; shl.b32 %r9, %r3, 7; add.u32 %r8, %r8, %r9; shl.b32 %r9, %r1, 2; add.u32 %r8, %r8, %r9;\n\
         shl.b32 %r5, %r3, 1; add.u32 %r6, %r5, 1; add.u32 %r7, %r5, 2; mov.u32 %r10, 0; mov.u32 %r4, 0;\n\
         setp.ge.u32 %p0, %r2, 2; @%p0 bra CONSUMER;\n\
         PRODUCE: mad.lo.u32 %r11, %r10, 100, %r0; st.shared.u32 [%r8], %r11; bar.arrive %r6, 64; bar.sync %r7, 64;\n\
         add.u32 %r10, %r10, 1; setp.lt.u32 %p1, %r10, 25; @%p1 bra PRODUCE; ret;\n\
         CONSUMER: bar.sync %r6, 64; ld.shared.u32 %r11, [%r8]; add.u32 %r4, %r4, %r11; bar.arrive %r7, 64;\n\
         add.u32 %r10, %r10, 1; setp.lt.u32 %p1, %r10, 25; @%p1 bra CONSUMER;\nst.global.u32 [%rd1], %r4;",
        128,
        128,
    );
    for thread in 64..128u32 {
        let producer = thread - 64;
        let sum: u32 = (0..25).map(|round| round * 100 + producer).sum();
        assert_eq!(got[thread as usize], sum);
    }
}

#[test]
fn reductions_at_barriers_alternate_without_mixing_rounds() {
    let got = run(
        "mov.u32 %r10, 0; mov.u32 %r4, 0;\nLOOP: rem.u32 %r2, %r0, 7; setp.lt.u32 %p0, %r2, %r10;\n\
         barrier.red.popc.aligned.u32 %r3, 2, %p0; add.u32 %r4, %r4, %r3;\n\
         bar.red.and.pred %p1, 2, %p0; selp.u32 %r3, 1000, 0, %p1; add.u32 %r4, %r4, %r3;\n\
         bar.red.or.pred %p1, 2, !%p0; selp.u32 %r3, 100000, 0, %p1; add.u32 %r4, %r4, %r3;\n\
         add.u32 %r10, %r10, 1; setp.lt.u32 %p2, %r10, 9; @%p2 bra LOOP;\nst.global.u32 [%rd1], %r4;",
        96,
        96,
    );
    let sum: u32 = (0..9)
        .map(|round| {
            let below = (0..96)
                .filter(|thread| thread % 7 < round)
                .fold(0u32, |count, _| count + 1);
            below + if below == 96 { 1000 } else { 0 } + if below < 96 { 100_000 } else { 0 }
        })
        .sum();
    assert_eq!(got, vec![sum; 96]);
}

#[test]
fn barriers_of_part_of_a_block_leave_the_rest_alone() {
    // Warps 0 to 2 meet at barrier 5 while warp 3 spins until they have; nobody else ends its wait.
    let got = run(
        "setp.ge.u32 %p0, %r0, 96; @%p0 bra SPIN;\nmov.u32 %r10, 0;\n\
         LOOP: atom.global.add.u32 %r2, [%rd0+512], 1; bar.sync 5, 96; ld.volatile.global.u32 %r3, [%rd0+512]; bar.sync 6, 96;\n\
         add.u32 %r4, %r4, %r3; add.u32 %r10, %r10, 1; setp.lt.u32 %p1, %r10, 6; @%p1 bra LOOP;\nst.global.u32 [%rd1], %r4; ret;\n\
         SPIN: ld.volatile.global.u32 %r3, [%rd0+512]; setp.lt.u32 %p1, %r3, 576; @%p1 bra SPIN;\nst.global.u32 [%rd1], %r3;",
        128,
        129,
    );
    let sum: u32 = (1..=6).map(|round| 96 * round).sum();
    assert_eq!(got[..96], vec![sum; 96]);
    assert_eq!(got[96..128], [576; 32]);
}

#[test]
fn one_lane_of_each_mask_is_elected() {
    let got = run(
        "setp.lt.u32 %p0, %r1, 12; @%p0 bra LOW;\nelect.sync %r2|%p1, 0xfffff000; bra OUT;\nLOW: elect.sync %r2|%p1, 0x00000fff;\n\
         OUT: selp.u32 %r3, 100, 0, %p1; add.u32 %r2, %r2, %r3; st.global.u32 [%rd1], %r2;",
        32,
        32,
    );
    for lane in 0..32u32 {
        let leader = if lane < 12 { 0 } else { 12 };
        let own = if lane == leader { 100 } else { 0 };
        assert_eq!(got[lane as usize], leader + own);
    }
}
