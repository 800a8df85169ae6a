//! Fills of device memory.

use std::ffi::c_uint;
use std::sync::Arc;

use cuda_abi::resolver::DefaultStream;
use cuda_abi::types::{CUdeviceptr, CUstream};
use softgpu_core::context::Context;
use softgpu_core::error::Error;
use softgpu_core::schedule::Work;
use softgpu_core::transfer::Span;

use crate::capture;
use crate::driver::{Place, place, waiting_place};
use crate::edge::Outcome;
use crate::graph::Operation;

/// What is filled: `height` rows of `width` elements of `size` bytes, `pitch` bytes apart.
#[derive(Clone, Copy)]
pub(crate) struct Fill {
    pub to: CUdeviceptr,
    pub pitch: usize,
    pub value: u32,
    pub size: u64,
    pub width: usize,
    pub height: usize,
}

impl Fill {
    fn row(to: CUdeviceptr, value: u32, size: u64, count: usize) -> Self {
        Self {
            to,
            pitch: 0,
            value,
            size,
            width: count,
            height: 1,
        }
    }

    /// As on a GPU nobody waits for device memory, unless the program asked for it; host memory is filled before
    /// the call returns.
    fn run(&self, place: &Place, wait: bool) -> Outcome {
        place.context.check()?;
        let Some((waits, work)) = self.ready(&place.context)? else {
            return Ok(());
        };
        let node = || Ok(Operation::Fill(Arc::clone(&place.context), *self));
        if capture::take(place, node)? {
            return Ok(());
        }
        if wait && waits {
            place.context.run(place.stream, work)
        } else {
            place.context.submit(place.stream, work)
        }
    }

    /// The fill as it could run now, and whether a synchronous one waits; none if it is of nothing.
    pub fn ready(&self, context: &Context) -> Result<Option<(bool, Work)>, Error> {
        let aligned = |n: u64| n.is_multiple_of(self.size);
        if !matches!(self.size, 1 | 2 | 4) || !aligned(self.to) || !aligned(self.pitch as u64) {
            return Err(Error::InvalidValue);
        }
        if self.width == 0 || self.height == 0 {
            return Ok(None);
        }
        let row = (self.width as u64)
            .checked_mul(self.size)
            .ok_or(Error::InvalidValue)?;
        let (pitch, height) = (self.pitch as u64, self.height as u64);
        if height > 1 && pitch < row {
            return Err(Error::InvalidValue);
        }
        let length = pitch
            .checked_mul(height - 1)
            .and_then(|n| n.checked_add(row));
        let space = context.gpu().space();
        let span = Span::device(space, self.to, length.ok_or(Error::InvalidValue)?)?;
        if !span.is_writable() {
            return Err(Error::InvalidValue);
        }
        let waits = span.synchronises();
        let (value, size) = (self.value, self.size);
        let work = Box::new(move || {
            for index in 0..height {
                if let Ok(part) = span.part(index * pitch, row) {
                    part.fill(value, size);
                }
            }
        });
        Ok(Some((waits, work)))
    }

    /// Whether another fill differs in its address, value and width only.
    pub fn has_shape_of(&self, other: &Self) -> bool {
        (self.height <= 1) == (other.height <= 1)
    }
}

pub unsafe fn cuMemsetD8_v2(
    default: DefaultStream,
    to: CUdeviceptr,
    value: u8,
    count: usize,
) -> Outcome {
    Fill::row(to, value.into(), 1, count).run(&waiting_place(default)?, true)
}

pub unsafe fn cuMemsetD16_v2(
    default: DefaultStream,
    to: CUdeviceptr,
    value: u16,
    count: usize,
) -> Outcome {
    Fill::row(to, value.into(), 2, count).run(&waiting_place(default)?, true)
}

pub unsafe fn cuMemsetD32_v2(
    default: DefaultStream,
    to: CUdeviceptr,
    value: c_uint,
    count: usize,
) -> Outcome {
    Fill::row(to, value, 4, count).run(&waiting_place(default)?, true)
}

pub unsafe fn cuMemsetD8Async(
    to: CUdeviceptr,
    value: u8,
    count: usize,
    stream: CUstream,
) -> Outcome {
    Fill::row(to, value.into(), 1, count).run(&place(stream as u64)?, false)
}

pub unsafe fn cuMemsetD16Async(
    to: CUdeviceptr,
    value: u16,
    count: usize,
    stream: CUstream,
) -> Outcome {
    Fill::row(to, value.into(), 2, count).run(&place(stream as u64)?, false)
}

pub unsafe fn cuMemsetD32Async(
    to: CUdeviceptr,
    value: c_uint,
    count: usize,
    stream: CUstream,
) -> Outcome {
    Fill::row(to, value, 4, count).run(&place(stream as u64)?, false)
}

pub unsafe fn cuMemsetD2D8_v2(
    default: DefaultStream,
    to: CUdeviceptr,
    pitch: usize,
    value: u8,
    width: usize,
    height: usize,
) -> Outcome {
    let fill = Fill {
        to,
        pitch,
        value: value.into(),
        size: 1,
        width,
        height,
    };
    fill.run(&waiting_place(default)?, true)
}

pub unsafe fn cuMemsetD2D16_v2(
    default: DefaultStream,
    to: CUdeviceptr,
    pitch: usize,
    value: u16,
    width: usize,
    height: usize,
) -> Outcome {
    let fill = Fill {
        to,
        pitch,
        value: value.into(),
        size: 2,
        width,
        height,
    };
    fill.run(&waiting_place(default)?, true)
}

pub unsafe fn cuMemsetD2D32_v2(
    default: DefaultStream,
    to: CUdeviceptr,
    pitch: usize,
    value: c_uint,
    width: usize,
    height: usize,
) -> Outcome {
    let fill = Fill {
        to,
        pitch,
        value,
        size: 4,
        width,
        height,
    };
    fill.run(&waiting_place(default)?, true)
}

pub unsafe fn cuMemsetD2D8Async(
    to: CUdeviceptr,
    pitch: usize,
    value: u8,
    width: usize,
    height: usize,
    stream: CUstream,
) -> Outcome {
    let fill = Fill {
        to,
        pitch,
        value: value.into(),
        size: 1,
        width,
        height,
    };
    fill.run(&place(stream as u64)?, false)
}

pub unsafe fn cuMemsetD2D16Async(
    to: CUdeviceptr,
    pitch: usize,
    value: u16,
    width: usize,
    height: usize,
    stream: CUstream,
) -> Outcome {
    let fill = Fill {
        to,
        pitch,
        value: value.into(),
        size: 2,
        width,
        height,
    };
    fill.run(&place(stream as u64)?, false)
}

pub unsafe fn cuMemsetD2D32Async(
    to: CUdeviceptr,
    pitch: usize,
    value: c_uint,
    width: usize,
    height: usize,
    stream: CUstream,
) -> Outcome {
    let fill = Fill {
        to,
        pitch,
        value,
        size: 4,
        width,
        height,
    };
    fill.run(&place(stream as u64)?, false)
}
