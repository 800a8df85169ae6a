//! What throws our code away and speaks the raw protocol: a tenant on its attach socket and in its shared memory,
//! and a worker on its channel to the supervisor.
//!
//! In every test an honest client works all the while and must not see a single failed call, and an
//! honest client must be served afterwards.
#![deny(unsafe_code)]

mod client;
mod stranger;
mod worker;
