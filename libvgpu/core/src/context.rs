//! Contexts: primary ones with their counts, and what ends with a context.
//!
//! A primary context has a handle before anybody retains it, and keeps it for the life of the process,
//! also over releases and resets: programs hold on to it.

#![forbid(unsafe_code)]

use cuda_abi::types::{CUcontext, CUresult};
use idm_protocol::handle::{Handle, Kind};

use crate::call::Outcome;
use crate::objects::{self, Detail, Object};
use crate::session::Session;
use crate::thread::Current;

/// A device's primary context.
#[derive(Debug)]
pub(crate) struct Primary {
    /// As programs name it.
    pub(crate) handle: Handle,
    /// How often it is retained. A reset leaves that as it is.
    pub(crate) count: u32,
    /// Whether it is there.
    pub(crate) active: bool,
    /// The flags it has or will have.
    pub(crate) flags: u32,
}

impl Primary {
    /// The primary context of a device, not retained.
    pub(crate) fn new(session: &Session, device: i32) -> Outcome<Self> {
        let detail = Detail::Context {
            device,
            flags: 0,
            primary: true,
        };
        let minted = session
            .objects_mut()
            .mint(Kind::CONTEXT, Object { context: 0, detail });
        let handle = minted.map_err(|error| objects::refusal(Kind::CONTEXT, &error))?;
        Ok(Self {
            handle,
            count: 0,
            active: false,
            flags: 0,
        })
    }

    /// It is there now.
    pub(crate) fn activated(&mut self, session: &Session) {
        self.active = true;
        session.set_alive(self.handle.slot(), self.handle.generation());
    }

    /// It is gone, with everything in it.
    pub(crate) fn deactivated(&mut self, session: &Session) {
        self.active = false;
        ended(session, self.handle);
    }
}

/// The context that a program names.
pub(crate) fn resolve(session: &Session, context: CUcontext) -> Outcome<Current> {
    match session.objects().resolve(context as u64, Kind::CONTEXT) {
        Ok((handle, object)) => match object.detail {
            Detail::Context { device, .. } => Ok(Current::new(handle, device)),
            _ => Err(CUresult::CUDA_ERROR_INVALID_CONTEXT),
        },
        Err(error) => Err(objects::refusal(Kind::CONTEXT, &error)),
    }
}

/// Device, flags and whether it is a primary one.
pub(crate) fn describe(session: &Session, context: Current) -> Outcome<(i32, u32, bool)> {
    match session.objects().resolve(context.handle, Kind::CONTEXT) {
        Ok((
            _,
            Object {
                detail:
                    Detail::Context {
                        device,
                        flags,
                        primary,
                    },
                ..
            },
        )) => Ok((*device, *flags, *primary)),
        Ok(_) => Err(CUresult::CUDA_ERROR_INVALID_CONTEXT),
        Err(error) => Err(objects::refusal(Kind::CONTEXT, &error)),
    }
}

/// Forgets what ended with a context. The caller holds no lock of the session's afterwards when it runs
/// the destructors of context-local storage.
pub(crate) fn ended(session: &Session, context: Handle) {
    session.set_alive(context.slot(), 0);
    let value = context.value();
    session.captures.forget_context(value);
    {
        let mut objects = session.objects_mut();
        for kind in [
            Kind::STREAM,
            Kind::EVENT,
            Kind::MODULE,
            Kind::FUNCTION,
            Kind::ARRAY,
            Kind::MIPMAPPED_ARRAY,
        ] {
            let gone: Vec<_> = objects
                .iter(kind)
                .filter(|(_, object)| object.context == value)
                .map(|(handle, _)| handle)
                .collect();
            for handle in gone {
                let _ = objects.remove(handle.value(), kind);
            }
        }
        for (_, object) in objects.iter(Kind::KERNEL) {
            if let Detail::Code(code) = &object.detail {
                code.forget_proof();
            }
        }
    }
    // Pinned memory is every context's: it stays.
    for range in session
        .ranges
        .remove_all(|range| range.context == value && range.on_device())
    {
        if range.has_mirror() {
            session.mirrors.release(range.start, range.bytes);
        }
    }
}
