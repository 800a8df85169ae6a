//! softgpu-core
