//! The functions, one file per chapter. Each `pub unsafe fn nvml…` is exported under its name; its caller's
//! promises are NVML's: pointers are null or valid for what the function writes there.

#![allow(non_snake_case, clippy::missing_safety_doc)]

pub mod device;
pub mod memory;
pub mod system;
pub mod topology;
