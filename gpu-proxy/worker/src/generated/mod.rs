//! Files written by `cargo xtask codegen`.

pub mod dispatch;
pub mod driver;
