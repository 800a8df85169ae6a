//! What is known of an address.
//!
//! Truth values are ints: the CUDA runtime reads four bytes of each and does not clear them first.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::Ordering;

use cuda_abi::types::{CUdeviceptr, CUmemorytype, CUpointer_attribute};
use softgpu_core::error::Error;
use softgpu_core::memory::{Allocation, Kind, Permission};

use crate::api::device::signed;
use crate::driver::{self, Driver, driver};
use crate::edge::{self, Outcome, put};

pub unsafe fn cuPointerGetAttribute(
    data: *mut c_void,
    attribute: CUpointer_attribute,
    pointer: CUdeviceptr,
) -> Outcome {
    let driver = driver::anywhere()?;
    let value = match driver.gpu.space().find(pointer) {
        Some(found) => known(driver, &found, attribute, pointer),
        None => reserved(driver, attribute, pointer),
    };
    // SAFETY: the caller's promise.
    unsafe { value?.put(data) }
}

/// Unlike the single form, this one answers for memory that nobody registered, and what does not apply to
/// the memory reads as nothing.
pub unsafe fn cuPointerGetAttributes(
    count: c_uint,
    attributes: *mut CUpointer_attribute,
    data: *mut *mut c_void,
    pointer: CUdeviceptr,
) -> Outcome {
    let driver = driver::anywhere()?;
    edge::require(attributes)?;
    edge::require(data)?;
    let found = driver.gpu.space().find(pointer);
    for index in 0..usize::try_from(count).map_err(|_| Error::InvalidValue)? {
        // SAFETY: inside the array by the caller's promise.
        let attribute = unsafe { edge::element(attributes.cast_const(), index) }?;
        // SAFETY: as above.
        let data = unsafe { edge::element(data.cast_const(), index) }?;
        attribute.name().ok_or(Error::InvalidValue)?;
        let value =
            match &found {
                Some(found) => known(driver, found, attribute, pointer)
                    .unwrap_or_else(|_| absent(attribute, 0)),
                None => reserved(driver, attribute, pointer)
                    .unwrap_or_else(|_| absent(attribute, pointer)),
            };
        // SAFETY: the caller's promise.
        unsafe { value.put(data) }?;
    }
    Ok(())
}

pub unsafe fn cuPointerSetAttribute(
    value: *const c_void,
    attribute: CUpointer_attribute,
    pointer: CUdeviceptr,
) -> Outcome {
    let driver = driver()?;
    // SAFETY: the caller's promise; a truth value as wide as an int.
    let on = unsafe { edge::take(value.cast::<c_int>()) }? != 0;
    if attribute != CUpointer_attribute::CU_POINTER_ATTRIBUTE_SYNC_MEMOPS {
        return Err(Error::InvalidValue);
    }
    let found = driver.gpu.space().find(pointer);
    let found = found.filter(|found| matches!(found.kind, Kind::Device | Kind::Pooled));
    let found = found.ok_or(Error::InvalidValue)?;
    found.synchronous.store(on, Ordering::Relaxed);
    Ok(())
}

/// An attribute's value, as wide as the caller's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// An address, a size, a handle, an id.
    Word(u64),
    /// A number, an enumeration, a truth value.
    Int(c_int),
}

impl Value {
    /// # Safety
    /// `data` is null or valid for a write of the value.
    unsafe fn put(self, data: *mut c_void) -> Outcome {
        match self {
            // SAFETY: the caller's promise.
            Self::Word(value) => unsafe { put(data.cast(), value) },
            // SAFETY: the caller's promise.
            Self::Int(value) => unsafe { put(data.cast(), value) },
        }
    }
}

/// What an attribute is of memory; an invalid question if it has none.
fn known(
    driver: &Driver,
    found: &Allocation,
    attribute: CUpointer_attribute,
    pointer: u64,
) -> Result<Value, Error> {
    use CUpointer_attribute as A;
    let is_host = found.kind.is_host();
    let managed = found.kind == Kind::Managed;
    let around = match found.kind {
        Kind::Mapped => driver.gpu.space().reservation(pointer),
        _ => None,
    };
    let (start, size) = around.unwrap_or((found.start, found.size));
    let physical = found.physical.as_ref();
    Ok(match attribute {
        A::CU_POINTER_ATTRIBUTE_CONTEXT => {
            Value::Word(driver.context_handle(found.owner).unwrap_or(0))
        }
        A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE => {
            // What is managed counts as a device's, and is the program's as well.
            let kind = if is_host && !managed {
                CUmemorytype::CU_MEMORYTYPE_HOST
            } else {
                CUmemorytype::CU_MEMORYTYPE_DEVICE
            };
            Value::Int(signed(kind.0)?)
        }
        A::CU_POINTER_ATTRIBUTE_DEVICE_POINTER => Value::Word(pointer),
        A::CU_POINTER_ATTRIBUTE_HOST_POINTER if is_host => Value::Word(pointer),
        A::CU_POINTER_ATTRIBUTE_BUFFER_ID => Value::Word(found.id),
        A::CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID => {
            Value::Word(physical.map_or(found.id, |physical| physical.id))
        }
        A::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL => Value::Int(signed(found.device)?),
        A::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR => Value::Word(start),
        A::CU_POINTER_ATTRIBUTE_RANGE_SIZE => Value::Word(size),
        A::CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR => Value::Word(found.start),
        A::CU_POINTER_ATTRIBUTE_MAPPING_SIZE => Value::Word(found.size),
        A::CU_POINTER_ATTRIBUTE_MAPPED => Value::Int(1),
        A::CU_POINTER_ATTRIBUTE_ACCESS_FLAGS => {
            let permission = match (&found.access, found.kind) {
                (Some(access), _) => access.of(driver.current_unchecked()?.device().ordinal),
                (None, Kind::Global { constant: true }) => Permission::Read,
                (None, _) => Permission::ReadWrite,
            };
            Value::Int(signed(permission.flags())?)
        }
        A::CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES => {
            Value::Word(physical.map_or(0, |physical| physical.handle_types.into()))
        }
        A::CU_POINTER_ATTRIBUTE_SYNC_MEMOPS => {
            Value::Int(found.synchronous.load(Ordering::Relaxed).into())
        }
        A::CU_POINTER_ATTRIBUTE_IS_MANAGED => Value::Int(managed.into()),
        A::CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE => {
            Value::Int((found.kind == Kind::Device).into())
        }
        A::CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE
        | A::CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE
        | A::CU_POINTER_ATTRIBUTE_LOCALITY_DOMAIN_ORDINAL => absent(attribute, 0),
        A::CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE => {
            let pool = found.pooled.as_ref().map(|pooled| &*pooled.pool);
            let handle = pool.and_then(|pool| driver.pools.find(|one| std::ptr::eq(one, pool)));
            Value::Word(handle.unwrap_or(0))
        }
        _ => return Err(Error::InvalidValue),
    })
}

/// What an attribute is of an address that is reserved and has no memory.
fn reserved(driver: &Driver, attribute: CUpointer_attribute, pointer: u64) -> Result<Value, Error> {
    use CUpointer_attribute as A;
    let (start, size) = driver
        .gpu
        .space()
        .reservation(pointer)
        .ok_or(Error::InvalidValue)?;
    match attribute {
        A::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR => Ok(Value::Word(start)),
        A::CU_POINTER_ATTRIBUTE_RANGE_SIZE => Ok(Value::Word(size)),
        A::CU_POINTER_ATTRIBUTE_MAPPED => Ok(Value::Int(0)),
        _ => Err(Error::InvalidValue),
    }
}

/// What an attribute is of memory that has nothing of the kind, or that the device does not know.
fn absent(attribute: CUpointer_attribute, pointer: u64) -> Value {
    use CUpointer_attribute as A;
    match attribute {
        A::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        | A::CU_POINTER_ATTRIBUTE_LOCALITY_DOMAIN_ORDINAL => Value::Int(-1),
        A::CU_POINTER_ATTRIBUTE_DEVICE_POINTER | A::CU_POINTER_ATTRIBUTE_HOST_POINTER => {
            Value::Word(pointer)
        }
        A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE
        | A::CU_POINTER_ATTRIBUTE_MAPPED
        | A::CU_POINTER_ATTRIBUTE_SYNC_MEMOPS
        | A::CU_POINTER_ATTRIBUTE_IS_MANAGED
        | A::CU_POINTER_ATTRIBUTE_ACCESS_FLAGS
        | A::CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE
        | A::CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE
        | A::CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE => Value::Int(0),
        _ => Value::Word(0),
    }
}
