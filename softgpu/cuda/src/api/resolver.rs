//! Start-up: initialisation, versions, and how programs find the other functions.

use std::ffi::{c_char, c_int, c_uint, c_void};

use cuda_abi::handshake;
use cuda_abi::resolver::{DefaultStream, Lookup, lookup};
use cuda_abi::types::{CUdriverProcAddressQueryResult, CUresult, CUuuid};
use softgpu_core::config::Config;
use softgpu_core::error::Error;

use crate::driver;
use crate::edge::{self, Outcome, put, put_if_wanted};
use crate::generated::exports::ADDRESSES;

/// What the caller was built for decides; prefer legacy forms; prefer per-thread forms.
const DEFAULT: u64 = 0;
const PER_THREAD_DEFAULT_STREAM: u64 = 2;

pub unsafe fn cuInit(flags: c_uint) -> Outcome {
    if flags != 0 {
        return Err(Error::InvalidValue);
    }
    driver::initialize()
}

pub unsafe fn cuDriverGetVersion(version: *mut c_int) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { put(version, driver_version()) }
}

/// A configuration that cannot be used fails `cuInit`; a version is still told.
fn driver_version() -> c_int {
    driver::config().map_or_else(
        |_| Config::default().driver_version,
        |config| config.driver_version,
    )
}

pub unsafe fn cuGetProcAddress(
    symbol: *const c_char,
    function: *mut *mut c_void,
    version: c_int,
    flags: u64,
) -> Outcome {
    // SAFETY: the caller's promise.
    match unsafe { find(DefaultStream::Legacy, symbol, function, version, flags) }? {
        Found::Address(address) => {
            // SAFETY: the caller's promise.
            unsafe { put(function, address) }
        }
        // Without a status to tell it by, the first form returns an error.
        Found::Unknown | Found::TooOld => Err(Error::NotFound),
    }
}

pub unsafe fn cuGetProcAddress_v2(
    default: DefaultStream,
    symbol: *const c_char,
    function: *mut *mut c_void,
    version: c_int,
    flags: u64,
    status: *mut CUdriverProcAddressQueryResult,
) -> Outcome {
    // SAFETY: the caller's promise.
    let (address, found) = match unsafe { find(default, symbol, function, version, flags) }? {
        Found::Address(address) => (address, 0),
        Found::Unknown => (std::ptr::null_mut(), 1),
        Found::TooOld => (std::ptr::null_mut(), 2),
    };
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(status, CUdriverProcAddressQueryResult(found)) };
    // SAFETY: the caller's promise.
    unsafe { put(function, address) }
}

enum Found {
    Address(*mut c_void),
    Unknown,
    TooOld,
}

/// # Safety
/// `symbol` is null or a NUL-terminated string.
unsafe fn find(
    default: DefaultStream,
    symbol: *const c_char,
    function: *mut *mut c_void,
    version: c_int,
    flags: u64,
) -> Result<Found, Error> {
    if function.is_null() || flags > PER_THREAD_DEFAULT_STREAM || version > driver_version() {
        return Err(Error::InvalidValue);
    }
    let per_thread = flags == PER_THREAD_DEFAULT_STREAM
        || (flags == DEFAULT && default == DefaultStream::PerThread);
    let version = u32::try_from(version).map_err(|_| Error::InvalidValue)?;
    // SAFETY: the caller's promise.
    let symbol = match unsafe { edge::name(symbol) } {
        Err(Error::NotFound) => return Ok(Found::Unknown),
        other => other?,
    };
    Ok(match lookup(symbol, version, per_thread) {
        Lookup::Found(index) => match ADDRESSES[index].pointer() {
            address if address.is_null() => Found::Unknown,
            address => Found::Address(address.cast_mut()),
        },
        Lookup::Unknown => Found::Unknown,
        Lookup::VersionTooOld => Found::TooOld,
    })
}

pub unsafe fn cuGetExportTable(table: *mut *const c_void, id: *const CUuuid) -> Outcome {
    crate::private_tables::install();
    // SAFETY: the caller's promise.
    match unsafe { handshake::get_export_table(table, id) } {
        CUresult::CUDA_SUCCESS => Ok(()),
        CUresult::CUDA_ERROR_INVALID_VALUE => Err(Error::InvalidValue),
        _ => Err(Error::NotSupported),
    }
}
