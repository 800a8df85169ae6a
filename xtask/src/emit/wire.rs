//! `idm-protocol`: one request structure per opcode, one reply structure where something comes back.

use std::fmt::Write as _;

use super::abi::parameter_name;
use super::{banner, rust_type, type_name, wire_type};
use crate::decl::{Declaration, Declarations, Field, Half, Role};

pub fn records(declarations: &Declarations) -> Result<String, String> {
    let mut body = String::new();
    let mut table = String::new();
    let mut requests = String::new();
    let mut remote: Vec<_> = declarations.remote().collect();
    remote.sort_by_key(|function| function.op);
    for function in &remote {
        let request = request_fields(function);
        let reply = reply_fields(function);
        let _ = writeln!(
            table,
            "{:?} {} {request:?} {reply:?}",
            function.op, function.name
        );
        let _ = writeln!(
            requests,
            "    ({:?}, {name}::OPCODE, size_of::<{name}>()),",
            function.name,
            name = type_name(&function.name)
        );
        structure(
            &mut body,
            &type_name(&function.name),
            &request,
            Some(function),
        );
        if !reply.is_empty() {
            structure(
                &mut body,
                &format!("{}Reply", type_name(&function.name)),
                &reply,
                None,
            );
        }
    }
    let mut text = banner("Requests and replies: the bytes that follow a record's header.");
    text.push_str("#![allow(non_snake_case, missing_docs)]\n\nuse zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};\n\nuse crate::record::Request;\n\n");
    let _ = writeln!(
        text,
        "/// Hash over every opcode and layout below; both sides must agree on it at attach.\npub const TABLE_HASH: u64 = {:#018x};\n",
        fnv1a(&table)
    );
    let _ = writeln!(
        text,
        "/// Every request: the function's name, its opcode, the bytes of its body.\npub const REQUESTS: &[(&str, u16, usize)] = &[\n{requests}];\n"
    );
    text.push_str(&body);
    Ok(text)
}

/// Fields of the request, widest first so that the structure has no padding.
pub fn request_fields(function: &Declaration) -> Vec<Field> {
    if !function.record.is_empty() || function.internal {
        return ordered(function.record.clone());
    }
    if function.worker == Half::Hand && function.client == Half::Hand {
        return Vec::new();
    }
    let fields = function
        .arguments
        .iter()
        .filter_map(|argument| {
            let rust_type = match &argument.role {
                Role::Value => wire_type(&rust_type(&argument.c_type)),
                Role::Handle(_) | Role::Destroy(_) | Role::New(_) | Role::Device { .. } => "u64",
                Role::Out { .. } | Role::Named(_) => return None,
            };
            Some(Field {
                name: parameter_name(&argument.name),
                rust_type: rust_type.to_owned(),
            })
        })
        .collect();
    ordered(fields)
}

pub fn reply_fields(function: &Declaration) -> Vec<Field> {
    if !function.reply.is_empty() || function.internal {
        return ordered(function.reply.clone());
    }
    let fields = function
        .arguments
        .iter()
        .filter(|argument| matches!(argument.role, Role::Out { .. } | Role::Named(_)))
        .map(|argument| {
            let pointee = rust_type(&argument.c_type).replacen("*mut ", "", 1);
            let rust_type = match argument.role {
                Role::Named(_) => "u64",
                _ => wire_type(&pointee),
            };
            Field {
                name: parameter_name(&argument.name),
                rust_type: rust_type.to_owned(),
            }
        })
        .collect();
    ordered(fields)
}

fn ordered(mut fields: Vec<Field>) -> Vec<Field> {
    fields.sort_by_key(|field| u8::from(!field.rust_type.ends_with("64")));
    fields
}

/// Whether a structure needs four bytes at its end to be a multiple of eight.
pub fn needs_padding(fields: &[Field]) -> bool {
    fields
        .iter()
        .filter(|field| !field.rust_type.ends_with("64"))
        .count()
        % 2
        == 1
}

fn structure(text: &mut String, name: &str, fields: &[Field], request: Option<&Declaration>) {
    let size: usize = fields
        .iter()
        .map(|field| {
            if field.rust_type.ends_with("64") {
                8
            } else {
                4
            }
        })
        .sum();
    if let Some(function) = request {
        let _ = writeln!(
            text,
            "/// Request of `{}`. {}",
            function.name, function.note
        );
    } else {
        let _ = writeln!(
            text,
            "/// What comes back of [`{}`].",
            name.trim_end_matches("Reply")
        );
    }
    let _ = writeln!(
        text,
        "#[derive(Debug, Clone, Copy, Default, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]\n#[repr(C)]\npub struct {name} {{"
    );
    for field in fields {
        let _ = writeln!(text, "pub {}: {},", field.name, field.rust_type);
    }
    if needs_padding(fields) {
        text.push_str("pub reserved: u32,\n");
    }
    let _ = writeln!(
        text,
        "}}\nconst _: () = assert!(size_of::<{name}>() == {});\n",
        size.next_multiple_of(8)
    );
    if let Some(function) = request {
        let _ = writeln!(
            text,
            "impl Request for {name} {{\nconst OPCODE: u16 = {};\n}}\n",
            function.op.unwrap_or(0)
        );
    }
}

fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
