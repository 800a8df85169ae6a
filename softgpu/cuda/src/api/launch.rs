//! Kernel launches and host functions.

use std::ffi::{c_uint, c_void};
use std::sync::Arc;

use cuda_abi::resolver::DefaultStream;
use cuda_abi::types::{
    CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CU_LAUNCH_PARAM_END,
    CU_STREAM_PER_THREAD, CUfunction, CUhostFn, CUlaunchAttribute, CUlaunchAttributeID,
    CUlaunchAttributeValue, CUlaunchConfig, CUstream,
};
use softgpu_core::context::LaunchRequest;
use softgpu_core::error::Error;
use softgpu_core::module::Kernel;

use crate::capture;
use crate::driver::{Function, driver, place};
use crate::edge::{self, Outcome};
use crate::graph::Operation;
use crate::graph::operation::KernelNode;

#[expect(clippy::too_many_arguments, reason = "the C signature")]
pub unsafe fn cuLaunchKernel(
    function: CUfunction,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: CUstream,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Outcome {
    let shape = Shape {
        grid: [grid_x, grid_y, grid_z],
        block: [block_x, block_y, block_z],
        shared_bytes,
        cooperative: false,
    };
    // SAFETY: the caller's promise.
    unsafe { launch(function, &shape, stream, Vec::new(), params, extra) }
}

#[expect(clippy::too_many_arguments, reason = "the C signature")]
pub unsafe fn cuLaunchCooperativeKernel(
    function: CUfunction,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: CUstream,
    params: *mut *mut c_void,
) -> Outcome {
    let shape = Shape {
        grid: [grid_x, grid_y, grid_z],
        block: [block_x, block_y, block_z],
        shared_bytes,
        cooperative: true,
    };
    let cooperative = CUlaunchAttribute {
        id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
        pad: [0; 4],
        value: CUlaunchAttributeValue {
            bytes: [1, 0, 0, 0, 0, 0, 0, 0],
        },
    };
    let none = std::ptr::null_mut();
    // SAFETY: the caller's promise.
    unsafe { launch(function, &shape, stream, vec![cooperative], params, none) }
}

pub unsafe fn cuLaunchKernelEx(
    default: DefaultStream,
    config: *const CUlaunchConfig,
    function: CUfunction,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Outcome {
    driver()?;
    // SAFETY: the caller's promise.
    let config = unsafe { edge::take(config) }?;
    let mut cooperative = false;
    let mut attributes = Vec::new();
    for index in 0..usize::try_from(config.numAttrs).map_err(|_| Error::InvalidValue)? {
        // SAFETY: inside the array by the caller's promise.
        let attribute = unsafe { edge::element(config.attrs.cast_const(), index) }?;
        if attribute.id == CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE {
            cooperative = attribute.value.bytes[0] & 0xffff_ffff != 0;
        } else {
            check_attribute(&attribute)?;
        }
        attributes.push(attribute);
    }
    let shape = Shape {
        grid: [config.gridDimX, config.gridDimY, config.gridDimZ],
        block: [config.blockDimX, config.blockDimY, config.blockDimZ],
        shared_bytes: config.sharedMemBytes,
        cooperative,
    };
    let stream = match default {
        DefaultStream::PerThread if config.hStream.is_null() => CU_STREAM_PER_THREAD,
        _ => config.hStream,
    };
    // SAFETY: the caller's promise.
    unsafe { launch(function, &shape, stream, attributes, params, extra) }
}

/// What only tunes is accepted; what changes how blocks relate is not there.
pub(super) fn check_attribute(attribute: &CUlaunchAttribute) -> Outcome {
    use CUlaunchAttributeID as A;
    let [first, second, ..] = attribute.value.bytes;
    let off = match attribute.id {
        A::CU_LAUNCH_ATTRIBUTE_IGNORE
        | A::CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW
        | A::CU_LAUNCH_ATTRIBUTE_PRIORITY
        | A::CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN
        | A::CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP
        | A::CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
        | A::CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE
        // Starting early is allowed, never required.
        | A::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION => true,
        A::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION => {
            first == 1 << 32 | 1 && second & 0xffff_ffff == 1
        }
        other if other.name().is_some() => false,
        _ => return Err(Error::InvalidValue),
    };
    if off {
        Ok(())
    } else {
        Err(Error::NotSupported)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
    pub cooperative: bool,
}

/// # Safety
/// As `cuLaunchKernel`.
unsafe fn launch(
    function: CUfunction,
    shape: &Shape,
    stream: CUstream,
    attributes: Vec<CUlaunchAttribute>,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Outcome {
    let place = place(stream as u64)?;
    place.context.check()?;
    let named = function as u64;
    let function = driver()?.launchable(named, &place.context)?;
    if function.context.id() != place.context.id() {
        return Err(Error::InvalidHandle);
    }
    // SAFETY: the caller's promise.
    let request = unsafe { request(&function, shape, params, extra) }?;
    let kernel = || {
        request.check(place.context.device())?;
        let (function, request) = (Arc::clone(&function), request.clone());
        let node = KernelNode::new(named, function, request, attributes);
        Ok(Operation::Kernel(node))
    };
    if capture::take(&place, kernel)? {
        return Ok(());
    }
    place.context.launch(place.stream, request)
}

/// # Safety
/// As `cuLaunchKernel`.
pub(super) unsafe fn request(
    function: &Function,
    shape: &Shape,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<LaunchRequest, Error> {
    // SAFETY: the caller's promise.
    let params = unsafe { gather(&function.kernel, params, extra) }?;
    Ok(LaunchRequest {
        module: Arc::clone(&function.module),
        kernel: function.kernel.clone(),
        grid: shape.grid,
        block: shape.block,
        shared_bytes: shape.shared_bytes,
        cooperative: shape.cooperative,
        params,
    })
}

/// The parameter block, from one pointer for each parameter or from a buffer.
///
/// # Safety
/// As `cuLaunchKernel`: `params` has a pointer for each parameter, `extra` is a list that ends.
unsafe fn gather(
    kernel: &Kernel,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<Vec<u8>, Error> {
    let code = kernel.code();
    let wide = |n: u32| usize::try_from(n).map_err(|_| Error::Unknown);
    let mut block = vec![0; wide(code.param_bytes)?];
    if !extra.is_null() {
        if !params.is_null() {
            return Err(Error::InvalidValue);
        }
        // SAFETY: the caller's promise.
        let given = unsafe { buffer(extra) }?;
        // Trailing padding may be left out or added; parameters may not be.
        let needed = code
            .params
            .last()
            .map_or(0, |last| last.offset.saturating_add(last.size));
        if given.len() < wide(needed)? {
            return Err(Error::InvalidValue);
        }
        let fitting = given.len().min(block.len());
        block[..fitting].copy_from_slice(&given[..fitting]);
        return Ok(block);
    }
    for (index, param) in code.params.iter().enumerate() {
        // SAFETY: one pointer for each parameter, by the caller's promise.
        let from = unsafe { edge::element(params.cast_const(), index) }?;
        if from.is_null() {
            return Err(Error::InvalidValue);
        }
        let start = wide(param.offset)?;
        let room = start
            .checked_add(wide(param.size)?)
            .and_then(|end| block.get_mut(start..end));
        let room = room.ok_or(Error::InvalidImage)?;
        // SAFETY: a parameter's pointer is readable for its size; the room is ours.
        unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), room.as_mut_ptr(), room.len()) };
    }
    Ok(block)
}

/// # Safety
/// `extra` is a list of names and values that ends.
unsafe fn buffer<'a>(extra: *mut *mut c_void) -> Result<&'a [u8], Error> {
    let (mut start, mut size) = (std::ptr::null::<u8>(), None);
    for pair in 0..3 {
        // SAFETY: the list goes on until its end mark.
        let name = unsafe { edge::element(extra.cast_const(), 2 * pair) }?;
        if name == CU_LAUNCH_PARAM_END {
            break;
        }
        // SAFETY: as above.
        let value = unsafe { edge::element(extra.cast_const(), 2 * pair + 1) }?;
        if name == CU_LAUNCH_PARAM_BUFFER_POINTER {
            start = value.cast_const().cast();
        } else if name == CU_LAUNCH_PARAM_BUFFER_SIZE {
            // SAFETY: the value points to the size.
            size = Some(unsafe { edge::take(value.cast_const().cast::<usize>()) }?);
        } else {
            return Err(Error::InvalidValue);
        }
    }
    match size {
        Some(0) => Ok(&[]),
        Some(size) if !start.is_null() && size <= isize::MAX.unsigned_abs() => {
            // SAFETY: the caller's buffer, of the size it gives.
            Ok(unsafe { std::slice::from_raw_parts(start, size) })
        }
        _ => Err(Error::InvalidValue),
    }
}

/// A function of the program's and its argument, on their way to another thread.
#[derive(Clone, Copy)]
pub(crate) struct HostCall {
    pub function: unsafe extern "C" fn(*mut c_void),
    pub argument: *mut c_void,
}

// SAFETY: the Driver API calls host functions on threads of the driver's; that the argument may be used
// there is the program's promise.
unsafe impl Send for HostCall {}
// SAFETY: as above; to look at it does nothing.
unsafe impl Sync for HostCall {}

impl HostCall {
    pub fn run(self) {
        // SAFETY: the program's promise in giving the function.
        unsafe { (self.function)(self.argument) };
    }
}

pub unsafe fn cuLaunchHostFunc(
    stream: CUstream,
    function: CUhostFn,
    argument: *mut c_void,
) -> Outcome {
    let place = place(stream as u64)?;
    let function = function.ok_or(Error::InvalidValue)?;
    let call = HostCall { function, argument };
    if capture::take(&place, || Ok(Operation::Host(call)))? {
        return Ok(());
    }
    place
        .context
        .submit(place.stream, Box::new(move || call.run()))
}

/// The mode says how long the caller may have to wait for the thread that runs it; it only tunes.
pub unsafe fn cuLaunchHostFunc_v2(
    stream: CUstream,
    function: CUhostFn,
    argument: *mut c_void,
    mode: c_uint,
) -> Outcome {
    if mode > 1 {
        return Err(Error::InvalidValue);
    }
    // SAFETY: the caller's promise.
    unsafe { cuLaunchHostFunc(stream, function, argument) }
}
