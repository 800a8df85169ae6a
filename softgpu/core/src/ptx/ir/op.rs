//! Instructions of the intermediate representation.
//!
//! Each register file has its own index type: [`W`] for 32-bit registers (which also hold 8- and
//! 16-bit values, zero-extended), [`D`] for 64-bit ones, [`P`] for predicates. An operation names
//! only registers; immediates live in preloaded registers. Register 0 of each file is never used, so
//! that an optional register costs no space.
#![forbid(unsafe_code)]

use super::asynchronous::{MbarrierOp, TensorCopy};
use super::float::{Conversion, FloatSpec, FloatType};
use super::image::{Fetch, ImageProperty, SurfaceAccess, SurfaceOp};
use super::matrix::{FragmentMove, Matrices, Mma};
use super::rare::{Rare, StackOp};
use super::register::{Access, AnyReg, Base, D, Operand, P, W};

/// Which lanes execute an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// Lanes whose predicate is set; all active lanes where there is none.
    pub predicate: Option<P>,
    /// Lanes whose predicate is clear, rather.
    pub negate: bool,
}

impl Guard {
    /// Every active lane.
    pub const ALWAYS: Self = Self {
        predicate: None,
        negate: false,
    };
}

/// An instruction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Inst {
    /// The lanes that execute it.
    pub guard: Guard,
    /// What they do.
    pub op: Op,
}

macro_rules! operations {
    (@visit out, $field:ident, $visitor:ident) => { $field.visit(Access::Write, $visitor); };
    (@visit in, $field:ident, $visitor:ident) => { $field.visit(Access::Read, $visitor); };
    (@visit imm, $field:ident, $visitor:ident) => { let _ = $field; };
    ($( $(#[$doc:meta])* $name:ident { $( $kind:tt $field:ident : $ty:ty ),* $(,)? } )*) => {
        /// What an instruction does.
        #[derive(Debug, Clone, Copy, PartialEq)]
        #[allow(missing_docs)]
        pub enum Op {
            $( $(#[$doc])* $name { $( $field: $ty ),* }, )*
        }

        impl Op {
            /// Shows every register of the operation to `visitor`, reads first, and replaces it by
            /// what that returns.
            pub fn visit(&mut self, visitor: &mut dyn FnMut(Access, AnyReg) -> AnyReg) {
                match self {
                    $( Self::$name { $( $field ),* } => {
                        $( operations!(@visit $kind, $field, visitor); )*
                    } )*
                }
            }
        }
    };
}

operations! {
    // Moves.
    MovW { in a: W, out d: W }
    MovD { in a: D, out d: D }
    /// `d = a` or `!a`.
    MovP { imm negate: bool, in a: P, out d: P }
    /// `d` holds `lo` in its low and `hi` in its high half.
    PackD { in lo: W, in hi: W, out d: D }
    UnpackD { in a: D, out lo: Option<W>, out hi: Option<W> }
    ExtendD { imm signed: bool, in a: W, out d: D }
    /// The same for the 16-bit halves of a 32-bit register.
    PackW { in lo: W, in hi: W, out d: W }
    UnpackW { in a: W, out lo: Option<W>, out hi: Option<W> }
    /// `d = p ? a : b`
    SelW { in a: W, in b: W, in p: P, out d: W }
    SelD { in a: D, in b: D, in p: P, out d: D }

    // Arithmetic.
    UnW { imm f: UnW, in a: W, out d: W }
    UnD { imm f: UnD, in a: D, out d: D }
    BinW { imm f: BinW, in a: W, in b: W, out d: W }
    BinD { imm f: BinD, in a: D, in b: D, out d: D }
    TernW { imm f: TernW, in a: W, in b: W, in c: W, out d: W }
    TernD { imm f: TernD, in a: D, in b: D, in c: D, out d: D }
    ShiftD { imm f: ShiftD, in a: D, in b: W, out d: D }
    Lop3 { imm table: u8, in a: W, in b: W, in c: W, out d: W }
    BfeD { imm signed: bool, in a: D, in b: W, in c: W, out d: D }
    BfiW { in a: W, in b: W, in c: W, in e: W, out d: W }
    BfiD { in a: D, in b: D, in c: W, in e: W, out d: D }
    Prmt { imm mode: PrmtMode, in a: W, in b: W, in c: W, out d: W }
    /// What programs seldom use.
    Rare { imm f: Rare, in a: W, in b: W, in c: W, out d: W }
    /// Double-width product.
    MulWide { imm signed: bool, in a: W, in b: W, out d: D }
    /// Double-width product plus a double-width addend.
    MadWide { imm signed: bool, in a: W, in b: W, in c: D, out d: D }
    /// 32-bit results of 64-bit operands.
    CountD { imm f: CountD, in a: D, out d: W }
    /// Sum or difference with carry in and out; a difference's carry is the complement of its borrow.
    CarryW { imm subtract: bool, in a: W, in b: W, in carry: Option<P>, out d: W, out carry_out: Option<P> }
    CarryD { imm subtract: bool, in a: D, in b: D, in carry: Option<P>, out d: D, out carry_out: Option<P> }
    /// Floating-point arithmetic with modifiers; operands are of the type's width.
    Float { imm spec: FloatSpec, in a: AnyReg, in b: AnyReg, in c: AnyReg, out d: AnyReg }
    /// `d = (to) a`
    Convert { imm spec: Conversion, in a: AnyReg, out d: AnyReg }
    /// Two values to one packed register, the first in the upper half.
    ConvertPack { imm spec: Conversion, in a: W, in b: W, out d: W }

    // Predicates.
    CmpW { imm f: CmpW, in a: W, in b: W, out p: P }
    CmpD { imm f: CmpD, in a: D, in b: D, out p: P }
    /// Comparison of 16-bit floating-point values; packed forms set both predicates.
    CmpHalf { imm f: FloatCmp, imm ty: FloatType, imm packed: bool, in a: W, in b: W, out p: P, out q: Option<P> }
    BoolP { imm f: BoolOp, in a: P, in b: P, out d: P }
    /// `testp`
    Class { imm f: ClassTest, imm ty: FloatType, in a: AnyReg, out p: P }

    // Memory.
    LdW { imm space: Space, imm ty: MemType, in base: Base, imm offset: i32, out d: [Option<W>; 4] }
    LdD { imm space: Space, imm ty: MemType, in base: Base, imm offset: i32, out d: [Option<D>; 4] }
    StW { imm space: Space, imm ty: MemType, in base: Base, imm offset: i32, in a: [Option<W>; 4] }
    StD { imm space: Space, imm ty: MemType, in base: Base, imm offset: i32, in a: [Option<D>; 4] }
    AtomW { imm space: Space, imm f: AtomOp, imm ty: MemType, in base: Base, imm offset: i16, in b: W, in c: Option<W>, out d: Option<W> }
    AtomD { imm space: Space, imm f: AtomOp, imm ty: MemType, in base: Base, imm offset: i16, in b: D, in c: Option<D>, out d: Option<D> }
    /// 128 bits at once: `d` is what was there, `b` what is stored or compared, `c` what then is stored.
    Wide { imm space: Space, imm f: WideOp, in base: Base, imm offset: i32, in b: [Option<D>; 2], in c: [Option<D>; 2], out d: [Option<D>; 2] }
    /// A fault where an address is no multiple of `bytes`.
    Aligned { in base: Base, imm offset: i32, imm bytes: u8 }
    Fence { imm scope: FenceScope }
    /// Address of a byte of the frame, in local space.
    LocalAddr { imm offset: u32, out d: D }
    /// `alloca`, `stacksave` and `stackrestore`
    Stack { imm f: StackOp, in a: Option<D>, out d: Option<D> }
    /// `isspacep`
    IsSpace { imm space: Space, in a: D, out p: P }

    // Textures and surfaces.
    Fetch { imm spec: Fetch, in object: D, in at: [Option<W>; 4], in level: Option<W>, out d: [Option<W>; 4] }
    /// Level of detail of a texture for the derivatives of its coordinates.
    DetailLevel { in object: D, in dx: [Option<W>; 3], in dy: [Option<W>; 3], out d: W }
    ImageQuery { imm property: ImageProperty, in object: D, in level: Option<W>, out d: W }
    SurfaceLoad { imm spec: SurfaceAccess, in object: D, in at: [Option<W>; 4], out d: [Option<W>; 4] }
    SurfaceStore { imm spec: SurfaceAccess, in object: D, in at: [Option<W>; 4], in a: [Option<W>; 4] }
    SurfaceReduce { imm spec: SurfaceAccess, imm f: SurfaceOp, in object: D, in at: [Option<W>; 4], in a: [Option<W>; 2] }

    // Control. Targets are indices into the module's code.
    Bra { imm target: u32 }
    BraTable { imm table: u32, in index: W }
    Call { imm site: u32, in target: Option<D> }
    Ret {}
    Exit {}
    Trap {}
    /// Gives other paths a turn.
    Yield {}
    Nop {}
    Barrier { imm f: BarrierOp, in id: W, in count: Option<W>, in p: Option<P>, out d: Option<AnyReg> }
    WarpSync { in mask: W }

    // Across the lanes of a warp.
    Shfl { imm f: ShflMode, in a: W, in b: W, in c: W, in mask: W, out d: W, out p: Option<P> }
    Vote { imm f: VoteOp, in a: P, in mask: W, out d: AnyReg }
    MatchW { imm all: bool, in a: W, in mask: W, out d: W, out p: Option<P> }
    MatchD { imm all: bool, in a: D, in mask: W, out d: W, out p: Option<P> }
    Redux { imm f: ReduxOp, in a: W, in mask: W, out d: W }
    ActiveMask { out d: W }
    /// One lane of the mask is elected; `d` is its index.
    Elect { in mask: W, out d: Option<W>, out p: P }
    Clock { imm f: Clock, out d: AnyReg }

    // Matrices: see `ir::matrix`.
    StageW { imm at: u8, in a: [Option<W>; 8] }
    StageD { imm at: u8, in a: [Option<D>; 8] }
    UnstageW { imm at: u8, out d: [Option<W>; 8] }
    UnstageD { imm at: u8, out d: [Option<D>; 8] }
    Mma { imm f: Mma }
    LdFragment { imm f: FragmentMove, imm space: Space, in base: Base, imm offset: i32, in stride: W }
    StFragment { imm f: FragmentMove, imm space: Space, in base: Base, imm offset: i32, in stride: W }
    LdMatrix { imm f: Matrices, imm space: Space, in base: Base, imm offset: i32, out d: [Option<W>; 4] }
    StMatrix { imm f: Matrices, imm space: Space, in base: Base, imm offset: i32, in a: [Option<W>; 4] }
    MovMatrix { in a: W, out d: W }

    // Asynchronous copies and their barriers: see `ir::asynchronous`.
    CopyAsync { imm bytes: u8, imm space: Space, in to: Base, in from: Base, in count: Option<W>, in ignore: Option<P> }
    CopyBulk { imm spaces: (Space, Space), in to: Base, in from: Base, in bytes: W, in barrier: Option<Base> }
    /// A box of the tensor that a map tells of; a coordinate for each dimension, the innermost first.
    CopyTensor { imm f: TensorCopy, imm space: Space, in map: Base, in at: [Option<W>; 5], in place: Base, in barrier: Option<Base> }
    Mbarrier { imm f: MbarrierOp, imm space: Space, in base: Base, in count: Option<W>, in bytes: Option<W>, out d: Option<D> }
    MbarrierWait { imm parity: bool, imm space: Space, in base: Base, in phase: AnyReg, out p: P }
    MbarrierPending { in a: D, out d: W }
}

/// Unary operations on 32-bit registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum UnW {
    Not,
    Neg,
    Abs,
    Clz,
    Popc,
    Brev,
    FindMsbS,
    FindMsbU,
    ShiftFindMsbS,
    ShiftFindMsbU,
    Sext8,
    Sext16,
    Zext8,
    Zext16,
    NegF,
    AbsF,
    FlushF,
    SatF,
    SqrtF,
    RcpF,
    RsqrtF,
    Sin,
    Cos,
    Ex2,
    Lg2,
    Tanh,
    /// Sign bits of one or two halves.
    NegH,
    AbsH,
    NegHx2,
    AbsHx2,
    /// Zero in place of each subnormal f16.
    FlushHx2,
}

/// Unary operations on 64-bit registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum UnD {
    Not,
    Neg,
    Abs,
    Brev,
    NegF,
    AbsF,
    SqrtF,
    RcpF,
    RsqrtF,
    RcpApproxF,
    RsqrtApproxF,
}

/// Operations from 64 to 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CountD {
    Clz,
    Popc,
    FindMsbS,
    FindMsbU,
    ShiftFindMsbS,
    ShiftFindMsbU,
}

/// Binary operations on 32-bit registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BinW {
    Add,
    Sub,
    Mul,
    MulHiS,
    MulHiU,
    DivS,
    DivU,
    RemS,
    RemU,
    MinS,
    MinU,
    MaxS,
    MaxU,
    AddSatS,
    SubSatS,
    And,
    Or,
    Xor,
    Shl,
    ShrS,
    ShrU,
    CNot,
    Bmsk,
    BmskWrap,
    Mul24LoS,
    Mul24LoU,
    Mul24HiS,
    Mul24HiU,
    Szext,
    SzextU,
    SzextWrap,
    SzextWrapU,
    AddF,
    SubF,
    MulF,
    DivF,
    MinF,
    MaxF,
    MinNanF,
    MaxNanF,
    AddFtz,
    SubFtz,
    MulFtz,
    CopySign,
}

/// Binary operations on 64-bit registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BinD {
    Add,
    Sub,
    Mul,
    MulHiS,
    MulHiU,
    DivS,
    DivU,
    RemS,
    RemU,
    MinS,
    MinU,
    MaxS,
    MaxU,
    And,
    Or,
    Xor,
    CNot,
    AddF,
    SubF,
    MulF,
    DivF,
    MinF,
    MaxF,
    CopySign,
}

/// Operations on three 32-bit registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TernW {
    Mad,
    MadHiS,
    MadHiU,
    MadHiSatS,
    SadS,
    SadU,
    BfeS,
    BfeU,
    ShfLeftClamp,
    ShfLeftWrap,
    ShfRightClamp,
    ShfRightWrap,
    Dp4aSS,
    Dp4aSU,
    Dp4aUS,
    Dp4aUU,
    Dp2aLoSS,
    Dp2aLoSU,
    Dp2aLoUS,
    Dp2aLoUU,
    Dp2aHiSS,
    Dp2aHiSU,
    Dp2aHiUS,
    Dp2aHiUU,
    FmaF,
    FmaFtz,
}

/// Operations on three 64-bit registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TernD {
    Mad,
    MadHiS,
    MadHiU,
    SadS,
    SadU,
    FmaF,
}

/// Shifts of 64-bit registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ShiftD {
    Shl,
    ShrS,
    ShrU,
}

/// Byte selection of `prmt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PrmtMode {
    Index,
    F4e,
    B4e,
    Rc8,
    Ecl,
    Ecr,
    Rc16,
}

/// Comparisons of 32-bit registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CmpW {
    Eq,
    Ne,
    LtS,
    LeS,
    GtS,
    GeS,
    LtU,
    LeU,
    GtU,
    GeU,
    F(FloatCmp),
    FtzF(FloatCmp),
}

/// Comparisons of 64-bit registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CmpD {
    Eq,
    Ne,
    LtS,
    LeS,
    GtS,
    GeS,
    LtU,
    LeU,
    GtU,
    GeU,
    F(FloatCmp),
}

/// Comparisons of floating-point values; those with `u` hold if either operand is NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FloatCmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// How predicates are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BoolOp {
    And,
    Or,
    Xor,
}

/// Properties that `testp` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ClassTest {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

/// State spaces of an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Found out by address.
    Generic,
    /// Device and pinned host memory; constants lie there too.
    Global,
    /// The block's shared memory.
    Shared,
    /// The thread's local memory, offsets counting from the current frame.
    Local,
    /// The kernel's parameters.
    Param,
}

/// How a value lies in memory and is extended in a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum MemType {
    U8,
    S8,
    U16,
    S16,
    B32,
    B64,
}

impl MemType {
    /// Size in memory.
    #[inline(always)]
    #[must_use]
    pub fn bytes(self) -> u32 {
        match self {
            Self::U8 | Self::S8 => 1,
            Self::U16 | Self::S16 => 2,
            Self::B32 => 4,
            Self::B64 => 8,
        }
    }
}

/// Atomic read-modify-write operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AtomOp {
    Add,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
    MinS,
    MinU,
    MaxS,
    MaxU,
    AddF(FloatType),
    AddFx2(FloatType),
    MinF(FloatType),
    MinFx2(FloatType),
    MaxF(FloatType),
    MaxFx2(FloatType),
}

/// What an access of 128 bits does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum WideOp {
    Load,
    Store,
    Exchange,
    Compare,
}

/// How far a fence reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceScope {
    /// Acquire and release.
    AcqRel,
    /// Sequentially consistent.
    SeqCst,
}

/// What a block barrier does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BarrierOp {
    Sync,
    Arrive,
    Popc { negate: bool },
    And { negate: bool },
    Or { negate: bool },
}

/// Where `shfl` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

/// What `vote` computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum VoteOp {
    All,
    Any,
    Uni,
    Ballot,
}

/// What `redux` computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ReduxOp {
    Add,
    MinS,
    MinU,
    MaxS,
    MaxU,
    And,
    Or,
    Xor,
    MinF { abs: bool, nan: bool },
    MaxF { abs: bool, nan: bool },
}

/// Counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Clock {
    Clock32,
    ClockHi,
    Clock64,
    GlobalTimer,
    GlobalTimerLo,
    GlobalTimerHi,
}

const _: () = assert!(size_of::<Inst>() <= 32);
