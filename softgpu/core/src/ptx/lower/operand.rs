//! Operands: what names, literals and special registers are read from and written to.
#![forbid(unsafe_code)]

use super::super::ast::{Operand, Value};
use super::super::ir::{self, AnyReg, Constant, D, Op, P, Special, W};
use super::super::requirements::Needs;
use super::super::types::Ty;
use super::builder::{Builder, Symbol, register_bits, register_class};
use super::{Result, layout};

impl<'a> Builder<'_, 'a> {
    /// A readable value of exactly `bits`.
    fn read(&mut self, operand: &Operand<'a>, ty: Ty) -> Result<AnyReg> {
        match operand {
            Operand::Name(name) => {
                if let Some((register, declared)) = self.register(name)? {
                    if register_bits(register) != register_class(ty) {
                        return Err(self.error(format!(
                            "{name} has {} bits where {} are needed",
                            declared.bits(),
                            ty.bits()
                        )));
                    }
                    return Ok(register);
                }
                if name.starts_with('%')
                    && let Some(register) = self.special(name, ty)?
                {
                    return Ok(register);
                }
                if *name == "WARP_SZ" {
                    return self.preload(ty.bits(), Constant::Bits(32));
                }
                self.address_of(name, 0, ty)
            }
            Operand::Value(Value::Symbol {
                name,
                addend,
                generic,
            }) => {
                let register = self.address_of(name, *addend, ty)?;
                match (generic, self.symbol(name), register) {
                    (
                        true,
                        Some(Symbol::Shared { .. } | Symbol::DynamicShared),
                        AnyReg::D(address),
                    ) => {
                        let (window, d) = (self.constant_d(ir::SHARED_WINDOW)?, self.temp_d()?);
                        self.emit(Op::BinD {
                            f: ir::BinD::Add,
                            a: address,
                            b: window,
                            d,
                        })?;
                        Ok(AnyReg::D(d))
                    }
                    _ => Ok(register),
                }
            }
            Operand::Value(value) => {
                let bits = layout::bits(*value, ty);
                self.preload(ty.bits(), Constant::Bits(bits))
            }
            Operand::Not(name) if ty == Ty::Pred => {
                let a = self.p(&Operand::Name(name))?;
                let d = self.temp_p()?;
                self.emit(Op::MovP { negate: true, a, d })?;
                Ok(AnyReg::P(d))
            }
            _ => Err(self.error("operand is not a value")),
        }
    }

    /// The address of a variable or function, in its own space.
    fn address_of(&mut self, name: &str, addend: i64, ty: Ty) -> Result<AnyReg> {
        let symbol = self
            .symbol(name)
            .ok_or_else(|| self.error(format!("{name} is not defined")))?;
        let constant = match symbol {
            Symbol::Global(index) => Constant::Global { index, addend },
            Symbol::Function(index) => Constant::Bits(ir::function_address(index)),
            Symbol::Shared { offset } | Symbol::KernelParam { offset } => {
                Constant::Bits(u64::from(offset).wrapping_add_signed(addend))
            }
            Symbol::DynamicShared => Constant::DynamicShared { addend },
            Symbol::Frame { offset, .. } => {
                let offset = i64::from(offset)
                    .checked_add(addend)
                    .and_then(|offset| u32::try_from(offset).ok());
                let offset =
                    offset.ok_or_else(|| self.error("address lies outside the variable"))?;
                let d = self.temp_d()?;
                self.emit(Op::LocalAddr { offset, d })?;
                if ty.bits() == 64 {
                    return Ok(AnyReg::D(d));
                }
                let low = self.temp_w()?;
                self.emit(Op::UnpackD {
                    a: d,
                    lo: Some(low),
                    hi: None,
                })?;
                return Ok(AnyReg::W(low));
            }
        };
        match ty.bits() {
            32 | 64 => self.preload(ty.bits(), constant),
            _ => Err(self.error(format!("{name} is not a value of this type"))),
        }
    }

    fn special(&mut self, name: &str, ty: Ty) -> Result<Option<AnyReg>> {
        use Special as S;
        let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
        self.demand(Needs::of_name(stem))?;
        let axis = |name: &str| match name {
            "x" => Some(0u8),
            "y" => Some(1),
            "z" => Some(2),
            _ => None,
        };
        let special = if let Some((stem, suffix)) = name.split_once('.') {
            let Some(axis) = axis(suffix) else {
                return if suffix == "w" {
                    self.preload(32, Constant::Bits(0)).map(Some)
                } else {
                    Ok(None)
                };
            };
            match stem {
                "%tid" => S::Tid(axis),
                "%ntid" => S::Ntid(axis),
                "%ctaid" | "%clusterid" => S::Ctaid(axis),
                "%nctaid" | "%nclusterid" => S::Nctaid(axis),
                "%cluster_ctaid" => return self.preload(32, Constant::Bits(0)).map(Some),
                "%cluster_nctaid" => return self.preload(32, Constant::Bits(1)).map(Some),
                _ => return Ok(None),
            }
        } else {
            let clock = match name {
                "%clock" => Some(ir::Clock::Clock32),
                "%clock_hi" => Some(ir::Clock::ClockHi),
                "%clock64" => Some(ir::Clock::Clock64),
                "%globaltimer" => Some(ir::Clock::GlobalTimer),
                "%globaltimer_lo" => Some(ir::Clock::GlobalTimerLo),
                "%globaltimer_hi" => Some(ir::Clock::GlobalTimerHi),
                _ => None,
            };
            if let Some(f) = clock {
                let wide = matches!(f, ir::Clock::Clock64 | ir::Clock::GlobalTimer);
                if wide != (ty.bits() == 64) {
                    return Err(self.error(format!("{name} does not have {} bits", ty.bits())));
                }
                let d = self.new_register(ty.bits())?;
                self.emit(Op::Clock { f, d })?;
                return Ok(Some(d));
            }
            match name {
                "%laneid" => S::LaneId,
                "%warpid" => S::WarpId,
                "%nwarpid" => S::NwarpId,
                "%smid" => S::SmId,
                "%nsmid" => S::NsmId,
                "%gridid" => S::GridId,
                "%lanemask_eq" => S::LaneMaskEq,
                "%lanemask_le" => S::LaneMaskLe,
                "%lanemask_lt" => S::LaneMaskLt,
                "%lanemask_ge" => S::LaneMaskGe,
                "%lanemask_gt" => S::LaneMaskGt,
                "%total_smem_size" | "%aggr_smem_size" => S::TotalSharedBytes,
                "%dynamic_smem_size" => S::DynamicSharedBytes,
                "%envreg1" => S::GridWorkspace { upper: true },
                "%envreg2" => S::GridWorkspace { upper: false },
                "%reserved_smem_offset_begin"
                | "%reserved_smem_offset_0"
                | "%reserved_smem_offset_1" => S::ReservedShared { addend: 0 },
                "%reserved_smem_offset_end" => S::ReservedShared {
                    addend: ir::RESERVED_SHARED_BYTES,
                },
                "%reserved_smem_offset_cap" => {
                    let bytes = Constant::Bits(ir::RESERVED_SHARED_BYTES.into());
                    return self.preload(ty.bits(), bytes).map(Some);
                }
                "%cluster_ctarank" => return self.preload(ty.bits(), Constant::Bits(0)).map(Some),
                "%cluster_nctarank" => return self.preload(ty.bits(), Constant::Bits(1)).map(Some),
                _ if name.starts_with("%envreg") => {
                    return self.preload(ty.bits(), Constant::Bits(0)).map(Some);
                }
                _ => return Ok(None),
            }
        };
        self.preload(ty.bits(), Constant::Special(special))
            .map(Some)
    }

    pub(super) fn any(&mut self, operand: &Operand<'a>, ty: Ty) -> Result<AnyReg> {
        self.read(operand, ty)
    }

    pub(super) fn w(&mut self, operand: &Operand<'a>, ty: Ty) -> Result<W> {
        match self.read(operand, ty)? {
            AnyReg::W(register) => Ok(register),
            _ => Err(self.error("a 32-bit operand is needed")),
        }
    }

    pub(super) fn d(&mut self, operand: &Operand<'a>, ty: Ty) -> Result<D> {
        match self.read(operand, ty)? {
            AnyReg::D(register) => Ok(register),
            _ => Err(self.error("a 64-bit operand is needed")),
        }
    }

    pub(super) fn p(&mut self, operand: &Operand<'a>) -> Result<P> {
        match self.read(operand, Ty::Pred)? {
            AnyReg::P(register) => Ok(register),
            _ => Err(self.error("a predicate is needed")),
        }
    }

    /// The declared register that `operand` names, of any width.
    pub(super) fn declared(&mut self, operand: &Operand<'a>) -> Result<Option<(AnyReg, Ty)>> {
        match operand {
            Operand::Name(name) => self.register(name),
            _ => Ok(None),
        }
    }

    /// The register to be written, of the width of `ty`.
    pub(super) fn dest(&mut self, operand: &Operand<'a>, ty: Ty) -> Result<AnyReg> {
        if *operand == Operand::Discard {
            return self.new_register(ty.bits());
        }
        match self.declared(operand)? {
            Some((register, _)) if register_bits(register) == register_class(ty) => Ok(register),
            Some((_, declared)) => Err(self.error(format!(
                "destination has {} bits where {} are needed",
                declared.bits(),
                ty.bits()
            ))),
            None => Err(self.error("destination is not a register")),
        }
    }

    pub(super) fn dest_w(&mut self, operand: &Operand<'a>) -> Result<W> {
        match self.dest(operand, Ty::B32)? {
            AnyReg::W(register) => Ok(register),
            _ => Err(self.error("a 32-bit destination is needed")),
        }
    }

    pub(super) fn dest_d(&mut self, operand: &Operand<'a>) -> Result<D> {
        match self.dest(operand, Ty::B64)? {
            AnyReg::D(register) => Ok(register),
            _ => Err(self.error("a 64-bit destination is needed")),
        }
    }

    pub(super) fn dest_p(&mut self, operand: &Operand<'a>) -> Result<P> {
        match self.dest(operand, Ty::Pred)? {
            AnyReg::P(register) => Ok(register),
            _ => Err(self.error("a predicate destination is needed")),
        }
    }
}
