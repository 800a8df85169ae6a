//! Where the things under test lie: binaries and libraries beside the test, programs under `target/`.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

/// Directory of the repository.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The profile directory (`target/debug`, say) that the running test was built into, or
/// `VGPU_TEST_BINARIES`.
pub fn profile() -> PathBuf {
    if let Some(chosen) = std::env::var_os("VGPU_TEST_BINARIES") {
        return PathBuf::from(chosen);
    }
    let executable = std::env::current_exe().expect("/proc is mounted");
    let mut directory = executable
        .parent()
        .expect("an executable lies in a directory");
    if directory.ends_with("deps") {
        directory = directory
            .parent()
            .expect("deps lies in the profile directory");
    }
    directory.to_path_buf()
}

/// A file that `cargo build --workspace` makes.
///
/// # Panics
/// If it is missing, with what to do.
pub fn built(name: &str) -> PathBuf {
    let path = profile().join(name);
    assert!(
        path.exists(),
        "{} is missing: build everything first with `cargo build --workspace` (same profile and target \
         directory as the tests), or run `make test`",
        path.display()
    );
    path
}

/// The `libcuda.so.1` under test.
pub fn libvgpu() -> PathBuf {
    built("libcuda.so")
}

/// The `libnvidia-ml.so.1` under test.
pub fn libvgpu_nvml() -> PathBuf {
    built("libnvidia_ml.so")
}

/// The software GPU's driver library.
pub fn softgpu() -> PathBuf {
    built("libsoftcuda.so")
}

/// The software GPU's management library.
pub fn softgpu_nvml() -> PathBuf {
    built("libsoftnvml.so")
}

/// The tool that harms a software GPU which several processes share.
pub fn softgpu_device() -> PathBuf {
    built("softgpu-device")
}

/// The test client in Rust, `src/bin/client`.
pub fn client() -> PathBuf {
    built("vgpu-test-client")
}

/// The program that calls one function in many ways, `src/bin/calls`.
pub fn calls() -> PathBuf {
    built("vgpu-test-calls")
}

/// Where `tests/toolchain/fetch.sh` installs the CUDA toolchain.
pub fn toolchain() -> PathBuf {
    std::env::var_os("CUDA_TOOLCHAIN_DIR")
        .map_or_else(|| repository().join("target/cuda-toolchain"), PathBuf::from)
}

/// Says that what `folder` should hold is skipped, because the toolchain that builds it cannot be had here.
///
/// # Panics
/// If it could have been built, with what to do.
pub fn skip_without_toolchain(folder: &Path, what: &str) {
    assert!(
        !toolchain().join("cu13/bin/nvcc").exists()
            && std::env::var_os("VGPU_TEST_REQUIRE_CUDA").is_none(),
        "{} holds no {what}: run `make programs` first",
        folder.display()
    );
    eprintln!(
        "SKIPPED: all {what} of {}: the CUDA toolchain is not installed (tests/toolchain/fetch.sh fetches \
         it where its wheels can be had)",
        folder.display()
    );
}

/// Where `tests/clients/fetch.sh` installs programs in Python that use CUDA.
pub fn clients_directory() -> PathBuf {
    std::env::var_os("PYTHON_CLIENTS_DIR")
        .map_or_else(|| repository().join("target/python-clients"), PathBuf::from)
}

/// Runs a Python program with the packages of `tests/clients`. `None`, said loudly, where they or the compilers
/// they need cannot be had.
///
/// # Panics
/// If `VGPU_TEST_REQUIRE_CUDA` says that there must be some.
pub fn python_clients() -> Option<PathBuf> {
    let folder = clients_directory();
    if folder.join("installed").exists() && toolchain().join("cu13/lib").exists() {
        return Some(repository().join("tests/clients/python"));
    }
    assert!(
        std::env::var_os("VGPU_TEST_REQUIRE_CUDA").is_none(),
        "{} or the CUDA toolchain is not installed: run `make programs` and `make clients` first",
        folder.display()
    );
    eprintln!(
        "SKIPPED: Python programs: {} or the CUDA toolchain is not installed (tests/clients/fetch.sh and \
         tests/toolchain/fetch.sh fetch them where the packages can be had)",
        folder.display()
    );
    None
}

/// Where the examples in C are built to, each with what it reads beside it.
pub fn examples() -> PathBuf {
    repository().join("target/examples")
}

/// Where the programs of `tests/programs` are built to.
pub fn programs() -> PathBuf {
    std::env::var_os("VGPU_TEST_PROGRAMS")
        .map_or_else(|| repository().join("target/programs"), PathBuf::from)
}
