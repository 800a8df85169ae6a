//! Before initialisation, after a fork, and with a configuration that cannot be used.
//!
//! One test in a process of its own, as it needs the driver before anything has initialised it.
#![allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    reason = "nearly every line is a call of the C interface under test"
)]

use std::process::Command;
use std::ptr::null_mut;

use cuda_abi::types::CUresult;
use softcuda::generated::exports::*;

const ROLE: &str = "SOFTGPU_TEST_ROLE";

#[test]
fn the_driver_answers_before_it_is_initialised_after_a_fork_and_when_misconfigured() {
    if std::env::var_os(ROLE).is_some() {
        // SAFETY: no pointers.
        let result = unsafe { cuInit(0) };
        std::process::exit(i32::try_from(result.0).unwrap_or(-1));
    }
    before_initialisation();
    a_bad_configuration_fails_and_is_told();
    a_forked_child_finds_no_driver();
}

fn before_initialisation() {
    let (mut count, mut context, mut version) = (0, null_mut(), 0);
    let not_initialised = CUresult::CUDA_ERROR_NOT_INITIALIZED;
    // SAFETY: locals.
    unsafe {
        assert_eq!(cuDeviceGetCount(&raw mut count), not_initialised);
        assert_eq!(cuCtxGetCurrent(&raw mut context), not_initialised);
        assert_eq!(cuDriverGetVersion(&raw mut version), CUresult::CUDA_SUCCESS);
        assert_eq!(version, 13050);
        assert_eq!(cuInit(1), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(cuInit(0), CUresult::CUDA_SUCCESS);
        assert_eq!(cuInit(0), CUresult::CUDA_SUCCESS);
        assert_eq!(cuDeviceGetCount(&raw mut count), CUresult::CUDA_SUCCESS);
        assert_eq!(count, 1);
        assert_eq!(cuCtxSynchronize(), CUresult::CUDA_ERROR_INVALID_CONTEXT);
    }
}

fn a_bad_configuration_fails_and_is_told() {
    let this = std::env::current_exe().unwrap();
    let output = Command::new(this)
        .args(["--nocapture", "--test-threads=1"])
        .env(ROLE, "init")
        .env("SOFTGPU_MEMORY", "plenty")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "INVALID_VALUE");
    let told = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = told
        .lines()
        .filter(|line| line.starts_with("softgpu:"))
        .collect();
    assert!(
        matches!(lines[..], [line] if line.contains("SOFTGPU_MEMORY=\"plenty\"")),
        "{told}"
    );
}

fn a_forked_child_finds_no_driver() {
    // SAFETY: the child makes two calls that take no lock and exits without running anything else.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut count = 0;
        // SAFETY: locals.
        let counted = unsafe { cuDeviceGetCount(&raw mut count) };
        // SAFETY: no pointers.
        let again = unsafe { cuInit(0) };
        let expected = CUresult::CUDA_ERROR_NOT_INITIALIZED;
        let code = i32::from(counted != expected || again != expected);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(code) };
    }
    let mut status = -1;
    // SAFETY: our own child.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0);
    let mut count = 0;
    // SAFETY: locals.
    assert_eq!(
        unsafe { cuDeviceGetCount(&raw mut count) },
        CUresult::CUDA_SUCCESS
    );
}
