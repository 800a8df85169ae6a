//! The intermediate representation: what the front end hands to an execution engine.
//!
//! A [`Module`] is validated: every register index lies inside its function's register files, every
//! branch target inside its function, every symbol is resolved. An engine need not check again. The
//! representation knows nothing of how it is executed, so that an interpreter and a compiler can
//! share it.
#![forbid(unsafe_code)]

pub mod asynchronous;
pub mod float;
mod image;
pub mod matrix;
pub mod op;
pub mod rare;
pub mod register;

pub use asynchronous::*;
pub use float::*;
pub use image::*;
pub use matrix::*;
pub use op::*;
pub use rare::*;
pub use register::*;

/// The smallest generic address of the window through which a block's shared memory is seen.
///
/// The windows are non-canonical x86-64 addresses: no host mapping can ever lie there.
pub const SHARED_WINDOW: u64 = 1 << 62;
/// The smallest generic address of a thread's local memory.
pub const LOCAL_WINDOW: u64 = SHARED_WINDOW + (1 << 32);
/// The smallest generic address of the kernel's parameters.
pub const PARAM_WINDOW: u64 = SHARED_WINDOW + (2 << 32);
/// The smallest value of a device function's address.
pub const FUNCTION_WINDOW: u64 = SHARED_WINDOW + (3 << 32);
/// Bytes of a block's shared memory that belong to the system, where a kernel asks for their place.
pub const RESERVED_SHARED_BYTES: u16 = 1024;
/// Bytes spanned by each window.
pub const WINDOW_BYTES: u64 = 1 << 32;

/// The value that taking the address of device function `index` yields.
#[must_use]
pub fn function_address(index: u32) -> u64 {
    FUNCTION_WINDOW + (u64::from(index) << 4)
}

/// A compiled PTX module.
#[derive(Debug, Clone, Default)]
pub struct Module {
    /// PTX ISA version of the source, major and minor.
    pub version: (u32, u32),
    /// What `.target` named, for example `sm_75`.
    pub target: String,
    /// Its number, for example 75; of several units the highest.
    pub target_version: u32,
    /// Entry points, in source order.
    pub kernels: Vec<Kernel>,
    /// Every function with a body: kernels and device functions.
    pub functions: Vec<Function>,
    /// Module-scope `.global` and `.const` variables, in source order.
    pub globals: Vec<Global>,
    /// Instructions of all functions, one after the other.
    pub code: Vec<Inst>,
    /// Source line of each instruction.
    pub lines: Vec<u32>,
    /// Call sites, by index of [`Op::Call`].
    pub calls: Vec<CallSite>,
    /// Jump tables, by index of [`Op::BraTable`]; entries are indices into `code`.
    pub tables: Vec<Vec<u32>>,
}

impl Module {
    /// The kernel called `name`.
    #[must_use]
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }

    /// Whether a function of it allocates memory while it runs.
    #[must_use]
    pub fn uses_heap(&self) -> bool {
        let allocates = |site: &CallSite| site.target == CallTarget::Builtin(Builtin::Malloc);
        self.calls.iter().any(allocates)
    }

    /// The variable called `name`.
    #[must_use]
    pub fn global(&self, name: &str) -> Option<(usize, &Global)> {
        self.globals
            .iter()
            .enumerate()
            .find(|(_, global)| global.name == name)
    }
}

/// An entry point.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Its name in the module.
    pub name: String,
    /// Index of its body in [`Module::functions`].
    pub function: u32,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Bytes from the first parameter's start to the last one's end.
    pub param_bytes: u32,
    /// Statically declared shared memory that the kernel and what it calls use.
    pub shared_bytes: u32,
    /// Alignment of the shared memory.
    pub shared_align: u32,
    /// Local memory per thread, with that of every function on its deepest call path; `None` if the
    /// call graph has a cycle or calls through pointers, so that only a stack limit bounds it.
    pub local_bytes: Option<u32>,
    /// 32-bit registers per thread, as `cuFuncGetAttribute` counts them.
    pub register_count: u32,
    /// Largest block that `.maxntid` or `.reqntid` allows.
    pub max_threads: Option<u32>,
    /// The block shape that `.reqntid` demands.
    pub required_block: Option<[u32; 3]>,
    /// `.maxntid`, the bound on the block shape's volume, as written.
    pub max_block: Option<[u32; 3]>,
    /// `.minnctapersm`.
    pub min_blocks_per_sm: Option<u32>,
}

/// One parameter of a kernel or function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    /// Where it starts in the parameter block.
    pub offset: u32,
    /// Its size in bytes.
    pub size: u32,
    /// Its alignment in bytes.
    pub align: u32,
}

/// A function body.
#[derive(Debug, Clone, Default)]
pub struct Function {
    /// Its name in the module.
    pub name: String,
    /// First instruction.
    pub start: u32,
    /// One past the last instruction.
    pub end: u32,
    /// Size of each register file, the never-used register 0 included.
    pub registers: RegisterCounts,
    /// Registers that hold one value for a whole launch, block or warp.
    pub preloads: Vec<Preload>,
    /// Parameters; for a device function they lie at the start of its frame in local memory.
    pub params: Vec<Param>,
    /// Return values, in the frame after the parameters.
    pub returns: Vec<Param>,
    /// Size of the frame in each thread's local memory.
    pub local_bytes: u32,
}

/// How many registers of each file a function uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegisterCounts {
    /// 32-bit registers.
    pub w: u16,
    /// 64-bit registers.
    pub d: u16,
    /// Predicates.
    pub p: u16,
}

/// A register that is filled before the function runs and never written by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preload {
    /// The register.
    pub register: AnyReg,
    /// What it holds.
    pub value: Constant,
}

/// A value known when a kernel is launched, or when a block or warp of it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Constant {
    /// These bits.
    Bits(u64),
    /// A kernel parameter, extended as its type says.
    Param {
        /// Where in the parameter block.
        offset: u32,
        /// How it is read.
        ty: MemType,
    },
    /// Address of a variable of the module.
    Global {
        /// Index into [`Module::globals`].
        index: u32,
        /// Bytes past its start.
        addend: i64,
    },
    /// Offset of the dynamic shared memory in the block's shared memory.
    DynamicShared {
        /// Bytes past its start.
        addend: i64,
    },
    /// A special register.
    Special(Special),
}

/// Special registers that do not change while a warp runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Special {
    /// `%tid`, by axis.
    Tid(u8),
    /// `%ntid`, by axis.
    Ntid(u8),
    /// `%ctaid`, by axis.
    Ctaid(u8),
    /// `%nctaid`, by axis.
    Nctaid(u8),
    /// `%laneid`.
    LaneId,
    /// `%warpid`.
    WarpId,
    /// `%nwarpid`.
    NwarpId,
    /// `%smid`.
    SmId,
    /// `%nsmid`.
    NsmId,
    /// `%gridid`.
    GridId,
    /// `%lanemask_eq`.
    LaneMaskEq,
    /// `%lanemask_le`.
    LaneMaskLe,
    /// `%lanemask_lt`.
    LaneMaskLt,
    /// `%lanemask_ge`.
    LaneMaskGe,
    /// `%lanemask_gt`.
    LaneMaskGt,
    /// `%total_smem_size` and `%aggr_smem_size`.
    TotalSharedBytes,
    /// `%dynamic_smem_size`.
    DynamicSharedBytes,
    /// `%reserved_smem_offset_begin` and what lies there: where the [`RESERVED_SHARED_BYTES`] of shared memory
    /// start in which cooperative groups of several warps meet.
    ReservedShared {
        /// Bytes past the start.
        addend: u16,
    },
    /// `%envreg1` and `%envreg2`: upper and lower half of the address of the grid's workspace, where
    /// cooperative groups keep the barrier of the grid.
    GridWorkspace {
        /// Which half.
        upper: bool,
    },
}

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallSite {
    /// What is called.
    pub target: CallTarget,
    /// Where each argument lies in the caller's frame, and how large it is.
    pub arguments: Vec<Slot>,
    /// Where each result goes in the caller's frame.
    pub results: Vec<Slot>,
}

/// What a call reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallTarget {
    /// A function of the module.
    Function(u32),
    /// Whatever function the instruction's register holds the address of.
    Indirect,
    /// A function that the executor supplies.
    Builtin(Builtin),
}

/// A function that PTX programs expect of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builtin {
    /// `vprintf(format, arguments) -> count`
    Vprintf,
    /// `__assertfail(message, file, line, function, char size)`
    AssertFail,
    /// `malloc(bytes) -> address`
    Malloc,
    /// `free(address)`
    Free,
}

/// A piece of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Offset in the frame.
    pub offset: u32,
    /// Its size in bytes.
    pub size: u32,
}

/// A module-scope variable in `.global` or `.const` space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Global {
    /// Its name in the module.
    pub name: String,
    /// Which space it was declared in.
    pub space: GlobalSpace,
    /// Its size in bytes.
    pub size: u64,
    /// Its alignment in bytes.
    pub align: u32,
    /// Initial content; shorter than `size` where the rest is zero.
    pub init: Vec<u8>,
    /// Addresses to be stored into the initial content once variables have been placed.
    pub relocations: Vec<Relocation>,
    /// Who may refer to it.
    pub linkage: Linkage,
}

/// The space of a [`Global`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GlobalSpace {
    /// `.global`
    Global,
    /// `.const`
    Const,
}

/// The linkage of a [`Global`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linkage {
    /// Seen by this module only, though the driver still finds it by name.
    Internal,
    /// `.visible`
    Visible,
    /// `.common`
    Common,
    /// `.weak`
    Weak,
    /// `.extern`: declared, defined nowhere and not used either.
    Extern,
}

/// An address inside a variable's initial content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relocation {
    /// Where it is stored.
    pub offset: u64,
    /// How many bytes of it are stored.
    pub bytes: u8,
    /// Which address.
    pub target: RelocationTarget,
    /// Added to it.
    pub addend: i64,
}

/// What a [`Relocation`] takes the address of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelocationTarget {
    /// A variable, by index into [`Module::globals`].
    Global(u32),
    /// A function, by index; see [`function_address`].
    Function(u32),
}
