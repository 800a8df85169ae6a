//! The library's name for the dynamic linker, and that it stays loaded: its threads run its code.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libsoftcuda.so.1");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rerun-if-changed=build.rs");
}
