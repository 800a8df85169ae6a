//! supervisor

fn main() {}
