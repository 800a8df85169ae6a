//! proxy-channel
