//! libvgpu/nvml: exported symbols around the functions that `vgpu_core::nvml` defines.
//!
//! Nothing of NVML is forwarded, so its functions need no declaration: each `pub unsafe fn nvml…` in
//! `libvgpu/core/src/nvml/api/` is one, and its signature is held to the header's. Every other name of the
//! header refuses.

use std::fmt::Write as _;
use std::path::Path;

use super::abi::parameter_name;
use super::{banner, rust_type};
use crate::facts::nvml_functions;

pub fn exports(root: &Path) -> Result<String, String> {
    let functions = nvml_functions(root)?;
    let chapters = super::defined(&root.join("libvgpu/core/src/nvml/api"), "nvml")?;
    if let Some(name) = chapters.keys().find(|name| !functions.contains_key(*name)) {
        return Err(format!("{name} is no function of the NVML header"));
    }
    let mut text = banner("Every exported symbol of libnvidia-ml.so.1.");
    text.push_str(
        "#![allow(non_snake_case, clippy::missing_safety_doc)]\n\n\
         use core::ffi::{c_char, c_int, c_uint};\n\n\
         use vgpu_core::edge::guard;\nuse vgpu_core::nvml::types::*;\nuse vgpu_core::nvml::{api, refuse};\n\n\
         #[unsafe(no_mangle)]\npub extern \"C\" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {\nresult.label().as_ptr()\n}\n\n",
    );
    for (name, parameters) in &functions {
        if name == "nvmlErrorString" {
            continue;
        }
        match chapters.get(name) {
            Some(chapter) => {
                let list: Vec<String> = parameters
                    .iter()
                    .map(|parameter| {
                        format!(
                            "{}: {}",
                            parameter_name(&parameter.name),
                            rust_type(&parameter.c_type)
                        )
                    })
                    .collect();
                let values: Vec<String> = parameters
                    .iter()
                    .map(|parameter| parameter_name(&parameter.name))
                    .collect();
                let _ = writeln!(
                    text,
                    "#[unsafe(no_mangle)]\npub unsafe extern \"C\" fn {name}({}) -> nvmlReturn_t {{\n// SAFETY: the caller's promises are NVML's.\nguard({name:?}, || unsafe {{ api::{chapter}::{name}({}) }})\n}}\n",
                    list.join(", "),
                    values.join(", ")
                );
            }
            None => {
                let _ = writeln!(
                    text,
                    "#[unsafe(no_mangle)]\npub extern \"C\" fn {name}() -> nvmlReturn_t {{\nrefuse({name:?})\n}}\n"
                );
            }
        }
    }
    Ok(text)
}
