//! Virtual memory management. What a client maps where is checked here before the driver sees it, and memory
//! is zeroed before the client has a handle of it (D13).

#![forbid(unsafe_code)]

use cuda_abi::types::CUresult;
use idm_protocol::handle::Kind;
use idm_protocol::record::Request;
use idm_protocol::wire::{self, access};
use proxy_channel::bound::Bound;
use proxy_channel::holdings::Holding;
use zerocopy::FromBytes;

use crate::calls::Names;
use crate::contexts::Contexts;
use crate::ranges::{Place, Range};
use crate::session::{Frame, Object, Outcome, Refusal, Session};
use crate::vmm::Allocation;

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

/// What sizes and addresses must be multiples of.
pub fn cuMemGetAllocationGranularity(
    session: &Session,
    request: &wire::CuMemGetAllocationGranularity,
    frame: &mut Frame<'_>,
) -> Outcome {
    let bytes = session
        .driver()
        .granularity(request.device, request.option)?;
    frame.reply(&wire::CuMemGetAllocationGranularityReply { bytes });
    Ok(())
}

/// Addresses without memory.
pub fn cuMemAddressReserve(
    session: &Session,
    request: &wire::CuMemAddressReserve,
    frame: &mut Frame<'_>,
) -> Outcome {
    let mut vmm = session.vmm();
    vmm.check_room()
        .map_err(|_| session.denied(Bound::OBJECTS, 1))?;
    let (bytes, driver) = (request.bytes, session.driver());
    let address = driver.reserve_addresses(bytes, request.alignment, request.hint)?;
    let end = address.checked_add(bytes);
    if end.is_none_or(|end| session.ranges().meets(address, end)) {
        tracing::error!(address, bytes, "the driver reserved what is in use");
        let _ = driver.free_addresses(address, bytes);
        return Err(CUresult::CUDA_ERROR_UNKNOWN.into());
    }
    vmm.reserve(address, bytes);
    frame.about(address, bytes);
    frame.reply(&wire::CuMemAddressReserveReply { address });
    Ok(())
}

/// Reserved addresses back, once nothing is mapped there.
pub fn cuMemAddressFree(
    session: &Session,
    request: &wire::CuMemAddressFree,
    _: &mut Frame<'_>,
) -> Outcome {
    let (address, bytes) = (request.address, request.bytes);
    let mut vmm = session.vmm();
    if !vmm.is_reservation(address, bytes)
        || session
            .ranges()
            .meets(address, address.saturating_add(bytes))
    {
        return Err(INVALID.into());
    }
    session.driver().free_addresses(address, bytes)?;
    vmm.unreserve(address);
    Ok(())
}

/// Memory without an address.
pub fn cuMemCreate(session: &Session, request: &wire::CuMemCreate, _: &mut Frame<'_>) -> Outcome {
    let (handle, bytes) = (request.allocation, request.bytes);
    session.check_free(Kind::ALLOCATION, handle)?;
    session.charge(bytes)?;
    let driver = session.driver();
    let made = session.past_scrub(|| driver.create_memory(request.device, bytes));
    let made = made.inspect_err(|_| session.refund(bytes))?;
    let give_back = || {
        // Whether or not the driver takes it back, the client never learns of it.
        let _ = driver.release_memory(made);
        session.refund(bytes);
    };
    let zeroed = session
        .captures
        .relaxed(driver, || zero(session, request.device, made, bytes));
    if let Err(status) = zeroed {
        give_back();
        return Err(status.into());
    }
    let object = Object {
        pointer: 0,
        context: None,
        parent: 0,
        counter: None,
        names: Names::NONE,
    };
    let allocation = Allocation {
        driver: Some(made),
        bytes,
        mappings: 0,
    };
    let mut vmm = session.vmm();
    session
        .bind_object(Kind::ALLOCATION, handle, Ok(object))
        .inspect_err(|_| give_back())?;
    vmm.keep(handle, allocation);
    session.parts.stats.hold(Holding::CREATED, handle, bytes);
    session.publish_memory();
    Ok(())
}

/// Fills new memory with zeros, at an address of our own that is given up again.
fn zero(session: &Session, device: i32, memory: u64, bytes: u64) -> Result<(), CUresult> {
    let driver = session.driver();
    let address = driver.reserve_addresses(bytes, 0, 0)?;
    let zeroed = driver.map(address, bytes, 0, memory).and_then(|()| {
        let zeroed = driver
            .set_access(address, bytes, &[(device, access::READ_WRITE)])
            .and_then(|()| fill(session, device, address, bytes));
        zeroed.and(driver.unmap(address, bytes))
    });
    zeroed.and(driver.free_addresses(address, bytes))
}

/// On a stream that waits for none of the client's, in a context of the device.
fn fill(session: &Session, device: i32, address: u64, bytes: u64) -> Result<(), CUresult> {
    let driver = session.driver();
    let run = |stream| {
        driver.fill(address, 0, 1, bytes, stream)?;
        driver.synchronize_stream(stream)
    };
    if let Some(key) = session.contexts.on_device(device) {
        return run(session.contexts.private_stream(key, driver)?);
    }
    // The client has no context there, so for a moment we do.
    let context = driver.retain_primary(device, 0)?;
    Contexts::leave(driver);
    let filled = driver
        .set_current(context)
        .and_then(|()| run(0))
        .and(driver.set_current(0));
    filled.and(driver.release_primary(device))
}

/// The client's handle goes; the memory, when it is mapped nowhere.
pub fn cuMemRelease(session: &Session, request: &wire::CuMemRelease, _: &mut Frame<'_>) -> Outcome {
    let handle = request.allocation;
    let mut vmm = session.vmm();
    let released = vmm.release(handle)?;
    if let Err(status) = session.driver().release_memory(released) {
        vmm.retain(handle, released);
        return Err(status.into());
    }
    let cost = vmm.collect(handle);
    gone(session, handle, cost);
    Ok(())
}

/// What is mapped at an address gets a handle again.
pub fn cuMemRetainAllocationHandle(
    session: &Session,
    request: &wire::CuMemRetainAllocationHandle,
    _: &mut Frame<'_>,
) -> Outcome {
    let mut vmm = session.vmm();
    let found = session.ranges().around(request.address);
    let Some(Place::Mapped { allocation, .. }) = found.map(|range| range.place) else {
        return Err(INVALID.into());
    };
    if vmm.is_held(allocation) {
        return Err(INVALID.into());
    }
    let driver = session.driver().retain_memory(request.address)?;
    vmm.retain(allocation, driver);
    Ok(())
}

/// Memory at reserved addresses, which no device may touch yet.
pub fn cuMemMap(session: &Session, request: &wire::CuMemMap, _: &mut Frame<'_>) -> Outcome {
    let &wire::CuMemMap {
        address,
        bytes,
        offset,
        allocation,
    } = request;
    let mut vmm = session.vmm();
    let memory = vmm.part(allocation, offset, bytes)?;
    let range = Range {
        start: address,
        bytes,
        place: Place::Mapped {
            allocation,
            access: Default::default(),
        },
        context: None,
    };
    // First the range: what is mapped already is found here, and the lock keeps others from mapping it.
    if !vmm.is_reserved(address, bytes) || !session.ranges().insert(range) {
        return Err(INVALID.into());
    }
    if let Err(status) = session.driver().map(address, bytes, offset, memory) {
        session.ranges().remove(address);
        return Err(status.into());
    }
    vmm.mapped(allocation);
    Ok(())
}

/// Whole mappings away.
pub fn cuMemUnmap(session: &Session, request: &wire::CuMemUnmap, _: &mut Frame<'_>) -> Outcome {
    let (address, bytes) = (request.address, request.bytes);
    let mut vmm = session.vmm();
    let mappings = {
        let mut ranges = session.ranges();
        let mappings = ranges.mappings(address, bytes).ok_or(INVALID)?;
        for mapping in &mappings {
            ranges.remove(mapping.start);
        }
        mappings
    };
    if let Err(status) = session.driver().unmap(address, bytes) {
        let mut ranges = session.ranges();
        for mapping in mappings {
            ranges.insert(mapping);
        }
        return Err(status.into());
    }
    for mapping in mappings {
        if let Place::Mapped { allocation, .. } = mapping.place {
            let cost = vmm.unmapped(allocation);
            gone(session, allocation, cost);
        }
    }
    Ok(())
}

/// Memory of which nothing is left costs nothing any more.
fn gone(session: &Session, handle: u64, cost: Option<u64>) {
    if let Some(cost) = cost {
        let _ = session.take_object(Kind::ALLOCATION, handle);
        session.parts.stats.give_back(Holding::CREATED, handle);
        session.refund(cost);
    }
}

/// What devices may do in whole mappings.
pub fn cuMemSetAccess(
    session: &Session,
    request: &wire::CuMemSetAccess,
    frame: &mut Frame<'_>,
) -> Outcome {
    let (address, bytes) = (request.address, request.bytes);
    let entries = entries::<wire::CuMemSetAccess>(frame, request.count)?;
    let _vmm = session.vmm();
    let mappings = session.ranges().mappings(address, bytes).ok_or(INVALID)?;
    let wanted: Vec<_> = entries
        .iter()
        .map(|entry| (entry.device, entry.flags))
        .collect();
    session.driver().set_access(address, bytes, &wanted)?;
    let mut ranges = session.ranges();
    for mapping in mappings {
        if let Place::Mapped { access, .. } = mapping.place {
            let checked = entries.iter().filter_map(|entry| entry.checked());
            let changed =
                checked.fold(access, |access, (device, flags)| access.with(device, flags));
            ranges.set_access(mapping.start, changed);
        }
    }
    Ok(())
}

/// What devices shall be able to do: the tail of a record that is a `T`.
pub(super) fn entries<T: Request>(
    frame: &Frame<'_>,
    count: u32,
) -> Result<Vec<access::Entry>, Refusal> {
    if !(1..=access::MOST_DEVICES).contains(&count) {
        return Err(INVALID.into());
    }
    let count = usize::try_from(count).map_err(|_| INVALID)?;
    let tail = frame.tail::<T>(count * size_of::<access::Entry>())?;
    let mut entries = Vec::new();
    for bytes in tail.chunks_exact(size_of::<access::Entry>()) {
        let entry = access::Entry::read_from_bytes(bytes).map_err(|_| INVALID)?;
        entry.checked().ok_or(INVALID)?;
        entries.push(entry);
    }
    Ok(entries)
}
