//! The worker's hand-written halves, one file per chapter of the Driver API. Each takes a record's
//! body, checks what it names, calls the driver, and fills in the reply.

#![allow(non_snake_case)]

pub mod array;
pub mod capture;
pub mod context;
pub mod copy;
pub mod event;
pub mod exec;
pub mod graph;
pub mod ipc;
pub mod launch;
pub mod library;
pub mod linker;
pub mod memop;
pub mod memory;
pub mod module;
pub mod node;
pub mod object;
pub mod occupancy;
pub mod pool;
pub mod session;
pub mod stream;
pub mod surface;
pub mod tensor;
pub mod texture;
pub mod vmm;
