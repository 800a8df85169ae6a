//! What an operation on the software GPU can fail with, in the Driver API's own terms.
#![forbid(unsafe_code)]

/// A failure as the Driver API names it. The discriminant is the `CUresult` value, so that the edge
/// (`softgpu-cuda`) maps it without a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u32)]
pub enum Error {
    /// An argument is outside what the call accepts; the caller's fault, nothing was changed.
    #[error("invalid value")]
    InvalidValue = 1,
    /// The device, or the host behind it, has no such amount of memory left.
    #[error("out of memory")]
    OutOfMemory = 2,
    /// The driver was not initialised in this process.
    #[error("not initialized")]
    NotInitialized = 3,
    /// The process is going down.
    #[error("deinitialized")]
    Deinitialized = 4,
    /// The device is lost.
    #[error("device unavailable")]
    DeviceUnavailable = 46,
    /// The process is to see no device.
    #[error("no device")]
    NoDevice = 100,
    /// No such device.
    #[error("invalid device")]
    InvalidDevice = 101,
    /// The code image is damaged or of an unknown kind.
    #[error("invalid image")]
    InvalidImage = 200,
    /// Contexts have all multiprocessors of a device.
    #[error("unsupported execution affinity")]
    UnsupportedExecAffinity = 224,
    /// There is no current context, or the handle names none.
    #[error("invalid context")]
    InvalidContext = 201,
    /// The image holds machine code only; this device executes PTX.
    #[error("no binary for this GPU")]
    NoBinaryForGpu = 209,
    /// The PTX text does not compile.
    #[error("invalid PTX")]
    InvalidPtx = 218,
    /// The PTX text asks for a newer PTX ISA than this device implements.
    #[error("unsupported PTX version")]
    UnsupportedPtxVersion = 222,
    /// A source is not what it was said to be, or defines what another one has defined.
    #[error("invalid source")]
    InvalidSource = 300,
    /// A named file could not be read.
    #[error("file not found")]
    FileNotFound = 301,
    /// The operating system refused something the device needs.
    #[error("operating system error")]
    OperatingSystem = 304,
    /// A handle is forged, stale or of the wrong kind.
    #[error("invalid handle")]
    InvalidHandle = 400,
    /// The object is in a state that does not allow the call.
    #[error("illegal state")]
    IllegalState = 401,
    /// No such symbol (function, global).
    #[error("not found")]
    NotFound = 500,
    /// The work has not finished: an answer, not a failure.
    #[error("not ready")]
    NotReady = 600,
    /// A kernel touched memory that is not there. Sticky.
    #[error("illegal address")]
    IllegalAddress = 700,
    /// The launch asks for more than an SM has.
    #[error("launch out of resources")]
    LaunchOutOfResources = 701,
    /// A kernel ran past its limit. Sticky.
    #[error("launch timeout")]
    LaunchTimeout = 702,
    /// There is no peer access between the two devices.
    #[error("peer access unsupported")]
    PeerAccessUnsupported = 217,
    /// Peer access was not enabled.
    #[error("peer access not enabled")]
    PeerAccessNotEnabled = 705,
    /// The primary context is active already.
    #[error("primary context active")]
    PrimaryContextActive = 708,
    /// The context was destroyed.
    #[error("context is destroyed")]
    ContextIsDestroyed = 709,
    /// A device-side assertion failed. Sticky.
    #[error("device-side assert")]
    Assert = 710,
    /// The host range is registered already.
    #[error("host memory already registered")]
    HostMemoryAlreadyRegistered = 712,
    /// The host range is not registered.
    #[error("host memory not registered")]
    HostMemoryNotRegistered = 713,
    /// A device-side stack overflowed. Sticky.
    #[error("hardware stack error")]
    HardwareStackError = 714,
    /// A kernel met an instruction it may not execute. Sticky.
    #[error("illegal instruction")]
    IllegalInstruction = 715,
    /// A kernel touched memory at an address that is not aligned to the access. Sticky.
    #[error("misaligned address")]
    MisalignedAddress = 716,
    /// An instruction met an address of a space it cannot work on. Sticky.
    #[error("invalid address space")]
    InvalidAddressSpace = 717,
    /// A kernel jumped to where there is no code. Sticky.
    #[error("invalid program counter")]
    InvalidPc = 718,
    /// A cooperative launch has more blocks than the device holds at once.
    #[error("cooperative launch too large")]
    CooperativeLaunchTooLarge = 720,
    /// A kernel ended in a trap. Sticky.
    #[error("launch failed")]
    LaunchFailed = 719,
    /// The call is not available here.
    #[error("not permitted")]
    NotPermitted = 800,
    /// The device does not do this.
    #[error("not supported")]
    NotSupported = 801,
    /// A query cannot tell all there is to tell.
    #[error("lossy query")]
    LossyQuery = 402,
    /// The call is not allowed while a stream is captured.
    #[error("not allowed during stream capture")]
    StreamCaptureUnsupported = 900,
    /// An earlier mistake has invalidated the capture.
    #[error("stream capture invalidated")]
    StreamCaptureInvalidated = 901,
    /// Two captures would become one.
    #[error("stream captures would merge")]
    StreamCaptureMerge = 902,
    /// The capture did not begin on this stream.
    #[error("stream capture unmatched")]
    StreamCaptureUnmatched = 903,
    /// The capture has a fork that never came back to its origin.
    #[error("stream capture unjoined")]
    StreamCaptureUnjoined = 904,
    /// A dependency would cross the border of the capture.
    #[error("stream capture isolation")]
    StreamCaptureIsolation = 905,
    /// The legacy default stream would depend on a captured one.
    #[error("stream capture implicit dependency")]
    StreamCaptureImplicit = 906,
    /// The event was recorded in a capture, so there is no time at which it happens.
    #[error("captured event")]
    CapturedEvent = 907,
    /// The capture belongs to another thread.
    #[error("stream capture of another thread")]
    StreamCaptureWrongThread = 908,
    /// An executable graph cannot become what it is to be updated to.
    #[error("executable graph cannot be updated so")]
    GraphExecUpdateFailure = 910,
    /// No device runs a cluster of that shape.
    #[error("invalid cluster size")]
    InvalidClusterSize = 912,
    /// Something no other code describes, among it a defect of ours.
    #[error("unknown error")]
    Unknown = 999,
}

impl Error {
    /// The `CUresult` value.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }
}

/// What most of the device's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn codes_are_the_drivers() {
        assert_eq!(Error::InvalidValue.code(), 1);
        assert_eq!(Error::NoBinaryForGpu.code(), 209);
        assert_eq!(Error::IllegalAddress.code(), 700);
        assert_eq!(Error::NotSupported.code(), 801);
    }
}
