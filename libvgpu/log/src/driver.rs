//! The few calls of the driver that measuring takes, and the one that hands an operation to the log.
//!
//! The driver is the `libcuda.so.1` that the program has loaded. One that is not ours lacks the last call.

use std::ffi::{CString, c_char, c_uint};
use std::ptr::null_mut;
use std::sync::OnceLock;

use cuda_abi::sig;
use cuda_abi::types::{CUcontext, CUevent, CUresult, CUstream, CUstreamCaptureStatus};
use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};

/// `vgpuLogOperation` of our library.
type LogOperation = unsafe extern "C" fn(*const c_char, *const u64, c_uint, u64) -> CUresult;

macro_rules! driver {
    ($($name:ident),* $(,)?) => {
        #[allow(non_snake_case)]
        #[derive(Debug)]
        pub(crate) struct Driver {
            $($name: sig::$name,)*
            log_operation: LogOperation,
            _library: Library,
        }

        impl Driver {
            fn load() -> Option<Self> {
                let flags = RTLD_LAZY | RTLD_LOCAL;
                // SAFETY: a program that launches kernels has loaded this library already, or would; loading it once
                // more runs nothing that a program with a driver does not run anyway.
                let library = unsafe { Library::open(Some("libcuda.so.1"), flags) }.ok()?;
                Some(Self {
                    $($name: {
                        // SAFETY: the name's C signature is the declared one.
                        let symbol = unsafe { library.get::<sig::$name>(concat!(stringify!($name), "\0")) };
                        *symbol.ok()?
                    },)*
                    log_operation: {
                        // SAFETY: only our library has the name, with this signature.
                        let symbol = unsafe { library.get::<LogOperation>("vgpuLogOperation\0") };
                        *symbol.ok()?
                    },
                    _library: library,
                })
            }
        }
    };
}

driver! {
    cuCtxGetCurrent, cuStreamIsCapturing, cuEventCreate, cuEventDestroy_v2, cuEventRecord, cuEventQuery,
    cuEventSynchronize, cuEventElapsedTime_v2,
}

/// A context, to tell events of different ones apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context(usize);

/// An event that can be waited for and measured.
#[derive(Debug)]
pub(crate) struct Event(CUevent);

// SAFETY: an event is a name that the driver gave; it may be used from any thread.
unsafe impl Send for Event {}

fn check(result: CUresult) -> Result<(), CUresult> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        error => Err(error),
    }
}

impl Driver {
    /// Our library, if that is what the program runs on.
    pub(crate) fn get() -> Option<&'static Self> {
        static DRIVER: OnceLock<Option<Driver>> = OnceLock::new();
        DRIVER.get_or_init(Self::load).as_ref()
    }

    /// The calling thread's context; none before there is one.
    pub(crate) fn context(&self) -> Option<Context> {
        let mut context: CUcontext = null_mut();
        // SAFETY: the call writes one handle there.
        let result = unsafe { (self.cuCtxGetCurrent)(&raw mut context) };
        (check(result).is_ok() && !context.is_null()).then(|| Context(context.addr()))
    }

    /// Whether what is put into the stream is executed, and not captured for later.
    pub(crate) fn executes(&self, stream: usize) -> bool {
        let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the call writes one word there; a stream that is none is refused by the driver.
        let result = unsafe { (self.cuStreamIsCapturing)(stream as CUstream, &raw mut status) };
        check(result).is_ok() && status == CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE
    }

    pub(crate) fn event(&self) -> Result<Event, CUresult> {
        let mut event: CUevent = null_mut();
        // SAFETY: the call writes one handle there.
        check(unsafe { (self.cuEventCreate)(&raw mut event, 0) })?;
        Ok(Event(event))
    }

    pub(crate) fn record(&self, event: &Event, stream: usize) -> Result<(), CUresult> {
        // SAFETY: the event is one of ours; a stream that is none is refused by the driver.
        check(unsafe { (self.cuEventRecord)(event.0, stream as CUstream) })
    }

    pub(crate) fn is_over(&self, event: &Event) -> bool {
        // SAFETY: the event is one of ours.
        unsafe { (self.cuEventQuery)(event.0) != CUresult::CUDA_ERROR_NOT_READY }
    }

    pub(crate) fn wait(&self, event: &Event) -> Result<(), CUresult> {
        // SAFETY: the event is one of ours.
        check(unsafe { (self.cuEventSynchronize)(event.0) })
    }

    /// Milliseconds from one to the other.
    pub(crate) fn between(&self, start: &Event, end: &Event) -> Result<f32, CUresult> {
        let mut milliseconds = 0.0;
        // SAFETY: the call writes one number there; both events are ours.
        check(unsafe { (self.cuEventElapsedTime_v2)(&raw mut milliseconds, start.0, end.0) })?;
        Ok(milliseconds)
    }

    pub(crate) fn destroy(&self, event: Event) {
        // SAFETY: the event is one of ours, and nobody has it any more.
        let _ = unsafe { (self.cuEventDestroy_v2)(event.0) };
    }

    /// Hands an operation to the log.
    pub(crate) fn log(&self, name: &str, shape: &[u64], nanoseconds: u64) {
        // What a name may not hold ends it.
        let name = name.split('\0').next().unwrap_or_default();
        let Ok(name) = CString::new(name) else { return };
        let dimensions = c_uint::try_from(shape.len()).unwrap_or(0);
        // SAFETY: a string with its end, and as many numbers as are told; the call keeps neither. It fails only where
        // the program's work fails too.
        let _ =
            unsafe { (self.log_operation)(name.as_ptr(), shape.as_ptr(), dimensions, nanoseconds) };
    }
}
