//! idm-protocol
