//! Copies of boxes of tensors, against loops over the tensor.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

mod support;

use half::f16;
use softgpu_core::exec::FaultKind;
use softgpu_core::ptx;
use softgpu_core::tensor_map::{BYTES, Shape, TensorMap};
use support::{Arguments, Buffer, Program, TARGET};

/// Bytes of shared memory that are filled before and read afterwards.
const PAGE: usize = 4096;

const LOAD: &str = "mbarrier.arrive.expect_tx.shared.b64 %x, [bar], %bytes;\n\
    cp.async.bulk.tensor.Nd.shared::cluster.global.tile.mbarrier::complete_tx::bytes [page], [%map, {AT}], [bar];\n\
    $wait: mbarrier.try_wait.parity.shared.b64 %p1, [bar], 0; @!%p1 bra $wait;";
const STORE: &str = "cp.async.bulk.tensor.Nd.global.shared::cta.bulk_group [%map, {AT}], [page];\n\
    cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;";

/// Fills the page, has thread 0 do something, and tells what the page then holds. The map is a parameter.
fn kernel(rank: usize, body: &str) -> String {
    let at: Vec<_> = (0..rank).map(|axis| format!("%c{axis}")).collect();
    let loads: String = (0..rank)
        .map(|axis| format!("ld.param.u32 %c{axis}, [at+{}];\n", 4 * axis))
        .collect();
    let body = body
        .replace("Nd", &format!("{rank}d"))
        .replace("AT", &at.join(", "));
    format!(
        ".version 8.6\n.target sm_90\n.address_size 64\n\
        .shared .align 1024 .b8 page[{PAGE}]; .shared .align 8 .b64 bar;\n\
        .visible .entry k(.param .align 64 .b8 map[128], .param .u64 in, .param .u64 out, .param .u64 global,\n\
        .param .align 4 .b8 at[20], .param .u32 bytes)\n{{\n\
        .reg .b64 %map, %in, %out, %to, %x, %y; .reg .b32 %c<5>, %t, %i, %w, %bytes; .reg .pred %p<4>;\n\
        mov.b64 %x, map; cvta.param.u64 %map, %x; ld.param.u64 %in, [in]; ld.param.u64 %out, [out];\n\
        ld.param.u32 %bytes, [bytes]; mov.u32 %t, %tid.x; setp.eq.u32 %p0, %t, 0;\n{loads}\
        @%p0 mbarrier.init.shared.b64 [bar], 1;\n\
        mov.u32 %i, %t;\n\
        $fill: mad.wide.u32 %x, %i, 4, %in; ld.global.u32 %w, [%x]; mov.u64 %to, page; mad.wide.u32 %to, %i, 4, %to;\n\
        st.shared.u32 [%to], %w; add.u32 %i, %i, %ntid.x; setp.lt.u32 %p2, %i, {words}; @%p2 bra $fill;\n\
        fence.proxy.async; bar.sync 0; @!%p0 bra $done;\n\
        prefetch.tensormap [%map]; fence.proxy.tensormap::generic.acquire.gpu [%map], 128;\n\
        {body}\n\
        fence.proxy.tensormap::generic.release.gpu;\n\
        $done: bar.sync 0; mov.u32 %i, %t;\n\
        $read: mov.u64 %to, page; mad.wide.u32 %to, %i, 4, %to; ld.shared.u32 %w, [%to]; mad.wide.u32 %x, %i, 4, %out;\n\
        st.global.u32 [%x], %w; add.u32 %i, %i, %ntid.x; setp.lt.u32 %p2, %i, {words}; @%p2 bra $read;\n\
        ret;\n}}\n",
        words = PAGE / 4,
    )
}

/// A tensor, a box of it and where that lies.
#[derive(Debug, Clone, Copy)]
struct Case {
    rank: usize,
    /// CUDA's number of the type, and bytes of an element.
    element: (u32, usize),
    extents: [u64; 5],
    strides: [u64; 5],
    boxes: [u32; 5],
    steps: [u32; 5],
    swizzle: u32,
    at: [i32; 5],
}

impl Case {
    /// A tensor with gaps between its rows, and boxes with rows of so many bytes.
    fn new(rank: usize, element: (u32, usize), row: usize) -> Self {
        let inner = 300 / element.1 as u64;
        let extents = [inner, 11, 5, 3, 4];
        let mut strides = [element.1 as u64, 320, 0, 0, 0];
        for axis in 2..5 {
            strides[axis] = strides[axis - 1] * extents[axis - 1] + 48;
        }
        Self {
            rank,
            element,
            extents,
            strides,
            boxes: [(row / element.1) as u32, 3, 2, 2, 2],
            steps: [1; 5],
            swizzle: 0,
            at: [0; 5],
        }
    }

    fn tensor_bytes(&self) -> usize {
        let axes = 1..self.rank;
        let outer: u64 = axes.map(|n| (self.extents[n] - 1) * self.strides[n]).sum();
        outer as usize + self.extents[0] as usize * self.element.1
    }

    fn map(&self, address: u64) -> [u8; BYTES] {
        let rank = self.rank;
        let shape = Shape {
            element: self.element.0,
            address,
            extents: &self.extents[..rank],
            strides: &self.strides[1..rank],
            steps: &self.steps[..rank],
            interleave: 0,
            swizzle: self.swizzle,
            promotion: 0,
            fill: 0,
        };
        let map = TensorMap::tiled(&shape, &self.boxes[..rank]);
        map.unwrap_or_else(|error| panic!("{self:?}: {error:?}"))
            .encode()
    }

    /// For each element of the box: where it lies in shared memory, and where in the tensor if it is there.
    fn elements(&self) -> Vec<(usize, Option<usize>)> {
        let count = |axis: usize| match axis {
            0 => self.boxes[0],
            axis if axis < self.rank => self.boxes[axis].div_ceil(self.steps[axis]),
            _ => 1,
        };
        let row = self.boxes[0] as usize * self.element.1;
        let mut found = Vec::new();
        let mut number = 0;
        for e in 0..count(4) {
            for d in 0..count(3) {
                for c in 0..count(2) {
                    for b in 0..count(1) {
                        for a in 0..count(0) {
                            let mut address = Some(0);
                            for (axis, index) in
                                [a, b, c, d, e].into_iter().enumerate().take(self.rank)
                            {
                                let step = if axis == 0 { 1 } else { self.steps[axis] };
                                let at = i64::from(self.at[axis]) + i64::from(index * step);
                                let inside = at >= 0 && (at as u64) < self.extents[axis];
                                address = address.filter(|_| inside).map(|sum: usize| {
                                    sum + at as usize * self.strides[axis] as usize
                                });
                            }
                            let (line, byte) = (number / row, number % row);
                            let turn = match self.swizzle {
                                1 => line / 4 % 2,
                                2 => line / 2 % 4,
                                3 => line % 8,
                                _ => 0,
                            };
                            let piece = (byte / 16) ^ turn;
                            found.push((line * row + piece * 16 + byte % 16, address));
                            number += self.element.1;
                        }
                    }
                }
            }
        }
        found
    }

    fn arguments(&self, map: &[u8; BYTES], bytes: u32, buffers: [Buffer; 3]) -> Arguments {
        let mut arguments = Arguments(map.to_vec());
        for buffer in buffers {
            arguments = arguments.buffer(buffer);
        }
        for at in self.at {
            arguments = arguments.i32(at);
        }
        arguments.i32(bytes as i32)
    }

    /// The page and the tensor before, and both afterwards.
    fn run(&self, program: &Program) -> Result<[Vec<u8>; 4], FaultKind> {
        let page = noise(PAGE, 1);
        let tensor = noise(self.tensor_bytes(), 2);
        let (input, output) = (program.memory.from(&page), program.memory.buffer(PAGE));
        let memory = program.memory.from(&tensor);
        let bytes = self.elements().len() * self.element.1;
        let map = self.map(memory.address);
        let arguments = self.arguments(&map, bytes as u32, [input, output, memory]);
        program
            .run("k", [1; 3], [64, 1, 1], arguments)
            .map_err(|fault| fault.kind)?;
        Ok([page, tensor, output.read(), memory.read()])
    }

    fn check_load(&self, program: &Program) {
        let [mut page, tensor, page_after, tensor_after] = self.run(program).unwrap();
        for (place, from) in self.elements() {
            let size = self.element.1;
            match from {
                Some(from) => page[place..place + size].copy_from_slice(&tensor[from..from + size]),
                None => page[place..place + size].fill(0),
            }
        }
        assert!(page == page_after && tensor == tensor_after, "{self:?}");
    }

    fn check_store(&self, program: &Program) {
        let [page, mut tensor, page_after, tensor_after] = self.run(program).unwrap();
        for (place, to) in self.elements() {
            let size = self.element.1;
            if let Some(to) = to {
                tensor[to..to + size].copy_from_slice(&page[place..place + size]);
            }
        }
        assert!(page == page_after && tensor == tensor_after, "{self:?}");
    }
}

fn noise(bytes: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 11) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

fn program(rank: usize, body: &str) -> Program {
    let mut program = Program::new(&kernel(rank, body));
    program.instruction_limit = Some(1 << 20);
    program
}

const ELEMENTS: [(u32, usize); 5] = [(0, 1), (9, 2), (7, 4), (3, 4), (8, 8)];

/// Boxes inside, across each edge, and outside.
fn places(rank: usize) -> Vec<[i32; 5]> {
    let mut places = vec![
        [0; 5],
        [5, 3, 1, 1, 1],
        [-3, -1, -1, -1, -1],
        [i32::MIN, 0, 0, 0, 0],
        [0, i32::MAX, 0, 0, 0],
    ];
    for axis in 0..rank {
        let mut place = [1; 5];
        place[axis] = -2;
        places.push(place);
        place[axis] = [35, 9, 4, 2, 3][axis];
        places.push(place);
    }
    places
}

#[test]
fn loads_of_every_rank_and_size_fill_with_zeros_what_is_outside() {
    for rank in 1..=5 {
        let program = program(rank, LOAD);
        for element in ELEMENTS {
            for at in places(rank) {
                Case {
                    at,
                    ..Case::new(rank, element, 32)
                }
                .check_load(&program);
            }
        }
    }
}

#[test]
fn stores_of_every_rank_and_size_drop_what_is_outside() {
    for rank in 1..=5 {
        let program = program(rank, STORE);
        for element in ELEMENTS {
            for at in places(rank) {
                Case {
                    at,
                    ..Case::new(rank, element, 32)
                }
                .check_store(&program);
            }
        }
    }
}

#[test]
fn swizzled_boxes_have_their_pieces_where_the_row_says() {
    for (swizzle, row) in [(1, 32), (2, 64), (3, 128)] {
        for rank in [2, 3] {
            let (load, store) = (program(rank, LOAD), program(rank, STORE));
            for element in ELEMENTS {
                for at in [[0; 5], [2, -1, 1, 0, 0]] {
                    let mut case = Case {
                        swizzle,
                        at,
                        ..Case::new(rank, element, row)
                    };
                    case.boxes[1] = 13;
                    case.check_load(&load);
                    case.check_store(&store);
                }
            }
        }
    }
}

#[test]
fn of_a_box_with_steps_one_element_in_each_is_moved() {
    for rank in 2..=5 {
        let (load, store) = (program(rank, LOAD), program(rank, STORE));
        for steps in [[1, 2, 1, 2, 1], [7, 3, 2, 1, 8]] {
            let case = Case {
                steps,
                at: [1, 2, 0, 1, 1],
                ..Case::new(rank, (6, 2), 48)
            };
            let case = Case {
                boxes: [24, 7, 3, 2, 3],
                ..case
            };
            case.check_load(&load);
            case.check_store(&store);
        }
    }
}

/// Runs a reduction on elements of 4 or 8 bytes and compares each with `one`, given old and new bits.
fn reduce(name: &str, element: (u32, usize), one: impl Fn(u64, u64) -> u64) {
    let body = STORE
        .replace("cp.async.bulk.tensor", "cp.reduce.async.bulk.tensor")
        .replace(".bulk_group [", &format!(".{name}.bulk_group ["));
    let case = Case {
        at: [-1, 2, 0, 0, 0],
        ..Case::new(3, element, 64)
    };
    let [page, mut tensor, _, after] = case.run(&program(3, &body)).unwrap();
    let size = element.1;
    let bits = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0, |bits, byte| bits << 8 | u64::from(*byte))
    };
    for (place, to) in case.elements() {
        let Some(to) = to else { continue };
        let new = one(
            bits(&tensor[to..to + size]),
            bits(&page[place..place + size]),
        );
        tensor[to..to + size].copy_from_slice(&new.to_le_bytes()[..size]);
    }
    assert!(tensor == after, "{name} {element:?}");
}

#[test]
fn reductions_are_done_to_each_element_in_the_tensor() {
    let word = |value: u64| value as u32;
    let signed = |value: u64| i64::from(value as i32);
    reduce("add", (2, 4), |a, b| word(a).wrapping_add(word(b)).into());
    reduce("min", (2, 4), u64::min);
    reduce("max", (2, 4), u64::max);
    reduce("min", (3, 4), |a, b| signed(a).min(signed(b)) as u64);
    reduce("max", (3, 4), |a, b| signed(a).max(signed(b)) as u64);
    reduce("inc", (2, 4), |a, b| if a >= b { 0 } else { a + 1 });
    reduce(
        "dec",
        (2, 4),
        |a, b| if a == 0 || a > b { b } else { a - 1 },
    );
    reduce("and", (3, 4), |a, b| a & b);
    reduce("or", (5, 8), |a, b| a | b);
    reduce("xor", (4, 8), |a, b| a ^ b);
    reduce("add", (4, 8), u64::wrapping_add);
    reduce("min", (5, 8), |a, b| (a as i64).min(b as i64) as u64);
    reduce("max", (4, 8), u64::max);
    reduce("add", (7, 4), |a, b| {
        let sum = f32::from_bits(a as u32) + f32::from_bits(b as u32);
        sum.to_bits().into()
    });
    let half = |bits: u64| f16::from_bits(bits as u16);
    let largest = |a, b| {
        let (a, b) = (half(a), half(b));
        let one = match (a.is_nan(), b.is_nan()) {
            (true, true) => return 0x7fff,
            (true, false) => b,
            (false, true) => a,
            _ if a > b => a,
            _ => b,
        };
        u64::from(one.to_bits())
    };
    reduce("max", (6, 2), largest);
}

#[test]
fn a_reduction_that_a_type_does_not_have_is_an_illegal_instruction() {
    let body = STORE
        .replace("cp.async.bulk.tensor", "cp.reduce.async.bulk.tensor")
        .replace(".bulk_group [", ".and.bulk_group [");
    let program = program(2, &body);
    for element in [(0, 1), (1, 2), (7, 4), (8, 8)] {
        let result = Case::new(2, element, 32).run(&program);
        assert_eq!(
            result.err(),
            Some(FaultKind::IllegalInstruction),
            "{element:?}"
        );
    }
}

#[test]
fn a_map_may_lie_in_global_memory() {
    let case = Case {
        at: [3, 1, 0, 0, 0],
        ..Case::new(2, (7, 4), 32)
    };
    let body = format!("ld.param.u64 %map, [global];\n{LOAD}");
    let program = program(2, &body);
    let (input, output) = (program.memory.buffer(PAGE), program.memory.buffer(PAGE));
    let tensor = noise(case.tensor_bytes(), 3);
    let map = program
        .memory
        .from(&case.map(program.memory.from(&tensor).address));
    let arguments = case.arguments(&[0; BYTES], 96, [input, output, map]);
    program.run("k", [1; 3], [64, 1, 1], arguments).unwrap();
    let after: Vec<u8> = output.read();
    for (place, from) in case.elements() {
        let from = from.unwrap();
        assert_eq!(after[place..place + 4], tensor[from..from + 4]);
    }
}

/// Programs cut pieces out of a tensor of ragged rows by extents that end where the piece does: two dimensions
/// more, whose strides bring the address back around 2 to the power of 64.
#[test]
fn addresses_wrap_around_so_that_an_extent_may_end_where_a_piece_does() {
    const MANY: u64 = 1 << 30;
    let (first, rows, row_bytes) = (5, 3, 32);
    let mut case = Case::new(4, (7, 4), row_bytes);
    case.extents = [8, MANY, 0x7fff_0000, 0x7fff_0000, 1];
    case.strides = [4, 32, 32, (1 << 36) - 32, 0];
    case.boxes = [8, 4, 1, 1, 1];
    case.at = [0, MANY as i32 - rows, first + rows, MANY as i32, 0];
    let tensor: Vec<u8> = noise(row_bytes * 20, 6);
    let piece = first as usize * row_bytes..(first + rows) as usize * row_bytes;

    let load = program(4, LOAD);
    let [input, output] = [0; 2].map(|_| load.memory.buffer(PAGE));
    let memory = load.memory.from(&tensor);
    let arguments = case.arguments(&case.map(memory.address), 128, [input, output, memory]);
    load.run("k", [1; 3], [64, 1, 1], arguments).unwrap();
    let page: Vec<u8> = output.read();
    assert_eq!(page[..96], tensor[piece.clone()]);
    assert_eq!(page[96..128], [0; 32]);

    let store = program(4, STORE);
    let [memory, output] = [&tensor, &page].map(|bytes| store.memory.from(bytes));
    let input = store.memory.from(&noise(PAGE, 7));
    let arguments = case.arguments(&case.map(memory.address), 0, [input, output, memory]);
    store.run("k", [1; 3], [64, 1, 1], arguments).unwrap();
    let mut expected = tensor;
    expected[piece].copy_from_slice(&input.read::<u8>()[..96]);
    assert_eq!(memory.read::<u8>(), expected);
}

#[test]
fn a_box_that_does_not_fit_and_a_tensor_that_is_not_there_are_faults() {
    let load = program(2, LOAD);
    let mut case = Case::new(2, (7, 4), 32);
    case.boxes[1] = 200;
    let large = case.run(&load);
    assert!(matches!(
        large,
        Err(FaultKind::IllegalAddress { write: true, .. })
    ));
    // What the map says of the tensor is no better than any other address.
    let (input, output) = (load.memory.buffer(PAGE), load.memory.buffer(PAGE));
    let case = Case::new(2, (7, 4), 32);
    for (address, at) in [(64, [0; 5]), (output.address, [0, 1 << 20, 0, 0, 0])] {
        let mut case = Case { at, ..case };
        case.extents[1] = 1 << 32;
        let arguments = case.arguments(&case.map(address), 96, [input, output, output]);
        let fault = load.run("k", [1; 3], [64, 1, 1], arguments).unwrap_err();
        assert!(matches!(
            fault.kind,
            FaultKind::IllegalAddress { write: false, .. }
        ));
    }
    let misplaced = program(2, &LOAD.replace("[page]", "[page+64]"));
    let result = Case::new(2, (7, 4), 32).run(&misplaced);
    assert!(matches!(result, Err(FaultKind::MisalignedAddress { .. })));
    let another_rank = program(3, LOAD);
    let page = another_rank.memory.buffer(PAGE);
    let map = case.map(page.address);
    let arguments = case.arguments(&map, 96, [page, page, page]);
    let fault = another_rank
        .run("k", [1; 3], [64, 1, 1], arguments)
        .unwrap_err();
    assert_eq!(fault.kind, FaultKind::IllegalInstruction);
}

#[test]
fn maps_of_any_bytes_end_in_a_copy_or_a_fault() {
    let (load, store) = (program(3, LOAD), program(3, STORE));
    let case = Case::new(3, (7, 4), 32);
    for program in [&load, &store] {
        let tensor = program.memory.from(&noise(case.tensor_bytes(), 4));
        let (input, output) = (program.memory.buffer(PAGE), program.memory.buffer(PAGE));
        let good = case.map(tensor.address);
        let mut faults = 0;
        for at in 0..BYTES {
            for value in [0, 1, 0x10, 0x7f, 0x80, 0xff] {
                let mut map = good;
                map[at] ^= value;
                let arguments = case.arguments(&map, 0, [input, output, tensor]);
                match program
                    .run("k", [1; 3], [64, 1, 1], arguments)
                    .map_err(|fault| fault.kind)
                {
                    // A load whose bytes were not expected ends no phase.
                    Ok(_) | Err(FaultKind::RunAway) => {}
                    Err(
                        FaultKind::IllegalInstruction
                        | FaultKind::IllegalAddress { .. }
                        | FaultKind::MisalignedAddress { .. },
                    ) => faults += 1,
                    Err(other) => panic!("byte {at} ^ {value}: {other:?}"),
                }
            }
        }
        assert!(faults > 400, "{faults}");
        for bytes in [
            [0; BYTES],
            [0xff; BYTES],
            noise(BYTES, 5).try_into().unwrap(),
        ] {
            let arguments = case.arguments(&bytes, 0, [input, output, tensor]);
            let fault = program.run("k", [1; 3], [64, 1, 1], arguments).unwrap_err();
            assert_eq!(fault.kind, FaultKind::IllegalInstruction);
        }
    }
}

#[test]
fn forms_without_an_effect_of_their_own_compile_and_the_rest_is_refused_by_name() {
    let compile = |body: &str| ptx::compile(&kernel(2, body), &TARGET).map_err(|e| e.to_string());
    for body in [
        "cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%map, {AT}];",
        "cp.async.bulk.prefetch.tensor.2d.L2.global.L2::cache_hint [%map, {AT}], %x;",
        "cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes.L2::cache_hint [%t], [%map, {AT}], [%x], %y;",
        "cp.reduce.async.bulk.tensor.2d.global.shared::cta.max.tile.bulk_group.L2::cache_hint [%map, {AT}], [%x], %y;",
        "prefetch.param.tensormap [map];",
    ] {
        compile(body).unwrap_or_else(|error| panic!("{body}: {error}"));
    }
    for (body, reason) in [
        (
            "cp.async.bulk.tensor.3d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%t], [%map, {%t, %t, %t}], [%x], {%t};",
            "only copies in tile mode",
        ),
        (
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%t], [%map, {AT}], [%x], %t;",
            "this form of cp.async.bulk.tensor",
        ),
        (
            "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%map, {%t}], [%x];",
            "2 coordinates",
        ),
        (
            "cp.async.bulk.tensor.2d.global.shared::cta.add.bulk_group [%map, {AT}], [%x];",
            "this form of cp.async.bulk.tensor",
        ),
        (
            "fence.proxy.tensormap::generic.acquire.gpu [%map], 64;",
            "128",
        ),
    ] {
        let error = compile(body).expect_err(body);
        assert!(error.contains(reason), "{error} does not say {reason}");
    }
}
