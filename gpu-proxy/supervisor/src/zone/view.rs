//! Which devices a zone's next clients get, and what becomes of them when none is left.

#![forbid(unsafe_code)]

use std::time::Instant;

use idm_protocol::attach::RefusalCode;
use proxy_audit::event::Event;
use proxy_audit::text::Text;
use proxy_policy::OnLostDevice;
use tracing::{info, warn};

use super::grant::Grant;
use super::worker::Session;
use super::{Shared, Zone};
use crate::audit::Recorder;

/// What the next workers of a zone see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// These devices; none for all.
    Devices(Option<Vec<u32>>),
    /// A software GPU of their own, for the zone's devices are lost.
    Software { why: String },
    /// Nothing: nobody is let in.
    Lost { why: String },
}

impl View {
    pub(super) fn of(grant: &Grant, shared: &Shared) -> Self {
        let left = shared.states.borrow().left_of(grant.devices.as_deref());
        match (left, grant.on_lost_device, &shared.fallback) {
            (Ok(devices), ..) => Self::Devices(devices),
            (Err(why), OnLostDevice::Refuse, _) => Self::Lost { why },
            (Err(why), OnLostDevice::Softgpu, Some(_)) => Self::Software { why },
            (Err(why), OnLostDevice::Softgpu, None) => Self::Lost {
                why: format!("{why}; the software GPU (libsoftcuda.so.1) is not beside gpu-proxy"),
            },
        }
    }
}

impl Zone {
    /// Looks which devices are left. Workers that wait for a client and see others are replaced; clients are turned
    /// away as long as none is left for them.
    pub(super) fn heed_losses(&mut self, shared: &Shared, now: Instant) {
        let view = View::of(&self.grant, shared);
        if view != self.view {
            self.view = view;
            let zone = self.config.name.as_str();
            match &self.view {
                View::Devices(devices) => {
                    info!(zone, ?devices, "the zone's next clients see these devices");
                }
                View::Software { why } => {
                    warn!(
                        zone,
                        "the software GPU serves the zone's next clients: {why}"
                    );
                }
                View::Lost { why } => warn!(zone, "nobody new may come in: {why}"),
            }
            let text = "devices were lost or came back";
            self.replace_idle_workers(text, shared, now);
        }
        if let View::Lost { why } = &self.view {
            let text = why.clone();
            self.refuse_all(RefusalCode::DEVICE_LOST, &text, now);
        }
    }

    /// Why the software GPU serves the zone's next clients, if it does.
    pub(super) fn fallback_reason(&self) -> Option<String> {
        match &self.view {
            View::Software { why } => Some(why.clone()),
            View::Devices(_) | View::Lost { .. } => None,
        }
    }
}

/// A client has attached to the software GPU in the place of a device.
pub(super) fn record_fallback(recorder: &Recorder, zone: &str, session: &Session, view: &View) {
    let why = match view {
        View::Software { why } | View::Lost { why } => why.as_str(),
        // The device is back since its worker started.
        View::Devices(_) => "the zone's devices were lost",
    };
    warn!(
        alert = "fallback",
        zone,
        client = session.client_id,
        pid = session.peer.pid,
        program = session.program,
        driver = "softgpu",
        "the software GPU serves a client: {why}"
    );
    let event = Event::Fallback {
        driver: Text::from("softgpu"),
        why: Text::new(why),
    };
    recorder.record(zone, event);
}
