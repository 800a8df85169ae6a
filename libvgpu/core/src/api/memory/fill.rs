//! Fills: every memset, one- and two-dimensional.

use std::ffi::c_uint;

use cuda_abi::function::Function;
use cuda_abi::resolver::DefaultStream;
use cuda_abi::types::{CUdeviceptr, CUresult, CUstream};
use idm_protocol::handle::Kind;
use idm_protocol::wire;

use super::{send, stream_of};
use crate::call::{Call, Outcome};
use crate::ranges::Need;

macro_rules! memsets {
    ($($name:ident, $value:ident: $type:ty, $bytes:literal;)+) => {$(
        pub unsafe fn $name(default: DefaultStream, dstDevice: CUdeviceptr, $value: $type, N: usize) -> Outcome {
            let call = Call::begin(Function::$name)?;
            let wait = call.session.ranges.synchronises(dstDevice);
            fill(call, Area::row(dstDevice, N, $bytes), $value.into(), stream_of(default), wait)
        }
    )+};
}

macro_rules! async_memsets {
    ($($name:ident, $value:ident: $type:ty, $bytes:literal;)+) => {$(
        pub unsafe fn $name(dstDevice: CUdeviceptr, $value: $type, N: usize, hStream: CUstream) -> Outcome {
            let call = Call::begin(Function::$name)?;
            let stream = call.handle(Kind::STREAM, hStream as u64)?;
            fill(call, Area::row(dstDevice, N, $bytes), $value.into(), stream, false)
        }
    )+};
}

macro_rules! memsets_2d {
    ($($name:ident, $value:ident: $type:ty, $bytes:literal;)+) => {$(
        pub unsafe fn $name(
            default: DefaultStream, dstDevice: CUdeviceptr, dstPitch: usize, $value: $type, Width: usize, Height: usize,
        ) -> Outcome {
            let call = Call::begin(Function::$name)?;
            let area = Area { address: dstDevice, pitch: dstPitch, width: Width, height: Height, element_bytes: $bytes };
            let wait = call.session.ranges.synchronises(dstDevice);
            fill(call, area, $value.into(), stream_of(default), wait)
        }
    )+};
}

macro_rules! async_memsets_2d {
    ($($name:ident, $value:ident: $type:ty, $bytes:literal;)+) => {$(
        pub unsafe fn $name(
            dstDevice: CUdeviceptr, dstPitch: usize, $value: $type, Width: usize, Height: usize, hStream: CUstream,
        ) -> Outcome {
            let call = Call::begin(Function::$name)?;
            let stream = call.handle(Kind::STREAM, hStream as u64)?;
            let area = Area { address: dstDevice, pitch: dstPitch, width: Width, height: Height, element_bytes: $bytes };
            fill(call, area, $value.into(), stream, false)
        }
    )+};
}

memsets! {
    cuMemsetD8_v2, uc: u8, 1;
    cuMemsetD16_v2, us: u16, 2;
    cuMemsetD32_v2, ui: c_uint, 4;
}

async_memsets! {
    cuMemsetD8Async, uc: u8, 1;
    cuMemsetD16Async, us: u16, 2;
    cuMemsetD32Async, ui: c_uint, 4;
}

memsets_2d! {
    cuMemsetD2D8_v2, uc: u8, 1;
    cuMemsetD2D16_v2, us: u16, 2;
    cuMemsetD2D32_v2, ui: c_uint, 4;
}

async_memsets_2d! {
    cuMemsetD2D8Async, uc: u8, 1;
    cuMemsetD2D16Async, us: u16, 2;
    cuMemsetD2D32Async, ui: c_uint, 4;
}

/// What a fill covers; width in elements, pitch in bytes.
#[derive(Clone, Copy, Debug)]
struct Area {
    address: u64,
    pitch: usize,
    width: usize,
    height: usize,
    element_bytes: u32,
}

impl Area {
    fn row(address: u64, width: usize, element_bytes: u32) -> Self {
        Self {
            address,
            pitch: 0,
            width,
            height: 1,
            element_bytes,
        }
    }

    /// Bytes from the first to the last, or `None` for what cannot be.
    fn extent(&self) -> Option<u64> {
        let element = u64::from(self.element_bytes);
        let row = (self.width as u64).checked_mul(element)?;
        let rows_before = (self.height as u64).saturating_sub(1);
        if rows_before > 0 && (self.pitch as u64) < row {
            return None;
        }
        let aligned = self.address.is_multiple_of(element)
            && (rows_before == 0 || (self.pitch as u64).is_multiple_of(element));
        aligned.then_some(())?;
        (self.pitch as u64)
            .checked_mul(rows_before)?
            .checked_add(row)
    }
}

fn fill(mut call: Call, area: Area, value: u32, stream: u64, wait: bool) -> Outcome {
    let extent = area.extent().ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    if area.width == 0 || area.height == 0 {
        return Ok(());
    }
    call.range_for(area.address, extent, Need::Write)?;
    let request = wire::VgpuMemset {
        destination: area.address,
        pitch: area.pitch as u64,
        width: area.width as u64,
        height: area.height as u64,
        stream,
        value,
        element_bytes: area.element_bytes,
    };
    send(&mut call, stream, wait, &request, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_reach_from_the_first_to_the_last_byte() {
        assert_eq!(Area::row(0, 10, 4).extent(), Some(40));
        assert_eq!(
            Area {
                address: 0,
                pitch: 64,
                width: 5,
                height: 3,
                element_bytes: 2
            }
            .extent(),
            Some(138)
        );
        assert_eq!(Area::row(0, usize::MAX, 4).extent(), None);
    }

    #[test]
    fn misaligned_or_overlapping_fills_are_refused() {
        assert_eq!(Area::row(2, 1, 4).extent(), None);
        assert_eq!(
            Area {
                address: 0,
                pitch: 8,
                width: 3,
                height: 2,
                element_bytes: 4
            }
            .extent(),
            None
        );
        assert_eq!(
            Area {
                address: 0,
                pitch: 10,
                width: 2,
                height: 2,
                element_bytes: 4
            }
            .extent(),
            None
        );
    }
}
