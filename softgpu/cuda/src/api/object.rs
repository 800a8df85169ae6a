//! User objects.

use std::ffi::{c_uint, c_void};

use cuda_abi::types::{
    CUgraph, CUhostFn, CUuserObject, CUuserObject_flags, CUuserObjectRetain_flags,
};
use softgpu_core::error::Error;

use crate::api::graph::find;
use crate::api::launch::HostCall;
use crate::driver::driver;
use crate::edge::{Outcome, put};
use crate::graph::object::UserObject;

/// Destructors are never waited for, which is the one way that there is.
pub unsafe fn cuUserObjectCreate(
    object: *mut CUuserObject,
    argument: *mut c_void,
    destroy: CUhostFn,
    count: c_uint,
    flags: c_uint,
) -> Outcome {
    driver()?;
    let function = destroy.ok_or(Error::InvalidValue)?;
    if object.is_null() || flags != CUuserObject_flags::CU_USER_OBJECT_NO_DESTRUCTOR_SYNC.0 {
        return Err(Error::InvalidValue);
    }
    let handle = UserObject::create(HostCall { function, argument }, count)?;
    // SAFETY: the caller's promise.
    unsafe { put(object, handle as CUuserObject) }
}

pub unsafe fn cuUserObjectRetain(object: CUuserObject, count: c_uint) -> Outcome {
    UserObject::find(object as u64)?.retain(count)
}

pub unsafe fn cuUserObjectRelease(object: CUuserObject, count: c_uint) -> Outcome {
    UserObject::find(object as u64)?.release(count)
}

pub unsafe fn cuGraphRetainUserObject(
    graph: CUgraph,
    object: CUuserObject,
    count: c_uint,
    flags: c_uint,
) -> Outcome {
    let graph = find(graph)?;
    let object = UserObject::find(object as u64)?;
    let moved = CUuserObjectRetain_flags::CU_GRAPH_USER_OBJECT_MOVE.0;
    if count == 0 || flags & !moved != 0 {
        return Err(Error::InvalidValue);
    }
    let reference = object.reference()?;
    if flags == moved {
        object.release(count)?;
    }
    graph.retain(reference, count);
    Ok(())
}

pub unsafe fn cuGraphReleaseUserObject(
    graph: CUgraph,
    object: CUuserObject,
    count: c_uint,
) -> Outcome {
    find(graph)?.release(object as u64, count)
}
