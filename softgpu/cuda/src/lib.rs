//! The CUDA Driver API of the software GPU, as the shared library `libsoftcuda.so.1`.
//!
//! Exported symbols and the resolver's table are generated around the functions in [`api`], one file for
//! each chapter of the API. [`driver`] holds the process's state: objects behind checked handles, and the
//! software GPU of `softgpu-core`, which does the work.

pub mod api;
pub mod generated;

mod attributes;
mod capture;
mod current;
mod driver;
mod edge;
mod graph;
mod image;
mod jit;
mod pools;
mod private_tables;

pub use edge::Outcome;
