//! The supervisor: zones, quotas, the ledger, attach, and the lives of workers (D16-D19).
//!
//! One process, one thread, one poll loop; no network and no C library beyond libc. It sees no call of any
//! client: it introduces a client to a worker and is beside the path from then on.
//!
//! - [`config`]: what an operator writes, and every mistake in it;
//! - [`driver`]: which driver library the workers load;
//! - [`server`]: the poll loop; [`zone`]: one zone's clients and workers;
//! - [`ledger`]: device memory granted; [`reservations`]: whether what is set aside adds up; [`shares`]: memory that
//!   clients of a zone share; [`audit`]: what is recorded, and by whom;
//! - [`listener`], [`process`], [`relay`], [`admin`], [`signals`]: what they stand on; [`pid_namespace`]: the part of
//!   a worker's jail that only its parent can make.
//!
//! A library only so that tests and fuzz targets reach it; the program is `gpu-proxy`.

#![deny(unsafe_code)]

pub mod admin;
pub mod audit;
pub mod config;
pub mod driver;
pub mod ledger;
pub mod listener;
pub mod pid_namespace;
pub mod process;
pub mod relay;
pub mod reservations;
pub mod server;
pub mod shares;
pub mod signals;
pub mod throttle;
pub mod zone;
