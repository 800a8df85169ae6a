//! Several devices of an older driver: one test in a process of its own, as both are settings of a process.
#![allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    reason = "nearly every line is a call of the C interface under test"
)]

mod common;

use std::ffi::{CStr, CString, c_void};
use std::ptr::null_mut;

use common::{allocate, function, launch_store, module, ok, read_word};
use cuda_abi::types::*;
use softcuda::generated::exports::*;

#[test]
fn two_devices_of_a_12_4_driver_are_apart_and_lack_what_came_later() {
    // SAFETY: this is the only thread that looks at the environment yet.
    unsafe {
        std::env::set_var("SOFTGPU_DEVICES", "2");
        std::env::set_var("SOFTGPU_MEMORY", "64MiB");
        std::env::set_var("SOFTGPU_SM_COUNT", "4");
        std::env::set_var("SOFTGPU_DRIVER_VERSION", "12040");
        ok(cuInit(0));
    }
    the_devices_have_identities_of_their_own();
    memory_is_each_devices_and_is_copied_between_them();
    newer_ptx_is_refused_as_that_driver_would();
    newer_functions_are_not_found();
}

fn the_devices_have_identities_of_their_own() {
    let mut count = 0;
    let mut uuids = [CUuuid::default(); 2];
    let mut names = [[0; 16]; 2];
    // SAFETY: locals, of the lengths that are given.
    unsafe {
        ok(cuDeviceGetCount(&raw mut count));
        assert_eq!(count, 2);
        for ordinal in 0..2 {
            let index = usize::try_from(ordinal).unwrap();
            let mut device = -1;
            ok(cuDeviceGet(&raw mut device, ordinal));
            ok(cuDeviceGetUuid_v2(&raw mut uuids[index], device));
            ok(cuDeviceGetPCIBusId(names[index].as_mut_ptr(), 16, device));
            let mut found = -1;
            ok(cuDeviceGetByPCIBusId(&raw mut found, names[index].as_ptr()));
            assert_eq!(found, device);
            let mut sms = 0;
            ok(cuDeviceGetAttribute(
                &raw mut sms,
                CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
                device,
            ));
            assert_eq!(sms, 4);
        }
        let mut device = -1;
        assert_eq!(
            cuDeviceGet(&raw mut device, 2),
            CUresult::CUDA_ERROR_INVALID_DEVICE
        );
    }
    assert_ne!(uuids[0].bytes, uuids[1].bytes);
    assert_ne!(names[0], names[1]);
}

fn context_on(device: CUdevice) -> CUcontext {
    let mut context = null_mut();
    // SAFETY: a local for the result.
    ok(unsafe { cuCtxCreate_v2(&raw mut context, 0, device) });
    context
}

fn free_bytes() -> usize {
    let (mut free, mut total) = (0, 0);
    // SAFETY: locals.
    ok(unsafe { cuMemGetInfo_v2(&raw mut free, &raw mut total) });
    free
}

fn memory_is_each_devices_and_is_copied_between_them() {
    let first = context_on(0);
    let full = free_bytes();
    let here = allocate(32 << 20);
    assert_eq!(free_bytes(), full - (32 << 20));
    let second = context_on(1);
    assert_eq!(free_bytes(), full, "the second device has all of its own");
    let there = allocate(4096);
    ok(launch_store(
        function(module(), "store"),
        null_mut(),
        there,
        77,
    ));
    // SAFETY: handles, and ranges that were allocated.
    unsafe {
        ok(cuCtxSynchronize());
        let mut ordinal = -1;
        ok(cuPointerGetAttribute(
            (&raw mut ordinal).cast::<c_void>(),
            CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
            there,
        ));
        assert_eq!(ordinal, 1);
        ok(cuMemcpy(here, there, 4));
        ok(cuCtxSetCurrent(first));
    }
    assert_eq!(read_word(here), 77);
    // SAFETY: handles.
    unsafe {
        ok(cuCtxDestroy_v2(second));
        ok(cuCtxDestroy_v2(first));
    }
}

fn newer_ptx_is_refused_as_that_driver_would() {
    let context = context_on(0);
    for (version, result) in [
        ("8.4", CUresult::CUDA_SUCCESS),
        ("8.5", CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION),
        ("9.0", CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION),
    ] {
        let text = common::PTX.replace(".version 7.0", &format!(".version {version}"));
        let text = CString::new(text).unwrap();
        let mut module = null_mut();
        // SAFETY: a local for the result, and NUL-terminated text.
        let loaded = unsafe { cuModuleLoadData(&raw mut module, text.as_ptr().cast()) };
        assert_eq!(loaded, result, "{version}");
    }
    // SAFETY: a handle.
    ok(unsafe { cuCtxDestroy_v2(context) });
}

fn newer_functions_are_not_found() {
    let find = |name: &CStr, version| {
        let (mut found, mut status) = (null_mut(), CUdriverProcAddressQueryResult(99));
        // SAFETY: locals and a C string.
        let result = unsafe {
            cuGetProcAddress_v2(name.as_ptr(), &raw mut found, version, 0, &raw mut status)
        };
        (result, found.is_null())
    };
    let mut version = 0;
    // SAFETY: a local.
    ok(unsafe { cuDriverGetVersion(&raw mut version) });
    assert_eq!(version, 12040);
    assert_eq!(find(c"cuMemAlloc", 12040), (CUresult::CUDA_SUCCESS, false));
    // Of CUDA 12.5, and asked for as a newer runtime asks.
    assert!(find(c"cuCtxRecordEvent", 12040).1);
    assert!(find(c"cuCtxRecordEvent", 13050).1);
}
