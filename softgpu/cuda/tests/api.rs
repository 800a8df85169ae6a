//! Memory, modules, launches and errors through the exported functions.
#![allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    reason = "nearly every line is a call of the C interface under test"
)]

mod common;

use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr::{null, null_mut};

use common::{Own, PTX, allocate, event, function, launch_store, module, ok, read_word, stream};
use cuda_abi::types::*;
use softcuda::generated::exports::*;

const INVALID_VALUE: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
const INVALID_HANDLE: CUresult = CUresult::CUDA_ERROR_INVALID_HANDLE;

#[test]
fn a_kernel_adds_vectors_with_pointers_and_with_a_packed_buffer() {
    let _own = Own::new();
    let add = function(module(), "add");
    let n = 5000_u32;
    let bytes = 4 * n as usize;
    let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let b: Vec<f32> = (0..n).map(|i| 2.0 * i as f32).collect();
    let (mut da, mut db, mut dc, mut count) =
        (allocate(bytes), allocate(bytes), allocate(bytes), n);
    // SAFETY: vectors of `bytes` bytes.
    unsafe {
        ok(cuMemcpyHtoD_v2(da, a.as_ptr().cast(), bytes));
        ok(cuMemcpyHtoD_v2(db, b.as_ptr().cast(), bytes));
    }
    let blocks = n.div_ceil(128);
    for packed in [false, true] {
        // SAFETY: device memory of `bytes` bytes.
        ok(unsafe { cuMemsetD8_v2(dc, 0, bytes) });
        let mut params: [*mut c_void; 4] = [
            (&raw mut da).cast(),
            (&raw mut db).cast(),
            (&raw mut dc).cast(),
            (&raw mut count).cast(),
        ];
        let mut buffer = [0_u8; 28];
        buffer[..8].copy_from_slice(&da.to_ne_bytes());
        buffer[8..16].copy_from_slice(&db.to_ne_bytes());
        buffer[16..24].copy_from_slice(&dc.to_ne_bytes());
        buffer[24..].copy_from_slice(&count.to_ne_bytes());
        let mut size = buffer.len();
        let mut extra = [
            CU_LAUNCH_PARAM_BUFFER_POINTER,
            buffer.as_mut_ptr().cast(),
            CU_LAUNCH_PARAM_BUFFER_SIZE,
            (&raw mut size).cast(),
            CU_LAUNCH_PARAM_END,
        ];
        let (params, extra) = if packed {
            (null_mut(), extra.as_mut_ptr())
        } else {
            (params.as_mut_ptr(), null_mut())
        };
        // SAFETY: a pointer for each parameter, or a buffer of all.
        ok(unsafe { cuLaunchKernel(add, blocks, 1, 1, 128, 1, 1, 0, null_mut(), params, extra) });
        let mut c = vec![0.0_f32; n as usize];
        // SAFETY: a vector of `bytes` bytes.
        ok(unsafe { cuMemcpyDtoH_v2(c.as_mut_ptr().cast(), dc, bytes) });
        assert!(c.iter().enumerate().all(|(i, x)| *x == 3.0 * i as f32));
    }
}

#[test]
fn globals_are_found_initialised_and_kept_between_launches() {
    let _own = Own::new();
    let module = module();
    let bump = function(module, "bump");
    let (mut pointer, mut size) = (0, 0);
    // SAFETY: locals and C strings.
    unsafe {
        ok(cuModuleGetGlobal_v2(
            &raw mut pointer,
            &raw mut size,
            module,
            c"counter".as_ptr(),
        ));
        assert_eq!((size, read_word(pointer)), (4, 41));
        ok(cuLaunchKernel(
            bump,
            1,
            1,
            1,
            1,
            1,
            1,
            0,
            null_mut(),
            null_mut(),
            null_mut(),
        ));
        assert_eq!(read_word(pointer), 42);
        ok(cuModuleGetGlobal_v2(
            null_mut(),
            &raw mut size,
            module,
            c"factors".as_ptr(),
        ));
        assert_eq!(size, 16);
        let missing =
            cuModuleGetGlobal_v2(&raw mut pointer, null_mut(), module, c"nothing".as_ptr());
        assert_eq!(missing, CUresult::CUDA_ERROR_NOT_FOUND);
        ok(cuModuleUnload(module));
        let mut base = 0;
        let gone = cuMemGetAddressRange_v2(&raw mut base, null_mut(), pointer);
        assert_eq!(gone, CUresult::CUDA_ERROR_NOT_FOUND);
    }
}

#[test]
fn a_library_gives_kernels_that_launch_in_each_context() {
    let text = CString::new(PTX).unwrap();
    let mut library = null_mut();
    let mut kernel = null_mut();
    // SAFETY: locals and C strings.
    unsafe {
        ok(cuInit(0));
        let none = null_mut();
        ok(cuLibraryLoadData(
            &raw mut library,
            text.as_ptr().cast(),
            none,
            null_mut(),
            0,
            null_mut(),
            null_mut(),
            0,
        ));
        ok(cuLibraryGetKernel(
            &raw mut kernel,
            library,
            c"store".as_ptr(),
        ));
        let mut count = 0;
        ok(cuLibraryGetKernelCount(&raw mut count, library));
        assert_eq!(count, 5);
        let mut name = null();
        ok(cuKernelGetName(&raw mut name, kernel));
        assert_eq!(CStr::from_ptr(name), c"store");
        let (mut offset, mut size) = (0, 0);
        ok(cuKernelGetParamInfo(
            kernel,
            1,
            &raw mut offset,
            &raw mut size,
        ));
        assert_eq!((offset, size), (8, 4));
        assert_eq!(
            cuKernelGetParamInfo(kernel, 2, &raw mut offset, &raw mut size),
            INVALID_VALUE
        );
    }
    for value in [5, 6] {
        let _own = Own::new();
        let word = allocate(4);
        ok(launch_store(kernel.cast(), null_mut(), word, value));
        assert_eq!(read_word(word), value);
        let (mut function, mut module, mut same) = (null_mut(), null_mut(), null_mut());
        // SAFETY: locals.
        unsafe {
            ok(cuKernelGetFunction(&raw mut function, kernel));
            ok(cuLibraryGetModule(&raw mut module, library));
            ok(cuFuncGetModule(&raw mut same, function));
        }
        assert_eq!(module, same);
        ok(launch_store(function, null_mut(), word, value + 10));
        assert_eq!(read_word(word), value + 10);
    }
    // SAFETY: handles.
    unsafe {
        ok(cuLibraryUnload(library));
        assert_eq!(cuLibraryUnload(library), INVALID_HANDLE);
    }
}

#[test]
fn a_fault_stays_with_its_context_and_harms_no_other() {
    let good = Own::new();
    let word = allocate(4);
    let store_here = function(module(), "store");
    {
        let _bad = Own::new();
        let store = function(module(), "store");
        let small = allocate(4);
        // One past the end of what was asked for.
        ok(launch_store(store, null_mut(), small + 4, 1));
        let error = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
        let mut pointer = 0;
        // SAFETY: handles and locals.
        unsafe {
            assert_eq!(cuCtxSynchronize(), error);
            assert_eq!(cuCtxSynchronize(), error);
            assert_eq!(cuMemAlloc_v2(&raw mut pointer, 4), error);
            assert_eq!(cuStreamQuery(null_mut()), error);
            assert_eq!(launch_store(store, null_mut(), small, 1), error);
            assert_eq!(cuMemFree_v2(small), error);
        }
    }
    ok(launch_store(store_here, null_mut(), word, 9));
    assert_eq!(read_word(word), 9);
    drop(good);
}

#[test]
fn memory_of_another_context_is_an_illegal_address() {
    let _first = Own::new();
    let theirs = allocate(4);
    let _second = Own::new();
    ok(launch_store(
        function(module(), "store"),
        null_mut(),
        theirs,
        1,
    ));
    // SAFETY: handles.
    assert_eq!(
        unsafe { cuCtxSynchronize() },
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
    );
}

#[test]
fn misaligned_accesses_have_their_own_error() {
    let _own = Own::new();
    ok(launch_store(
        function(module(), "store"),
        null_mut(),
        allocate(8) + 2,
        1,
    ));
    // SAFETY: handles.
    assert_eq!(
        unsafe { cuCtxSynchronize() },
        CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
    );
}

#[test]
fn launches_that_cannot_run_are_refused_at_once_and_harm_nothing() {
    let _own = Own::new();
    let store = function(module(), "store");
    let word = allocate(4);
    let (mut to, mut value) = (word, 1_u32);
    let mut params = [(&raw mut to).cast::<c_void>(), (&raw mut value).cast()];
    let mut launch = |grid: [u32; 3], block: [u32; 3], shared| {
        let [gx, gy, gz] = grid;
        let [bx, by, bz] = block;
        // SAFETY: a pointer for each parameter.
        unsafe {
            cuLaunchKernel(
                store,
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                shared,
                null_mut(),
                params.as_mut_ptr(),
                null_mut(),
            )
        }
    };
    for (grid, block, shared) in [
        ([0, 1, 1], [1, 1, 1], 0),
        ([1, 1, 1], [0, 1, 1], 0),
        ([1, 1, 1], [1025, 1, 1], 0),
        ([1, 1, 1], [32, 33, 1], 0),
        ([1, 1, 1], [1, 1, 65], 0),
        ([1, 65536, 1], [1, 1, 1], 0),
        ([1, 1, 65536], [1, 1, 1], 0),
        ([1, 1, 1], [1, 1, 1], 48 * 1024 + 1),
    ] {
        assert_eq!(
            launch(grid, block, shared),
            INVALID_VALUE,
            "{grid:?} {block:?} {shared}"
        );
    }
    ok(launch([1, 1, 1], [1, 1, 1], 48 * 1024));
    assert_eq!(read_word(word), 1);
    // SAFETY: no parameters given where there are two.
    let missing = unsafe {
        cuLaunchKernel(
            store,
            1,
            1,
            1,
            1,
            1,
            1,
            0,
            null_mut(),
            null_mut(),
            null_mut(),
        )
    };
    assert_eq!(missing, INVALID_VALUE);
}

#[test]
fn more_shared_memory_is_there_for_who_asks() {
    let _own = Own::new();
    let stop = function(module(), "bump");
    let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    // SAFETY: handles and locals; no parameters.
    unsafe {
        assert_eq!(
            cuFuncSetAttribute(stop, attribute, 228 * 1024),
            INVALID_VALUE
        );
        ok(cuFuncSetAttribute(stop, attribute, 227 * 1024));
        let mut value = 0;
        ok(cuFuncGetAttribute(&raw mut value, attribute, stop));
        assert_eq!(value, 227 * 1024);
        ok(cuLaunchKernel(
            stop,
            1,
            1,
            1,
            1,
            1,
            1,
            227 * 1024,
            null_mut(),
            null_mut(),
            null_mut(),
        ));
        ok(cuCtxSynchronize());
    }
}

#[test]
fn forged_freed_and_mistyped_handles_are_refused() {
    let _own = Own::new();
    let module = module();
    let store = function(module, "store");
    let (stream, event) = (stream(0), event());
    let (mut out, mut count) = (null_mut(), 0);
    // SAFETY: wrong handles are what is tested; the calls check them.
    unsafe {
        for forged in [
            0x10_usize,
            0xdead_beef_0000,
            usize::MAX,
            store as usize,
            event as usize,
            stream as usize + 16,
        ] {
            assert_eq!(
                cuStreamQuery(forged as CUstream),
                INVALID_HANDLE,
                "{forged:#x}"
            );
            assert_eq!(
                cuStreamDestroy_v2(forged as CUstream),
                INVALID_HANDLE,
                "{forged:#x}"
            );
        }
        assert_eq!(cuEventQuery(stream.cast()), INVALID_HANDLE);
        assert_eq!(
            launch_store(module.cast(), null_mut(), 0, 0),
            INVALID_HANDLE
        );
        assert_eq!(
            cuModuleGetFunction(&raw mut out, store.cast(), c"x".as_ptr()),
            INVALID_HANDLE
        );
        assert_eq!(
            cuCtxSetCurrent(stream.cast()),
            CUresult::CUDA_ERROR_INVALID_CONTEXT
        );
        assert_eq!(
            cuLibraryGetKernelCount(&raw mut count, module.cast()),
            INVALID_HANDLE
        );
        ok(cuStreamDestroy_v2(stream));
        assert_eq!(cuStreamDestroy_v2(stream), INVALID_HANDLE);
        ok(cuEventDestroy_v2(event));
        assert_eq!(cuEventSynchronize(event), INVALID_HANDLE);
        ok(cuModuleUnload(module));
        assert_eq!(launch_store(store, null_mut(), 0, 0), INVALID_HANDLE);
    }
}

#[test]
fn null_results_are_invalid_values() {
    let _own = Own::new();
    // SAFETY: null is what is tested.
    unsafe {
        assert_eq!(cuMemAlloc_v2(null_mut(), 16), INVALID_VALUE);
        assert_eq!(cuDeviceGetCount(null_mut()), INVALID_VALUE);
        assert_eq!(cuStreamCreate(null_mut(), 0), INVALID_VALUE);
        assert_eq!(cuCtxGetCurrent(null_mut()), INVALID_VALUE);
        assert_eq!(cuModuleLoadData(null_mut(), null()), INVALID_VALUE);
        assert_eq!(cuDriverGetVersion(null_mut()), INVALID_VALUE);
    }
}

#[test]
fn copies_outside_what_is_allocated_are_refused() {
    let _own = Own::new();
    let word = allocate(16);
    let mut host = [0_u8; 64];
    // SAFETY: a local of 64 bytes; wrong device ranges are what is tested.
    unsafe {
        let to = host.as_mut_ptr().cast();
        assert_eq!(cuMemcpyDtoH_v2(to, word, 17), INVALID_VALUE);
        assert_eq!(cuMemcpyDtoH_v2(to, word + 16, 1), INVALID_VALUE);
        assert_eq!(cuMemcpyHtoD_v2(to as CUdeviceptr, to, 4), INVALID_VALUE);
        assert_eq!(
            cuMemcpy(to as CUdeviceptr, word + (1 << 21), 4),
            INVALID_VALUE
        );
        ok(cuMemcpyDtoH_v2(to, word, 16));
        ok(cuMemcpyDtoH_v2(null_mut(), 0, 0));
        ok(cuMemFree_v2(word));
        assert_eq!(cuMemcpyDtoH_v2(to, word, 16), INVALID_VALUE);
        assert_eq!(cuMemFree_v2(word), INVALID_VALUE);
    }
}

#[test]
fn rows_are_copied_and_filled_with_their_pitch() {
    let _own = Own::new();
    let (mut device, mut pitch) = (0, 0);
    // SAFETY: locals.
    ok(unsafe { cuMemAllocPitch_v2(&raw mut device, &raw mut pitch, 100, 5, 4) });
    assert!(pitch >= 100 && pitch % 512 == 0);
    let source: Vec<u8> = (0..=249).collect();
    let mut back = vec![0_u8; 250];
    let none = CUmemorytype::CU_MEMORYTYPE_HOST;
    let mut copy = CUDA_MEMCPY2D {
        srcXInBytes: 0,
        srcY: 0,
        srcMemoryType: none,
        srcHost: source.as_ptr().cast(),
        srcDevice: 0,
        srcArray: null_mut(),
        srcPitch: 50,
        dstXInBytes: 8,
        dstY: 0,
        dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
        dstHost: null_mut(),
        dstDevice: device,
        dstArray: null_mut(),
        dstPitch: pitch,
        WidthInBytes: 50,
        Height: 5,
    };
    // SAFETY: host ranges of 250 bytes, device rows of 100.
    unsafe {
        ok(cuMemsetD2D8_v2(device, pitch, 0xee, 100, 5));
        ok(cuMemcpy2D_v2(&raw const copy));
        copy.srcMemoryType = CUmemorytype::CU_MEMORYTYPE_DEVICE;
        copy.srcDevice = device;
        copy.srcPitch = pitch;
        copy.srcXInBytes = 7;
        copy.dstMemoryType = none;
        copy.dstHost = back.as_mut_ptr().cast();
        copy.dstPitch = 50;
        copy.dstXInBytes = 0;
        ok(cuMemcpy2D_v2(&raw const copy));
    }
    for row in 0..5 {
        assert_eq!(back[row * 50], 0xee);
        assert_eq!(
            back[row * 50 + 1..row * 50 + 50],
            source[row * 50..row * 50 + 49]
        );
    }
}

#[test]
fn pageable_memory_may_change_once_an_asynchronous_copy_has_returned() {
    let _own = Own::new();
    let (stream, device) = (stream(1), allocate(4096));
    let mut host = vec![3_u8; 4096];
    // SAFETY: a vector of 4096 bytes.
    unsafe {
        ok(cuMemcpyHtoDAsync_v2(
            device,
            host.as_ptr().cast(),
            4096,
            stream,
        ));
        host.fill(9);
        ok(cuStreamSynchronize(stream));
    }
    assert_eq!(read_word(device + 4092), 0x0303_0303);
}

#[test]
fn compile_errors_are_told_in_the_log_that_the_caller_gives() {
    let _own = Own::new();
    let text =
        CString::new(PTX.replace("add.f32 %x, %x, %y;", "frobnicate.f32 %x, %x, %y;")).unwrap();
    let mut log = [0_u8; 256];
    let mut options = [
        CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
        CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    let mut values = [
        log.as_mut_ptr().cast::<c_void>(),
        std::ptr::without_provenance_mut(log.len()),
    ];
    let mut module = null_mut();
    // SAFETY: two options with their values, and NUL-terminated text.
    let result = unsafe {
        cuModuleLoadDataEx(
            &raw mut module,
            text.as_ptr().cast(),
            2,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    assert_eq!(result, CUresult::CUDA_ERROR_INVALID_PTX);
    let written = values[1].addr();
    let told = CStr::from_bytes_until_nul(&log).unwrap().to_str().unwrap();
    assert!(told.contains("frobnicate"), "{told}");
    assert_eq!(written, told.len() + 1);
}

#[test]
fn images_of_other_kinds_are_refused_with_the_right_error() {
    let _own = Own::new();
    let mut module = null_mut();
    let mut elf = [0_u8; 64];
    elf[..4].copy_from_slice(b"\x7fELF");
    let mut damaged = [0_u8; 64];
    damaged[..4].copy_from_slice(&0xba55_ed50_u32.to_le_bytes());
    // SAFETY: each buffer is a complete image of its kind, or damaged within its own bounds.
    unsafe {
        let load = |image: *const u8, out: *mut CUmodule| cuModuleLoadData(out, image.cast());
        let no_binary = CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU;
        assert_eq!(load(elf.as_ptr(), &raw mut module), no_binary);
        assert_eq!(
            load(damaged.as_ptr(), &raw mut module),
            CUresult::CUDA_ERROR_INVALID_IMAGE
        );
        assert_eq!(
            load(c"hello".as_ptr().cast(), &raw mut module),
            CUresult::CUDA_ERROR_INVALID_IMAGE
        );
        assert_eq!(
            load(c"".as_ptr().cast(), &raw mut module),
            CUresult::CUDA_ERROR_INVALID_IMAGE
        );
        let missing = cuModuleLoad(&raw mut module, c"/no/such/file".as_ptr());
        assert_eq!(missing, CUresult::CUDA_ERROR_FILE_NOT_FOUND);
    }
}

#[test]
fn primary_contexts_are_counted_and_their_handle_stays() {
    let (mut first, mut second, mut active, mut flags) = (null_mut(), null_mut(), 0, 0);
    let mut state = |active: &mut c_int| {
        // SAFETY: locals.
        ok(unsafe { cuDevicePrimaryCtxGetState(0, &raw mut flags, &raw mut *active) });
    };
    // SAFETY: locals and handles.
    unsafe {
        ok(cuInit(0));
        ok(cuDevicePrimaryCtxRetain(&raw mut first, 0));
        ok(cuDevicePrimaryCtxRetain(&raw mut second, 0));
        assert_eq!(first, second);
        ok(cuCtxSetCurrent(first));
        let before = allocate(16);
        ok(cuDevicePrimaryCtxRelease_v2(0));
        state(&mut active);
        assert_eq!(active, 1);
        ok(cuDevicePrimaryCtxRelease_v2(0));
        state(&mut active);
        assert_eq!(active, 0);
        assert_eq!(
            cuCtxSynchronize(),
            CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
        );
        assert_eq!(
            cuDevicePrimaryCtxRelease_v2(0),
            CUresult::CUDA_ERROR_INVALID_CONTEXT
        );
        ok(cuDevicePrimaryCtxRetain(&raw mut second, 0));
        assert_eq!(first, second);
        assert_eq!(cuMemFree_v2(before), INVALID_VALUE);
        ok(cuDevicePrimaryCtxRelease_v2(0));
        ok(cuCtxSetCurrent(null_mut()));
    }
}

#[test]
fn names_and_texts_of_errors_are_known() {
    let mut text = null();
    // SAFETY: locals; the texts are C strings.
    unsafe {
        ok(cuGetErrorName(
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
            &raw mut text,
        ));
        assert_eq!(CStr::from_ptr(text), c"CUDA_ERROR_ILLEGAL_ADDRESS");
        ok(cuGetErrorString(
            CUresult::CUDA_ERROR_INVALID_VALUE,
            &raw mut text,
        ));
        assert_eq!(CStr::from_ptr(text), c"invalid argument");
        assert_eq!(
            cuGetErrorName(CUresult(123_456), &raw mut text),
            INVALID_VALUE
        );
        assert!(text.is_null());
    }
}

#[test]
fn occupancy_follows_the_kernel_and_the_block() {
    let _own = Own::new();
    let add = function(module(), "add");
    let (mut blocks, mut grid, mut block) = (0, 0, 0);
    // SAFETY: locals and handles.
    unsafe {
        ok(cuOccupancyMaxActiveBlocksPerMultiprocessor(
            &raw mut blocks,
            add,
            256,
            0,
        ));
        assert_eq!(blocks, 8);
        ok(cuOccupancyMaxActiveBlocksPerMultiprocessor(
            &raw mut blocks,
            add,
            32,
            48 * 1024,
        ));
        assert_eq!(blocks, 4);
        assert_eq!(
            cuOccupancyMaxActiveBlocksPerMultiprocessor(&raw mut blocks, add, 0, 0),
            INVALID_VALUE
        );
        ok(cuOccupancyMaxPotentialBlockSize(
            &raw mut grid,
            &raw mut block,
            add,
            None,
            0,
            0,
        ));
        assert_eq!((grid, block), (32, 1024));
    }
}
