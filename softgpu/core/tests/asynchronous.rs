//! Asynchronous copies and barriers in shared memory.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

mod support;

use softgpu_core::exec::FaultKind;
use softgpu_core::ptx;
use support::{Arguments, Program, TARGET};

/// A kernel with a page of shared memory at `%s`, parameters `%in` and `%out`, the thread's number
/// in `%t`; whatever it leaves in `%r0` and `%r1` is stored.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90\n.address_size 64\n.shared .align 128 .b8 page[4096];\n\
        .visible .entry k(.param .u64 out, .param .u64 in)\n{{\n\
        .reg .b64 %s, %in, %out, %x<8>; .reg .b32 %t, %r<16>; .reg .pred %p<8>;\n\
        mov.u32 %t, %tid.x; mov.u64 %s, page; ld.param.u64 %out, [out]; ld.param.u64 %in, [in];\n\
        mov.u32 %r0, 0; mov.u32 %r1, 0;\n{body}\n\
        mad.wide.u32 %out, %t, 8, %out; st.global.v2.u32 [%out], {{%r0, %r1}};\nret;\n}}\n"
    )
}

/// What each thread of one block stores, given bytes that count up.
fn run(threads: u32, body: &str) -> Result<Vec<[u32; 2]>, FaultKind> {
    let p = Program::new(&kernel(body));
    let out = p.memory.buffer(8 * threads as usize);
    let bytes: Vec<u8> = (0..8184u32).map(|i| (i % 251 + 1) as u8).collect();
    let arguments = Arguments::new().buffer(out).buffer(p.memory.from(&bytes));
    p.run("k", [1; 3], [threads, 1, 1], arguments)
        .map_err(|fault| fault.kind)?;
    Ok(out.read::<u32>().as_chunks::<2>().0.to_vec())
}

fn input(offset: u32) -> u8 {
    (offset % 251 + 1) as u8
}

/// The word that the input holds at an offset, with all but the first `count` bytes zero.
fn word(offset: u32, count: u32) -> u32 {
    let bytes = [0, 1, 2, 3].map(|i| if i < count { input(offset + i) } else { 0 });
    u32::from_le_bytes(bytes)
}

#[test]
fn cp_async_copies_each_size_and_fills_up_with_zeros() {
    for (form, bytes) in [("ca", 4u32), ("ca", 8), ("ca", 16), ("cg", 16)] {
        for (more, counts) in [
            ("".to_owned(), [bytes; 32]),
            (", 3".into(), [3; 32]),
            (", 0".into(), [0; 32]),
            (
                ", %t".into(),
                std::array::from_fn(|t| (t as u32).min(bytes)),
            ),
            (
                ", %p1".into(),
                std::array::from_fn(|t| if t < 5 { 0 } else { bytes }),
            ),
            (
                ", !%p1".into(),
                std::array::from_fn(|t| if t < 5 { bytes } else { 0 }),
            ),
        ] {
            for last in 0..bytes / 4 {
                let out = run(
                    32,
                    &format!(
                        "setp.lt.u32 %p1, %t, 5; mul.lo.u32 %r2, %t, {bytes}; cvt.u64.u32 %x0, %r2;\n\
                        add.u64 %x1, %in, %x0; add.u64 %x2, %s, %x0; cvt.u32.u64 %r3, %x2;\n\
                        st.shared.u32 [%x2+{}], -1;\n\
                        cp.async.{form}.shared.global.L2::128B [%r3], [%x1+16], {bytes}{more};\n\
                        cp.async.commit_group; cp.async.wait_group 0; cp.async.wait_all;\n\
                        ld.shared.u32 %r0, [%x2+{}];",
                        last * 4,
                        last * 4
                    ),
                )
                .unwrap();
                for (t, found) in out.iter().enumerate() {
                    let left = counts[t].saturating_sub(last * 4).min(4);
                    let expected = word(16 + t as u32 * bytes + last * 4, left);
                    assert_eq!(
                        found[0], expected,
                        "{form} {bytes}{more} thread {t} word {last}"
                    );
                }
            }
        }
    }
}

#[test]
fn cp_async_reads_no_byte_beyond_its_count() {
    // The input ends 8 bytes after the first address; nothing is mapped at 64.
    for count in [8, 5, 0] {
        let body = format!("cp.async.cg.shared.global [%s], [%in+8176], 16, {count};");
        run(1, &body).unwrap();
    }
    let beyond = run(1, "cp.async.cg.shared.global [%s], [%in+8176], 16, 9;");
    assert!(matches!(
        beyond,
        Err(FaultKind::IllegalAddress { write: false, .. })
    ));
    run(
        1,
        "mov.u64 %x0, 64; cp.async.ca.shared.global [%s], [%x0], 8, 0;",
    )
    .unwrap();
    let misaligned = run(1, "cp.async.ca.shared.global [%s+4], [%in+8], 8;");
    assert!(matches!(
        misaligned,
        Err(FaultKind::MisalignedAddress { .. })
    ));
    let outside = run(1, "cp.async.ca.shared.global [%s+4096], [%in], 4;");
    assert!(matches!(
        outside,
        Err(FaultKind::IllegalAddress { write: true, .. })
    ));
}

/// Thread 0 makes a barrier at the page's start.
fn barrier_of(count: &str) -> String {
    format!(
        "setp.eq.u32 %p0, %t, 0; @%p0 mbarrier.init.shared.b64 [%s], {count};\n\
        @%p0 fence.mbarrier_init.release.cluster; bar.sync 0;\n"
    )
}

#[test]
fn warps_hand_values_over_through_barriers() {
    // Warp 0 fills a slot when the consumers have emptied it; they add up what they see.
    for wait in [
        "mbarrier.try_wait.parity.shared::cta.b64",
        "mbarrier.test_wait.parity.acquire.cta.shared::cta.b64",
    ] {
        let body = format!(
            "setp.eq.u32 %p0, %t, 0; @%p0 mbarrier.init.shared.b64 [%s], 32; @%p0 mbarrier.init.shared.b64 [%s+8], 96;\n\
            bar.sync 0; mov.u32 %r2, 0; setp.ge.u32 %p1, %t, 32; @%p1 bra $consumer;\n\
            $produce: and.b32 %r3, %r2, 1; xor.b32 %r4, %r3, 1;\n\
            $empty: {wait} %p2, [%s+8], %r4; @!%p2 bra $empty;\n\
            mul.lo.u32 %r5, %r2, 3; mad.lo.u32 %r5, %t, 100, %r5; mad.wide.u32 %x0, %t, 4, %s; st.shared.u32 [%x0+64], %r5;\n\
            mbarrier.arrive.shared.b64 %x1, [%s]; add.u32 %r2, %r2, 1; setp.lt.u32 %p3, %r2, 20; @%p3 bra $produce; bra $end;\n\
            $consumer: and.b32 %r3, %r2, 1;\n\
            $full: {wait} %p2, [%s], %r3; @!%p2 bra $full;\n\
            and.b32 %r4, %t, 31; mad.wide.u32 %x0, %r4, 4, %s; ld.shared.u32 %r5, [%x0+64]; add.u32 %r0, %r0, %r5;\n\
            mbarrier.arrive.release.cta.shared::cta.b64 _, [%s+8]; add.u32 %r2, %r2, 1; setp.lt.u32 %p3, %r2, 20; @%p3 bra $consumer;\n\
            $end:"
        );
        let out = run(128, &body).unwrap();
        for (t, found) in out.iter().enumerate().skip(32) {
            let lane = t as u32 % 32;
            assert_eq!(found[0], (0..20).map(|i| i * 3 + lane * 100).sum::<u32>());
        }
    }
}

#[test]
fn lanes_of_one_warp_wait_for_each_other() {
    let out = run(
        32,
        &format!(
            "{}setp.lt.u32 %p1, %t, 31; @!%p1 bra $last;\n\
            mbarrier.arrive.shared.b64 %x0, [%s];\n\
            $wait: mbarrier.try_wait.shared.b64 %p2, [%s], %x0, 1000; @!%p2 bra $wait;\n\
            ld.shared.u32 %r0, [%s+16]; bra $end;\n\
            $last: st.shared.u32 [%s+16], 77; mbarrier.arrive.shared.b64 %x0, [%s];\n$end:",
            barrier_of("32")
        ),
    )
    .unwrap();
    assert!(out[..31].iter().all(|found| found[0] == 77));
}

#[test]
fn tokens_tell_the_phase_and_the_pending_arrivals() {
    let out = run(
        1,
        &format!(
            "{}cvta.shared.u64 %x7, %s;\n\
            mbarrier.arrive.noComplete.b64 %x0, [%x7], 2; mbarrier.pending_count.b64 %r0, %x0;\n\
            mbarrier.test_wait.b64 %p1, [%x7], %x0; selp.u32 %r2, 1, 0, %p1;\n\
            mbarrier.test_wait.parity.b64 %p1, [%x7], 1; selp.u32 %r3, 2, 0, %p1;\n\
            mbarrier.arrive.b64 %x1, [%x7], 3; mbarrier.pending_count.b64 %r5, %x1;\n\
            mbarrier.test_wait.b64 %p1, [%x7], %x0; selp.u32 %r4, 4, 0, %p1;\n\
            mbarrier.test_wait.parity.b64 %p1, [%x7], 0; selp.u32 %r6, 8, 0, %p1;\n\
            mbarrier.test_wait.parity.b64 %p1, [%x7], 1; selp.u32 %r7, 16, 0, %p1;\n\
            shl.b32 %r5, %r5, 8; or.b32 %r0, %r0, %r5;\n\
            or.b32 %r1, %r2, %r3; or.b32 %r1, %r1, %r4; or.b32 %r1, %r1, %r6; or.b32 %r1, %r1, %r7;\n\
            mbarrier.inval.b64 [%x7];",
            barrier_of("5")
        ),
    )
    .unwrap();
    // Before the third arrival the phase before has ended, and afterwards this one.
    assert_eq!(out[0], [5 | 3 << 8, 2 | 4 | 8]);
}

#[test]
fn a_phase_waits_for_bytes_and_for_who_dropped_out_no_more() {
    let out = run(
        1,
        &format!(
            "{}mbarrier.arrive.expect_tx.shared.b64 %x0, [%s], 32;\n\
            mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%s], 8;\n\
            mbarrier.test_wait.shared.b64 %p1, [%s], %x0; selp.u32 %r0, 1, 0, %p1;\n\
            mbarrier.complete_tx.shared::cta.b64 [%s], 39;\n\
            mbarrier.test_wait.shared.b64 %p1, [%s], %x0; selp.u32 %r2, 2, 0, %p1; or.b32 %r0, %r0, %r2;\n\
            mbarrier.complete_tx.shared::cta.b64 [%s], 1;\n\
            mbarrier.arrive_drop.shared.b64 %x1, [%s];\n\
            mbarrier.test_wait.shared.b64 %p1, [%s], %x0; selp.u32 %r2, 4, 0, %p1; or.b32 %r0, %r0, %r2;\n\
            mbarrier.arrive.shared.b64 %x2, [%s]; mbarrier.pending_count.b64 %r1, %x2;\n\
            mbarrier.test_wait.shared.b64 %p1, [%s], %x2; selp.u32 %r2, 8, 0, %p1; or.b32 %r0, %r0, %r2;",
            barrier_of("2")
        ),
    )
    .unwrap();
    assert_eq!(out[0], [4 | 8, 1]);
}

#[test]
fn copies_arrive_at_barriers() {
    // With `.noinc` the arrival was expected; without it the thread's own one is.
    for (form, own) in [
        (".noinc", ""),
        ("", "mbarrier.arrive.shared.b64 %x1, [%s];"),
    ] {
        let out = run(
            64,
            &format!(
                "{}mad.wide.u32 %x0, %t, 16, %s; mad.wide.u32 %x2, %t, 16, %in;\n\
                cp.async.cg.shared.global [%x0+256], [%x2], 16; cp.async.mbarrier.arrive{form}.shared.b64 [%s];{own}\n\
                $wait: mbarrier.try_wait.parity.shared.b64 %p1, [%s], 0; @!%p1 bra $wait;\n\
                xor.b32 %r2, %t, 63; mad.wide.u32 %x0, %r2, 16, %s; ld.shared.u32 %r0, [%x0+268];",
                barrier_of("64")
            ),
        )
        .unwrap();
        for (t, found) in out.iter().enumerate() {
            assert_eq!(found[0], word((63 - t as u32) * 16 + 12, 4));
        }
    }
}

#[test]
fn bulk_copies_report_their_bytes() {
    let out = run(
        64,
        &format!(
            "{}cvt.u32.u64 %r4, %s; @!%p0 bra $wait;\n\
            mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%s], 1024;\n\
            cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%s+1024], [%in+32], 512, [%s];\n\
            cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%s+2048], [%s+1024], 512, [%r4];\n\
            $wait: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%s], 0; @!%p1 bra $wait;\n\
            mad.wide.u32 %x0, %t, 8, %s; ld.shared.u32 %r0, [%x0+2048]; add.u32 %r2, %r0, 1; st.shared.u32 [%x0+2048], %r2;\n\
            fence.proxy.async.shared::cta; bar.sync 0; @!%p0 bra $read;\n\
            cp.async.bulk.prefetch.L2.global [%in], 64;\n\
            cp.async.bulk.global.shared::cta.bulk_group [%in+4096], [%s+2048], 512; cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;\n\
            cp.async.bulk.wait_group 0;\n\
            $read: bar.sync 0; mad.wide.u32 %x0, %t, 8, %in; ld.global.u32 %r1, [%x0+4096];",
            barrier_of("1")
        ),
    )
    .unwrap();
    for (t, found) in out.iter().enumerate() {
        let expected = word(32 + t as u32 * 8, 4);
        assert_eq!(*found, [expected, expected.wrapping_add(1)]);
    }
    let misaligned = run(
        1,
        "cp.async.bulk.global.shared::cta.bulk_group [%in+8], [%s], 16;",
    );
    assert!(matches!(
        misaligned,
        Err(FaultKind::MisalignedAddress { .. })
    ));
    let beyond = run(
        1,
        "cp.async.bulk.global.shared::cta.bulk_group [%in+8176], [%s], 32;",
    );
    assert!(matches!(
        beyond,
        Err(FaultKind::IllegalAddress { write: true, .. })
    ));
}

#[test]
fn barriers_lie_in_shared_memory_and_take_counts_in_range() {
    let elsewhere = run(1, "mbarrier.init.b64 [%in], 1;");
    assert!(matches!(
        elsewhere,
        Err(FaultKind::InvalidAddressSpace { .. })
    ));
    let outside = run(1, "mbarrier.init.shared.b64 [%s+4096], 1;");
    assert!(matches!(outside, Err(FaultKind::IllegalAddress { .. })));
    let misaligned = run(1, "mbarrier.init.shared.b64 [%s+4], 1;");
    assert!(matches!(
        misaligned,
        Err(FaultKind::MisalignedAddress { .. })
    ));
    let none = run(1, "mbarrier.init.shared.b64 [%s], 0;");
    assert_eq!(none, Err(FaultKind::IllegalInstruction));
    let made_by_nobody = run(
        1,
        "st.shared.u64 [%s], 0; mbarrier.arrive.shared.b64 %x0, [%s];",
    );
    assert_eq!(made_by_nobody, Err(FaultKind::IllegalInstruction));
}

#[test]
fn a_wait_that_nobody_ends_is_a_run_away() {
    let mut p = Program::new(&kernel(&format!(
        "{}$wait: mbarrier.try_wait.parity.shared.b64 %p1, [%s], 0; @!%p1 bra $wait;",
        barrier_of("2")
    )));
    p.instruction_limit = Some(1 << 20);
    let out = p.memory.buffer(64 * 8);
    let arguments = Arguments::new().buffer(out).buffer(out);
    let fault = p.run("k", [1; 3], [64, 1, 1], arguments).unwrap_err();
    assert_eq!(fault.kind, FaultKind::RunAway);
}

#[test]
fn what_is_known_compiles_and_the_rest_is_refused_by_name() {
    let compile = |body: &str| ptx::compile(&kernel(body), &TARGET).map_err(|e| e.to_string());
    for body in [
        "cp.async.ca.shared::cta.global.L2::cache_hint [%r0], [%in], 4, %p0, %x0;",
        "cp.async.ca.shared.global.L2::cache_hint [%r0], [%in], 4, %x0;",
        "cp.async.mbarrier.arrive.noinc.b64 [%x0];",
        "mbarrier.arrive_drop.expect_tx.shared.b64 %x0, [%s], 2;",
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r0], 2;",
        "cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%x0], [%r0], %r1, %x1;",
        "fence.proxy.alias; fence.proxy.async; fence.proxy.async.global; membar.proxy.async;",
        "fence.proxy.async::generic.acquire.sync_restrict::shared::cluster.cluster;",
    ] {
        compile(body).unwrap();
    }
    for (body, reason) in [
        ("cp.async.cg.shared.global [%s], [%in], 8;", "16 by .cg"),
        ("cp.async.ca.shared.global [%s], [%in], 12;", "4, 8 or 16"),
        (
            "cp.async.ca.global.shared [%s], [%in], 4, 4, 4;",
            "3 or 4 operands",
        ),
        ("cp.async.wait_group %r0;", "constant"),
        (
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r0], [%in], 16, [%r1], %r2;",
            "not supported",
        ),
        (
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%x0], [%r0], 16;",
            "reduction",
        ),
        ("mbarrier.arrive.shared.b64 [%s];", "needed"),
        (
            "mbarrier.arrive.noComplete.shared.b64 %x0, [%s];",
            "operands",
        ),
        ("mbarrier.init.parity.shared.b64 [%s], 1;", "not supported"),
        ("mbarrier.test_wait.shared.b32 %p0, [%s], %r0;", ".b64"),
    ] {
        let error = compile(body).expect_err(body);
        assert!(error.contains(reason), "{error} does not say {reason}");
    }
}
