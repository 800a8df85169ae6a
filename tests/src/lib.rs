//! Harness of the end-to-end tests: the built system, seen from outside.
//!
//! A test starts its own [`Proxy`] in its own directory and runs ordinary programs against it, or
//! directly on the software GPU. Nothing here judges by the clock: a [`Watchdog`] only ends what hangs
//! and then shows every log there is.

pub mod driver;
mod hang;
pub mod kafka;
pub mod load;
pub mod orders;
pub mod place;
pub mod process;
pub mod proxy;
pub mod random;
pub mod raw;
pub mod system;
pub mod tool;

pub use driver::Gpu;
pub use orders::Orders;
pub use process::{Finished, Program, Running, Watchdog};
pub use proxy::{Proxy, Setup, Zone};
