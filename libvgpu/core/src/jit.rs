//! JIT options: pairs of a number and a `void *` that is a scalar, a buffer or a size, depending on the
//! number.
//!
//! The table below says which is which. What it does not name is refused: a pointer sent as a scalar
//! would mean something else over there.

use std::ffi::c_void;

use cuda_abi::types::{CUjit_option, CUresult};

use crate::call::Outcome;
use crate::edge;

/// Most bytes of one log that come back: both fit into a side buffer with room to spare.
const MOST_LOG_BYTES: usize = 24 << 10;

/// What the `void *` of an option is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// A number, in the pointer itself; it goes to the driver.
    Scalar,
    /// A number that says something about this process; the driver gets its own.
    Ignored,
    InfoLog,
    InfoLogBytes,
    ErrorLog,
    ErrorLogBytes,
    /// Where a float is written to.
    WallTime,
    /// Arrays of strings and addresses, and what else is not carried yet.
    Unsupported,
}

fn shape(option: CUjit_option) -> Shape {
    use CUjit_option as O;
    match option {
        O::CU_JIT_INFO_LOG_BUFFER => Shape::InfoLog,
        O::CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES => Shape::InfoLogBytes,
        O::CU_JIT_ERROR_LOG_BUFFER => Shape::ErrorLog,
        O::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES => Shape::ErrorLogBytes,
        O::CU_JIT_WALL_TIME => Shape::WallTime,
        O::CU_JIT_MAX_REGISTERS
        | O::CU_JIT_THREADS_PER_BLOCK
        | O::CU_JIT_OPTIMIZATION_LEVEL
        | O::CU_JIT_TARGET_FROM_CUCONTEXT
        | O::CU_JIT_TARGET
        | O::CU_JIT_FALLBACK_STRATEGY
        | O::CU_JIT_GENERATE_DEBUG_INFO
        | O::CU_JIT_LOG_VERBOSE
        | O::CU_JIT_GENERATE_LINE_INFO
        | O::CU_JIT_CACHE_MODE
        | O::CU_JIT_NEW_SM3X_OPT
        | O::CU_JIT_FAST_COMPILE
        | O::CU_JIT_LTO
        | O::CU_JIT_FTZ
        | O::CU_JIT_PREC_DIV
        | O::CU_JIT_PREC_SQRT
        | O::CU_JIT_FMA
        | O::CU_JIT_OPTIMIZE_UNUSED_DEVICE_VARIABLES
        | O::CU_JIT_POSITION_INDEPENDENT_CODE
        | O::CU_JIT_MIN_CTA_PER_SM
        | O::CU_JIT_MAX_THREADS_PER_BLOCK
        | O::CU_JIT_OVERRIDE_DIRECTIVE_VALUES
        | O::CU_JIT_SPLIT_COMPILE => Shape::Scalar,
        // How many threads load code is the worker's own affair.
        O::CU_JIT_BINARY_LOADER_THREAD_COUNT => Shape::Ignored,
        _ => Shape::Unsupported,
    }
}

/// A caller's options, sorted into what travels and what comes back.
#[derive(Debug, Default)]
pub struct Options {
    /// Number and value of each scalar, as they travel: id, a zero word, value.
    pub scalars: Vec<u8>,
    /// Number of scalars.
    pub scalar_count: u32,
    info: Log,
    error: Log,
    wall_time: Option<*mut f32>,
}

// SAFETY: what the pointers lead to is the program's, which keeps it as long as the driver would use it; a
// link's options are used under its lock.
unsafe impl Send for Options {}

/// A log buffer of the caller's and where it wants to know how much was written.
#[derive(Debug, Default)]
struct Log {
    buffer: Option<*mut u8>,
    bytes: usize,
    size_value: Option<*mut *mut c_void>,
}

impl Options {
    /// Reads `count` options.
    ///
    /// # Safety
    /// As `cuModuleLoadDataEx`: both arrays have `count` elements, and buffers the size they are said to.
    pub unsafe fn read(
        count: u32,
        options: *const CUjit_option,
        values: *mut *mut c_void,
    ) -> Outcome<Self> {
        let mut read = Self::default();
        if count == 0 {
            return Ok(read);
        }
        edge::require(options)?;
        edge::require(values)?;
        for index in 0..usize::try_from(count).unwrap_or(usize::MAX) {
            // SAFETY: inside the array, by this function's contract.
            let option = unsafe { edge::element(options, index) };
            // SAFETY: as above.
            let value = unsafe { edge::element(values, index) };
            // SAFETY: as above.
            let place = unsafe { values.add(index) };
            match shape(option) {
                Shape::Scalar => {
                    read.scalars.extend(option.0.to_le_bytes());
                    read.scalars.extend([0; 4]);
                    read.scalars.extend((value as u64).to_le_bytes());
                    read.scalar_count += 1;
                }
                Shape::Ignored => {}
                Shape::InfoLog => read.info.buffer = Some(value.cast()),
                Shape::ErrorLog => read.error.buffer = Some(value.cast()),
                Shape::InfoLogBytes => {
                    (read.info.bytes, read.info.size_value) = (value as usize, Some(place))
                }
                Shape::ErrorLogBytes => {
                    (read.error.bytes, read.error.size_value) = (value as usize, Some(place))
                }
                Shape::WallTime => read.wall_time = Some(place.cast()),
                Shape::Unsupported if option.0 >= CUjit_option::CU_JIT_NUM_OPTIONS.0 => {
                    return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
                }
                Shape::Unsupported => return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED),
            }
        }
        Ok(read)
    }

    /// Bytes of each log that the worker shall return at most.
    pub fn log_bytes(&self) -> u32 {
        let wanted = self.info.room().max(self.error.room());
        u32::try_from(wanted).unwrap_or(0)
    }

    /// Gives the caller what came back, also of a load that failed.
    ///
    /// # Safety
    /// As [`Options::read`], with the same arrays.
    pub unsafe fn give_back(&self, info: &[u8], error: &[u8], wall_time: f32) {
        // SAFETY: by this function's contract.
        unsafe { self.info.give_back(info) };
        // SAFETY: by this function's contract.
        unsafe { self.error.give_back(error) };
        if let Some(place) = self.wall_time {
            // The value's own place holds the float, as documented for this option.
            // SAFETY: an element of the caller's array.
            unsafe { edge::put_optional(place, wall_time) };
        }
    }
}

impl Log {
    fn room(&self) -> usize {
        match self.buffer {
            Some(buffer) if !buffer.is_null() => self.bytes.min(MOST_LOG_BYTES),
            _ => 0,
        }
    }

    unsafe fn give_back(&self, text: &[u8]) {
        let room = self.room();
        let mut written = 0;
        if let (Some(buffer), Some(most)) = (self.buffer, room.checked_sub(1)) {
            // The text without its NUL, cut to what fits before ours.
            let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
            let text = &text[..text.len().min(most)];
            // SAFETY: the caller's buffer has `room` bytes, and this is less.
            unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), buffer, text.len()) };
            // SAFETY: the byte after it is still inside.
            let end = unsafe { buffer.add(text.len()) };
            // SAFETY: as above.
            unsafe { end.write(0) };
            written = text.len();
        }
        if let Some(place) = self.size_value {
            // SAFETY: an element of the caller's array.
            unsafe { edge::put_optional(place, std::ptr::without_provenance_mut(written)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(value: usize) -> *mut c_void {
        std::ptr::without_provenance_mut(value)
    }

    #[test]
    fn scalars_travel_and_logs_come_back_cut_to_their_buffers() {
        let mut info = [0xffu8; 8];
        let options = [
            CUjit_option::CU_JIT_OPTIMIZATION_LEVEL,
            CUjit_option::CU_JIT_INFO_LOG_BUFFER,
            CUjit_option::CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES,
            CUjit_option::CU_JIT_WALL_TIME,
        ];
        let mut values = [scalar(3), info.as_mut_ptr().cast(), scalar(8), scalar(0)];
        // SAFETY: arrays of four, a buffer of eight.
        let read = unsafe { Options::read(4, options.as_ptr(), values.as_mut_ptr()) }.unwrap();
        assert_eq!((read.scalar_count, read.log_bytes()), (1, 8));
        assert_eq!(
            read.scalars,
            [7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]
        );
        // SAFETY: the same arrays.
        unsafe { read.give_back(b"a long text\0", b"", 1.5) };
        assert_eq!(&info, b"a long \0");
        assert_eq!(values[2].addr(), 7);
        assert_eq!(
            f32::from_bits(u32::try_from(values[3].addr() & 0xffff_ffff).unwrap()),
            1.5
        );
    }

    #[test]
    fn arrays_are_not_supported_and_unknown_numbers_invalid() {
        let read = |option| {
            let mut value = scalar(0);
            // SAFETY: one option.
            unsafe { Options::read(1, &raw const option, &raw mut value) }.map(|_| ())
        };
        assert_eq!(
            read(CUjit_option::CU_JIT_GLOBAL_SYMBOL_NAMES),
            Err(CUresult::CUDA_ERROR_NOT_SUPPORTED)
        );
        assert_eq!(
            read(CUjit_option(77)),
            Err(CUresult::CUDA_ERROR_INVALID_VALUE)
        );
        assert_eq!(
            read(CUjit_option::CU_JIT_BINARY_LOADER_THREAD_COUNT),
            Ok(())
        );
    }

    #[test]
    fn no_options_need_no_arrays_and_some_do() {
        // SAFETY: nothing is read.
        assert!(unsafe { Options::read(0, std::ptr::null(), std::ptr::null_mut()) }.is_ok());
        // SAFETY: null is allowed and refused.
        assert!(unsafe { Options::read(1, std::ptr::null(), std::ptr::null_mut()) }.is_err());
    }

    #[test]
    fn log_without_a_buffer_or_without_room_writes_nothing_but_the_size() {
        let options = [CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [scalar(100)];
        // SAFETY: one option.
        let read = unsafe { Options::read(1, options.as_ptr(), values.as_mut_ptr()) }.unwrap();
        assert_eq!(read.log_bytes(), 0);
        // SAFETY: the same arrays.
        unsafe { read.give_back(b"", b"text\0", 0.0) };
        assert_eq!(values[0].addr(), 0);
    }
}
