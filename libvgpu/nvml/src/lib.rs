//! `libnvidia-ml.so.1`: the exported names, and nothing else. What they do is `vgpu_core::nvml`'s.

mod generated;
