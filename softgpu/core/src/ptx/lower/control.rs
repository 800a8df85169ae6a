//! Branches, calls and barriers.
#![forbid(unsafe_code)]

use super::super::ast::{Instruction, Operand, Value};
use super::super::ir::*;
use super::super::types::Ty;
use super::builder::{Builder, Named, Symbol};
use super::{Result, layout};

impl<'a> Builder<'_, 'a> {
    pub(super) fn control(&mut self, i: &Instruction<'a>) -> Result<bool> {
        match i.opcode {
            "bra" => {
                self.arity(i, 1)?;
                self.only(i, &[".uni"])?;
                let Operand::Name(name) = i.operands[0] else {
                    return Err(self.error("a label is needed"));
                };
                let target = self.label(name)?;
                self.emit(Op::Bra { target })?;
            }
            "brx" => {
                self.arity(i, 2)?;
                self.only(i, &[".idx", ".uni"])?;
                let index = self.w(&i.operands[0], Ty::U32)?;
                let Operand::Name(name) = i.operands[1] else {
                    return Err(self.error("a list of targets is needed"));
                };
                let Some(Named::Targets(targets)) = self.named.get(name) else {
                    return Err(self.error(format!("{name} is no list of targets defined above")));
                };
                let labels = targets
                    .iter()
                    .map(|target| self.label(target))
                    .collect::<Result<Vec<_>>>()?;
                let table = self.module.tables.len();
                self.module.tables.push(Vec::new());
                self.tables.push((table, labels));
                self.emit(Op::BraTable {
                    table: layout::count(table, self.pos)?,
                    index,
                })?;
            }
            "call" => self.call(i)?,
            "ret" => {
                self.arity(i, 0)?;
                self.only(i, &[".uni"])?;
                self.return_or_exit()?;
            }
            "exit" => {
                self.arity(i, 0)?;
                self.emit(Op::Exit {})?;
            }
            "trap" => self.emit(Op::Trap {})?,
            "nanosleep" => self.emit(Op::Yield {})?,
            "bar" | "barrier" => self.barrier(i)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn barrier(&mut self, i: &Instruction<'a>) -> Result<()> {
        if self.has(i, ".warp") {
            self.arity(i, 1)?;
            self.only(i, &[".warp", ".sync"])?;
            let mask = self.w(&i.operands[0], Ty::B32)?;
            return self.emit(Op::WarpSync { mask });
        }
        self.only(
            i,
            &[
                ".cta", ".sync", ".arrive", ".red", ".aligned", ".popc", ".and", ".or",
            ],
        )?;
        let (mut operands, mut d, mut p) = (&i.operands[..], None, None);
        let f = if self.has(i, ".red") {
            if operands.len() < 3 {
                return Err(self.error("operands are missing"));
            }
            let (last, rest) = (
                &operands[operands.len() - 1],
                &operands[1..operands.len() - 1],
            );
            let (negate, name) = match last {
                Operand::Not(name) => (true, *name),
                Operand::Name(name) => (false, *name),
                _ => return Err(self.error("a predicate is needed")),
            };
            p = Some(self.p(&Operand::Name(name))?);
            let popc = self.has(i, ".popc");
            d = Some(self.dest(&operands[0], if popc { Ty::U32 } else { Ty::Pred })?);
            operands = rest;
            match (popc, self.has(i, ".and")) {
                (true, _) => BarrierOp::Popc { negate },
                (_, true) => BarrierOp::And { negate },
                _ => BarrierOp::Or { negate },
            }
        } else if self.has(i, ".arrive") {
            BarrierOp::Arrive
        } else if self.has(i, ".sync") {
            BarrierOp::Sync
        } else {
            return Err(self.error("form is not supported"));
        };
        let (id, count) = match operands {
            [] => (self.constant_w(0)?, None),
            [id] => (self.w(id, Ty::U32)?, None),
            [id, count] => (self.w(id, Ty::U32)?, Some(self.w(count, Ty::U32)?)),
            _ => return Err(self.error("too many operands")),
        };
        if f == BarrierOp::Arrive && count.is_none() {
            return Err(self.error("a thread count is needed"));
        }
        self.emit(Op::Barrier { f, id, count, p, d })
    }

    fn call(&mut self, i: &Instruction<'a>) -> Result<()> {
        self.only(i, &[".uni"])?;
        let mut operands = i.operands.iter().peekable();
        let returned: &[Operand<'a>] = match operands.next_if(|o| matches!(o, Operand::List(_))) {
            Some(Operand::List(list)) => list,
            _ => &[],
        };
        let Some(Operand::Name(name)) = operands.next() else {
            return Err(self.error("a function is needed"));
        };
        let passed: &[Operand<'a>] = match operands.next_if(|o| matches!(o, Operand::List(_))) {
            Some(Operand::List(list)) => list,
            _ => &[],
        };
        let named = operands.next();
        let pointer = match self.register(name)? {
            Some((AnyReg::D(d), _)) => Some(d),
            Some(_) => return Err(self.error("a function address has 64 bits")),
            None => None,
        };
        let (target, declaration) = match pointer {
            Some(_) => {
                let Some(Operand::Name(named)) = named else {
                    return Err(self.error("a prototype is needed"));
                };
                let declaration = match self.named.get(named) {
                    Some(Named::Prototype(declaration)) => declaration.clone(),
                    Some(Named::Targets(targets)) => {
                        let first = targets
                            .first()
                            .and_then(|name| self.context.functions.get(name));
                        first
                            .cloned()
                            .ok_or_else(|| self.error("target is not defined"))?
                    }
                    None => {
                        return Err(self.error(format!("{named} is no prototype defined above")));
                    }
                };
                (CallTarget::Indirect, declaration)
            }
            None => {
                let declaration = self.context.functions.get(name);
                let declaration = declaration
                    .ok_or_else(|| self.error(format!("{name} is not defined")))?
                    .clone();
                let target = match (declaration.index, *name) {
                    (Some(_), _) if declaration.entry => {
                        return Err(self.error("a kernel cannot be called"));
                    }
                    (Some(index), _) => CallTarget::Function(index),
                    (None, "vprintf") => CallTarget::Builtin(Builtin::Vprintf),
                    (None, "__assertfail") => CallTarget::Builtin(Builtin::AssertFail),
                    (None, "malloc") => CallTarget::Builtin(Builtin::Malloc),
                    (None, "free") => CallTarget::Builtin(Builtin::Free),
                    _ => return Err(super::link::undefined(self.pos, name)),
                };
                (target, declaration)
            }
        };
        let shape = match target {
            CallTarget::Builtin(Builtin::Vprintf) => Some((&[8u32, 8][..], &[4u32][..])),
            CallTarget::Builtin(Builtin::AssertFail) => Some((&[8, 8, 4, 8, 8][..], &[][..])),
            CallTarget::Builtin(Builtin::Malloc) => Some((&[8][..], &[8][..])),
            CallTarget::Builtin(Builtin::Free) => Some((&[8][..], &[][..])),
            _ => None,
        };
        let sizes = |params: &[Param]| params.iter().map(|param| param.size).collect::<Vec<_>>();
        if let Some((params, returns)) = shape
            && (sizes(&declaration.params) != params || sizes(&declaration.returns) != returns)
        {
            return Err(self.error(format!("{name} is declared with other parameters")));
        }
        if passed.len() != declaration.params.len() || returned.len() != declaration.returns.len() {
            return Err(self.error("call does not match the function's parameters"));
        }
        let mut arguments = Vec::with_capacity(passed.len());
        for (operand, param) in passed.iter().zip(&declaration.params) {
            arguments.push(self.argument(operand, *param, true)?.0);
        }
        let (mut results, mut after) = (Vec::new(), Vec::new());
        for (operand, param) in returned.iter().zip(&declaration.returns) {
            let (slot, register) = self.argument(operand, *param, false)?;
            results.push(slot);
            after.extend(register.map(|register| (slot.offset, register)));
        }
        let site = layout::count(self.module.calls.len(), self.pos)?;
        self.module.calls.push(CallSite {
            target,
            arguments,
            results,
        });
        self.emit(Op::Call {
            site,
            target: pointer,
        })?;
        for (offset, register) in after {
            let ty = if matches!(register, AnyReg::D(_)) {
                Ty::B64
            } else {
                Ty::B32
            };
            self.frame_access(offset, ty, register, false)?;
        }
        Ok(())
    }

    /// The piece of the frame that an argument or result lies in; a register gets one of its own.
    fn argument(
        &mut self,
        operand: &Operand<'a>,
        param: Param,
        pass: bool,
    ) -> Result<(Slot, Option<AnyReg>)> {
        if let Operand::Name(name) | Operand::Value(Value::Symbol { name, .. }) = operand
            && let Some(Symbol::Frame { offset, size }) = self.symbol(name)
        {
            if size < param.size {
                return Err(self.error(format!("{name} is smaller than the function's parameter")));
            }
            return Ok((
                Slot {
                    offset,
                    size: param.size,
                },
                None,
            ));
        }
        let ty = match param.size {
            8 => Ty::B64,
            4 => Ty::B32,
            2 => Ty::B16,
            _ => return Err(self.error("argument is not a parameter variable")),
        };
        let slot = Slot {
            offset: self.reserve(param.size)?,
            size: param.size,
        };
        let register = if pass {
            self.any(operand, ty)?
        } else {
            self.dest(operand, ty)?
        };
        if pass {
            self.frame_access(slot.offset, ty, register, true)?;
        }
        Ok((slot, Some(register)))
    }
}
