//! The supervisor: zones, quotas, the ledger, attach, and the lives of workers (D16-D19).
//!
//! One process, one thread, one poll loop; no network and no C library beyond libc. It sees no call of any
//! client: it introduces a client to a worker and is beside the path from then on.
//!
//! - [`config`]: what an operator writes, and every mistake in it;
//! - [`driver`]: which driver library the workers load;
//! - [`server`]: the poll loop; [`zone`]: one zone's clients and workers;
//! - [`devices`]: whether their memory is clean; [`scrub`]: who cleans it;
//! - [`ledger`]: device memory granted; [`reservations`]: whether what is set aside adds up; [`shares`]: memory that
//!   clients of a zone share; [`audit`]: what is recorded, and by whom;
//! - [`monitor`]: what the driver says that each worker holds; [`api`]: who serves metrics;
//! - [`launch`], [`listener`], [`process`], [`relay`], [`admin`], [`signals`]: what they stand on; [`namespaces`], [`cgroups`]: the
//!   parts of a worker's jail that only its parent can make.
//!
//! A library only so that tests and fuzz targets reach it; the program is `gpu-proxy`.

#![deny(unsafe_code)]

pub mod admin;
pub mod api;
pub mod audit;
mod backoff;
pub mod cgroups;
mod companion;
pub mod config;
pub mod devices;
pub mod driver;
pub mod launch;
pub mod ledger;
pub mod listener;
pub mod monitor;
pub mod namespaces;
pub mod process;
pub mod relay;
pub mod reservations;
pub mod scrub;
pub mod server;
pub mod shares;
pub mod signals;
pub mod throttle;
pub mod zone;
