//! What the client knows about the objects it holds handles of.

#![forbid(unsafe_code)]

use std::ffi::CString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cuda_abi::types::{CUDA_ARRAY3D_DESCRIPTOR, CUresult};
use idm_protocol::handle::{ClientTable, Handle, HandleError, Kind};

use crate::api::graph::Launched;
use crate::api::linker::Link;

/// An object, as the table keeps it.
#[derive(Debug)]
pub struct Object {
    /// Handle of the context it ends with; 0 for none.
    pub context: u64,
    /// What only its kind has.
    pub detail: Detail,
}

/// What the client keeps about an object besides.
#[derive(Debug)]
pub enum Detail {
    /// Nothing: streams, events, modules, libraries.
    Plain,
    /// A context.
    Context {
        /// Ordinal of its device, as the program counts.
        device: i32,
        /// The flags it was made with.
        flags: u32,
        /// Whether it is the device's primary one.
        primary: bool,
    },
    /// A function or a kernel.
    Code(Arc<Code>),
    /// An array or a mipmapped array.
    Array(Array),
    /// An executable graph.
    Exec(Launched),
    /// A link under way.
    Link(Arc<Mutex<Link>>),
}

/// What the client knows about an array.
#[derive(Clone, Copy, Debug)]
pub struct Array {
    /// What it was made as.
    pub descriptor: CUDA_ARRAY3D_DESCRIPTOR,
    /// Handle of the mipmapped array that it is a level of, and which; 0 for none.
    pub level_of: (u64, u32),
}

/// The handles of a session.
pub type Objects = ClientTable<Object>;

/// What a launch needs to know about a function.
#[derive(Debug)]
pub struct Code {
    /// Its name, as `cuFuncGetName` returns it.
    pub name: CString,
    /// Handle of the module or library it is from.
    pub owner: u64,
    /// Offset and size of each parameter; `None` where the driver is too old to tell, and only packed
    /// parameters can be launched with.
    pub parameters: Option<Vec<(u32, u32)>>,
    /// Bytes of all parameters, packed.
    pub parameter_bytes: usize,
    /// What has been launched successfully before, for some contexts.
    proven: [Proof; 8],
}

/// One context, and the largest launch that it is known to accept.
#[derive(Debug, Default)]
struct Proof {
    context: AtomicU64,
    /// Threads of a block in the high half, dynamic shared bytes in the low half.
    size: AtomicU64,
    attributes: AtomicU64,
}

/// What decides whether a driver accepts a launch at all, apart from the limits that all functions have
/// in common.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
    /// Digest of the attributes; 0 for none.
    pub attributes: u64,
}

impl Code {
    /// A function that was never launched.
    pub fn new(name: CString, owner: u64, parameters: Option<Vec<(u32, u32)>>) -> Self {
        let ends = parameters
            .iter()
            .flatten()
            .map(|&(offset, size)| offset.saturating_add(size));
        let parameter_bytes = ends
            .max()
            .map_or(0, |end| usize::try_from(end).unwrap_or(usize::MAX));
        Self {
            name,
            owner,
            parameters,
            parameter_bytes,
            proven: Default::default(),
        }
    }

    /// Whether a launch like this, or a larger one, was accepted in the context before. Such a launch
    /// can be posted; any other waits for the driver's own verdict (D11).
    #[inline]
    pub fn is_proven(&self, context: u64, demand: Demand) -> bool {
        let proof = &self.proven[index(context)];
        let size = proof.size.load(Ordering::Relaxed);
        proof.context.load(Ordering::Relaxed) == context
            && u64::from(demand.threads) <= size >> 32
            && u64::from(demand.shared_bytes) <= size & u64::from(u32::MAX)
            && proof.attributes.load(Ordering::Relaxed) == demand.attributes
    }

    /// The driver accepted this launch. Two threads that tell of different launches at the same moment
    /// may leave a mixture of both; what is then posted too early is refused a little later.
    pub fn prove(&self, context: u64, demand: Demand) {
        let proof = &self.proven[index(context)];
        let old = proof.size.load(Ordering::Relaxed);
        let same = proof.context.swap(context, Ordering::Relaxed) == context;
        let (threads, shared) = if same {
            (old >> 32, old & u64::from(u32::MAX))
        } else {
            (0, 0)
        };
        let size = u64::from(demand.threads).max(threads) << 32
            | u64::from(demand.shared_bytes).max(shared);
        proof.size.store(size, Ordering::Relaxed);
        proof.attributes.store(demand.attributes, Ordering::Relaxed);
    }

    /// The limits of the function changed, or its context is new.
    pub fn forget_proof(&self) {
        for proof in &self.proven {
            proof.context.store(0, Ordering::Relaxed);
        }
    }
}

#[inline]
fn index(context: u64) -> usize {
    Handle::from_value(context).map_or(0, |handle| usize::try_from(handle.slot() & 7).unwrap_or(0))
}

/// The function or kernel that a program launches or asks about.
#[inline]
pub fn code(objects: &Objects, value: u64) -> Result<&Arc<Code>, CUresult> {
    let found = objects
        .resolve(value, Kind::KERNEL)
        .or_else(|_| objects.resolve(value, Kind::FUNCTION));
    match found {
        Ok((
            _,
            Object {
                detail: Detail::Code(code),
                ..
            },
        )) => Ok(code),
        _ => Err(CUresult::CUDA_ERROR_INVALID_HANDLE),
    }
}

/// The driver's error for a handle that is none.
pub fn refusal(kind: Kind, error: &HandleError) -> CUresult {
    match error {
        HandleError::OverLimit { .. } => CUresult::CUDA_ERROR_OUT_OF_MEMORY,
        HandleError::Poisoned { code, .. } => CUresult(*code),
        _ if kind == Kind::CONTEXT => CUresult::CUDA_ERROR_INVALID_CONTEXT,
        _ if matches!(kind, Kind::GRAPH_EXEC | Kind::USER_OBJECT) => {
            CUresult::CUDA_ERROR_INVALID_VALUE
        }
        _ => CUresult::CUDA_ERROR_INVALID_HANDLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(threads: u32, shared_bytes: u32) -> Demand {
        Demand {
            threads,
            shared_bytes,
            attributes: 0,
        }
    }

    #[test]
    fn launch_is_proven_by_one_at_least_as_large_in_the_same_context() {
        let code = Code::new(c"kernel".to_owned(), 1, Some(vec![(0, 8), (8, 4)]));
        let context = Handle::new(Kind::CONTEXT, 0, 1).unwrap().value();
        let other = Handle::new(Kind::CONTEXT, 8, 1).unwrap().value();
        assert_eq!(code.parameter_bytes, 12);
        assert!(!code.is_proven(context, demand(1, 0)));
        code.prove(context, demand(256, 1024));
        assert!(code.is_proven(context, demand(256, 1024)));
        assert!(!code.is_proven(context, demand(257, 0)));
        assert!(!code.is_proven(context, demand(1, 1025)));
        assert!(!code.is_proven(
            context,
            Demand {
                attributes: 9,
                ..demand(1, 0)
            }
        ));
        code.prove(context, demand(512, 0));
        assert!(code.is_proven(context, demand(512, 1024)));
        assert!(!code.is_proven(other, demand(1, 0)));
        code.forget_proof();
        assert!(!code.is_proven(context, demand(1, 0)));
    }
}
