//! The CUDA Driver API as data.
//!
//! `decl/` holds the one declaration of each function, `data/` the facts of the pinned header (names,
//! versions, signatures, enumerations); `cargo xtask codegen` derives everything else from the two.
//! This crate carries what all sides share: types, signatures, exported names, the resolver and, behind
//! the feature `cudart-handshake`, the private tables that NVIDIA's runtime asks for. The feature `fatbin` adds how code images are packed.

pub mod errors;
#[cfg(feature = "fatbin")]
pub mod fatbin;
pub mod function;
mod generated;
pub mod handshake;
pub mod managed;
pub mod resolver;
pub mod types;
pub mod visible;

pub use generated::enums::CUDA_VERSION;
/// C signatures of the declared functions: `sig::cuMemAlloc_v2` and so on.
pub use generated::signatures as sig;

// Records carry lengths as 64-bit words, and device and host addresses share one space.
const _: () = assert!(
    size_of::<usize>() == 8,
    "the Driver API is remoted on 64-bit targets only"
);
