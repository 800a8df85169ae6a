//! Names and texts of errors. Answered without a session, in every state of the process.

use std::ffi::{CStr, c_char};

use cuda_abi::types::CUresult;

use crate::call::Outcome;
use crate::edge;

/// # Safety
///
/// As the Driver API's: `pStr` is null or valid for a write.
pub unsafe fn cuGetErrorName(error: CUresult, pStr: *mut *const c_char) -> Outcome {
    edge::require(pStr)?;
    let found = entry(error);
    // SAFETY: not null (checked); the caller vouches for the rest.
    unsafe {
        edge::put(
            pStr,
            found.map_or(std::ptr::null(), |entry| entry.name.as_ptr()),
        )
    }?;
    found.map(|_| ()).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
}

/// # Safety
///
/// As the Driver API's: `pStr` is null or valid for a write.
pub unsafe fn cuGetErrorString(error: CUresult, pStr: *mut *const c_char) -> Outcome {
    edge::require(pStr)?;
    let found = entry(error);
    // SAFETY: not null (checked); the caller vouches for the rest.
    unsafe {
        edge::put(
            pStr,
            found.map_or(std::ptr::null(), |entry| entry.text.as_ptr()),
        )
    }?;
    found.map(|_| ()).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
}

struct Entry {
    code: CUresult,
    name: &'static CStr,
    text: &'static CStr,
}

fn entry(error: CUresult) -> Option<&'static Entry> {
    ENTRIES
        .binary_search_by_key(&error, |entry| entry.code)
        .ok()
        .and_then(|index| ENTRIES.get(index))
}

const fn terminated(bytes: &'static [u8]) -> &'static CStr {
    match CStr::from_bytes_with_nul(bytes) {
        Ok(text) => text,
        Err(_) => panic!("a text with a NUL in its middle"),
    }
}

macro_rules! entries {
    ($($code:ident: $text:literal,)+) => {
        [$(Entry {
            code: CUresult::$code,
            name: const { terminated(concat!(stringify!($code), "\0").as_bytes()) },
            text: const { terminated(concat!($text, "\0").as_bytes()) },
        }),+]
    };
}

/// In the order of the codes.
static ENTRIES: &[Entry] = &entries! {
    CUDA_SUCCESS: "no error",
    CUDA_ERROR_INVALID_VALUE: "an argument has a value that is not allowed",
    CUDA_ERROR_OUT_OF_MEMORY: "not enough memory is left",
    CUDA_ERROR_NOT_INITIALIZED: "the driver has not been initialised in this process",
    CUDA_ERROR_DEINITIALIZED: "the driver is shutting down",
    CUDA_ERROR_PROFILER_DISABLED: "profiling is switched off",
    CUDA_ERROR_PROFILER_NOT_INITIALIZED: "the profiler has not been initialised",
    CUDA_ERROR_PROFILER_ALREADY_STARTED: "profiling is already running",
    CUDA_ERROR_PROFILER_ALREADY_STOPPED: "profiling is already stopped",
    CUDA_ERROR_STUB_LIBRARY: "a stub was loaded in place of a driver library",
    CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER: "this call needs a newer driver",
    CUDA_ERROR_DEVICE_UNAVAILABLE: "the device cannot be used at present",
    CUDA_ERROR_MULTICAST_RESOURCE_FULL: "the multicast resources are used up",
    CUDA_ERROR_NO_DEVICE: "no CUDA device was found",
    CUDA_ERROR_INVALID_DEVICE: "there is no such device",
    CUDA_ERROR_DEVICE_NOT_LICENSED: "the device lacks a licence",
    CUDA_ERROR_INVALID_IMAGE: "the device code image is malformed",
    CUDA_ERROR_INVALID_CONTEXT: "there is no such context, or none is current",
    CUDA_ERROR_CONTEXT_ALREADY_CURRENT: "the context is already current",
    CUDA_ERROR_MAP_FAILED: "the resource could not be mapped",
    CUDA_ERROR_UNMAP_FAILED: "the resource could not be unmapped",
    CUDA_ERROR_ARRAY_IS_MAPPED: "the array is mapped and cannot be destroyed",
    CUDA_ERROR_ALREADY_MAPPED: "the resource is already mapped",
    CUDA_ERROR_NO_BINARY_FOR_GPU: "the image holds no code for this device",
    CUDA_ERROR_ALREADY_ACQUIRED: "the resource has already been acquired",
    CUDA_ERROR_NOT_MAPPED: "the resource is not mapped",
    CUDA_ERROR_NOT_MAPPED_AS_ARRAY: "the resource is not mapped as an array",
    CUDA_ERROR_NOT_MAPPED_AS_POINTER: "the resource is not mapped as a pointer",
    CUDA_ERROR_ECC_UNCORRECTABLE: "device memory had an error that could not be corrected",
    CUDA_ERROR_UNSUPPORTED_LIMIT: "the device does not support this limit",
    CUDA_ERROR_CONTEXT_ALREADY_IN_USE: "the context is already in use by another thread",
    CUDA_ERROR_PEER_ACCESS_UNSUPPORTED: "these devices cannot access each other",
    CUDA_ERROR_INVALID_PTX: "the PTX text could not be compiled",
    CUDA_ERROR_INVALID_GRAPHICS_CONTEXT: "the graphics context is not valid",
    CUDA_ERROR_NVLINK_UNCORRECTABLE: "NVLink had an error that could not be corrected",
    CUDA_ERROR_JIT_COMPILER_NOT_FOUND: "the PTX compiler library was not found",
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION: "the PTX text is of a version that the driver does not know",
    CUDA_ERROR_JIT_COMPILATION_DISABLED: "compiling PTX is switched off",
    CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY: "the device does not support this execution affinity",
    CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC: "the code synchronises on the device, which is not supported",
    CUDA_ERROR_CONTAINED: "an error occurred on the device and was contained",
    CUDA_ERROR_INSUFFICIENT_LOADER_VERSION: "the loader is too old for this driver",
    CUDA_ERROR_INVALID_SOURCE: "the device kernel source is not valid",
    CUDA_ERROR_FILE_NOT_FOUND: "the file was not found",
    CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND: "a symbol of a shared object was not found",
    CUDA_ERROR_SHARED_OBJECT_INIT_FAILED: "a shared object failed to initialise",
    CUDA_ERROR_OPERATING_SYSTEM: "a call to the operating system failed",
    CUDA_ERROR_INVALID_HANDLE: "there is no such object",
    CUDA_ERROR_ILLEGAL_STATE: "the object is not in a state that allows this",
    CUDA_ERROR_LOSSY_QUERY: "the answer does not fit into what was asked for",
    CUDA_ERROR_NOT_FOUND: "nothing of this name was found",
    CUDA_ERROR_NOT_READY: "the work is not finished yet",
    CUDA_ERROR_ILLEGAL_ADDRESS: "a kernel accessed memory that it may not access",
    CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: "the launch asks for more resources than there are",
    CUDA_ERROR_LAUNCH_TIMEOUT: "the kernel ran for too long and was stopped",
    CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING: "the launch uses an incompatible texturing mode",
    CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED: "access to the peer is already enabled",
    CUDA_ERROR_PEER_ACCESS_NOT_ENABLED: "access to the peer is not enabled",
    CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE: "the primary context is active and cannot be changed",
    CUDA_ERROR_CONTEXT_IS_DESTROYED: "the context has been destroyed",
    CUDA_ERROR_ASSERT: "an assertion in a kernel failed",
    CUDA_ERROR_TOO_MANY_PEERS: "the device can have no more peers",
    CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED: "the host memory is already registered",
    CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED: "the host memory is not registered",
    CUDA_ERROR_HARDWARE_STACK_ERROR: "a kernel's hardware stack was corrupted or overflowed",
    CUDA_ERROR_ILLEGAL_INSTRUCTION: "a kernel executed an illegal instruction",
    CUDA_ERROR_MISALIGNED_ADDRESS: "a kernel accessed memory at an address that is not aligned",
    CUDA_ERROR_INVALID_ADDRESS_SPACE: "a kernel used an address of the wrong address space",
    CUDA_ERROR_INVALID_PC: "a kernel's program counter left its code",
    CUDA_ERROR_LAUNCH_FAILED: "a kernel failed while it ran",
    CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE: "a cooperative launch asks for more blocks than can run at once",
    CUDA_ERROR_TENSOR_MEMORY_LEAK: "a kernel ended without freeing its tensor memory",
    CUDA_ERROR_NOT_PERMITTED: "the operation is not permitted",
    CUDA_ERROR_NOT_SUPPORTED: "the operation is not supported",
    CUDA_ERROR_SYSTEM_NOT_READY: "the system is not ready to use the GPU",
    CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: "parts of the driver do not match each other",
    CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE: "the device does not support compatibility mode",
    CUDA_ERROR_MPS_CONNECTION_FAILED: "the MPS client could not connect",
    CUDA_ERROR_MPS_RPC_FAILURE: "a call to the MPS server failed",
    CUDA_ERROR_MPS_SERVER_NOT_READY: "the MPS server is not ready",
    CUDA_ERROR_MPS_MAX_CLIENTS_REACHED: "the MPS server takes no more clients",
    CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED: "the device takes no more MPS connections",
    CUDA_ERROR_MPS_CLIENT_TERMINATED: "the MPS client was ended by the server",
    CUDA_ERROR_CDP_NOT_SUPPORTED: "the code launches kernels from kernels, which is not supported",
    CUDA_ERROR_CDP_VERSION_MISMATCH: "versions of dynamic parallelism in one program differ",
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: "the operation is not allowed while a stream is captured",
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: "an earlier error invalidated the capture",
    CUDA_ERROR_STREAM_CAPTURE_MERGE: "the operation would merge two separate captures",
    CUDA_ERROR_STREAM_CAPTURE_UNMATCHED: "the capture was not begun on this stream",
    CUDA_ERROR_STREAM_CAPTURE_UNJOINED: "the capture has a fork that never joined its origin",
    CUDA_ERROR_STREAM_CAPTURE_ISOLATION: "a dependency would leave the capture",
    CUDA_ERROR_STREAM_CAPTURE_IMPLICIT: "the operation would implicitly depend on a capture",
    CUDA_ERROR_CAPTURED_EVENT: "the event was recorded in a capture and cannot be used so",
    CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD: "the capture belongs to another thread",
    CUDA_ERROR_TIMEOUT: "the wait took longer than it was given",
    CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE: "the graph cannot be updated in this way",
    CUDA_ERROR_EXTERNAL_DEVICE: "a device outside CUDA reported an error",
    CUDA_ERROR_INVALID_CLUSTER_SIZE: "the cluster has a size that is not allowed",
    CUDA_ERROR_FUNCTION_NOT_LOADED: "the function has not been loaded",
    CUDA_ERROR_INVALID_RESOURCE_TYPE: "the resource is of the wrong type",
    CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION: "the resources are not configured for this",
    CUDA_ERROR_KEY_ROTATION: "the encryption keys are being exchanged",
    CUDA_ERROR_STREAM_DETACHED: "the stream was detached from its context",
    CUDA_ERROR_GRAPH_RECAPTURE_FAILURE: "the graph could not be captured again",
    CUDA_ERROR_FABRIC_NOT_READY: "the interconnect fabric is not ready",
    CUDA_ERROR_UNKNOWN: "an unknown error occurred",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_header_has_its_name_and_a_text_and_no_other_code_has_one() {
        assert!(ENTRIES.windows(2).all(|pair| pair[0].code < pair[1].code));
        for value in 0..=1100 {
            let code = CUresult(value);
            let found = entry(code);
            assert_eq!(found.map(|entry| entry.name.to_str().unwrap()), code.name());
            assert!(found.is_none_or(|entry| !entry.text.is_empty()));
        }
    }

    #[test]
    fn unknown_code_is_an_invalid_value_and_clears_the_pointer() {
        let mut place = c"before".as_ptr();
        // SAFETY: a local.
        let named = unsafe { cuGetErrorName(CUresult(12345), &raw mut place) };
        assert_eq!(named, Err(CUresult::CUDA_ERROR_INVALID_VALUE));
        assert!(place.is_null());
        // SAFETY: null is allowed.
        assert!(unsafe { cuGetErrorString(CUresult(0), std::ptr::null_mut()) }.is_err());
    }
}
