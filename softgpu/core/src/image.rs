//! Arrays, the objects that kernels read and write them through, and copies of boxes of bytes.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::exec::image::{Format, Image, Level};
use crate::handle::Table;
use crate::memory::{Allocation, Kind};
use crate::transfer::Span;

/// Texture and surface objects of all contexts, by the value that kernels get.
pub type Images = Table<Bound>;

/// An object, and what it keeps.
#[derive(Debug)]
pub struct Bound {
    /// Context whose kernels may use it.
    pub owner: u64,
    /// What it shows.
    pub image: Arc<Image>,
}

/// Largest extent of an array in any direction.
pub const MOST_EXTENT: u64 = 131_072;
/// Most layers of an array.
pub const MOST_LAYERS: u64 = 2048;
/// What rows of arrays start at multiples of.
const ROW_ALIGNMENT: u64 = 32;

/// What an array is like: extents as the Driver API has them, 0 where there is no such dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrayShape {
    /// Texels of a row.
    pub width: u32,
    /// Rows; 0 for one dimension.
    pub height: u32,
    /// Planes or layers; 0 for neither.
    pub depth: u32,
    /// `depth` counts layers.
    pub layered: bool,
    /// Layers are faces of cubes.
    pub cube: bool,
    /// Its texels.
    pub format: Format,
    /// The flags it was made with.
    pub flags: u32,
}

impl ArrayShape {
    /// Dimensions of a layer.
    #[must_use]
    pub const fn dimensions(&self) -> u32 {
        if self.cube || self.height != 0 {
            if self.depth != 0 && !self.layered && !self.cube {
                3
            } else {
                2
            }
        } else {
            1
        }
    }

    /// Of a level of a mipmapped array.
    #[must_use]
    pub fn level(&self, level: u32) -> Self {
        let half = |extent: u32| match extent {
            0 => 0,
            extent => (extent >> level.min(31)).max(1),
        };
        Self {
            width: half(self.width),
            height: half(self.height),
            depth: if self.layered || self.cube {
                self.depth
            } else {
                half(self.depth)
            },
            ..*self
        }
    }

    /// Levels down to a single texel.
    #[must_use]
    pub fn level_count(&self) -> u32 {
        let planes = if self.layered || self.cube {
            0
        } else {
            self.depth
        };
        let largest = self.width.max(self.height).max(planes).max(1);
        u32::BITS - largest.leading_zeros()
    }

    fn rows(&self) -> u64 {
        u64::from(self.height.max(1))
    }

    fn planes(&self) -> u64 {
        u64::from(self.depth.max(1))
    }

    fn check(&self) -> Result<()> {
        let most = if self.layered || self.cube {
            MOST_LAYERS
        } else {
            MOST_EXTENT
        };
        let cube = !self.cube
            || (self.width == self.height && self.depth != 0 && self.depth.is_multiple_of(6));
        let plain = self.height != 0 || self.depth == 0 || self.layered;
        let fits = u64::from(self.width) <= MOST_EXTENT
            && u64::from(self.height) <= MOST_EXTENT
            && u64::from(self.depth) <= most;
        if self.width == 0 || !fits || !cube || !plain || (self.layered && self.depth == 0) {
            return Err(Error::InvalidValue);
        }
        Ok(())
    }
}

/// An array, or one level of a mipmapped array.
#[derive(Debug)]
pub struct Array {
    /// What it is like.
    pub shape: ArrayShape,
    /// Its context.
    pub owner: u64,
    allocation: Arc<Allocation>,
    pitch: u64,
}

impl Array {
    /// Allocates an array in a context.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for extents that no array has, [`Error::OutOfMemory`].
    pub fn new(context: &Context, shape: ArrayShape) -> Result<Arc<Self>> {
        shape.check()?;
        let row = u64::from(shape.width) * shape.format.bytes();
        let pitch = row.next_multiple_of(ROW_ALIGNMENT);
        let size = pitch
            .checked_mul(shape.rows())
            .and_then(|plane| plane.checked_mul(shape.planes()))
            .ok_or(Error::OutOfMemory)?;
        let allocation = context.gpu().space().allocate(
            context.device().ordinal,
            context.id(),
            size,
            Kind::Array,
        )?;
        Ok(Arc::new(Self {
            shape,
            owner: context.id(),
            allocation,
            pitch,
        }))
    }

    /// Takes it off the map. Its memory goes when nothing uses it any more; the caller has waited for kernels.
    pub fn remove(&self, context: &Context) {
        let id = self.allocation.id;
        let start = self.allocation.start;
        context.gpu().space().remove(start, |found| found.id == id);
    }

    /// Its texels as images see them.
    #[must_use]
    pub fn level(&self) -> Level {
        Level {
            base: self.allocation.start,
            width: self.shape.width,
            height: self.shape.height,
            planes: self.shape.depth,
            pitch: self.pitch,
            slice: self.pitch * self.shape.rows(),
        }
    }

    /// A box of it for a copy: first byte of a row, row and plane.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if it is not all inside.
    pub fn part(&self, at: [u64; 3], extent: [u64; 3]) -> Result<Rows> {
        let row = u64::from(self.shape.width) * self.shape.format.bytes();
        let sizes = [row, self.shape.rows(), self.shape.planes()];
        for axis in 0..3 {
            let end = at[axis].checked_add(extent[axis]);
            if end.is_none_or(|end| end > sizes[axis]) {
                return Err(Error::InvalidValue);
            }
        }
        let slice = self.pitch * self.shape.rows();
        Ok(Rows {
            span: Span::of(&self.allocation),
            start: at[2] * slice + at[1] * self.pitch + at[0],
            pitch: self.pitch,
            slice,
        })
    }
}

/// A mipmapped array: an array for each level.
#[derive(Debug)]
pub struct MipmappedArray {
    /// What its first level is like.
    pub shape: ArrayShape,
    /// From the largest to the smallest.
    pub levels: Vec<Arc<Array>>,
}

impl MipmappedArray {
    /// Allocates one in a context; the levels are as many as asked for, or as there can be.
    ///
    /// # Errors
    /// As [`Array::new`].
    pub fn new(context: &Context, shape: ArrayShape, levels: u32) -> Result<Self> {
        shape.check()?;
        let count = levels.clamp(1, shape.level_count());
        let mut made = Self {
            shape,
            levels: Vec::new(),
        };
        for level in 0..count {
            match Array::new(context, shape.level(level)) {
                Ok(array) => made.levels.push(array),
                Err(error) => {
                    made.remove(context);
                    return Err(error);
                }
            }
        }
        Ok(made)
    }

    /// As [`Array::remove`].
    pub fn remove(&self, context: &Context) {
        self.levels.iter().for_each(|level| level.remove(context));
    }
}

/// One side of a copy: rows of bytes.
#[derive(Clone, Debug)]
pub struct Rows {
    span: Span,
    start: u64,
    pitch: u64,
    slice: u64,
}

impl Rows {
    /// Rows in linear memory, of which `span` is all that the copy touches.
    #[must_use]
    pub const fn linear(span: Span, pitch: u64, slice: u64) -> Self {
        Self {
            span,
            start: 0,
            pitch,
            slice,
        }
    }

    /// Whether it is host memory that the device does not know.
    #[must_use]
    pub const fn is_pageable(&self) -> bool {
        self.span.is_pageable()
    }

    /// Whether it may be written.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.span.is_writable()
    }

    fn row(&self, row: u64, plane: u64, bytes: u64) -> Result<Span> {
        let offset = self.start + plane * self.slice + row * self.pitch;
        self.span.part(offset, bytes)
    }
}

/// Copies a box of bytes: bytes of a row, rows of a plane, planes.
///
/// # Errors
/// [`Error::InvalidValue`] if a row is not inside; nothing has been copied if the first and the last are.
pub fn copy_rows(to: &Rows, from: &Rows, [bytes, rows, planes]: [u64; 3]) -> Result<()> {
    for plane in 0..planes {
        for row in 0..rows {
            let from = from.row(row, plane, bytes)?;
            to.row(row, plane, bytes)?.copy_from(&from);
        }
    }
    Ok(())
}
