//! libvgpu: the generated client halves and the exported symbols.

use std::fmt::Write as _;

use super::abi::{group_path, parameter_name};
use super::wire::{needs_padding, reply_fields, request_fields};
use super::{banner, from_wire, rust_type, to_wire, type_name};
use crate::decl::{Argument, Class, Declaration, Declarations, GRAPH_KINDS, Half, Role};
use crate::facts::{Export, Facts};

pub fn stubs(declarations: &Declarations) -> Result<String, String> {
    let mut text = banner("Client halves of the plain functions: check, post, wait, return.");
    text.push_str(
        "#![allow(non_snake_case, unused_imports, clippy::too_many_arguments, clippy::redundant_field_names)]\n// Both sides are 64-bit (asserted in cuda_abi), so lengths cross without loss.\n#![allow(clippy::cast_possible_truncation)]\n\nuse core::ffi::{c_char, c_int, c_uint, c_void};\n\nuse cuda_abi::function::Function;\nuse cuda_abi::types::*;\nuse idm_protocol::handle::Kind;\nuse idm_protocol::wire;\n\nuse crate::call::{Call, Outcome};\nuse crate::edge;\n\n",
    );
    for function in declarations.remote() {
        if function.client == Half::Generated && !function.internal {
            stub(&mut text, function)?;
        }
    }
    Ok(text)
}

fn stub(text: &mut String, function: &Declaration) -> Result<(), String> {
    let name = &function.name;
    let _ = writeln!(
        text,
        "/// # Safety\n///\n/// As the Driver API's: pointers are null or valid for the access that `{name}` documents.\npub unsafe fn {name}({}) -> Outcome {{",
        parameters(&function.arguments)
    );
    match own_context(function) {
        Some((kind, argument)) => {
            let _ = writeln!(
                text,
                "let mut call = Call::begin_on_object(Function::{name}, Kind::{kind}, {argument} as u64)?;"
            );
        }
        None => {
            let _ = writeln!(text, "let mut call = Call::begin(Function::{name})?;");
        }
    }
    for argument in &function.arguments {
        let rust_name = parameter_name(&argument.name);
        match &argument.role {
            Role::Out { optional: false } | Role::New(_) | Role::Named(_) => {
                let _ = writeln!(text, "edge::require({rust_name})?;");
            }
            Role::Destroy(kind) => {
                let _ = writeln!(
                    text,
                    "let {rust_name} = call.own_handle(Kind::{kind}, {rust_name} as u64)?;"
                );
            }
            Role::Handle(kind) => {
                let _ = writeln!(
                    text,
                    "let {rust_name} = call.handle(Kind::{kind}, {rust_name} as u64)?;"
                );
            }
            Role::Device { length } => {
                let _ = writeln!(text, "call.device_range({rust_name}, {length} as u64)?;");
            }
            Role::Value if argument.c_type == "CUdevice" => {
                let _ = writeln!(text, "let {rust_name} = call.device({rust_name})?;");
            }
            Role::Value => {
                if let Some(known) = function.flags.get(&argument.name) {
                    let _ = writeln!(text, "edge::known_flags({rust_name}, {known:#x})?;");
                }
            }
            Role::Out { .. } => {}
        }
    }
    for argument in &function.arguments {
        if let Role::New(kind) = &argument.role {
            let _ = writeln!(
                text,
                "let {}_handle = call.mint(Kind::{kind})?;",
                argument.name
            );
        }
    }
    let _ = writeln!(text, "let request = wire::{} {{", type_name(name));
    let fields = request_fields(function);
    for field in &fields {
        let argument = function
            .arguments
            .iter()
            .find(|argument| parameter_name(&argument.name) == field.name)
            .ok_or_else(|| format!("{name}: no parameter for field {}", field.name))?;
        let value = match argument.role {
            Role::New(_) => format!("{}_handle.value()", argument.name),
            Role::Value => to_wire(&rust_type(&argument.c_type), &field.name),
            _ => field.name.clone(),
        };
        if value == field.name {
            let _ = writeln!(text, "{value},");
        } else {
            let _ = writeln!(text, "{}: {value},", field.name);
        }
    }
    if needs_padding(&fields) {
        text.push_str("reserved: 0,\n");
    }
    text.push_str("};\n");
    let reply = reply_fields(function);
    match (function.class, reply.is_empty()) {
        (Class::Async, true) if is_about_event(function) => {
            text.push_str("call.post_for_all(&request)?;\n");
        }
        (Class::Async, true) => text.push_str("call.post(&request)?;\n"),
        (Class::Async, false) => {
            return Err(format!(
                "{name}: an async function returns nothing from the worker"
            ));
        }
        (_, true) => text.push_str("call.complete(&request)?;\n"),
        (_, false) => {
            let _ = writeln!(
                text,
                "let reply: wire::{}Reply = call.round_trip(&request)?;",
                type_name(name)
            );
        }
    }
    for argument in &function.arguments {
        let rust_name = parameter_name(&argument.name);
        match &argument.role {
            Role::New(kind) => {
                let _ = writeln!(
                    text,
                    "call.keep(Kind::{kind}, {0}_handle);\n// SAFETY: checked for null above; the caller vouches for the rest.\nunsafe {{ {rust_name}.write({0}_handle.value() as {1}) }};",
                    argument.name,
                    rust_type(&argument.c_type).replacen("*mut ", "", 1)
                );
            }
            Role::Named(_) => {
                let _ = writeln!(
                    text,
                    "// SAFETY: checked for null above; the caller vouches for the rest.\nunsafe {{ {rust_name}.write(reply.{rust_name} as {}) }};",
                    rust_type(&argument.c_type).replacen("*mut ", "", 1)
                );
            }
            Role::Destroy(kind) => {
                let _ = writeln!(text, "call.retire(Kind::{kind}, {rust_name});");
            }
            Role::Out { optional } => {
                let value = from_wire(
                    &rust_type(&argument.c_type).replacen("*mut ", "", 1),
                    &format!("reply.{rust_name}"),
                );
                let write = format!(
                    "// SAFETY: not null (checked); the caller vouches for the rest.\nunsafe {{ {rust_name}.write({value}) }};"
                );
                if *optional {
                    let _ = writeln!(text, "if !{rust_name}.is_null() {{ {write} }}");
                } else {
                    text.push_str(&write);
                }
            }
            Role::Value | Role::Handle(_) | Role::Device { .. } => {}
        }
    }
    text.push_str("Ok(())\n}\n\n");
    Ok(())
}

/// Whether it is about an event, which other processes may have too.
fn is_about_event(function: &Declaration) -> bool {
    function.arguments.iter().any(|argument| {
        matches!(&argument.role, Role::Handle(kind) | Role::Destroy(kind) if kind == "EVENT")
    })
}

/// The object whose context a call is in where none is current: the first that it names. Work on a stream
/// needs a current context, since the stream may be a default one; only its end does not.
fn own_context(function: &Declaration) -> Option<(&str, String)> {
    let named = function.arguments.iter().find_map(|argument| {
        let (Role::Handle(kind) | Role::Destroy(kind)) = &argument.role else {
            return None;
        };
        Some((kind.as_str(), parameter_name(&argument.name)))
    });
    let works_on_stream = function
        .arguments
        .iter()
        .any(|argument| matches!(&argument.role, Role::Handle(kind) if kind == "STREAM"));
    named.filter(|(kind, _)| {
        let has_none =
            ["CONTEXT", "KERNEL", "LIBRARY"].contains(kind) || GRAPH_KINDS.contains(kind);
        !works_on_stream && !has_none
    })
}

pub fn parameters(arguments: &[Argument]) -> String {
    arguments
        .iter()
        .map(|argument| {
            format!(
                "{}: {}",
                parameter_name(&argument.name),
                rust_type(&argument.c_type)
            )
        })
        .collect::<Vec<_>>()
        .join(", ")
}

pub fn exports(facts: &Facts, declarations: &Declarations) -> Result<String, String> {
    let mut text = banner(
        "Every exported symbol of libcuda.so.1, and the table the resolver hands addresses out of.",
    );
    text.push_str(EXPORTS_HEAD);
    text.push_str(
        "use cuda_abi::function::Group;\nuse vgpu_core::edge::{guard, guard_granted, refuse};\nuse vgpu_core::{api, generated::stubs};\n\n",
    );
    let mut table = String::new();
    for (index, export) in facts.exports.values().enumerate() {
        let plain = plain_name(export);
        let declaration = declarations
            .exported()
            .find(|function| function.name == plain);
        let address = match declaration {
            Some(function) => {
                let implementation = match function.client {
                    Half::Hand => format!("api::{}::{}", function.chapter, function.served_by),
                    Half::Generated => format!("stubs::{}", function.served_by),
                };
                let guard = match &function.requires {
                    Some(group) => format!("guard_granted({}, ", group_path(group)),
                    None => "guard(".to_owned(),
                };
                wrapper(
                    &mut text,
                    export,
                    &function.arguments,
                    function.takes_default_stream(),
                    &guard,
                    &implementation,
                );
                Some(&export.name)
            }
            None => {
                refusal(&mut text, &export.name, index);
                let probe = declarations
                    .probes
                    .iter()
                    .any(|prefix| export.base.starts_with(prefix.as_str()));
                (!probe).then_some(&export.name)
            }
        };
        table_entry(&mut table, address.map(String::as_str));
    }
    address_table(&mut text, facts, &table);
    Ok(text)
}

pub const EXPORTS_HEAD: &str = "#![allow(non_snake_case, unused_imports, clippy::missing_safety_doc)]\n\nuse core::ffi::{c_char, c_int, c_uint, c_void};\n\nuse cuda_abi::resolver::{Address, DefaultStream};\nuse cuda_abi::types::*;\n\n";

/// The exported name without its per-thread suffix.
pub fn plain_name(export: &Export) -> &str {
    if export.form == "-" {
        return &export.name;
    }
    export
        .name
        .trim_end_matches("_ptds")
        .trim_end_matches("_ptsz")
}

/// An exported function that calls its half with the default stream its form means.
pub fn wrapper(
    text: &mut String,
    export: &Export,
    arguments: &[Argument],
    takes_default_stream: bool,
    guard: &str,
    implementation: &str,
) {
    let per_thread = export.form != "-";
    let mut values: Vec<String> = Vec::new();
    if takes_default_stream {
        values.push(format!(
            "DefaultStream::{}",
            if per_thread { "PerThread" } else { "Legacy" }
        ));
    }
    values.extend(arguments.iter().map(|argument| {
        let name = parameter_name(&argument.name);
        if per_thread && argument.c_type == "CUstream" {
            format!("per_thread({name})")
        } else {
            name
        }
    }));
    let _ = writeln!(
        text,
        "#[unsafe(no_mangle)]\npub unsafe extern \"C\" fn {0}({1}) -> CUresult {{\n// SAFETY: the caller's promises are the Driver API's, which the half documents.\n{guard}{0:?}, || unsafe {{ {implementation}({2}) }})\n}}\n",
        export.name,
        parameters(arguments),
        values.join(", ")
    );
}

pub fn refusal(text: &mut String, name: &str, index: usize) {
    let _ = writeln!(
        text,
        "#[unsafe(no_mangle)]\npub unsafe extern \"C\" fn {name}() -> CUresult {{\nrefuse({index})\n}}\n"
    );
}

pub fn table_entry(table: &mut String, name: Option<&str>) {
    match name {
        Some(name) => {
            let _ = writeln!(table, "Address::new({name} as *const c_void),");
        }
        None => table.push_str("Address::NULL,\n"),
    }
}

pub fn address_table(text: &mut String, facts: &Facts, table: &str) {
    let _ = writeln!(
        text,
        "/// The per-thread form's reading of a stream argument: NULL means the thread's own default stream.\nfn per_thread(stream: CUstream) -> CUstream {{\nif stream.is_null() {{ CU_STREAM_PER_THREAD }} else {{ stream }}\n}}\n\n/// Addresses in the order of `cuda_abi::resolver::EXPORTS`; NULL for what callers probe for and is absent.\npub static ADDRESSES: [Address; {}] = [\n{table}];",
        facts.exports.len()
    );
}
