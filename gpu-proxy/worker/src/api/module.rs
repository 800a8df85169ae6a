//! Modules, their functions and variables: where code enters.

#![forbid(unsafe_code)]

use core::ffi::CStr;

use cuda_abi::function::Group;
use cuda_abi::types::{CUjit_option, CUresult};
use idm_protocol::handle::Kind;
use idm_protocol::record::Request;
use idm_protocol::wire::{self, image_kind};

use crate::calls::Names;
use crate::code::Unit;
use crate::driver::{JitOptions, Table};
use crate::ranges::{Place, Range};
use crate::session::{Frame, Object, Outcome, Refusal, Session};
use crate::{footprint, images};

/// Most bytes of a log: more would not fit into a side buffer beside another.
const MOST_LOG_BYTES: u32 = 1 << 20;
/// Bytes of an option in a record: id, a zero word, value.
const OPTION_BYTES: usize = 16;
/// More than the driver knows of.
const MOST_OPTIONS: u32 = 64;
/// Longer than any mangled name seen.
const MOST_NAME_BYTES: u32 = 32 << 10;
/// A parameter count that says that the driver cannot tell.
pub(super) const UNKNOWN_COUNT: u32 = u32::MAX;
/// More parameters than 4 KiB of them can be.
const MOST_PARAMETERS: usize = 4096;

/// Loads a module.
pub fn cuModuleLoadDataEx(
    session: &Session,
    request: &wire::CuModuleLoadDataEx,
    frame: &mut Frame<'_>,
) -> Outcome {
    session.check_free(Kind::MODULE, request.module)?;
    let load = Load {
        upload: request.upload,
        image_bytes: request.image_bytes,
        kind: request.kind,
        log_bytes: request.log_bytes,
        option_count: request.option_count,
        handle: request.module,
        context: Some(session.context(frame)?.slot),
    };
    let (loaded, logs) =
        load.run::<wire::CuModuleLoadDataEx>(session, frame, Table::load_module)?;
    frame.reply(&wire::CuModuleLoadDataExReply {
        info_log_bytes: logs.info_bytes,
        error_log_bytes: logs.error_bytes,
        wall_time: logs.wall_time,
        reserved: 0,
    });
    let module = Object {
        names: frame.claim.names,
        ..object(loaded?, frame.context(), 0)
    };
    session.bind_object(Kind::MODULE, request.module, Ok(module))
}

/// What loads of modules and libraries have in common.
pub(super) struct Load {
    pub upload: u64,
    pub image_bytes: u64,
    pub kind: u32,
    pub log_bytes: u32,
    pub option_count: u32,
    /// What it will be called.
    pub handle: u64,
    /// Slot of the context that a module goes with.
    pub context: Option<u16>,
}

/// What a load says besides its success.
pub(super) struct Logs {
    pub info_bytes: u32,
    pub error_bytes: u32,
    pub wall_time: f32,
}

impl Load {
    /// Gathers image and options, has the driver load them, and puts the logs into the side buffer. A
    /// driver's failure is in the first part, so that the logs go out with it.
    pub fn run<T: Request>(
        &self,
        session: &Session,
        frame: &mut Frame<'_>,
        load: impl Fn(&Table, &[u8], &mut JitOptions) -> Result<usize, CUresult>,
    ) -> Result<(Result<usize, CUresult>, Logs), Refusal> {
        let _translation = session.translations.begin();
        let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
        if self.log_bytes > MOST_LOG_BYTES {
            return Err(invalid.into());
        }
        let option_bytes = option_bytes(self.option_count)?;
        let (listed, image) = if self.upload == 0 {
            let image_bytes = usize::try_from(self.image_bytes).map_err(|_| invalid)?;
            let tail = frame.tail::<T>(option_bytes.saturating_add(image_bytes))?;
            let (listed, image) = tail.split_at(option_bytes);
            (listed, image.to_vec())
        } else {
            let image = session.take_upload(frame.lane().index(), self.upload)?;
            (frame.tail::<T>(option_bytes)?, image)
        };
        frame.claim.names.image = session.parts.calls.image(match self.kind {
            // A text's terminator is none of it.
            image_kind::PTX => image.strip_suffix(&[0]).unwrap_or(&image),
            _ => &image,
        });
        if self.kind == image_kind::PTX {
            // The driver compiles it.
            session.require(frame, Group::Jit)?;
        }
        let image = images::check(self.kind, image).map_err(|error| {
            tracing::debug!(%error, "image refused");
            CUresult::CUDA_ERROR_INVALID_IMAGE
        })?;
        let mut options = options(listed)?;
        let log_bytes = usize::try_from(self.log_bytes).map_err(|_| invalid)?;
        options.info_log = vec![0; log_bytes];
        options.error_log = vec![0; log_bytes];
        let unit = Unit {
            device_bytes: footprint::bound(self.kind, &image, &session.parts.driver.majors)
                .map_err(|error| {
                    tracing::info!(%error, "image refused: what it costs cannot be told");
                    CUresult::CUDA_ERROR_INVALID_IMAGE
                })?,
            image_bytes: u64::try_from(image.len()).map_err(|_| invalid)?,
            context: self.context,
        };
        let prepaid = session.charge_code(&unit)?;
        let loaded = session.past_scrub(|| load(session.driver(), &image, &mut options));
        match loaded {
            Ok(_) => session.keep_code(self.handle, unit, prepaid),
            Err(_) => session.hand_in(prepaid),
        }
        let logs = send_logs(frame, &mut options);
        Ok((loaded, logs))
    }
}

/// Info first, error at the next multiple of 8; what does not fit is cut.
fn send_logs(frame: &Frame<'_>, options: &mut JitOptions) -> Logs {
    let room = frame.side_byte_len();
    options.info_log.truncate(room);
    let at = options.info_log.len().next_multiple_of(8);
    options.error_log.truncate(room.saturating_sub(at));
    // Cut to fit; and a log that is lost is no reason to fail a load.
    let _ = frame.reply_aside(0, &options.info_log);
    let _ = frame.reply_aside(at, &options.error_log);
    let count = |log: &[u8]| u32::try_from(log.len()).unwrap_or(0);
    Logs {
        info_bytes: count(&options.info_log),
        error_bytes: count(&options.error_log),
        wall_time: options.wall_time.unwrap_or(0.0),
    }
}

/// Bytes of so many options in a record.
pub(super) fn option_bytes(count: u32) -> Result<usize, CUresult> {
    let bytes = usize::try_from(count).unwrap_or(usize::MAX);
    if count > MOST_OPTIONS {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    Ok(bytes * OPTION_BYTES)
}

/// Options whose value is a number. Those that point to something are refused: a client of ours
/// never sends them.
pub(super) fn options(listed: &[u8]) -> Result<JitOptions, CUresult> {
    let mut options = JitOptions::default();
    let (listed, _) = listed.as_chunks::<OPTION_BYTES>();
    for bytes in listed {
        let [i0, i1, i2, i3, _, _, _, _, value @ ..] = *bytes;
        let id = u32::from_le_bytes([i0, i1, i2, i3]);
        match CUjit_option(id) {
            CUjit_option::CU_JIT_WALL_TIME => options.wall_time = Some(0.0),
            option if is_scalar(option) => options.scalars.push((id, u64::from_le_bytes(value))),
            _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        }
    }
    Ok(options)
}

const fn is_scalar(option: CUjit_option) -> bool {
    matches!(
        option,
        CUjit_option::CU_JIT_MAX_REGISTERS
            | CUjit_option::CU_JIT_THREADS_PER_BLOCK
            | CUjit_option::CU_JIT_OPTIMIZATION_LEVEL
            | CUjit_option::CU_JIT_TARGET_FROM_CUCONTEXT
            | CUjit_option::CU_JIT_TARGET
            | CUjit_option::CU_JIT_FALLBACK_STRATEGY
            | CUjit_option::CU_JIT_GENERATE_DEBUG_INFO
            | CUjit_option::CU_JIT_LOG_VERBOSE
            | CUjit_option::CU_JIT_GENERATE_LINE_INFO
            | CUjit_option::CU_JIT_CACHE_MODE
            | CUjit_option::CU_JIT_LTO
            | CUjit_option::CU_JIT_FTZ
            | CUjit_option::CU_JIT_PREC_DIV
            | CUjit_option::CU_JIT_PREC_SQRT
            | CUjit_option::CU_JIT_FMA
            | CUjit_option::CU_JIT_OPTIMIZE_UNUSED_DEVICE_VARIABLES
            | CUjit_option::CU_JIT_POSITION_INDEPENDENT_CODE
            | CUjit_option::CU_JIT_MIN_CTA_PER_SM
            | CUjit_option::CU_JIT_MAX_THREADS_PER_BLOCK
            | CUjit_option::CU_JIT_OVERRIDE_DIRECTIVE_VALUES
            | CUjit_option::CU_JIT_SPLIT_COMPILE
            | CUjit_option::CU_JIT_BINARY_LOADER_THREAD_COUNT
    )
}

/// Unloads a module, with its functions and variables.
pub fn cuModuleUnload(
    session: &Session,
    request: &wire::CuModuleUnload,
    _: &mut Frame<'_>,
) -> Outcome {
    if session.object(Kind::MODULE, request.module)?.parent != 0 {
        // It belongs to a library, which unloads it.
        return Err(CUresult::CUDA_ERROR_INVALID_HANDLE.into());
    }
    let module = session.take_object(Kind::MODULE, request.module)?;
    session.forget_code(request.module);
    let unloaded = session.driver().unload_module(module.pointer);
    session.drop_code(request.module);
    Ok(unloaded?)
}

/// A function by name, with the layout of its parameters.
pub fn cuModuleGetFunction(
    session: &Session,
    request: &wire::CuModuleGetFunction,
    frame: &mut Frame<'_>,
) -> Outcome {
    let name = name::<wire::CuModuleGetFunction>(frame, request.name_bytes)?;
    session.check_free(Kind::FUNCTION, request.function)?;
    let module = session.object(Kind::MODULE, request.module)?;
    let function = session
        .driver()
        .module_function(module.pointer, as_c(&name))?;
    let parameter_count = send_parameters(frame, |index| {
        session.driver().function_parameter(function, index)
    })?;
    frame.reply(&wire::CuModuleGetFunctionReply {
        parameter_count,
        reserved: 0,
    });
    let object = Object {
        counter: Some(session.parts.stats.kernel(&as_c(&name).to_string_lossy())),
        names: kernel_names(session, &name, &module),
        ..object(function, module.context, request.module)
    };
    frame.claim.names = object.names;
    session.bind_object(Kind::FUNCTION, request.function, Ok(object))
}

/// A variable by name.
pub fn cuModuleGetGlobal_v2(
    session: &Session,
    request: &wire::CuModuleGetGlobalV2,
    frame: &mut Frame<'_>,
) -> Outcome {
    let name = name::<wire::CuModuleGetGlobalV2>(frame, request.name_bytes)?;
    let module = session.object(Kind::MODULE, request.module)?;
    let (address, bytes) = session
        .driver()
        .module_global(module.pointer, as_c(&name))?;
    let context = session.context(frame)?.slot;
    keep_global(session, request.module, context, address, bytes);
    frame.reply(&wire::CuModuleGetGlobalV2Reply { address, bytes });
    Ok(())
}

/// The client may copy to and from a variable.
pub(super) fn keep_global(session: &Session, owner: u64, context: u16, address: u64, bytes: u64) {
    let place = Place::Global { owner };
    // Not added if it is there already: asked for twice.
    session.ranges().insert(Range {
        start: address,
        bytes,
        place,
        context: Some(context),
    });
}

/// A name in the tail, without its terminator there and with one here.
pub(super) fn name<T: Request>(frame: &Frame<'_>, bytes: u32) -> Result<Vec<u8>, Refusal> {
    if bytes > MOST_NAME_BYTES {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE.into());
    }
    let tail = frame.tail::<T>(usize::try_from(bytes).unwrap_or(usize::MAX))?;
    let mut name: Vec<u8> = tail.iter().copied().take_while(|&byte| byte != 0).collect();
    name.push(0);
    Ok(name)
}

/// What [`name`] made, as C has it.
pub(super) fn as_c(name: &[u8]) -> &CStr {
    // `name` ends with the one NUL that it has.
    CStr::from_bytes_until_nul(name).unwrap_or_default()
}

/// What the log calls a kernel of a module or library.
pub(super) fn kernel_names(session: &Session, name: &[u8], owner: &Object) -> Names {
    Names {
        kernel: session.parts.calls.kernel(as_c(name).to_bytes()),
        image: owner.names.image,
    }
}

/// Puts offset and size of each parameter into the side buffer; tells how many there are.
pub(super) fn send_parameters(
    frame: &Frame<'_>,
    parameter: impl Fn(usize) -> Result<(usize, usize), CUresult>,
) -> Result<u32, Refusal> {
    let mut listed = Vec::new();
    let mut count = 0;
    for index in 0..MOST_PARAMETERS {
        match parameter(index) {
            Ok((offset, bytes)) => {
                let too_large = |_| CUresult::CUDA_ERROR_INVALID_VALUE;
                listed.extend(u32::try_from(offset).map_err(too_large)?.to_le_bytes());
                listed.extend(u32::try_from(bytes).map_err(too_large)?.to_le_bytes());
                count += 1;
            }
            Err(CUresult::CUDA_ERROR_NOT_SUPPORTED) if index == 0 => return Ok(UNKNOWN_COUNT),
            Err(_) => break,
        }
    }
    frame.reply_aside(0, &listed)?;
    Ok(count)
}

/// An object that goes with its context and its parent.
pub(super) const fn object(pointer: usize, context: Option<u16>, parent: u64) -> Object {
    Object {
        pointer,
        context,
        parent,
        counter: None,
        names: Names::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(id: u32, value: u64) -> Vec<u8> {
        let mut bytes = id.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(value.to_le_bytes());
        bytes
    }

    #[test]
    fn scalar_options_pass_and_pointers_are_refused() {
        let listed = [option(7, 3), option(2, 0)].concat();
        let taken = options(&listed).unwrap();
        assert_eq!(taken.scalars, [(7, 3)]);
        assert_eq!(taken.wall_time, Some(0.0));
        for id in [3, 4, 5, 6, 17, 18, 25, 27, 99] {
            assert!(options(&option(id, 1)).is_err(), "{id}");
        }
    }
}
