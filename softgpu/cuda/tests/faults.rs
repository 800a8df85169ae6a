//! Every error that a kernel can leave behind: it stays with its context, nothing is executed after it, and
//! other contexts and devices are well. One test in a process of its own, as the devices are settings.
#![allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    reason = "nearly every line is a call of the C interface under test"
)]

mod common;

use std::ffi::{CString, c_void};
use std::ptr::null_mut;
use std::sync::atomic::Ordering;

use common::{
    address, allocate, function, launch_store, module, ok, pinned_word, read_word, stream,
};
use cuda_abi::types::*;
use softcuda::generated::exports::*;

/// The errors, what the kernel is called that causes each, and its body.
const FAULTS: &[(CUresult, &str, &str)] = &[
    (
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        "illegal_address",
        "mov.u64 %a, 0x100000000000; st.global.u32 [%a], 1;",
    ),
    (CUresult::CUDA_ERROR_LAUNCH_TIMEOUT, "run_away", "L: bra L;"),
    (
        CUresult::CUDA_ERROR_ASSERT,
        "failed_assertion",
        "mov.u64 %a, 0; st.param.b64 [m], %a; st.param.b64 [f], %a; st.param.b32 [l], 7; st.param.b64 [n], %a;\n\
         st.param.b64 [s], 1; call __assertfail, (m, f, l, n, s);",
    ),
    (
        CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR,
        "endless_recursion",
        "call deeper;",
    ),
    (
        CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION,
        "part_of_a_warp_at_a_barrier",
        "mov.u32 %w, 33; bar.sync 0, %w;",
    ),
    (
        CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
        "misaligned_address",
        "mov.u64 %a, counter; ld.global.u32 %w, [%a+2];",
    ),
    (
        CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE,
        "atomic_on_local_memory",
        "mov.u64 %a, own; cvta.local.u64 %a, %a; atom.add.u32 %w, [%a], 1;",
    ),
    (
        CUresult::CUDA_ERROR_INVALID_PC,
        "call_of_no_function",
        "mov.u64 %a, 64; call %a, shape;",
    ),
    (CUresult::CUDA_ERROR_LAUNCH_FAILED, "trapped", "trap;"),
];

fn kernels() -> CString {
    let mut text = String::from(
        ".version 7.0\n.target sm_52\n.address_size 64\n\
         .extern .func __assertfail(.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 n, .param .b64 s);\n\
         .visible .global .align 8 .u32 counter[2];\n\
         .func deeper() { .local .b8 frame[256]; call deeper; ret; }\n",
    );
    for (_, name, body) in FAULTS {
        text += &format!(
            ".visible .entry {name}() {{\n.reg .b64 %a; .reg .b32 %w; .local .align 8 .b8 own[8];\n\
             .param .b64 m; .param .b64 f; .param .b32 l; .param .b64 n; .param .b64 s;\n\
             shape: .callprototype _ ();\n{body}\nret; }}\n"
        );
    }
    CString::new(text).unwrap()
}

fn launch(function: CUfunction, stream: CUstream) -> CUresult {
    unsafe {
        cuLaunchKernel(
            function,
            1,
            1,
            1,
            1,
            1,
            1,
            0,
            stream,
            null_mut(),
            null_mut(),
        )
    }
}

fn context(device: CUdevice) -> CUcontext {
    let mut context = null_mut();
    ok(unsafe { cuCtxCreate_v2(&raw mut context, 0, device) });
    context
}

/// Whether the current context still does what it is asked.
fn works(store: CUfunction, word: CUdeviceptr, value: u32) {
    ok(launch_store(store, null_mut(), word, value));
    ok(unsafe { cuCtxSynchronize() });
    assert_eq!(read_word(word), value);
}

#[test]
fn every_fault_stays_with_its_context_and_ends_what_it_would_have_done() {
    // SAFETY: this is the only thread that looks at the environment yet.
    unsafe {
        std::env::set_var("SOFTGPU_DEVICES", "2");
        std::env::set_var("SOFTGPU_INSTRUCTION_LIMIT", "1000000");
        std::env::set_var("SOFTGPU_LOG", "off");
        ok(cuInit(0));
    }
    let text = kernels();
    // A neighbour on the same device, and one on the other.
    let neighbours = [0, 1].map(|device| {
        let context = context(device);
        let store = function(module(), "store");
        (context, store, allocate(4))
    });
    for (round, (error, name, _)) in (1..).zip(FAULTS) {
        let lost = context(0);
        let (store, word, pinned) = (function(module(), "store"), allocate(4), pinned_word());
        works(store, word, round);
        let mut faulty = null_mut();
        ok(unsafe { cuModuleLoadData(&raw mut faulty, text.as_ptr().cast()) });
        let (other, mut event) = (stream(1), null_mut());
        ok(unsafe { cuEventCreate(&raw mut event, 0) });
        ok(launch(function(faulty, name), null_mut()));
        // Work behind it in the same stream; whether the launch itself can know is a matter of time.
        let behind = launch_store(store, null_mut(), address(pinned), 1);
        assert!(
            behind == CUresult::CUDA_SUCCESS || behind == *error,
            "{name}: {behind:?}"
        );
        assert_eq!(unsafe { cuCtxSynchronize() }, *error, "{name}");
        let mut pointer = 0;
        for _ in 0..2 {
            let answers = unsafe {
                [
                    launch_store(store, null_mut(), address(pinned), 2),
                    launch_store(store, other, address(pinned), 3),
                    cuStreamSynchronize(other),
                    cuStreamQuery(null_mut()),
                    cuEventRecord(event, other),
                    cuMemAlloc_v2(&raw mut pointer, 4),
                    cuMemcpyDtoH_v2((&raw mut pointer).cast::<c_void>(), word, 4),
                    cuMemsetD32_v2(word, 9, 1),
                    cuCtxSynchronize(),
                ]
            };
            assert_eq!(answers, [*error; 9], "{name}");
        }
        assert_eq!(
            pinned.load(Ordering::SeqCst),
            0,
            "{name}: something ran after the fault"
        );
        for (context, store, word) in neighbours {
            ok(unsafe { cuCtxPushCurrent_v2(context) });
            works(store, word, 100 + round);
            let mut popped = null_mut();
            ok(unsafe { cuCtxPopCurrent_v2(&raw mut popped) });
        }
        ok(unsafe { cuCtxDestroy_v2(lost) });
        // The process goes on with a new context on the device.
        let next = context(0);
        works(function(module(), "store"), allocate(4), round);
        ok(unsafe { cuCtxDestroy_v2(next) });
    }
}
