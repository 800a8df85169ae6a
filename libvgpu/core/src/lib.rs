//! vgpu-core
