//! Syntax tree to intermediate representation: names, layout and the module as a whole.
#![forbid(unsafe_code)]

mod arithmetic;
mod asynchronous;
mod bits;
mod builder;
mod compare;
mod control;
mod convert;
mod float;
mod hints;
mod image;
mod layout;
mod link;
mod matrix;
mod memory;
mod modifiers;
mod operand;
mod rare;
mod small;
mod warp;
mod wide;

use std::collections::{HashMap, HashSet, VecDeque};

use super::ast::{self, Operand, StatementKind};
use super::ir::{self, Kernel, Module, Param};
use super::lexer::Pos;
use super::requirements::{Architecture, Unit};
use super::{CompileError, ErrorKind, Target};
use layout::Layout;

pub(super) type Result<T> = std::result::Result<T, CompileError>;

/// What all functions of a module see.
struct Context<'a> {
    unit: Unit,
    globals: HashMap<&'a str, u32>,
    functions: HashMap<&'a str, Declaration>,
    /// Module-scope shared variables: size (`None`: sized at launch) and alignment.
    shared: HashMap<&'a str, (Option<u32>, u32)>,
}

/// A function as its callers see it.
#[derive(Debug, Clone)]
struct Declaration {
    /// Its index, if it has a body.
    index: Option<u32>,
    entry: bool,
    params: Vec<Param>,
    returns: Vec<Param>,
}

fn failure(pos: Pos, reason: impl Into<String>) -> CompileError {
    CompileError {
        kind: ErrorKind::InvalidPtx,
        line: pos.line,
        column: pos.column,
        instruction: String::new(),
        reason: reason.into(),
    }
}

/// How much is asked of [`lower`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// A module to be run: everything that it refers to must be there.
    Whole,
    /// Only whether the last unit fits to those before it: what it refers to may still come. The module
    /// that results cannot be run.
    Last,
}

/// Lowers the units of a module. An error says which unit it is about.
pub fn lower(
    trees: &[ast::Module<'_>],
    target: &Target,
    extent: Extent,
) -> std::result::Result<Module, (usize, CompileError)> {
    let mut module = Module::default();
    let mut targets = Vec::with_capacity(trees.len());
    for (unit, tree) in trees.iter().enumerate() {
        let checked = check_version(tree, target).map_err(|error| (unit, error))?;
        targets.push(checked);
        let number = checked.architecture.number;
        if number >= module.target_version {
            module.target_version = number;
            module.target = tree.target.first().copied().unwrap_or_default().to_owned();
        }
        module.version = module.version.max(tree.version);
    }
    let units = link::declare(trees, &targets, extent, &mut module)?;
    let common = common_shared(trees, &units)?;
    for (index, (tree, unit)) in trees.iter().zip(&units).enumerate() {
        if extent == Extent::Last && index + 1 < trees.len() {
            continue;
        }
        lower_unit(&mut module, tree, unit, common.layout, &common.units[index])
            .map_err(|error| (index, error))?;
    }
    if extent == Extent::Whole {
        for kernel in 0..module.kernels.len() {
            module.kernels[kernel].local_bytes =
                local_bytes(&module, module.kernels[kernel].function);
        }
        link::check_references(&module, &units)?;
    }
    Ok(module)
}

fn lower_unit<'a>(
    module: &mut Module,
    tree: &ast::Module<'a>,
    unit: &link::Unit<'a>,
    common: Layout,
    shared_of_functions: &UnitShared<'a>,
) -> Result<()> {
    let offsets = &shared_of_functions.module;
    let context = &unit.context;
    for (item, function) in link::functions(tree) {
        let (Some(body), true) = (&function.body, unit.bodies.contains(&item)) else {
            continue;
        };
        let mut shared = Layout::default();
        let mut names: HashMap<&str, u32> = HashMap::new();
        let used = used_names(body);
        let calls = body.iter().any(|statement| {
            matches!(&statement.kind, StatementKind::Instruction(i) if i.opcode == "call")
        });
        if !function.entry || calls || used.iter().any(|name| offsets.contains_key(name)) {
            shared = common;
            names.clone_from(offsets);
        }
        if function.entry {
            for (name, (size, align)) in sorted(&context.shared) {
                if let Some(size) = size
                    && used.contains(name)
                    && !names.contains_key(name)
                {
                    names.insert(name, shared.place(size, align, function.pos)?);
                }
            }
        }
        let own = shared_of_functions.own.get(&item);
        let places = builder::SharedPlaces {
            layout: shared,
            names,
            own: own.cloned().unwrap_or_default(),
        };
        builder::lower_function(module, context, function, body, places)?;
    }
    Ok(())
}

/// What the unit is for.
fn check_version(tree: &ast::Module<'_>, target: &Target) -> Result<Unit> {
    let refuse = |kind, pos: Pos, reason: String| {
        Err(CompileError {
            kind,
            line: pos.line,
            column: pos.column,
            instruction: String::new(),
            reason,
        })
    };
    let (major, minor) = tree.version;
    if tree.version == (0, 0) {
        return Err(failure(Pos::default(), ".version is missing"));
    }
    if tree.version > target.max_ptx_version {
        let (a, b) = target.max_ptx_version;
        let reason = format!("PTX ISA {major}.{minor} is newer than {a}.{b}");
        return refuse(ErrorKind::UnsupportedVersion, tree.version_pos, reason);
    }
    let Some(name) = tree.target.first() else {
        return Err(failure(Pos::default(), ".target is missing"));
    };
    let unsupported = |reason| refuse(ErrorKind::UnsupportedTarget, tree.target_pos, reason);
    let known = Architecture::parse(name).and_then(|found| Some((found, found.introduced()?)));
    let Some((architecture, introduced)) = known else {
        return unsupported(format!("unknown target {name}"));
    };
    if !architecture.runs_on(target.compute_capability) {
        let (major, minor) = target.compute_capability;
        return unsupported(format!(
            "{name} code does not run on a device of capability {major}.{minor}"
        ));
    }
    if tree.version < introduced {
        let (a, b) = introduced;
        let reason =
            format!("PTX ISA {major}.{minor} has no target {name}: that requires version {a}.{b}");
        return Err(failure(tree.target_pos, reason));
    }
    Ok(Unit {
        version: tree.version,
        architecture,
    })
}

/// Shared variables that device functions use: they need one place for all kernels of all units.
struct CommonShared<'a> {
    layout: Layout,
    units: Vec<UnitShared<'a>>,
}

/// Where those of a unit lie.
#[derive(Default)]
struct UnitShared<'a> {
    /// Variables of the module, by name.
    module: HashMap<&'a str, u32>,
    /// Each function's own ones in the order of their declarations, by the function's item. Two functions may
    /// use one name for two variables.
    own: HashMap<usize, VecDeque<u32>>,
}

fn common_shared<'a>(
    trees: &[ast::Module<'a>],
    units: &[link::Unit<'a>],
) -> std::result::Result<CommonShared<'a>, (usize, CompileError)> {
    let mut common = CommonShared {
        layout: Layout::default(),
        units: Vec::with_capacity(trees.len()),
    };
    for (index, (tree, unit)) in trees.iter().zip(units).enumerate() {
        let shared = unit_shared(tree, &unit.context, &mut common.layout);
        common.units.push(shared.map_err(|error| (index, error))?);
    }
    Ok(common)
}

fn unit_shared<'a>(
    tree: &ast::Module<'a>,
    context: &Context<'a>,
    layout: &mut Layout,
) -> Result<UnitShared<'a>> {
    let mut shared = UnitShared::default();
    for (item, function) in link::functions(tree) {
        let (false, Some(body)) = (function.entry, &function.body) else {
            continue;
        };
        let used = used_names(body);
        for (name, (size, align)) in sorted(&context.shared) {
            if let Some(size) = size
                && used.contains(name)
                && !shared.module.contains_key(name)
            {
                let offset = layout.place(size, align, function.pos)?;
                shared.module.insert(name, offset);
            }
        }
        for statement in body {
            if let StatementKind::Variable(variable) = &statement.kind
                && variable.space == ".shared"
            {
                let (size, align) = layout::size_and_align(variable)?;
                let size = layout::small(size, variable.pos)?;
                let offset = layout.place(size, align, variable.pos)?;
                shared.own.entry(item).or_default().push_back(offset);
            }
        }
    }
    Ok(shared)
}

fn sorted<'a, T: Copy>(map: &HashMap<&'a str, T>) -> Vec<(&'a str, T)> {
    let mut list: Vec<_> = map.iter().map(|(name, value)| (*name, *value)).collect();
    list.sort_by_key(|(name, _)| *name);
    list
}

/// Every name that an instruction of the body mentions.
fn used_names<'a>(body: &[ast::Statement<'a>]) -> HashSet<&'a str> {
    fn visit<'a>(operand: &Operand<'a>, names: &mut HashSet<&'a str>) {
        match operand {
            Operand::Name(name) | Operand::Value(ast::Value::Symbol { name, .. }) => {
                names.insert(name);
            }
            Operand::Address { base, .. } => visit(base, names),
            Operand::Texel { object, at } => {
                visit(object, names);
                at.iter().for_each(|o| visit(o, names));
            }
            // Vectors and lists hold no further lists: the parser's grammar is that shallow.
            Operand::Vector(list) | Operand::List(list) => {
                list.iter().for_each(|o| visit(o, names))
            }
            Operand::Pair(a, b) => {
                visit(a, names);
                visit(b, names);
            }
            _ => {}
        }
    }
    let mut names = HashSet::new();
    for statement in body {
        if let StatementKind::Instruction(instruction) = &statement.kind {
            instruction
                .operands
                .iter()
                .for_each(|operand| visit(operand, &mut names));
        }
    }
    names
}

/// The deepest stack that calls from `root` need; `None` where calls may recurse.
fn local_bytes(module: &Module, root: u32) -> Option<u32> {
    #[derive(Clone, Copy)]
    enum Mark {
        Open,
        Done(u32),
    }
    let callees = |function: u32| -> Option<Vec<u32>> {
        let function = &module.functions[usize::try_from(function).ok()?];
        let (start, end) = (
            usize::try_from(function.start).ok()?,
            usize::try_from(function.end).ok()?,
        );
        let mut list = Vec::new();
        for inst in &module.code[start..end] {
            if let ir::Op::Stack { .. } = inst.op {
                return None;
            }
            if let ir::Op::Call { site, .. } = inst.op {
                match module.calls[usize::try_from(site).ok()?].target {
                    ir::CallTarget::Function(callee) => list.push(callee),
                    ir::CallTarget::Indirect => return None,
                    ir::CallTarget::Builtin(_) => {}
                }
            }
        }
        list.sort_unstable();
        list.dedup();
        Some(list)
    };
    let mut marks: HashMap<u32, Mark> = HashMap::new();
    let mut stack = vec![(root, callees(root)?, 0usize, 0u32)];
    marks.insert(root, Mark::Open);
    while let Some((function, list, next, deepest)) = stack.last_mut() {
        let Some(&callee) = list.get(*next) else {
            let own = module.functions[usize::try_from(*function).ok()?].local_bytes;
            let total = own.next_multiple_of(16).checked_add(*deepest)?;
            marks.insert(*function, Mark::Done(total));
            stack.pop();
            match stack.last_mut() {
                Some((.., deepest)) => *deepest = (*deepest).max(total),
                None => return Some(total),
            }
            continue;
        };
        match marks.get(&callee) {
            Some(Mark::Open) => return None,
            Some(Mark::Done(bytes)) => {
                *deepest = (*deepest).max(*bytes);
                *next += 1;
            }
            None => {
                marks.insert(callee, Mark::Open);
                *next += 1;
                stack.push((callee, callees(callee)?, 0, 0));
            }
        }
    }
    None
}

/// Builds the public description of a kernel.
fn kernel(
    function: &ast::Function<'_>,
    index: u32,
    params: Vec<Param>,
    shared: Layout,
) -> Result<Kernel> {
    let mut kernel = Kernel {
        name: function.name.to_owned(),
        function: index,
        param_bytes: params
            .iter()
            .map(|param| param.offset + param.size)
            .max()
            .unwrap_or(0),
        params,
        shared_bytes: shared.size,
        shared_align: shared.align.max(16),
        local_bytes: None,
        register_count: 0,
        max_threads: None,
        required_block: None,
        max_block: None,
        min_blocks_per_sm: None,
    };
    if kernel.param_bytes > 32764 {
        return Err(failure(function.pos, "more than 32764 bytes of parameters"));
    }
    for (name, values) in &function.directives {
        let shape = [0, 1, 2].map(|axis| values.get(axis).copied().unwrap_or(1));
        let volume = shape.iter().try_fold(1u32, |a, &b| a.checked_mul(b));
        match *name {
            ".maxntid" | ".reqntid" => {
                let volume = volume.filter(|&volume| volume > 0 && !values.is_empty());
                let volume = volume
                    .ok_or_else(|| failure(function.pos, format!("{name} is out of range")))?;
                kernel.max_threads = Some(volume);
                kernel.max_block = Some(shape);
                if *name == ".reqntid" {
                    kernel.required_block = Some(shape);
                }
            }
            ".minnctapersm" => kernel.min_blocks_per_sm = values.first().copied(),
            ".explicitcluster" | ".reqnctapercluster" => {
                return Err(failure(function.pos, format!("{name} is not supported")));
            }
            _ => {}
        }
    }
    Ok(kernel)
}
