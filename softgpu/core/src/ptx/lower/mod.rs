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
mod layout;
mod matrix;
mod memory;
mod modifiers;
mod operand;
mod rare;
mod warp;

use std::collections::{HashMap, HashSet};

use super::ast::{self, Item, Operand, StatementKind};
use super::ir::{self, Global, GlobalSpace, Kernel, Module, Param, Relocation, RelocationTarget};
use super::lexer::Pos;
use super::{CompileError, ErrorKind, Target};
use layout::Layout;

pub(super) type Result<T> = std::result::Result<T, CompileError>;

/// What all functions of a module see.
struct Context<'a> {
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

/// Lowers a module.
pub fn lower(tree: &ast::Module<'_>, target: &Target) -> Result<Module> {
    check_version(tree, target)?;
    let mut module = Module {
        version: tree.version,
        target: tree.target.first().copied().unwrap_or_default().to_owned(),
        ..Module::default()
    };
    let mut context = Context {
        globals: HashMap::new(),
        functions: HashMap::new(),
        shared: HashMap::new(),
    };
    declare(tree, &mut context, &mut module)?;
    initialize(tree, &context, &mut module)?;

    let common = common_shared(tree, &context)?;
    for item in &tree.items {
        let Item::Function(function) = item else {
            continue;
        };
        let Some(body) = &function.body else { continue };
        let mut shared = Layout::default();
        let mut names: HashMap<&str, u32> = HashMap::new();
        let used = used_names(body);
        let calls = body.iter().any(|statement| {
            matches!(&statement.kind, StatementKind::Instruction(i) if i.opcode == "call")
        });
        if !function.entry || calls || used.iter().any(|name| common.offsets.contains_key(name)) {
            shared = common.layout;
            names.clone_from(&common.offsets);
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
        builder::lower_function(&mut module, &context, function, body, shared, names)?;
    }
    for kernel in 0..module.kernels.len() {
        module.kernels[kernel].local_bytes = local_bytes(&module, module.kernels[kernel].function);
    }
    Ok(module)
}

fn check_version(tree: &ast::Module<'_>, target: &Target) -> Result<()> {
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
    let digits = name.strip_prefix("sm_").unwrap_or_default();
    let number = digits.trim_end_matches(['a', 'f']);
    let (device_major, device_minor) = target.compute_capability;
    match number.parse::<u32>() {
        Ok(version)
            if number.len() == digits.len() && version <= device_major * 10 + device_minor =>
        {
            Ok(())
        }
        Ok(version) if version == device_major * 10 + device_minor => Ok(()),
        Ok(_) => {
            let reason = format!(
                "{name} code does not run on a device of capability {device_major}.{device_minor}"
            );
            refuse(ErrorKind::UnsupportedTarget, tree.target_pos, reason)
        }
        Err(_) => refuse(
            ErrorKind::UnsupportedTarget,
            tree.target_pos,
            format!("unknown target {name}"),
        ),
    }
}

/// Enters every name of the module, so that order of declaration does not matter.
fn declare<'a>(
    tree: &ast::Module<'a>,
    context: &mut Context<'a>,
    module: &mut Module,
) -> Result<()> {
    let mut bodies = 0u32;
    for item in &tree.items {
        match item {
            Item::Variable(variable) => {
                let (size, align) = layout::size_and_align(variable)?;
                if variable.space == ".shared" {
                    let size = (size > 0 || !variable.dims.contains(&0)).then_some(size);
                    let size = size
                        .map(|size| layout::small(size, variable.pos))
                        .transpose()?;
                    context.shared.insert(variable.name, (size, align));
                    continue;
                }
                let linkage = match variable.linkage {
                    ast::Linkage::Internal => ir::Linkage::Internal,
                    ast::Linkage::Visible => ir::Linkage::Visible,
                    ast::Linkage::Weak => ir::Linkage::Weak,
                    ast::Linkage::Extern => ir::Linkage::Extern,
                };
                let global = Global {
                    name: variable.name.to_owned(),
                    space: if variable.space == ".const" {
                        GlobalSpace::Const
                    } else {
                        GlobalSpace::Global
                    },
                    size,
                    align,
                    init: Vec::new(),
                    relocations: Vec::new(),
                    linkage,
                };
                match context.globals.get(variable.name) {
                    // A declaration followed or preceded by the definition.
                    Some(&index) => {
                        let slot = &mut module.globals[usize::try_from(index).unwrap_or(0)];
                        if slot.linkage == ir::Linkage::Extern {
                            *slot = global;
                        } else if linkage != ir::Linkage::Extern {
                            return Err(failure(
                                variable.pos,
                                format!("{} is defined twice", variable.name),
                            ));
                        }
                    }
                    None => {
                        let index = layout::count(module.globals.len(), variable.pos)?;
                        context.globals.insert(variable.name, index);
                        module.globals.push(global);
                    }
                }
            }
            Item::Function(function) => {
                let index = function.body.as_ref().map(|_| bodies);
                bodies += u32::from(index.is_some());
                let mut frame = Layout::default();
                let params = layout::parameters(&function.params, &mut frame)?;
                let returns = layout::parameters(&function.returns, &mut frame)?;
                let known = context.functions.get(function.name);
                if let (Some(_), Some(_)) = (known.and_then(|known| known.index), index) {
                    return Err(failure(
                        function.pos,
                        format!("{} is defined twice", function.name),
                    ));
                }
                if index.is_some() || known.is_none() {
                    let declaration = Declaration {
                        index,
                        entry: function.entry,
                        params,
                        returns,
                    };
                    context.functions.insert(function.name, declaration);
                }
            }
            Item::Alias { .. } => {}
        }
    }
    for item in &tree.items {
        let Item::Alias { pos, name, target } = item else {
            continue;
        };
        let found = context.functions.get(target).filter(|f| f.index.is_some());
        let Some(found) = found.filter(|f| !f.entry).cloned() else {
            return Err(failure(
                *pos,
                format!("{target} is no function with a body"),
            ));
        };
        match context.functions.insert(name, found) {
            Some(Declaration { index: Some(_), .. }) => {
                return Err(failure(*pos, format!("{name} is defined twice")));
            }
            Some(_) => {}
            None => return Err(failure(*pos, format!("{name} is not declared"))),
        }
    }
    Ok(())
}

/// Lays out initial values.
fn initialize(tree: &ast::Module<'_>, context: &Context<'_>, module: &mut Module) -> Result<()> {
    for item in &tree.items {
        let Item::Variable(variable) = item else {
            continue;
        };
        let (Some(init), Some(&index)) = (&variable.init, context.globals.get(variable.name))
        else {
            continue;
        };
        let mut values = Vec::new();
        layout::flatten(init, &variable.dims, &mut values);
        let ty = layout::ty(variable)?;
        let bytes = u64::from(ty.bytes());
        let global = &mut module.globals[usize::try_from(index).unwrap_or(0)];
        let mut init = Vec::new();
        for (element, value) in values {
            let offset = element.saturating_mul(bytes);
            if offset.saturating_add(bytes) > global.size {
                return Err(failure(variable.pos, "more initial values than elements"));
            }
            let bits = match *value {
                ast::Value::Symbol { name, addend, .. } => {
                    let target = match (context.globals.get(name), context.functions.get(name)) {
                        (Some(&index), _) => RelocationTarget::Global(index),
                        (
                            _,
                            Some(Declaration {
                                index: Some(index), ..
                            }),
                        ) => RelocationTarget::Function(*index),
                        _ => return Err(failure(variable.pos, format!("{name} is not defined"))),
                    };
                    let bytes = u8::try_from(ty.bytes()).unwrap_or(8);
                    global.relocations.push(Relocation {
                        offset,
                        bytes,
                        target,
                        addend,
                    });
                    0
                }
                other => layout::bits(other, ty),
            };
            // The size is at most what `small` admits.
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let count = usize::try_from(bytes).unwrap_or(8);
            if init.len() < start + count {
                init.resize(start + count, 0);
            }
            init[start..start + count].copy_from_slice(&bits.to_le_bytes()[..count]);
        }
        global.init = init;
    }
    Ok(())
}

/// Shared variables that device functions use: they need one place for all kernels.
struct CommonShared<'a> {
    layout: Layout,
    offsets: HashMap<&'a str, u32>,
}

fn common_shared<'a>(tree: &ast::Module<'a>, context: &Context<'a>) -> Result<CommonShared<'a>> {
    let mut common = CommonShared {
        layout: Layout::default(),
        offsets: HashMap::new(),
    };
    for item in &tree.items {
        let Item::Function(function) = item else {
            continue;
        };
        let (false, Some(body)) = (function.entry, &function.body) else {
            continue;
        };
        let used = used_names(body);
        for (name, (size, align)) in sorted(&context.shared) {
            if let Some(size) = size
                && used.contains(name)
                && !common.offsets.contains_key(name)
            {
                common
                    .offsets
                    .insert(name, common.layout.place(size, align, function.pos)?);
            }
        }
        for statement in body {
            if let StatementKind::Variable(variable) = &statement.kind
                && variable.space == ".shared"
                && !common.offsets.contains_key(variable.name)
            {
                let (size, align) = layout::size_and_align(variable)?;
                let size = layout::small(size, variable.pos)?;
                common.offsets.insert(
                    variable.name,
                    common.layout.place(size, align, variable.pos)?,
                );
            }
        }
    }
    Ok(common)
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
