//! Instructions across the lanes of a warp.
#![forbid(unsafe_code)]

use super::super::ast::{Instruction, Operand};
use super::super::ir::*;
use super::super::types::Ty;
use super::Result;
use super::builder::Builder;

impl<'a> Builder<'_, 'a> {
    pub(super) fn warp(&mut self, i: &Instruction<'a>) -> Result<bool> {
        match i.opcode {
            "activemask" => {
                self.arity(i, 1)?;
                let d = self.dest_w(&i.operands[0])?;
                self.emit(Op::ActiveMask { d })?;
                return Ok(true);
            }
            "shfl" | "vote" | "match" | "redux" | "elect" => {}
            _ => return Ok(false),
        }
        if !self.has(i, ".sync") {
            return Err(self.error("only the .sync form is supported"));
        }
        match i.opcode {
            "shfl" => {
                self.arity(i, 5)?;
                self.only(i, &[".sync", ".up", ".down", ".bfly", ".idx"])?;
                let f = match i.modifiers.get(1).copied() {
                    Some(".up") => ShflMode::Up,
                    Some(".down") => ShflMode::Down,
                    Some(".bfly") => ShflMode::Bfly,
                    _ => ShflMode::Idx,
                };
                let (d, p) = match &i.operands[0] {
                    Operand::Pair(d, p) => (self.dest_w(d)?, Some(self.dest_p(p)?)),
                    operand => (self.dest_w(operand)?, None),
                };
                let (a, b) = (
                    self.w(&i.operands[1], Ty::B32)?,
                    self.w(&i.operands[2], Ty::B32)?,
                );
                let (c, mask) = (
                    self.w(&i.operands[3], Ty::B32)?,
                    self.w(&i.operands[4], Ty::B32)?,
                );
                self.emit(Op::Shfl {
                    f,
                    a,
                    b,
                    c,
                    mask,
                    d,
                    p,
                })?;
            }
            "vote" => {
                self.arity(i, 3)?;
                self.only(i, &[".sync", ".all", ".any", ".uni", ".ballot"])?;
                let (f, ty) = match i.modifiers.get(1).copied() {
                    Some(".all") => (VoteOp::All, Ty::Pred),
                    Some(".any") => (VoteOp::Any, Ty::Pred),
                    Some(".uni") => (VoteOp::Uni, Ty::Pred),
                    _ => (VoteOp::Ballot, Ty::B32),
                };
                let (a, mask) = (self.p(&i.operands[1])?, self.w(&i.operands[2], Ty::B32)?);
                let d = self.dest(&i.operands[0], ty)?;
                self.emit(Op::Vote { f, a, mask, d })?;
            }
            "match" => {
                self.arity(i, 3)?;
                self.only(i, &[".sync", ".any", ".all"])?;
                let all = self.has(i, ".all");
                let ty = self.ty(i)?;
                let (d, p) = match &i.operands[0] {
                    Operand::Pair(d, p) if all => (self.dest_w(d)?, Some(self.dest_p(p)?)),
                    operand => (self.dest_w(operand)?, None),
                };
                let mask = self.w(&i.operands[2], Ty::B32)?;
                if ty.bits() == 64 {
                    let a = self.d(&i.operands[1], ty)?;
                    self.emit(Op::MatchD { all, a, mask, d, p })?;
                } else {
                    let a = self.w(&i.operands[1], ty)?;
                    self.emit(Op::MatchW { all, a, mask, d, p })?;
                }
            }
            "redux" => {
                self.arity(i, 3)?;
                self.only(
                    i,
                    &[
                        ".sync", ".add", ".min", ".max", ".and", ".or", ".xor", ".abs", ".NaN",
                    ],
                )?;
                let ty = self.ty(i)?;
                let (abs, nan) = (self.has(i, ".abs"), self.has(i, ".NaN"));
                let f = match (i.modifiers.get(1).copied(), ty) {
                    (Some(".add"), Ty::U32 | Ty::S32) => ReduxOp::Add,
                    (Some(".min"), Ty::S32) => ReduxOp::MinS,
                    (Some(".min"), Ty::U32) => ReduxOp::MinU,
                    (Some(".max"), Ty::S32) => ReduxOp::MaxS,
                    (Some(".max"), Ty::U32) => ReduxOp::MaxU,
                    (Some(".min"), Ty::F32) => ReduxOp::MinF { abs, nan },
                    (Some(".max"), Ty::F32) => ReduxOp::MaxF { abs, nan },
                    (Some(".and"), Ty::B32) => ReduxOp::And,
                    (Some(".or"), Ty::B32) => ReduxOp::Or,
                    (Some(".xor"), Ty::B32) => ReduxOp::Xor,
                    _ => return Err(self.error("operation or type is not supported")),
                };
                let (a, mask) = (
                    self.w(&i.operands[1], ty)?,
                    self.w(&i.operands[2], Ty::B32)?,
                );
                let d = self.dest_w(&i.operands[0])?;
                self.emit(Op::Redux { f, a, mask, d })?;
            }
            _ => {
                self.arity(i, 2)?;
                let Operand::Pair(d, p) = &i.operands[0] else {
                    return Err(self.error("a predicate destination is needed"));
                };
                let d = if **d == Operand::Discard {
                    None
                } else {
                    Some(self.dest_w(d)?)
                };
                let (p, mask) = (self.dest_p(p)?, self.w(&i.operands[1], Ty::B32)?);
                self.emit(Op::Elect { mask, d, p })?;
            }
        }
        Ok(true)
    }
}
