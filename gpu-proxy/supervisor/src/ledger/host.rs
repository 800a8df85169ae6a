//! What may be granted of each device over all zones: its capacity, and what of it is set aside for some.
//!
//! A zone sits on the one device that it sees. What is set aside for it and not used is nobody else's; beyond that,
//! whoever asks first gets it. A device that the configuration does not describe has no capacity to check, and a
//! zone that sees several devices sits nowhere: only its own quota bounds it.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use thiserror::Error;

/// All devices, and where each zone sits.
#[derive(Debug, Default)]
pub struct Host {
    /// By ordinal: what may be granted.
    capacities: BTreeMap<u32, u64>,
    zones: Vec<Claim>,
}

/// One zone's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Claim {
    at: Place,
    /// Where it goes once it uses nothing.
    next: Option<Place>,
    used: u64,
}

/// A device, and what of it is set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its ordinal; none for a zone that sits nowhere.
    pub device: Option<u32>,
    /// Bytes that are nobody else's.
    pub reserve: u64,
}

/// The device cannot give it; nothing was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{asked} bytes do not fit on device {device}: {used} of {capacity} are granted and {set_aside} are set aside for other zones"
)]
pub struct DeviceFull {
    /// The device.
    pub device: u32,
    /// Bytes asked for.
    pub asked: u64,
    /// What may be granted of the device in all.
    pub capacity: u64,
    /// What is granted of it.
    pub used: u64,
    /// What other zones have set aside and not used.
    pub set_aside: u64,
}

/// One zone's seat at the table.
#[derive(Clone, Debug)]
pub struct Seat {
    host: Rc<RefCell<Host>>,
    zone: usize,
}

impl Host {
    /// Devices by ordinal with their capacities, and a zone for each place.
    #[must_use]
    pub fn new(
        capacities: impl IntoIterator<Item = (u32, u64)>,
        places: impl IntoIterator<Item = Place>,
    ) -> Self {
        let claim = |at| Claim {
            at,
            ..Claim::default()
        };
        Self {
            capacities: capacities.into_iter().collect(),
            zones: places.into_iter().map(claim).collect(),
        }
    }

    /// The driver says how much a device has. Less than was configured is what counts; tells whether it is less.
    pub fn measure(&mut self, device: u32, bytes: u64) -> bool {
        match self.capacities.get_mut(&device) {
            Some(capacity) if *capacity > bytes => {
                *capacity = bytes;
                true
            }
            _ => false,
        }
    }

    /// Gives a zone another place: another device once it uses nothing on the old one.
    pub fn move_to(&mut self, zone: usize, place: Place) {
        let Some(claim) = self.zones.get_mut(zone) else {
            return;
        };
        if claim.at.device == place.device || claim.used == 0 {
            (claim.at, claim.next) = (place, None);
        } else {
            claim.next = Some(place);
        }
    }

    /// What a zone could be granted now, whatever its quota; none if nothing but that bounds it.
    #[must_use]
    pub fn room(&self, zone: usize) -> Option<u64> {
        let (capacity, used, set_aside) = self.look(zone)?;
        Some(capacity.saturating_sub(used).saturating_sub(set_aside))
    }

    /// Of a zone's device: capacity, what is granted, what others have set aside and not used.
    fn look(&self, zone: usize) -> Option<(u64, u64, u64)> {
        let device = self.zones.get(zone)?.at.device?;
        let capacity = *self.capacities.get(&device)?;
        let (mut used, mut set_aside) = (0u64, 0u64);
        for (index, claim) in self.zones.iter().enumerate() {
            if claim.at.device != Some(device) {
                continue;
            }
            used = used.saturating_add(claim.used);
            if index != zone {
                let unused = claim.at.reserve.saturating_sub(claim.used);
                set_aside = set_aside.saturating_add(unused);
            }
        }
        Some((capacity, used, set_aside))
    }

    /// Why a zone's device would not give so much now.
    fn refusal(&self, zone: usize, asked: u64) -> Option<DeviceFull> {
        // Nothing at all always fits, also on a device that others have filled.
        let room = self.room(zone)?;
        if asked == 0 || asked <= room {
            return None;
        }
        let (capacity, used, set_aside) = self.look(zone)?;
        Some(DeviceFull {
            device: self.zones.get(zone)?.at.device?,
            asked,
            capacity,
            used,
            set_aside,
        })
    }

    fn take(&mut self, zone: usize, bytes: u64) {
        if let Some(claim) = self.zones.get_mut(zone) {
            claim.used += bytes;
        }
    }

    fn give_back(&mut self, zone: usize, bytes: u64) {
        if let Some(claim) = self.zones.get_mut(zone) {
            claim.used -= bytes;
            if claim.used == 0
                && let Some(next) = claim.next.take()
            {
                claim.at = next;
            }
        }
    }
}

impl Seat {
    /// The seat of a zone of this host, by its number there.
    #[must_use]
    pub fn new(host: Rc<RefCell<Host>>, zone: usize) -> Self {
        Self { host, zone }
    }

    /// The seat of somebody alone, whom nothing but a quota bounds.
    #[must_use]
    pub fn alone() -> Self {
        Self::new(Rc::new(RefCell::new(Host::new([], [Place::default()]))), 0)
    }

    /// What could be granted now; none if nothing but the quota bounds it.
    #[must_use]
    pub fn room(&self) -> Option<u64> {
        self.host.borrow().room(self.zone)
    }

    /// Gives the zone another place.
    pub fn move_to(&self, place: Place) {
        self.host.borrow_mut().move_to(self.zone, place);
    }

    /// The driver says how much the zone's device has; tells whether it is less than was configured.
    pub fn measure(&self, device: u32, bytes: u64) -> bool {
        self.host.borrow_mut().measure(device, bytes)
    }

    pub(super) fn refusal(&self, bytes: u64) -> Option<DeviceFull> {
        self.host.borrow().refusal(self.zone, bytes)
    }

    /// For what was not refused.
    pub(super) fn take(&self, bytes: u64) {
        self.host.borrow_mut().take(self.zone, bytes);
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.host.borrow_mut().give_back(self.zone, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn on(device: u32, reserve: u64) -> Place {
        Place {
            device: Some(device),
            reserve,
        }
    }

    fn admit(host: &mut Host, zone: usize, bytes: u64) {
        assert_eq!(host.refusal(zone, bytes), None);
        host.take(zone, bytes);
    }

    #[test]
    fn what_is_set_aside_is_nobody_elses_and_the_rest_is_for_who_comes_first() {
        let mut host = Host::new([(0, 100)], [on(0, 40), on(0, 0), on(1, 0)]);
        let full = host.refusal(1, 61).unwrap();
        assert_eq!((full.capacity, full.used, full.set_aside), (100, 0, 40));
        admit(&mut host, 1, 60);
        assert_eq!((host.room(0), host.room(1)), (Some(40), Some(0)));
        admit(&mut host, 0, 40);
        assert!(host.refusal(0, 1).is_some());
        host.give_back(1, 10);
        admit(&mut host, 0, 10);
        assert_eq!(host.room(2), None, "nobody said how large that device is");
        admit(&mut host, 2, u64::MAX);
    }

    #[test]
    fn a_reservation_that_comes_late_waits_for_what_others_have() {
        let mut host = Host::new([(0, 100)], [on(0, 0), on(0, 0)]);
        admit(&mut host, 1, 80);
        host.move_to(0, on(0, 50));
        assert_eq!((host.room(0), host.room(1)), (Some(20), Some(0)));
        host.give_back(1, 50);
        assert_eq!((host.room(0), host.room(1)), (Some(70), Some(20)));
    }

    #[test]
    fn a_zone_moves_to_another_device_when_it_has_left_the_old_one() {
        let mut host = Host::new([(0, 100), (1, 100)], [on(0, 0), on(0, 0), on(1, 0)]);
        admit(&mut host, 0, 30);
        host.move_to(0, on(1, 90));
        assert_eq!((host.room(1), host.room(2)), (Some(70), Some(100)));
        host.give_back(0, 30);
        assert_eq!((host.room(1), host.room(2)), (Some(100), Some(10)));
    }

    #[test]
    fn a_device_that_has_less_than_was_configured_gives_less() {
        let mut host = Host::new([(0, 100)], [on(0, 0)]);
        assert!(!host.measure(0, 120) && !host.measure(1, 1));
        assert!(host.measure(0, 80));
        assert_eq!(host.room(0), Some(80));
    }
}
