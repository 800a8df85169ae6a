//! Matrix instructions: shapes, element types and how a fragment lies in the registers of a warp.
//!
//! The operands of one multiplication are more registers than an instruction of the representation
//! can name. They pass through the frame's *stage*, a row of slots per lane: `StageW` and `StageD`
//! fill slots from registers, `Mma` computes on them, `UnstageW` and `UnstageD` read them back.
//!
//! A fragment is cut into tiles, one register of each lane per tile. Lane `l` belongs to group
//! `g = l / 4` at place `t = l % 4`. With `p` elements in a register, a tile of A has 8 rows and `4p`
//! columns, one of B `4p` rows and 8 columns: the lane holds `p` neighbours along k, from `t * p` on,
//! of row (column) `g`. A tile of an accumulator has 8 by 8 elements, the lane holding two
//! neighbours of row `g` from column `2t` on, in one register or two. The tiles of A and of
//! accumulators follow each other down the rows, then along the columns; those of B down the rows
//! too. For `mma` that is what PTX prescribes; for `wmma`, where PTX prescribes nothing, it is our
//! choice. The 8x8x4 multiplication of f16 alone has a layout of its own.
#![forbid(unsafe_code)]

use super::Round;

/// Slots of the stage where each operand starts; the result takes the place of the accumulator.
pub const STAGE_A: u8 = 0;
/// Where B starts.
pub const STAGE_B: u8 = 8;
/// Where the accumulator starts.
pub const STAGE_C: u8 = 16;
/// How many slots there are.
pub const STAGE_SLOTS: usize = 24;

/// What a matrix consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Element {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    F32,
    F64,
    S8,
    U8,
    S4,
    U4,
    B1,
    S32,
}

impl Element {
    /// Bits of an element in memory and in registers.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::B1 => 1,
            Self::S4 | Self::U4 => 4,
            Self::E4m3 | Self::E5m2 | Self::S8 | Self::U8 => 8,
            Self::F16 | Self::Bf16 => 16,
            Self::Tf32 | Self::F32 | Self::S32 => 32,
            Self::F64 => 64,
        }
    }

    /// Elements that share a register.
    #[must_use]
    pub const fn per_register(self) -> u32 {
        match self {
            Self::F64 => 1,
            narrow => 32 / narrow.bits(),
        }
    }
}

/// `m` by `k` times `k` by `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct MatrixShape {
    pub m: u8,
    pub n: u8,
    pub k: u16,
}

/// Which operand of a multiplication a fragment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Role {
    A,
    B,
    Accumulator,
}

/// A fragment's part of a multiplication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The multiplication.
    pub shape: MatrixShape,
    /// The operand.
    pub role: Role,
    /// What it consists of.
    pub element: Element,
}

impl Fragment {
    /// Rows and columns of the matrix.
    #[must_use]
    pub fn size(self) -> (u32, u32) {
        let MatrixShape { m, n, k } = self.shape;
        match self.role {
            Role::A => (m.into(), k.into()),
            Role::B => (k.into(), n.into()),
            Role::Accumulator => (m.into(), n.into()),
        }
    }

    /// Registers of each lane that hold it, each element once.
    #[must_use]
    pub fn registers(self) -> u32 {
        let (rows, columns) = self.size();
        rows * columns / 32 / self.element.per_register()
    }

    /// Row and column of element `place` of a lane's elements, which fill its registers in order.
    #[inline]
    #[must_use]
    pub fn position(self, lane: u32, place: u32) -> (u32, u32) {
        let (group, in_group) = (lane / 4, lane % 4);
        let MatrixShape { m, .. } = self.shape;
        let row_tiles = u32::from(m) / 8;
        if self.role == Role::Accumulator {
            let (tile, part) = (place / 2, place % 2);
            return (
                group + 8 * (tile % row_tiles),
                2 * in_group + part + 8 * (tile / row_tiles),
            );
        }
        let per = self.element.per_register();
        let (tile, part) = (place / per, place % per);
        let along = |tile: u32| in_group * per + part + 4 * per * tile;
        if self.role == Role::A {
            (group + 8 * (tile % row_tiles), along(tile / row_tiles))
        } else {
            let tiles = u32::from(self.shape.k) / (4 * per);
            (along(tile % tiles), group + 8 * (tile / tiles))
        }
    }
}

/// How products are formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MmaOp {
    /// Multiplication.
    Product,
    /// Exclusive or of bits.
    Xor,
    /// Conjunction of bits.
    And,
    /// The 8x8x4 multiplication of f16, one for each two quads of the warp.
    Quads {
        /// A lies in rows, else in columns.
        a_rows: bool,
        /// B lies in rows, else in columns.
        b_rows: bool,
    },
}

/// A multiplication with accumulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mma {
    /// How products are formed.
    pub f: MmaOp,
    /// Sizes.
    pub shape: MatrixShape,
    /// Elements of A.
    pub a: Element,
    /// Elements of B.
    pub b: Element,
    /// Elements of the addend.
    pub c: Element,
    /// Elements of the result.
    pub d: Element,
    /// Integer results are clamped, not wrapped.
    pub saturate: bool,
    /// How f64 results are rounded.
    pub round: Round,
}

/// A fragment that is moved between memory and the stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentMove {
    /// Which fragment.
    pub fragment: Fragment,
    /// Memory holds row after row, else column after column.
    pub rows: bool,
    /// Registers; more than the fragment needs where it is to be repeated.
    pub count: u8,
}

/// 8 by 8 matrices of 16-bit elements that are moved between memory and registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrices {
    /// How many.
    pub count: u8,
    /// Transposed on the way.
    pub transposed: bool,
}
