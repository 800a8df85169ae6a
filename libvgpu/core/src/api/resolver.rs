//! How programs find functions and the private tables.

use std::ffi::{c_char, c_int, c_void};
use std::sync::OnceLock;

use cuda_abi::handshake;
use cuda_abi::resolver::{Address, DefaultStream, Lookup, lookup};
use cuda_abi::types::{CUdriverProcAddressQueryResult, CUresult, CUuuid};

use crate::api::device::driver_version;
use crate::call::Outcome;
use crate::edge;
use crate::handshake::Client;
use crate::log::say;

static ADDRESSES: OnceLock<&'static [Address]> = OnceLock::new();

/// `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`
const PER_THREAD: u64 = 2;

/// Takes the addresses of the exported functions, in the order of `cuda_abi::resolver::EXPORTS`. The
/// library that exports them does so when it is loaded.
pub fn install(addresses: &'static [Address]) {
    let _ = ADDRESSES.set(addresses);
}

pub unsafe fn cuGetProcAddress(
    symbol: *const c_char,
    pfn: *mut *mut c_void,
    driverVersion: c_int,
    flags: u64,
) -> Outcome {
    // SAFETY: the caller's promise.
    let found = unsafe { resolve(symbol, pfn, driverVersion, flags) }?;
    // Without a place for the status, an unknown name is an error.
    let address = found.map_err(|_| CUresult::CUDA_ERROR_NOT_FOUND)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(pfn, address) }
}

pub unsafe fn cuGetProcAddress_v2(
    default: DefaultStream,
    symbol: *const c_char,
    pfn: *mut *mut c_void,
    driverVersion: c_int,
    flags: u64,
    symbolFound: *mut CUdriverProcAddressQueryResult,
) -> Outcome {
    // A program compiled for per-thread default streams means those when it leaves the choice open.
    let flags = if flags == 0 && default == DefaultStream::PerThread {
        PER_THREAD
    } else {
        flags
    };
    // SAFETY: the caller's promise.
    let found = unsafe { resolve(symbol, pfn, driverVersion, flags) }?;
    let (address, status) = match found {
        Ok(address) => (
            address,
            CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS,
        ),
        Err(status) => (std::ptr::null_mut(), status),
    };
    // SAFETY: the caller's promise.
    unsafe { edge::put_optional(symbolFound, status) };
    // SAFETY: the caller's promise.
    unsafe { edge::put(pfn, address) }
}

pub unsafe fn cuGetExportTable(
    ppExportTable: *mut *const c_void,
    pExportTableId: *const CUuuid,
) -> Outcome {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    INSTALLED.get_or_init(|| handshake::install(&Client));
    // SAFETY: the caller's promise.
    let status = unsafe { handshake::get_export_table(ppExportTable, pExportTableId) };
    if status == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    if !pExportTableId.is_null() {
        // SAFETY: not null, so readable by the caller's promise.
        let id = unsafe { pExportTableId.read_unaligned() };
        say!(
            Info,
            "private table {:02x?} is not served: {status:?}",
            id.bytes
        );
    }
    Err(status)
}

/// Checks the arguments and looks the name up. The inner error says why there is no address.
unsafe fn resolve(
    symbol: *const c_char,
    pfn: *mut *mut c_void,
    version: c_int,
    flags: u64,
) -> Outcome<Result<*mut c_void, CUdriverProcAddressQueryResult>> {
    edge::require(pfn)?;
    // SAFETY: the caller's promise.
    let name = unsafe { edge::text(symbol, 256) }?;
    let wanted = u32::try_from(version).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
    if flags > PER_THREAD || version > driver_version() {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let Ok(name) = name.to_str() else {
        return Ok(Err(
            CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND,
        ));
    };
    let addresses = ADDRESSES.get().copied().unwrap_or_default();
    Ok(match lookup(name, wanted, flags == PER_THREAD) {
        Lookup::Found(index) => match addresses.get(index).map(|address| address.pointer()) {
            Some(address) if !address.is_null() => Ok(address.cast_mut()),
            // Programs probe for this one; without it they take another way.
            _ => Err(CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND),
        },
        Lookup::Unknown => {
            Err(CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND)
        }
        Lookup::VersionTooOld => {
            Err(CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT)
        }
    })
}

#[cfg(test)]
mod tests {
    use cuda_abi::resolver::{EXPORTS, index_of};

    use super::*;

    fn ask(symbol: &std::ffi::CStr, version: c_int, flags: u64) -> (Outcome, usize, u32) {
        // Each function's "address" is its index, counted from 1.
        let addresses =
            (1..=EXPORTS.len()).map(|at| Address::new(std::ptr::without_provenance(at)));
        install(addresses.collect::<Vec<_>>().leak());
        let mut address = std::ptr::without_provenance_mut(usize::MAX);
        let mut status = CUdriverProcAddressQueryResult(99);
        // SAFETY: locals and a literal.
        let outcome = unsafe {
            cuGetProcAddress_v2(
                DefaultStream::Legacy,
                symbol.as_ptr(),
                &raw mut address,
                version,
                flags,
                &raw mut status,
            )
        };
        (outcome, address.addr(), status.0)
    }

    fn place_of(name: &str) -> usize {
        index_of(name).unwrap() + 1
    }

    #[test]
    fn known_name_gets_the_form_of_its_version_and_flag() {
        assert_eq!(
            ask(c"cuMemAlloc", 12000, 0),
            (Ok(()), place_of("cuMemAlloc_v2"), 0)
        );
        assert_eq!(
            ask(c"cuLaunchKernel", 7000, 2),
            (Ok(()), place_of("cuLaunchKernel_ptsz"), 0)
        );
    }

    #[test]
    fn unknown_and_empty_names_succeed_with_null_and_a_status() {
        assert_eq!(ask(c"", 0, 0), (Ok(()), 0, 1));
        assert_eq!(ask(c"cuNoSuchThing", 12000, 0), (Ok(()), 0, 1));
        assert_eq!(ask(c"cuLaunchKernelEx", 11000, 0), (Ok(()), 0, 2));
    }

    #[test]
    fn version_beyond_the_driver_and_unknown_flags_are_invalid() {
        for (version, flags) in [(99000, 0), (-1, 0), (12000, 3)] {
            assert_eq!(
                ask(c"cuInit", version, flags).0,
                Err(CUresult::CUDA_ERROR_INVALID_VALUE)
            );
        }
    }

    #[test]
    fn first_form_says_not_found_and_leaves_the_pointer_alone() {
        let mut address = std::ptr::without_provenance_mut(5);
        // SAFETY: a local and a literal.
        let outcome =
            unsafe { cuGetProcAddress(c"cuNoSuchThing".as_ptr(), &raw mut address, 12000, 0) };
        assert_eq!(
            (outcome, address.addr()),
            (Err(CUresult::CUDA_ERROR_NOT_FOUND), 5)
        );
    }
}
