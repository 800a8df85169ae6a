//! The client halves written by hand, one file for each chapter, named as the worker's.
//!
//! # Safety
//!
//! Every function here is one of the Driver API's, and so is its contract: a pointer is null or valid for
//! what the function of that name reads or writes through it, and a callback is one that may be called.
#![allow(
    non_snake_case,
    clippy::missing_safety_doc,
    clippy::too_many_arguments,
    reason = "names, parameters and contracts are the Driver API's; see above"
)]

pub mod array;
pub mod batch;
pub mod capture;
pub mod context;
pub mod copy;
pub mod device;
pub mod error;
pub mod event;
pub mod exec;
pub mod graph;
pub mod ipc;
pub mod launch;
pub mod library;
pub mod linker;
pub mod managed;
pub mod memop;
pub mod memory;
pub mod module;
pub mod node;
pub mod object;
pub mod occupancy;
pub mod operation;
pub mod peer;
pub mod pool;
pub mod resolver;
pub mod stream;
pub mod surface;
pub mod tensor;
pub mod texture;
pub mod vmm;
