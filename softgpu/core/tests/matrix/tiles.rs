//! `ldmatrix`, `stmatrix` and `movmatrix`.

use softgpu_core::exec::FaultKind;

use crate::support::{Arguments, Program};

/// Runs `body` on `room`, 2048 bytes of shared memory that hold 0, 1, 2, ... as 16-bit numbers; each
/// lane stores `%r0` to `%r3`, and the room is copied out behind.
fn run_room(body: &str) -> Result<(Vec<u32>, Vec<u16>), FaultKind> {
    let text = format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n.shared .align 128 .b8 room[2048];\n\
        .visible .entry k(.param .u64 out)\n{{\n.reg .b64 %p, %s, %x; .reg .b32 %r<4>, %i, %v, %lane; .reg .pred %q;\n\
        mov.u32 %lane, %tid.x; mov.u64 %s, room; mov.u32 %i, %lane;\n\
        $fill: cvt.u64.u32 %x, %i; shl.b64 %x, %x, 1; add.u64 %x, %x, %s; cvt.u16.u32 %h, %i; st.shared.u16 [%x], %h;\n\
        add.u32 %i, %i, 32; setp.lt.u32 %q, %i, 1024; @%q bra $fill; bar.sync 0;\n\
        mov.u32 %r0, 0; mov.u32 %r1, 0; mov.u32 %r2, 0; mov.u32 %r3, 0;\n{body}\nbar.sync 0;\n\
        ld.param.u64 %p, [out]; mad.wide.u32 %p, %lane, 16, %p; st.global.v4.u32 [%p], {{%r0, %r1, %r2, %r3}};\n\
        ld.param.u64 %p, [out]; mov.u32 %i, %lane;\n\
        $copy: cvt.u64.u32 %x, %i; shl.b64 %x, %x, 1; add.u64 %x, %x, %s; ld.shared.u16 %h, [%x];\n\
        mad.wide.u32 %x, %i, 2, %p; st.global.u16 [%x+512], %h; add.u32 %i, %i, 32; setp.lt.u32 %q, %i, 1024; @%q bra $copy;\n\
        ret;\n}}\n"
    )
    .replace(".reg .pred %q;", ".reg .pred %q; .reg .b16 %h;");
    let p = Program::new(&text);
    let out = p.memory.buffer(512 + 2048);
    p.run("k", [1; 3], [32, 1, 1], Arguments::new().buffer(out))
        .map_err(|fault| fault.kind)?;
    let room = out.read::<u16>()[256..].to_vec();
    Ok((out.read::<u32>()[..128].to_vec(), room))
}

/// Puts into `%x` the address that a lane contributes: matrices lie one behind the other, rows 32
/// bytes apart.
const ROW_ADDRESS: &str = "mul.lo.u32 %v, %lane, 32; cvt.u64.u32 %x, %v; add.u64 %x, %x, %s;";

/// What the room holds in a row and column of a matrix then.
fn room_element(matrix: usize, row: usize, column: usize) -> u32 {
    ((matrix * 8 + row) * 16 + column) as u32
}

#[test]
fn ldmatrix_gives_each_lane_two_neighbours_of_each_matrix() {
    for (count, registers) in [(1, "{%r0}"), (2, "{%r0, %r1}"), (4, "{%r0, %r1, %r2, %r3}")] {
        for transposed in [false, true] {
            for space in [".shared", ""] {
                let generic = if space.is_empty() {
                    "cvta.shared.u64 %x, %x;"
                } else {
                    ""
                };
                let trans = if transposed { ".trans" } else { "" };
                let (out, _) = run_room(&format!(
                    "{ROW_ADDRESS}{generic}\nldmatrix.sync.aligned.m8n8.x{count}{trans}{space}.b16 {registers}, [%x];"
                ))
                .unwrap();
                for lane in 0..32 {
                    for matrix in 0..count {
                        let (row, column) = (lane / 4, 2 * (lane % 4));
                        let pair = if transposed {
                            [
                                room_element(matrix, column, row),
                                room_element(matrix, column + 1, row),
                            ]
                        } else {
                            [
                                room_element(matrix, row, column),
                                room_element(matrix, row, column + 1),
                            ]
                        };
                        assert_eq!(out[lane * 4 + matrix], pair[0] | pair[1] << 16);
                    }
                }
            }
        }
    }
}

#[test]
fn stmatrix_undoes_ldmatrix() {
    for trans in ["", ".trans"] {
        let (_, room) = run_room(&format!(
            "{ROW_ADDRESS}\nldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r0, %r1, %r2, %r3}}, [%x];\n\
            bar.sync 0;\nstmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%x+16], {{%r0, %r1, %r2, %r3}};"
        ))
        .unwrap();
        for row in 0..32 {
            for column in 0..8 {
                assert_eq!(room[row * 16 + 8 + column], room[row * 16 + column]);
            }
        }
    }
}

#[test]
fn movmatrix_transposes() {
    let (out, _) = run_room(
        "shl.b32 %r1, %lane, 1; add.u32 %v, %r1, 1; shl.b32 %v, %v, 16; or.b32 %r1, %r1, %v;\n\
        movmatrix.sync.aligned.m8n8.trans.b16 %r0, %r1;",
    )
    .unwrap();
    for lane in 0..32u32 {
        // Element (row, column) was 8 * row + column.
        let (row, column) = (lane / 4, 2 * (lane % 4));
        let expected = (8 * column + row) | ((8 * (column + 1) + row) << 16);
        assert_eq!(out[lane as usize * 4], expected);
    }
}

#[test]
fn a_row_that_is_not_aligned_faults() {
    let result = run_room(&format!(
        "{ROW_ADDRESS}\nldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r0}}, [%x+8];"
    ));
    assert!(matches!(result, Err(FaultKind::MisalignedAddress { .. })));
    // Only the lanes that contribute a row are asked.
    let body = format!(
        "{ROW_ADDRESS}\nsetp.ge.u32 %q, %lane, 8; @%q add.u64 %x, %x, 3;\n\
        ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r0}}, [%x];"
    );
    assert!(run_room(&body).is_ok());
}
