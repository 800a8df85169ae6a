//! Round trips of a record that asks for nothing: what the transport costs, without any driver.
//!
//! No function of the Driver API is that, so this client speaks the protocol itself.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::{Duration, Instant};

use idm_protocol::attach::client::attach;
use idm_protocol::attach::{Capabilities, Hello};
use idm_protocol::control::ClientControl;
use idm_protocol::memory::Mapped;
use idm_protocol::record::Flags;
use idm_protocol::wait::{Immortal, Patience};
use idm_protocol::wire::{TABLE_HASH, VgpuNop};

use crate::sample::{Samples, nanoseconds};

const ROUNDS: u32 = 50_000;

/// Attaches at `socket` and measures, in nanoseconds.
pub fn round_trips(socket: &Path) -> Result<Samples, Box<dyn std::error::Error>> {
    // Any window will do: nothing is mapped there.
    let hello = Hello::new(TABLE_HASH, Capabilities::ALL, u32::MAX, "bench");
    let attached = attach(socket, &hello, Duration::from_secs(30))?;
    let region = Mapped::new(&attached.control)?;
    let limits = &attached.welcome.limits;
    let (control, _callbacks) = ClientControl::open(&region, limits, Patience::detect())?;
    let mut lane = control.lanes.take().ok_or("no lane is free")?;
    let mut samples = Samples::default();
    for round in 0..ROUNDS + 2_000 {
        let began = Instant::now();
        let ring = &control.submissions;
        let sequence = lane.send(ring, Flags::REPLY, 0, &VgpuNop {}, &[], &Immortal)?;
        let reply = lane.await_reply(sequence, &Immortal)?;
        let took = began.elapsed();
        if reply.status != 0 {
            return Err(format!("the worker answered {}", reply.status).into());
        }
        if round >= 2_000 {
            samples.add(nanoseconds(took));
        }
    }
    Ok(samples)
}
