//! Device and host memory: allocation, what an address is, copies and fills.
//!
//! A copy is classified by its two addresses. What both sides map or the device holds travels as a
//! record; memory of the program's own goes with the record, through the lane's side buffer, or through
//! staging, by its size.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::PoisonError;

use cuda_abi::function::Function;
use cuda_abi::resolver::DefaultStream;
use cuda_abi::types::{
    CUcontext, CUdeviceptr, CUmemorytype, CUpointer_attribute, CUresult, CUstream,
};
use idm_protocol::handle::Kind;
use idm_protocol::lane::REPLY_BYTES;
use idm_protocol::wire::{self, copy_kind};

use crate::bulk::{self, Memory};
use crate::call::{Call, Outcome, accepted, failed};
use crate::context::describe;
use crate::edge;
use crate::ranges::{Place, Range};
use crate::session::Session;
use crate::state;

/// `CU_MEMHOSTALLOC_DEVICEMAP`, which all our pinned memory has.
const DEVICE_MAP: c_uint = 2;
const HOST_ALLOC_FLAGS: c_uint = 0b111;
const HOST_REGISTER_FLAGS: c_uint = 0b1111;
/// How often an allocation is tried again that fell onto a mapping of the program's.
const CLASHES: usize = 4;

pub unsafe fn cuMemAlloc_v2(dptr: *mut CUdeviceptr, bytesize: usize) -> Outcome {
    let mut call = Call::begin(Function::cuMemAlloc_v2)?;
    edge::require(dptr)?;
    if bytesize == 0 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let (address, ()) = allocate(&mut call, bytesize as u64, |call| {
        let reply: wire::CuMemAllocV2Reply = call.round_trip(&wire::CuMemAllocV2 {
            bytes: bytesize as u64,
        })?;
        Ok((reply.address, bytesize as u64, ()))
    })?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(dptr, address) }
}

pub unsafe fn cuMemAllocPitch_v2(
    dptr: *mut CUdeviceptr,
    pPitch: *mut usize,
    WidthInBytes: usize,
    Height: usize,
    ElementSizeBytes: c_uint,
) -> Outcome {
    let mut call = Call::begin(Function::cuMemAllocPitch_v2)?;
    edge::require(dptr)?;
    edge::require(pPitch)?;
    if WidthInBytes == 0 || Height == 0 || !matches!(ElementSizeBytes, 4 | 8 | 16) {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let request = wire::CuMemAllocPitchV2 {
        width: WidthInBytes as u64,
        height: Height as u64,
        element_bytes: ElementSizeBytes,
        reserved: 0,
    };
    let (address, pitch) = allocate(&mut call, 0, |call| {
        let reply: wire::CuMemAllocPitchV2Reply = call.round_trip(&request)?;
        let bytes = reply
            .pitch
            .checked_mul(Height as u64)
            .ok_or(CUresult::CUDA_ERROR_UNKNOWN)?;
        Ok((reply.address, bytes, reply.pitch))
    })?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(pPitch, usize::try_from(pitch).unwrap_or(usize::MAX)) }?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(dptr, address) }
}

/// Allocates until the addresses are free here too. What falls onto a mapping of the program's is kept
/// until the next try has found another place.
fn allocate<T>(
    call: &mut Call,
    _bytes: u64,
    mut ask: impl FnMut(&mut Call) -> Outcome<(u64, u64, T)>,
) -> Outcome<(u64, T)> {
    let session = call.session;
    let context = call.context_handle();
    let device = device_of(call)?;
    let mut parked = Vec::new();
    let mut result = Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    for _ in 0..CLASHES {
        let (address, bytes, more) = match ask(call) {
            Ok(answer) => answer,
            Err(error) => {
                result = Err(error);
                break;
            }
        };
        if session.mirrors.reserve(address, bytes).is_err() {
            parked.push(address);
            continue;
        }
        let range = Range {
            start: address,
            bytes,
            place: Place::Device,
            context,
            device,
            id: 0,
        };
        if session.ranges.insert(range).is_err() {
            session.mirrors.release(address, bytes);
            return Err(session.lost("its worker handed out the same memory twice"));
        }
        result = Ok((address, more));
        break;
    }
    for address in parked {
        // The worker has it and nobody uses it.
        let _ = call.complete(&wire::CuMemFreeV2 { address });
    }
    result
}

pub unsafe fn cuMemFree_v2(dptr: CUdeviceptr) -> Outcome {
    let mut call = Call::begin(Function::cuMemFree_v2)?;
    if dptr == 0 {
        return Ok(());
    }
    let session = call.session;
    // Out of the map first: while the worker frees it, the next allocation of another thread may get it.
    let range = session
        .ranges
        .remove(dptr, |range| range.place == Place::Device);
    let range = range.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    session.mirrors.release(range.start, range.bytes);
    call.complete(&wire::CuMemFreeV2 { address: dptr })
}

pub unsafe fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Outcome {
    let mut call = Call::begin(Function::cuMemGetInfo_v2)?;
    edge::require(free)?;
    edge::require(total)?;
    let reply: wire::CuMemGetInfoV2Reply = call.round_trip(&wire::CuMemGetInfoV2 {})?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(free, usize::try_from(reply.free).unwrap_or(usize::MAX)) }?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(total, usize::try_from(reply.total).unwrap_or(usize::MAX)) }
}

pub unsafe fn cuMemGetAddressRange_v2(
    pbase: *mut CUdeviceptr,
    psize: *mut usize,
    dptr: CUdeviceptr,
) -> Outcome {
    let session = state::ready()?;
    let range = session
        .ranges
        .find(dptr)
        .ok_or(CUresult::CUDA_ERROR_NOT_FOUND)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put_optional(pbase, range.start) };
    // SAFETY: the caller's promise.
    unsafe { edge::put_optional(psize, usize::try_from(range.bytes).unwrap_or(usize::MAX)) };
    Ok(())
}

pub unsafe fn cuMemHostAlloc(pp: *mut *mut c_void, bytesize: usize, Flags: c_uint) -> Outcome {
    let mut call = Call::begin(Function::cuMemHostAlloc)?;
    edge::require(pp)?;
    if Flags & !HOST_ALLOC_FLAGS != 0 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    if bytesize == 0 {
        // SAFETY: the caller's promise.
        return unsafe { edge::put(pp, std::ptr::null_mut()) };
    }
    let session = call.session;
    let piece = session
        .pieces
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take(bytesize);
    let (offset, len) = piece.ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
    let address = session
        .arena
        .address_of(offset, len)
        .ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
    let put_back = || {
        session
            .pieces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(offset, len)
    };
    let request = wire::CuMemHostAlloc {
        address,
        bytes: len as u64,
        flags: Flags,
        reserved: 0,
    };
    if let Err(error) = call.exchange(&request, &[], |_, _| Ok(())) {
        put_back();
        return Err(error);
    }
    let range = Range {
        start: address,
        bytes: bytesize as u64,
        place: Place::Pinned { flags: Flags },
        context: call.context_handle(),
        device: device_of(&call)?,
        id: 0,
    };
    if session.ranges.insert(range).is_err() {
        // The program registered addresses that were never its own.
        let _ = call.exchange(&wire::CuMemFreeHost { address }, &[], |_, _| Ok(()));
        put_back();
        return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    }
    session
        .pinned
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(address, len);
    // SAFETY: the caller's promise.
    unsafe { edge::put(pp, pointer(address)) }
}

pub unsafe fn cuMemAllocHost_v2(pp: *mut *mut c_void, bytesize: usize) -> Outcome {
    if bytesize == 0 {
        state::ready()?;
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    unsafe { cuMemHostAlloc(pp, bytesize, 0) }
}

pub unsafe fn cuMemFreeHost(p: *mut c_void) -> Outcome {
    let mut call = Call::begin(Function::cuMemFreeHost)?;
    if p.is_null() {
        return Ok(());
    }
    let session = call.session;
    let address = p.addr() as u64;
    let range = session
        .ranges
        .remove(address, |range| matches!(range.place, Place::Pinned { .. }));
    range.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    let freed = call.complete(&wire::CuMemFreeHost { address });
    let len = session
        .pinned
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&address);
    if let (Some(len), Some(offset)) = (
        len,
        len.and_then(|len| session.arena.offset_of(address, len as u64)),
    ) {
        session
            .pieces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(offset, len);
    }
    freed
}

pub unsafe fn cuMemHostGetDevicePointer_v2(
    pdptr: *mut CUdeviceptr,
    p: *mut c_void,
    Flags: c_uint,
) -> Outcome {
    let session = state::ready()?;
    edge::require(pdptr)?;
    if Flags != 0 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    match session.ranges.find(p.addr() as u64) {
        // One address for both: that is what the arena is for.
        Some(Range {
            place: Place::Pinned { .. },
            ..
        }) => {
            // SAFETY: the caller's promise.
            unsafe { edge::put(pdptr, p.addr() as u64) }
        }
        _ => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    }
}

pub unsafe fn cuMemHostGetFlags(pFlags: *mut c_uint, p: *mut c_void) -> Outcome {
    let session = state::ready()?;
    edge::require(pFlags)?;
    let flags = match session
        .ranges
        .find(p.addr() as u64)
        .map(|range| range.place)
    {
        Some(Place::Pinned { flags }) => flags | DEVICE_MAP,
        Some(Place::Registered { flags }) => flags,
        _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    };
    // SAFETY: the caller's promise.
    unsafe { edge::put(pFlags, flags) }
}

/// Existing memory stays where it is: it is noted, and its copies are staged. Mapping it for the device is
/// refused, for the device could not reach it.
pub unsafe fn cuMemHostRegister_v2(p: *mut c_void, bytesize: usize, Flags: c_uint) -> Outcome {
    let call = Call::begin(Function::cuMemHostRegister_v2)?;
    edge::require(p)?;
    if bytesize == 0 || Flags & !HOST_REGISTER_FLAGS != 0 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    if Flags & !1 != 0 {
        // Device-mapped, I/O or read-only memory.
        return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
    }
    let range = Range {
        start: p.addr() as u64,
        bytes: bytesize as u64,
        place: Place::Registered { flags: Flags },
        context: call.context_handle(),
        device: device_of(&call)?,
        id: 0,
    };
    match call.session.ranges.insert(range) {
        Ok(_) => Ok(()),
        Err(_) => Err(CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED),
    }
}

pub unsafe fn cuMemHostUnregister(p: *mut c_void) -> Outcome {
    let session = state::ready()?;
    edge::require(p)?;
    let removed = session.ranges.remove(p.addr() as u64, |range| {
        matches!(range.place, Place::Registered { .. })
    });
    removed
        .map(|_| ())
        .ok_or(CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED)
}

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

// --- Copies -------------------------------------------------------------------------------------------

/// Which ends of a copy must be CUDA's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    HostToDevice,
    DeviceToHost,
    DeviceToDevice,
    Any,
}

pub unsafe fn cuMemcpyHtoD_v2(
    default: DefaultStream,
    dstDevice: CUdeviceptr,
    srcHost: *const c_void,
    ByteCount: usize,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyHtoD_v2)?;
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            call,
            Ends::HostToDevice,
            dstDevice,
            srcHost.expose_provenance() as u64,
            ByteCount,
            stream_of(default),
            true,
        )
    }
}

pub unsafe fn cuMemcpyDtoH_v2(
    default: DefaultStream,
    dstHost: *mut c_void,
    srcDevice: CUdeviceptr,
    ByteCount: usize,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyDtoH_v2)?;
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            call,
            Ends::DeviceToHost,
            dstHost.expose_provenance() as u64,
            srcDevice,
            ByteCount,
            stream_of(default),
            true,
        )
    }
}

pub unsafe fn cuMemcpyDtoD_v2(
    default: DefaultStream,
    dstDevice: CUdeviceptr,
    srcDevice: CUdeviceptr,
    ByteCount: usize,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyDtoD_v2)?;
    // The driver does not wait for copies between device memory either.
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            call,
            Ends::DeviceToDevice,
            dstDevice,
            srcDevice,
            ByteCount,
            stream_of(default),
            false,
        )
    }
}

pub unsafe fn cuMemcpy(
    default: DefaultStream,
    dst: CUdeviceptr,
    src: CUdeviceptr,
    ByteCount: usize,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpy)?;
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            call,
            Ends::Any,
            dst,
            src,
            ByteCount,
            stream_of(default),
            true,
        )
    }
}

pub unsafe fn cuMemcpyHtoDAsync_v2(
    dstDevice: CUdeviceptr,
    srcHost: *const c_void,
    ByteCount: usize,
    hStream: CUstream,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyHtoDAsync_v2)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            call,
            Ends::HostToDevice,
            dstDevice,
            srcHost.expose_provenance() as u64,
            ByteCount,
            stream,
            false,
        )
    }
}

pub unsafe fn cuMemcpyDtoHAsync_v2(
    dstHost: *mut c_void,
    srcDevice: CUdeviceptr,
    ByteCount: usize,
    hStream: CUstream,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyDtoHAsync_v2)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            call,
            Ends::DeviceToHost,
            dstHost.expose_provenance() as u64,
            srcDevice,
            ByteCount,
            stream,
            false,
        )
    }
}

pub unsafe fn cuMemcpyDtoDAsync_v2(
    dstDevice: CUdeviceptr,
    srcDevice: CUdeviceptr,
    ByteCount: usize,
    hStream: CUstream,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyDtoDAsync_v2)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            call,
            Ends::DeviceToDevice,
            dstDevice,
            srcDevice,
            ByteCount,
            stream,
            false,
        )
    }
}

pub unsafe fn cuMemcpyAsync(
    dst: CUdeviceptr,
    src: CUdeviceptr,
    ByteCount: usize,
    hStream: CUstream,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyAsync)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    // SAFETY: the caller's promise.
    unsafe { copy(call, Ends::Any, dst, src, ByteCount, stream, false) }
}

/// Copies `bytes` in the order of `stream`; waits for the end if `wait`, or if memory of the program's
/// own is written.
///
/// # Safety
/// As `cuMemcpy`: addresses that are not CUDA's are memory of the program's, valid for the copy.
unsafe fn copy(
    mut call: Call,
    ends: Ends,
    dst: u64,
    src: u64,
    bytes: usize,
    stream: u64,
    wait: bool,
) -> Outcome {
    let session = call.session;
    let to = end(session, dst, bytes)?;
    let from = end(session, src, bytes)?;
    let (need_to, need_from) = match ends {
        Ends::HostToDevice => (true, false),
        Ends::DeviceToHost => (false, true),
        Ends::DeviceToDevice => (true, true),
        Ends::Any => (false, false),
    };
    // A copy of nothing succeeds wherever it points.
    if bytes == 0 {
        return Ok(());
    }
    if (need_to && to == End::Program)
        || (need_from && from == End::Program)
        || dst == 0
        || src == 0
    {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let length = bytes as u64;
    let side = usize::try_from(session.welcome.limits.side_bytes).unwrap_or(0);
    match (to, from) {
        (End::Program, End::Program) => {
            // In stream order: what was enqueued before may still read or write these bytes.
            call.complete(&wire::CuStreamSynchronize { hStream: stream })?;
            // SAFETY: both are the program's, by this function's contract; they may overlap.
            unsafe { std::ptr::copy(pointer(src).cast::<u8>(), pointer(dst).cast(), bytes) };
            Ok(())
        }
        (End::Program, _) if bytes <= side => {
            let request = wire::VgpuCopyOut {
                source: src,
                bytes: length,
                stream,
            };
            call.exchange(&request, &[], |lane, body| {
                let mut large;
                let from = if bytes <= REPLY_BYTES {
                    body.get(..bytes).ok_or(CUresult::CUDA_ERROR_UNKNOWN)?
                } else {
                    large = vec![0; bytes];
                    lane.read_side(&mut large)
                        .map_err(|error| failed(session, &error))?;
                    &large
                };
                // SAFETY: the program's memory, by this function's contract.
                unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), pointer(dst).cast(), bytes) };
                Ok(())
            })?;
            call.deliver()
        }
        (End::Program, _) => {
            let into = Memory::Into(pointer(dst).cast());
            // SAFETY: the program's memory, by this function's contract; the arena is not.
            unsafe {
                bulk::transfer(&mut call, into, bytes, |chunk_count| {
                    wire::VgpuCopyOutBulk {
                        source: src,
                        bytes: length,
                        stream,
                        chunk_count,
                        reserved: 0,
                    }
                })
            }
        }
        (_, End::Program) if bytes <= side => {
            let request = wire::VgpuCopyIn {
                destination: dst,
                bytes: length,
                stream,
            };
            // The bytes are copied into the ring or the side buffer before anything else happens.
            // SAFETY: the program's memory, by this function's contract.
            let from = unsafe { std::slice::from_raw_parts(pointer(src).cast::<u8>(), bytes) };
            send(&mut call, stream, wait, &request, &[from])
        }
        (_, End::Program) => {
            let from = Memory::From(pointer(src).cast::<u8>());
            // SAFETY: the program's memory, by this function's contract; the arena is not.
            unsafe {
                bulk::transfer(&mut call, from, bytes, |chunk_count| wire::VgpuCopyInBulk {
                    destination: dst,
                    bytes: length,
                    stream,
                    chunk_count,
                    reserved: 0,
                })
            }
        }
        (to, from) => {
            let kind = match (from, to) {
                (End::Device, End::Device) => copy_kind::DEVICE_TO_DEVICE,
                (End::Device, _) => copy_kind::DEVICE_TO_HOST,
                (_, End::Device) => copy_kind::HOST_TO_DEVICE,
                _ => copy_kind::HOST_TO_HOST,
            };
            let request = wire::VgpuCopy {
                destination: dst,
                source: src,
                bytes: length,
                stream,
                kind,
                reserved: 0,
            };
            send(&mut call, stream, wait, &request, &[])
        }
    }
}

/// What one end of a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Device,
    Pinned,
    /// Memory of the program's own, registered or not.
    Program,
}

fn end(session: &Session, address: u64, bytes: usize) -> Outcome<End> {
    let Some(range) = session.ranges.find(address) else {
        return Ok(End::Program);
    };
    let end = match range.place {
        Place::Device | Place::Global { .. } => End::Device,
        Place::Pinned { .. } => End::Pinned,
        Place::Registered { .. } => return Ok(End::Program),
    };
    if range.holds(address, bytes as u64) {
        Ok(end)
    } else {
        Err(CUresult::CUDA_ERROR_INVALID_VALUE)
    }
}

/// Posts a record that takes a credit; waits for its end if `wait`.
fn send<T: idm_protocol::record::Request>(
    call: &mut Call,
    stream: u64,
    wait: bool,
    request: &T,
    tail: &[&[u8]],
) -> Outcome {
    let credit = call.take_credit(stream)?;
    if wait {
        // An answer, whatever it says, means that the worker had the record and returns the credit.
        let status = call.exchange_raw(request, tail, |_, status, _| Ok(status))?;
        credit.spend();
        accepted(status)?;
        return call.deliver();
    }
    call.post_with(request, tail)?;
    credit.spend();
    Ok(())
}

// --- Fills --------------------------------------------------------------------------------------------

macro_rules! memsets {
    ($($name:ident, $value:ident: $type:ty, $bytes:literal;)+) => {$(
        pub unsafe fn $name(default: DefaultStream, dstDevice: CUdeviceptr, $value: $type, N: usize) -> Outcome {
            let call = Call::begin(Function::$name)?;
            fill(call, Area::row(dstDevice, N, $bytes), $value.into(), stream_of(default))
        }
    )+};
}

macro_rules! async_memsets {
    ($($name:ident, $value:ident: $type:ty, $bytes:literal;)+) => {$(
        pub unsafe fn $name(dstDevice: CUdeviceptr, $value: $type, N: usize, hStream: CUstream) -> Outcome {
            let call = Call::begin(Function::$name)?;
            let stream = call.handle(Kind::STREAM, hStream as u64)?;
            fill(call, Area::row(dstDevice, N, $bytes), $value.into(), stream)
        }
    )+};
}

macro_rules! memsets_2d {
    ($($name:ident, $value:ident: $type:ty, $bytes:literal;)+) => {$(
        pub unsafe fn $name(
            default: DefaultStream, dstDevice: CUdeviceptr, dstPitch: usize, $value: $type, Width: usize, Height: usize,
        ) -> Outcome {
            let call = Call::begin(Function::$name)?;
            let area = Area { address: dstDevice, pitch: dstPitch, width: Width, height: Height, element_bytes: $bytes };
            fill(call, area, $value.into(), stream_of(default))
        }
    )+};
}

macro_rules! async_memsets_2d {
    ($($name:ident, $value:ident: $type:ty, $bytes:literal;)+) => {$(
        pub unsafe fn $name(
            dstDevice: CUdeviceptr, dstPitch: usize, $value: $type, Width: usize, Height: usize, hStream: CUstream,
        ) -> Outcome {
            let call = Call::begin(Function::$name)?;
            let stream = call.handle(Kind::STREAM, hStream as u64)?;
            let area = Area { address: dstDevice, pitch: dstPitch, width: Width, height: Height, element_bytes: $bytes };
            fill(call, area, $value.into(), stream)
        }
    )+};
}

memsets! {
    cuMemsetD8_v2, uc: u8, 1;
    cuMemsetD16_v2, us: u16, 2;
    cuMemsetD32_v2, ui: c_uint, 4;
}

async_memsets! {
    cuMemsetD8Async, uc: u8, 1;
    cuMemsetD16Async, us: u16, 2;
    cuMemsetD32Async, ui: c_uint, 4;
}

memsets_2d! {
    cuMemsetD2D8_v2, uc: u8, 1;
    cuMemsetD2D16_v2, us: u16, 2;
    cuMemsetD2D32_v2, ui: c_uint, 4;
}

async_memsets_2d! {
    cuMemsetD2D8Async, uc: u8, 1;
    cuMemsetD2D16Async, us: u16, 2;
    cuMemsetD2D32Async, ui: c_uint, 4;
}

/// What a fill covers; width in elements, pitch in bytes.
#[derive(Clone, Copy, Debug)]
struct Area {
    address: u64,
    pitch: usize,
    width: usize,
    height: usize,
    element_bytes: u32,
}

impl Area {
    fn row(address: u64, width: usize, element_bytes: u32) -> Self {
        Self {
            address,
            pitch: 0,
            width,
            height: 1,
            element_bytes,
        }
    }

    /// Bytes from the first to the last, or `None` for what cannot be.
    fn extent(&self) -> Option<u64> {
        let element = u64::from(self.element_bytes);
        let row = (self.width as u64).checked_mul(element)?;
        let rows_before = (self.height as u64).saturating_sub(1);
        if rows_before > 0 && (self.pitch as u64) < row {
            return None;
        }
        let aligned = self.address.is_multiple_of(element)
            && (rows_before == 0 || (self.pitch as u64).is_multiple_of(element));
        aligned.then_some(())?;
        (self.pitch as u64)
            .checked_mul(rows_before)?
            .checked_add(row)
    }
}

fn fill(mut call: Call, area: Area, value: u32, stream: u64) -> Outcome {
    let extent = area.extent().ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    if area.width == 0 || area.height == 0 {
        return Ok(());
    }
    call.device_range(area.address, extent)?;
    let request = wire::VgpuMemset {
        destination: area.address,
        pitch: area.pitch as u64,
        width: area.width as u64,
        height: area.height as u64,
        stream,
        value,
        element_bytes: area.element_bytes,
    };
    send(&mut call, stream, false, &request, &[])
}

fn stream_of(default: DefaultStream) -> u64 {
    match default {
        DefaultStream::Legacy => 0,
        DefaultStream::PerThread => 2,
    }
}

/// Ordinal of the current context's device.
pub(super) fn device_of(call: &Call) -> Outcome<c_int> {
    let context = crate::context::resolve(call.session, call.context_handle() as CUcontext)?;
    describe(call.session, context).map(|(device, _, _)| device)
}

/// The pointer of an address that the program passed or gets.
fn pointer(address: u64) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0))
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
    fn extents_reach_from_the_first_to_the_last_byte() {
        assert_eq!(Area::row(0, 10, 4).extent(), Some(40));
        assert_eq!(
            Area {
                address: 0,
                pitch: 64,
                width: 5,
                height: 3,
                element_bytes: 2
            }
            .extent(),
            Some(138)
        );
        assert_eq!(Area::row(0, usize::MAX, 4).extent(), None);
    }

    #[test]
    fn misaligned_or_overlapping_fills_are_refused() {
        assert_eq!(Area::row(2, 1, 4).extent(), None);
        assert_eq!(
            Area {
                address: 0,
                pitch: 8,
                width: 3,
                height: 2,
                element_bytes: 4
            }
            .extent(),
            None
        );
        assert_eq!(
            Area {
                address: 0,
                pitch: 10,
                width: 2,
                height: 2,
                element_bytes: 4
            }
            .extent(),
            None
        );
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
