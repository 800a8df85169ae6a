//! What an address is, as programs ask.

use std::ffi::{c_int, c_uint, c_void};

use cuda_abi::types::{CUdeviceptr, CUmemorytype, CUpointer_attribute, CUresult};

use crate::call::Outcome;
use crate::edge;
use crate::ranges::{Place, Range};
use crate::state;

pub unsafe fn cuPointerGetAttribute(
    data: *mut c_void,
    attribute: CUpointer_attribute,
    ptr: CUdeviceptr,
) -> Outcome {
    let session = state::ready()?;
    edge::require(data)?;
    let value = match session.ranges.find(ptr) {
        Some(range) => pointer_attribute(&range, attribute, ptr)?,
        None => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    };
    // SAFETY: the caller's promise: the place is as large as the attribute.
    unsafe { value.put(data) };
    Ok(())
}

pub unsafe fn cuPointerGetAttributes(
    numAttributes: c_uint,
    attributes: *mut CUpointer_attribute,
    data: *mut *mut c_void,
    ptr: CUdeviceptr,
) -> Outcome {
    let session = state::ready()?;
    edge::require(attributes)?;
    edge::require(data)?;
    let range = session.ranges.find(ptr);
    for index in 0..usize::try_from(numAttributes).unwrap_or(usize::MAX) {
        // SAFETY: the arrays have so many elements by the caller's promise.
        let attribute = unsafe { edge::element(attributes, index) };
        // SAFETY: as above.
        let place = unsafe { edge::element(data, index) };
        edge::require(place)?;
        // What nobody knows about an address is no error in this function: it has no attributes.
        let value = match &range {
            Some(range) => match pointer_attribute(range, attribute, ptr) {
                Err(CUresult::CUDA_ERROR_INVALID_VALUE) if attribute.name().is_some() => {
                    absent(attribute, 0)
                }
                value => value?,
            },
            None => absent(attribute, ptr),
        };
        // SAFETY: the caller's promise: the place is as large as the attribute.
        unsafe { value.put(place) };
    }
    Ok(())
}

/// An attribute's value, of the size that the caller's place has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Word(u64),
    Int(i32),
    Bool(bool),
}

impl Value {
    /// # Safety
    /// `place` is valid for a write of the value's size.
    unsafe fn put(self, place: *mut c_void) {
        match self {
            // SAFETY: by this function's contract.
            Self::Word(value) => unsafe { edge::put_optional(place.cast(), value) },
            // SAFETY: by this function's contract.
            Self::Int(value) => unsafe { edge::put_optional(place.cast(), value) },
            // As wide as an int: that is what the runtime reads.
            // SAFETY: by this function's contract.
            Self::Bool(value) => unsafe { edge::put_optional(place.cast(), c_int::from(value)) },
        }
    }
}

fn pointer_attribute(range: &Range, attribute: CUpointer_attribute, ptr: u64) -> Outcome<Value> {
    use CUpointer_attribute as A;
    let device_side = range.on_device();
    let registered = matches!(range.place, Place::Registered { .. });
    Ok(match attribute {
        A::CU_POINTER_ATTRIBUTE_CONTEXT => Value::Word(range.context),
        A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE => {
            let kind = if device_side {
                CUmemorytype::CU_MEMORYTYPE_DEVICE
            } else {
                CUmemorytype::CU_MEMORYTYPE_HOST
            };
            Value::Int(i32::try_from(kind.0).unwrap_or(0))
        }
        A::CU_POINTER_ATTRIBUTE_DEVICE_POINTER if !registered => Value::Word(ptr),
        A::CU_POINTER_ATTRIBUTE_HOST_POINTER if !device_side => Value::Word(ptr),
        A::CU_POINTER_ATTRIBUTE_SYNC_MEMOPS | A::CU_POINTER_ATTRIBUTE_IS_MANAGED => {
            Value::Bool(false)
        }
        A::CU_POINTER_ATTRIBUTE_BUFFER_ID | A::CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID => {
            Value::Word(range.id)
        }
        A::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL => Value::Int(range.device),
        A::CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE
        | A::CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE
        | A::CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE => Value::Int(0),
        A::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR | A::CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR => {
            Value::Word(range.start)
        }
        A::CU_POINTER_ATTRIBUTE_RANGE_SIZE | A::CU_POINTER_ATTRIBUTE_MAPPING_SIZE => {
            Value::Word(range.bytes)
        }
        A::CU_POINTER_ATTRIBUTE_MAPPED => Value::Bool(!registered),
        A::CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES => Value::Word(0),
        // Of no particular part of a device.
        A::CU_POINTER_ATTRIBUTE_LOCALITY_DOMAIN_ORDINAL => Value::Int(-1),
        // Reading and writing.
        A::CU_POINTER_ATTRIBUTE_ACCESS_FLAGS => Value::Int(3),
        A::CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE => Value::Word(0),
        _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    })
}

/// What an attribute is of memory that CUDA does not know.
fn absent(attribute: CUpointer_attribute, ptr: u64) -> Value {
    use CUpointer_attribute as A;
    match attribute {
        A::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        | A::CU_POINTER_ATTRIBUTE_LOCALITY_DOMAIN_ORDINAL => Value::Int(-1),
        A::CU_POINTER_ATTRIBUTE_DEVICE_POINTER | A::CU_POINTER_ATTRIBUTE_HOST_POINTER => {
            Value::Word(ptr)
        }
        A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE
        | A::CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE
        | A::CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE
        | A::CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE
        | A::CU_POINTER_ATTRIBUTE_ACCESS_FLAGS => Value::Int(0),
        A::CU_POINTER_ATTRIBUTE_SYNC_MEMOPS
        | A::CU_POINTER_ATTRIBUTE_IS_MANAGED
        | A::CU_POINTER_ATTRIBUTE_MAPPED => Value::Bool(false),
        _ => Value::Word(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(place: Place) -> Range {
        Range {
            start: 0x1000,
            bytes: 0x100,
            place,
            context: 9,
            device: 1,
            id: 5,
        }
    }

    #[test]
    fn device_memory_has_a_device_pointer_only_and_pinned_memory_both() {
        use CUpointer_attribute as A;
        let device = range(Place::Device);
        assert_eq!(
            pointer_attribute(&device, A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, 0x1010),
            Ok(Value::Int(2))
        );
        assert_eq!(
            pointer_attribute(&device, A::CU_POINTER_ATTRIBUTE_DEVICE_POINTER, 0x1010),
            Ok(Value::Word(0x1010))
        );
        assert!(pointer_attribute(&device, A::CU_POINTER_ATTRIBUTE_HOST_POINTER, 0x1010).is_err());
        assert_eq!(
            pointer_attribute(&device, A::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, 0x1010),
            Ok(Value::Word(0x1000))
        );
        let pinned = range(Place::Pinned { flags: 0 });
        assert_eq!(
            pointer_attribute(&pinned, A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, 0x1010),
            Ok(Value::Int(1))
        );
        assert_eq!(
            pointer_attribute(&pinned, A::CU_POINTER_ATTRIBUTE_HOST_POINTER, 0x1010),
            Ok(Value::Word(0x1010))
        );
        let registered = range(Place::Registered { flags: 0 });
        assert!(
            pointer_attribute(&registered, A::CU_POINTER_ATTRIBUTE_DEVICE_POINTER, 0x1010).is_err()
        );
    }

    #[test]
    fn unknown_memory_has_no_device_and_echoes_its_address() {
        use CUpointer_attribute as A;
        assert_eq!(
            absent(A::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, 7),
            Value::Int(-1)
        );
        assert_eq!(
            absent(A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, 7),
            Value::Int(0)
        );
        assert_eq!(
            absent(A::CU_POINTER_ATTRIBUTE_HOST_POINTER, 7),
            Value::Word(7)
        );
        assert_eq!(absent(A::CU_POINTER_ATTRIBUTE_CONTEXT, 7), Value::Word(0));
    }
}
