//! The client halves written by hand, one file for each chapter, named as the worker's.
#![allow(non_snake_case, reason = "the names are the Driver API's")]

pub mod context;
pub mod device;
pub mod error;
pub mod launch;
pub mod library;
pub mod memory;
pub mod module;
pub mod occupancy;
pub mod resolver;
pub mod stream;
