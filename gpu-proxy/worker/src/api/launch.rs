//! Kernel launches.

#![forbid(unsafe_code)]

use cuda_abi::types::{CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUresult};
use idm_protocol::handle::Kind;
use idm_protocol::record::Request;
use idm_protocol::wire;
use zerocopy::FromBytes;

use crate::driver::Launch;
use crate::session::{Frame, Outcome, Refusal, Session};

/// Bytes of an attribute in a record: id, padding, value.
const ATTRIBUTE_BYTES: usize = 72;

/// More than the driver knows of.
const MOST_ATTRIBUTES: u32 = 64;

/// Launches a kernel with packed parameters.
pub fn cuLaunchKernel(
    session: &Session,
    request: &wire::CuLaunchKernel,
    frame: &mut Frame<'_>,
) -> Outcome {
    let function = session.object(Kind::FUNCTION, request.function)?;
    let stream = session.resolve(frame, Kind::STREAM, request.stream)?;
    let shape = Launch {
        grid: [request.grid_x, request.grid_y, request.grid_z],
        block: [request.block_x, request.block_y, request.block_z],
        shared_bytes: request.shared_bytes,
    };
    frame.claim.names = function.names;
    frame.about(request.function, shape.threads());
    let listed = listed_bytes(request.attribute_count)?;
    let parameters = usize::try_from(request.parameter_bytes).unwrap_or(usize::MAX);
    let tail = frame.tail::<wire::CuLaunchKernel>(listed.saturating_add(parameters))?;
    let (listed, parameters) = tail.split_at(listed);
    if request.attribute_count == 0 && request.cooperative == 0 {
        session
            .driver()
            .launch(function.pointer, stream, &shape, parameters, &mut [])?;
    } else {
        let mut attributes = attributes(listed)?;
        if request.cooperative != 0 {
            attributes.push(cooperative());
        }
        session.driver().launch(
            function.pointer,
            stream,
            &shape,
            parameters,
            &mut attributes,
        )?;
    }
    if let Some(counter) = function.counter {
        session.parts.stats.count_launch(counter);
    }
    frame.issued_on(stream);
    Ok(())
}

/// Bytes of so many attributes in a record.
pub(super) fn listed_bytes(count: u32) -> Result<usize, Refusal> {
    if count > MOST_ATTRIBUTES {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE.into());
    }
    Ok(usize::try_from(count).unwrap_or(0) * ATTRIBUTE_BYTES)
}

/// Attributes whose values hold no pointer of the host's and no handle. The client translates the
/// others or refuses them.
pub(super) fn attributes(listed: &[u8]) -> Result<Vec<CUlaunchAttribute>, Refusal> {
    let (listed, _) = listed.as_chunks::<ATTRIBUTE_BYTES>();
    let mut attributes = Vec::with_capacity(listed.len() + 1);
    for bytes in listed {
        let (words, _) = bytes.as_chunks::<8>();
        let [head, values @ ..] = words else { continue };
        let [i0, i1, i2, i3, ..] = *head;
        let id = CUlaunchAttributeID(u32::from_le_bytes([i0, i1, i2, i3]));
        if !is_plain(id) {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED.into());
        }
        let mut value = CUlaunchAttributeValue { bytes: [0; 8] };
        for (to, from) in value.bytes.iter_mut().zip(values) {
            *to = u64::from_le_bytes(*from);
        }
        attributes.push(CUlaunchAttribute {
            id,
            pad: [0; 4],
            value,
        });
    }
    Ok(attributes)
}

/// The value that follows a record.
pub(super) fn attribute_value<T: Request>(
    frame: &Frame<'_>,
) -> Result<CUlaunchAttributeValue, Refusal> {
    let tail = frame.tail::<T>(size_of::<[u64; 8]>())?;
    let bytes =
        <[u64; 8]>::read_from_bytes(tail).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
    Ok(CUlaunchAttributeValue { bytes })
}

/// Whether the value holds no handle.
pub(super) const fn is_plain(id: CUlaunchAttributeID) -> bool {
    matches!(
        id,
        CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_IGNORE
            | CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW
            | CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE
            | CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY
            | CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
            | CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE
            | CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            | CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PRIORITY
            | CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP
            | CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN
            | CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION
            | CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
            | CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PORTABLE_CLUSTER_SIZE_MODE
            | CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_SHARED_MEMORY_MODE
    )
}

const fn cooperative() -> CUlaunchAttribute {
    CUlaunchAttribute {
        id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
        pad: [0; 4],
        value: CUlaunchAttributeValue {
            bytes: [1, 0, 0, 0, 0, 0, 0, 0],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_taken_whole_and_those_with_handles_are_refused() {
        let mut listed = [0u8; 2 * ATTRIBUTE_BYTES];
        listed[0] = 4;
        listed[8] = 2;
        listed[71] = 9;
        listed[72] = 8;
        let taken = attributes(&listed).unwrap();
        assert_eq!(taken.len(), 2);
        assert_eq!(
            taken[0].id,
            CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        );
        assert_eq!(taken[0].value.bytes, [2, 0, 0, 0, 0, 0, 0, 9 << 56]);
        listed[72] = 7;
        let refused = attributes(&listed).unwrap_err();
        assert_eq!(refused, CUresult::CUDA_ERROR_NOT_SUPPORTED.into());
    }
}
