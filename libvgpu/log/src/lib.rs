//! A program's own operations in the audit log: their name, the shape they worked on, and how long the device took.
//!
//! ```no_run
//! # fn multiply(_: usize) {}
//! let product = vgpu_log::log_operation("matmul", &[1024, 1024, 1024], || multiply(1024));
//! ```
//!
//! The log already has every call; this adds what the calls were for. It goes the same way: through the proxy that the
//! program runs behind, whose auditor chains and signs it ([audit](../../../docs/audit.md#operations)). It is the program's
//! word, as every call is its worker's. On a driver that is not ours operations run as they are and nothing is logged.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod driver;

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use driver::{Context, Driver, Event};

/// Operations that the device may still have in hand; one more waits for the oldest.
const MOST: usize = 256;

/// A stream of the program's: its handle, a `CUstream` or `cudaStream_t` as a number. 0 is the default stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream(pub usize);

/// Whether the program runs on a library that logs operations.
#[must_use]
pub fn is_logged() -> bool {
    Driver::get().is_some()
}

/// Runs `operation`, whose work goes to the default stream, and has it logged.
pub fn log_operation<T>(name: &str, shape: &[u64], operation: impl FnOnce() -> T) -> T {
    log_operation_on(Stream::default(), name, shape, operation)
}

/// Runs `operation`, whose work goes to `stream`, and has it logged, with the time from the first to the last of what it
/// put there. Nothing waits for the device: what is over is handed to the log by a later operation or by [`flush`].
///
/// `shape` has at most 8 numbers, `name` 128 bytes; what is beyond is cut off. While the stream is being captured the
/// operation runs unlogged.
pub fn log_operation_on<T>(
    stream: Stream,
    name: &str,
    shape: &[u64],
    operation: impl FnOnce() -> T,
) -> T {
    let measured =
        Driver::get().and_then(|driver| Some((driver, Measured::begin(driver, stream)?)));
    let result = operation();
    if let Some((driver, measured)) = measured {
        measured.end(driver, stream, name, shape);
    }
    result
}

/// Waits for the operations that the device has in hand and hands them to the log: before the program ends.
pub fn flush() {
    if let Some(driver) = Driver::get() {
        hand_over(driver, &mut pending(), 0);
    }
}

/// Begun, and not yet over.
struct Measured {
    context: Context,
    start: Event,
    end: Event,
}

/// What the device may have in hand.
struct Operation {
    measured: Measured,
    name: String,
    shape: Vec<u64>,
}

#[derive(Default)]
struct Pending {
    operations: VecDeque<Operation>,
    /// Of operations that are over, to be used again in the same context.
    events: Vec<Measured>,
}

fn pending() -> MutexGuard<'static, Pending> {
    static PENDING: Mutex<Pending> = Mutex::new(Pending {
        operations: VecDeque::new(),
        events: Vec::new(),
    });
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Measured {
    fn begin(driver: &Driver, stream: Stream) -> Option<Self> {
        let context = driver.context()?;
        if !driver.executes(stream.0) {
            return None;
        }
        let kept = {
            let mut pending = pending();
            let of_context = |kept: &Self| kept.context == context;
            let at = pending.events.iter().position(of_context);
            at.map(|at| pending.events.swap_remove(at))
        };
        let measured = match kept {
            Some(measured) => measured,
            None => Self {
                context,
                start: driver.event().ok()?,
                end: driver.event().ok()?,
            },
        };
        driver.record(&measured.start, stream.0).ok()?;
        Some(measured)
    }

    fn end(self, driver: &Driver, stream: Stream, name: &str, shape: &[u64]) {
        if driver.record(&self.end, stream.0).is_err() {
            // The operation failed, and the program knows.
            return self.destroy(driver);
        }
        let mut pending = pending();
        pending.operations.push_back(Operation {
            measured: self,
            name: name.to_owned(),
            shape: shape.to_owned(),
        });
        hand_over(driver, &mut pending, MOST);
    }

    fn destroy(self, driver: &Driver) {
        driver.destroy(self.start);
        driver.destroy(self.end);
    }
}

/// Logs the operations that are over, and waits for those beyond `most`.
fn hand_over(driver: &Driver, pending: &mut Pending, most: usize) {
    while let Some(first) = pending.operations.front() {
        let end = &first.measured.end;
        let waits = pending.operations.len() > most;
        if !waits && !driver.is_over(end) {
            break;
        }
        let over = driver.wait(end);
        let Some(operation) = pending.operations.pop_front() else {
            break;
        };
        let measured = operation.measured;
        match over.and_then(|()| driver.between(&measured.start, &measured.end)) {
            Ok(milliseconds) => {
                // A float becomes the nearest number there is.
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let nanoseconds = (f64::from(milliseconds) * 1e6) as u64;
                driver.log(&operation.name, &operation.shape, nanoseconds);
                pending.events.push(measured);
            }
            // Its context is gone, or nothing on the device works any more.
            Err(_) => measured.destroy(driver),
        }
    }
}
