//! What an address is, as programs ask.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::PoisonError;

use cuda_abi::types::{CUdeviceptr, CUmemorytype, CUpointer_attribute, CUresult};

use idm_protocol::wire::access;

use crate::call::Outcome;
use crate::edge;
use crate::ranges::{Place, Range};
use crate::session::Session;
use crate::state;
use crate::thread::Thread;

pub unsafe fn cuPointerGetAttribute(
    data: *mut c_void,
    attribute: CUpointer_attribute,
    ptr: CUdeviceptr,
) -> Outcome {
    let session = state::ready()?;
    edge::require(data)?;
    let value = Known::at(session, ptr)
        .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?
        .attribute(attribute, ptr)?;
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
    let known = Known::at(session, ptr);
    for index in 0..usize::try_from(numAttributes).unwrap_or(usize::MAX) {
        // SAFETY: the arrays have so many elements by the caller's promise.
        let attribute = unsafe { edge::element(attributes, index) };
        // SAFETY: as above.
        let place = unsafe { edge::element(data, index) };
        edge::require(place)?;
        // What nobody knows about an address is no error in this function: it has no attributes.
        let value = match &known {
            Some(known) => match known.attribute(attribute, ptr) {
                Err(CUresult::CUDA_ERROR_INVALID_VALUE) if attribute.name().is_some() => {
                    let unknown = matches!(known, Known::Reserved { .. });
                    absent(attribute, if unknown { ptr } else { 0 })
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

pub unsafe fn cuPointerSetAttribute(
    value: *const c_void,
    attribute: CUpointer_attribute,
    ptr: CUdeviceptr,
) -> Outcome {
    let session = state::ready()?;
    edge::require(value)?;
    if attribute != CUpointer_attribute::CU_POINTER_ATTRIBUTE_SYNC_MEMOPS {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let range = session.ranges.find(ptr).filter(Range::is_allocated);
    let range = range.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    // SAFETY: not null, and a truth value as wide as an int by the caller's promise.
    let on = unsafe { value.cast::<c_int>().read_unaligned() } != 0;
    session.ranges.set_synchronous(&range, on);
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

/// What is known of an address.
#[derive(Clone, Copy, Debug)]
enum Known {
    /// There is memory.
    Memory(Memory),
    /// It is reserved, and nothing is mapped there.
    Reserved {
        /// Address and size of the reservation.
        around: (u64, u64),
    },
}

#[derive(Clone, Copy, Debug)]
struct Memory {
    range: Range,
    /// Address and size of the reservation, for what is mapped in one; of the range itself for all else.
    around: (u64, u64),
    /// Names the memory, wherever it is mapped.
    block: u64,
    handle_types: u32,
    /// What the current context's device may do here.
    access: u32,
    /// Whether synchronous calls wait here that need not.
    synchronous: bool,
}

impl Known {
    fn at(session: &Session, ptr: u64) -> Option<Self> {
        let vmm = || session.vmm.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(range) = session.ranges.find(ptr) else {
            let around = vmm().reservation(ptr)?;
            return Some(Self::Reserved { around });
        };
        let mut memory = Memory {
            range,
            around: (range.start, range.bytes),
            block: range.id,
            handle_types: 0,
            access: access::READ_WRITE,
            synchronous: session.ranges.is_synchronous(&range),
        };
        if let Place::Mapped { allocation, access } = range.place {
            let vmm = vmm();
            let device = Thread::current().context().map(|context| context.device);
            let device = device.and_then(|device| u32::try_from(device).ok());
            memory.around = vmm.reservation(ptr).unwrap_or(memory.around);
            memory.block = allocation;
            memory.handle_types = vmm
                .mapped_properties(allocation)
                .map_or(0, |properties| properties.handle_types);
            memory.access = device.map_or(access::NONE, |device| access.of(device));
        }
        Some(Self::Memory(memory))
    }

    fn attribute(&self, attribute: CUpointer_attribute, ptr: u64) -> Outcome<Value> {
        use CUpointer_attribute as A;
        match (self, attribute) {
            (Self::Memory(memory), _) => memory.attribute(attribute, ptr),
            (Self::Reserved { around }, A::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR) => {
                Ok(Value::Word(around.0))
            }
            (Self::Reserved { around }, A::CU_POINTER_ATTRIBUTE_RANGE_SIZE) => {
                Ok(Value::Word(around.1))
            }
            (Self::Reserved { .. }, A::CU_POINTER_ATTRIBUTE_MAPPED) => Ok(Value::Bool(false)),
            (Self::Reserved { .. }, _) => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        }
    }
}

impl Memory {
    fn attribute(&self, attribute: CUpointer_attribute, ptr: u64) -> Outcome<Value> {
        use CUpointer_attribute as A;
        let range = &self.range;
        let device_side = range.on_device();
        let registered = matches!(range.place, Place::Registered { .. });
        let managed = range.place == Place::Managed;
        Ok(match attribute {
            A::CU_POINTER_ATTRIBUTE_CONTEXT => Value::Word(range.context),
            A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE => {
                // What is managed counts as a device's, and is the program's as well.
                let kind = if device_side || managed {
                    CUmemorytype::CU_MEMORYTYPE_DEVICE
                } else {
                    CUmemorytype::CU_MEMORYTYPE_HOST
                };
                Value::Int(i32::try_from(kind.0).unwrap_or(0))
            }
            A::CU_POINTER_ATTRIBUTE_DEVICE_POINTER if !registered => Value::Word(ptr),
            A::CU_POINTER_ATTRIBUTE_HOST_POINTER if !device_side => Value::Word(ptr),
            A::CU_POINTER_ATTRIBUTE_SYNC_MEMOPS => Value::Bool(self.synchronous),
            A::CU_POINTER_ATTRIBUTE_IS_MANAGED => Value::Bool(managed),
            A::CU_POINTER_ATTRIBUTE_BUFFER_ID => Value::Word(range.id),
            A::CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID => Value::Word(self.block),
            A::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL => Value::Int(range.device),
            A::CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE => {
                Value::Int((range.place == Place::Device).into())
            }
            A::CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE
            | A::CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE => Value::Int(0),
            A::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR => Value::Word(self.around.0),
            A::CU_POINTER_ATTRIBUTE_RANGE_SIZE => Value::Word(self.around.1),
            A::CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR => Value::Word(range.start),
            A::CU_POINTER_ATTRIBUTE_MAPPING_SIZE => Value::Word(range.bytes),
            A::CU_POINTER_ATTRIBUTE_MAPPED => Value::Bool(!registered),
            A::CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES => Value::Word(self.handle_types.into()),
            // Of no particular part of a device.
            A::CU_POINTER_ATTRIBUTE_LOCALITY_DOMAIN_ORDINAL => Value::Int(-1),
            A::CU_POINTER_ATTRIBUTE_ACCESS_FLAGS => {
                Value::Int(i32::try_from(self.access).unwrap_or(0))
            }
            A::CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE => Value::Word(match range.place {
                Place::Pooled { pool } => pool,
                _ => 0,
            }),
            _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        })
    }
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

    fn memory(place: Place) -> Memory {
        let range = Range {
            start: 0x1000,
            bytes: 0x100,
            place,
            context: 9,
            device: 1,
            id: 5,
        };
        Memory {
            range,
            around: (0x800, 0x1000),
            block: 7,
            handle_types: 1,
            access: access::READ,
            synchronous: false,
        }
    }

    #[test]
    fn device_memory_has_a_device_pointer_only_and_pinned_memory_both() {
        use CUpointer_attribute as A;
        let device = memory(Place::Device);
        assert_eq!(
            device.attribute(A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, 0x1010),
            Ok(Value::Int(2))
        );
        assert_eq!(
            device.attribute(A::CU_POINTER_ATTRIBUTE_DEVICE_POINTER, 0x1010),
            Ok(Value::Word(0x1010))
        );
        assert!(
            device
                .attribute(A::CU_POINTER_ATTRIBUTE_HOST_POINTER, 0x1010)
                .is_err()
        );
        assert_eq!(
            device.attribute(A::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, 0x1010),
            Ok(Value::Word(0x800)),
            "of the reservation"
        );
        assert_eq!(
            device.attribute(A::CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR, 0x1010),
            Ok(Value::Word(0x1000))
        );
        let pinned = memory(Place::Pinned { flags: 0 });
        assert_eq!(
            pinned.attribute(A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, 0x1010),
            Ok(Value::Int(1))
        );
        assert_eq!(
            pinned.attribute(A::CU_POINTER_ATTRIBUTE_HOST_POINTER, 0x1010),
            Ok(Value::Word(0x1010))
        );
        let registered = memory(Place::Registered { flags: 0 });
        assert!(
            registered
                .attribute(A::CU_POINTER_ATTRIBUTE_DEVICE_POINTER, 0x1010)
                .is_err()
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
