//! Calls of the linker, and the buffers that a driver keeps writing to while a link lives.

use core::ffi::{CStr, c_void};

use cuda_abi::types::{CUjitInputType, CUlinkState};

use super::Table;
use super::calls::{JitArrays, JitOptions, Result, ok};

/// Most bytes of an image: the driver says how long it is.
const MOST_IMAGE_BYTES: usize = 2 << 30;

/// Options and logs of a link. The driver writes to them at every call until the link is destroyed, so they
/// must be kept until then.
#[derive(Debug)]
pub struct LinkLogs {
    options: JitOptions,
    arrays: JitArrays,
}

// SAFETY: the pointers in `arrays` lead to the buffers in `options`, which move with it without moving
// themselves; nothing of it belongs to a thread.
unsafe impl Send for LinkLogs {}

impl LinkLogs {
    /// Options as a link is created with them; logs of the length they may have.
    #[must_use]
    pub fn new(mut options: JitOptions) -> Self {
        let arrays = JitArrays::new(&mut options);
        Self { options, arrays }
    }

    /// Both logs as they are now.
    #[must_use]
    pub fn texts(&self) -> (Vec<u8>, Vec<u8>) {
        let text = |log: &[u8]| log.split(|byte| *byte == 0).next().map(<[u8]>::to_vec);
        (
            text(&self.options.info_log).unwrap_or_default(),
            text(&self.options.error_log).unwrap_or_default(),
        )
    }

    /// What the last call took, in milliseconds, if the link was to say.
    #[must_use]
    pub fn wall_time(&self) -> f32 {
        let mut copy = JitOptions {
            wall_time: self.options.wall_time,
            ..JitOptions::default()
        };
        self.arrays.finish(&mut copy);
        copy.wall_time.unwrap_or(0.0)
    }
}

/// An input of a link.
#[derive(Debug)]
pub struct Input<'a> {
    /// The C type's value.
    pub kind: u32,
    /// The input, and a NUL after it.
    pub data: &'a mut [u8],
    /// Its length without that NUL.
    pub size: usize,
    /// What logs call it.
    pub name: Option<&'a CStr>,
}

impl Table {
    pub(crate) fn create_link(&self, logs: &mut LinkLogs) -> Result<usize> {
        let function = self.cuLinkCreate_v2()?;
        let mut state: CUlinkState = core::ptr::null_mut();
        let arrays = &mut logs.arrays;
        let (ids, values) = (arrays.ids.as_mut_ptr(), arrays.values.as_mut_ptr());
        // SAFETY: arrays of `count` entries and logs of the sizes they say, all kept by `logs`, which the
        // session keeps until the link is destroyed.
        ok(unsafe { function(arrays.count(), ids, values, &raw mut state) })?;
        Ok(state.addr())
    }

    pub(crate) fn add_to_link(
        &self,
        state: usize,
        input: Input<'_>,
        options: &mut JitOptions,
    ) -> Result<()> {
        let function = self.cuLinkAddData_v2()?;
        let mut arrays = JitArrays::new(options);
        let (ids, values) = (arrays.ids.as_mut_ptr(), arrays.values.as_mut_ptr());
        let name = input.name.map_or(core::ptr::null(), CStr::as_ptr);
        // SAFETY: ours; `size` bytes with a NUL behind them, a C string or null, and arrays of `count`
        // entries.
        let status = unsafe {
            function(
                state as CUlinkState,
                CUjitInputType(input.kind),
                input.data.as_mut_ptr().cast(),
                input.size,
                name,
                arrays.count(),
                ids,
                values,
            )
        };
        arrays.finish(options);
        ok(status)
    }

    /// A copy of the image.
    pub(crate) fn complete_link(&self, state: usize) -> Result<Vec<u8>> {
        let function = self.cuLinkComplete()?;
        let (mut image, mut size) = (core::ptr::null_mut::<c_void>(), 0usize);
        // SAFETY: ours, and places for the results.
        ok(unsafe { function(state as CUlinkState, &raw mut image, &raw mut size) })?;
        if image.is_null() || size == 0 || size > MOST_IMAGE_BYTES {
            return Err(cuda_abi::types::CUresult::CUDA_ERROR_UNKNOWN);
        }
        // SAFETY: the driver's image of the length it says, which stays until the link is destroyed.
        Ok(unsafe { core::slice::from_raw_parts(image.cast::<u8>(), size) }.to_vec())
    }

    pub(crate) fn destroy_link(&self, state: usize) -> Result<()> {
        let function = self.cuLinkDestroy()?;
        // SAFETY: ours.
        ok(unsafe { function(state as CUlinkState) })
    }
}
