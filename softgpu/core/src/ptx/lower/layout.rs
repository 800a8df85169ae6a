//! Sizes, alignments and places of variables.
#![forbid(unsafe_code)]

use super::super::ast::{Init, Value, Variable};
use super::super::ir::Param;
use super::super::lexer::Pos;
use super::super::types::Ty;
use super::{Result, failure};

/// Largest variable in global space.
const MAX_GLOBAL_BYTES: u64 = 1 << 36;
/// Largest shared, local or parameter area.
const MAX_SMALL_BYTES: u32 = 1 << 24;

/// An area being filled.
#[derive(Debug, Clone, Copy, Default)]
pub struct Layout {
    pub size: u32,
    pub align: u32,
}

impl Layout {
    /// Reserves room and returns where it starts.
    pub fn place(&mut self, size: u32, align: u32, pos: Pos) -> Result<u32> {
        let align = align.max(1);
        let offset = self.size.next_multiple_of(align);
        match offset.checked_add(size) {
            Some(end) if end <= MAX_SMALL_BYTES => self.size = end,
            _ => return Err(failure(pos, "variables are too large")),
        }
        self.align = self.align.max(align);
        Ok(offset)
    }
}

/// The element type of a variable.
pub fn ty(variable: &Variable<'_>) -> Result<Ty> {
    match Ty::parse(variable.ty) {
        Some(Ty::Pred) | None => Err(failure(
            variable.pos,
            format!("variables of type {} are not supported", variable.ty),
        )),
        Some(ty) => Ok(ty),
    }
}

/// Size in bytes (0 for `[]`) and alignment.
pub fn size_and_align(variable: &Variable<'_>) -> Result<(u64, u32)> {
    let ty = ty(variable)?;
    let element = u64::from(ty.bytes() * variable.vector);
    let mut size = element;
    for (place, &dim) in variable.dims.iter().enumerate() {
        let dim = match (dim, place, &variable.init) {
            (0, 0, Some(Init::List(list))) => u64::try_from(list.len()).unwrap_or(u64::MAX),
            (dim, ..) => dim,
        };
        size = size
            .checked_mul(dim)
            .filter(|&size| size <= MAX_GLOBAL_BYTES)
            .ok_or_else(|| failure(variable.pos, "variable is too large"))?;
    }
    let align = variable
        .align
        .unwrap_or(ty.bytes() * variable.vector)
        .max(ty.bytes());
    Ok((size, align))
}

/// A size that must be small.
pub fn small(size: u64, pos: Pos) -> Result<u32> {
    match u32::try_from(size) {
        Ok(size) if size <= MAX_SMALL_BYTES => Ok(size),
        _ => Err(failure(pos, "variable is too large")),
    }
}

/// A count as an index type.
pub fn count(count: usize, pos: Pos) -> Result<u32> {
    u32::try_from(count).map_err(|_| failure(pos, "too many of them"))
}

/// Places parameters one after the other.
pub fn parameters(variables: &[Variable<'_>], area: &mut Layout) -> Result<Vec<Param>> {
    let mut params = Vec::with_capacity(variables.len());
    for variable in variables {
        let (size, align) = size_and_align(variable)?;
        let size = small(size, variable.pos)?;
        let offset = area.place(size, align, variable.pos)?;
        params.push(Param {
            offset,
            size,
            align,
        });
    }
    Ok(params)
}

/// Lists the values of an initialiser with the element each belongs to.
pub fn flatten<'i, 'a>(init: &'i Init<'a>, dims: &[u64], values: &mut Vec<(u64, &'i Value<'a>)>) {
    fn walk<'i, 'a>(
        init: &'i Init<'a>,
        dims: &[u64],
        base: u64,
        values: &mut Vec<(u64, &'i Value<'a>)>,
    ) {
        match init {
            Init::Value(value) => values.push((base, value)),
            Init::List(list) => {
                let inner = dims.get(1..).unwrap_or_default();
                let stride = inner.iter().fold(1u64, |a, &b| a.saturating_mul(b));
                for (place, init) in (0u64..).zip(list) {
                    walk(
                        init,
                        inner,
                        base.saturating_add(place.saturating_mul(stride)),
                        values,
                    );
                }
            }
        }
    }
    walk(init, dims, 0, values);
}

/// The bits of a number as a value of type `ty`.
#[allow(
    clippy::cast_possible_truncation,
    reason = "a double literal for a float rounds"
)]
pub fn bits(value: Value<'_>, ty: Ty) -> u64 {
    match (value, ty) {
        (Value::Int(bits), Ty::F32) => u64::from((bits.cast_signed() as f32).to_bits()),
        (Value::Int(bits), Ty::F64) => (bits.cast_signed() as f64).to_bits(),
        (Value::Int(bits), _) if ty.bits() == 64 => bits,
        (Value::Int(bits), _) => bits & ((1 << ty.bits()) - 1),
        (Value::F32(bits), Ty::F64) => f64::from(f32::from_bits(bits)).to_bits(),
        (Value::F32(bits), _) => u64::from(bits),
        (Value::F64(bits), Ty::F32) => u64::from((f64::from_bits(bits) as f32).to_bits()),
        (Value::F64(bits), _) => bits,
        (Value::Symbol { .. }, _) => 0,
    }
}
