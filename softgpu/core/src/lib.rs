//! The software GPU: a PTX front end and executor, and around them the device as the CUDA Driver API shows
//! it (memory, contexts, streams, events, modules). The driver's C interface is `softgpu-cuda`.
//!
//! Reading order: [`config`], [`memory`], [`schedule`], [`fatbin`], [`ptx`], [`exec`], then [`gpu`] and
//! [`context`], which put them together.

pub mod config;
pub mod context;
pub mod device;
pub mod error;
pub mod event;
pub mod exec;
pub mod fatbin;
pub mod gpu;
pub mod handle;
pub mod image;
pub mod ipc;
pub mod linker;
pub mod memory;
pub mod module;
pub mod ptx;
pub mod schedule;
pub mod shared;
pub mod tensor_map;
pub mod transfer;

mod os;
