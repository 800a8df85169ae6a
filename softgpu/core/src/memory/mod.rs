//! Device and pinned memory: where it is, how large it may grow, and which addresses are valid.
//!
//! Device addresses are host addresses. One window of address space is reserved when the device starts;
//! each device owns a slice of it and commits what is allocated. [`Space`] is the map of everything a
//! kernel or a copy may touch, whoever owns it.

mod heap;
mod ipc;
mod pool;
mod space;
mod vmm;

pub use heap::{ALIGNMENT, GRANULE};
pub use pool::{Counters, MemPool, Policy, Pooled};
pub use space::{Allocation, Cover, Kind, Owner, Space, View};
pub use vmm::{Access, Permission, Physical};
