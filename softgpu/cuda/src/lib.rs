//! softgpu-cuda
