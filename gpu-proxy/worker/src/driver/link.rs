//! Calls of the linker, and the buffers that a driver keeps writing to while a link lives.

use core::ffi::{CStr, c_void};

use cuda_abi::types::{CUjitInputType, CUlinkState, CUresult};

use super::Table;
use super::calls::{JitArrays, JitOptions, Result, ok};

/// Most bytes of an image: the driver says how long it is.
const MOST_IMAGE_BYTES: usize = 2 << 30;

/// A link under way: the driver's state, and the options and logs that it writes to at every call.
///
/// They are freed only after the driver has destroyed the state. A link that is let go before that, because
/// a client's threads fall over each other, leaks them.
#[derive(Debug)]
pub struct Link {
    state: Option<usize>,
    /// Taken only by `drop`.
    held: Option<Box<Held>>,
}

#[derive(Debug)]
struct Held {
    options: JitOptions,
    arrays: JitArrays,
}

// SAFETY: the pointers in `arrays` lead to the buffers in `options`, which move with it without moving
// themselves; nothing of it belongs to a thread.
unsafe impl Send for Held {}

impl Link {
    /// Both logs as they are now.
    #[must_use]
    pub fn logs(&self) -> (Vec<u8>, Vec<u8>) {
        let Some(held) = &self.held else {
            return Default::default();
        };
        let text = |log: &[u8]| log.split(|byte| *byte == 0).next().map(<[u8]>::to_vec);
        (
            text(&held.options.info_log).unwrap_or_default(),
            text(&held.options.error_log).unwrap_or_default(),
        )
    }

    /// What the last call took, in milliseconds, if the link was to say.
    #[must_use]
    pub fn wall_time(&self) -> f32 {
        let Some(held) = &self.held else { return 0.0 };
        let mut copy = JitOptions {
            wall_time: held.options.wall_time,
            ..JitOptions::default()
        };
        held.arrays.finish(&mut copy);
        copy.wall_time.unwrap_or(0.0)
    }

    fn state(&self) -> Result<CUlinkState> {
        let state = self.state.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        Ok(state as CUlinkState)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.state.is_some()
            && let Some(held) = self.held.take()
        {
            Box::leak(held);
        }
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
    /// A link with these options, and logs of the lengths they have there.
    pub(crate) fn create_link(&self, mut options: JitOptions) -> Result<Link> {
        let function = self.cuLinkCreate_v2()?;
        let arrays = JitArrays::new(&mut options);
        let mut held = Box::new(Held { options, arrays });
        let mut state: CUlinkState = core::ptr::null_mut();
        let arrays = &mut held.arrays;
        let (ids, values) = (arrays.ids.as_mut_ptr(), arrays.values.as_mut_ptr());
        // SAFETY: arrays of `count` entries and logs of the sizes they say, all kept by the `Link` until
        // the driver has destroyed the state.
        ok(unsafe { function(arrays.count(), ids, values, &raw mut state) })?;
        Ok(Link {
            state: Some(state.addr()),
            held: Some(held),
        })
    }

    pub(crate) fn add_to_link(
        &self,
        link: &mut Link,
        input: Input<'_>,
        options: &mut JitOptions,
    ) -> Result<()> {
        let function = self.cuLinkAddData_v2()?;
        let state = link.state()?;
        let mut arrays = JitArrays::new(options);
        let (ids, values) = (arrays.ids.as_mut_ptr(), arrays.values.as_mut_ptr());
        let name = input.name.map_or(core::ptr::null(), CStr::as_ptr);
        // SAFETY: ours; `size` bytes with a NUL behind them, a C string or null, and arrays of `count`
        // entries.
        let status = unsafe {
            function(
                state,
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
    pub(crate) fn complete_link(&self, link: &mut Link) -> Result<Vec<u8>> {
        let function = self.cuLinkComplete()?;
        let state = link.state()?;
        let (mut image, mut size) = (core::ptr::null_mut::<c_void>(), 0usize);
        // SAFETY: ours, and places for the results.
        ok(unsafe { function(state, &raw mut image, &raw mut size) })?;
        if image.is_null() || size == 0 || size > MOST_IMAGE_BYTES {
            return Err(CUresult::CUDA_ERROR_UNKNOWN);
        }
        // SAFETY: the driver's image of the length it says, which stays until the link is destroyed.
        Ok(unsafe { core::slice::from_raw_parts(image.cast::<u8>(), size) }.to_vec())
    }

    pub(crate) fn destroy_link(&self, link: &mut Link) -> Result<()> {
        let function = self.cuLinkDestroy()?;
        let state = link.state()?;
        // SAFETY: ours, and alive.
        ok(unsafe { function(state) })?;
        link.state = None;
        Ok(())
    }
}
