//! What zones set aside on devices: whether it adds up, and where each zone sits for it.
//!
//! A reservation only means something if nobody can reach its memory by another way. So a zone that reserves sees one
//! device, the configuration tells how much that has, and every other zone that sees it sees nothing else: then the
//! ledger knows of each grant which device it is on.

#![forbid(unsafe_code)]

use proxy_policy::units::size_text;

use crate::ledger::host::Place;

/// What may be granted of a device: its ordinal, and bytes.
pub type Capacity = (u32, u64);

/// What one zone asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its name.
    pub zone: String,
    /// The devices it sees; none for all.
    pub devices: Option<Vec<u32>>,
    /// Its quota of device memory.
    pub memory: u64,
    /// What is set aside for it.
    pub reserve: u64,
}

/// What is wrong with one zone's claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The claim's number.
    pub claim: usize,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl Claim {
    /// Where the zone sits: on the one device it sees.
    #[must_use]
    pub fn place(&self) -> Place {
        Place {
            device: self.only_device(),
            reserve: self.reserve,
        }
    }

    fn only_device(&self) -> Option<u32> {
        match self.devices.as_deref() {
            Some(&[device]) => Some(device),
            _ => None,
        }
    }

    fn sees(&self, device: u32) -> bool {
        let list = self.devices.as_ref();
        list.is_none_or(|list| list.contains(&device))
    }
}

/// Whether all claims can be kept together.
#[must_use]
pub fn check(capacities: &[Capacity], claims: &[Claim]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut complain = |claim, problem: String, remedy: String| {
        problems.push(Problem {
            claim,
            problem,
            remedy,
        });
    };
    for (index, claim) in claims.iter().enumerate() {
        let reserve = size_text(claim.reserve);
        if claim.reserve == 0 {
            continue;
        }
        match claim.only_device() {
            None => complain(
                index,
                format!(
                    "{:?} reserves {reserve} and sees more than one device",
                    claim.zone
                ),
                "write the one device that it is about, such as devices = [0]".into(),
            ),
            Some(device) if !capacities.iter().any(|(known, _)| *known == device) => complain(
                index,
                format!(
                    "{:?} reserves {reserve} of device {device}, of which nobody says how much it has",
                    claim.zone
                ),
                format!("add to the configuration [[device]], ordinal = {device} and its memory"),
            ),
            Some(_) => {}
        }
        if claim.reserve > claim.memory {
            let memory = size_text(claim.memory);
            complain(
                index,
                format!("{:?} reserves {reserve} and may hold {memory}", claim.zone),
                "lower reserve, or raise memory".into(),
            );
        }
    }
    for &(device, capacity) in capacities {
        let mut total = 0u64;
        let on_device = claims.iter().enumerate();
        let holders =
            on_device.filter(|(_, claim)| claim.reserve > 0 && claim.only_device() == Some(device));
        let mut first = None;
        for (index, claim) in holders {
            first = first.or(Some(&claim.zone));
            total = total.saturating_add(claim.reserve);
            if total > capacity {
                let (total, capacity) = (size_text(total), size_text(capacity));
                complain(
                    index,
                    format!(
                        "with {:?}, {total} are set aside on device {device}, which has {capacity}",
                        claim.zone
                    ),
                    "lower a reserve".into(),
                );
                break;
            }
        }
        let Some(first) = first else {
            continue;
        };
        for (index, claim) in claims.iter().enumerate() {
            if claim.sees(device) && claim.only_device() != Some(device) && claim.reserve == 0 {
                complain(
                    index,
                    format!(
                        "{:?} sees device {device} among others, and could take what {first:?} reserves there",
                        claim.zone
                    ),
                    format!("write devices = [{device}], or others"),
                );
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn claim(zone: &str, devices: Option<&[u32]>, reserve: u64) -> Claim {
        Claim {
            zone: zone.into(),
            devices: devices.map(<[u32]>::to_vec),
            memory: 10 * GIB,
            reserve,
        }
    }

    /// Claims with something wrong, by their numbers.
    fn wrong(claims: &[Claim]) -> Vec<usize> {
        let problems = check(&[(0, 12 * GIB), (1, GIB)], claims);
        problems.into_iter().map(|problem| problem.claim).collect()
    }

    #[test]
    fn what_adds_up_is_right_and_without_reservations_anything_is() {
        let none = [claim("a", None, 0), claim("b", Some(&[0, 1]), 0)];
        assert!(wrong(&none).is_empty());
        let some = [
            claim("a", Some(&[0]), 8 * GIB),
            claim("b", Some(&[0]), 4 * GIB),
            claim("c", Some(&[0]), 0),
            claim("d", Some(&[1]), 0),
        ];
        assert!(wrong(&some).is_empty());
        assert_eq!(some[0].place().device, Some(0));
        assert_eq!(none[1].place().device, None);
    }

    #[test]
    fn every_way_to_promise_what_cannot_be_kept_is_found() {
        let holder = || claim("a", Some(&[0]), 8 * GIB);
        let too_much = [holder(), claim("b", Some(&[0]), 5 * GIB)];
        assert_eq!(wrong(&too_much), [1]);
        assert_eq!(wrong(&[claim("a", Some(&[0]), 11 * GIB)]), [0], "quota");
        assert_eq!(wrong(&[claim("a", None, GIB)]), [0], "no one device");
        assert_eq!(wrong(&[claim("a", Some(&[7]), GIB)]), [0], "unknown device");
        let strays = [holder(), claim("b", None, 0), claim("c", Some(&[0, 1]), 0)];
        assert_eq!(wrong(&strays), [1, 2]);
    }
}
