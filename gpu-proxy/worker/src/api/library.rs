//! Libraries and kernels: modules that belong to no context.

#![forbid(unsafe_code)]

use idm_protocol::handle::{Handle, Kind};
use idm_protocol::wire;

use super::module::{Load, as_c, keep_global, kernel_names, name, object, send_parameters};
use crate::driver::Table;
use crate::session::{Frame, Object, Outcome, Session};

/// Loads a library.
pub fn cuLibraryLoadData(
    session: &Session,
    request: &wire::CuLibraryLoadData,
    frame: &mut Frame<'_>,
) -> Outcome {
    session.check_free(Kind::LIBRARY, request.library)?;
    let load = Load {
        upload: request.upload,
        image_bytes: request.image_bytes,
        kind: request.kind,
        log_bytes: request.log_bytes,
        option_count: request.option_count,
        handle: request.library,
        context: None,
    };
    let (loaded, logs) =
        load.run::<wire::CuLibraryLoadData>(session, frame, Table::load_library)?;
    frame.reply(&wire::CuLibraryLoadDataReply {
        info_log_bytes: logs.info_bytes,
        error_log_bytes: logs.error_bytes,
        wall_time: logs.wall_time,
        reserved: 0,
    });
    let library = Object {
        names: frame.claim.names,
        ..object(loaded?, None, 0)
    };
    session.bind_object(Kind::LIBRARY, request.library, Ok(library))
}

/// Unloads a library, with its kernels, modules and variables.
pub fn cuLibraryUnload(
    session: &Session,
    request: &wire::CuLibraryUnload,
    _: &mut Frame<'_>,
) -> Outcome {
    let library = session.take_object(Kind::LIBRARY, request.library)?;
    session.forget_code(request.library);
    let unloaded = session.driver().unload_library(library.pointer);
    session.drop_code(request.library);
    Ok(unloaded?)
}

/// A kernel by name, with the layout of its parameters.
pub fn cuLibraryGetKernel(
    session: &Session,
    request: &wire::CuLibraryGetKernel,
    frame: &mut Frame<'_>,
) -> Outcome {
    let name = name::<wire::CuLibraryGetKernel>(frame, request.name_bytes)?;
    session.check_free(Kind::KERNEL, request.kernel)?;
    let library = session.object(Kind::LIBRARY, request.library)?;
    let kernel = session
        .driver()
        .library_kernel(library.pointer, as_c(&name))?;
    let parameter_count = send_parameters(frame, |index| {
        session.driver().kernel_parameter(kernel, index)
    })?;
    frame.reply(&wire::CuLibraryGetKernelReply {
        parameter_count,
        reserved: 0,
    });
    let object = Object {
        counter: Some(session.parts.stats.kernel(&as_c(&name).to_string_lossy())),
        names: kernel_names(session, &name, &library),
        ..object(kernel, None, request.library)
    };
    frame.claim.names = object.names;
    session.bind_object(Kind::KERNEL, request.kernel, Ok(object))
}

/// The names of a library's kernels or a module's functions, as many as fit.
pub fn vgpuCodeNames(
    session: &Session,
    request: &wire::VgpuCodeNames,
    frame: &mut Frame<'_>,
) -> Outcome {
    let driver = session.driver();
    let kind = Handle::from_value(request.owner).map(Handle::kind);
    let names = if kind == Some(Kind::LIBRARY) {
        driver.library_names(session.object(Kind::LIBRARY, request.owner)?.pointer)?
    } else {
        driver.module_names(session.object(Kind::MODULE, request.owner)?.pointer)?
    };
    let room = frame.side_byte_len();
    let first = usize::try_from(request.first).unwrap_or(usize::MAX);
    let most = usize::try_from(request.most).unwrap_or(usize::MAX);
    let (mut text, mut count) = (Vec::new(), 0);
    for name in names.iter().skip(first).take(most) {
        let name = name.as_bytes_with_nul();
        if text.len() + name.len() > room {
            break;
        }
        text.extend_from_slice(name);
        count += 1;
    }
    frame.reply_aside(0, &text)?;
    frame.reply(&wire::VgpuCodeNamesReply {
        count,
        // It fits in a side buffer.
        bytes: u32::try_from(text.len()).unwrap_or(0),
    });
    Ok(())
}

/// The library as a module of the current context.
pub fn cuLibraryGetModule(
    session: &Session,
    request: &wire::CuLibraryGetModule,
    frame: &mut Frame<'_>,
) -> Outcome {
    session.check_free(Kind::MODULE, request.module)?;
    let library = session.object(Kind::LIBRARY, request.library)?;
    let module = session.driver().library_module(library.pointer)?;
    let object = Object {
        names: library.names,
        ..object(module, frame.context(), request.library)
    };
    session.bind_object(Kind::MODULE, request.module, Ok(object))
}

/// A variable by name, as the current context has it.
pub fn cuLibraryGetGlobal(
    session: &Session,
    request: &wire::CuLibraryGetGlobal,
    frame: &mut Frame<'_>,
) -> Outcome {
    let name = name::<wire::CuLibraryGetGlobal>(frame, request.name_bytes)?;
    let library = session.object(Kind::LIBRARY, request.library)?;
    let (address, bytes) = session
        .driver()
        .library_global(library.pointer, as_c(&name))?;
    let context = session.context(frame)?.slot;
    keep_global(session, request.library, context, address, bytes);
    frame.reply(&wire::CuLibraryGetGlobalReply { address, bytes });
    Ok(())
}

/// The kernel as a function of the current context.
pub fn cuKernelGetFunction(
    session: &Session,
    request: &wire::CuKernelGetFunction,
    frame: &mut Frame<'_>,
) -> Outcome {
    session.check_free(Kind::FUNCTION, request.function)?;
    let kernel = session.object(Kind::KERNEL, request.kernel)?;
    let function = session.driver().kernel_function(kernel.pointer)?;
    let object = Object {
        counter: kernel.counter,
        names: kernel.names,
        ..object(function, frame.context(), request.kernel)
    };
    session.bind_object(Kind::FUNCTION, request.function, Ok(object))
}
