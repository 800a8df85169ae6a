//! User objects. Their destructors run where host functions do.

use std::ffi::{c_uint, c_void};

use cuda_abi::function::Function;
use cuda_abi::types::{CUhostFn, CUresult, CUuserObject};
use idm_protocol::handle::Kind;
use idm_protocol::wire;

use crate::call::{Call, Outcome};
use crate::callbacks::Work;
use crate::edge;
use crate::objects::Detail;

pub unsafe fn cuUserObjectCreate(
    object_out: *mut CUuserObject,
    ptr: *mut c_void,
    destroy: CUhostFn,
    initialRefcount: c_uint,
    flags: c_uint,
) -> Outcome {
    let mut call = Call::begin(Function::cuUserObjectCreate)?;
    edge::require(object_out)?;
    let function = destroy.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    let session = call.session;
    // Graphs outlive contexts, and so does what they keep.
    let handle = call.mint_with(Kind::USER_OBJECT, 0, Detail::Plain)?;
    let work = Work::Destructor(function, handle.value());
    let callback = session.callbacks.enqueue(session, work, ptr)?;
    let request = wire::CuUserObjectCreate {
        object: handle.value(),
        callback,
        count: initialRefcount,
        flags,
    };
    if let Err(error) = call.complete(&request) {
        session.callbacks.forget(callback);
        return Err(error);
    }
    call.keep(Kind::USER_OBJECT, handle);
    // SAFETY: the caller's promise.
    unsafe { edge::put(object_out, handle.value() as CUuserObject) }
}
