//! What is known of an address.
//!
//! Truth values are ints: the CUDA runtime reads four bytes of each and does not clear them first.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use cuda_abi::types::{CUdeviceptr, CUmemorytype, CUpointer_attribute};
use softgpu_core::error::Error;
use softgpu_core::memory::{Allocation, Kind};

use crate::api::device::signed;
use crate::driver::driver;
use crate::edge::{self, Outcome, put};

pub unsafe fn cuPointerGetAttribute(
    data: *mut c_void,
    attribute: CUpointer_attribute,
    pointer: CUdeviceptr,
) -> Outcome {
    let driver = driver()?;
    driver.current_unchecked()?.check()?;
    let found = driver
        .gpu
        .space()
        .find(pointer)
        .ok_or(Error::InvalidValue)?;
    // SAFETY: the caller's promise.
    let answered = unsafe { known(data, attribute, pointer, &found) };
    // What does not apply to the memory is an invalid question.
    answered.map_err(|_| Error::InvalidValue)
}

/// # Safety
/// As [`known`].
unsafe fn clear(data: *mut c_void, attribute: CUpointer_attribute) -> Outcome {
    match attribute {
        // SAFETY: the caller's promise; a pointer-sized value.
        CUpointer_attribute::CU_POINTER_ATTRIBUTE_HOST_POINTER => unsafe {
            put(data.cast::<u64>(), 0)
        },
        _ => Ok(()),
    }
}

/// Unlike the single form, this one answers for memory that nobody registered.
pub unsafe fn cuPointerGetAttributes(
    count: c_uint,
    attributes: *mut CUpointer_attribute,
    data: *mut *mut c_void,
    pointer: CUdeviceptr,
) -> Outcome {
    let driver = driver()?;
    driver.current_unchecked()?.check()?;
    let found = driver.gpu.space().find(pointer);
    for index in 0..usize::try_from(count).map_err(|_| Error::InvalidValue)? {
        // SAFETY: inside the array by the caller's promise.
        let attribute = unsafe { edge::element(attributes.cast_const(), index) }?;
        // SAFETY: as above.
        let data = unsafe { edge::element(data.cast_const(), index) }?;
        let answered = match &found {
            // SAFETY: the caller's promise.
            Some(found) => unsafe { known(data, attribute, pointer, found) },
            // SAFETY: the caller's promise.
            None => unsafe { unknown(data, attribute, pointer) },
        };
        match answered {
            Ok(()) => {}
            // What does not apply to this memory reads as nothing here.
            // SAFETY: the caller's promise.
            Err(Error::NotSupported) => unsafe { clear(data, attribute) }?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// # Safety
/// `data` is null or valid for the attribute's type.
unsafe fn known(
    data: *mut c_void,
    attribute: CUpointer_attribute,
    pointer: u64,
    found: &Arc<Allocation>,
) -> Outcome {
    use CUpointer_attribute as A;
    let is_host = found.kind.is_host();
    let kind = if is_host {
        CUmemorytype::CU_MEMORYTYPE_HOST
    } else {
        CUmemorytype::CU_MEMORYTYPE_DEVICE
    };
    match attribute {
        A::CU_POINTER_ATTRIBUTE_CONTEXT => {
            let handle = driver()?.context_handle(found.owner).unwrap_or(0);
            // SAFETY: the caller's promise; a pointer-sized value.
            unsafe { put(data.cast::<u64>(), handle) }
        }
        // SAFETY: the caller's promise; an enumeration.
        A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE => unsafe { put(data.cast(), kind) },
        // SAFETY: the caller's promise; a pointer-sized value.
        A::CU_POINTER_ATTRIBUTE_DEVICE_POINTER => unsafe { put(data.cast::<u64>(), pointer) },
        A::CU_POINTER_ATTRIBUTE_HOST_POINTER if !is_host => Err(Error::NotSupported),
        // SAFETY: the caller's promise; a pointer-sized value.
        A::CU_POINTER_ATTRIBUTE_HOST_POINTER => unsafe { put(data.cast::<u64>(), pointer) },
        // SAFETY: the caller's promise; 64 bits.
        A::CU_POINTER_ATTRIBUTE_BUFFER_ID => unsafe { put(data.cast::<u64>(), found.id) },
        // SAFETY: the caller's promise; an int.
        A::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL => unsafe {
            put(data.cast(), signed(found.device)?)
        },
        A::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR => {
            // SAFETY: the caller's promise; a pointer-sized value.
            unsafe { put(data.cast::<u64>(), found.start) }
        }
        // SAFETY: the caller's promise; a size.
        A::CU_POINTER_ATTRIBUTE_RANGE_SIZE => unsafe { put(data.cast::<u64>(), found.size) },
        // SAFETY: the caller's promise; an int.
        A::CU_POINTER_ATTRIBUTE_MAPPED => unsafe { put(data.cast::<c_int>(), 1) },
        // SAFETY: the caller's promise; an enumeration.
        A::CU_POINTER_ATTRIBUTE_ACCESS_FLAGS => unsafe {
            put(data.cast::<c_uint>(), access(found))
        },
        // SAFETY: the caller's promise; an int or an enumeration.
        _ => unsafe { absent(data, attribute) },
    }
}

/// Read and write, or read only.
fn access(found: &Allocation) -> c_uint {
    if matches!(found.kind, Kind::Global { constant: true }) {
        1
    } else {
        3
    }
}

/// # Safety
/// As [`known`].
unsafe fn unknown(data: *mut c_void, attribute: CUpointer_attribute, pointer: u64) -> Outcome {
    use CUpointer_attribute as A;
    match attribute {
        // SAFETY: the caller's promise; an int.
        A::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL => unsafe { put(data.cast::<c_int>(), -1) },
        A::CU_POINTER_ATTRIBUTE_DEVICE_POINTER | A::CU_POINTER_ATTRIBUTE_HOST_POINTER => {
            // SAFETY: the caller's promise; a pointer-sized value.
            unsafe { put(data.cast::<u64>(), pointer) }
        }
        // SAFETY: the caller's promise; an enumeration.
        A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE => unsafe { put(data.cast::<c_uint>(), 0) },
        A::CU_POINTER_ATTRIBUTE_CONTEXT
        | A::CU_POINTER_ATTRIBUTE_BUFFER_ID
        | A::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR
        | A::CU_POINTER_ATTRIBUTE_RANGE_SIZE => {
            // SAFETY: the caller's promise; a pointer-sized value.
            unsafe { put(data.cast::<u64>(), 0) }
        }
        // SAFETY: the caller's promise; an int.
        A::CU_POINTER_ATTRIBUTE_MAPPED => unsafe { put(data.cast::<c_int>(), 0) },
        // SAFETY: the caller's promise; an enumeration.
        A::CU_POINTER_ATTRIBUTE_ACCESS_FLAGS => unsafe { put(data.cast::<c_uint>(), 0) },
        // SAFETY: the caller's promise; an int or an enumeration.
        _ => unsafe { absent(data, attribute) },
    }
}

/// What no memory of this device has.
///
/// # Safety
/// As [`known`].
unsafe fn absent(data: *mut c_void, attribute: CUpointer_attribute) -> Outcome {
    use CUpointer_attribute as A;
    match attribute {
        A::CU_POINTER_ATTRIBUTE_IS_MANAGED
        | A::CU_POINTER_ATTRIBUTE_SYNC_MEMOPS
        | A::CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE
        | A::CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE => {
            // SAFETY: the caller's promise; an int.
            unsafe { put(data.cast::<c_int>(), 0) }
        }
        // SAFETY: the caller's promise; an int, −1 for memory of no particular part of a device.
        A::CU_POINTER_ATTRIBUTE_LOCALITY_DOMAIN_ORDINAL => unsafe { put(data.cast::<c_int>(), -1) },
        // SAFETY: the caller's promise; 64 bits of flags.
        A::CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES => unsafe { put(data.cast::<u64>(), 0) },
        // SAFETY: the caller's promise; a handle.
        A::CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE => unsafe { put(data.cast::<u64>(), 0) },
        other if other.name().is_some() => Err(Error::NotSupported),
        _ => Err(Error::InvalidValue),
    }
}
