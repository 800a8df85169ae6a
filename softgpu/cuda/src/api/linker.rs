//! The linker: several PTX texts become one image.

use std::ffi::{c_char, c_uint, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cuda_abi::types::{CUjit_option, CUjitInputType, CUlinkState};
use softgpu_core::error::Error;
use softgpu_core::linker::Linker;

use crate::api::device::signed;
use crate::driver::{self, driver};
use crate::edge::{self, Outcome, put, put_if_wanted};
use crate::image;
use crate::jit::Options;

/// Longest input: no code is longer, and a length that is no length is found out before it is believed.
const MOST_BYTES: usize = 2 << 30;

/// A link under way.
pub(crate) struct Link {
    device: i32,
    linker: Linker,
    /// Where the program wants the logs: its buffers stay until the link is destroyed.
    options: Options,
    errors: String,
    input_count: usize,
    /// What `cuLinkComplete` made; the program may use it until the link is destroyed.
    image: Vec<u8>,
}

pub unsafe fn cuLinkCreate_v2(
    count: c_uint,
    options: *mut CUjit_option,
    values: *mut *mut c_void,
    state: *mut CUlinkState,
) -> Outcome {
    let context = driver::context()?;
    if state.is_null() {
        return Err(Error::InvalidValue);
    }
    // SAFETY: the caller's promise, for as long as the link lives.
    let options = unsafe { Options::read(count, options, values) }?;
    options.finish("");
    let link = Link {
        device: signed(context.device().ordinal)?,
        linker: Linker::default(),
        options,
        errors: String::new(),
        input_count: 0,
        image: Vec::new(),
    };
    let handle = driver()?.links.insert(Mutex::new(link).into());
    // SAFETY: the caller's promise.
    unsafe { put(state, handle.ok_or(Error::OutOfMemory)? as CUlinkState) }
}

#[expect(clippy::too_many_arguments, reason = "the C signature")]
pub unsafe fn cuLinkAddData_v2(
    state: CUlinkState,
    kind: CUjitInputType,
    data: *mut c_void,
    size: usize,
    name: *const c_char,
    count: c_uint,
    options: *mut CUjit_option,
    values: *mut *mut c_void,
) -> Outcome {
    driver()?;
    // SAFETY: the caller's promise.
    let given = unsafe { Options::read(count, options, values) }?;
    let data = data.cast_const().cast::<u8>();
    if data.is_null() || size == 0 || size > MOST_BYTES {
        return Err(Error::InvalidValue);
    }
    // SAFETY: so many bytes, by the caller's promise.
    let data = unsafe { std::slice::from_raw_parts(data, size) };
    let name = if name.is_null() {
        None
    } else {
        // SAFETY: the caller's promise.
        Some(unsafe { edge::name(name) }?)
    };
    add(state, kind, data, name, &given)
}

pub unsafe fn cuLinkAddFile_v2(
    state: CUlinkState,
    kind: CUjitInputType,
    path: *const c_char,
    count: c_uint,
    options: *mut CUjit_option,
    values: *mut *mut c_void,
) -> Outcome {
    driver()?;
    // SAFETY: the caller's promise.
    let given = unsafe { Options::read(count, options, values) }?;
    // SAFETY: the caller's promise.
    let path = unsafe { edge::name(path) }?;
    let data = std::fs::read(path).map_err(|_| Error::FileNotFound)?;
    add(state, kind, &data, Some(path), &given)
}

fn add(
    state: CUlinkState,
    kind: CUjitInputType,
    data: &[u8],
    name: Option<&str>,
    given: &Options,
) -> Outcome {
    use CUjitInputType as T;
    let driver = driver()?;
    let link = driver.links.get(state as u64).ok_or(Error::InvalidHandle)?;
    let mut link = lock(&link);
    link.input_count += 1;
    let name = name.map_or_else(|| format!("Input {}", link.input_count), str::to_owned);
    let device = driver.gpu.device(link.device)?;
    let units = match kind {
        T::CU_JIT_INPUT_PTX | T::CU_JIT_INPUT_FATBINARY | T::CU_JIT_INPUT_CUBIN => {
            image::units_in(data, &name, device.compute_capability)
        }
        T::CU_JIT_INPUT_OBJECT | T::CU_JIT_INPUT_LIBRARY => Err((
            Error::NoBinaryForGpu,
            "objects and libraries hold machine code, which needs a real GPU".into(),
        )),
        T::CU_JIT_INPUT_NVVM => Err((
            Error::NotSupported,
            "NVVM input is not supported; PTX is".into(),
        )),
        _ => return Err(Error::InvalidValue),
    };
    let added = units.and_then(|units| {
        units.into_iter().try_for_each(|unit| {
            let added = link.linker.add(device, unit);
            added.map_err(|refusal| (refusal.error, refusal.log))
        })
    });
    let outcome = added.map_err(|(error, log)| {
        link.linker.fail();
        link.report(&log);
        driver.gpu.report(format_args!("{log}"));
        error
    });
    link.options.finish(&link.errors);
    given.finish(if outcome.is_err() { &link.errors } else { "" });
    outcome
}

pub unsafe fn cuLinkComplete(
    state: CUlinkState,
    image: *mut *mut c_void,
    size: *mut usize,
) -> Outcome {
    let driver = driver()?;
    edge::require(image)?;
    let link = driver.links.get(state as u64).ok_or(Error::InvalidHandle)?;
    let mut link = lock(&link);
    // What was completed already stays where it is: the program may hold on to it.
    if link.image.is_empty() {
        match link.linker.complete(driver.gpu.device(link.device)?) {
            Ok(made) => link.image = made,
            Err(refusal) => {
                link.report(&refusal.log);
                driver.gpu.report(format_args!("{}", refusal.log));
                link.options.finish(&link.errors);
                return Err(refusal.error);
            }
        }
    }
    link.options.finish(&link.errors);
    // SAFETY: the caller's promise.
    unsafe { put(image, link.image.as_mut_ptr().cast()) }?;
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(size, link.image.len()) };
    Ok(())
}

pub unsafe fn cuLinkDestroy(state: CUlinkState) -> Outcome {
    let gone = driver()?.links.remove(state as u64);
    gone.map(drop).ok_or(Error::InvalidHandle)
}

impl Link {
    fn report(&mut self, log: &str) {
        if !self.errors.is_empty() {
            self.errors.push('\n');
        }
        self.errors.push_str("error   : ");
        self.errors.push_str(log);
    }
}

fn lock(link: &Mutex<Link>) -> MutexGuard<'_, Link> {
    link.lock().unwrap_or_else(PoisonError::into_inner)
}
