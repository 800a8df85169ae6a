//! softgpu/cuda: exported symbols around the functions that its chapter files define.
//!
//! The software GPU is the driver, so its functions need no declaration: each `pub unsafe fn cu…` in
//! `softgpu/cuda/src/api/` is one, and its signature is held to the pinned header.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::banner;
use super::client::{EXPORTS_HEAD, address_table, plain_name, refusal, table_entry, wrapper};
use crate::decl::Argument;
use crate::decl::Role;
use crate::facts::{Export, Facts};

/// Function name to chapter, for every function that a chapter file defines.
pub fn implemented(root: &Path) -> Result<BTreeMap<String, String>, String> {
    super::defined(&root.join("softgpu/cuda/src/api"), "cu")
}

pub fn exports(
    facts: &Facts,
    implemented: &BTreeMap<String, String>,
    aliases: &BTreeMap<String, String>,
) -> Result<String, String> {
    let mut text = banner(
        "Every exported symbol of the software GPU's driver library, and its address table.",
    );
    text.push_str(EXPORTS_HEAD);
    text.push_str("use crate::api;\nuse crate::edge::{guard, refuse};\n\n");
    let mut table = String::new();
    for (index, export) in facts.exports.values().enumerate() {
        let plain = plain_name(export);
        let served_by = aliases.get(plain).map_or(plain, String::as_str);
        match implemented.get(served_by) {
            Some(chapter) => {
                let arguments = arguments(export, facts);
                let takes_default_stream = facts.per_thread_form(plain).is_some()
                    && !arguments
                        .iter()
                        .any(|argument| argument.c_type == "CUstream");
                wrapper(
                    &mut text,
                    export,
                    &arguments,
                    takes_default_stream,
                    "guard(",
                    &format!("api::{chapter}::{served_by}"),
                );
                table_entry(&mut table, Some(&export.name));
            }
            None => {
                refusal(&mut text, &export.name, index);
                table_entry(&mut table, None);
            }
        }
    }
    for name in implemented.keys() {
        if !facts.exports.contains_key(name) {
            return Err(format!("softgpu defines {name}, which is no exported name"));
        }
        let _ = writeln!(text, "const _: cuda_abi::sig::{name} = {name};");
    }
    address_table(&mut text, facts, &table);
    Ok(text)
}

fn arguments(export: &Export, facts: &Facts) -> Vec<Argument> {
    // A per-thread form has the parameters of its plain one.
    let source = facts.exports.get(plain_name(export)).unwrap_or(export);
    source
        .parameters
        .iter()
        .map(|parameter| Argument {
            name: parameter.name.clone(),
            c_type: parameter.c_type.clone(),
            role: Role::Value,
        })
        .collect()
}
