//! Matrix instructions: `mma`, `wmma`, `ldmatrix`, `stmatrix`, `movmatrix`.
#![forbid(unsafe_code)]

use super::super::ast::{Instruction, Operand};
use super::super::ir::*;
use super::super::types::Ty;
use super::Result;
use super::builder::Builder;
use super::modifiers::Modifiers;

/// Every combination of sizes and elements that multiplies; `wmma` where the last field says so.
/// Elements are A's; those of B and of the accumulators follow from [`pairs`] and [`accumulators`].
const MULTIPLICATIONS: &[(&str, [u16; 3], &[Element], bool)] = &[
    (".m16n8k8", [16, 8, 8], HALF, false),
    (".m16n8k16", [16, 8, 16], HALF, false),
    (
        ".m16n8k4",
        [16, 8, 4],
        &[Element::Tf32, Element::F64],
        false,
    ),
    (
        ".m16n8k8",
        [16, 8, 8],
        &[Element::Tf32, Element::F64],
        false,
    ),
    (".m16n8k16", [16, 8, 16], &[Element::F64], false),
    (".m8n8k4", [8, 8, 4], &[Element::F64], false),
    (".m8n8k16", [8, 8, 16], BYTES, false),
    (".m16n8k16", [16, 8, 16], BYTES, false),
    (".m16n8k32", [16, 8, 32], BYTES, false),
    (".m16n8k16", [16, 8, 16], FP8, false),
    (".m16n8k32", [16, 8, 32], FP8, false),
    (".m8n8k32", [8, 8, 32], NIBBLES, false),
    (".m16n8k32", [16, 8, 32], NIBBLES, false),
    (".m16n8k64", [16, 8, 64], NIBBLES, false),
    (".m8n8k128", [8, 8, 128], &[Element::B1], false),
    (".m16n8k128", [16, 8, 128], &[Element::B1], false),
    (".m16n8k256", [16, 8, 256], &[Element::B1], false),
    (".m16n16k16", [16, 16, 16], HALF, true),
    (".m32n8k16", [32, 8, 16], HALF, true),
    (".m8n32k16", [8, 32, 16], HALF, true),
    (".m16n16k16", [16, 16, 16], BYTES, true),
    (".m32n8k16", [32, 8, 16], BYTES, true),
    (".m8n32k16", [8, 32, 16], BYTES, true),
    (".m16n16k8", [16, 16, 8], &[Element::Tf32], true),
    (".m8n8k4", [8, 8, 4], &[Element::F64], true),
    (".m8n8k32", [8, 8, 32], NIBBLES, true),
    (".m8n8k128", [8, 8, 128], &[Element::B1], true),
];

const HALF: &[Element] = &[Element::F16, Element::Bf16];
const BYTES: &[Element] = &[Element::S8, Element::U8];
const NIBBLES: &[Element] = &[Element::S4, Element::U4];
const FP8: &[Element] = &[Element::E4m3, Element::E5m2];

/// Registers of `wmma` fragments of f16, whatever their size.
const WMMA_F16_REGISTERS: u8 = 8;

/// The element type that a modifier names.
fn element(modifier: &str) -> Option<Element> {
    Some(match modifier {
        ".f16" => Element::F16,
        ".bf16" => Element::Bf16,
        ".tf32" => Element::Tf32,
        ".e4m3" => Element::E4m3,
        ".e5m2" => Element::E5m2,
        ".f32" => Element::F32,
        ".f64" => Element::F64,
        ".s8" => Element::S8,
        ".u8" => Element::U8,
        ".s4" => Element::S4,
        ".u4" => Element::U4,
        ".b1" => Element::B1,
        ".s32" => Element::S32,
        _ => return None,
    })
}

/// Whether elements `a` may be multiplied by elements `b`.
fn pairs(a: Element, b: Element) -> bool {
    let both = |class: &[Element]| class.contains(&a) && class.contains(&b);
    a == b || both(BYTES) || both(NIBBLES) || both(FP8)
}

/// What products of `a` may be accumulated in.
fn accumulators(a: Element) -> &'static [Element] {
    match a {
        Element::F16 | Element::E4m3 | Element::E5m2 => &[Element::F16, Element::F32],
        Element::Bf16 | Element::Tf32 => &[Element::F32],
        Element::F64 => &[Element::F64],
        _ => &[Element::S32],
    }
}

/// The sizes that `name` stands for, if elements `a` come in them.
fn sizes(name: &str, a: Element, wmma: bool) -> Option<MatrixShape> {
    let found = MULTIPLICATIONS
        .iter()
        .find(|(known, _, elements, w)| *known == name && *w == wmma && elements.contains(&a));
    let [m, n, k] = found?.1;
    // Rows and columns are at most 32.
    let small = |size| u8::try_from(size).ok();
    Some(MatrixShape {
        m: small(m)?,
        n: small(n)?,
        k,
    })
}

/// The shape among the modifiers.
fn shape_of(modifiers: &mut Modifiers<'_>) -> Option<String> {
    let shape = |m: &str| m.starts_with(".m") && m.contains('k');
    modifiers.take(shape).map(str::to_owned)
}

/// Whether the next layout is rows, else columns.
fn rows_of(modifiers: &mut Modifiers<'_>) -> Option<bool> {
    modifiers.choose(&[(".row", true), (".col", false)])
}

impl<'a> Builder<'_, 'a> {
    pub(super) fn matrix(&mut self, i: &Instruction<'a>) -> Result<bool> {
        match i.opcode {
            "mma" => self.multiplication(i, false)?,
            "wmma" => match i.modifiers.first().copied() {
                Some(".load") => self.fragment(i, false)?,
                Some(".store") => self.fragment(i, true)?,
                Some(".mma") => self.multiplication(i, true)?,
                _ => return Err(self.error("only load, store and mma are known")),
            },
            "ldmatrix" => self.matrices(i, false)?,
            "stmatrix" => self.matrices(i, true)?,
            "movmatrix" => {
                let wanted = [".sync", ".aligned", ".m8n8", ".trans", ".b16"];
                if i.modifiers != wanted {
                    let wanted = wanted.concat();
                    return Err(self.error(format!("only the form {wanted} is supported")));
                }
                self.arity(i, 2)?;
                let a = self.w(&i.operands[1], Ty::B32)?;
                let d = self.dest_w(&i.operands[0])?;
                self.emit(Op::MovMatrix { a, d })?;
            }
            "wgmma" | "tcgen05" => {
                return Err(self.error(format!("{} instructions are not supported", i.opcode)));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What all matrix instructions say of themselves; `.aligned` was optional once.
    fn together(&self, i: &Instruction<'a>) -> Result<Modifiers<'a>> {
        let mut modifiers = Modifiers::of(i);
        if !modifiers.flag(".sync") {
            return Err(self.error("only the .sync form is supported"));
        }
        modifiers.flag(".aligned");
        Ok(modifiers)
    }

    /// `mma.sync.aligned.SHAPE.ALAYOUT.BLAYOUT.D.A.B.C` and
    /// `wmma.mma.sync.aligned.ALAYOUT.BLAYOUT.SHAPE.D.A.B.C`, or `.D.C` where A and B are f16.
    fn multiplication(&mut self, i: &Instruction<'a>, wmma: bool) -> Result<()> {
        let mut modifiers = self.together(i)?;
        if wmma {
            modifiers.flag(".mma");
        }
        if modifiers.flag(".sp") || modifiers.take(|m| m.starts_with(".sp::")).is_some() {
            return Err(self.error("sparse matrices are not supported"));
        }
        let bits = modifiers.choose(&[(".xor", MmaOp::Xor), (".and", MmaOp::And)]);
        if bits.is_some() != modifiers.flag(".popc") {
            return Err(self.error("bits are combined by .xor.popc or .and.popc"));
        }
        let name = shape_of(&mut modifiers);
        let name = name.ok_or_else(|| self.error("a shape is missing"))?;
        let (Some(a_rows), Some(b_rows)) = (rows_of(&mut modifiers), rows_of(&mut modifiers))
        else {
            return Err(self.error("the layouts of A and B are missing"));
        };
        let saturate = modifiers.flag(".satfinite");
        let round = modifiers.choose(&[
            (".rn", Round::Nearest),
            (".rz", Round::Zero),
            (".rm", Round::Down),
            (".rp", Round::Up),
        ]);
        let [d, a, b, c] = match modifiers.rest() {
            [d, c] if wmma => self.elements_of([d, ".f16", ".f16", c])?,
            [d, a, b, c] => self.elements_of([d, a, b, c])?,
            rest => {
                let unknown = rest.iter().find(|name| element(name).is_none());
                return Err(self.error(unknown.map_or_else(
                    || "the types of D, A, B and C are needed".to_owned(),
                    |name| format!("modifier {name} is not supported"),
                )));
            }
        };
        let quads = !wmma && name == ".m8n8k4" && a == Element::F16;
        let (shape, f) = if quads {
            let shape = MatrixShape { m: 8, n: 8, k: 4 };
            (Some(shape), MmaOp::Quads { a_rows, b_rows })
        } else {
            (sizes(&name, a, wmma), bits.unwrap_or(MmaOp::Product))
        };
        let shape = shape.ok_or_else(|| self.error("no such shape for these types"))?;
        // Fragments of `wmma` say nothing of layouts: loads and stores have seen to them.
        let any_layout = quads || wmma && a.bits() >= 8;
        if !any_layout && (a_rows, b_rows) != (true, false) {
            return Err(self.error("layouts must be .row.col"));
        }
        let known = accumulators(a);
        if !pairs(a, b) || wmma && a != b || !known.contains(&c) || !known.contains(&d) {
            return Err(self.error("these types do not go together"));
        }
        let mixed = wmma || quads && d == Element::F32;
        if c != d && !mixed {
            return Err(self.error("C and D must be of one type"));
        }
        if (a == Element::B1) != bits.is_some() {
            return Err(self.error("bits need .xor.popc or .and.popc, and nothing else has them"));
        }
        if saturate && (d != Element::S32 || a == Element::B1) {
            return Err(self.error("only integers take .satfinite"));
        }
        if round.is_some() && a != Element::F64 {
            return Err(self.error("only f64 takes a rounding"));
        }
        let f = Mma {
            f,
            shape,
            a,
            b,
            c,
            d,
            saturate,
            round: round.unwrap_or(Round::Nearest),
        };
        let mut counts = counts(f);
        if quads {
            let of = |e| if e == Element::F32 { 8 } else { 4 };
            counts = [of(d), 2, 2, of(c)];
        } else if wmma && a == Element::F16 {
            counts[1] = WMMA_F16_REGISTERS;
            counts[2] = WMMA_F16_REGISTERS;
        }
        self.multiply(i, f, counts)
    }

    fn elements_of(&self, names: [&str; 4]) -> Result<[Element; 4]> {
        let mut elements = [Element::B1; 4];
        for (slot, name) in elements.iter_mut().zip(names) {
            let found = element(name);
            *slot = found.ok_or_else(|| self.error(format!("modifier {name} is not supported")))?;
        }
        Ok(elements)
    }

    /// Stages the operands, multiplies and reads the result back.
    fn multiply(&mut self, i: &Instruction<'a>, f: Mma, [d, a, b, c]: [u8; 4]) -> Result<()> {
        self.arity(i, 4)?;
        self.stage(&i.operands[1], f.a, a, STAGE_A)?;
        self.stage(&i.operands[2], f.b, b, STAGE_B)?;
        self.stage(&i.operands[3], f.c, c, STAGE_C)?;
        self.emit(Op::Mma { f })?;
        self.unstage(&i.operands[0], f.d, d, STAGE_C)
    }

    fn fragment_registers<'i>(
        &self,
        operand: &'i Operand<'a>,
        count: u8,
    ) -> Result<&'i [Operand<'a>]> {
        match operand {
            Operand::Vector(list) if list.len() == usize::from(count) => Ok(list),
            Operand::Vector(list) => Err(self.error(format!(
                "a fragment of {count} registers is needed, not of {}",
                list.len()
            ))),
            _ => Err(self.error("a fragment is needed")),
        }
    }

    fn stage(&mut self, operand: &Operand<'a>, element: Element, count: u8, at: u8) -> Result<()> {
        let list = self.fragment_registers(operand, count)?;
        let ty = register_type(element);
        if ty.bits() == 64 {
            let mut a = [None; 8];
            for (slot, operand) in a.iter_mut().zip(list) {
                *slot = Some(self.d(operand, ty)?);
            }
            return self.emit(Op::StageD { at, a });
        }
        let mut a = [None; 8];
        for (slot, operand) in a.iter_mut().zip(list) {
            *slot = Some(self.w(operand, ty)?);
        }
        self.emit(Op::StageW { at, a })
    }

    fn unstage(
        &mut self,
        operand: &Operand<'a>,
        element: Element,
        count: u8,
        at: u8,
    ) -> Result<()> {
        let list = self.fragment_registers(operand, count)?;
        if element == Element::F64 {
            let mut d = [None; 8];
            for (slot, operand) in d.iter_mut().zip(list) {
                *slot = Some(self.dest_d(operand)?);
            }
            return self.emit(Op::UnstageD { at, d });
        }
        let mut d = [None; 8];
        for (slot, operand) in d.iter_mut().zip(list) {
            *slot = Some(self.dest_w(operand)?);
        }
        self.emit(Op::UnstageW { at, d })
    }

    /// `wmma.load.ROLE.sync.aligned.LAYOUT.SHAPE[.SPACE].TYPE r, [p], stride`, and `wmma.store`.
    fn fragment(&mut self, i: &Instruction<'a>, store: bool) -> Result<()> {
        let mut modifiers = self.together(i)?;
        let roles: &[(&str, Role)] = if store {
            &[(".d", Role::Accumulator)]
        } else {
            &[(".a", Role::A), (".b", Role::B), (".c", Role::Accumulator)]
        };
        modifiers.flag(if store { ".store" } else { ".load" });
        let role = modifiers.choose(roles);
        let (shape, rows) = (shape_of(&mut modifiers), rows_of(&mut modifiers));
        let (Some(role), Some(shape), Some(rows)) = (role, shape, rows) else {
            return Err(self.error("operand, shape or layout is missing"));
        };
        let space = modifiers.choose(&[
            (".global", Space::Global),
            (".shared", Space::Shared),
            (".shared::cta", Space::Shared),
        ]);
        let space = space.unwrap_or(Space::Generic);
        let element = match modifiers.rest() {
            [name] => element(name),
            _ => None,
        };
        let element = element.ok_or_else(|| self.error("one known type is needed"))?;
        // An accumulator's shape must be one in which something is accumulated in its type.
        let found = MULTIPLICATIONS
            .iter()
            .filter(|(name, .., wmma)| *name == shape && *wmma)
            .flat_map(|(_, _, elements, _)| elements.iter().copied())
            .find(|&a| match role {
                Role::Accumulator => accumulators(a).contains(&element),
                _ => a == element,
            });
        let sizes = found.and_then(|a| sizes(&shape, a, true));
        let shape = sizes.ok_or_else(|| self.error("no such shape for this type"))?;
        if element.bits() < 8 && rows != (role == Role::A) {
            return Err(self.error("A must be .row and B .col for this type"));
        }
        let fragment = Fragment {
            shape,
            role,
            element,
        };
        let count = if element == Element::F16 && role != Role::Accumulator {
            WMMA_F16_REGISTERS
        } else {
            registers(fragment)
        };
        let (address, list) = if store { (0, 1) } else { (1, 0) };
        if i.operands.len() != 2 {
            self.arity(i, 3)?;
        }
        let stride = match i.operands.get(2) {
            Some(stride) => self.w(stride, Ty::U32)?,
            None => {
                let (height, width) = fragment.size();
                self.constant_w(if rows { width } else { height })?
            }
        };
        let (base, offset, space) = self.address(&i.operands[address], space)?;
        let f = FragmentMove {
            fragment,
            rows,
            count,
        };
        if store {
            self.stage(&i.operands[list], element, count, STAGE_C)?;
            return self.emit(Op::StFragment {
                f,
                space,
                base,
                offset,
                stride,
            });
        }
        self.emit(Op::LdFragment {
            f,
            space,
            base,
            offset,
            stride,
        })?;
        self.unstage(&i.operands[list], element, count, STAGE_C)
    }

    /// `ldmatrix.sync.aligned.m8n8.COUNT[.trans][.SPACE].b16 r, [p]`, and `stmatrix`.
    fn matrices(&mut self, i: &Instruction<'a>, store: bool) -> Result<()> {
        let mut modifiers = self.together(i)?;
        if !modifiers.flag(".m8n8") || !modifiers.flag(".b16") {
            return Err(self.error("only matrices of .m8n8 and .b16 are supported"));
        }
        let count = modifiers.choose(&[(".x1", 1), (".x2", 2), (".x4", 4)]);
        let count = count.ok_or_else(|| self.error("one, two or four matrices are moved"))?;
        let transposed = modifiers.flag(".trans");
        let shared = modifiers.flag(".shared") || modifiers.flag(".shared::cta");
        let space = if shared {
            Space::Shared
        } else {
            Space::Generic
        };
        self.nothing_else(&modifiers)?;
        self.arity(i, 2)?;
        let (address, list) = if store { (0, 1) } else { (1, 0) };
        let list = self.fragment_registers(&i.operands[list], count)?;
        let mut registers = [None; 4];
        for (slot, operand) in registers.iter_mut().zip(list) {
            *slot = Some(if store {
                self.w(operand, Ty::B32)?
            } else {
                self.dest_w(operand)?
            });
        }
        let (base, offset, space) = self.address(&i.operands[address], space)?;
        let f = Matrices { count, transposed };
        self.emit(if store {
            Op::StMatrix {
                f,
                space,
                base,
                offset,
                a: registers,
            }
        } else {
            Op::LdMatrix {
                f,
                space,
                base,
                offset,
                d: registers,
            }
        })
    }
}

/// The type of the registers that hold such elements.
fn register_type(element: Element) -> Ty {
    match element {
        Element::F64 => Ty::F64,
        Element::F32 => Ty::F32,
        Element::S32 => Ty::S32,
        _ => Ty::B32,
    }
}

fn registers(fragment: Fragment) -> u8 {
    // No combination of the table has more than 8.
    u8::try_from(fragment.registers()).unwrap_or(u8::MAX)
}

/// Registers of D, A, B and C.
fn counts(f: Mma) -> [u8; 4] {
    let count = |role, element| {
        registers(Fragment {
            shape: f.shape,
            role,
            element,
        })
    };
    [
        count(Role::Accumulator, f.d),
        count(Role::A, f.a),
        count(Role::B, f.b),
        count(Role::Accumulator, f.c),
    ]
}
