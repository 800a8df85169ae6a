//! The functions of the Driver API, one file for each chapter.
//!
//! Each has the C function's name and arguments and is exported by generated code under all its forms;
//! those that mean a default stream without naming one take it as their first argument. What a function
//! does is the Driver API's documentation; comments here say only what is particular.
//!
//! # Safety
//! Of every function: pointers are null or valid for the access that its documentation describes.
#![allow(unsafe_code, non_snake_case, clippy::missing_safety_doc)]

pub mod array;
pub mod batch;
pub mod capture;
pub mod context;
pub mod copy;
pub mod device;
pub mod error;
pub mod event;
pub mod exec;
pub mod graph;
pub mod ipc;
pub mod launch;
pub mod library;
pub mod linker;
pub mod managed;
pub mod memop;
pub mod memory;
pub mod memset;
pub mod module;
pub mod node;
pub mod object;
pub mod occupancy;
pub mod peer;
pub mod pointer;
pub mod pool;
pub mod profiler;
pub mod resolver;
pub mod stream;
pub mod surface;
pub mod tensor;
pub mod texture;
pub mod vmm;
