//! `cuda-abi`: enumerations, exported names, function metadata and signatures.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{banner, rust_type};
use crate::decl::{Class, Declarations};
use crate::facts::{Constant, Export, Facts};
use crate::groups::Groups;

pub fn enums(facts: &Facts) -> String {
    let mut groups: BTreeMap<&str, Vec<&Constant>> = BTreeMap::new();
    for constant in &facts.constants {
        groups
            .entry(&constant.enumeration)
            .or_default()
            .push(constant);
    }
    let mut text =
        banner("Enumerations of the Driver API as integer newtypes: unknown values survive.");
    text.push_str("#![allow(non_camel_case_types, non_upper_case_globals, missing_docs)]\n\n");
    let _ = writeln!(
        text,
        "/// The CUDA version whose header the facts come from.\npub const CUDA_VERSION: i32 = {};\n",
        facts.version
    );
    for (name, constants) in groups {
        if name == "-" || name.starts_with("cl_") {
            continue;
        }
        let signed = constants.iter().any(|constant| constant.value < 0);
        let integer = if signed { "i32" } else { "u32" };
        let _ = writeln!(
            text,
            "#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]\n#[repr(transparent)]\npub struct {name}(pub {integer});\n\nimpl {name} {{"
        );
        let mut seen = BTreeSet::new();
        let mut names = Vec::new();
        for constant in constants {
            let _ = writeln!(
                text,
                "pub const {}: Self = Self({});",
                constant.name, constant.value
            );
            if seen.insert(constant.value) {
                names.push(constant);
            }
        }
        text.push_str("\n/// The constant's name in the header, if the value is known.\n#[must_use]\npub fn name(self) -> Option<&'static str> {\nmatch self.0 {\n");
        for constant in &names {
            let _ = writeln!(text, "{} => Some({:?}),", constant.value, constant.name);
        }
        text.push_str("_ => None,\n}\n}\n}\n\n");
        let _ = writeln!(
            text,
            "impl core::fmt::Debug for {name} {{\nfn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {{\nmatch self.name() {{\nSome(name) => f.write_str(name),\nNone => write!(f, \"{name}({{}})\", self.0),\n}}\n}}\n}}\n"
        );
    }
    text
}

pub fn exports(facts: &Facts) -> String {
    let mut text = banner("Every exported name of the Driver API, sorted by name.");
    text.push_str("use crate::resolver::{DefaultStream, Export};\n\n");
    let _ = writeln!(
        text,
        "/// All names, sorted; an entry's index is its slot in an address table.\npub static EXPORTS: [Export; {}] = [",
        facts.exports.len()
    );
    for Export {
        name,
        base,
        since,
        form,
        ..
    } in facts.exports.values()
    {
        let form = match form.as_str() {
            "-" => "Legacy",
            _ => "PerThread",
        };
        let _ = writeln!(
            text,
            "Export {{ name: {name:?}, base: {base:?}, since: {since}, default_stream: DefaultStream::{form} }},"
        );
    }
    text.push_str("];\n");
    text
}

pub fn functions(declarations: &Declarations) -> String {
    let mut text = banner(
        "What is declared about each function: class, capability group, audit class, opcode.",
    );
    text.push_str("#![allow(non_upper_case_globals, missing_docs)]\n\nuse crate::function::{AuditClass, Class, Function, FunctionInfo};\n\n");
    groups(&mut text, &declarations.groups);
    text.push_str("impl Function {\n");
    for (index, function) in declarations.functions.iter().enumerate() {
        let _ = writeln!(text, "pub const {}: Self = Self({index});", function.name);
    }
    let _ = writeln!(
        text,
        "}}\n\n/// Indexed by `Function`.\npub static FUNCTIONS: [FunctionInfo; {}] = [",
        declarations.functions.len()
    );
    for function in &declarations.functions {
        let class = match function.class {
            Class::Local => "Local",
            Class::Cached => "Cached",
            Class::Async => "Async",
            Class::Inline => "Inline",
            Class::Blocking => "Blocking",
        };
        let _ = writeln!(
            text,
            "FunctionInfo {{ name: {:?}, chapter: {:?}, class: Class::{class}, group: {:?}, audit: {:?}, requires: {}, needs_context: {}, opcode: {} }},",
            function.name,
            function.chapter,
            function.group,
            function.audit,
            function
                .requires
                .as_deref()
                .map_or("None".to_owned(), |group| format!(
                    "Some({})",
                    group_path(group)
                )),
            function.needs_context,
            function.op.unwrap_or(0)
        );
    }
    text.push_str("];\n\n/// Opcodes and the functions behind them, sorted by opcode.\npub static OPCODES: &[(u16, Function)] = &[\n");
    let mut remote: Vec<_> = declarations.remote().collect();
    remote.sort_by_key(|function| function.op);
    for function in remote {
        let _ = writeln!(
            text,
            "({}, Function::{}),",
            function.op.unwrap_or(0),
            function.name
        );
    }
    text.push_str("];\n");
    text
}

fn groups(text: &mut String, groups: &Groups) {
    text.push_str("/// What policy can grant to a zone. The numbers are the bits of the capability page.\n#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]\n#[repr(u8)]\npub enum Group {\n");
    for (name, group) in groups.by_bit() {
        let variant = variant(name);
        let _ = writeln!(text, "/// {}\n{variant} = {},", group.about, group.bit);
    }
    let count = groups.by_bit().count();
    let _ = writeln!(
        text,
        "}}\n\nimpl Group {{\n/// All of them, in the order of their bits.\npub const ALL: [Self; {count}] = ["
    );
    for (name, _) in groups.by_bit() {
        let _ = writeln!(text, "Self::{},", variant(name));
    }
    text.push_str("];\n\n/// The word for it.\n#[must_use]\npub const fn name(self) -> &'static str {\nmatch self {\n");
    for (name, _) in groups.by_bit() {
        let _ = writeln!(text, "Self::{} => {name:?},", variant(name));
    }
    text.push_str("}\n}\n\n/// What is in it.\n#[must_use]\npub const fn about(self) -> &'static str {\nmatch self {\n");
    for (name, group) in groups.by_bit() {
        let _ = writeln!(text, "Self::{} => {:?},", variant(name), group.about);
    }
    text.push_str("}\n}\n}\n\n/// What a call can do, by name.\npub static AUDIT_CLASSES: &[AuditClass] = &[\n");
    for (name, class) in &groups.audit {
        let _ = writeln!(
            text,
            "AuditClass {{ name: {name:?}, refusable: {}, about: {:?} }},",
            class.refusable, class.about
        );
    }
    text.push_str("];\n\n");
}

fn variant(group: &str) -> String {
    let (first, rest) = group.split_at(1);
    first.to_uppercase() + rest
}

/// A group as generated Rust names it.
pub fn group_path(group: &str) -> String {
    format!("Group::{}", variant(group))
}

pub fn signatures(
    facts: &Facts,
    declarations: &Declarations,
    softgpu: &BTreeMap<String, String>,
) -> Result<String, String> {
    let mut text = banner("C signatures of the declared functions.");
    text.push_str("#![allow(non_camel_case_types, non_snake_case, missing_docs)]\n\nuse core::ffi::{c_char, c_int, c_uint, c_void};\n\nuse crate::types::*;\n\n");
    let mut names: BTreeSet<&str> = declarations
        .exported()
        .map(|function| function.name.as_str())
        .collect();
    names.extend(softgpu.keys().map(String::as_str));
    for name in names {
        let export = facts
            .exports
            .get(name)
            .ok_or_else(|| format!("{name} is no exported name"))?;
        let parameters: Vec<String> = export
            .parameters
            .iter()
            .map(|parameter| {
                format!(
                    "{}: {}",
                    parameter_name(&parameter.name),
                    rust_type(&parameter.c_type)
                )
            })
            .collect();
        let _ = writeln!(
            text,
            "pub type {name} = unsafe extern \"C\" fn({}) -> CUresult;",
            parameters.join(", ")
        );
    }
    Ok(text)
}

/// A C parameter name as a Rust one.
pub fn parameter_name(name: &str) -> String {
    match name {
        "type" | "mod" | "ref" | "fn" | "in" => format!("{name}_"),
        _ => name.to_owned(),
    }
}
