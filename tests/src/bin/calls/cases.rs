//! The cases of a function, from its signature in the header's facts.
#![forbid(unsafe_code)]

use e2e::driver::KERNELS;
use e2e::raw::leak;

use crate::fixture::{BYTES, Fixture, array_descriptor, deep_array_descriptor};

/// Names, versions and parameters of every exported function.
const FACTS: &str = include_str!("../../../../cuda-abi/data/functions.tsv");

/// Room behind every pointer that a driver may write to: no structure of the API is larger.
const ROOM: usize = 16 << 10;

/// More than any device has.
const HUGE: u64 = 1 << 60;

/// Structures that are passed by value, and not in the registers that words are: functions that take them have
/// no cases.
const BY_VALUE: [&str; 4] = [
    "CUipcMemHandle",
    "CUipcMemHandle_v1",
    "CUipcEventHandle",
    "CUipcEventHandle_v1",
];

/// One call.
#[derive(Debug)]
pub struct Case {
    /// What is wrong with it: `parameter=value`, or `all right`.
    pub name: String,
    /// Its arguments.
    pub words: Vec<u64>,
}

/// `CUtensorMap`: none yet.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct TensorMap(#[expect(dead_code, reason = "functions use it")] [u64; 16]);

struct Value {
    name: &'static str,
    word: u64,
}

struct Parameter<'a> {
    c_type: &'a str,
    name: &'a str,
}

/// What is right for every parameter comes last: it may end what the others need.
pub fn of(function: &str, fixture: &Fixture) -> Vec<Case> {
    let parameters = parameters(function);
    if parameters.iter().any(|p| BY_VALUE.contains(&p.c_type)) {
        return Vec::new();
    }
    let values: Vec<Vec<Value>> = parameters
        .iter()
        .map(|parameter| values(function, parameter, fixture))
        .collect();
    let right: Vec<u64> = values.iter().map(|values| values[0].word).collect();
    let mut cases = Vec::new();
    for (index, wrong) in values.iter().enumerate() {
        for value in &wrong[1..] {
            let mut words = right.clone();
            words[index] = value.word;
            cases.push(Case {
                name: format!("{}={}", parameters[index].name, value.name),
                words,
            });
        }
    }
    if parameters.len() > 1 {
        cases.push(Case {
            name: "all=0".into(),
            words: vec![0; parameters.len()],
        });
    }
    cases.push(Case {
        name: "all right".into(),
        words: right,
    });
    cases
}

/// # Panics
/// If the header has no such function.
fn parameters(function: &str) -> Vec<Parameter<'static>> {
    let row = FACTS
        .lines()
        .find(|line| line.split('\t').next() == Some(function));
    let row = row.unwrap_or_else(|| panic!("{function} is no function of the header"));
    let list = row.split('\t').nth(4).unwrap_or_default();
    list.split(',')
        .map(str::trim)
        .filter(|item| !matches!(*item, "" | "void" | "?"))
        .map(|item| {
            let end = item
                .rfind(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
                .map_or(0, |at| at + 1);
            let (c_type, name) = item.split_at(end);
            Parameter {
                c_type: c_type.trim(),
                name,
            }
        })
        .collect()
}

/// The right one first.
fn values(function: &str, parameter: &Parameter<'_>, fixture: &Fixture) -> Vec<Value> {
    let value = |name, word| Value { name, word };
    let null = || value("NULL", 0);
    let kind = parameter
        .c_type
        .trim_end_matches("_v1")
        .trim_end_matches("_v2");
    match kind {
        "const char *" | "const char*" => vec![
            value("right", text(function)),
            null(),
            value("empty", leak([0u8; 8])),
            value("unknown", leak(*b"nothing of this name\0")),
        ],
        "void **" | "void**" => match parameter.name {
            // The launched kernel takes none.
            "kernelParams" | "extra" => vec![null()],
            _ => vec![value("right", room()), null()],
        },
        kind if kind.contains('*') => pointers(function, kind, parameter.name, fixture),
        "CUdevice" => vec![
            value("right", 0),
            value("-1", u64::from(u32::MAX)),
            value("99", 99),
        ],
        "CUdeviceptr" => vec![
            value("right", fixture.memory),
            value("0", 0),
            value("end", fixture.memory + BYTES),
            value("foreign", 0x1234_5678),
            value("pinned", fixture.pinned),
        ],
        "CUstream" => handles(fixture, kind)
            .into_iter()
            .chain([value("0", 0), value("legacy", 1), value("per-thread", 2)])
            .collect(),
        kind if fixture.has(kind) => {
            let mut values = handles(fixture, kind);
            values.push(value("0", 0));
            values
        }
        "size_t" => vec![
            value("16", 16),
            value("0", 0),
            value("huge", HUGE),
            value("-1", u64::MAX),
        ],
        "int" => vec![
            match parameter.name {
                "ordinal" | "priority" => value("0", 0),
                _ => value("8", 8),
            },
            value("99", 99),
            value("0", 0),
            value("-1", u64::from(u32::MAX)),
            value("most", u64::from(u32::MAX >> 1)),
        ],
        "unsigned int" => {
            let count = parameter.name.contains("Dim")
                || matches!(parameter.name, "ElementSizeBytes" | "numAttributes");
            let right = match parameter.name {
                "ElementSizeBytes" => 4,
                _ => u64::from(count),
            };
            vec![
                value("right", right),
                value("0", 0),
                value("1", 1),
                value("64", 64),
                value("-1", u64::from(u32::MAX)),
            ]
        }
        "unsigned char" | "unsigned short" => vec![value("1", 1)],
        "cuuint64_t" => vec![value("0", 0), value("-1", u64::MAX)],
        "CUhostFn" | "CUstreamCallback" => {
            vec![
                value("right", nothing as extern "C" fn() -> usize as usize as u64),
                null(),
            ]
        }
        "CUoccupancyB2DSize" => {
            vec![
                null(),
                value(
                    "function",
                    nothing as extern "C" fn() -> usize as usize as u64,
                ),
            ]
        }
        // What no tensor need have.
        "CUtensorMapInterleave" | "CUtensorMapFloatOOBfill" => {
            vec![value("0", 0), value("1", 1), value("999", 999)]
        }
        // An enumeration, a bit set or an object that the fixture has none of.
        _ => vec![
            value("1", 1),
            value("0", 0),
            value("2", 2),
            value("999", 999),
            value("-1", u64::from(u32::MAX)),
        ],
    }
}

fn handles(fixture: &Fixture, kind: &str) -> Vec<Value> {
    let mut values = vec![Value {
        name: "right",
        word: fixture.alive(kind),
    }];
    if let Some(gone) = fixture.gone(kind) {
        values.push(Value {
            name: "gone",
            word: gone,
        });
    }
    values.push(Value {
        name: "forged",
        word: 0x7f12_3450,
    });
    values.push(Value {
        name: "another type's",
        word: fixture.other(kind),
    });
    values
}

/// A pointer to a structure, to bytes, or to a place for the answer.
fn pointers(function: &str, kind: &str, name: &str, fixture: &Fixture) -> Vec<Value> {
    let value = |name, word| Value { name, word };
    let right = match (kind, name) {
        ("void *", "data") if function.starts_with("cuPointerGet") => room(),
        ("const void *", "image" | "code" | "fatCubin") => KERNELS.as_ptr() as u64,
        ("void *", "data") => KERNELS.as_ptr() as u64,
        ("void *", "p") => fixture.pinned,
        ("const CUDA_ARRAY_DESCRIPTOR *", _) => leak(array_descriptor()),
        ("const CUDA_ARRAY3D_DESCRIPTOR *", _) => leak(deep_array_descriptor()),
        ("const CUDA_MEMCPY2D *", _) => leak(plane_copy(fixture)),
        ("const CUDA_MEMCPY3D *", _) => leak(box_copy(fixture)),
        ("const CUDA_RESOURCE_DESC *", _) => leak(linear_resource(fixture)),
        ("const CUDA_RESOURCE_VIEW_DESC *", _) => 0,
        ("const CUlaunchConfig *", _) => leak(launch(fixture)),
        ("CUtensorMap *", _) => leak(TensorMap([0; 16])),
        ("void *", "globalAddress") => fixture.memory,
        // Of a row of 16 elements of 16 bits, all of it.
        (_, "globalDim") => leak([16u64; 5]),
        (_, "globalStrides") => leak([64u64; 5]),
        (_, "boxDim") => leak([16u32, 1, 1, 1, 1]),
        (_, "elementStrides") => leak([1u32; 5]),
        // Options of linking and loading: none.
        ("CUjit_option *" | "CUlibraryOption *", _) => 0,
        _ => room(),
    };
    let mut values = vec![value("right", right)];
    if right != 0 {
        values.push(value("NULL", 0));
    }
    if kind.starts_with("const ") && kind != "const void *" {
        values.push(value("zeroes", room()));
        values.push(value("ones", leak([u64::MAX; ROOM / 8])));
    }
    if matches!(name, "image" | "code") {
        values.push(value("text", leak(*b"neither PTX nor a cubin\0")));
        values.push(value("empty", leak([0u8; 64])));
        values.push(value(
            "cut fat binary",
            leak(*b"\x50\xed\x55\xba\x01\x00\x10\x00\xff\xff\xff\x7f\0\0\0\0"),
        ));
        values.push(value(
            "bad PTX",
            leak(*b".version 7.0\n.target sm_75\nbogus\0"),
        ));
        values.push(value(
            "new PTX",
            leak(*b".version 99.9\n.target sm_75\n.address_size 64\n\0"),
        ));
    }
    values
}

/// Something readable and writable that holds zeroes.
fn room() -> u64 {
    leak([0u64; ROOM / 8])
}

fn text(function: &str) -> u64 {
    let text: &[u8] = match function {
        "cuGetProcAddress" | "cuGetProcAddress_v2" => b"cuInit\0",
        "cuDeviceGetByPCIBusId" => b"0000:40:00.0\0",
        _ => b"empty\0",
    };
    let mut place = [0u8; 32];
    place[..text.len()].copy_from_slice(text);
    leak(place)
}

/// Called for whatever may be called.
extern "C" fn nothing() -> usize {
    0
}

/// `CUDA_MEMCPY2D`: 4 rows of 16 bytes, device to device.
fn plane_copy(fixture: &Fixture) -> [u64; 16] {
    const DEVICE: u64 = 2;
    let (from, to) = (fixture.memory, fixture.memory + BYTES / 2);
    let mut words = [0; 16];
    // x, y, kind, host, device, array, pitch of the source; the same of the destination; width, height.
    words[2] = DEVICE;
    words[4] = from;
    words[6] = 64;
    words[9] = DEVICE;
    words[11] = to;
    words[13] = 64;
    words[14] = 16;
    words[15] = 4;
    words
}

/// `CUDA_MEMCPY3D`: the same, one slice.
fn box_copy(fixture: &Fixture) -> [u64; 25] {
    const DEVICE: u64 = 2;
    let mut words = [0; 25];
    // x, y, z, level, kind, host, device, array, reserved, pitch, height of the source; the same of the
    // destination; width, height, depth.
    words[4] = DEVICE;
    words[6] = fixture.memory;
    words[9] = 64;
    words[10] = 4;
    words[15] = DEVICE;
    words[17] = fixture.memory + BYTES / 2;
    words[20] = 64;
    words[21] = 4;
    words[22] = 16;
    words[23] = 4;
    words[24] = 1;
    words
}

/// `CUDA_RESOURCE_DESC`: an array.
fn linear_resource(fixture: &Fixture) -> [u64; 18] {
    let mut words = [0; 18];
    words[1] = fixture.alive("CUarray");
    words
}

/// `CUlaunchConfig`: one thread.
fn launch(fixture: &Fixture) -> [u64; 7] {
    // Six extents and the dynamic shared memory, 32 bits each; the stream; attributes and their number.
    let one = 1 | 1 << 32;
    [one, one, one, 0, fixture.alive("CUstream"), 0, 0]
}
