//! Loads, stores and atomics of a warp in every shape: rows of cells at any alignment, gaps, holes in
//! the mask, rows that leave their allocation.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod support;

use softgpu_core::exec::FaultKind;
use support::{Arguments, Program};

/// Every thread whose bit is set copies a cell from `i + skip + step * tid` to the same place of `o`.
fn copier(ty: &str, register: &str, bytes: usize) -> Program {
    Program::new(&format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n\
         .visible .entry copy(.param .u64 i, .param .u64 o, .param .u32 skip, .param .u32 step, .param .u32 mask)\n{{\n\
         .reg .b64 %in, %out, %at; .reg .b32 %t, %mask; .reg .pred %p; .reg .{register} %v;\n\
         ld.param.u64 %in, [i]; ld.param.u64 %out, [o];\n\
         mov.u32 %t, %tid.x;\n\
         ld.param.u32 %mask, [mask]; shr.u32 %mask, %mask, %t; and.b32 %mask, %mask, 1;\n\
         setp.ne.u32 %p, %mask, 0;\n\
         ld.param.u32 %mask, [step]; mul.lo.u32 %t, %t, %mask;\n\
         ld.param.u32 %mask, [skip]; add.u32 %t, %t, %mask;\n\
         mul.wide.u32 %at, %t, {bytes};\n\
         add.u64 %in, %in, %at; add.u64 %out, %out, %at;\n\
         @%p ld.global.{ty} %v, [%in];\n\
         @%p st.global.{ty} [%out], %v;\n\
         ret;\n}}\n"
    ))
}

#[test]
fn rows_gaps_and_masks_of_every_width_copy_just_their_cells() {
    for (ty, register, bytes) in [
        ("u8", "b32", 1),
        ("s8", "b32", 1),
        ("u16", "b16", 2),
        ("s16", "b32", 2),
        ("u32", "b32", 4),
        ("f32", "f32", 4),
        ("u64", "b64", 8),
        ("f64", "f64", 8),
    ] {
        let p = copier(ty, register, bytes);
        let source: Vec<u8> = (0..2048u32).map(|v| ((v * 151) >> 3) as u8).collect();
        for (skip, step) in [(0, 1), (1, 1), (2, 1), (4, 1), (16, 1), (3, 2), (5, 0)] {
            for mask in [u32::MAX, 0x7fff_ffff, 0xffff_fffe, 0x00f0_0f01] {
                let (i, o) = (p.memory.from(&source), p.memory.buffer(source.len()));
                let arguments = Arguments::new()
                    .buffer(i)
                    .buffer(o)
                    .i32(skip)
                    .i32(step)
                    .i32(mask.cast_signed());
                p.launch("copy", 1, 32, arguments);
                let mut expected = vec![0u8; source.len()];
                for lane in (0..32).filter(|lane| mask >> lane & 1 == 1) {
                    let start = (skip + step * lane) as usize * bytes;
                    expected[start..start + bytes].copy_from_slice(&source[start..start + bytes]);
                }
                assert_eq!(
                    o.read::<u8>(),
                    expected,
                    "{ty} skip {skip} step {step} mask {mask:x}"
                );
            }
        }
    }
}

#[test]
fn row_that_leaves_its_allocation_faults_at_the_first_lane_outside() {
    let p = copier("u32", "b32", 4);
    let (i, o) = (p.memory.from(&[7u32; 40]), p.memory.buffer(160));
    let at = |skip: i32| {
        Arguments::new()
            .buffer(i)
            .buffer(o)
            .i32(skip)
            .i32(1)
            .i32(-1)
    };
    p.launch("copy", 1, 32, at(8));
    let fault = p.run("copy", [1; 3], [32, 1, 1], at(12)).unwrap_err();
    let address = i.address + 160;
    assert_eq!(
        fault.kind,
        FaultKind::IllegalAddress {
            address,
            write: false
        }
    );
    assert_eq!(fault.thread, [28, 0, 0]);
}

#[test]
fn row_at_the_end_of_the_address_space_faults() {
    let p = copier("u64", "b64", 8);
    let o = p.memory.buffer(256);
    let arguments = Arguments::new()
        .u64(u64::MAX - 127)
        .buffer(o)
        .i32(0)
        .i32(1)
        .i32(-1);
    let fault = p.run("copy", [1; 3], [32, 1, 1], arguments).unwrap_err();
    assert!(matches!(fault.kind, FaultKind::IllegalAddress { .. }));
}

#[test]
fn atomics_of_every_lane_reach_shared_and_global_memory_in_order() {
    for space in ["shared", "global"] {
        let p = Program::new(&format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n\
             .visible .entry k(.param .u64 o)\n{{\n\
             .reg .b64 %o, %s; .reg .b32 %t, %v, %old, %place; .shared .align 4 .b8 cells[64];\n\
             ld.param.u64 %o, [o]; mov.u32 %t, %tid.x;\n\
             mov.u32 %v, 0; mov.u32 %place, cells; cvt.u64.u32 %s, %place;\n\
             {move_}\n\
             st.{space}.u32 [%s], %v; st.{space}.u32 [%s+4], %v; st.{space}.u32 [%s+8], %v;\n\
             bar.sync 0;\n\
             atom.{space}.add.u32 %old, [%s], %t;\n\
             atom.{space}.max.u32 %v, [%s+4], %t;\n\
             atom.{space}.cas.b32 %v, [%s+8], %t, 32;\n\
             bar.sync 0;\n\
             mad.wide.u32 %o, %t, 4, %o;\n\
             ld.{space}.u32 %t, [%s+4]; ld.{space}.u32 %v, [%s+8];\n\
             add.u32 %old, %old, %t; add.u32 %old, %old, %v;\n\
             st.global.u32 [%o], %old;\n\
             ret;\n}}\n",
            move_ = if space == "global" {
                "add.u64 %s, %o, 128;"
            } else {
                ""
            },
        ));
        let out = p.memory.buffer(192);
        p.launch("k", 1, 32, Arguments::new().buffer(out));
        // Each lane's sum of those before it; the largest number; lane 0 swaps 0 for 32, and then
        // nobody's number fits.
        let expected: Vec<u32> = (0..32).map(|t| (0..t).sum::<u32>() + 31 + 32).collect();
        assert_eq!(out.read::<u32>()[..32], expected, "{space}");
    }
}

#[test]
fn copies_of_constants_survive_loops_guards_and_second_writes() {
    // %a is copied once and read in a loop; %b is written twice; %c under a guard.
    let p = Program::new(
        ".version 8.0\n.target sm_80\n.address_size 64\n\
         .visible .entry k(.param .u64 o, .param .u32 n)\n{\n\
         .reg .b64 %o; .reg .b32 %t, %n, %a, %b, %c, %i, %sum; .reg .pred %p, %q;\n\
         ld.param.u64 %o, [o]; ld.param.u32 %n, [n];\n\
         mov.u32 %t, %tid.x; mov.u32 %sum, 0; mov.u32 %i, 0; mov.u32 %b, 3;\n\
         setp.lt.u32 %q, %t, 16;\n\
         L: mov.u32 %a, %n; add.u32 %sum, %sum, %a; add.u32 %sum, %sum, %b; mov.u32 %b, 5;\n\
         add.u32 %i, %i, 1; setp.lt.u32 %p, %i, 4; @%p bra L;\n\
         @%q mov.u32 %c, 100; @%q add.u32 %sum, %sum, %c;\n\
         mad.wide.u32 %o, %t, 4, %o; st.global.u32 [%o], %sum; ret;\n}\n",
    );
    let out = p.memory.buffer(128);
    p.launch("k", 1, 32, Arguments::new().buffer(out).i32(7));
    let expected: Vec<u32> = (0..32)
        .map(|t| 4 * 7 + 3 + 3 * 5 + if t < 16 { 100 } else { 0 })
        .collect();
    assert_eq!(out.read::<u32>(), expected);
}
