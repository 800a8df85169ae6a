//! `wmma`: whatever a fragment looks like, what is stored is the product of what was loaded.

use crate::mma::run_mma;
use crate::model::{Kind, Kind::*, Matrix, Random, list, pack};
use crate::support::{Arguments, Program};

/// A `wmma` program: loads from memory with these layouts, doubles every element of the addend's
/// fragment, multiplies and stores.
fn check_wmma(shape: [usize; 3], kinds: [Kind; 4], rows: [bool; 3], space: &str) {
    let [m, n, k] = shape;
    let [d, a, b, c] = kinds;
    let layout = |rows| if rows { "row" } else { "col" };
    let name = format!("m{m}n{n}k{k}");
    let types = match a {
        F16 => format!("{}.{}", d.name(), c.name()),
        _ => format!("{}.{}.{}.{}", d.name(), a.name(), b.name(), c.name()),
    };
    let operation = if a == B1 { ".and.popc" } else { "" };
    let registers = |kind: Kind, elements: usize, accumulator: bool| match kind {
        F16 if !accumulator => 8,
        F64 => elements / 32,
        _ => elements * kind.bits() / 1024,
    };
    let counts = [
        registers(d, m * n, true),
        registers(a, m * k, false),
        registers(b, k * n, false),
        registers(c, m * n, true),
    ];
    // Rows (or columns) are longer in memory than the matrix.
    let stride = |kind: Kind, rows: bool, size: (usize, usize)| {
        (if rows { size.1 } else { size.0 }) + 128 / kind.bits().min(16)
    };
    let sizes = [(m, n), (m, k), (k, n), (m, n)];
    let all_rows = [rows[2], rows[0], rows[1], rows[2]];
    let mut random = Random((m + 3 * n + 5 * k) as u64);
    let matrices: Vec<Matrix> = (0..4)
        .map(|i| Matrix::random(kinds[i], sizes[i].0, sizes[i].1, &mut random))
        .collect();
    let images: Vec<Vec<u8>> = (0..4)
        .map(|i| {
            let (kind, stride) = (kinds[i], stride(kinds[i], all_rows[i], sizes[i]));
            let lines = if all_rows[i] { sizes[i].0 } else { sizes[i].1 };
            let mut image = vec![0u8; (lines * stride * kind.bits()).div_ceil(8)];
            for row in 0..sizes[i].0 {
                for column in 0..sizes[i].1 {
                    let (line, along) = if all_rows[i] {
                        (row, column)
                    } else {
                        (column, row)
                    };
                    let bits = kind.encode(matrices[i].at((row, column))).to_le_bytes();
                    let start = (line * stride + along) * kind.bits();
                    if kind.bits() < 8 {
                        image[start / 8] |= bits[0] << (start % 8);
                    } else {
                        image[start / 8..][..kind.bits() / 8]
                            .copy_from_slice(&bits[..kind.bits() / 8]);
                    }
                }
            }
            image
        })
        .collect();
    let mut text = String::from(
        ".version 8.0\n.target sm_80\n.address_size 64\n.shared .align 32 .b8 room[16384];\n\
        .visible .entry k(.param .u64 d, .param .u64 a, .param .u64 b, .param .u64 c)\n{\n\
        .reg .b64 %p<4>; .reg .b32 %i, %j, %w; .reg .pred %q;\n",
    );
    let mut offset = 0;
    for (place, operand) in ["d", "a", "b", "c"].into_iter().enumerate() {
        let (kind, count) = (kinds[place], counts[place]);
        text += &format!(".reg .{} %{operand}<{count}>;\n", kind.register());
        if operand == "d" {
            continue;
        }
        let stride = stride(kind, all_rows[place], sizes[place]);
        let bytes = images[place].len().next_multiple_of(32);
        text += &format!("ld.param.u64 %p0, [{operand}];\n");
        let mut from = ".global";
        if space != ".global" {
            // Copied by the warp, word by word.
            text += &format!(
                "mov.u32 %i, %tid.x; shl.b32 %i, %i, 2; mov.u64 %p1, room; add.u64 %p1, %p1, {offset};\n\
                $copy{operand}: cvt.u64.u32 %p2, %i; add.u64 %p3, %p0, %p2; ld.global.u32 %w, [%p3];\n\
                add.u64 %p3, %p1, %p2; st.shared.u32 [%p3], %w; add.u32 %i, %i, 128;\n\
                setp.lt.u32 %q, %i, {}; @%q bra $copy{operand};\nbar.warp.sync -1;\nmov.u64 %p0, %p1;\n",
                images[place].len()
            );
            from = ".shared";
            if space.is_empty() {
                text += "cvta.shared.u64 %p0, %p0;\n";
                from = "";
            }
        }
        offset += bytes;
        text += &format!(
            "mov.u32 %j, {stride};\nwmma.load.{operand}.sync.aligned.{}.{name}{from}.{} {}, [%p0], %j;\n",
            layout(all_rows[place]),
            kind.name(),
            list(operand, count)
        );
    }
    for i in 0..counts[3] {
        let add = match c {
            F16 => "add.f16x2".to_owned(),
            kind => format!("add.{}", kind.name()),
        };
        text += &format!("{add} %c{i}, %c{i}, %c{i};\n");
    }
    text += &format!(
        "wmma.mma{operation}.sync.aligned.{}.{}.{name}.{types} {}, {}, {}, {};\nld.param.u64 %p0, [d];\n",
        layout(rows[0]),
        layout(rows[1]),
        list("d", counts[0]),
        list("a", counts[1]),
        list("b", counts[2]),
        list("c", counts[3])
    );
    let d_stride = stride(d, all_rows[0], sizes[0]);
    text += &format!(
        "wmma.store.d.sync.aligned.{}.{name}.global.{} [%p0], {}, {d_stride};\nret;\n}}\n",
        layout(rows[2]),
        d.name(),
        list("d", counts[0])
    );
    let p = Program::new(&text);
    let out = p.memory.buffer(images[0].len());
    let mut arguments = Arguments::new().buffer(out);
    for image in &images[1..] {
        // Readable up to a whole word of every lane.
        let mut image = image.clone();
        image.resize(image.len() + 128, 0);
        arguments = arguments.buffer(p.memory.from(&image));
    }
    p.launch("k", 1, 32, arguments);
    let mut addend = matrices[3].clone();
    addend.values.iter_mut().for_each(|value| *value *= 2.0);
    let expected = matrices[1].product(&matrices[2], &addend, |x, y| x * y);
    let bytes: Vec<u8> = out.read();
    for row in 0..m {
        for column in 0..n {
            let (line, along) = if rows[2] {
                (row, column)
            } else {
                (column, row)
            };
            let start = (line * d_stride + along) * d.bits() / 8;
            let mut value = [0; 8];
            value[..d.bits() / 8].copy_from_slice(&bytes[start..][..d.bits() / 8]);
            assert_eq!(
                d.decode(u64::from_le_bytes(value)),
                d.rounded(expected.at((row, column))),
                "{name} {kinds:?} {rows:?} {space}: row {row} column {column}"
            );
        }
    }
}

#[test]
fn wmma_of_every_shape_type_and_layout_is_the_product() {
    let wide = [[16, 16, 16], [32, 8, 16], [8, 32, 16]];
    let mut cases: Vec<([usize; 3], [Kind; 4])> = Vec::new();
    for shape in wide {
        for (c, d) in [(F16, F16), (F16, F32), (F32, F16), (F32, F32)] {
            cases.push((shape, [d, F16, F16, c]));
        }
        cases.push((shape, [F32, Bf16, Bf16, F32]));
        cases.push((shape, [S32, S8, S8, S32]));
        cases.push((shape, [S32, U8, U8, S32]));
    }
    cases.push(([16, 16, 8], [F32, Tf32, Tf32, F32]));
    cases.push(([8, 8, 4], [F64, F64, F64, F64]));
    for (place, (shape, kinds)) in cases.into_iter().enumerate() {
        for layouts in 0..8 {
            let rows = [layouts & 1 != 0, layouts & 2 != 0, layouts & 4 != 0];
            let space = [".global", ".shared", ""][(place + layouts) % 3];
            check_wmma(shape, kinds, rows, space);
        }
    }
    for rows in [true, false] {
        check_wmma(
            [8, 8, 32],
            [S32, S4, S4, S32],
            [true, false, rows],
            ".global",
        );
        check_wmma(
            [8, 8, 32],
            [S32, U4, U4, S32],
            [true, false, rows],
            ".shared",
        );
        check_wmma([8, 8, 128], [S32, B1, B1, S32], [true, false, rows], "");
    }
}

#[test]
fn wmma_of_f64_rounds_as_asked() {
    for (round, expected) in [
        ("", 1.0),
        (".rz", 1.0),
        (".rp", 1.0 + f64::EPSILON),
        (".rm", 1.0),
    ] {
        let registers = run_mma(
            &format!("wmma.mma.sync.aligned.row.col.m8n8k4{round}.f64.f64.f64.f64"),
            [F64; 4],
            [
                &pack(
                    F64,
                    1,
                    |lane, _| if lane % 4 == 0 { 2f64.powi(-40) } else { 0.0 },
                ),
                &pack(F64, 1, |_, _| 2f64.powi(-40)),
                &pack(F64, 2, |_, _| 1.0),
            ],
            2,
        );
        assert!(
            registers.iter().all(|&d| f64::from_bits(d) == expected),
            "{round}"
        );
    }
}
