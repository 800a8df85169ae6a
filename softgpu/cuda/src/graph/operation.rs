//! What a node does, and what a stream does: the same things.
#![forbid(unsafe_code)]

use std::sync::Arc;

use cuda_abi::types::{CUgraphNodeType, CUlaunchAttribute};
use softgpu_core::context::{Context, LaunchRequest};
use softgpu_core::error::Result;
use softgpu_core::schedule::Work;

use crate::api::copy::Copy3D;
use crate::api::launch::HostCall;
use crate::api::memop::MemOps;
use crate::api::memset::Fill;
use crate::driver::{Event, Function};
use crate::graph::Graph;

/// What a node does.
#[derive(Clone)]
pub(crate) enum Operation {
    Kernel(Arc<KernelNode>),
    Copy(Arc<Context>, Copy3D),
    Fill(Arc<Context>, Fill),
    Host(HostCall),
    Child(Arc<Graph>),
    Empty,
    Record(u64, Arc<Event>),
    Wait(u64, Arc<Event>),
    MemOps(Arc<Context>, Arc<MemOps>),
}

/// A kernel launch that is kept.
pub(crate) struct KernelNode {
    /// As the program named the kernel.
    pub named: u64,
    pub function: Arc<Function>,
    pub request: LaunchRequest,
    pub attributes: Vec<CUlaunchAttribute>,
    /// Address of each parameter inside the request, for who asks.
    pub pointers: Box<[usize]>,
}

/// An operation whose arguments were found good for now.
pub(crate) enum Ready {
    Launch(Arc<Context>, LaunchRequest),
    Work(Arc<Context>, Work),
    Record(Arc<Event>),
    Wait(Arc<Event>),
    /// Only order.
    Nothing,
}

impl KernelNode {
    pub fn new(
        named: u64,
        function: Arc<Function>,
        request: LaunchRequest,
        attributes: Vec<CUlaunchAttribute>,
    ) -> Arc<Self> {
        let start = request.params.as_ptr().addr();
        let params = &request.kernel.code().params;
        // Parameters lie inside their block, whose offsets have 32 bits.
        let pointers = params
            .iter()
            .map(|param| start + usize::try_from(param.offset).unwrap_or(0))
            .collect();
        Arc::new(Self {
            named,
            function,
            request,
            attributes,
            pointers,
        })
    }
}

impl Operation {
    /// The type of a node that does this.
    pub fn kind(&self) -> CUgraphNodeType {
        use CUgraphNodeType as T;
        match self {
            Self::Kernel(_) => T::CU_GRAPH_NODE_TYPE_KERNEL,
            Self::Copy(..) => T::CU_GRAPH_NODE_TYPE_MEMCPY,
            Self::Fill(..) => T::CU_GRAPH_NODE_TYPE_MEMSET,
            Self::Host(_) => T::CU_GRAPH_NODE_TYPE_HOST,
            Self::Child(_) => T::CU_GRAPH_NODE_TYPE_GRAPH,
            Self::Empty => T::CU_GRAPH_NODE_TYPE_EMPTY,
            Self::Record(..) => T::CU_GRAPH_NODE_TYPE_EVENT_RECORD,
            Self::Wait(..) => T::CU_GRAPH_NODE_TYPE_WAIT_EVENT,
            Self::MemOps(..) => T::CU_GRAPH_NODE_TYPE_BATCH_MEM_OP,
        }
    }

    /// The context that it works in; none for what works in any.
    pub fn context(&self) -> Option<&Arc<Context>> {
        match self {
            Self::Kernel(kernel) => Some(&kernel.function.context),
            Self::Copy(context, _) | Self::Fill(context, _) | Self::MemOps(context, _) => {
                Some(context)
            }
            Self::Record(_, event) | Self::Wait(_, event) => Some(&event.context),
            Self::Host(_) | Self::Child(_) | Self::Empty => None,
        }
    }

    /// Checks its arguments and makes it ready to be submitted by a launch in the context `launch`.
    pub fn ready(&self, launch: &Arc<Context>) -> Result<Ready> {
        Ok(match self {
            Self::Kernel(kernel) => {
                let context = &kernel.function.context;
                kernel.request.check(context.device())?;
                Ready::Launch(Arc::clone(context), kernel.request.clone())
            }
            Self::Copy(context, copy) => match copy.ready(context)? {
                Some(work) => Ready::Work(Arc::clone(context), work),
                None => Ready::Nothing,
            },
            Self::Fill(context, fill) => match fill.ready(context)? {
                Some((_, work)) => Ready::Work(Arc::clone(context), work),
                None => Ready::Nothing,
            },
            Self::MemOps(context, ops) => Ready::Work(Arc::clone(context), ops.ready(context)?),
            Self::Host(call) => {
                let call = *call;
                Ready::Work(Arc::clone(launch), Box::new(move || call.run()))
            }
            Self::Record(_, event) => Ready::Record(Arc::clone(event)),
            Self::Wait(_, event) => Ready::Wait(Arc::clone(event)),
            Self::Child(_) | Self::Empty => Ready::Nothing,
        })
    }
}
