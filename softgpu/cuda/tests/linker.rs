//! The linker through the exported functions: names across inputs, logs, options.
#![allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    reason = "nearly every line is a call of the C interface under test"
)]

mod common;

use std::ffi::{CStr, CString, c_void};
use std::ptr::null_mut;

use common::{Own, allocate, function, ok, read_word};
use cuda_abi::types::*;
use softcuda::generated::exports::*;

const HEAD: &str = ".version 7.0\n.target sm_52\n.address_size 64\n";

/// `entry(to)` stores what `body` leaves in `%v`.
fn kernel(declarations: &str, body: &str) -> String {
    format!(
        "{HEAD}{declarations}
.visible .entry entry(.param .u64 to)
{{
    .reg .b32 %v, %w;
    .reg .b64 %a;
    {body}
    ld.param.u64 %a, [to];
    st.global.u32 [%a], %v;
    ret;
}}"
    )
}

const CALL: &str = "{ .param .b32 r; call.uni (r), value, (); ld.param.b32 %v, [r]; }";
const DECLARED: &str = ".extern .func (.param .b32 r) value ();";

/// `value()` returns a constant.
fn value(linkage: &str, number: u32) -> String {
    format!(
        "{HEAD}{linkage} .func (.param .b32 r) value () {{ .reg .b32 %v; mov.u32 %v, {number};
st.param.b32 [r], %v; ret; }}"
    )
}

struct Link {
    state: CUlinkState,
    log: Box<[u8; 512]>,
    values: Box<[*mut c_void; 4]>,
    _options: Box<[CUjit_option; 4]>,
}

impl Link {
    fn new() -> Self {
        let mut log = Box::new([0; 512]);
        let mut options = Box::new([
            CUjit_option::CU_JIT_MAX_REGISTERS,
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
            CUjit_option::CU_JIT_WALL_TIME,
        ]);
        let mut values = Box::new([
            std::ptr::without_provenance_mut(32),
            log.as_mut_ptr().cast::<c_void>(),
            std::ptr::without_provenance_mut(log.len()),
            null_mut(),
        ]);
        let mut state = null_mut();
        ok(unsafe {
            cuLinkCreate_v2(4, options.as_mut_ptr(), values.as_mut_ptr(), &raw mut state)
        });
        Self {
            state,
            log,
            values,
            _options: options,
        }
    }

    fn add(&self, name: &str, text: &str) -> CUresult {
        let name = CString::new(name).unwrap();
        unsafe {
            cuLinkAddData_v2(
                self.state,
                CUjitInputType::CU_JIT_INPUT_PTX,
                text.as_ptr().cast_mut().cast(),
                text.len(),
                name.as_ptr(),
                0,
                null_mut(),
                null_mut(),
            )
        }
    }

    fn complete(&self) -> (CUresult, *mut c_void, usize) {
        let (mut image, mut size) = (null_mut(), 0);
        let result = unsafe { cuLinkComplete(self.state, &raw mut image, &raw mut size) };
        (result, image, size)
    }

    fn log(&self) -> &str {
        CStr::from_bytes_until_nul(&self.log[..])
            .unwrap()
            .to_str()
            .unwrap()
    }

    /// Links, runs `entry` and returns what it stored.
    fn run(&self) -> u32 {
        let (result, image, size) = self.complete();
        assert_eq!(result, CUresult::CUDA_SUCCESS, "{}", self.log());
        assert!(size > 0);
        let mut module = null_mut();
        ok(unsafe { cuModuleLoadData(&raw mut module, image) });
        let mut to = allocate(4);
        let mut params = [(&raw mut to).cast::<c_void>()];
        let entry = function(module, "entry");
        ok(unsafe {
            cuLaunchKernel(
                entry,
                1,
                1,
                1,
                1,
                1,
                1,
                0,
                null_mut(),
                params.as_mut_ptr(),
                null_mut(),
            )
        });
        read_word(to)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        unsafe { cuLinkDestroy(self.state) };
    }
}

#[track_caller]
fn linked(inputs: &[String]) -> u32 {
    let _own = Own::new();
    let link = Link::new();
    for (index, input) in inputs.iter().enumerate() {
        let added = link.add(&format!("{index}.ptx"), input);
        assert_eq!(added, CUresult::CUDA_SUCCESS, "{}", link.log());
    }
    link.run()
}

#[test]
fn function_is_called_across_inputs_in_either_order() {
    let (caller, callee) = (kernel(DECLARED, CALL), value(".visible", 7));
    assert_eq!(linked(&[caller.clone(), callee.clone()]), 7);
    assert_eq!(linked(&[callee, caller]), 7);
}

#[test]
fn visible_function_wins_over_weak_ones_and_the_first_weak_one_over_others() {
    let caller = kernel(DECLARED, CALL);
    let (weak, weaker, strong) = (value(".weak", 1), value(".weak", 2), value(".visible", 3));
    assert_eq!(linked(&[caller.clone(), weak.clone(), weaker.clone()]), 1);
    assert_eq!(linked(&[weak, strong, weaker, caller]), 3);
}

#[test]
fn names_without_linkage_stay_in_their_input() {
    let mut caller = kernel(
        ".func (.param .b32 r) value () { .reg .b32 %v; mov.u32 %v, 4; st.param.b32 [r], %v; ret; }\n.global .u32 x = 5;",
        CALL,
    );
    caller = caller.replace(
        "ld.param.u64 %a",
        "ld.global.u32 %w, [x]; add.u32 %v, %v, %w; ld.param.u64 %a",
    );
    let other = format!("{}\n.visible .global .u32 x = 50;", value("", 40));
    assert_eq!(linked(&[caller.clone(), other.clone()]), 9);
    assert_eq!(linked(&[other, caller]), 9);
}

#[test]
fn variables_are_shared_with_their_initial_value_and_their_address() {
    let user = kernel(
        ".extern .global .align 4 .u32 shared_value;\n.global .u64 where[1] = {shared_value};",
        "ld.global.u64 %a, [where]; ld.global.u32 %v, [%a]; ld.global.u32 %w, [shared_value]; add.u32 %v, %v, %w;",
    );
    let owner = format!("{HEAD}.visible .global .align 4 .u32 shared_value = 21;");
    assert_eq!(linked(&[user.clone(), owner.clone()]), 42);
    assert_eq!(linked(&[owner, user]), 42);
}

#[test]
fn common_variable_has_the_largest_size_and_a_weak_one_replaces_it() {
    let small = kernel(
        ".common .global .align 4 .b8 pool[4];",
        "ld.global.u32 %v, [pool];",
    );
    let large = format!("{HEAD}.common .global .align 8 .b8 pool[64];");
    assert_eq!(linked(&[small.clone(), large]), 0);
    let weak = format!("{HEAD}.weak .global .align 4 .b8 pool[4] = {{9, 0, 0, 0}};");
    assert_eq!(linked(&[small, weak]), 9);
}

#[test]
fn shared_memory_of_a_function_in_another_input_is_the_kernels() {
    let callee = format!(
        "{HEAD}.shared .align 4 .b8 room[64];
.visible .func (.param .b32 r) value () {{ .reg .b32 %v; mov.u32 %v, 6; st.shared.u32 [room+60], %v;
ld.shared.u32 %v, [room+60]; st.param.b32 [r], %v; ret; }}"
    );
    let caller = kernel(
        &format!("{DECLARED}\n.shared .align 4 .b8 room[8];"),
        &format!(
            "mov.u32 %w, 5; st.shared.u32 [room], %w; {CALL} ld.shared.u32 %w, [room]; add.u32 %v, %v, %w;"
        ),
    );
    assert_eq!(linked(&[callee, caller]), 11);
}

#[test]
fn duplicate_is_refused_where_it_is_added_and_nothing_is_completed() {
    let _own = Own::new();
    let link = Link::new();
    ok(link.add("a.ptx", &value(".visible", 1)));
    assert_eq!(
        link.add("b.ptx", &value(".visible", 2)),
        CUresult::CUDA_ERROR_INVALID_SOURCE
    );
    assert!(
        link.log().contains("Multiple definition of 'value'"),
        "{}",
        link.log()
    );
    assert!(link.log().contains("b.ptx"), "{}", link.log());
    assert_eq!(link.complete().0, CUresult::CUDA_ERROR_UNKNOWN);
}

#[test]
fn undefined_function_or_variable_is_refused_at_the_end() {
    let variable = kernel(".extern .global .u32 gone;", "ld.global.u32 %v, [gone];");
    for (text, name) in [(kernel(DECLARED, CALL), "value"), (variable, "gone")] {
        let _own = Own::new();
        let link = Link::new();
        ok(link.add("a.ptx", &text));
        assert_eq!(link.complete().0, CUresult::CUDA_ERROR_UNKNOWN);
        let expected = format!("Undefined reference to '{name}'");
        assert!(link.log().contains(&expected), "{}", link.log());
        assert_eq!(link.values[2].addr(), link.log().len() + 1);
    }
}

#[test]
fn wrong_input_is_refused_with_its_line() {
    let _own = Own::new();
    let link = Link::new();
    let text = kernel("", "frobnicate.u32 %v, 1;");
    assert_eq!(link.add("a.ptx", &text), CUresult::CUDA_ERROR_INVALID_PTX);
    assert!(link.log().contains("frobnicate"), "{}", link.log());
    assert!(link.log().contains("ptx:9:"), "{}", link.log());
    let newer = ".version 99.0\n.target sm_52\n.address_size 64\n";
    assert_eq!(
        link.add("b.ptx", newer),
        CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
    );
}

#[test]
fn linked_image_is_an_input_of_another_link() {
    let _own = Own::new();
    let first = Link::new();
    ok(first.add("a.ptx", &value(".visible", 8)));
    let (result, image, size) = first.complete();
    ok(result);
    let second = Link::new();
    ok(second.add("b.ptx", &kernel(DECLARED, CALL)));
    ok(unsafe {
        cuLinkAddData_v2(
            second.state,
            CUjitInputType::CU_JIT_INPUT_CUBIN,
            image,
            size,
            c"a".as_ptr(),
            0,
            null_mut(),
            null_mut(),
        )
    });
    assert_eq!(second.run(), 8);
}

#[test]
fn unknown_options_inputs_and_states_are_refused() {
    let _own = Own::new();
    let link = Link::new();
    let mut state = null_mut();
    let mut unknown = CUjit_option(77);
    let mut none = null_mut();
    unsafe {
        assert_eq!(
            cuLinkCreate_v2(1, &raw mut unknown, &raw mut none, &raw mut state),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        let add = |state, kind, bytes: &[u8]| {
            cuLinkAddData_v2(
                state,
                CUjitInputType(kind),
                bytes.as_ptr().cast_mut().cast(),
                bytes.len(),
                null_mut(),
                0,
                null_mut(),
                null_mut(),
            )
        };
        assert_eq!(
            add(link.state, 99, b"x"),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            add(link.state, 4, b"!<arch>\n"),
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        );
        assert_eq!(
            add(null_mut(), 1, b"x"),
            CUresult::CUDA_ERROR_INVALID_HANDLE
        );
        assert_eq!(
            cuLinkDestroy(null_mut()),
            CUresult::CUDA_ERROR_INVALID_HANDLE
        );
    }
}
