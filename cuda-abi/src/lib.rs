//! cuda-abi
