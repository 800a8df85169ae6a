//! Records of our own protocol: a round trip, the devices, credits, uploads.

#![forbid(unsafe_code)]

use cuda_abi::types::{CUdevice_attribute, CUresult};
use idm_protocol::bulk::{Breach, Drainer, Plan};
use idm_protocol::memory::Mapped;
use idm_protocol::wire::{self, credit, refused, snapshot};
use proxy_channel::bound::Bound;
use zerocopy::{FromZeros, IntoBytes};

use crate::errors::Violation;
use crate::session::{Frame, Outcome, Refusal, Session};

/// Most bytes that a client's unused uploads may hold in the worker together.
const MOST_UPLOADED: u64 = 1 << 31;

/// Answers.
pub fn vgpuNop(_: &Session, _: &wire::VgpuNop, _: &mut Frame<'_>) -> Outcome {
    Ok(())
}

/// The client refused a call before it became a record; the operator hears of it as of others.
pub fn vgpuRefused(
    session: &Session,
    request: &wire::VgpuRefused,
    frame: &mut Frame<'_>,
) -> Outcome {
    match request.kind {
        refused::CALL => {
            let len = usize::try_from(request.bytes).unwrap_or(usize::MAX);
            session.hear_of_refusal(frame.tail::<wire::VgpuRefused>(len)?);
        }
        refused::PINNED => session.deny(Bound::PINNED, request.bytes),
        kind => session.hear_of_limit(kind),
    }
    Ok(())
}

/// Notes what the program says it did, as if it were a call: its kernel is the name and the shape, its size how many
/// elements that makes, its duration what the program measured.
pub fn vgpuLogOperation(
    session: &Session,
    request: &wire::VgpuLogOperation,
    frame: &mut Frame<'_>,
) -> Outcome {
    let (dimensions, name) = (request.dimensions.min(8), request.name_bytes.min(128));
    let numbers = dimensions as usize * size_of::<u64>();
    let tail = frame.tail::<wire::VgpuLogOperation>(numbers + name as usize)?;
    let (shape, name) = tail.split_at(numbers);
    let (shape, _) = shape.as_chunks::<8>();
    let shape: Vec<u64> = shape.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let text: Vec<String> = shape.iter().map(u64::to_string).collect();
    let label = [name, b"[", text.join("x").as_bytes(), b"]"].concat();
    frame.claim.names.kernel = session.parts.calls.kernel(&label);
    frame.claim.size = shape
        .iter()
        .fold(1, |product, &of| product.saturating_mul(of));
    frame.claim.lasted(request.device_ns);
    Ok(())
}

/// Describes the devices.
pub fn vgpuSnapshot(session: &Session, _: &wire::VgpuSnapshot, frame: &mut Frame<'_>) -> Outcome {
    let mut described = 0;
    for ordinal in 0..session.parts.driver.device_count {
        let device = describe(session, ordinal)?;
        let at = usize::try_from(ordinal).unwrap_or(usize::MAX) * size_of::<snapshot::Device>();
        if at + size_of::<snapshot::Device>() > frame.side_byte_len() {
            tracing::warn!(described, "more devices than the side buffer holds");
            break;
        }
        frame.reply_aside(at, device.as_bytes())?;
        described += 1;
    }
    frame.reply(&wire::VgpuSnapshotReply {
        driver_version: session.parts.driver.version,
        device_count: described,
    });
    Ok(())
}

fn describe(session: &Session, ordinal: u32) -> Result<snapshot::Device, CUresult> {
    let driver = session.driver();
    let ordinal = i32::try_from(ordinal).map_err(|_| CUresult::CUDA_ERROR_INVALID_DEVICE)?;
    let handle = driver.device(ordinal)?;
    let mut device = snapshot::Device::new_zeroed();
    for (id, value) in (0u32..).zip(device.attributes.iter_mut()) {
        if let Ok(answer) = driver.device_attribute(handle, id) {
            *value = answer;
            let word = usize::try_from(id / 64).unwrap_or(usize::MAX);
            device.known[word] |= 1 << (id % 64);
        }
    }
    let attribute = |id: CUdevice_attribute| driver.device_attribute(handle, id.0);
    device.pci = [
        attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?,
        attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?,
        attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?,
    ];
    device.compute_capability = [
        attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    ];
    let limit = session.parts.status.memory_limit();
    device.total_memory = driver.device_memory(handle)?.min(limit);
    device.uuid = driver.device_uuid(handle)?;
    driver.device_name(handle, &mut device.name)?;
    // Terminated, whatever the driver does.
    device.name[255] = 0;
    Ok(device)
}

/// Waits until the client may post more on a stream.
pub fn vgpuCredit(session: &Session, request: &wire::VgpuCredit, frame: &mut Frame<'_>) -> Outcome {
    let returned = session.refill(credit::slot(request.stream));
    frame.reply(&wire::VgpuCreditReply { returned });
    Ok(())
}

/// Takes bytes in, for a later record of the lane.
pub fn vgpuUpload(session: &Session, request: &wire::VgpuUpload, frame: &mut Frame<'_>) -> Outcome {
    let plan = plan::<wire::VgpuUpload>(session, frame, request.total, request.chunk_count, 0)?;
    let lane = frame.lane();
    let mut drainer = lane.pipe().drain(frame.sequence(), plan);
    let others = session.uploaded_by_others(lane.index());
    if request.upload == 0 || request.total > MOST_UPLOADED.saturating_sub(others) {
        drainer.close();
        return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY.into());
    }
    // Grows with what arrives: the total is only a promise.
    let mut bytes = Vec::new();
    while let Some(piece) = drainer
        .take(&session.patience, &*session.stop)
        .map_err(breach)?
    {
        let start = bytes.len();
        bytes.resize(start + piece.len, 0);
        let range = session
            .parts
            .control
            .staging
            .bytes(piece.chunk, piece.start + piece.len)
            .map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        session
            .parts
            .arena
            .read(range.start + piece.start, &mut bytes[start..])
            .map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        drainer.release();
    }
    session.keep_upload(lane.index(), request.upload, bytes);
    Ok(())
}

/// What kernels printed, a piece at a time.
pub fn vgpuOutput(session: &Session, _: &wire::VgpuOutput, frame: &mut Frame<'_>) -> Outcome {
    let told = &session.parts.control.output;
    let (stream, bytes) = session.parts.output.take(frame.side_byte_len(), told);
    frame.reply_aside(0, &bytes)?;
    frame.reply(&wire::VgpuOutputReply {
        // It fits in a side buffer.
        bytes: u32::try_from(bytes.len()).unwrap_or(0),
        stream,
    });
    Ok(())
}

/// The plan of a bulk transfer whose record, a `T`, names `count` chunks in its tail, and where its pieces
/// start in them.
pub(super) fn plan<T: idm_protocol::record::Request>(
    session: &Session,
    frame: &Frame<'_>,
    bytes: u64,
    count: u32,
    skew: u32,
) -> Result<Plan, Refusal> {
    let len = usize::try_from(count)
        .unwrap_or(usize::MAX)
        .saturating_mul(4);
    let (list, _) = frame.tail::<T>(len)?.as_chunks::<4>();
    let chunks: Vec<u32> = list
        .iter()
        .map(|bytes| u32::from_le_bytes(*bytes))
        .collect();
    let plan = Plan::new(bytes, &chunks, session.staging.chunk_count());
    Ok(plan
        .and_then(|plan| plan.skewed(skew))
        .map_err(Violation::from)?)
}

/// A transfer that stopped. A client that gave up hears nothing but the end of its call.
pub(super) fn breach(breach: Breach) -> Refusal {
    match breach {
        Breach::Closed | Breach::Ended => Refusal::Driver(CUresult::CUDA_ERROR_OPERATING_SYSTEM),
        breach => Refusal::Violation(breach.into()),
    }
}

/// Ends a transfer that the worker cannot go on with; the reply says why.
pub(super) fn give_up<T>(drainer: Drainer<Mapped>, why: CUresult) -> Result<T, Refusal> {
    drainer.close();
    Err(why.into())
}
