//! Divergence, barriers, warp exchange, faults and refusals.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

mod support;

use std::sync::atomic::Ordering;

use softgpu_core::exec::{DeviceHeap, FaultKind};
use softgpu_core::ptx::{self, ErrorKind, Target};
use support::{Arguments, Buffer, Program, TARGET};

fn kernel(body: &str) -> Program {
    Program::new(&format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.extern .func free (.param .b64 a);\n.visible .entry k(.param .u64 o)\n{{\n.reg .b64 %rd<16>;\n.reg .b32 %r<32>;\n.reg .pred %p<8>;\n.shared .align 4 .b8 tile[4096];\nld.param.u64 %rd0, [o];\nmov.u32 %r0, %tid.x;\nmad.wide.u32 %rd1, %r0, 4, %rd0;\n{body}\nret;\n}}\n"
    ))
}

fn run(body: &str, threads: u32) -> Vec<u32> {
    let p = kernel(body);
    let out = p.memory.buffer(threads as usize * 4);
    p.launch("k", 1, threads, Arguments::new().buffer(out));
    out.read()
}

fn fault(body: &str, out: usize) -> (FaultKind, u32, Buffer) {
    let p = kernel(body);
    let out = p.memory.buffer(out);
    let fault = p
        .run("k", [1, 1, 1], [64, 1, 1], Arguments::new().buffer(out))
        .unwrap_err();
    (fault.kind, fault.thread[0], out)
}

#[test]
fn loops_of_different_length_reconverge() {
    // Collatz steps of the thread number plus one, then the active mask at the end.
    let steps = run(
        "add.u32 %r1, %r0, 1; mov.u32 %r2, 0;\nL: setp.eq.u32 %p0, %r1, 1; @%p0 bra D;\nand.b32 %r3, %r1, 1; setp.eq.u32 %p1, %r3, 0; @%p1 bra E;\nmad.lo.u32 %r1, %r1, 3, 1; bra N;\nE: shr.u32 %r1, %r1, 1;\nN: add.u32 %r2, %r2, 1; bra L;\nD: activemask.b32 %r4; setp.ne.u32 %p2, %r4, -1; @%p2 mov.u32 %r2, 9999;\nst.global.u32 [%rd1], %r2;",
        64,
    );
    let expected: Vec<u32> = (1..=64u64)
        .map(|n| {
            std::iter::successors(Some(n), |&n| {
                Some(if n % 2 == 0 { n / 2 } else { 3 * n + 1 })
            })
            .position(|n| n == 1)
            .unwrap() as u32
        })
        .collect();
    assert_eq!(steps, expected);
}

#[test]
fn lanes_meet_at_a_latch_that_stands_before_the_inner_loop() {
    // Counts the outer rounds of four that not all lanes take together.
    let alone = run(
        "mov.u32 %r1, 0; mov.u32 %r5, 0;\nH: mad.lo.u32 %r2, %r0, 7, %r1; and.b32 %r2, %r2, 15; bra I;\nT: activemask.b32 %r4; setp.ne.u32 %p0, %r4, -1; @%p0 add.u32 %r5, %r5, 1; add.u32 %r1, %r1, 1; setp.lt.u32 %p1, %r1, 4; @%p1 bra H; bra D;\nI: setp.eq.u32 %p2, %r2, 0; @%p2 bra T; sub.u32 %r2, %r2, 1; bra I;\nD: st.global.u32 [%rd1], %r5;",
        64,
    );
    assert_eq!(alone, [0; 64]);
}

#[test]
fn lanes_that_go_on_with_a_loop_meet_at_its_head() {
    let alone = run(
        "mov.u32 %r1, 0; mov.u32 %r5, 0;\nH: activemask.b32 %r4; setp.ne.u32 %p0, %r4, -1; @%p0 add.u32 %r5, %r5, 1; add.u32 %r1, %r1, 1; setp.gt.u32 %p1, %r1, 8; @%p1 bra D;\nadd.u32 %r2, %r0, %r1; and.b32 %r2, %r2, 1; setp.eq.u32 %p2, %r2, 0; @%p2 bra H;\nadd.u32 %r3, %r3, 1; bra H;\nD: st.global.u32 [%rd1], %r5;",
        64,
    );
    assert_eq!(alone, [0; 64]);
}

#[test]
fn barrier_orders_shared_memory_between_warps() {
    let got = run(
        "mov.u32 %r1, tile; mad.lo.u32 %r2, %r0, 4, %r1; st.shared.u32 [%r2], %r0; bar.sync 0;\nmov.u32 %r3, %ntid.x; sub.u32 %r3, %r3, %r0; sub.u32 %r3, %r3, 1; mad.lo.u32 %r3, %r3, 4, %r1; ld.shared.u32 %r4, [%r3]; st.global.u32 [%rd1], %r4;",
        1000,
    );
    assert_eq!(got, (0..1000).rev().collect::<Vec<u32>>());
}

#[test]
fn named_barriers_count_threads_and_reduce() {
    // The first warp arrives, the second waits; then everybody votes.
    let got = run(
        "setp.lt.u32 %p0, %r0, 32; mov.u32 %r1, tile;\n@!%p0 bra W;\nst.shared.u32 [%r1], 77; bar.arrive 3, 64; bra V;\nW: bar.sync 3, 64; ld.shared.u32 %r2, [%r1];\nV: @%p0 mov.u32 %r2, 1;\nand.b32 %r3, %r0, 3; setp.eq.u32 %p1, %r3, 0; bar.red.popc.u32 %r4, 0, %p1; bar.red.or.pred %p2, 1, !%p1; selp.u32 %r5, 1000, 0, %p2;\nadd.u32 %r2, %r2, %r4; add.u32 %r2, %r2, %r5; st.global.u32 [%rd1], %r2;",
        64,
    );
    assert_eq!(got[..32], [1 + 16 + 1000; 32]);
    assert_eq!(got[32..], [77 + 16 + 1000; 32]);
}

#[test]
fn barrier_does_not_wait_for_threads_that_have_exited() {
    let got = run(
        "setp.ge.u32 %p0, %r0, 40; @%p0 exit; bar.sync 0; st.global.u32 [%rd1], 5;",
        96,
    );
    assert_eq!(got.iter().filter(|v| **v == 5).count(), 40);
}

#[test]
fn shuffles_follow_their_segments_and_report_validity() {
    let shfl = |text: &str| {
        run(
            &format!(
                "shfl.sync.{text}, -1;\nselp.u32 %r2, 0, 100, %p0; add.u32 %r1, %r1, %r2; st.global.u32 [%rd1], %r1;"
            ),
            32,
        )
    };
    let at = |f: &dyn Fn(u32) -> u32| (0..32).map(f).collect::<Vec<u32>>();
    assert_eq!(
        shfl("down.b32 %r1|%p0, %r0, 3, 31"),
        at(&|l| if l + 3 < 32 { l + 3 } else { l + 100 })
    );
    assert_eq!(
        shfl("up.b32 %r1|%p0, %r0, 2, 0"),
        at(&|l| if l >= 2 { l - 2 } else { l + 100 })
    );
    assert_eq!(shfl("bfly.b32 %r1|%p0, %r0, 5, 31"), at(&|l| l ^ 5));
    assert_eq!(
        shfl("idx.b32 %r1|%p0, %r0, 1, 0x181f"),
        at(&|l| (l & !7) + 1)
    );
}

#[test]
fn votes_matches_and_reductions_cover_the_mask() {
    let got = run(
        "setp.lt.u32 %p0, %r0, 5; vote.sync.ballot.b32 %r1, %p0, -1; and.b32 %r2, %r0, 3; match.any.sync.b32 %r3, %r2, -1; redux.sync.add.u32 %r4, %r0, -1; redux.sync.max.s32 %r5, %r0, -1;\nadd.u32 %r1, %r1, %r3; add.u32 %r1, %r1, %r4; add.u32 %r1, %r1, %r5; vote.sync.all.pred %p1, %p0, -1; @%p1 mov.u32 %r1, 0; st.global.u32 [%rd1], %r1;",
        32,
    );
    let expected: Vec<u32> = (0..32)
        .map(|l| {
            31u32
                .wrapping_add(0x1111_1111 << (l & 3))
                .wrapping_add(496 + 31)
        })
        .collect();
    assert_eq!(got, expected);
}

#[test]
fn diverged_lanes_meet_at_a_shuffle() {
    // Odd lanes take a detour before the exchange; all must take part.
    let got = run(
        "mov.u32 %r1, %r0; and.b32 %r2, %r0, 1; setp.eq.u32 %p0, %r2, 0; @%p0 bra S; add.u32 %r1, %r1, 100;\nS: shfl.sync.bfly.b32 %r3, %r1, 1, 31, -1; st.global.u32 [%rd1], %r3;",
        32,
    );
    assert_eq!(
        got,
        (0..32u32)
            .map(|l| (l ^ 1) + if l % 2 == 0 { 100 } else { 0 })
            .collect::<Vec<_>>()
    );
}

#[test]
fn jump_table_sends_each_lane_to_its_target() {
    let got = run(
        "and.b32 %r1, %r0, 3; T: .branchtargets A, B, C, B;\nbrx.idx %r1, T;\nA: mov.u32 %r2, 10; bra Z;\nB: mov.u32 %r2, 20; bra Z;\nC: mov.u32 %r2, 30;\nZ: st.global.u32 [%rd1], %r2;",
        32,
    );
    assert_eq!(
        got,
        (0..32)
            .map(|l| [10, 20, 30, 20][l & 3])
            .collect::<Vec<u32>>()
    );
}

#[test]
fn shared_variables_of_one_name_in_two_functions_are_two_variables() {
    // Each function, the module and the kernel have a `v`; each writes its own and all are read at the end.
    let function = |name: &str, value: u32| {
        format!(
            ".func (.param .b32 d) {name}(.param .b32 set) {{\n.reg .b32 %r<2>; .reg .pred %p; .shared .b32 v;\n\
             ld.param.b32 %r0, [set]; setp.ne.u32 %p, %r0, 0; @%p st.shared.u32 [v], {value};\n\
             ld.shared.u32 %r1, [v]; st.param.b32 [d], %r1; ret; }}\n"
        )
    };
    let call = |name: &str, set: u32| {
        format!("st.param.b32 [s], {set}; call (d), {name}, (s); ld.param.b32 %r1, [d];\n")
    };
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.shared .b32 v;\n{}{}{}\
         .visible .entry k(.param .u64 o) {{\n.reg .b32 %r<2>; .reg .b64 %rd<1>; .param .b32 s; .param .b32 d;\n\
         ld.param.u64 %rd0, [o];\n{}{}{}{}st.global.u32 [%rd0], %r1;\n{}st.global.u32 [%rd0+4], %r1;\n\
         {}st.global.u32 [%rd0+8], %r1;\nret; }}\n",
        function("f", 1),
        function("g", 2),
        ".func module_one() { st.shared.u32 [v], 3; ret; }\n",
        call("f", 1),
        call("g", 1),
        "call module_one;\n",
        call("f", 0),
        call("g", 0),
        "{ .shared .b32 v; st.shared.u32 [v], 4; }\nld.shared.u32 %r1, [v];\n",
    );
    let p = Program::new(&text);
    let out = p.memory.buffer(12);
    p.launch("k", 1, 1, Arguments::new().buffer(out));
    assert_eq!(out.read::<u32>(), [1, 2, 3]);
}

#[test]
fn atomics_on_shared_memory_count_every_thread() {
    let got = run(
        "mov.u32 %r1, tile; setp.eq.u32 %p0, %r0, 0; @%p0 st.shared.u32 [%r1], 0; bar.sync 0; atom.shared.inc.u32 %r2, [%r1], 9; red.shared.max.u32 [%r1+4], %r0; bar.sync 0; ld.shared.u32 %r3, [%r1]; ld.shared.u32 %r4, [%r1+4]; mad.lo.u32 %r3, %r3, 1000, %r4; st.global.u32 [%rd1], %r3;",
        128,
    );
    assert_eq!(got, [8 * 1000 + 127; 128]);
}

#[test]
fn generic_addresses_reach_shared_and_local_memory() {
    let got = run(
        ".local .align 8 .b8 box[16]; mov.u64 %rd2, tile; cvta.shared.u64 %rd2, %rd2; mad.wide.u32 %rd2, %r0, 4, %rd2; st.u32 [%rd2], 3; mov.u64 %rd3, box; cvta.local.u64 %rd4, %rd3; st.u32 [%rd4+4], %r0; ld.local.u32 %r1, [%rd3+4]; ld.u32 %r2, [%rd2]; isspacep.shared %p0, %rd2; isspacep.local %p1, %rd2; selp.u32 %r3, 100, 0, %p0; selp.u32 %r4, 5000, 0, %p1; add.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3; add.u32 %r1, %r1, %r4; st.global.u32 [%rd1], %r1;",
        32,
    );
    assert_eq!(got, (103..135).collect::<Vec<u32>>());
}

#[test]
fn blocks_that_wait_for_later_blocks_make_progress() {
    let mut p = kernel(
        "mov.u32 %r1, %ctaid.x; atom.global.add.u32 %r2, [%rd0], 1;\nL: ld.volatile.global.u32 %r3, [%rd0]; setp.lt.u32 %p0, %r3, 12; @%p0 bra L;",
    );
    p.workers = 1;
    let out = p.memory.buffer(4);
    p.launch("k", 12, 1, Arguments::new().buffer(out));
    assert_eq!(out.read::<u32>(), [12]);
}

#[test]
fn accesses_outside_every_range_fault_with_thread_and_address() {
    let (kind, thread, out) = fault("st.global.u32 [%rd1], 1;", 40 * 4);
    assert_eq!(
        kind,
        FaultKind::IllegalAddress {
            address: out.address + 160,
            write: true
        }
    );
    assert_eq!(thread, 40);
    let (kind, ..) = fault("ld.global.u32 %r1, [%rd1+2];", 4096);
    assert!(matches!(kind, FaultKind::MisalignedAddress { .. }));
    let (kind, ..) = fault("ld.global.u32 %r1, [0];", 16);
    assert_eq!(
        kind,
        FaultKind::IllegalAddress {
            address: 0,
            write: false
        }
    );
    let (kind, ..) = fault("mov.u32 %r1, 4096; ld.shared.u32 %r2, [%r1];", 16);
    assert!(matches!(
        kind,
        FaultKind::IllegalAddress { address: 4096, .. }
    ));
    let (kind, ..) = fault("ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd0+8];", 4096);
    assert!(matches!(kind, FaultKind::MisalignedAddress { .. }));
}

#[test]
fn write_to_read_only_memory_faults() {
    let p = kernel("st.global.u32 [%rd0], 1;");
    let out = p.memory.buffer(64);
    p.memory.read_only();
    let fault = p
        .run("k", [1, 1, 1], [1, 1, 1], Arguments::new().buffer(out))
        .unwrap_err();
    assert_eq!(
        fault.kind,
        FaultKind::IllegalAddress {
            address: out.address,
            write: true
        }
    );
    assert_eq!(out.read::<u32>()[0], 0);
}

#[test]
fn trap_run_away_and_cancellation_end_a_launch() {
    assert_eq!(fault("trap;", 4).0, FaultKind::Trap);
    let mut p = kernel("L: bra L;");
    p.instruction_limit = Some(1 << 20);
    let run = |p: &Program| {
        p.run("k", [4, 1, 1], [64, 1, 1], Arguments::new().u64(0))
            .unwrap_err()
            .kind
    };
    assert_eq!(run(&p), FaultKind::RunAway);
    p.cancel.store(true, Ordering::Relaxed);
    assert_eq!(run(&p), FaultKind::Cancelled);
}

#[test]
fn launches_that_do_not_fit_are_refused() {
    let p = kernel("");
    for (grid, block) in [
        ([0, 1, 1], [1, 1, 1]),
        ([1, 1, 1], [1025, 1, 1]),
        ([1, 1, 1], [0, 1, 1]),
        ([1, 65536, 1], [1, 1, 1]),
    ] {
        let fault = p
            .run("k", grid, block, Arguments::new().u64(0))
            .unwrap_err();
        assert!(
            matches!(fault.kind, FaultKind::InvalidLaunch { .. }),
            "{grid:?} {block:?}"
        );
    }
}

#[test]
fn endless_recursion_overflows_the_stack() {
    let p = Program::new(
        ".version 8.0\n.target sm_80\n.address_size 64\n.func f(.param .b32 x)\n{\n.reg .b32 %r<2>; .local .b8 a[64];\n{ .param .b32 q; ld.param.b32 %r0, [x]; st.param.b32 [q], %r0; call f, (q); }\nret;\n}\n.visible .entry k()\n{\n.param .b32 q; st.param.b32 [q], 1; call f, (q); ret;\n}\n",
    );
    let fault = p
        .run("k", [1, 1, 1], [32, 1, 1], Arguments::new())
        .unwrap_err();
    assert_eq!(fault.kind, FaultKind::StackOverflow);
}

fn refusal(text: &str) -> ptx::CompileError {
    match ptx::compile(text, &TARGET) {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => error,
    }
}

#[test]
fn refusals_name_line_instruction_and_reason() {
    let body = |line: &str| {
        format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.entry k()\n{{\n.reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .pred %p;\n{line}\nret;\n}}\n"
        )
    };
    for (line, reason) in [
        (
            "frobnicate.b32 %r0, %r1;",
            "instruction frobnicate is not supported",
        ),
        (
            "tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;",
            "tcgen05 instructions are not supported",
        ),
        ("add.u32 %r0, %r1;", "3 operands are needed"),
        ("add.u32 %r0, %rd1, %r2;", "has 64 bits where 32 are needed"),
        ("add.u32 %r0, %r1, %r9;", "%r9 is not defined"),
        ("bra NOWHERE;", "label NOWHERE is not defined"),
        ("ld.global.u32 %r0, [nowhere];", "nowhere is not defined"),
        (
            "add.foo.u32 %r0, %r1, %r2;",
            "modifier .foo is not supported",
        ),
        ("cvt.s32.f32 %r0, %r1;", "integer rounding modifier"),
        (
            "tex.2d.v4.f32.f32 {%r0,%r1,%r2,%r3}, [t, {%r0,%r1}];",
            "not supported",
        ),
        ("call nobody;", "nobody is not defined"),
        ("mov.u32 %r0, %r1", "expected `;`"),
        ("@%r0 bra L;", "has 32 bits where 1 are needed"),
    ] {
        let error = refusal(&body(line));
        assert_eq!(error.kind, ErrorKind::InvalidPtx);
        assert!(error.reason.contains(reason), "{line}: {error}");
        let expected = if reason.contains("`;`") { 8 } else { 7 };
        assert_eq!(error.line, expected, "{line}: {error}");
    }
    let error = refusal(&body("  mul.wide.f32 %r0, %r1, %r2;"));
    assert_eq!(error.instruction, "mul.wide.f32");
    assert_eq!(error.column, 3);
}

#[test]
fn newer_versions_and_targets_are_refused() {
    let target = Target {
        compute_capability: (8, 0),
        max_ptx_version: (8, 3),
    };
    let compile = |version: &str, sm: &str| {
        let text = format!(".version {version}\n.target {sm}\n.address_size 64\n");
        ptx::compile(&text, &target).map_err(|error| error.kind)
    };
    assert!(compile("8.3", "sm_80").is_ok());
    assert_eq!(
        compile("8.4", "sm_80").unwrap_err(),
        ErrorKind::UnsupportedVersion
    );
    assert_eq!(
        compile("8.0", "sm_86").unwrap_err(),
        ErrorKind::UnsupportedTarget
    );
    assert_eq!(
        compile("8.0", "sm_90a").unwrap_err(),
        ErrorKind::UnsupportedTarget
    );
    assert_eq!(
        compile("8.0", "what").unwrap_err(),
        ErrorKind::UnsupportedTarget
    );
}

#[test]
fn hostile_texts_are_refused_without_harm() {
    let nested = format!(
        ".version 8.0\n.target sm_80\n.global .u32 x = {};",
        "(".repeat(100_000)
    );
    refusal(&nested);
    let signs = format!(
        ".version 8.0\n.target sm_80\n.global .u32 x = {}1;",
        "-".repeat(100_000)
    );
    refusal(&signs);
    let braces = format!(
        ".version 8.0\n.target sm_80\n.global .u32 x[9] = {}",
        "{".repeat(100_000)
    );
    refusal(&braces);
    refusal(
        ".version 8.0\n.target sm_80\n.shared .b8 x[99999999999999];\n.entry k() { ret; }\n.global .b8 y[4] = {1,2,3,4,5};",
    );
    ptx::fuzz_compile(b".version 8.0\n.target sm_80\n.entry k() { .reg .b32 %r<4294967295>; mov.u32 %r4294967294, 1; {{{{ }");
    // Every cut of a real module is refused or accepted, but returns.
    let text = include_str!("ptx/program.ptx");
    for end in (0..text.len()).step_by(997) {
        ptx::fuzz_compile(&text.as_bytes()[..end]);
    }
    // So is every line left out.
    let lines: Vec<&str> = text.lines().collect();
    for skip in (0..lines.len()).step_by(13) {
        let mutated: String = lines
            .iter()
            .enumerate()
            .filter(|(place, _)| *place != skip)
            .map(|(_, line)| format!("{line}\n"))
            .collect();
        ptx::fuzz_compile(mutated.as_bytes());
    }
}

#[test]
fn what_a_kernel_allocates_is_its_own_until_it_frees_it() {
    let source = ".version 8.0\n.target sm_80\n.address_size 64\n\
        .extern .func (.param .b64 r) malloc (.param .b64 a);\n.extern .func free (.param .b64 a);\n\
        .visible .entry k(.param .u64 o)\n{\n.reg .b64 %rd<8>;\n.reg .b32 %r<8>;\n.reg .pred %p<2>;\n\
        ld.param.u64 %rd0, [o];\nmov.u32 %r0, %tid.x;\nmad.wide.u32 %rd1, %r0, 4, %rd0;\n\
        {\n.param .b64 p0; .param .b64 q0;\nst.param.b64 [p0], 24;\n\
        call.uni (q0), malloc, (p0);\nld.param.b64 %rd2, [q0];\n}\n\
        setp.eq.u64 %p0, %rd2, 0; mov.u32 %r1, -1; @%p0 bra D;\n\
        st.u32 [%rd2+20], %r0; mul.lo.u32 %r2, %r0, 3; st.u32 [%rd2], %r2; bar.warp.sync -1;\n\
        ld.u32 %r1, [%rd2]; ld.u32 %r3, [%rd2+20]; add.u32 %r1, %r1, %r3;\n\
        {\n.param .b64 p1;\nst.param.b64 [p1], %rd2;\ncall.uni free, (p1);\n}\n\
        D: st.global.u32 [%rd1], %r1;\nret;\n}\n";
    let mut p = Program::new(source);
    let out = p.memory.buffer(32 * 4);
    // Without a heap there is nothing to be had.
    p.launch("k", 1, 32, Arguments::new().buffer(out));
    assert_eq!(out.read::<u32>(), [u32::MAX; 32]);
    let memory = p.memory.buffer(2048);
    p.heap = Some(DeviceHeap::new(memory.address, 2048));
    // More launches than the heap could feed if nothing came back.
    for _ in 0..8 {
        p.launch("k", 1, 32, Arguments::new().buffer(out));
        assert_eq!(
            out.read::<u32>(),
            std::array::from_fn::<u32, 32, _>(|i| 4 * i as u32)
        );
    }
}

#[test]
fn freeing_what_was_not_allocated_ends_the_kernel() {
    let (kind, _, _) = fault(
        "{ .param .b64 p1; st.param.b64 [p1], %rd1; call.uni free, (p1); }",
        256,
    );
    assert_eq!(kind, FaultKind::Trap);
}

#[test]
fn warp_sz_is_a_number() {
    assert_eq!(
        run(
            "mov.u32 %r1, WARP_SZ; add.u32 %r1, %r1, WARP_SZ; st.global.u32 [%rd1], %r1;",
            2
        ),
        [64, 64]
    );
}

#[test]
fn lanes_with_different_member_masks_are_groups_of_their_own() {
    // Each eight lanes vote among themselves, converged.
    let body = "mov.u32 %r1, %laneid; and.b32 %r1, %r1, 24; mov.u32 %r2, 255; shl.b32 %r2, %r2, %r1;\n\
        and.b32 %r3, %r0, 9; setp.eq.u32 %p0, %r3, 9;\nvote.sync.ballot.b32 %r4, %p0, %r2;\n\
        match.any.sync.b32 %r5, %r3, %r2; bar.warp.sync %r2; redux.sync.add.u32 %r6, %r0, %r2;\n\
        xor.b32 %r4, %r4, %r5; add.u32 %r4, %r4, %r6; st.global.u32 [%rd1], %r4;";
    let expected: Vec<u32> = (0..32u32)
        .map(|lane| {
            let tile = lane / 8 * 8..lane / 8 * 8 + 8;
            let bits = |holds: &dyn Fn(u32) -> bool| {
                tile.clone()
                    .filter(|&lane| holds(lane))
                    .fold(0, |bits, lane| bits | 1u32 << lane)
            };
            let voted = bits(&|lane| lane & 9 == 9);
            let alike = bits(&|other| other & 9 == lane & 9);
            (voted ^ alike).wrapping_add(tile.clone().sum())
        })
        .collect();
    assert_eq!(run(body, 32), expected);
}

#[test]
fn a_complete_group_does_not_wait_for_the_lanes_of_another() {
    // Lane 16 loops until lane 0 has stored what follows its vote; lanes 17 to 31 vote with lane 16 alone.
    let body = "mov.u32 %r1, tile; st.shared.u32 [%r1], 0; bar.warp.sync -1;\n\
        mov.u32 %r2, 0xffff; setp.ge.u32 %p0, %r0, 16; @%p0 mov.u32 %r2, 0xffff0000;\n\
        setp.ne.u32 %p1, %r0, 16; @%p1 bra V;\n\
        L: ld.volatile.shared.u32 %r3, [%r1]; setp.eq.u32 %p2, %r3, 0; @%p2 bra L;\n\
        V: vote.sync.any.pred %p3, %p1, %r2; selp.u32 %r4, 1, 0, %p3;\n\
        setp.eq.u32 %p1, %r0, 0; @%p1 st.volatile.shared.u32 [%r1], 5; st.global.u32 [%rd1], %r4;";
    assert_eq!(run(body, 32), [1; 32]);
}

#[test]
fn carry_after_a_difference_tells_that_nothing_was_borrowed() {
    let body = "sub.cc.u32 %r1, %r0, 2; subc.cc.u32 %r2, 7, 7; addc.u32 %r3, 0, 0; add.cc.u32 %r4, %r0, -2;\n\
        subc.u32 %r5, 10, 3; shl.b32 %r5, %r5, 8; or.b32 %r3, %r3, %r5; shl.b32 %r2, %r2, 16; or.b32 %r3, %r3, %r2;\n\
        st.global.u32 [%rd1], %r3;";
    let expected: Vec<u32> = (0..4)
        .map(|i| {
            if i < 2 {
                0xffff_0000 | 6 << 8
            } else {
                7 << 8 | 1
            }
        })
        .collect();
    assert_eq!(run(body, 4), expected);
}
