//! The worker: executes one client's records against a driver library.
//!
//! Read in this order: [`process`] (a worker's life), [`dispatcher`] and [`lanes`] (who runs what),
//! [`session`] with [`frame`] (what a record may touch), `generated::dispatch` and [`api`] (what each
//! record does), [`driver`] (how the driver is called). [`contexts`], [`ranges`], [`credits`],
//! [`staging`], [`vmm`], [`pools`] and [`images`] keep what must be checked, [`code`] and [`footprint`] what must be
//! paid for, [`denials`] what was refused, [`pace`] how fast a client may go; [`callbacks`] and [`output`] are
//! the ways back; [`devices`] is what a worker tells before it has a client; [`harden`] is what the process
//! takes away from itself; [`scrub`] is what one does that never has a client; [`suspicion`] tells of lost devices,
//! [`watchdog`] ends work that does not end and, by [`translations`], code that is not translated.
//!
//! A worker is presumed compromised by whoever designed the rest (D16): it holds one client's
//! objects, no key, and no name.

pub mod api;
pub mod arrays;
pub mod callbacks;
pub mod calls;
pub mod captures;
pub mod code;
pub mod contexts;
pub mod credits;
pub mod denials;
pub mod devices;
pub mod dispatcher;
pub mod driver;
mod elf;
pub mod errors;
pub mod execs;
pub mod fences;
pub mod footprint;
pub mod frame;
pub mod generated;
pub mod graphs;
pub mod harden;
pub mod images;
pub mod lanes;
pub mod output;
pub mod pace;
pub mod policy;
pub mod pools;
pub mod process;
pub mod ranges;
pub mod scrub;
pub mod session;
pub mod staging;
pub mod suspicion;
pub mod translations;
pub mod vmm;
pub mod watchdog;
