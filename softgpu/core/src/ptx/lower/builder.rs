//! One function: scopes, registers and its layout. The instruction families are in the sibling files.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU16;

use super::super::ast::{self, Instruction, Operand, Statement, StatementKind};
use super::super::ir::{self, AnyReg, Constant, D, Guard, Inst, Module, Op, P, Preload, W};
use super::super::lexer::Pos;
use super::super::requirements::Needs;
use super::super::{CompileError, allocate, fuse, order, propagate, types::Ty};
use super::layout::{self, Layout};
use super::{Context, Result, failure};

/// Instructions of one module at most.
const MAX_CODE: usize = 1 << 24;

/// Where a name in operand position leads.
#[derive(Debug, Clone, Copy)]
pub(super) enum Symbol {
    /// A piece of the parameter block.
    KernelParam {
        offset: u32,
    },
    /// A piece of the frame: a local variable, a parameter of a function or of a call.
    Frame {
        offset: u32,
        size: u32,
    },
    Shared {
        offset: u32,
    },
    DynamicShared,
    Global(u32),
    Function(u32),
}

/// A scope's names.
#[derive(Debug, Default)]
struct Scope<'a> {
    parent: Option<usize>,
    labels: HashMap<&'a str, usize>,
    registers: HashMap<&'a str, Declared>,
    symbols: HashMap<&'a str, Symbol>,
    /// Registers declared here and used so far.
    known: HashMap<&'a str, (AnyReg, Ty)>,
    frame_size: u32,
}

#[derive(Debug, Clone, Copy)]
struct Declared {
    ty: Ty,
    /// `name<count>`
    count: Option<u32>,
    vector: u32,
}

/// What a `label:` before a directive names.
#[derive(Debug)]
pub(super) enum Named<'a> {
    Targets(Vec<&'a str>),
    Prototype(super::Declaration),
}

/// Where a function's shared variables lie.
pub(super) struct SharedPlaces<'a> {
    /// What is taken already.
    pub layout: Layout,
    /// Variables of the module.
    pub names: HashMap<&'a str, u32>,
    /// A device function's own ones, in order: they have one place in all kernels.
    pub own: VecDeque<u32>,
}

pub(super) struct Builder<'m, 'a> {
    pub(super) module: &'m mut Module,
    pub(super) context: &'m Context<'a>,
    pub(super) entry: bool,
    pub(super) code: Vec<Inst>,
    lines: Vec<u32>,
    pub(super) pos: Pos,
    pub(super) guard: Guard,
    scopes: Vec<Scope<'a>>,
    scope: usize,
    /// Where each label lies, by label number, once it has been met.
    labels: Vec<Option<u32>>,
    /// Jump tables to be resolved at the end: module table and label numbers.
    pub(super) tables: Vec<(usize, Vec<u32>)>,
    pub(super) named: HashMap<&'a str, Named<'a>>,
    registers: ir::RegisterCounts,
    preloads: HashMap<(u8, Constant), AnyReg>,
    frame: Layout,
    pub(super) frame_high: u32,
    shared: SharedPlaces<'a>,
    carry: Option<P>,
    /// Of registers of 128 bits, the upper halves by the lower ones.
    upper_halves: HashMap<D, D>,
    /// Registers that a function returns, and where in its frame.
    returned: Vec<(AnyReg, u32, Ty)>,
}

pub(super) fn lower_function<'a>(
    module: &mut Module,
    context: &Context<'a>,
    function: &ast::Function<'a>,
    body: &[Statement<'a>],
    shared: SharedPlaces<'a>,
) -> Result<()> {
    let declaration = &context.functions[function.name];
    let mut builder = Builder {
        module,
        context,
        entry: function.entry,
        code: Vec::new(),
        lines: Vec::new(),
        pos: function.pos,
        guard: Guard::ALWAYS,
        scopes: vec![Scope::default()],
        scope: 0,
        labels: Vec::new(),
        tables: Vec::new(),
        named: HashMap::new(),
        registers: ir::RegisterCounts { w: 1, d: 1, p: 1 },
        preloads: HashMap::new(),
        frame: Layout::default(),
        frame_high: 0,
        shared,
        carry: None,
        upper_halves: HashMap::new(),
        returned: Vec::new(),
    };
    builder.collect_labels(body)?;
    builder.enter_parameters(function)?;
    let mut next_scope = 1;
    for statement in body {
        builder.pos = statement.pos;
        builder.statement(statement, &mut next_scope)?;
    }
    builder.guard = Guard::ALWAYS;
    builder.return_or_exit()?;
    builder.finish(function, declaration)
}

impl<'a> Builder<'_, 'a> {
    fn collect_labels(&mut self, body: &[Statement<'a>]) -> Result<()> {
        let mut scope = 0;
        for statement in body {
            match &statement.kind {
                StatementKind::Open => {
                    self.scopes.push(Scope {
                        parent: Some(scope),
                        ..Scope::default()
                    });
                    scope = self.scopes.len() - 1;
                }
                StatementKind::Close => scope = self.scopes[scope].parent.unwrap_or(0),
                StatementKind::Label(name) => {
                    let number = self.labels.len();
                    self.labels.push(None);
                    if self.scopes[scope].labels.insert(name, number).is_some() {
                        return Err(failure(
                            statement.pos,
                            format!("label {name} is defined twice"),
                        ));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn enter_parameters(&mut self, function: &ast::Function<'a>) -> Result<()> {
        if function.entry {
            let mut area = Layout::default();
            let params = layout::parameters(&function.params, &mut area)?;
            for (variable, param) in function.params.iter().zip(params) {
                self.define(
                    variable.name,
                    Symbol::KernelParam {
                        offset: param.offset,
                    },
                );
            }
            return Ok(());
        }
        for (variable, returned) in function
            .params
            .iter()
            .map(|variable| (variable, false))
            .chain(function.returns.iter().map(|variable| (variable, true)))
        {
            let (size, align) = layout::size_and_align(variable)?;
            let size = layout::small(size, variable.pos)?;
            let offset = self.frame.place(size, align, variable.pos)?;
            self.frame_high = self.frame_high.max(self.frame.size);
            if variable.space == ".param" {
                self.define(variable.name, Symbol::Frame { offset, size });
                continue;
            }
            let ty = layout::ty(variable)?;
            let declared = Declared {
                ty,
                count: None,
                vector: 1,
            };
            self.scopes[0].registers.insert(variable.name, declared);
            let Some((register, _)) = self.register(variable.name)? else {
                continue;
            };
            if returned {
                self.returned.push((register, offset, ty));
            } else {
                self.frame_access(offset, ty, register, false)?;
            }
        }
        Ok(())
    }

    /// Stores returned registers and leaves.
    pub(super) fn return_or_exit(&mut self) -> Result<()> {
        for (register, offset, ty) in self.returned.clone() {
            self.frame_access(offset, ty, register, true)?;
        }
        self.emit(if self.entry { Op::Exit {} } else { Op::Ret {} })
    }

    fn statement(&mut self, statement: &Statement<'a>, next_scope: &mut usize) -> Result<()> {
        match &statement.kind {
            StatementKind::Open => {
                self.scope = *next_scope;
                *next_scope += 1;
                self.scopes[self.scope].frame_size = self.frame.size;
            }
            StatementKind::Close => {
                let scope = &mut self.scopes[self.scope];
                self.frame.size = scope.frame_size;
                let parent = scope.parent.unwrap_or(0);
                *scope = Scope {
                    parent: Some(parent),
                    ..Scope::default()
                };
                self.scope = parent;
            }
            StatementKind::Label(name) => {
                let number = self.scopes[self.scope].labels[name];
                self.labels[number] = Some(layout::count(self.code.len(), self.pos)?);
            }
            StatementKind::Registers { ty, vector, names } => {
                let parsed = Ty::parse(ty).ok_or_else(|| {
                    self.error(format!("registers of type {ty} are not supported"))
                })?;
                if parsed == Ty::B128 {
                    self.demand(Needs::of_name(".reg: .b128"))?;
                }
                for &(name, count) in names {
                    let declared = Declared {
                        ty: parsed,
                        count,
                        vector: *vector,
                    };
                    self.scopes[self.scope].registers.insert(name, declared);
                }
            }
            StatementKind::Variable(variable) => self.variable(variable)?,
            StatementKind::Targets(targets) => {
                if let Some(name) = self.last_label() {
                    self.named.insert(name, Named::Targets(targets.clone()));
                }
            }
            StatementKind::Prototype { returns, params } => {
                let mut frame = Layout::default();
                let params = layout::parameters(params, &mut frame)?;
                let returns = layout::parameters(returns, &mut frame)?;
                let declaration = super::Declaration {
                    index: None,
                    entry: false,
                    params,
                    returns,
                };
                if let Some(name) = self.last_label() {
                    self.named.insert(name, Named::Prototype(declaration));
                }
            }
            StatementKind::Instruction(instruction) => {
                let named = |mut error: CompileError| {
                    error.instruction = instruction.text.chars().take(120).collect();
                    error
                };
                self.guard = self.guard(instruction).map_err(named)?;
                self.instruction(instruction).map_err(named)?;
            }
        }
        Ok(())
    }

    /// The label at the current place that was entered last.
    fn last_label(&self) -> Option<&'a str> {
        let here = u32::try_from(self.code.len()).ok();
        let labels = self.scopes[self.scope].labels.iter();
        labels
            .filter(|(_, number)| self.labels[**number] == here)
            .max_by_key(|(_, number)| **number)
            .map(|(name, _)| *name)
    }

    fn variable(&mut self, variable: &ast::Variable<'a>) -> Result<()> {
        let (size, align) = layout::size_and_align(variable)?;
        let symbol = match variable.space {
            ".local" | ".param" => {
                let size = layout::small(size, variable.pos)?;
                let offset = self.frame.place(size, align, variable.pos)?;
                self.frame_high = self.frame_high.max(self.frame.size);
                Symbol::Frame { offset, size }
            }
            ".shared" => {
                let offset = match self.shared.own.pop_front() {
                    Some(offset) => offset,
                    None => {
                        let size = layout::small(size, variable.pos)?;
                        self.shared.layout.place(size, align, variable.pos)?
                    }
                };
                Symbol::Shared { offset }
            }
            other => {
                return Err(self.error(format!("{other} variables are not supported in functions")));
            }
        };
        self.define(variable.name, symbol);
        Ok(())
    }

    /// Room in the frame for a value of `size` bytes.
    pub(super) fn reserve(&mut self, size: u32) -> Result<u32> {
        let offset = self.frame.place(size, size, self.pos)?;
        self.frame_high = self.frame_high.max(self.frame.size);
        Ok(offset)
    }

    fn define(&mut self, name: &'a str, symbol: Symbol) {
        self.scopes[self.scope].symbols.insert(name, symbol);
    }

    fn guard(&mut self, instruction: &Instruction<'a>) -> Result<Guard> {
        self.guard = Guard::ALWAYS;
        let Some((negate, name)) = instruction.guard else {
            return Ok(Guard::ALWAYS);
        };
        let mut predicate = self.p(&Operand::Name(name))?;
        // Several operations may come of one instruction: what the first writes must not stop the rest.
        let writes_predicate = matches!(
            instruction.opcode,
            "setp"
                | "mov"
                | "and"
                | "or"
                | "xor"
                | "not"
                | "shfl"
                | "vote"
                | "match"
                | "testp"
                | "lop3"
                | "elect"
                | "isspacep"
        );
        if writes_predicate {
            let copy = self.temp_p()?;
            self.emit(Op::MovP {
                negate: false,
                a: predicate,
                d: copy,
            })?;
            predicate = copy;
        }
        Ok(Guard {
            predicate: Some(predicate),
            negate,
        })
    }

    pub(super) fn error(&self, reason: impl Into<String>) -> CompileError {
        failure(self.pos, reason)
    }

    pub(super) fn emit(&mut self, op: Op) -> Result<()> {
        if self.code.len() + self.module.code.len() >= MAX_CODE {
            return Err(self.error("too many instructions"));
        }
        self.code.push(Inst {
            guard: self.guard,
            op,
        });
        self.lines.push(self.pos.line);
        Ok(())
    }

    // Registers.

    fn new_index(&mut self, class: u8) -> Result<NonZeroU16> {
        let counter = match class {
            0 => &mut self.registers.w,
            1 => &mut self.registers.d,
            _ => &mut self.registers.p,
        };
        let index = NonZeroU16::new(*counter).filter(|index| index.get() < u16::MAX);
        *counter = counter.saturating_add(1);
        index.ok_or_else(|| failure(self.pos, "function uses too many registers"))
    }

    pub(super) fn temp_w(&mut self) -> Result<W> {
        Ok(W(self.new_index(0)?))
    }

    pub(super) fn temp_d(&mut self) -> Result<D> {
        Ok(D(self.new_index(1)?))
    }

    pub(super) fn temp_p(&mut self) -> Result<P> {
        Ok(P(self.new_index(2)?))
    }

    pub(super) fn new_register(&mut self, bits: u32) -> Result<AnyReg> {
        Ok(match bits {
            1 => AnyReg::P(self.temp_p()?),
            64 => AnyReg::D(self.temp_d()?),
            _ => AnyReg::W(self.temp_w()?),
        })
    }

    /// The carry flag.
    pub(super) fn carry(&mut self) -> Result<P> {
        match self.carry {
            Some(carry) => Ok(carry),
            None => {
                let carry = self.temp_p()?;
                self.carry = Some(carry);
                Ok(carry)
            }
        }
    }

    /// A register that holds `value`.
    pub(super) fn preload(&mut self, bits: u32, value: Constant) -> Result<AnyReg> {
        let class = match bits {
            1 => 2,
            64 => 1,
            _ => 0,
        };
        if let Some(&register) = self.preloads.get(&(class, value)) {
            return Ok(register);
        }
        let register = self.new_register(bits)?;
        self.preloads.insert((class, value), register);
        Ok(register)
    }

    pub(super) fn constant_w(&mut self, value: u32) -> Result<W> {
        match self.preload(32, Constant::Bits(u64::from(value)))? {
            AnyReg::W(register) => Ok(register),
            _ => Err(self.error("constant of the wrong width")),
        }
    }

    pub(super) fn constant_d(&mut self, value: u64) -> Result<D> {
        match self.preload(64, Constant::Bits(value))? {
            AnyReg::D(register) => Ok(register),
            _ => Err(self.error("constant of the wrong width")),
        }
    }

    /// The declared register called `name`, which must not have 128 bits.
    pub(super) fn register(&mut self, name: &'a str) -> Result<Option<(AnyReg, Ty)>> {
        match self.find_register(name)? {
            Some((_, Ty::B128)) => Err(self.error(format!("{name} has 128 bits"))),
            found => Ok(found),
        }
    }

    /// The two halves of the declared register called `name`, if that has 128 bits.
    pub(super) fn pair_of(&mut self, name: &'a str) -> Result<Option<[D; 2]>> {
        let Some((AnyReg::D(low), Ty::B128)) = self.find_register(name)? else {
            return Ok(None);
        };
        let high = match self.upper_halves.get(&low) {
            Some(&high) => high,
            None => self.temp_d()?,
        };
        self.upper_halves.insert(low, high);
        Ok(Some([low, high]))
    }

    fn find_register(&mut self, name: &'a str) -> Result<Option<(AnyReg, Ty)>> {
        let (stem, element) = match name.rsplit_once('.') {
            Some((stem, "x" | "r")) => (stem, Some(0)),
            Some((stem, "y" | "g")) => (stem, Some(1)),
            Some((stem, "z" | "b")) => (stem, Some(2)),
            Some((stem, "w" | "a")) => (stem, Some(3)),
            _ => (name, None),
        };
        let prefix = stem.trim_end_matches(|c: char| c.is_ascii_digit());
        let mut scope = Some(self.scope);
        while let Some(index) = scope {
            if let Some(&known) = self.scopes[index].known.get(name) {
                return Ok(Some(known));
            }
            let exact = self.scopes[index]
                .registers
                .get(stem)
                .filter(|declared| declared.count.is_none());
            let declared = exact.copied().or_else(|| {
                let declared = self.scopes[index].registers.get(prefix)?;
                let number: u32 = stem[prefix.len()..].parse().ok()?;
                (number < declared.count?).then_some(*declared)
            });
            if let Some(declared) = declared {
                let limit = if declared.vector == 1 {
                    None
                } else {
                    Some(declared.vector)
                };
                match (limit, element) {
                    (None, None) => {}
                    (Some(limit), Some(element)) if element < limit => {}
                    _ => return Err(self.error(format!("{name} is not a scalar register"))),
                }
                let register = self.new_register(declared.ty.bits().min(64))?;
                self.scopes[index]
                    .known
                    .insert(name, (register, declared.ty));
                return Ok(Some((register, declared.ty)));
            }
            scope = self.scopes[index].parent.filter(|_| index != 0);
        }
        Ok(None)
    }

    // Names.

    pub(super) fn symbol(&self, name: &str) -> Option<Symbol> {
        let mut scope = Some(self.scope);
        while let Some(index) = scope {
            if let Some(&symbol) = self.scopes[index].symbols.get(name) {
                return Some(symbol);
            }
            scope = self.scopes[index].parent.filter(|_| index != 0);
        }
        if let Some((size, _)) = self.context.shared.get(name) {
            return match (size, self.shared.names.get(name)) {
                (None, _) => Some(Symbol::DynamicShared),
                (_, Some(&offset)) => Some(Symbol::Shared { offset }),
                _ => None,
            };
        }
        if let Some(&index) = self.context.globals.get(name) {
            return Some(Symbol::Global(index));
        }
        let function = self.context.functions.get(name)?;
        function
            .index
            .filter(|_| !function.entry)
            .map(Symbol::Function)
    }

    /// The number of the label `name`, seen from the current scope.
    pub(super) fn label(&self, name: &str) -> Result<u32> {
        let mut scope = Some(self.scope);
        while let Some(index) = scope {
            if let Some(&number) = self.scopes[index].labels.get(name) {
                return layout::count(number, self.pos);
            }
            scope = self.scopes[index].parent.filter(|_| index != 0);
        }
        Err(self.error(format!("label {name} is not defined")))
    }

    /// Checks how many operands there are.
    pub(super) fn arity(&self, instruction: &Instruction<'a>, count: usize) -> Result<()> {
        if instruction.operands.len() == count {
            return Ok(());
        }
        Err(self.error(format!(
            "{count} operands are needed, not {}",
            instruction.operands.len()
        )))
    }

    /// Refuses what the unit's target or version does not have.
    pub(super) fn demand(&self, needs: Needs) -> Result<()> {
        match needs.missing(self.context.unit) {
            Some(reason) => Err(self.error(reason)),
            None => Ok(()),
        }
    }

    fn instruction(&mut self, i: &Instruction<'a>) -> Result<()> {
        self.demand(Needs::of(i))?;
        let known = self.pairs(i)?
            || self.asynchronous(i)?
            || self.rare(i)?
            || self.hints(i)?
            || self.memory(i)?
            || self.control(i)?
            || self.arithmetic(i)?
            || self.float(i)?
            || self.conversion(i)?
            || self.warp(i)?
            || self.matrix(i)?
            || self.image(i)?;
        if known {
            return Ok(());
        }
        Err(self.error(format!("instruction {} is not supported", i.opcode)))
    }

    fn finish(
        mut self,
        function: &ast::Function<'a>,
        declaration: &super::Declaration,
    ) -> Result<()> {
        let base = layout::count(self.module.code.len(), self.pos)?;
        // A label may lie past the last instruction only if that is the final return.
        let resolve = |labels: &[Option<u32>], number: u32| -> Option<u32> {
            labels.get(usize::try_from(number).ok()?).copied().flatten()
        };
        for inst in &mut self.code {
            if let Op::Bra { target } = &mut inst.op {
                *target = resolve(&self.labels, *target)
                    .ok_or_else(|| failure(function.pos, "branch to a label of a closed scope"))?;
            }
        }
        for (table, labels) in &self.tables {
            let entries = labels
                .iter()
                .map(|&label| resolve(&self.labels, label))
                .collect::<Option<Vec<_>>>();
            self.module.tables[*table] = entries
                .ok_or_else(|| failure(function.pos, "jump table names an unknown label"))?;
        }
        let mut preloads: Vec<_> = self
            .preloads
            .iter()
            .map(|(&(_, value), &register)| Preload { register, value })
            .collect();
        preloads.sort_unstable_by_key(|preload| preload.register);
        let tables: Vec<usize> = self.tables.iter().map(|(table, _)| *table).collect();
        order::order(
            &mut self.code,
            &mut self.lines,
            &mut self.module.tables,
            &tables,
        );
        propagate::propagate(
            &mut self.code,
            &mut self.lines,
            &preloads,
            &mut self.module.tables,
            &tables,
        );
        fuse::fuse(
            &mut self.code,
            &mut self.lines,
            &mut self.module.tables,
            &tables,
        );
        let registers = allocate::allocate(
            &mut self.code,
            &mut preloads,
            self.registers,
            &self.module.tables,
        );
        for inst in &mut self.code {
            if let Op::Bra { target } = &mut inst.op {
                *target += base;
            }
        }
        for table in tables {
            self.module.tables[table]
                .iter_mut()
                .for_each(|target| *target += base);
        }
        let index = layout::count(self.module.functions.len(), self.pos)?;
        if self.entry {
            let mut kernel = super::kernel(
                function,
                index,
                declaration.params.clone(),
                self.shared.layout,
            )?;
            let count = u32::from(registers.w) + 2 * u32::from(registers.d);
            kernel.register_count = count.clamp(8, 255);
            self.module.kernels.push(kernel);
        }
        self.module.code.append(&mut self.code);
        self.module.lines.append(&mut self.lines);
        self.module.functions.push(ir::Function {
            name: function.name.to_owned(),
            start: base,
            end: layout::count(self.module.code.len(), self.pos)?,
            registers,
            preloads,
            params: if self.entry {
                Vec::new()
            } else {
                declaration.params.clone()
            },
            returns: declaration.returns.clone(),
            local_bytes: self.frame_high,
        });
        Ok(())
    }
}

/// Bits of the file a register lies in.
pub(super) fn register_bits(register: AnyReg) -> u32 {
    match register {
        AnyReg::W(_) => 32,
        AnyReg::D(_) => 64,
        AnyReg::P(_) => 1,
    }
}

/// Bits of the file that values of a type lie in.
pub(super) fn register_class(ty: Ty) -> u32 {
    match ty.bits() {
        1 => 1,
        64 => 64,
        _ => 32,
    }
}
