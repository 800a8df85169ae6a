//! Pools, and allocation in stream order. What a pool holds is paid for (see [`crate::pools`]), and memory is
//! zeroed in stream order before the client learns its address (D13).

#![forbid(unsafe_code)]

use cuda_abi::types::{CUmemPool_attribute, CUresult};
use idm_protocol::handle::Kind;
use idm_protocol::wire;
use proxy_channel::bound::Bound;
use proxy_channel::holdings::Holding;

use super::vmm::entries;
use crate::calls::Names;
use crate::pools::Pools;
use crate::ranges::{Place, Range};
use crate::session::{Frame, Object, Outcome, Session};

/// What drivers round allocations of a pool to, at least.
const GRAIN: u64 = 512;

const RESERVED: u32 = CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT.0;

/// Memory from a pool.
pub fn cuMemAllocFromPoolAsync(
    session: &Session,
    request: &wire::CuMemAllocFromPoolAsync,
    frame: &mut Frame<'_>,
) -> Outcome {
    let key = session.context(frame)?;
    let stream = session.resolve(frame, Kind::STREAM, request.stream)?;
    let context = match session.object(Kind::STREAM, request.stream) {
        Ok(object) => object.context,
        // One of the default streams.
        Err(_) => Some(key.slot),
    };
    let bytes = request.bytes;
    let charged = bytes
        .checked_next_multiple_of(GRAIN)
        .ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
    let share = Share {
        handle: request.pool,
        pool: session.pools().driver(request.pool)?,
        charged,
    };
    // A graph that allocates would have to be paid for with each launch.
    let _gate = super::memory::private(session, stream)?;
    let address = share.allocate(session, bytes, stream)?;
    let driver = session.driver();
    let kept = share
        .pay_for_growth(session)
        .and_then(|()| driver.fill(address, 0, 1, bytes, stream))
        .and_then(|()| {
            let range = Range {
                start: address,
                bytes,
                place: Place::Pooled {
                    pool: share.handle,
                    charged,
                },
                context,
            };
            if session.ranges().insert(range) {
                return Ok(());
            }
            tracing::error!(address, bytes, "the driver allocated what is in use");
            Err(CUresult::CUDA_ERROR_UNKNOWN)
        });
    if let Err(status) = kept {
        share.undo(session, address, stream);
        return Err(status.into());
    }
    let stats = &session.parts.stats;
    stats.hold(Holding::POOLED, address, share.charged);
    session.publish_memory();
    frame.about(address, request.bytes);
    frame.reply(&wire::CuMemAllocFromPoolAsyncReply { address });
    Ok(())
}

/// One allocation's share of a pool.
struct Share {
    handle: u64,
    pool: usize,
    charged: u64,
}

impl Share {
    /// Pays for what is asked for, as far as the pool does not hold it, and asks.
    fn allocate(&self, session: &Session, bytes: u64, stream: usize) -> Result<u64, CUresult> {
        let mut pools = session.pools();
        let shortage = pools.shortage(self.handle, self.charged);
        pay(session, &mut pools, self.handle, shortage)?;
        let made = session.past_scrub(|| session.driver().allocate_async(self.pool, bytes, stream));
        match made {
            Ok(_) => pools.taken(self.handle, self.charged),
            Err(_) => compare(session, &mut pools, self.handle, self.pool),
        }
        made
    }

    /// Pays for what the pool has grown by besides.
    fn pay_for_growth(&self, session: &Session) -> Result<(), CUresult> {
        let mut pools = session.pools();
        let reserved = session.driver().pool_attribute(self.pool, RESERVED)?;
        let (refund, missing) = pools.compare(self.handle, reserved);
        session.refund(refund);
        pay(session, &mut pools, self.handle, missing)
    }

    /// Gives back what cannot be kept, at once and not only in stream order: it may not be paid for. Nobody
    /// holds a lock meanwhile.
    fn undo(&self, session: &Session, address: u64, stream: usize) {
        let driver = session.driver();
        // Whether or not the driver takes it back, the client never learns of it.
        let _ = driver.free_async(address, stream);
        let refund = session.pools().given_back(self.handle, self.charged);
        session.refund(refund);
        let _ = driver.synchronize_stream(stream);
        let _ = driver.trim_pool(self.pool, 0);
        compare(session, &mut session.pools(), self.handle, self.pool);
    }
}

/// Charges a pool. Where the zone has no more, what pools hold and nobody uses goes back first.
fn pay(session: &Session, pools: &mut Pools, handle: u64, bytes: u64) -> Result<(), CUresult> {
    if bytes == 0 {
        return Ok(());
    }
    if session.charge_as_it_is(bytes).is_err() {
        reclaim(session, pools);
        session
            .charge_as_it_is(bytes)
            .map_err(|_| session.denied(Bound::MEMORY, bytes))?;
    }
    pools.charged(handle, bytes);
    Ok(())
}

/// Has the driver take back what pools hold and nobody uses.
pub(crate) fn reclaim(session: &Session, pools: &mut Pools) {
    for (handle, pool) in pools.all() {
        // What it does not take back stays charged.
        let _ = session.driver().trim_pool(pool, 0);
        compare(session, pools, handle, pool);
    }
}

/// Refunds what the driver has taken back by now.
pub(crate) fn observe(session: &Session, pools: &mut Pools) {
    for (handle, pool) in pools.all() {
        compare(session, pools, handle, pool);
    }
}

fn compare(session: &Session, pools: &mut Pools, handle: u64, pool: usize) {
    // A driver that does not tell is taken to hold what it held.
    if let Ok(reserved) = session.driver().pool_attribute(pool, RESERVED) {
        let (refund, _) = pools.compare(handle, reserved);
        session.refund(refund);
    }
}

/// Memory back, when the stream comes to it.
pub fn cuMemFreeAsync(
    session: &Session,
    request: &wire::CuMemFreeAsync,
    frame: &mut Frame<'_>,
) -> Outcome {
    let stream = session.resolve(frame, Kind::STREAM, request.stream)?;
    let _gate = super::memory::private(session, stream)?;
    // First the range: once the driver has the address back, another lane may be given it.
    let range = super::memory::take_range(session, request.address, |place| {
        matches!(place, Place::Device { .. } | Place::Pooled { .. })
    })?;
    if let Err(status) = session.driver().free_async(request.address, stream) {
        session.ranges().insert(range);
        return Err(status.into());
    }
    session.free_range(&range);
    Ok(())
}

/// The client has a handle of a device's default pool.
pub fn cuDeviceGetDefaultMemPool(
    session: &Session,
    request: &wire::CuDeviceGetDefaultMemPool,
    _: &mut Frame<'_>,
) -> Outcome {
    session.check_free(Kind::POOL, request.pool)?;
    let pool = session.driver().default_pool(request.device)?;
    keep(session, request.pool, pool)
}

/// A pool of the client's own.
pub fn cuMemPoolCreate(
    session: &Session,
    request: &wire::CuMemPoolCreate,
    _: &mut Frame<'_>,
) -> Outcome {
    session.check_free(Kind::POOL, request.pool)?;
    let driver = session.driver();
    let pool = driver.create_pool(request.device, request.most_bytes)?;
    keep(session, request.pool, pool).inspect_err(|_| {
        let _ = driver.destroy_pool(pool);
    })
}

fn keep(session: &Session, handle: u64, pool: usize) -> Outcome {
    let object = Object {
        pointer: pool,
        context: None,
        parent: 0,
        counter: None,
        names: Names::NONE,
    };
    session.bind_object(Kind::POOL, handle, Ok(object))?;
    session.pools().keep(handle, pool);
    Ok(())
}

/// It goes. What the client has of it stays until it is freed.
pub fn cuMemPoolDestroy(
    session: &Session,
    request: &wire::CuMemPoolDestroy,
    _: &mut Frame<'_>,
) -> Outcome {
    let handle = request.pool;
    let mut pools = session.pools();
    let pool = pools.driver(handle)?;
    session.driver().destroy_pool(pool)?;
    let refund = pools.destroy(handle);
    session.refund(refund);
    session.take_object(Kind::POOL, handle)?;
    Ok(())
}

/// What it holds beyond so many bytes, and nobody uses, goes back.
pub fn cuMemPoolTrimTo(
    session: &Session,
    request: &wire::CuMemPoolTrimTo,
    _: &mut Frame<'_>,
) -> Outcome {
    let mut pools = session.pools();
    let pool = pools.driver(request.pool)?;
    session.driver().trim_pool(pool, request.keep)?;
    compare(session, &mut pools, request.pool, pool);
    Ok(())
}

/// How it behaves.
pub fn cuMemPoolSetAttribute(
    session: &Session,
    request: &wire::CuMemPoolSetAttribute,
    _: &mut Frame<'_>,
) -> Outcome {
    let pool = session.pools().driver(request.pool)?;
    let driver = session.driver();
    Ok(driver.set_pool_attribute(pool, request.attribute, request.value)?)
}

/// How it behaves, and what it holds.
pub fn cuMemPoolGetAttribute(
    session: &Session,
    request: &wire::CuMemPoolGetAttribute,
    frame: &mut Frame<'_>,
) -> Outcome {
    let pool = session.pools().driver(request.pool)?;
    let value = session.driver().pool_attribute(pool, request.attribute)?;
    frame.reply(&wire::CuMemPoolGetAttributeReply { value });
    Ok(())
}

/// What devices may do in its memory.
pub fn cuMemPoolSetAccess(
    session: &Session,
    request: &wire::CuMemPoolSetAccess,
    frame: &mut Frame<'_>,
) -> Outcome {
    let entries = entries::<wire::CuMemPoolSetAccess>(frame, request.count)?;
    let wanted: Vec<_> = entries
        .iter()
        .map(|entry| (entry.device, entry.flags))
        .collect();
    let pool = session.pools().driver(request.pool)?;
    Ok(session.driver().set_pool_access(pool, &wanted)?)
}

/// What a device may do in its memory.
pub fn cuMemPoolGetAccess(
    session: &Session,
    request: &wire::CuMemPoolGetAccess,
    frame: &mut Frame<'_>,
) -> Outcome {
    let pool = session.pools().driver(request.pool)?;
    let flags = session.driver().pool_access(pool, request.device)?;
    frame.reply(&wire::CuMemPoolGetAccessReply { flags, reserved: 0 });
    Ok(())
}
