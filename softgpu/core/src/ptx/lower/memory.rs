//! Loads, stores, atomics, fences and address arithmetic.
#![forbid(unsafe_code)]

use super::super::ast::{Instruction, Operand, Value};
use super::super::ir::*;
use super::super::types::Ty;
use super::Result;
use super::builder::{Builder, Symbol};

/// Modifiers that do not change what an access does here: scopes, cache hints, weak ordering.
const HINTS: &[&str] = &[
    ".weak",
    ".relaxed",
    ".volatile",
    ".acquire",
    ".release",
    ".acq_rel",
    ".mmio",
    ".cta",
    ".gpu",
    ".sys",
    ".cluster",
    ".ca",
    ".cg",
    ".cs",
    ".lu",
    ".cv",
    ".wb",
    ".wt",
    ".nc",
    ".v2",
    ".v4",
    ".L1::evict_normal",
    ".L1::evict_unchanged",
    ".L1::evict_first",
    ".L1::evict_last",
    ".L1::no_allocate",
    ".L2::evict_first",
    ".L2::evict_last",
    ".L2::evict_normal",
    ".L2::64B",
    ".L2::128B",
    ".L2::256B",
];

const SPACES: &[(&str, Space)] = &[
    (".global", Space::Global),
    (".const", Space::Global),
    (".shared", Space::Shared),
    (".shared::cta", Space::Shared),
    // A block is a cluster of its own.
    (".shared::cluster", Space::Shared),
    (".local", Space::Local),
    (".param", Space::Param),
    (".param::entry", Space::Param),
    (".param::func", Space::Local),
];

/// What the modifiers of a load or store say.
pub(super) struct Access {
    pub space: Space,
    /// Other accesses may race with it, and none may tear it.
    pub strong: bool,
    /// Later accesses come after it.
    pub acquire: bool,
    /// Earlier accesses come before it.
    pub release: bool,
}

impl<'a> Builder<'_, 'a> {
    pub(super) fn memory(&mut self, i: &Instruction<'a>) -> Result<bool> {
        match i.opcode {
            "ld" | "ldu" => self.load(i)?,
            "st" => self.store(i)?,
            "atom" | "red" => self.atomic(i)?,
            "membar" | "fence" => {
                self.arity(i, 0)?;
                self.only(
                    i,
                    &[
                        ".gl", ".cta", ".sys", ".gpu", ".cluster", ".sc", ".acq_rel", ".acquire",
                        ".release",
                    ],
                )?;
                let weak = i
                    .modifiers
                    .iter()
                    .any(|m| matches!(*m, ".acq_rel" | ".acquire" | ".release"));
                let scope = if weak {
                    FenceScope::AcqRel
                } else {
                    FenceScope::SeqCst
                };
                self.emit(Op::Fence { scope })?;
            }
            "cvta" => self.cvta(i)?,
            "isspacep" => {
                self.arity(i, 2)?;
                let space = self.space(i)?;
                let a = self.d(&i.operands[1], Ty::U64)?;
                let p = self.dest_p(&i.operands[0])?;
                self.emit(Op::IsSpace { space, a, p })?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn space(&self, i: &Instruction<'a>) -> Result<Space> {
        let mut space = Space::Generic;
        for modifier in &i.modifiers {
            if let Some((_, found)) = SPACES.iter().find(|(name, _)| name == modifier) {
                space = *found;
            }
        }
        Ok(space)
    }

    /// What the modifiers of an access say, those in `more` apart.
    pub(super) fn access(&self, i: &Instruction<'a>, more: &[&str]) -> Result<Access> {
        self.check_modifiers(i, more)?;
        let any = |names: &[&str]| i.modifiers.iter().any(|m| names.contains(m));
        Ok(Access {
            space: self.space(i)?,
            strong: any(&[".relaxed", ".acquire", ".release", ".volatile", ".mmio"]),
            acquire: any(&[".acquire", ".volatile", ".mmio"]),
            release: any(&[".release", ".volatile", ".mmio"]),
        })
    }

    pub(super) fn fence_if(&mut self, needed: bool) -> Result<()> {
        match needed {
            true => self.emit(Op::Fence {
                scope: FenceScope::AcqRel,
            }),
            false => Ok(()),
        }
    }

    fn check_modifiers(&self, i: &Instruction<'a>, more: &[&str]) -> Result<()> {
        let known = |m: &str| {
            Ty::parse(m).is_some()
                || HINTS.contains(&m)
                || more.contains(&m)
                || SPACES.iter().any(|(name, _)| *name == m)
        };
        match i.modifiers.iter().find(|m| !known(m)) {
            Some(modifier) => Err(self.error(format!("modifier {modifier} is not supported"))),
            None => Ok(()),
        }
    }

    /// Base register, offset and space of an address operand.
    pub(super) fn address(
        &mut self,
        operand: &Operand<'a>,
        space: Space,
    ) -> Result<(Base, i32, Space)> {
        let Operand::Address { base, offset } = operand else {
            return Err(self.error("an address is needed"));
        };
        let mut offset = *offset;
        let (mut base, space) = match &**base {
            Operand::Name(name) if self.declared(base)?.is_none() => {
                let (actual, generic) = match self.symbol(name) {
                    Some(Symbol::KernelParam { .. }) => (Space::Param, false),
                    Some(Symbol::Frame { .. }) => (Space::Local, space == Space::Generic),
                    Some(Symbol::Shared { .. } | Symbol::DynamicShared) => (Space::Shared, false),
                    Some(Symbol::Global(_)) => (Space::Global, false),
                    Some(Symbol::Function(_)) => {
                        return Err(self.error(format!("{name} is a function")));
                    }
                    None => return Err(self.error(format!("{name} is not defined"))),
                };
                let allowed = space == Space::Generic
                    || space == actual
                    || space == Space::Param && actual == Space::Local;
                if !allowed || generic && space != Space::Generic {
                    return Err(self.error(format!("{name} does not lie in that space")));
                }
                let value = Operand::Value(Value::Symbol {
                    name,
                    addend: offset,
                    generic: false,
                });
                offset = 0;
                (Base::D(self.d(&value, Ty::U64)?), actual)
            }
            Operand::Value(Value::Int(address)) => (Base::D(self.constant_d(*address)?), space),
            other => match self.declared(other)? {
                Some((AnyReg::D(d), _)) => (Base::D(d), space),
                Some((AnyReg::W(w), ty)) if ty.bits() == 32 => (Base::W(w), space),
                _ => return Err(self.error("address is not a 32- or 64-bit register")),
            },
        };
        let offset = match i32::try_from(offset) {
            Ok(offset) => offset,
            Err(_) => {
                let Base::D(a) = base else {
                    return Err(self.error("offset is out of range"));
                };
                let (b, d) = (self.constant_d(offset.cast_unsigned())?, self.temp_d()?);
                self.emit(Op::BinD {
                    f: BinD::Add,
                    a,
                    b,
                    d,
                })?;
                base = Base::D(d);
                0
            }
        };
        Ok((base, offset, space))
    }

    fn elements<'i>(
        &self,
        i: &Instruction<'a>,
        operand: &'i Operand<'a>,
    ) -> Result<&'i [Operand<'a>]> {
        let count = if self.has(i, ".v4") {
            4
        } else if self.has(i, ".v2") {
            2
        } else {
            1
        };
        match operand {
            Operand::Vector(list) if count > 1 && list.len() == count => Ok(list),
            operand if count == 1 && !matches!(operand, Operand::Vector(_)) => {
                Ok(std::slice::from_ref(operand))
            }
            _ => Err(self.error(format!("{count} registers are needed"))),
        }
    }

    fn load(&mut self, i: &Instruction<'a>) -> Result<()> {
        self.arity(i, 2)?;
        let Access { space, acquire, .. } = self.access(i, &[])?;
        let ty = self.ty(i)?;
        if ty == Ty::Pred || ty.bits() != 64 && ty.float().is_some_and(|f| f != FloatType::F32) {
            return Err(self.error("type is not supported"));
        }
        let elements = self.elements(i, &i.operands[0])?;
        if self.entry
            && space == Space::Param
            && let Operand::Address { base, offset } = &i.operands[1]
            && let Operand::Name(name) = **base
            && self.declared(base)?.is_none()
            && let Some(Symbol::KernelParam { offset: start }) = self.symbol(name)
        {
            return self.load_parameter(elements, ty, i64::from(start).wrapping_add(*offset));
        }
        let (base, offset, space) = self.address(&i.operands[1], space)?;
        if ty.bits() == 64 {
            let mut d = [None; 4];
            for (slot, element) in d.iter_mut().zip(elements) {
                *slot = Some(self.dest_d(element)?);
            }
            self.emit(Op::LdD {
                space,
                ty: MemType::B64,
                base,
                offset,
                d,
            })?;
        } else {
            let mut d = [None; 4];
            let mut memory = None;
            let mut extensions = Vec::new();
            for (slot, element) in d.iter_mut().zip(elements) {
                let bits = match self.declared(element)? {
                    Some((_, declared)) if declared.bits() < ty.bits() => {
                        return Err(self.error("destination is narrower than the type"));
                    }
                    // A 16-bit register holds its value zero-extended.
                    Some((AnyReg::W(w), declared)) => {
                        *slot = Some(w);
                        declared.bits()
                    }
                    Some((AnyReg::D(wide), _)) => {
                        let w = self.temp_w()?;
                        *slot = Some(w);
                        extensions.push((w, wide));
                        64
                    }
                    _ if *element == Operand::Discard => {
                        *slot = Some(self.temp_w()?);
                        ty.bits()
                    }
                    _ => return Err(self.error("destination is not a register")),
                };
                let loaded = ty.memory(bits);
                if memory.is_some_and(|memory| memory != loaded) {
                    return Err(self.error("destinations of different width"));
                }
                memory = Some(loaded);
                if bits == 16 && loaded == MemType::S8 {
                    let w = slot.unwrap_or(self.temp_w()?);
                    extensions.push((w, D(w.0)));
                }
            }
            let memory = memory.unwrap_or(MemType::B32);
            self.emit(Op::LdW {
                space,
                ty: memory,
                base,
                offset,
                d,
            })?;
            for (w, wide) in extensions {
                if memory == MemType::S8 && self.is_narrow(elements)? {
                    self.emit(Op::UnW {
                        f: UnW::Zext16,
                        a: w,
                        d: w,
                    })?;
                } else {
                    self.extend(w, ty, wide)?;
                }
            }
        }
        self.fence_if(acquire)
    }

    fn is_narrow(&mut self, elements: &[Operand<'a>]) -> Result<bool> {
        Ok(
            matches!(elements.first().map(|e| self.declared(e)), Some(Ok(Some((AnyReg::W(_), ty)))) if ty.bits() == 16),
        )
    }

    /// A kernel parameter is a constant of the launch.
    fn load_parameter(&mut self, elements: &[Operand<'a>], ty: Ty, start: i64) -> Result<()> {
        for (place, element) in (0i64..).zip(elements) {
            let offset = start + place * i64::from(ty.bytes());
            let offset = u32::try_from(offset)
                .ok()
                .filter(|offset| *offset < 1 << 16);
            let offset = offset.ok_or_else(|| self.error("address lies outside the parameters"))?;
            if offset % ty.bytes() != 0 {
                return Err(self.error("parameter is misaligned for the type"));
            }
            if *element == Operand::Discard {
                continue;
            }
            let Some((d, declared)) = self.declared(element)? else {
                return Err(self.error("destination is not a register"));
            };
            if declared.bits() < ty.bits() {
                return Err(self.error("destination is narrower than the type"));
            }
            let memory = ty.memory(declared.bits());
            match d {
                AnyReg::D(wide) if ty.bits() < 64 => {
                    let value = Constant::Param { offset, ty: memory };
                    if let AnyReg::W(w) = self.preload(32, value)? {
                        self.extend(w, ty, wide)?;
                    }
                }
                d => {
                    let bits = if ty.bits() == 64 { 64 } else { 32 };
                    let a = self.preload(bits, Constant::Param { offset, ty: memory })?;
                    match (a, d) {
                        (AnyReg::W(a), AnyReg::W(d))
                            if memory == MemType::S8 && declared.bits() == 16 =>
                        {
                            self.emit(Op::UnW {
                                f: UnW::Zext16,
                                a,
                                d,
                            })?;
                        }
                        _ => self.copy(a, d)?,
                    }
                }
            }
        }
        Ok(())
    }

    fn store(&mut self, i: &Instruction<'a>) -> Result<()> {
        self.arity(i, 2)?;
        let Access { space, release, .. } = self.access(i, &[])?;
        let ty = self.ty(i)?;
        if ty == Ty::Pred || ty.bits() != 64 && ty.float().is_some_and(|f| f != FloatType::F32) {
            return Err(self.error("type is not supported"));
        }
        let elements = self.elements(i, &i.operands[1])?;
        let (base, offset, space) = self.address(&i.operands[0], space)?;
        self.fence_if(release)?;
        if ty.bits() == 64 {
            let mut a = [None; 4];
            for (slot, element) in a.iter_mut().zip(elements) {
                *slot = Some(self.d(element, ty)?);
            }
            return self.emit(Op::StD {
                space,
                ty: MemType::B64,
                base,
                offset,
                a,
            });
        }
        let mut a = [None; 4];
        for (slot, element) in a.iter_mut().zip(elements) {
            *slot = Some(match self.declared(element)? {
                Some((_, declared)) if declared.bits() < ty.bits() => {
                    return Err(self.error("source is narrower than the type"));
                }
                Some((AnyReg::D(wide), _)) => {
                    let low = self.temp_w()?;
                    self.emit(Op::UnpackD {
                        a: wide,
                        lo: Some(low),
                        hi: None,
                    })?;
                    low
                }
                _ => self.w(element, ty)?,
            });
        }
        self.emit(Op::StW {
            space,
            ty: ty.memory(0),
            base,
            offset,
            a,
        })
    }

    /// Loads or stores a register of a function's parameter in its frame.
    pub(super) fn frame_access(
        &mut self,
        offset: u32,
        ty: Ty,
        register: AnyReg,
        store: bool,
    ) -> Result<()> {
        let d = self.temp_d()?;
        self.emit(Op::LocalAddr { offset, d })?;
        let (space, base, offset) = (Space::Local, Base::D(d), 0);
        let op = match (register, store) {
            (AnyReg::W(w), true) => Op::StW {
                space,
                ty: ty.memory(0),
                base,
                offset,
                a: [Some(w), None, None, None],
            },
            (AnyReg::W(w), false) => Op::LdW {
                space,
                ty: ty.memory(0),
                base,
                offset,
                d: [Some(w), None, None, None],
            },
            (AnyReg::D(d), true) => Op::StD {
                space,
                ty: MemType::B64,
                base,
                offset,
                a: [Some(d), None, None, None],
            },
            (AnyReg::D(d), false) => Op::LdD {
                space,
                ty: MemType::B64,
                base,
                offset,
                d: [Some(d), None, None, None],
            },
            (AnyReg::P(_), _) => return Err(self.error("predicate parameters are not supported")),
        };
        self.emit(op)
    }

    fn atomic(&mut self, i: &Instruction<'a>) -> Result<()> {
        const OPERATIONS: &[&str] = &[
            ".add", ".and", ".or", ".xor", ".exch", ".cas", ".inc", ".dec", ".min", ".max",
            ".noftz",
        ];
        self.check_modifiers(i, OPERATIONS)?;
        if self.has(i, ".v2") || self.has(i, ".v4") {
            return Err(self.error("vector atomics are not supported"));
        }
        let red = i.opcode == "red";
        let ty = self.ty(i)?;
        let name = i.modifiers.iter().find(|m| OPERATIONS.contains(m)).copied();
        let name = name.ok_or_else(|| self.error("operation is not supported"))?;
        let f = self.atomic_operation(name, ty)?;
        let cas = f == AtomOp::Cas;
        if red && matches!(f, AtomOp::Cas | AtomOp::Exch) {
            return Err(self.error("operation is not supported"));
        }
        self.arity(i, 2 + usize::from(!red) + usize::from(cas))?;
        let operands = if red {
            &i.operands[..]
        } else {
            &i.operands[1..]
        };
        let space = self.space(i)?;
        let (mut base, offset, space) = self.address(&operands[0], space)?;
        let offset = self.short_offset(&mut base, offset)?;
        let memory = ty.memory(0);
        if ty.bits() == 64 {
            let b = self.d(&operands[1], ty)?;
            let c = if cas {
                Some(self.d(&operands[2], ty)?)
            } else {
                None
            };
            let d = if red || i.operands[0] == Operand::Discard {
                None
            } else {
                Some(self.dest_d(&i.operands[0])?)
            };
            return self.emit(Op::AtomD {
                space,
                f,
                ty: memory,
                base,
                offset,
                b,
                c,
                d,
            });
        }
        let b = self.w(&operands[1], ty)?;
        let c = if cas {
            Some(self.w(&operands[2], ty)?)
        } else {
            None
        };
        let d = if red || i.operands[0] == Operand::Discard {
            None
        } else {
            Some(self.dest_w(&i.operands[0])?)
        };
        self.emit(Op::AtomW {
            space,
            f,
            ty: memory,
            base,
            offset,
            b,
            c,
            d,
        })
    }

    /// What an atomic operation on one value is.
    pub(super) fn atomic_operation(&self, name: &str, ty: Ty) -> Result<AtomOp> {
        Ok(match (name, ty) {
            (".add", Ty::F32 | Ty::F64 | Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2) => {
                let float = ty.float().unwrap_or(FloatType::F32);
                if ty.is_packed() {
                    AtomOp::AddFx2(float)
                } else {
                    AtomOp::AddF(float)
                }
            }
            (".add", Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64) => AtomOp::Add,
            (".and", Ty::B32 | Ty::B64) => AtomOp::And,
            (".or", Ty::B32 | Ty::B64) => AtomOp::Or,
            (".xor", Ty::B32 | Ty::B64) => AtomOp::Xor,
            (".exch", Ty::B32 | Ty::B64) => AtomOp::Exch,
            (".cas", Ty::B16 | Ty::B32 | Ty::B64) => AtomOp::Cas,
            (".inc", Ty::U32) => AtomOp::Inc,
            (".dec", Ty::U32) => AtomOp::Dec,
            (".min", Ty::S32 | Ty::S64) => AtomOp::MinS,
            (".min", Ty::U32 | Ty::U64) => AtomOp::MinU,
            (".max", Ty::S32 | Ty::S64) => AtomOp::MaxS,
            (".max", Ty::U32 | Ty::U64) => AtomOp::MaxU,
            _ => return Err(self.error("type is not supported for this operation")),
        })
    }

    /// The offset of an atomic operation's address: one that is large is added to the register.
    pub(super) fn short_offset(&mut self, base: &mut Base, offset: i32) -> Result<i16> {
        if let Ok(offset) = i16::try_from(offset) {
            return Ok(offset);
        }
        *base = match *base {
            Base::D(a) => {
                let offset = i64::from(offset).cast_unsigned();
                let (b, d) = (self.constant_d(offset)?, self.temp_d()?);
                let f = BinD::Add;
                self.emit(Op::BinD { f, a, b, d })?;
                Base::D(d)
            }
            Base::W(a) => {
                let (b, d) = (self.constant_w(offset.cast_unsigned())?, self.temp_w()?);
                let f = BinW::Add;
                self.emit(Op::BinW { f, a, b, d })?;
                Base::W(d)
            }
        };
        Ok(0)
    }

    fn cvta(&mut self, i: &Instruction<'a>) -> Result<()> {
        self.arity(i, 2)?;
        self.check_modifiers(i, &[".to"])?;
        let ty = self.ty(i)?;
        if ty.bits() != 64 {
            return Err(self.error("only 64-bit addresses are supported"));
        }
        let window = match self.space(i)? {
            Space::Generic => return Err(self.error("a state space is needed")),
            Space::Global => None,
            Space::Shared => Some(SHARED_WINDOW),
            Space::Local => Some(LOCAL_WINDOW),
            Space::Param => Some(PARAM_WINDOW),
        };
        let a = self.d(&i.operands[1], ty)?;
        let d = self.dest_d(&i.operands[0])?;
        let f = if self.has(i, ".to") {
            BinD::Sub
        } else {
            BinD::Add
        };
        match window {
            None => self.emit(Op::MovD { a, d }),
            Some(window) => {
                let b = self.constant_d(window)?;
                self.emit(Op::BinD { f, a, b, d })
            }
        }
    }
}
