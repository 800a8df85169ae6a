//! Kernel launches.
//!
//! Parameters are packed in the layout that the function lookup brought. A launch like one that the
//! driver accepted before is posted and nobody waits; any other is answered, so that what the driver
//! refuses at once is refused at once here too (D11).

use std::ffi::{c_uint, c_void};
use std::mem::MaybeUninit;
use std::sync::Arc;

use cuda_abi::function::Function;
use cuda_abi::resolver::DefaultStream;
use cuda_abi::types::{
    CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CUdevice_attribute as Limit,
    CUfunction, CUlaunchAttribute, CUlaunchAttributeID as Id, CUlaunchConfig, CUresult, CUstream,
};
use idm_protocol::handle::Kind;
use idm_protocol::wire;

use crate::api::device::attribute;
use crate::api::memory::device_of;
use crate::call::{Call, Outcome, accepted};
use crate::edge;
use crate::objects::{self, Code, Demand};

/// Bytes of an attribute on the wire, as in memory.
const ATTRIBUTE_BYTES: usize = size_of::<CUlaunchAttribute>();
const _: () = assert!(ATTRIBUTE_BYTES == 72);
/// Most parameter bytes that any device takes.
const MOST_PARAMETER_BYTES: usize = 32764;
/// Parameters up to this size are packed on the stack.
pub(super) const SMALL: usize = 1024;
static ZEROS: [u8; SMALL] = [0; SMALL];
/// More attributes than there are kinds of.
const MOST_ATTRIBUTES: usize = 32;

/// Where and how large.
#[derive(Clone, Copy, Debug)]
struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    cooperative: bool,
}

pub unsafe fn cuLaunchKernel(
    f: CUfunction,
    gridDimX: c_uint,
    gridDimY: c_uint,
    gridDimZ: c_uint,
    blockDimX: c_uint,
    blockDimY: c_uint,
    blockDimZ: c_uint,
    sharedMemBytes: c_uint,
    hStream: CUstream,
    kernelParams: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Outcome {
    let call = Call::begin(Function::cuLaunchKernel)?;
    let shape = Shape {
        grid: [gridDimX, gridDimY, gridDimZ],
        block: [blockDimX, blockDimY, blockDimZ],
        shared_bytes: sharedMemBytes,
        cooperative: false,
    };
    // SAFETY: the caller's promise.
    unsafe { launch(call, f, shape, hStream, &[], kernelParams, extra) }
}

pub unsafe fn cuLaunchCooperativeKernel(
    f: CUfunction,
    gridDimX: c_uint,
    gridDimY: c_uint,
    gridDimZ: c_uint,
    blockDimX: c_uint,
    blockDimY: c_uint,
    blockDimZ: c_uint,
    sharedMemBytes: c_uint,
    hStream: CUstream,
    kernelParams: *mut *mut c_void,
) -> Outcome {
    let call = Call::begin(Function::cuLaunchCooperativeKernel)?;
    let shape = Shape {
        grid: [gridDimX, gridDimY, gridDimZ],
        block: [blockDimX, blockDimY, blockDimZ],
        shared_bytes: sharedMemBytes,
        cooperative: true,
    };
    // SAFETY: the caller's promise.
    unsafe {
        launch(
            call,
            f,
            shape,
            hStream,
            &[],
            kernelParams,
            std::ptr::null_mut(),
        )
    }
}

pub unsafe fn cuLaunchKernelEx(
    default: DefaultStream,
    config: *const CUlaunchConfig,
    f: CUfunction,
    kernelParams: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Outcome {
    let call = Call::begin(Function::cuLaunchKernelEx)?;
    // SAFETY: the caller's promise.
    let config = unsafe { edge::take(config) }?;
    let stream = match (config.hStream.is_null(), default) {
        (true, DefaultStream::PerThread) => cuda_abi::types::CU_STREAM_PER_THREAD,
        _ => config.hStream,
    };
    let shape = Shape {
        grid: [config.gridDimX, config.gridDimY, config.gridDimZ],
        block: [config.blockDimX, config.blockDimY, config.blockDimZ],
        shared_bytes: config.sharedMemBytes,
        cooperative: false,
    };
    // SAFETY: the caller's promise.
    let attributes = unsafe { Attributes::read(&config) }?;
    // SAFETY: the caller's promise.
    unsafe {
        launch(
            call,
            f,
            shape,
            stream,
            attributes.bytes(),
            kernelParams,
            extra,
        )
    }
}

/// # Safety
/// As `cuLaunchKernel`: the parameters are as many and as long as the function takes, or `extra` says.
unsafe fn launch(
    mut call: Call,
    f: CUfunction,
    shape: Shape,
    stream: CUstream,
    attributes: &[u8],
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Outcome {
    if f.is_null() {
        return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
    }
    let threads = threads_of(shape.block).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    if shape.grid.contains(&0) {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    check_limits(&call, shape, threads)?;
    let demand = Demand {
        threads,
        shared_bytes: shape.shared_bytes,
        attributes: digest(attributes, shape),
    };
    let context = call.context_handle();
    let mut small = [MaybeUninit::uninit(); SMALL];
    let mut large = Vec::new();
    // One look at the table for all, and not beyond: what follows may wait for what other threads do.
    let objects = call.session.objects();
    let stream = call.handle_in(&objects, Kind::STREAM, stream as u64)?;
    let code = objects::code(&objects, f as u64)?;
    let unproven = (!code.is_proven(context, demand)).then(|| Arc::clone(code));
    // SAFETY: by this function's contract.
    let parameters = unsafe { gather(code, params, extra, &mut small, &mut large) }?;
    drop(objects);
    let [grid_x, grid_y, grid_z] = shape.grid;
    let [block_x, block_y, block_z] = shape.block;
    let request = wire::CuLaunchKernel {
        function: f as u64,
        stream,
        grid_x,
        grid_y,
        grid_z,
        block_x,
        block_y,
        block_z,
        shared_bytes: shape.shared_bytes,
        // At most `MOST_PARAMETER_BYTES`, and a few dozen attributes.
        parameter_bytes: u32::try_from(parameters.len()).unwrap_or(u32::MAX),
        attribute_count: u32::try_from(attributes.len() / ATTRIBUTE_BYTES).unwrap_or(u32::MAX),
        cooperative: u32::from(shape.cooperative),
    };
    let both = [attributes, parameters];
    let tail = if attributes.is_empty() {
        &both[1..]
    } else {
        &both
    };
    let credit = call.take_credit(stream)?;
    let Some(code) = unproven else {
        return call.post_charged(&request, tail, credit);
    };
    // An answer, whatever it says, means that the worker had the record and returns the credit.
    let status = call.exchange_raw(&request, tail, |_, status, _| Ok(status))?;
    credit.spend();
    accepted(status)?;
    code.prove(context, demand);
    Ok(())
}

/// Threads of a block; `None` for what no device takes.
fn threads_of(block: [u32; 3]) -> Option<u32> {
    let threads = block
        .iter()
        .try_fold(1u32, |product, dimension| product.checked_mul(*dimension))?;
    (threads > 0).then_some(threads)
}

/// The limits that all functions have in common, and that a proven launch may break too.
fn check_limits(call: &Call, shape: Shape, threads: u32) -> Outcome {
    let device = call.session.devices()?.get(device_of(call)?)?;
    let within = |value: u32, limit: Limit| {
        let limit = attribute(device, limit)
            .ok()
            .and_then(|limit| u32::try_from(limit).ok());
        limit.is_none_or(|limit| value <= limit)
    };
    let [block_x, block_y, block_z] = shape.block;
    let [grid_x, grid_y, grid_z] = shape.grid;
    let fine = within(block_x, Limit::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X)
        && within(block_y, Limit::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y)
        && within(block_z, Limit::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z)
        && within(threads, Limit::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)
        && within(grid_x, Limit::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X)
        && within(grid_y, Limit::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y)
        && within(grid_z, Limit::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z);
    if fine {
        Ok(())
    } else {
        Err(CUresult::CUDA_ERROR_INVALID_VALUE)
    }
}

/// What else decides whether a launch is accepted: its attributes, and for a cooperative one (which must
/// fit as a whole) its grid.
fn digest(attributes: &[u8], shape: Shape) -> u64 {
    if attributes.is_empty() && !shape.cooperative {
        return 0;
    }
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let hash = attributes.iter().fold(0xcbf2_9ce4_8422_2325, step);
    shape
        .grid
        .iter()
        .flat_map(|dimension| dimension.to_le_bytes())
        .fold(hash, |hash, byte| step(hash, &byte))
        | 1
}

/// The parameters, packed; in `small` if they fit, else in `large`.
///
/// # Safety
/// As [`launch`].
pub(super) unsafe fn gather<'a>(
    code: &Code,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
    small: &'a mut [MaybeUninit<u8>; SMALL],
    large: &'a mut Vec<u8>,
) -> Outcome<&'a [u8]> {
    if !extra.is_null() {
        if !params.is_null() {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: by this function's contract.
        let (start, bytes) = unsafe { read_extra(extra) }?;
        if bytes == 0 {
            return Ok(&[]);
        }
        edge::require(start)?;
        let room = room(bytes, small, large)?;
        // SAFETY: the caller's buffer has so many bytes, by its own word.
        unsafe { std::ptr::copy_nonoverlapping(start, room.as_mut_ptr(), bytes) };
        return Ok(room);
    }
    let parameters = code
        .parameters
        .as_ref()
        .ok_or(CUresult::CUDA_ERROR_NOT_SUPPORTED)?;
    if parameters.is_empty() {
        return Ok(&[]);
    }
    edge::require(params)?;
    let room = room(code.parameter_bytes, small, large)?;
    for (index, &(offset, size)) in parameters.iter().enumerate() {
        // SAFETY: one pointer for each parameter, by this function's contract.
        let from = unsafe { edge::element(params, index) };
        edge::require(from)?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let into = &mut room[offset..offset + size];
        // SAFETY: each points to a value as long as its parameter.
        unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), into.as_mut_ptr(), size) };
    }
    Ok(room)
}

/// Zeroed room for `bytes` bytes: gaps between parameters say nothing about our memory.
fn room<'a>(
    bytes: usize,
    small: &'a mut [MaybeUninit<u8>; SMALL],
    large: &'a mut Vec<u8>,
) -> Outcome<&'a mut [u8]> {
    if bytes <= SMALL {
        return Ok(small[..bytes].write_copy_of_slice(&ZEROS[..bytes]));
    }
    if bytes > MOST_PARAMETER_BYTES {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    large.resize(bytes, 0);
    Ok(large)
}

/// Start and length of a buffer that is packed already.
///
/// # Safety
/// `extra` is a list of names and values that ends with a null name.
unsafe fn read_extra(extra: *mut *mut c_void) -> Outcome<(*const u8, usize)> {
    let (mut start, mut bytes) = (std::ptr::null(), 0);
    // There are two names; a list that names more than that is no list.
    for index in 0..3 {
        // SAFETY: the list has not ended before.
        let name = unsafe { edge::element(extra, 2 * index) };
        if name.is_null() {
            return Ok((start, bytes));
        }
        // SAFETY: every name has a value.
        let value = unsafe { edge::element(extra, 2 * index + 1) };
        if name == CU_LAUNCH_PARAM_BUFFER_POINTER {
            start = value.cast::<u8>();
        } else if name == CU_LAUNCH_PARAM_BUFFER_SIZE {
            edge::require(value)?;
            // SAFETY: the size's value points to a `size_t`.
            bytes = unsafe { value.cast::<usize>().read_unaligned() };
        } else {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
    }
    Err(CUresult::CUDA_ERROR_INVALID_VALUE)
}

/// A launch's attributes, as they travel.
#[derive(Debug)]
pub(super) struct Attributes {
    bytes: [u8; MOST_ATTRIBUTES * ATTRIBUTE_BYTES],
    len: usize,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            bytes: [0; MOST_ATTRIBUTES * ATTRIBUTE_BYTES],
            len: 0,
        }
    }
}

impl Attributes {
    /// # Safety
    /// The array has as many elements as the configuration says.
    pub(super) unsafe fn read(config: &CUlaunchConfig) -> Outcome<Self> {
        let mut attributes = Self::default();
        let count = usize::try_from(config.numAttrs).unwrap_or(usize::MAX);
        if count > 0 {
            edge::require(config.attrs)?;
        }
        for index in 0..count {
            // SAFETY: by this function's contract.
            attributes.push(unsafe { edge::element(config.attrs, index) })?;
        }
        Ok(attributes)
    }

    fn push(&mut self, attribute: CUlaunchAttribute) -> Outcome {
        if attribute.id == Id::CU_LAUNCH_ATTRIBUTE_IGNORE {
            return Ok(());
        }
        if !travels(attribute.id) {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        let end = self.len + ATTRIBUTE_BYTES;
        let place = self
            .bytes
            .get_mut(self.len..end)
            .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        place[..4].copy_from_slice(&attribute.id.0.to_le_bytes());
        for (word, value) in place[8..].chunks_exact_mut(8).zip(attribute.value.bytes) {
            word.copy_from_slice(&value.to_le_bytes());
        }
        self.len = end;
        Ok(())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn count(&self) -> u32 {
        // At most `MOST_ATTRIBUTES`.
        u32::try_from(self.len / ATTRIBUTE_BYTES).unwrap_or(u32::MAX)
    }
}

/// Attributes whose value means the same in the worker. Those that hold events, or through which a handle
/// comes back, and those we do not know, do not.
fn travels(id: Id) -> bool {
    matches!(
        id,
        Id::CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW
            | Id::CU_LAUNCH_ATTRIBUTE_COOPERATIVE
            | Id::CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY
            | Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
            | Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE
            | Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            | Id::CU_LAUNCH_ATTRIBUTE_PRIORITY
            | Id::CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP
            | Id::CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN
            | Id::CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION
            | Id::CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
            | Id::CU_LAUNCH_ATTRIBUTE_NVLINK_UTIL_CENTRIC_SCHEDULING
            | Id::CU_LAUNCH_ATTRIBUTE_PORTABLE_CLUSTER_SIZE_MODE
            | Id::CU_LAUNCH_ATTRIBUTE_SHARED_MEMORY_MODE
    )
}

#[cfg(test)]
mod tests {
    use cuda_abi::types::CUlaunchAttributeValue;

    use super::*;

    fn packed(parameters: Vec<(u32, u32)>, values: &mut [*mut c_void]) -> Outcome<Vec<u8>> {
        let code = Code::new(c"kernel".to_owned(), 1, Some(parameters));
        let (mut small, mut large) = ([MaybeUninit::uninit(); SMALL], Vec::new());
        // SAFETY: the test passes as many values as parameters.
        unsafe {
            gather(
                &code,
                values.as_mut_ptr(),
                std::ptr::null_mut(),
                &mut small,
                &mut large,
            )
        }
        .map(<[u8]>::to_vec)
    }

    #[test]
    fn parameters_land_at_their_offsets_and_gaps_are_zero() {
        let (mut a, mut b) = (0x11u8, 0x2222_2222_2222_2222u64);
        let mut values = [(&raw mut a).cast(), (&raw mut b).cast()];
        let bytes = packed(vec![(0, 1), (8, 8)], &mut values).unwrap();
        assert_eq!(
            bytes,
            [
                0x11, 0, 0, 0, 0, 0, 0, 0, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22
            ]
        );
    }

    #[test]
    fn long_parameters_are_packed_too_and_impossible_ones_refused() {
        let mut long = vec![7u8; 4000];
        let mut values = [long.as_mut_ptr().cast()];
        assert_eq!(packed(vec![(0, 4000)], &mut values).unwrap(), long);
        let mut longer = vec![7u8; 40_000];
        let mut values = [longer.as_mut_ptr().cast()];
        assert!(packed(vec![(0, 40_000)], &mut values).is_err());
    }

    #[test]
    fn null_parameters_are_invalid_unless_there_are_none() {
        assert!(packed(vec![(0, 4)], &mut [std::ptr::null_mut()]).is_err());
        assert_eq!(packed(Vec::new(), &mut []), Ok(Vec::new()));
    }

    #[test]
    fn extra_form_is_taken_as_it_is_and_bad_lists_are_refused() {
        let code = Code::new(c"kernel".to_owned(), 1, Some(vec![(0, 4)]));
        let (mut buffer, mut size) = ([1u8, 2, 3], 3usize);
        let mut extra = [
            CU_LAUNCH_PARAM_BUFFER_POINTER,
            buffer.as_mut_ptr().cast(),
            CU_LAUNCH_PARAM_BUFFER_SIZE,
            (&raw mut size).cast(),
            std::ptr::null_mut(),
        ];
        let (mut small, mut large) = ([MaybeUninit::uninit(); SMALL], Vec::new());
        // SAFETY: a well-formed list.
        let bytes = unsafe {
            gather(
                &code,
                std::ptr::null_mut(),
                extra.as_mut_ptr(),
                &mut small,
                &mut large,
            )
        };
        assert_eq!(bytes, Ok(&[1u8, 2, 3][..]));
        extra[2] = std::ptr::without_provenance_mut(9);
        // SAFETY: refused at the name that nobody knows.
        let bytes = unsafe {
            gather(
                &code,
                std::ptr::null_mut(),
                extra.as_mut_ptr(),
                &mut small,
                &mut large,
            )
        };
        assert!(bytes.is_err());
    }

    #[test]
    fn blocks_of_no_threads_or_too_many_to_count_are_refused() {
        assert_eq!(threads_of([8, 4, 2]), Some(64));
        assert_eq!(threads_of([8, 0, 2]), None);
        assert_eq!(threads_of([1 << 16, 1 << 16, 1]), None);
    }

    #[test]
    fn attributes_travel_as_their_bytes_and_those_with_handles_do_not() {
        let value = CUlaunchAttributeValue {
            bytes: [0x0102, 0, 0, 0, 0, 0, 0, 9],
        };
        let attribute = |id| CUlaunchAttribute {
            id,
            pad: [0xff; 4],
            value,
        };
        let mut list = Attributes::default();
        list.push(attribute(Id::CU_LAUNCH_ATTRIBUTE_IGNORE))
            .unwrap();
        list.push(attribute(Id::CU_LAUNCH_ATTRIBUTE_PRIORITY))
            .unwrap();
        assert_eq!(list.bytes().len(), 72);
        assert_eq!(list.bytes()[..10], [8, 0, 0, 0, 0, 0, 0, 0, 2, 1]);
        assert_eq!(list.bytes()[64], 9);
        let refused = list.push(attribute(Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT));
        assert_eq!(refused, Err(CUresult::CUDA_ERROR_NOT_SUPPORTED));
        assert!(list.push(attribute(Id(99))).is_err());
    }

    #[test]
    fn digest_is_zero_only_for_plain_launches() {
        let shape = Shape {
            grid: [1, 1, 1],
            block: [1, 1, 1],
            shared_bytes: 0,
            cooperative: false,
        };
        assert_eq!(digest(&[], shape), 0);
        let cooperative = Shape {
            cooperative: true,
            ..shape
        };
        assert_ne!(digest(&[], cooperative), 0);
        assert_ne!(
            digest(&[], cooperative),
            digest(
                &[],
                Shape {
                    grid: [2, 1, 1],
                    ..cooperative
                }
            )
        );
    }
}
