//! Floating-point formats, arithmetic and conversions with their modifiers.
#![forbid(unsafe_code)]

/// Floating-point formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FloatType {
    F16,
    Bf16,
    Tf32,
    F32,
    F64,
}

/// Scalar types of conversions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Scalar {
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    Bf16,
    Tf32,
    F32,
    F64,
}

/// How an inexact result is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// To nearest, ties to even.
    Nearest,
    /// To nearest, ties away from zero.
    NearestAway,
    /// Toward zero.
    Zero,
    /// Toward negative infinity.
    Down,
    /// Toward positive infinity.
    Up,
}

/// Floating-point arithmetic with its modifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FloatSpec {
    /// The operation; unused operands repeat the first one.
    pub f: FloatOp,
    /// Type of operands and result.
    pub ty: FloatType,
    /// Two values in one register.
    pub packed: bool,
    /// Rounding.
    pub round: Round,
    /// Subnormal operands and results are zero.
    pub ftz: bool,
    /// The result is clamped to 0..1, NaN becoming 0.
    pub sat: bool,
    /// A negative result becomes 0 (`.relu`), NaN staying NaN.
    pub relu: bool,
    /// `min` and `max` of magnitudes, with the product's sign (`.xorsign.abs`).
    pub crossed: bool,
}

/// Operations of [`FloatSpec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FloatOp {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Sqrt,
    Rcp,
    Min,
    Max,
    MinNan,
    MaxNan,
    Tanh,
    Ex2,
}

/// A conversion with its modifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conversion {
    /// Type of the operand.
    pub from: Scalar,
    /// Type of the result.
    pub to: Scalar,
    /// Rounding, to an integral value where `integral` is set.
    pub round: Round,
    /// Floating point to floating point, but rounded to an integral value.
    pub integral: bool,
    /// Clamp instead of wrapping; for floating-point results, clamp to 0..1.
    pub sat: bool,
    /// A negative result becomes 0.
    pub relu: bool,
    /// Subnormal f32 operands and results are zero.
    pub ftz: bool,
    /// The largest finite number in place of infinity.
    pub finite: bool,
}
