//! softgpu-core

pub mod exec;
pub mod ptx;
