//! Reads `cuda-abi/decl/`: the one declaration of each driver function.
//!
//! The format is described in `docs/adding-a-function.md`. Whatever a declaration leaves out is
//! derived from the function's signature in the pinned header.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::facts::{Export, Facts};
use crate::groups::Groups;

/// How a call travels (ARCHITECTURE, D6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    Local,
    Cached,
    Async,
    Inline,
    Blocking,
}

impl Class {
    pub fn is_remote(self) -> bool {
        matches!(self, Class::Async | Class::Inline | Class::Blocking)
    }
}

/// Who writes one side of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Half {
    #[default]
    Generated,
    Hand,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDeclaration {
    op: Option<u16>,
    class: Class,
    group: String,
    audit: String,
    #[serde(default)]
    client: Half,
    #[serde(default)]
    worker: Half,
    #[serde(default)]
    args: BTreeMap<String, String>,
    /// Flag parameters of a posted function, with the bits that the driver knows: it refuses others at once.
    #[serde(default)]
    flags: BTreeMap<String, u32>,
    /// Whether the call needs a current context, where the signature does not tell.
    context: Option<bool>,
    #[serde(default)]
    record: Vec<String>,
    #[serde(default)]
    reply: Vec<String>,
    /// Why the halves are written by hand, or what a reader must know.
    #[serde(default)]
    note: String,
    /// Why no test can show the function yet; required of one that none shows, refused otherwise.
    #[serde(default)]
    unshown: String,
}

/// What one parameter is to the generator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A scalar that crosses as it is.
    Value,
    /// An opaque handle that the worker resolves; its kind.
    Handle(String),
    /// A handle that ceases to exist with this call.
    Destroy(String),
    /// A pointer through which a client-minted handle is returned.
    New(String),
    /// A pointer through which the handle of an object that the worker names is returned.
    Named(String),
    /// A pointer through which one scalar is returned; whether NULL is allowed.
    Out { optional: bool },
    /// A device address, checked against the client's ranges for the length named (a parameter).
    Device { length: String },
}

#[derive(Debug, Clone)]
pub struct Argument {
    pub name: String,
    pub c_type: String,
    pub role: Role,
}

/// A field of a hand-declared record or reply: name and Rust scalar type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub rust_type: String,
}

#[derive(Debug, Clone)]
pub struct Declaration {
    pub name: String,
    /// The function whose halves serve it: itself, or the newer form of an alias.
    pub served_by: String,
    pub chapter: String,
    pub op: Option<u16>,
    pub class: Class,
    pub group: String,
    pub audit: String,
    /// The group that a zone must be granted; none for what is never refused.
    pub requires: Option<String>,
    pub client: Half,
    pub worker: Half,
    pub arguments: Vec<Argument>,
    pub flags: BTreeMap<String, u32>,
    pub needs_context: bool,
    pub record: Vec<Field>,
    pub reply: Vec<Field>,
    /// Becomes the documentation of the request.
    pub note: String,
    /// Why no test shows it; empty if one does.
    pub unshown: String,
    /// Records of our own protocol (`vgpu*`) that no exported function stands behind.
    pub internal: bool,
    pub has_per_thread_form: bool,
}

impl Declaration {
    pub fn has_stream(&self) -> bool {
        self.arguments
            .iter()
            .any(|argument| argument.c_type == "CUstream")
    }

    /// Per-thread forms of functions without a stream parameter tell the half which default stream is meant.
    pub fn takes_default_stream(&self) -> bool {
        self.has_per_thread_form && !self.has_stream()
    }
}

#[derive(Debug)]
pub struct Declarations {
    pub functions: Vec<Declaration>,
    /// What policy can grant.
    pub groups: Groups,
    /// Prefixes of names that callers probe for: the resolver answers NULL instead of a refusing stub.
    pub probes: Vec<String>,
    /// Older names, and the functions that serve them.
    pub aliases: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unsupported {
    probes: Vec<String>,
}

impl Declarations {
    pub fn read(root: &Path, facts: &Facts) -> Result<Self, String> {
        let folder = root.join("cuda-abi/decl");
        let groups = Groups::read(root)?;
        let mut paths: Vec<_> = fs::read_dir(&folder)
            .map_err(|error| format!("cannot list {}: {error}", folder.display()))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "toml")
            })
            .collect();
        paths.sort();
        let mut functions = Vec::new();
        let mut probes = Vec::new();
        let mut aliases = BTreeMap::<String, String>::new();
        for path in paths {
            let text = fs::read_to_string(&path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            let chapter = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if chapter == "groups" {
                continue;
            }
            if chapter == "unsupported" {
                let unsupported: Unsupported = toml::from_str(&text)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                probes = unsupported.probes;
                continue;
            }
            if chapter == "aliases" {
                aliases = toml::from_str(&text)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                continue;
            }
            let table: BTreeMap<String, RawDeclaration> =
                toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
            for (name, raw) in table {
                let declaration = resolve(&name, &chapter, raw, facts, &groups)
                    .map_err(|error| format!("{}: {name}: {error}", path.display()))?;
                functions.push(declaration);
            }
        }
        for (name, newer) in &aliases {
            let declaration = alias(name, newer, &functions, facts)
                .map_err(|error| format!("aliases.toml: {name}: {error}"))?;
            functions.push(declaration);
        }
        functions.sort_by(|left, right| left.name.cmp(&right.name));
        check_opcodes(&functions)?;
        Ok(Self {
            functions,
            groups,
            probes,
            aliases,
        })
    }

    pub fn remote(&self) -> impl Iterator<Item = &Declaration> {
        self.functions
            .iter()
            .filter(|function| function.op.is_some())
    }

    pub fn exported(&self) -> impl Iterator<Item = &Declaration> {
        self.functions.iter().filter(|function| !function.internal)
    }
}

/// An older name, declared as its newer form is but for the opcode: nothing is posted under it.
fn alias(
    name: &str,
    newer: &str,
    functions: &[Declaration],
    facts: &Facts,
) -> Result<Declaration, String> {
    let target = functions.iter().find(|function| function.name == newer);
    let target = target.ok_or_else(|| format!("{newer} is not declared"))?;
    let types = |name: &str| -> Option<Vec<&str>> {
        let export = facts.exports.get(name)?;
        let types = export.parameters.iter().map(|p| p.c_type.as_str());
        Some(types.collect())
    };
    match types(name) {
        None => Err("no such exported name in cuda-abi/data/functions.tsv".to_owned()),
        found if found == types(newer) => Ok(Declaration {
            name: name.to_owned(),
            op: None,
            unshown: String::new(),
            ..target.clone()
        }),
        Some(_) => Err(format!("{newer} has other parameters")),
    }
}

fn check_opcodes(functions: &[Declaration]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for function in functions {
        if let Some(op) = function.op {
            if op == 0 {
                return Err(format!("{}: opcode 0 is the ring's padding", function.name));
            }
            if !seen.insert(op) {
                return Err(format!("{}: opcode {op} is already taken", function.name));
            }
        }
    }
    Ok(())
}

fn resolve(
    name: &str,
    chapter: &str,
    raw: RawDeclaration,
    facts: &Facts,
    groups: &Groups,
) -> Result<Declaration, String> {
    let internal = name.starts_with("vgpu");
    let export = facts.exports.get(name);
    let arguments = match (internal, export) {
        (true, _) => Vec::new(),
        (false, Some(export)) => arguments(export, &raw)?,
        (false, None) => {
            return Err("no such exported name in cuda-abi/data/functions.tsv".to_owned());
        }
    };
    let generated_half = !internal
        && (raw.client == Half::Generated || (raw.op.is_some() && raw.worker == Half::Generated));
    if generated_half && !raw.record.is_empty() {
        return Err("a declared record needs both halves written by hand".to_owned());
    }
    if raw.class.is_remote() && raw.op.is_none() && raw.client == Half::Generated {
        return Err("a remote function needs a stable opcode: op = N".to_owned());
    }
    if !raw.class.is_remote() && raw.op.is_some() {
        return Err("a local or cached function posts nothing and has no opcode".to_owned());
    }
    let ends_something = arguments
        .iter()
        .any(|argument| matches!(argument.role, Role::Destroy(_)));
    if ends_something && raw.audit != "release" {
        return Err("what ends an object is never refused: audit = \"release\"".to_owned());
    }
    Ok(Declaration {
        requires: groups.required(&raw.group, &raw.audit)?,
        name: name.to_owned(),
        served_by: name.to_owned(),
        chapter: chapter.to_owned(),
        op: raw.op,
        class: raw.class,
        group: raw.group,
        audit: raw.audit,
        client: raw.client,
        worker: raw.worker,
        needs_context: raw.context.unwrap_or_else(|| !is_about_graphs(&arguments)),
        arguments,
        flags: raw.flags,
        record: fields(&raw.record)?,
        reply: fields(&raw.reply)?,
        note: raw.note,
        unshown: raw.unshown,
        internal,
        has_per_thread_form: facts.per_thread_form(name).is_some(),
    })
}

/// Graphs belong to no context; only a stream that runs one does.
fn is_about_graphs(arguments: &[Argument]) -> bool {
    let names = |kinds: &[&str]| {
        arguments.iter().any(|argument| {
            let kind = handle_kind(argument.c_type.trim_end_matches('*').trim_end());
            kind.is_some_and(|kind| kinds.contains(&kind))
        })
    };
    names(&GRAPH_KINDS) && !names(&["STREAM"])
}

fn fields(items: &[String]) -> Result<Vec<Field>, String> {
    items
        .iter()
        .map(|item| {
            let (name, rust_type) = item
                .split_once(':')
                .ok_or_else(|| format!("write {item:?} as \"name: type\""))?;
            let (name, rust_type) = (name.trim(), rust_type.trim());
            if !["u64", "i64", "u32", "i32", "f32"].contains(&rust_type) {
                return Err(format!("{item:?}: records hold u64, i64, u32, i32 and f32"));
            }
            Ok(Field {
                name: name.to_owned(),
                rust_type: rust_type.to_owned(),
            })
        })
        .collect()
}

fn arguments(export: &Export, raw: &RawDeclaration) -> Result<Vec<Argument>, String> {
    for name in raw.args.keys().chain(raw.flags.keys()) {
        if !export
            .parameters
            .iter()
            .any(|parameter| parameter.name == *name)
        {
            return Err(format!("args.{name}: the function has no such parameter"));
        }
    }
    let by_hand = raw.client == Half::Hand && (raw.op.is_none() || raw.worker == Half::Hand);
    export
        .parameters
        .iter()
        .map(|parameter| {
            let role = match raw.args.get(&parameter.name) {
                Some(text) => parse_role(text, &parameter.c_type)?,
                None => match handle_kind(&parameter.c_type) {
                    Some(kind) => Role::Handle(kind.to_owned()),
                    None if parameter.c_type.contains('*') && !by_hand => {
                        return Err(format!(
                            "args.{}: a pointer ({}) needs a role",
                            parameter.name, parameter.c_type
                        ));
                    }
                    None => Role::Value,
                },
            };
            Ok(Argument {
                name: parameter.name.clone(),
                c_type: parameter.c_type.clone(),
                role,
            })
        })
        .collect()
}

fn parse_role(text: &str, c_type: &str) -> Result<Role, String> {
    let kind = || {
        handle_kind(c_type.trim_end_matches('*').trim())
            .map(str::to_owned)
            .ok_or_else(|| format!("{c_type} is no handle"))
    };
    Ok(match text {
        "value" => Role::Value,
        "handle" => Role::Handle(kind()?),
        "destroy" => Role::Destroy(kind()?),
        "new" => Role::New(kind()?),
        "named" => Role::Named(kind()?),
        "out" => Role::Out { optional: false },
        "out?" => Role::Out { optional: true },
        _ => match text
            .strip_prefix("device(")
            .and_then(|rest| rest.strip_suffix(')'))
        {
            Some(length) => Role::Device {
                length: length.to_owned(),
            },
            None => return Err(format!("unknown role {text:?}")),
        },
    })
}

/// Kinds of what graphs are made of.
pub const GRAPH_KINDS: [&str; 4] = ["GRAPH", "GRAPH_NODE", "GRAPH_EXEC", "USER_OBJECT"];

/// The handle kind (`idm_protocol::handle::Kind`) behind a C type.
pub fn handle_kind(c_type: &str) -> Option<&'static str> {
    Some(match c_type {
        "CUcontext" => "CONTEXT",
        "CUmodule" => "MODULE",
        "CUfunction" => "FUNCTION",
        "CUlibrary" => "LIBRARY",
        "CUkernel" => "KERNEL",
        "CUstream" => "STREAM",
        "CUevent" => "EVENT",
        "CUgraph" => "GRAPH",
        "CUgraphNode" => "GRAPH_NODE",
        "CUgraphExec" => "GRAPH_EXEC",
        "CUuserObject" => "USER_OBJECT",
        "CUmemoryPool" => "POOL",
        "CUlinkState" => "LINK",
        "CUarray" => "ARRAY",
        "CUmipmappedArray" => "MIPMAPPED_ARRAY",
        _ => return None,
    })
}
