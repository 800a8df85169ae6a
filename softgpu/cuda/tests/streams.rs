//! Streams run beside each other and in order; a kernel that does not end holds up nothing else.
#![allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    reason = "nearly every line is a call of the C interface under test"
)]

mod common;

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};

use common::{
    Own, address, allocate, event, function, launch_spin, launch_store, module, ok, pinned_word,
    read_word, stream,
};
use cuda_abi::types::*;
use softcuda::generated::exports::*;

#[test]
fn a_spinning_kernel_delays_neither_its_launch_nor_other_streams() {
    let own = Own::new();
    let module = module();
    let (spin, store) = (function(module, "spin"), function(module, "store"));
    let flag = pinned_word();
    let (held, free) = (stream(0), stream(1));
    let word = allocate(8);
    // The launch returns while the kernel waits.
    ok(launch_spin(spin, held, address(flag)));
    ok(launch_store(store, held, word, 1));
    // SAFETY: handles.
    assert_eq!(
        unsafe { cuStreamQuery(held) },
        CUresult::CUDA_ERROR_NOT_READY
    );
    // Another stream runs to its end meanwhile.
    ok(launch_store(store, free, word + 4, 2));
    // SAFETY: handles.
    ok(unsafe { cuStreamSynchronize(free) });
    let seen = pinned_word();
    // SAFETY: pinned memory of four bytes.
    ok(unsafe { cuMemcpyDtoHAsync_v2(seen.as_ptr().cast(), word + 4, 4, free) });
    // SAFETY: handles.
    ok(unsafe { cuStreamSynchronize(free) });
    assert_eq!(seen.load(Ordering::Relaxed), 2);
    // SAFETY: handles.
    assert_eq!(
        unsafe { cuStreamQuery(held) },
        CUresult::CUDA_ERROR_NOT_READY
    );
    flag.store(1, Ordering::Release);
    // SAFETY: handles.
    ok(unsafe { cuStreamSynchronize(held) });
    assert_eq!(read_word(word), 1);
    drop(own);
}

#[test]
fn more_kernels_than_processors_can_wait_at_a_time() {
    let _own = Own::new();
    let module = module();
    let spin = function(module, "spin");
    let flags: Vec<&AtomicU32> = (0..24).map(|_| pinned_word()).collect();
    let streams: Vec<CUstream> = flags.iter().map(|_| stream(1)).collect();
    for (flag, stream) in flags.iter().zip(&streams) {
        ok(launch_spin(spin, *stream, address(flag)));
    }
    // Last first: each can end only if all of them run.
    for (flag, stream) in flags.iter().zip(&streams).rev() {
        flag.store(1, Ordering::Release);
        // SAFETY: handles.
        ok(unsafe { cuStreamSynchronize(*stream) });
    }
}

#[test]
fn the_default_stream_waits_for_blocking_streams_and_not_for_others() {
    let _own = Own::new();
    let module = module();
    let (spin, store) = (function(module, "spin"), function(module, "store"));
    let word = allocate(4);
    let (blocking, flag) = (stream(0), pinned_word());
    ok(launch_spin(spin, blocking, address(flag)));
    ok(launch_store(store, null_mut(), word, 1));
    // SAFETY: handles.
    assert_eq!(
        unsafe { cuStreamQuery(null_mut()) },
        CUresult::CUDA_ERROR_NOT_READY
    );
    flag.store(1, Ordering::Release);
    assert_eq!(read_word(word), 1);
    let (other, flag) = (stream(1), pinned_word());
    ok(launch_spin(spin, other, address(flag)));
    ok(launch_store(store, null_mut(), word, 2));
    assert_eq!(read_word(word), 2);
    // SAFETY: handles.
    assert_eq!(
        unsafe { cuStreamQuery(other) },
        CUresult::CUDA_ERROR_NOT_READY
    );
    flag.store(1, Ordering::Release);
}

#[test]
fn events_order_streams_and_measure_time() {
    let _own = Own::new();
    let module = module();
    let (spin, store) = (function(module, "spin"), function(module, "store"));
    let (first, second) = (stream(1), stream(1));
    let (begin, reached, never) = (event(), event(), event());
    let (flag, word) = (pinned_word(), allocate(4));
    // SAFETY: handles.
    unsafe {
        ok(cuEventRecord(begin, first));
        ok(launch_spin(spin, first, address(flag)));
        ok(cuEventRecord(reached, first));
        ok(cuStreamWaitEvent(second, reached, 0));
        ok(cuStreamWaitEvent(second, never, 0));
    }
    ok(launch_store(store, second, word, 7));
    // SAFETY: handles and a local.
    unsafe {
        assert_eq!(cuEventQuery(reached), CUresult::CUDA_ERROR_NOT_READY);
        assert_eq!(cuStreamQuery(second), CUresult::CUDA_ERROR_NOT_READY);
        let mut time = 0.0;
        assert_eq!(
            cuEventElapsedTime(&raw mut time, begin, reached),
            CUresult::CUDA_ERROR_NOT_READY
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
        flag.store(1, Ordering::Release);
        ok(cuEventSynchronize(reached));
        ok(cuEventElapsedTime(&raw mut time, begin, reached));
        assert!(time >= 5.0, "{time}");
        ok(cuEventElapsedTime(&raw mut time, reached, begin));
        assert!(time <= -5.0, "{time}");
        ok(cuStreamSynchronize(second));
        ok(cuEventQuery(never));
    }
    assert_eq!(read_word(word), 7);
}

unsafe extern "C" fn note(counter: *mut c_void) {
    // SAFETY: the tests pass a counter that outlives the call.
    unsafe { &*counter.cast::<AtomicU32>() }.fetch_add(1, Ordering::Relaxed);
}

unsafe extern "C" fn status(_stream: CUstream, status: CUresult, to: *mut c_void) {
    // SAFETY: as above.
    unsafe { &*to.cast::<AtomicU32>() }.store(status.0 + 1, Ordering::Relaxed);
}

#[test]
fn host_functions_run_in_stream_order() {
    let _own = Own::new();
    let module = module();
    let spin = function(module, "spin");
    let (stream, flag) = (stream(0), pinned_word());
    let counter = AtomicU32::new(0);
    ok(launch_spin(spin, stream, address(flag)));
    for _ in 0..10 {
        // SAFETY: the counter outlives the synchronisation below.
        ok(unsafe { cuLaunchHostFunc(stream, Some(note), counter.as_ptr().cast()) });
    }
    assert_eq!(counter.load(Ordering::Relaxed), 0);
    flag.store(1, Ordering::Release);
    // SAFETY: handles.
    ok(unsafe { cuStreamSynchronize(stream) });
    assert_eq!(counter.load(Ordering::Relaxed), 10);
}

#[test]
fn after_a_fault_callbacks_are_told_and_host_functions_do_not_run() {
    let _own = Own::new();
    let module = module();
    let (spin, stop) = (function(module, "spin"), function(module, "stop"));
    let (stream, flag) = (stream(0), pinned_word());
    let (counter, seen) = (AtomicU32::new(0), AtomicU32::new(0));
    ok(launch_spin(spin, stream, address(flag)));
    // SAFETY: no parameters; the counters outlive the synchronisation below.
    unsafe {
        ok(cuLaunchKernel(
            stop,
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
        ));
        ok(cuLaunchHostFunc(
            stream,
            Some(note),
            counter.as_ptr().cast(),
        ));
        ok(cuStreamAddCallback(
            stream,
            Some(status),
            seen.as_ptr().cast(),
            0,
        ));
    }
    flag.store(1, Ordering::Release);
    let failed = CUresult::CUDA_ERROR_LAUNCH_FAILED;
    // SAFETY: handles.
    assert_eq!(unsafe { cuStreamSynchronize(stream) }, failed);
    assert_eq!(
        (
            counter.load(Ordering::Relaxed),
            seen.load(Ordering::Relaxed)
        ),
        (0, failed.0 + 1)
    );
}

#[test]
fn each_thread_has_a_default_stream_of_its_own() {
    let own = Own::new();
    let module = module();
    let (spin, store) = (
        function(module, "spin") as usize,
        function(module, "store") as usize,
    );
    let (flag, word) = (pinned_word(), allocate(4));
    ok(launch_spin(
        spin as CUfunction,
        CU_STREAM_PER_THREAD,
        address(flag),
    ));
    let context = own.context as usize;
    std::thread::spawn(move || {
        // SAFETY: handles.
        ok(unsafe { cuCtxSetCurrent(context as CUcontext) });
        // SAFETY: as in `launch_store`; the per-thread form reads stream 0 as this thread's own.
        let (mut to, mut value) = (word, 3_u32);
        let mut params = [(&raw mut to).cast::<c_void>(), (&raw mut value).cast()];
        // SAFETY: a pointer for each parameter.
        ok(unsafe {
            cuLaunchKernel_ptsz(
                store as CUfunction,
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
        // SAFETY: handles.
        ok(unsafe { cuStreamSynchronize(CU_STREAM_PER_THREAD) });
    })
    .join()
    .unwrap();
    // SAFETY: handles.
    assert_eq!(
        unsafe { cuStreamQuery(CU_STREAM_PER_THREAD) },
        CUresult::CUDA_ERROR_NOT_READY
    );
    flag.store(1, Ordering::Release);
    assert_eq!(read_word(word), 3);
}
