//! Files written by `cargo xtask codegen`.

pub mod enums;
pub mod exports;
pub mod functions;
pub mod signatures;
