//! vgpu-cuda
