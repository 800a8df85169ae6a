//! Asynchronous copies (`cp.async`, bulk ones too), their barriers (`mbarrier`) and the fences that
//! order them with other accesses.
#![forbid(unsafe_code)]

use super::super::ast::{Instruction, Operand, Value};
use super::super::ir::*;
use super::super::requirements::Needs;
use super::super::types::Ty;
use super::Result;
use super::builder::Builder;
use super::modifiers::Modifiers;

/// Shared memory by all its names: a block is a cluster of its own.
const SHARED: &[(&str, Space)] = &[
    (".shared", Space::Shared),
    (".shared::cta", Space::Shared),
    (".shared::cluster", Space::Shared),
];

const SCOPES: &[&str] = &[".cta", ".cluster", ".gpu", ".sys"];

const REDUCTIONS: &[(&str, TensorReduction)] = &[
    (".add", TensorReduction::Add),
    (".min", TensorReduction::Min),
    (".max", TensorReduction::Max),
    (".inc", TensorReduction::Inc),
    (".dec", TensorReduction::Dec),
    (".and", TensorReduction::And),
    (".or", TensorReduction::Or),
    (".xor", TensorReduction::Xor),
];

impl<'a> Builder<'_, 'a> {
    pub(super) fn asynchronous(&mut self, i: &Instruction<'a>) -> Result<bool> {
        match i.opcode {
            "cp" => {
                let mut modifiers = Modifiers::of(i);
                let (reduce, tensor) = (modifiers.flag(".reduce"), modifiers.flag(".tensor"));
                if !modifiers.flag(".async") || reduce && !tensor {
                    return Err(self.error("only copies without reduction are supported"));
                }
                if tensor {
                    self.copy_tensor(i, modifiers, reduce)?;
                    return Ok(true);
                }
                if modifiers.flag(".bulk") {
                    self.copy_bulk(i, modifiers)?;
                } else {
                    self.copy_async(i, modifiers)?;
                }
            }
            "mbarrier" => self.mbarrier(i)?,
            "fence" | "membar" => return self.proxy_fence(i),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Fences between kinds of access. All of ours go the same way.
    fn proxy_fence(&mut self, i: &Instruction<'a>) -> Result<bool> {
        let modifiers = Modifiers::of(i);
        let (scope, rest) = modifiers.rest().split_last().unwrap_or((&"", &[]));
        let map = match rest {
            [".proxy", ".tensormap::generic", order] if SCOPES.contains(scope) => Some(*order),
            _ => None,
        };
        let known = match modifiers.rest() {
            [".proxy", ".tensormap::generic", ..] if map == Some(".acquire") => {
                self.arity(i, 2)?;
                self.place(&i.operands[0], Space::Generic)?;
                if self.immediate(&i.operands[1])? != 128 {
                    return Err(self.error("the size must be 128"));
                }
                return self.fence_all();
            }
            [".proxy", ".tensormap::generic", ..] => map == Some(".release"),
            [".proxy", kind, ..] => matches!(*kind, ".alias" | ".async" | ".async::generic"),
            [".mbarrier_init", ".release", ".cluster"] => true,
            _ => return Ok(false),
        };
        if !known {
            return Err(self.error("no such kind of access"));
        }
        self.arity(i, 0)?;
        self.fence_all()
    }

    fn fence_all(&mut self) -> Result<bool> {
        self.emit(Op::Fence {
            scope: FenceScope::SeqCst,
        })?;
        Ok(true)
    }

    /// Waits and groups find every copy complete.
    fn group(&mut self, i: &Instruction<'a>, modifiers: &mut Modifiers<'a>) -> Result<bool> {
        let operands = if modifiers.flag(".commit_group") || modifiers.flag(".wait_all") {
            0
        } else if modifiers.flag(".wait_group") {
            modifiers.flag(".read");
            1
        } else {
            return Ok(false);
        };
        self.arity(i, operands)?;
        if i.operands.iter().any(|o| !matches!(o, Operand::Value(_))) {
            return Err(self.error("the number of groups must be a constant"));
        }
        self.nothing_else(modifiers)?;
        Ok(true)
    }

    /// `cp.async.{ca,cg}.shared.global [to], [from], bytes{, count | ignore}{, policy}`
    fn copy_async(&mut self, i: &Instruction<'a>, mut modifiers: Modifiers<'a>) -> Result<()> {
        if self.group(i, &mut modifiers)? {
            return Ok(());
        }
        if modifiers.take(|m| m == ".mbarrier").is_some() {
            return self.arrive_when_copied(i, modifiers);
        }
        let all = modifiers.choose(&[(".ca", true), (".cg", false)]);
        let all = all.ok_or_else(|| self.error("this form of cp.async is not supported"))?;
        let space = modifiers.choose(SHARED);
        if space.is_none() || !modifiers.flag(".global") {
            return Err(self.error("copies go from .global to .shared"));
        }
        let mut operands = &i.operands[..];
        if modifiers.flag(".L2::cache_hint")
            && let [rest @ .., policy] = operands
        {
            self.d(policy, Ty::B64)?;
            operands = rest;
        }
        modifiers.take(|m| matches!(m, ".L2::64B" | ".L2::128B" | ".L2::256B"));
        self.nothing_else(&modifiers)?;
        let (to, from, bytes, more) = match operands {
            [to, from, bytes] => (to, from, bytes, None),
            [to, from, bytes, more] => (to, from, bytes, Some(more)),
            _ => return Err(self.error("3 or 4 operands are needed, and a policy")),
        };
        let bytes = match (bytes, all) {
            (Operand::Value(Value::Int(16)), _) => 16,
            (Operand::Value(Value::Int(8)), true) => 8,
            (Operand::Value(Value::Int(4)), true) => 4,
            _ => return Err(self.error("4, 8 or 16 bytes are copied; 16 by .cg")),
        };
        let (mut count, mut ignore) = (None, None);
        match more {
            Some(more @ Operand::Not(_)) => ignore = Some(self.p(more)?),
            Some(more) => match self.declared(more)? {
                Some((AnyReg::P(p), _)) => ignore = Some(p),
                _ => count = Some(self.w(more, Ty::U32)?),
            },
            None => {}
        }
        if ignore.is_some() {
            self.demand(Needs::of_name("cp.async: ignore-src"))?;
        }
        let (to, _) = self.place(to, Space::Shared)?;
        let (from, _) = self.place(from, Space::Global)?;
        self.emit(Op::CopyAsync {
            bytes,
            space: Space::Shared,
            to,
            from,
            count,
            ignore,
        })
    }

    /// `cp.async.mbarrier.arrive{.noinc}.b64 [barrier]`
    fn arrive_when_copied(
        &mut self,
        i: &Instruction<'a>,
        mut modifiers: Modifiers<'a>,
    ) -> Result<()> {
        if !modifiers.flag(".arrive") || !modifiers.flag(".b64") {
            return Err(self.error("only .arrive and .b64 are supported"));
        }
        let counted = modifiers.flag(".noinc");
        let space = modifiers.choose(SHARED).unwrap_or(Space::Generic);
        self.nothing_else(&modifiers)?;
        self.arity(i, 1)?;
        let (base, space) = self.place(&i.operands[0], space)?;
        // Without `.noinc` the arrival is one more than were expected, and the copies are complete
        // already: nothing remains but to look whether there is a barrier.
        let (f, count, bytes) = if counted {
            (MbarrierOp::Arrive, Some(self.constant_w(1)?), None)
        } else {
            (MbarrierOp::ExpectTx, None, Some(self.constant_w(0)?))
        };
        self.emit(Op::Mbarrier {
            f,
            space,
            base,
            count,
            bytes,
            d: None,
        })
    }

    /// `cp.async.bulk.TO.FROM.{mbarrier::complete_tx::bytes | bulk_group} [to], [from], bytes{, [barrier]}`
    fn copy_bulk(&mut self, i: &Instruction<'a>, mut modifiers: Modifiers<'a>) -> Result<()> {
        if self.group(i, &mut modifiers)? {
            return Ok(());
        }
        let hint = modifiers.flag(".L2::cache_hint");
        let mut operands = &i.operands[..];
        if hint && let [rest @ .., policy] = operands {
            self.d(policy, Ty::B64)?;
            operands = rest;
        }
        let (spaces, barrier) = match (modifiers.rest(), operands.len()) {
            ([".prefetch", ".L2", ".global"], 2) => {
                self.place(&operands[0], Space::Global)?;
                self.w(&operands[1], Ty::U32)?;
                return Ok(());
            }
            (
                [
                    ".shared::cluster" | ".shared::cta",
                    ".global",
                    ".mbarrier::complete_tx::bytes",
                ],
                4,
            ) => ((Space::Shared, Space::Global), true),
            (
                [
                    ".shared::cluster",
                    ".shared::cta",
                    ".mbarrier::complete_tx::bytes",
                ],
                4,
            ) => ((Space::Shared, Space::Shared), true),
            ([".global", ".shared::cta", ".bulk_group"], 3) => {
                ((Space::Global, Space::Shared), false)
            }
            _ => return Err(self.error("this form of cp.async.bulk is not supported")),
        };
        let (to, _) = self.place(&operands[0], spaces.0)?;
        let (from, _) = self.place(&operands[1], spaces.1)?;
        let bytes = self.w(&operands[2], Ty::U32)?;
        let barrier = if barrier {
            Some(self.place(&operands[3], Space::Shared)?.0)
        } else {
            None
        };
        self.emit(Op::CopyBulk {
            spaces,
            to,
            from,
            bytes,
            barrier,
        })
    }

    /// `cp.async.bulk.tensor.Nd.TO.FROM{.tile}.{mbarrier::complete_tx::bytes | bulk_group}`, with
    /// `[box], [map, {at}], [barrier]` or `[map, {at}], [box]`, and a policy behind. Reductions go to global
    /// memory; prefetches (`cp.async.bulk.prefetch.tensor.Nd.L2.global`) have a place in a tensor alone.
    fn copy_tensor(
        &mut self,
        i: &Instruction<'a>,
        mut modifiers: Modifiers<'a>,
        reduce: bool,
    ) -> Result<()> {
        const RANKS: &[(&str, usize)] =
            &[(".1d", 1), (".2d", 2), (".3d", 3), (".4d", 4), (".5d", 5)];
        let rank = modifiers.choose(RANKS);
        let rank = rank.ok_or_else(|| self.error("the number of dimensions is missing"))?;
        modifiers.flag(".tile");
        if modifiers
            .take(|m| m.starts_with(".im2col") || m.starts_with(".tile::"))
            .is_some()
        {
            return Err(self.error("only copies in tile mode are supported"));
        }
        let f = modifiers.choose(REDUCTIONS);
        if f.is_some() != reduce {
            return Err(self.error("this form of cp.async.bulk.tensor is not supported"));
        }
        let mut operands = &i.operands[..];
        if modifiers.flag(".L2::cache_hint")
            && let [rest @ .., policy] = operands
        {
            self.d(policy, Ty::B64)?;
            operands = rest;
        }
        let (f, tensor, place, barrier) = match (modifiers.rest(), operands) {
            ([".bulk", ".prefetch", ".L2", ".global"], [tensor]) if !reduce => {
                self.tensor(tensor, rank)?;
                return Ok(());
            }
            (
                [
                    ".bulk",
                    ".shared::cluster" | ".shared::cta",
                    ".global",
                    ".mbarrier::complete_tx::bytes",
                ],
                [place, tensor, barrier],
            ) if !reduce => (TensorCopy::Load, tensor, place, Some(barrier)),
            ([".bulk", ".global", ".shared::cta", ".bulk_group"], [tensor, place]) => (
                f.map_or(TensorCopy::Store, TensorCopy::Reduce),
                tensor,
                place,
                None,
            ),
            _ => return Err(self.error("this form of cp.async.bulk.tensor is not supported")),
        };
        let (map, space, at) = self.tensor(tensor, rank)?;
        let (place, _) = self.place(place, Space::Shared)?;
        let barrier = match barrier {
            Some(barrier) => Some(self.place(barrier, Space::Shared)?.0),
            None => None,
        };
        self.emit(Op::CopyTensor {
            f,
            space,
            map,
            at,
            place,
            barrier,
        })
    }

    /// The address of a map, and a place in its tensor.
    fn tensor(
        &mut self,
        operand: &Operand<'a>,
        rank: usize,
    ) -> Result<(Base, Space, [Option<W>; 5])> {
        let Operand::Texel { object, at: list } = operand else {
            return Err(self.error("a tensor map and coordinates are needed"));
        };
        if list.len() != rank {
            return Err(self.error(format!("{rank} coordinates are needed")));
        }
        let mut at = [None; 5];
        for (slot, coordinate) in at.iter_mut().zip(list) {
            *slot = Some(self.w(coordinate, Ty::S32)?);
        }
        let map = Operand::Address {
            base: object.clone(),
            offset: 0,
        };
        let (map, space) = self.place(&map, Space::Generic)?;
        Ok((map, space, at))
    }

    fn mbarrier(&mut self, i: &Instruction<'a>) -> Result<()> {
        let mut modifiers = Modifiers::of(i);
        if !modifiers.flag(".b64") {
            return Err(self.error("only barriers of .b64 are supported"));
        }
        if modifiers.flag(".pending_count") {
            self.nothing_else(&modifiers)?;
            self.arity(i, 2)?;
            let a = self.d(&i.operands[1], Ty::B64)?;
            let d = self.dest_w(&i.operands[0])?;
            return self.emit(Op::MbarrierPending { a, d });
        }
        let space = modifiers.choose(SHARED).unwrap_or(Space::Generic);
        let wait = modifiers.choose(&[(".test_wait", false), (".try_wait", true)]);
        let operation = modifiers.choose(&[
            (".init", MbarrierOp::Init),
            (".inval", MbarrierOp::Inval),
            (".arrive", MbarrierOp::Arrive),
            (".arrive_drop", MbarrierOp::ArriveDrop),
            (".expect_tx", MbarrierOp::ExpectTx),
            (".complete_tx", MbarrierOp::CompleteTx),
        ]);
        // `.expect_tx` is an operation, or half of one.
        let expect = operation.is_some() && modifiers.flag(".expect_tx");
        let (parity, no_complete) = (modifiers.flag(".parity"), modifiers.flag(".noComplete"));
        modifiers.take(|m| matches!(m, ".relaxed" | ".release" | ".acquire"));
        modifiers.take(|m| matches!(m, ".cta" | ".cluster"));
        self.nothing_else(&modifiers)?;
        match (operation, wait) {
            (None, Some(may_suspend)) if !expect && !no_complete => {
                self.mbarrier_wait(i, space, parity, may_suspend)
            }
            (Some(f), None) if !parity => self.mbarrier_change(i, space, f, expect, no_complete),
            _ => Err(self.error("this form of mbarrier is not supported")),
        }
    }

    /// `mbarrier.{test_wait | try_wait}{.parity}.b64 p, [barrier], token | parity{, time}`
    fn mbarrier_wait(
        &mut self,
        i: &Instruction<'a>,
        space: Space,
        parity: bool,
        may_suspend: bool,
    ) -> Result<()> {
        if may_suspend && i.operands.len() == 4 {
            // A hint for how long.
            self.w(&i.operands[3], Ty::U32)?;
        } else {
            self.arity(i, 3)?;
        }
        let ty = if parity { Ty::U32 } else { Ty::B64 };
        let phase = self.any(&i.operands[2], ty)?;
        let (base, space) = self.place(&i.operands[1], space)?;
        let p = self.dest_p(&i.operands[0])?;
        self.emit(Op::MbarrierWait {
            parity,
            space,
            base,
            phase,
            p,
        })?;
        // Who has to wait lets those run that are waited for.
        self.guard = Guard {
            predicate: Some(p),
            negate: true,
        };
        self.emit(Op::Yield {})
    }

    /// Operations that change a barrier.
    fn mbarrier_change(
        &mut self,
        i: &Instruction<'a>,
        space: Space,
        f: MbarrierOp,
        expect: bool,
        no_complete: bool,
    ) -> Result<()> {
        let arrives = matches!(f, MbarrierOp::Arrive | MbarrierOp::ArriveDrop);
        if !arrives && (expect || no_complete) || expect && no_complete {
            return Err(self.error("this form of mbarrier is not supported"));
        }
        let (token, rest) = match &i.operands[..] {
            [token, rest @ ..] if arrives => (Some(token), rest),
            rest => (None, rest),
        };
        let (address, value) = match rest {
            [address] => (address, None),
            [address, value] => (address, Some(self.w(value, Ty::U32)?)),
            _ => return Err(self.error("a barrier and at most one number are needed")),
        };
        let optional = arrives && !expect && !no_complete;
        if value.is_none() && !optional && f != MbarrierOp::Inval
            || value.is_some() && f == MbarrierOp::Inval
        {
            return Err(self.error("wrong number of operands"));
        }
        if optional && value.is_some() {
            self.demand(Needs::of_name("mbarrier.arrive: a count"))?;
        }
        if f == MbarrierOp::Arrive && token == Some(&Operand::Discard) {
            self.demand(Needs::of_name("mbarrier.arrive: no state"))?;
        }
        let bytes = expect || matches!(f, MbarrierOp::ExpectTx | MbarrierOp::CompleteTx);
        let (count, bytes) = if bytes { (None, value) } else { (value, None) };
        let (base, space) = self.place(address, space)?;
        let d = match token {
            None | Some(Operand::Discard) => None,
            Some(token) => Some(self.dest_d(token)?),
        };
        self.emit(Op::Mbarrier {
            f,
            space,
            base,
            count,
            bytes,
            d,
        })
    }

    /// A register with the whole address, and its space.
    fn place(&mut self, operand: &Operand<'a>, space: Space) -> Result<(Base, Space)> {
        let (base, offset, space) = self.address(operand, space)?;
        if offset == 0 {
            return Ok((base, space));
        }
        let base = match base {
            Base::W(a) => {
                let (b, d) = (self.constant_w(offset.cast_unsigned())?, self.temp_w()?);
                self.emit(Op::BinW {
                    f: BinW::Add,
                    a,
                    b,
                    d,
                })?;
                Base::W(d)
            }
            Base::D(a) => {
                let offset = i64::from(offset).cast_unsigned();
                let (b, d) = (self.constant_d(offset)?, self.temp_d()?);
                self.emit(Op::BinD {
                    f: BinD::Add,
                    a,
                    b,
                    d,
                })?;
                Base::D(d)
            }
        };
        Ok((base, space))
    }
}
