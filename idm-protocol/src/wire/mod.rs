//! Request and reply structures: the bytes that follow a record's header and make up a reply.
//!
//! The structures are generated from the declarations in `cuda-abi/decl`; what a few of them carry
//! besides (device descriptions, flags) is written here.

pub mod access;
mod generated;
pub mod snapshot;

pub use generated::*;

/// Bits of a record header's `flags`, as [`Flags`](crate::record::Flags) has them.
pub mod flags {
    use crate::record::Flags;

    /// The sender waits on its lane for a reply; without it nobody is answered.
    pub const REPLY: u8 = Flags::REPLY.0;
    /// The record may block: the lane's own worker thread runs it, not the dispatcher.
    pub const LANE: u8 = Flags::LANE.0;
    /// The tail lies in the lane's side buffer and not behind the request.
    pub const SIDE: u8 = Flags::SIDE.0;
}

/// What [`VgpuRefused`] tells of, where it is not handles of a kind.
pub mod refused {
    /// A call, by the capability page.
    pub const CALL: u32 = 0;
    /// Pinned memory: the client's arena has no room. No kind of handle has this number.
    pub const PINNED: u32 = 256;
}

/// Requests of the callback ring, worker to client (D8).
pub mod callback {
    use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

    use crate::record::Request;

    /// Run a host function or stream callback, then acknowledge.
    #[derive(
        Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
    )]
    #[repr(C)]
    pub struct HostFunction {
        /// The number that the client gave with `cuLaunchHostFunc`.
        pub callback: u64,
        /// What a stream callback is told; 0 for a host function.
        pub status: u32,
        /// Whether it will not be named again. A host function of a graph is run by each launch.
        pub last: u32,
    }

    const _: () = assert!(size_of::<HostFunction>() == 16);

    impl Request for HostFunction {
        const OPCODE: u16 = 1;
    }

    /// A host function of a graph, or memory that was set aside for one, is not needed any more. Nobody
    /// waits for it.
    #[derive(
        Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
    )]
    #[repr(C)]
    pub struct Forget {
        /// The number that the client gave.
        pub callback: u64,
    }

    impl Request for Forget {
        const OPCODE: u16 = 2;
    }
}

/// Credits of streams (D9): which records take one, and of which slot.
pub mod credit {
    use super::{
        CuGraphLaunch, CuLaunchHostFunc, CuLaunchKernel, VgpuCopy, VgpuCopyIn, VgpuMemOps,
        VgpuMemset,
    };
    use crate::handle::{Handle, Kind};
    use crate::record::Request;

    /// The slot that all default streams share: 0, 1 and 2, of every context and lane. The client never
    /// mints a stream in it.
    pub const DEFAULT_STREAMS: usize = 0;

    /// Whether a record of this opcode takes a credit of its stream when it is posted, with or without a
    /// reply. The worker returns it when the work is done, has failed, or never began.
    #[must_use]
    pub const fn takes(opcode: u16) -> bool {
        matches!(
            opcode,
            CuLaunchKernel::OPCODE
                | CuLaunchHostFunc::OPCODE
                | VgpuCopy::OPCODE
                | VgpuCopyIn::OPCODE
                | VgpuMemset::OPCODE
                | VgpuMemOps::OPCODE
                | CuGraphLaunch::OPCODE
        )
    }

    /// The credit slot of a `stream` in a record. What is no stream handle counts as a default stream.
    #[must_use]
    pub fn slot(stream: u64) -> usize {
        match Handle::from_value(stream) {
            Some(handle) if handle.kind() == Kind::STREAM => {
                usize::try_from(handle.slot()).unwrap_or(DEFAULT_STREAMS)
            }
            _ => DEFAULT_STREAMS,
        }
    }
}

/// What goes with records about graphs.
pub mod graph {
    use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

    /// An edge, or one end of it: of a list of nodes `from` alone.
    #[derive(
        Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
    )]
    #[repr(C)]
    pub struct Edge {
        /// The node that comes before.
        pub from: u64,
        /// The node that comes after.
        pub to: u64,
        /// What else the edge says, as `CUgraphEdgeData` in memory.
        pub data: [u8; 8],
    }

    const _: () = assert!(size_of::<Edge>() == 24);

    /// What a kernel's node does; its parameters follow, packed.
    #[derive(
        Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
    )]
    #[repr(C)]
    pub struct Kernel {
        /// Function, or kernel of a library.
        pub function: u64,
        /// Blocks by axis.
        pub grid: [u32; 3],
        /// Threads of a block by axis.
        pub block: [u32; 3],
        /// Dynamic shared memory of each block.
        pub shared_bytes: u32,
        /// Bytes of the parameters.
        pub parameter_bytes: u32,
    }

    const _: () = assert!(size_of::<Kernel>() == 40);

    /// One side of a copy.
    #[derive(
        Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
    )]
    #[repr(C)]
    pub struct Side {
        /// Address, or handle of an array.
        pub place: u64,
        /// Byte of a row, row, plane.
        pub at: [u64; 3],
        /// Bytes of a row of linear memory.
        pub pitch: u64,
        /// Rows of a plane of linear memory.
        pub height: u64,
        /// One of [`box_kind`](super::box_kind).
        pub kind: u32,
        /// Zero.
        pub reserved: u32,
    }

    /// What a copy's node does.
    #[derive(
        Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
    )]
    #[repr(C)]
    pub struct Copy {
        /// Where the box goes.
        pub to: Side,
        /// Where it comes from.
        pub from: Side,
        /// Bytes of a row, rows of a plane, planes.
        pub extent: [u64; 3],
    }

    const _: () = assert!(size_of::<Copy>() == 136);

    /// What a memset's node does.
    #[derive(
        Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
    )]
    #[repr(C)]
    pub struct Fill {
        /// Where.
        pub to: u64,
        /// Bytes from row to row.
        pub pitch: u64,
        /// Elements of a row.
        pub width: u64,
        /// Rows.
        pub height: u64,
        /// What each element becomes.
        pub value: u32,
        /// Bytes of an element.
        pub element_bytes: u32,
    }

    const _: () = assert!(size_of::<Fill>() == 40);

    /// `action` of a `vgpuSetNode` record.
    pub mod action {
        /// A new node in the graph `target`.
        pub const ADD: u32 = 1;
        /// The node `target` does something else.
        pub const SET: u32 = 2;
        /// So it does in the executable graph `exec` alone.
        pub const EXEC: u32 = 3;
    }

    /// `which` of a `vgpuListNodes` record.
    pub mod list {
        /// All nodes of a graph.
        pub const NODES: u32 = 1;
        /// Nodes of a graph that wait for no other.
        pub const ROOTS: u32 = 2;
        /// All edges of a graph.
        pub const EDGES: u32 = 3;
        /// What a node waits for.
        pub const BEFORE: u32 = 4;
        /// What waits for a node.
        pub const AFTER: u32 = 5;
    }
}

/// Bits of `flags` of a `cuMemHostAlloc` record that are ours.
pub mod host_memory {
    /// Memory that a graph needs, made while a stream is captured: not an allocation of the program's.
    pub const FOR_GRAPH: u32 = 1 << 31;
}

/// `kind` of a `vgpuCopy` record: which side of the copy is device memory.
pub mod copy_kind {
    /// Pinned host memory of the client's arena to device memory.
    pub const HOST_TO_DEVICE: u32 = 1;
    /// Device memory to pinned host memory of the client's arena.
    pub const DEVICE_TO_HOST: u32 = 2;
    /// Device memory to device memory.
    pub const DEVICE_TO_DEVICE: u32 = 3;
    /// Pinned host memory to pinned host memory, in stream order.
    pub const HOST_TO_HOST: u32 = 4;
}

/// `to_kind` and `from_kind` of a `vgpuCopyBox` record.
pub mod box_kind {
    /// Device memory, by address.
    pub const DEVICE: u32 = 1;
    /// Pinned host memory of the client's arena, by address.
    pub const PINNED: u32 = 2;
    /// An array, by handle.
    pub const ARRAY: u32 = 3;
    /// The source is the lane's upload of this number, rows one after the other.
    pub const UPLOAD: u32 = 4;
    /// The destination is the lane's download, rows one after the other.
    pub const DOWNLOAD: u32 = 5;
}

/// `kind` of an image in a load record, as the client sniffed it; the worker checks.
pub mod image_kind {
    /// NUL-terminated PTX text.
    pub const PTX: u32 = 1;
    /// An ELF cubin.
    pub const CUBIN: u32 = 2;
    /// A fat binary, without the wrapper.
    pub const FATBIN: u32 = 3;
}
