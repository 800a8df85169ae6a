//! Reads `cuda-abi/data/`: the facts extracted from the pinned header.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// One exported name of the Driver API.
#[derive(Debug, Clone)]
pub struct Export {
    pub name: String,
    pub base: String,
    /// First CUDA version (1000 * major + 10 * minor) with this form; 0 when only `dlsym` reaches it.
    pub since: u32,
    /// `-`, `ptds` or `ptsz`: which default stream the form means.
    pub form: String,
    pub parameters: Vec<Parameter>,
}

#[derive(Debug, Clone)]
pub struct Parameter {
    pub name: String,
    /// The C type, without the parameter's name.
    pub c_type: String,
}

/// A constant of a C enumeration, or (enumeration `-`) a bare `#define`.
#[derive(Debug)]
pub struct Constant {
    pub enumeration: String,
    pub name: String,
    pub value: i64,
}

#[derive(Debug)]
pub struct Facts {
    pub version: u32,
    pub exports: BTreeMap<String, Export>,
    pub constants: Vec<Constant>,
}

impl Facts {
    pub fn read(root: &Path) -> Result<Self, String> {
        let read = |name: &str| {
            let path = root.join("cuda-abi/data").join(name);
            fs::read_to_string(&path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        let version = read("version.txt")?;
        let mut exports = BTreeMap::new();
        for line in rows(&read("functions.tsv")?) {
            let [name, base, since, form, parameters] = columns(line)?;
            exports.insert(
                name.to_owned(),
                Export {
                    name: name.to_owned(),
                    base: base.to_owned(),
                    since: since
                        .parse()
                        .map_err(|_| format!("bad version in {line:?}"))?,
                    form: form.to_owned(),
                    parameters: parse_parameters(parameters),
                },
            );
        }
        let mut constants = Vec::new();
        for line in rows(&read("enums.tsv")?) {
            let [enumeration, name, value] = columns(line)?;
            constants.push(Constant {
                enumeration: enumeration.to_owned(),
                name: name.to_owned(),
                value: value
                    .parse()
                    .map_err(|_| format!("bad value in {line:?}"))?,
            });
        }
        Ok(Self {
            version: version
                .trim()
                .parse()
                .map_err(|_| "bad version.txt".to_owned())?,
            exports,
            constants,
        })
    }

    /// The per-thread form of an exported name, where the API has one.
    pub fn per_thread_form(&self, name: &str) -> Option<&Export> {
        ["ptds", "ptsz"]
            .iter()
            .find_map(|form| self.exports.get(&format!("{name}_{form}")))
    }
}

/// Functions of the NVML header, by name.
pub fn nvml_functions(root: &Path) -> Result<BTreeMap<String, Vec<Parameter>>, String> {
    let path = root.join("cuda-abi/data/nvml-functions.tsv");
    let text = fs::read_to_string(&path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    rows(&text)
        .map(|line| {
            let [name, parameters] = columns(line)?;
            Ok((name.to_owned(), parse_parameters(parameters)))
        })
        .collect()
}

fn rows(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn columns<const N: usize>(line: &str) -> Result<[&str; N], String> {
    let columns: Vec<&str> = line.split('\t').collect();
    columns
        .try_into()
        .map_err(|_| format!("expected {N} columns in {line:?}"))
}

fn parse_parameters(text: &str) -> Vec<Parameter> {
    if text == "void" || text == "?" || text.is_empty() {
        return Vec::new();
    }
    text.split(',')
        .map(str::trim)
        .map(|item| {
            let start = item
                .rfind(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
                .map_or(0, |position| position + 1);
            let (c_type, name) = item.split_at(start);
            Parameter {
                name: name.to_owned(),
                c_type: c_type.replace("CUDAAPI", "").trim().to_owned(),
            }
        })
        .collect()
}
