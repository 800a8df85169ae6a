//! What ends a kernel before its time.
#![forbid(unsafe_code)]

use std::fmt;

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// An access outside every allocation, or a write to a read-only one.
    IllegalAddress {
        /// The address.
        address: u64,
        /// Whether it was a write.
        write: bool,
    },
    /// An access whose address is no multiple of its size.
    MisalignedAddress {
        /// The address.
        address: u64,
    },
    /// An instruction that cannot be executed with the operands it met.
    IllegalInstruction,
    /// A `trap` instruction.
    Trap,
    /// A failed device-side assertion.
    Assert {
        /// The condition.
        message: Box<str>,
        /// The source file.
        file: Box<str>,
        /// The line in it.
        line: u32,
        /// The function.
        function: Box<str>,
    },
    /// The call stack outgrew the thread's local memory.
    StackOverflow,
    /// The launch executed more instructions than its limit.
    RunAway,
    /// A generic address in a space that the operation cannot reach.
    InvalidAddressSpace {
        /// The address.
        address: u64,
    },
    /// A call through a pointer to no function, or to one of another shape.
    InvalidPc {
        /// The pointer.
        address: u64,
    },
    /// A value that is no texture, or no surface, of the context.
    InvalidImage {
        /// The value.
        object: u64,
    },
    /// The launch was cancelled.
    Cancelled,
    /// The launch does not fit the kernel, so that nothing of it ran.
    InvalidLaunch {
        /// What does not fit.
        reason: &'static str,
    },
}

/// A fault, with where it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What went wrong.
    pub kind: FaultKind,
    /// The kernel.
    pub kernel: String,
    /// The block.
    pub block: [u32; 3],
    /// The thread in the block: the first of its warp that faulted.
    pub thread: [u32; 3],
    /// Index of the instruction in the module's code.
    pub pc: u32,
    /// Its source line in the PTX text; 0 if unknown.
    pub line: u32,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IllegalAddress { address, write } => {
                let verb = if *write { "write to" } else { "read of" };
                write!(f, "illegal {verb} address {address:#x}")
            }
            Self::MisalignedAddress { address } => write!(f, "misaligned address {address:#x}"),
            Self::IllegalInstruction => f.write_str("illegal instruction"),
            Self::Trap => f.write_str("trap"),
            Self::Assert {
                message,
                file,
                line,
                function,
            } => {
                write!(
                    f,
                    "assertion `{message}` failed in {function} at {file}:{line}"
                )
            }
            Self::StackOverflow => f.write_str("stack overflow"),
            Self::RunAway => f.write_str("instruction limit reached"),
            Self::InvalidAddressSpace { address } => {
                write!(
                    f,
                    "address {address:#x} lies in a space the instruction cannot access"
                )
            }
            Self::InvalidPc { address } => write!(f, "call to invalid address {address:#x}"),
            Self::InvalidImage { object } => {
                write!(
                    f,
                    "{object:#x} is no texture or surface object that the instruction can use"
                )
            }
            Self::Cancelled => f.write_str("cancelled"),
            Self::InvalidLaunch { reason } => write!(f, "invalid launch: {reason}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(
            f,
            "{} in kernel {} block ({bx},{by},{bz}) thread ({tx},{ty},{tz}) at instruction {} (PTX line {})",
            self.kind, self.kernel, self.pc, self.line
        )
    }
}

impl std::error::Error for Fault {}
