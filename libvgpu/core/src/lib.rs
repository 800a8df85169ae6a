//! The tenant's side of the driver: everything that `libcuda.so.1` does, as an ordinary library.
//!
//! Read in this order: [`state`] (what this process is to the GPU), [`session`] (an attachment and what
//! belongs to it), [`thread`] (what each thread holds), [`call`] (how one call travels), [`objects`],
//! [`ranges`] and [`context`] (what the client knows), then the chapters under [`api`]. The thin cdylib
//! `vgpu-cuda` exports them; [`edge`] is what stands between a C caller and all of it. [`nvml`] is apart: what
//! `libnvidia-ml.so.1` does, which `vgpu-nvml` exports.

pub mod api;
mod bulk;
pub mod call;
mod callbacks;
mod captures;
mod context;
pub mod edge;
pub mod generated;
mod handshake;
mod image;
mod jit;
pub mod log;
mod mirrors;
pub mod nvml;
mod objects;
mod output;
mod pinned;
mod policy;
mod pools;
mod ranges;
mod session;
pub mod state;
mod thread;
mod vmm;
