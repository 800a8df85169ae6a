//! vgpuctl

fn main() {}
