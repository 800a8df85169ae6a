//! What a zone tells those who only look: its devices, its quota, its clients.
//!
//! The answer is made from what the supervisor knows anyway. No worker is asked; only a zone in which no worker
//! has ever become ready starts one, since nobody else can tell what the driver has.

#![forbid(unsafe_code)]

use std::os::fd::AsFd;

use idm_protocol::attach::socket::send;
use idm_protocol::attach::survey::{Device, Process, Survey};
use proxy_channel::message::Ready;
use tracing::warn;
use zerocopy::IntoBytes;

use super::Zone;
use super::arrival::State;
use super::worker::Session;
use crate::ledger::WorkerId;

/// What a worker said of its driver when it became ready.
#[derive(Debug)]
pub(super) struct Devices {
    pub(super) ready: Ready,
    pub(super) list: Vec<Device>,
}

impl Zone {
    /// Answers everybody who asked, once the devices are known.
    pub(super) fn answer_surveys(&mut self) {
        if self.devices.is_none() || !self.is_asked() {
            return;
        }
        let Some(survey) = self.survey() else {
            return;
        };
        self.arrivals.retain(|_, arrival| {
            if !matches!(arrival.state, State::Asking) {
                return true;
            }
            // Whoever does not take it in one piece, or is gone, goes without.
            let _ = send(arrival.socket.as_fd(), survey.as_bytes(), &[]);
            false
        });
    }

    /// Whether somebody waits for a survey.
    pub(super) fn is_asked(&self) -> bool {
        self.arrivals
            .values()
            .any(|arrival| matches!(arrival.state, State::Asking))
    }

    /// The zone at this moment, if it is known what the driver has.
    fn survey(&self) -> Option<Box<Survey>> {
        let Devices { ready, list } = self.devices.as_ref()?;
        let mut survey = Survey::empty();
        survey.memory_limit = self.ledger.limit();
        survey.driver_kind = ready.driver_kind;
        survey.driver_version = ready.driver_version;
        survey.driver_release = ready.driver_release;
        for &device in list {
            // There are no more than fit: the worker could not have described them.
            survey.add_device(device);
        }
        let mut all = true;
        for (&id, worker) in &self.workers {
            let held = self.held(id, worker.session.as_ref());
            survey.memory_used = survey.memory_used.saturating_add(held);
            if let Some(session) = worker.session.as_ref().filter(|session| session.is_live()) {
                all &= survey.add_process(Process {
                    pid: session.claimed_pid,
                    reserved: 0,
                    memory: held,
                });
            }
        }
        if !all {
            warn!(
                zone = self.config.name,
                "the zone has more clients than a survey shows"
            );
        }
        Some(survey)
    }

    /// Device memory that a worker holds: what it claims, but no more than it was granted. What it was granted
    /// and has not spent is free to its client.
    fn held(&self, id: WorkerId, session: Option<&Session>) -> u64 {
        let granted = self.ledger.granted(id);
        let claimed = session.and_then(|session| session.stats.memory_held().ok());
        claimed.unwrap_or(granted).min(granted)
    }
}
