//! Written by `cargo xtask codegen`.

mod exports;
