//! gpu-proxy/worker: the driver's function table, and the decoder and dispatch of every opcode.

use std::fmt::Write as _;

use super::abi::parameter_name;
use super::wire::{reply_fields, request_fields};
use super::{banner, from_wire, rust_type, to_wire, type_name};
use crate::decl::{Declaration, Declarations, Half, Role};

pub fn driver(declarations: &Declarations) -> String {
    let mut text = banner(
        "The driver library's functions, each looked up by its exported name; absent ones refuse.",
    );
    text.push_str("#![allow(non_snake_case)]\n\nuse cuda_abi::{sig, types::CUresult};\n\nuse crate::driver::Symbols;\n\n");
    text.push_str("/// Functions of the loaded driver. `None`: this driver does not have it.\n#[derive(Debug)]\npub struct Table {\n");
    // An older name is posted as the newer function.
    let functions: Vec<&Declaration> = declarations
        .exported()
        .filter(|function| function.served_by == function.name)
        .collect();
    for function in &functions {
        let _ = writeln!(text, "{0}: Option<sig::{0}>,", function.name);
    }
    text.push_str("}\n\nimpl Table {\n/// # Safety\n///\n/// `symbols` must belong to a library that implements the CUDA Driver API.\npub unsafe fn load(symbols: &Symbols) -> Self {\nSelf {\n");
    for function in &functions {
        let _ = writeln!(
            text,
            "// SAFETY: the caller vouches that a symbol of this name has this signature.\n{0}: unsafe {{ symbols.find::<sig::{0}>(c\"{0}\") }},",
            function.name
        );
    }
    text.push_str("}\n}\n\n");
    for function in &functions {
        let _ = writeln!(
            text,
            "pub fn {0}(&self) -> Result<sig::{0}, CUresult> {{ self.{0}.ok_or(CUresult::CUDA_ERROR_NOT_SUPPORTED) }}\n",
            function.name
        );
    }
    text.push_str("}\n");
    text
}

pub fn dispatch(declarations: &Declarations) -> Result<String, String> {
    let mut text = banner(
        "From opcode to driver call. Every handle and range is checked before the driver sees it.",
    );
    text.push_str(
        "#![allow(non_snake_case, unused_imports, unused_variables)]\n#![allow(clippy::redundant_field_names, reason = \"fields carry their parameters' names\")]\n#![allow(clippy::cast_possible_truncation, reason = \"both sides are 64-bit, asserted in cuda_abi\")]\n\nuse core::ffi::{c_char, c_int, c_uint, c_void};\n\nuse cuda_abi::function::Function;\nuse cuda_abi::types::*;\nuse idm_protocol::handle::Kind;\nuse idm_protocol::wire;\n\nuse crate::api;\nuse crate::session::{Frame, Outcome, Session};\n\n",
    );
    text.push_str("/// Executes one record. The frame holds the private copy of the record and collects the reply.\npub fn dispatch(session: &Session, frame: &mut Frame<'_>) -> Outcome {\nmatch frame.opcode() {\n");
    let mut remote: Vec<_> = declarations.remote().collect();
    remote.sort_by_key(|function| function.op);
    for function in &remote {
        let implementation = match function.worker {
            Half::Hand => format!("api::{}::{}", function.chapter, function.name),
            Half::Generated => function.name.clone(),
        };
        let _ = writeln!(
            text,
            "{} => {{\nlet request = frame.request::<wire::{}>()?;\n{}{implementation}(session, &request, frame)\n}}",
            function.op.unwrap_or(0),
            type_name(&function.name),
            subject(function),
        );
    }
    text.push_str("_ => frame.unknown_opcode(),\n}\n}\n\n");
    for function in remote
        .iter()
        .filter(|function| function.worker == Half::Generated)
    {
        body(&mut text, function)?;
    }
    Ok(text)
}

/// Statements that tell the log what a call is about: the first handle or address of its request, how many bytes, and
/// the device where it names one. What only the driver's answer tells, the half that is written by hand adds.
fn subject(function: &Declaration) -> String {
    /// First fields that are no handle and no address.
    const NO_OBJECT: [&str; 4] = ["bytes", "width", "offset", "token_low"];
    const SIZES: [&str; 3] = ["bytes", "image_bytes", "data_bytes"];
    if function.internal && function.group == "session" {
        return String::new();
    }
    let fields = request_fields(function);
    let (object, size) = if function.record.is_empty() {
        let of_role = |wanted: fn(&Role) -> bool| {
            let mut arguments = function.arguments.iter();
            arguments.find(|argument| wanted(&argument.role))
        };
        let object =
            of_role(|role| !matches!(role, Role::Value | Role::Out { .. } | Role::Named(_)));
        let device = of_role(|role| matches!(role, Role::Device { .. }));
        let size = device.and_then(|argument| match &argument.role {
            Role::Device { length } => Some(length.clone()),
            _ => None,
        });
        (object.map(|argument| parameter_name(&argument.name)), size)
    } else {
        let object = function.record.first();
        let object = object
            .filter(|field| field.rust_type == "u64" && !NO_OBJECT.contains(&field.name.as_str()));
        let size = SIZES
            .iter()
            .find(|size| fields.iter().any(|field| field.name == **size));
        (
            object.map(|field| field.name.clone()),
            size.map(|&size| size.to_owned()),
        )
    };
    let value = |name: Option<String>| {
        let field = name.and_then(|name| fields.iter().find(|field| field.name == name));
        field.map_or("0".to_owned(), |field| match field.rust_type.as_str() {
            "u64" => format!("request.{}", field.name),
            _ => format!("request.{}.into()", field.name),
        })
    };
    let (object, size) = (value(object), value(size));
    let mut text = String::new();
    if (object.as_str(), size.as_str()) != ("0", "0") {
        let _ = writeln!(text, "frame.about({object}, {size});");
    }
    if fields
        .iter()
        .any(|field| field.name == "device" && field.rust_type == "i32")
    {
        text.push_str("frame.about_device(request.device);\n");
    }
    text
}

fn body(text: &mut String, function: &Declaration) -> Result<(), String> {
    let name = &function.name;
    if function.internal {
        return Err(format!(
            "{name}: an internal record has no generated worker half"
        ));
    }
    let _ = writeln!(
        text,
        "fn {name}(session: &Session, request: &wire::{}, frame: &mut Frame<'_>) -> Outcome {{",
        type_name(name)
    );
    let _ = writeln!(text, "let function = session.driver().{name}()?;");
    let mut values = Vec::new();
    for argument in &function.arguments {
        let rust_name = parameter_name(&argument.name);
        let target = rust_type(&argument.c_type);
        match &argument.role {
            Role::Value => values.push(from_wire(&target, &format!("request.{rust_name}"))),
            Role::Handle(kind) => {
                let _ = writeln!(
                    text,
                    "let {rust_name} = session.resolve(frame, Kind::{kind}, request.{rust_name})?;"
                );
                values.push(format!("{rust_name} as {target}"));
            }
            Role::Destroy(kind) => {
                let _ = writeln!(
                    text,
                    "let {rust_name} = session.take(frame, Kind::{kind}, request.{rust_name})?;"
                );
                values.push(format!("{rust_name} as {target}"));
            }
            Role::Device { length } => {
                let _ = writeln!(
                    text,
                    "session.check_range(request.{rust_name}, u64::from(request.{length}))?;"
                );
                values.push(format!("request.{rust_name}"));
            }
            Role::New(kind) => {
                let pointee = target.replacen("*mut ", "", 1);
                let _ = writeln!(
                    text,
                    "session.check_free(Kind::{kind}, request.{rust_name})?;\nlet mut {rust_name}: {pointee} = core::ptr::null_mut();"
                );
                values.push(format!("&raw mut {rust_name}"));
            }
            Role::Named(_) => {
                let pointee = target.replacen("*mut ", "", 1);
                let _ = writeln!(
                    text,
                    "let mut {rust_name}: {pointee} = core::ptr::null_mut();"
                );
                values.push(format!("&raw mut {rust_name}"));
            }
            Role::Out { .. } => {
                let pointee = target.replacen("*mut ", "", 1);
                let _ = writeln!(text, "let mut {rust_name} = <{pointee}>::default();");
                values.push(format!("&raw mut {rust_name}"));
            }
        }
    }
    let _ = writeln!(
        text,
        "// SAFETY: handles were resolved from the client's own table and pointers are to locals.\nlet status = unsafe {{ function({}) }};",
        values.join(", ")
    );
    for argument in &function.arguments {
        if let Role::New(kind) = &argument.role {
            let rust_name = parameter_name(&argument.name);
            let _ = writeln!(
                text,
                "session.bind(frame, Kind::{kind}, request.{rust_name}, {rust_name} as usize, status)?;"
            );
        }
    }
    text.push_str("session.checked(status)?;\n");
    for argument in &function.arguments {
        if let Role::Named(kind) = &argument.role {
            let rust_name = parameter_name(&argument.name);
            let _ = writeln!(
                text,
                "let {rust_name} = session.name(Kind::{kind}, {rust_name} as usize, 0)?;"
            );
        }
    }
    let reply = reply_fields(function);
    if !reply.is_empty() {
        let _ = writeln!(text, "frame.reply(&wire::{}Reply {{", type_name(name));
        for field in &reply {
            let argument = function
                .arguments
                .iter()
                .find(|argument| parameter_name(&argument.name) == field.name)
                .ok_or_else(|| format!("{name}: no parameter for reply field {}", field.name))?;
            let pointee = rust_type(&argument.c_type).replacen("*mut ", "", 1);
            let value = match argument.role {
                Role::Named(_) => field.name.clone(),
                _ => to_wire(&pointee, &field.name),
            };
            let _ = writeln!(text, "{}: {value},", field.name);
        }
        if super::wire::needs_padding(&reply) {
            text.push_str("reserved: 0,\n");
        }
        text.push_str("});\n");
    }
    text.push_str("Ok(())\n}\n\n");
    Ok(())
}
