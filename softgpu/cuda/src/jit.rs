//! JIT options: pairs of a number and a pointer-sized value that is either a scalar or a buffer.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::time::Instant;

use cuda_abi::types::CUjit_option;
use softgpu_core::error::Error;

use crate::edge;

/// The options of one load that ask for something back. All others tune a code generator that does not
/// exist here, and are accepted without effect, as the driver accepts hints.
pub(crate) struct Options {
    started: Instant,
    wall_time: *mut f32,
    logs: [Log; 2],
}

// SAFETY: what the pointers lead to is the caller's, who promises to keep it and not to touch it while a
// call with these options runs; a link's options are used under its lock.
unsafe impl Send for Options {}

/// A log buffer and where its size option lies.
#[derive(Clone, Copy)]
struct Log {
    buffer: *mut c_char,
    room: usize,
    /// The size option's own slot, in which the bytes written are returned.
    size_slot: *mut *mut c_void,
}

const INFO: usize = 0;
const ERROR: usize = 1;

impl Options {
    /// # Safety
    /// Both arrays have `count` elements, and the values are what their options say, until the value is
    /// dropped.
    pub(crate) unsafe fn read(
        count: c_uint,
        options: *const CUjit_option,
        values: *mut *mut c_void,
    ) -> Result<Self, Error> {
        let none = Log {
            buffer: std::ptr::null_mut(),
            room: 0,
            size_slot: std::ptr::null_mut(),
        };
        let mut read = Self {
            started: Instant::now(),
            wall_time: std::ptr::null_mut(),
            logs: [none; 2],
        };
        for index in 0..usize::try_from(count).map_err(|_| Error::InvalidValue)? {
            // SAFETY: inside the arrays by the caller's promise.
            let option = unsafe { edge::element(options, index) }?;
            // SAFETY: as above.
            let value = unsafe { edge::element(values.cast_const(), index) }?;
            // SAFETY: as above; the element was just read.
            let slot = unsafe { values.add(index) };
            match option {
                CUjit_option::CU_JIT_WALL_TIME => read.wall_time = slot.cast::<f32>(),
                CUjit_option::CU_JIT_INFO_LOG_BUFFER => read.logs[INFO].buffer = value.cast(),
                CUjit_option::CU_JIT_ERROR_LOG_BUFFER => read.logs[ERROR].buffer = value.cast(),
                CUjit_option::CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES => {
                    read.logs[INFO].size(value, slot)
                }
                CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES => {
                    read.logs[ERROR].size(value, slot)
                }
                CUjit_option::CU_JIT_OPTIMIZATION_LEVEL if value.addr() & 0xffff_ffff > 4 => {
                    return Err(Error::InvalidValue);
                }
                CUjit_option::CU_JIT_GLOBAL_SYMBOL_NAMES
                | CUjit_option::CU_JIT_GLOBAL_SYMBOL_ADDRESSES
                | CUjit_option::CU_JIT_GLOBAL_SYMBOL_COUNT
                | CUjit_option::CU_JIT_REFERENCED_KERNEL_NAMES
                | CUjit_option::CU_JIT_REFERENCED_KERNEL_COUNT
                | CUjit_option::CU_JIT_REFERENCED_VARIABLE_NAMES
                | CUjit_option::CU_JIT_REFERENCED_VARIABLE_COUNT => {
                    return Err(Error::NotSupported);
                }
                CUjit_option::CU_JIT_NUM_OPTIONS => return Err(Error::InvalidValue),
                other if other.name().is_none() => return Err(Error::InvalidValue),
                _ => {}
            }
        }
        Ok(read)
    }

    /// Gives back what was asked for; `error` is the error log's text, empty after a success.
    pub(crate) fn finish(&self, error: &str) {
        self.logs[INFO].fill("");
        self.logs[ERROR].fill(error);
        if !self.wall_time.is_null() {
            let milliseconds = self.started.elapsed().as_secs_f32() * 1000.0;
            // SAFETY: the option's slot, valid by the promise to `read`; a float fits a pointer.
            unsafe { self.wall_time.write(milliseconds) };
        }
    }
}

impl Log {
    fn size(&mut self, value: *mut c_void, slot: *mut *mut c_void) {
        // The size is an unsigned int in a pointer's place.
        self.room = value.addr() & 0xffff_ffff;
        self.size_slot = slot;
    }

    fn fill(&self, text: &str) {
        let mut written = 0;
        if !self.buffer.is_null() && self.room > 0 {
            let room = c_int::try_from(self.room).unwrap_or(c_int::MAX);
            // SAFETY: the buffer option's promise is `room` bytes.
            let put = unsafe { edge::put_text(self.buffer, room, text) };
            if put.is_ok() && !text.is_empty() {
                written = text.len().min(self.room - 1) + 1;
            }
        }
        if !self.size_slot.is_null() {
            // SAFETY: the option's slot, valid by the promise to `read`.
            unsafe {
                self.size_slot
                    .write(std::ptr::without_provenance_mut(written))
            };
        }
    }
}
