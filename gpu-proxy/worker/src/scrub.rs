//! A scrubber's work: takes everything that the driver gives out as free, and zeroes it (D13).
//!
//! A process that died may have left anything in the memory it held, and whoever is given that memory next sees it if
//! its worker, presumed compromised, does not zero it. So a process of ours that never meets a tenant takes it first.
//! It holds all of it at a time: what it gave back in between could be what it is given next.

#![forbid(unsafe_code)]

use cuda_abi::types::CUresult;
use proxy_channel::message::Scrubbed;

use crate::driver::{Driver, DriverError, Table};

/// Enough to see whether a device does what it is told.
const TRIAL: u64 = 2 << 20;

/// The smallest piece that is asked for: drivers map memory in pages of this size or larger.
const SMALLEST: u64 = 64 << 10;

const FULL: CUresult = CUresult::CUDA_ERROR_OUT_OF_MEMORY;

/// Zeroes what is free on the one device that this process sees.
#[must_use]
pub fn run(driver: &Driver) -> Scrubbed {
    zero_what_is_free(&driver.table).unwrap_or_else(|status| {
        tracing::error!(?status, "the device cannot be scrubbed");
        failed(status)
    })
}

/// Has that device do something, as little as can be.
#[must_use]
pub fn probe(driver: &Driver) -> Scrubbed {
    try_out(&driver.table).unwrap_or_else(|status| {
        tracing::error!(?status, "the device does nothing");
        failed(status)
    })
}

/// A scrub that came to nothing.
#[must_use]
pub fn failed(status: CUresult) -> Scrubbed {
    Scrubbed {
        status: status.0,
        reserved: 0,
        total: 0,
        free: 0,
        zeroed: 0,
        left: 0,
    }
}

/// What the driver said when it did not come up, if it is not to blame on the installation.
#[must_use]
pub fn status_of(error: &DriverError) -> Option<CUresult> {
    match error {
        DriverError::Failed { status, .. } => Some(*status),
        _ => None,
    }
}

fn zero_what_is_free(table: &Table) -> Result<Scrubbed, CUresult> {
    let (free, total) = enter(table)?;
    // From one piece for all of it to many small ones: memory is scattered where others hold some of it.
    let mut zeroed = 0;
    let mut size = free.next_power_of_two();
    while size >= SMALLEST {
        match table.allocate(size) {
            Ok(address) => {
                // Given back when this process ends.
                table.fill(address, 0, 1, size, 0)?;
                zeroed += size;
            }
            Err(FULL) => size /= 2,
            Err(status) => return Err(status),
        }
    }
    table.synchronize_stream(0)?;
    let (left, _) = table.memory_info()?;
    Ok(Scrubbed {
        status: 0,
        reserved: 0,
        total,
        free,
        zeroed,
        left,
    })
}

fn try_out(table: &Table) -> Result<Scrubbed, CUresult> {
    let (free, total) = enter(table)?;
    let address = table.allocate(TRIAL)?;
    table.fill(address, 0, 1, TRIAL, 0)?;
    table.synchronize_stream(0)?;
    Ok(Scrubbed {
        status: 0,
        reserved: 0,
        total,
        free,
        zeroed: TRIAL,
        left: free.saturating_sub(TRIAL),
    })
}

/// Enters the device's context; tells how much is free, and how much there is.
fn enter(table: &Table) -> Result<(u64, u64), CUresult> {
    let device = table.device(0)?;
    let context = table.retain_primary(device, 0)?;
    table.set_current(context)?;
    table.memory_info()
}
