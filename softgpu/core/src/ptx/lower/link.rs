//! Names across the units of a module: which definition each name means, and what is missing.
//!
//! A unit's own names (no linkage directive) are seen in it alone. Of several definitions of one name the
//! `.visible` one counts, of which there may be one only; without it the first `.weak` one; without
//! that, of variables, the largest `.common` one.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};

use super::super::ast::{self, Function, Item, Linkage, Variable};
use super::super::ir::{self, Global, GlobalSpace, Module, Relocation, RelocationTarget};
use super::super::lexer::Pos;
use super::super::requirements;
use super::super::{CompileError, ErrorKind};
use super::layout::{self, Layout};
use super::{Context, Declaration, Extent, failure};

type LinkResult<T> = Result<T, (usize, CompileError)>;

/// Functions that the executor supplies and no unit defines.
const SUPPLIED: &[&str] = &["vprintf", "__assertfail", "malloc", "free"];

/// What the functions of one unit see, and which of their bodies count.
pub(super) struct Unit<'a> {
    pub(super) context: Context<'a>,
    /// Places among the unit's items.
    pub(super) bodies: HashSet<usize>,
}

/// The functions of a unit, with their places among its items.
pub(super) fn functions<'t, 'a>(
    tree: &'t ast::Module<'a>,
) -> impl Iterator<Item = (usize, &'t Function<'a>)> {
    let items = tree.items.iter().enumerate();
    items.filter_map(|(place, item)| match item {
        Item::Function(function) => Some((place, function)),
        Item::Variable(_) | Item::Alias { .. } => None,
    })
}

fn variables<'t, 'a>(tree: &'t ast::Module<'a>) -> impl Iterator<Item = (usize, &'t Variable<'a>)> {
    let items = tree.items.iter().enumerate();
    items.filter_map(|(place, item)| match item {
        Item::Variable(variable) => Some((place, variable)),
        Item::Function(_) | Item::Alias { .. } => None,
    })
}

/// Enters every name of all units, so that order of declaration does not matter, and lays out the
/// initial values of variables.
pub(super) fn declare<'a>(
    trees: &[ast::Module<'a>],
    targets: &[requirements::Unit],
    extent: Extent,
    module: &mut Module,
) -> LinkResult<Vec<Unit<'a>>> {
    let context = |unit| Context {
        unit,
        globals: HashMap::new(),
        functions: HashMap::new(),
        shared: HashMap::new(),
    };
    let mut units: Vec<Unit<'a>> = targets
        .iter()
        .map(|&unit| Unit {
            context: context(unit),
            bodies: HashSet::new(),
        })
        .collect();
    declare_functions(trees, extent, &mut units)?;
    let owners = declare_variables(trees, module, &mut units)?;
    for (index, (tree, unit)) in trees.iter().zip(&units).enumerate() {
        for (place, variable) in variables(tree) {
            let Some(&global) = unit.context.globals.get(variable.name) else {
                continue;
            };
            let slot = usize::try_from(global).unwrap_or(usize::MAX);
            if owners.get(slot) == Some(&(index, place)) {
                initialize(variable, &unit.context, &mut module.globals[slot])
                    .map_err(|error| (index, error))?;
            }
        }
    }
    Ok(units)
}

/// A definition that other units see.
#[derive(Clone, Copy)]
struct Shown {
    unit: usize,
    place: usize,
    weak: bool,
}

fn declare_functions<'a>(
    trees: &[ast::Module<'a>],
    extent: Extent,
    units: &mut [Unit<'a>],
) -> LinkResult<()> {
    // What each name means to other units, and in each unit.
    let mut shown: HashMap<&'a str, Shown> = HashMap::new();
    let mut own: Vec<HashMap<&'a str, usize>> = Vec::with_capacity(trees.len());
    for (unit, tree) in trees.iter().enumerate() {
        let mut defined = HashMap::new();
        for (place, function) in functions(tree).filter(|(_, f)| f.body.is_some()) {
            if defined.insert(function.name, place).is_some() {
                return Err((unit, twice(function.pos, function.name)));
            }
            if function.linkage == Linkage::Internal {
                continue;
            }
            let new = Shown {
                unit,
                place,
                weak: function.linkage == Linkage::Weak,
            };
            match shown.get(function.name) {
                Some(old) if !old.weak && !new.weak => {
                    return Err((unit, twice(function.pos, function.name)));
                }
                Some(old) if new.weak || !old.weak => {}
                _ => {
                    shown.insert(function.name, new);
                }
            }
        }
        own.push(defined);
    }
    let mut indices: HashMap<(usize, usize), u32> = HashMap::new();
    for (unit, tree) in trees.iter().enumerate() {
        for (place, function) in functions(tree).filter(|(_, f)| f.body.is_some()) {
            let counts = function.linkage == Linkage::Internal
                || shown
                    .get(function.name)
                    .is_some_and(|found| (found.unit, found.place) == (unit, place));
            if counts {
                units[unit].bodies.insert(place);
                let index =
                    layout::count(indices.len(), function.pos).map_err(|error| (unit, error))?;
                indices.insert((unit, place), index);
            }
        }
    }
    for (unit, tree) in trees.iter().enumerate() {
        for (place, function) in functions(tree) {
            // Its definition: in this unit, or the one that other units show.
            let here = own[unit].get(function.name).map(|&place| (unit, place));
            let there = shown
                .get(function.name)
                .map(|found| (found.unit, found.place));
            let counting = here.filter(|key| indices.contains_key(key)).or(there);
            let (from, at) = counting.unwrap_or((unit, place));
            let Some(Item::Function(meant)) = trees[from].items.get(at) else {
                continue;
            };
            let mut frame = Layout::default();
            let params = layout::parameters(&meant.params, &mut frame);
            let params = params.map_err(|error| (from, error))?;
            let returns = layout::parameters(&meant.returns, &mut frame);
            let returns = returns.map_err(|error| (from, error))?;
            let index = counting.and_then(|key| indices.get(&key).copied());
            let to_come = extent == Extent::Last && !SUPPLIED.contains(&function.name);
            let declaration = Declaration {
                index: index.or(to_come.then_some(u32::MAX)),
                entry: meant.entry,
                params,
                returns,
            };
            units[unit]
                .context
                .functions
                .insert(function.name, declaration);
        }
    }
    declare_aliases(trees, &own, units)
}

/// Second names of functions, which other units see if they were declared so.
fn declare_aliases<'a>(
    trees: &[ast::Module<'a>],
    own: &[HashMap<&'a str, usize>],
    units: &mut [Unit<'a>],
) -> LinkResult<()> {
    for (unit, tree) in trees.iter().enumerate() {
        for item in &tree.items {
            let Item::Alias { pos, name, target } = item else {
                continue;
            };
            let refuse = |reason: String| Err((unit, failure(*pos, reason)));
            let found = units[unit].context.functions.get(target);
            let defined = own[unit].contains_key(target);
            let Some(found) = found.filter(|f| defined && !f.entry).cloned() else {
                return refuse(format!("{target} is no function with a body"));
            };
            if own[unit].contains_key(name) {
                return refuse(format!("{name} is defined twice"));
            }
            let declared = functions(tree).find(|(_, function)| function.name == *name);
            let Some((_, declared)) = declared else {
                return refuse(format!("{name} is not declared"));
            };
            units[unit].context.functions.insert(name, found.clone());
            if declared.linkage == Linkage::Internal {
                continue;
            }
            for (other, unit) in units.iter_mut().enumerate() {
                if !own[other].contains_key(name)
                    && let Some(seen) = unit.context.functions.get_mut(name)
                {
                    *seen = found.clone();
                }
            }
        }
    }
    Ok(())
}

fn twice(pos: Pos, name: &str) -> CompileError {
    CompileError {
        kind: ErrorKind::Duplicate,
        ..failure(pos, format!("Multiple definition of '{name}'"))
    }
}

/// Unit and place of the definition that each global has its value from.
type Owners = Vec<(usize, usize)>;

fn declare_variables<'a>(
    trees: &[ast::Module<'a>],
    module: &mut Module,
    units: &mut [Unit<'a>],
) -> LinkResult<Owners> {
    let mut owners = Owners::new();
    // Names that units share.
    let mut linked: HashMap<&'a str, u32> = HashMap::new();
    for (unit, tree) in trees.iter().enumerate() {
        let context = &mut units[unit].context;
        let fails = |error| (unit, error);
        for (place, variable) in variables(tree) {
            let (size, align) = layout::size_and_align(variable).map_err(fails)?;
            if variable.space == ".shared" {
                let size = (size > 0 || !variable.dims.contains(&0)).then_some(size);
                let size = size.map(|size| layout::small(size, variable.pos));
                let size = size.transpose().map_err(fails)?;
                context.shared.insert(variable.name, (size, align));
                continue;
            }
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
                linkage: match variable.linkage {
                    Linkage::Internal => ir::Linkage::Internal,
                    Linkage::Visible => ir::Linkage::Visible,
                    Linkage::Weak => ir::Linkage::Weak,
                    Linkage::Common => ir::Linkage::Common,
                    Linkage::Extern => ir::Linkage::Extern,
                },
            };
            let shared = global.linkage != ir::Linkage::Internal;
            let known = context.globals.get(variable.name).copied();
            let known = known.or_else(|| linked.get(variable.name).copied().filter(|_| shared));
            let index = match known {
                Some(index) => {
                    let slot = usize::try_from(index).unwrap_or(usize::MAX);
                    if meet(&mut module.globals[slot], global, variable.pos).map_err(fails)? {
                        owners[slot] = (unit, place);
                    }
                    index
                }
                None => {
                    let index = layout::count(module.globals.len(), variable.pos);
                    module.globals.push(global);
                    owners.push((unit, place));
                    index.map_err(fails)?
                }
            };
            context.globals.insert(variable.name, index);
            if shared {
                linked.insert(variable.name, index);
            }
        }
    }
    Ok(owners)
}

/// Two declarations of one variable meet; whether the new one counts.
fn meet(old: &mut Global, new: Global, pos: Pos) -> Result<bool, CompileError> {
    let rank = |linkage| match linkage {
        ir::Linkage::Extern => 0,
        ir::Linkage::Common => 1,
        ir::Linkage::Weak => 2,
        ir::Linkage::Visible | ir::Linkage::Internal => 3,
    };
    if old.space != new.space {
        return Err(CompileError {
            kind: ErrorKind::Duplicate,
            ..failure(
                pos,
                format!("Memory space doesn't match for '{}'", new.name),
            )
        });
    }
    match (rank(old.linkage), rank(new.linkage)) {
        (3, 3) => Err(twice(pos, &new.name)),
        (1, 1) => {
            old.size = old.size.max(new.size);
            old.align = old.align.max(new.align);
            Ok(false)
        }
        (before, now) if now > before => {
            *old = new;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Lays out the initial value of a variable.
fn initialize(
    variable: &Variable<'_>,
    context: &Context<'_>,
    global: &mut Global,
) -> Result<(), CompileError> {
    let Some(init) = &variable.init else {
        return Ok(());
    };
    let mut values = Vec::new();
    layout::flatten(init, &variable.dims, &mut values);
    let ty = layout::ty(variable)?;
    let bytes = u64::from(ty.bytes());
    let mut content = Vec::new();
    for (element, value) in values {
        let offset = element.saturating_mul(bytes);
        if offset.saturating_add(bytes) > global.size {
            return Err(failure(variable.pos, "more initial values than elements"));
        }
        let bits = match *value {
            ast::Value::Symbol { name, addend, .. } => {
                let function = context.functions.get(name).and_then(|f| f.index);
                let target = match (context.globals.get(name), function) {
                    (Some(&index), _) => RelocationTarget::Global(index),
                    (_, Some(index)) => RelocationTarget::Function(index),
                    _ => return Err(failure(variable.pos, format!("{name} is not defined"))),
                };
                global.relocations.push(Relocation {
                    offset,
                    bytes: u8::try_from(ty.bytes()).unwrap_or(8),
                    target,
                    addend,
                });
                0
            }
            other => layout::bits(other, ty),
        };
        // The size is at most what `size_and_align` admits.
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let count = usize::try_from(bytes).unwrap_or(8);
        if content.len() < start + count {
            content.resize(start + count, 0);
        }
        content[start..start + count].copy_from_slice(&bits.to_le_bytes()[..count]);
    }
    global.init = content;
    Ok(())
}

/// Refuses a module that uses a variable which no unit defines. Functions are refused where they are called.
pub(super) fn check_references(module: &Module, units: &[Unit<'_>]) -> LinkResult<()> {
    let preloads = module.functions.iter().flat_map(|f| &f.preloads);
    let code = preloads.filter_map(|preload| match preload.value {
        ir::Constant::Global { index, .. } => Some(index),
        _ => None,
    });
    let relocations = module.globals.iter().flat_map(|g| &g.relocations);
    let data = relocations.filter_map(|relocation| match relocation.target {
        RelocationTarget::Global(index) => Some(index),
        RelocationTarget::Function(_) => None,
    });
    for index in code.chain(data) {
        let slot = usize::try_from(index).unwrap_or(usize::MAX);
        let Some(global) = module.globals.get(slot) else {
            continue;
        };
        if global.linkage == ir::Linkage::Extern {
            let names = |unit: &Unit<'_>| unit.context.globals.values().any(|&i| i == index);
            let unit = units.iter().position(names).unwrap_or(0);
            return Err((unit, undefined(Pos::default(), &global.name)));
        }
    }
    Ok(())
}

/// The error of a name that no unit defines.
pub(super) fn undefined(pos: Pos, name: &str) -> CompileError {
    CompileError {
        kind: ErrorKind::Undefined,
        ..failure(pos, format!("Undefined reference to '{name}'"))
    }
}
