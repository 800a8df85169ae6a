//! What can go wrong with a record, and who hears of it (D11, D14).

#![forbid(unsafe_code)]

use cuda_abi::types::CUresult;
use idm_protocol::bulk::{Breach, PlanError};
use idm_protocol::handle::{HandleError, Kind};
use idm_protocol::lane::LaneViolation;
use idm_protocol::record::DecodeError;
use thiserror::Error;

/// Why a record was not executed to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The driver's error, or the one it would have given: for the client.
    Driver(CUresult),
    /// A creation failed and its handle says so from now on; nobody else is told.
    Poisoned(CUresult),
    /// The client broke the protocol: it is ended.
    Violation(Violation),
}

/// What executing a record came to.
pub type Outcome = Result<(), Refusal>;

impl From<CUresult> for Refusal {
    fn from(status: CUresult) -> Self {
        Self::Driver(status)
    }
}

impl From<Violation> for Refusal {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<LaneViolation> for Refusal {
    fn from(violation: LaneViolation) -> Self {
        Self::Violation(violation.into())
    }
}

impl From<DecodeError> for Refusal {
    fn from(violation: DecodeError) -> Self {
        Self::Violation(LaneViolation::from(violation).into())
    }
}

/// What no client of our build ever does. The worker logs it, tells the supervisor, and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// The submission ring holds what no producer writes.
    #[error(transparent)]
    Ring(#[from] idm_protocol::ring::Violation),
    /// A record, or its use of its lane.
    #[error(transparent)]
    Lane(#[from] LaneViolation),
    /// A bulk transfer that cannot be.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A bulk transfer's counter.
    #[error(transparent)]
    Bulk(#[from] Breach),
}

/// The driver's error for a bad handle.
pub fn handle_error(error: HandleError, kind: Kind) -> CUresult {
    match error {
        HandleError::Poisoned { code, .. } => CUresult(code),
        HandleError::OverLimit { .. } => CUresult::CUDA_ERROR_OUT_OF_MEMORY,
        _ if kind == Kind::CONTEXT => CUresult::CUDA_ERROR_INVALID_CONTEXT,
        _ if matches!(kind, Kind::GRAPH_EXEC | Kind::USER_OBJECT) => {
            CUresult::CUDA_ERROR_INVALID_VALUE
        }
        _ => CUresult::CUDA_ERROR_INVALID_HANDLE,
    }
}

/// Whether the error leaves its context unusable: every later call of the driver returns it too.
pub const fn is_sticky(status: CUresult) -> bool {
    matches!(
        status,
        CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUresult::CUDA_ERROR_CONTAINED
            | CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_TENSOR_MEMORY_LEAK
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_that_lose_the_context_are_sticky() {
        assert!(is_sticky(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));
        assert!(is_sticky(CUresult(719)));
        for status in [0, 1, 2, 201, 400, 600, 701, 720, 801] {
            assert!(!is_sticky(CUresult(status)), "{status}");
        }
    }
}
