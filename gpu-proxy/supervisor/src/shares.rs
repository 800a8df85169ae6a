//! What the clients of one zone share: device memory that one worker exports and others have open.
//!
//! A worker offers the driver's handle and gets a token, which is all that its client ever sees. A worker of the
//! same zone that knows the token gets the handle; every zone has a registry of its own, so no other ever does.
//!
//! Memory is charged to the worker that exports it. When that frees it or ends while others have it open, the
//! driver keeps it for them, so the charge stays too: in an account of its own, until the last one closes it.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};

use proxy_channel::message::{DriverHandle, Sharing, Token};
use thiserror::Error;

use crate::ledger::{Ledger, Overdrawn, WorkerId};

/// What one worker may have exported at a time.
const MOST_OF_ONE: usize = 4096;

/// One zone's registry.
#[derive(Debug, Default)]
pub struct Shares(HashMap<Token, Share>);

/// What a worker offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Bytes that can be used.
    pub bytes: u64,
    /// Bytes that it was charged.
    pub charged: u64,
    /// The driver's.
    pub handle: DriverHandle,
}

#[derive(Debug)]
struct Share {
    offer: Offer,
    /// `None` once it has freed the memory or ended: nobody else can open it then.
    exporter: Option<WorkerId>,
    /// Where the charge is from then on.
    account: WorkerId,
    /// Who has it open, and how often.
    open: BTreeMap<WorkerId, u64>,
}

/// A worker says what cannot be: it lies or is broken, and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Lie {
    /// It closes or takes back what it has not got.
    #[error("it names shared memory that it does not have")]
    NotItsOwn,
    /// It gives back more than it holds.
    #[error(transparent)]
    Overdrawn(#[from] Overdrawn),
}

impl Shares {
    /// Enters what `exporter` offers under a token that nobody can guess. `account` is a name that nobody else
    /// has in the ledger.
    pub fn add(
        &mut self,
        exporter: WorkerId,
        account: WorkerId,
        token: Token,
        offer: Offer,
    ) -> Sharing {
        let own = self
            .0
            .values()
            .filter(|share| share.exporter == Some(exporter));
        if own.count() >= MOST_OF_ONE || self.0.contains_key(&token) {
            return Sharing::FULL;
        }
        let share = Share {
            offer,
            exporter: Some(exporter),
            account,
            open: BTreeMap::new(),
        };
        self.0.insert(token, share);
        Sharing::DONE
    }

    /// Hands out what a token names, and counts it as open.
    pub fn open(&mut self, worker: WorkerId, token: &Token) -> Result<Offer, Sharing> {
        let share = self.0.get_mut(token).ok_or(Sharing::UNKNOWN)?;
        match share.exporter {
            None => Err(Sharing::UNKNOWN),
            Some(exporter) if exporter == worker => Err(Sharing::OWN),
            Some(_) => {
                *share.open.entry(worker).or_default() += 1;
                Ok(share.offer)
            }
        }
    }

    /// A worker has closed something once.
    pub fn close(
        &mut self,
        worker: WorkerId,
        token: &Token,
        ledger: &mut Ledger,
    ) -> Result<(), Lie> {
        let share = self.0.get_mut(token).ok_or(Lie::NotItsOwn)?;
        let count = share.open.get_mut(&worker).ok_or(Lie::NotItsOwn)?;
        *count -= 1;
        if *count == 0 {
            share.open.remove(&worker);
        }
        self.collect(ledger);
        Ok(())
    }

    /// The exporter has freed the memory and gives `returned` bytes of its charge back with it.
    pub fn withdraw(
        &mut self,
        exporter: WorkerId,
        token: &Token,
        returned: u64,
        ledger: &mut Ledger,
    ) -> Result<(), Lie> {
        let share = self.0.get_mut(token);
        let share = share.filter(|share| share.exporter == Some(exporter));
        let share = share.ok_or(Lie::NotItsOwn)?;
        ledger.transfer(exporter, share.account, returned)?;
        share.exporter = None;
        self.collect(ledger);
        Ok(())
    }

    /// A worker's process has ended, and is still in the ledger.
    pub fn forget(&mut self, worker: WorkerId, ledger: &mut Ledger) {
        for share in self.0.values_mut() {
            share.open.remove(&worker);
            if share.exporter == Some(worker) {
                share.exporter = None;
                // One that lied about a charge has no more than it has.
                let charge = share.offer.charged.min(ledger.granted(worker));
                let moved = ledger.transfer(worker, share.account, charge);
                debug_assert_eq!(moved, Ok(()));
            }
        }
        self.collect(ledger);
    }

    /// Whether anything is shared.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Drops what is exported no more and open nowhere.
    fn collect(&mut self, ledger: &mut Ledger) {
        self.0.retain(|_, share| {
            let keep = share.exporter.is_some() || !share.open.is_empty();
            if !keep {
                ledger.close(share.account);
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: WorkerId = WorkerId(1);
    const B: WorkerId = WorkerId(2);
    const C: WorkerId = WorkerId(3);
    const ACCOUNT: WorkerId = WorkerId(100);
    const TOKEN: Token = [7; 16];

    fn offer(charged: u64) -> Offer {
        Offer {
            bytes: charged - 1,
            charged,
            handle: [3; 64],
        }
    }

    /// A has 100 of 1000 bytes and exports 60 of them.
    fn zone() -> (Shares, Ledger) {
        let (mut shares, mut ledger) = (Shares::default(), Ledger::new(1000));
        ledger.charge(A, 100).unwrap();
        assert_eq!(shares.add(A, ACCOUNT, TOKEN, offer(60)), Sharing::DONE);
        (shares, ledger)
    }

    #[test]
    fn a_token_opens_for_others_of_the_zone_and_for_nobody_else() {
        let (mut shares, _) = zone();
        assert_eq!(shares.open(B, &TOKEN), Ok(offer(60)));
        assert_eq!(shares.open(A, &TOKEN), Err(Sharing::OWN));
        assert_eq!(shares.open(B, &[8; 16]), Err(Sharing::UNKNOWN));
        assert_eq!(
            Shares::default().open(B, &TOKEN),
            Err(Sharing::UNKNOWN),
            "another zone"
        );
    }

    #[test]
    fn what_is_freed_while_nobody_has_it_open_is_free_at_once() {
        let (mut shares, mut ledger) = zone();
        assert_eq!(shares.withdraw(A, &TOKEN, 60, &mut ledger), Ok(()));
        assert_eq!((ledger.used(), ledger.granted(A)), (40, 40));
        assert_eq!(shares.open(B, &TOKEN), Err(Sharing::UNKNOWN));
        assert!(shares.is_empty());
    }

    #[test]
    fn what_is_freed_while_others_have_it_open_is_charged_until_the_last_of_them_closes_it() {
        let (mut shares, mut ledger) = zone();
        shares.open(B, &TOKEN).unwrap();
        shares.open(B, &TOKEN).unwrap();
        shares.open(C, &TOKEN).unwrap();
        shares.withdraw(A, &TOKEN, 60, &mut ledger).unwrap();
        assert_eq!((ledger.used(), ledger.granted(A)), (100, 40));
        assert_eq!(
            shares.open(C, &TOKEN),
            Err(Sharing::UNKNOWN),
            "it is gone for others"
        );
        shares.close(B, &TOKEN, &mut ledger).unwrap();
        shares.forget(C, &mut ledger);
        assert_eq!(ledger.used(), 100);
        shares.close(B, &TOKEN, &mut ledger).unwrap();
        assert_eq!(ledger.used(), 40);
        assert!(shares.is_empty());
    }

    #[test]
    fn what_an_exporter_that_ended_had_shared_is_charged_as_long_as_it_is_open() {
        let (mut shares, mut ledger) = zone();
        shares.open(B, &TOKEN).unwrap();
        shares.forget(A, &mut ledger);
        assert_eq!(ledger.close(A), 40);
        assert_eq!(ledger.used(), 60);
        shares.forget(B, &mut ledger);
        assert_eq!(ledger.used(), 0);
        assert!(shares.is_empty());
    }

    #[test]
    fn an_exporter_that_ended_and_shared_with_nobody_leaves_nothing() {
        let (mut shares, mut ledger) = zone();
        shares.forget(A, &mut ledger);
        ledger.close(A);
        assert_eq!(ledger.used(), 0);
        assert!(shares.is_empty());
    }

    #[test]
    fn lies_are_found() {
        let (mut shares, mut ledger) = zone();
        shares.open(B, &TOKEN).unwrap();
        let close =
            |shares: &mut Shares, ledger: &mut Ledger, who| shares.close(who, &TOKEN, ledger);
        assert_eq!(close(&mut shares, &mut ledger, C), Err(Lie::NotItsOwn));
        assert_eq!(close(&mut shares, &mut ledger, B), Ok(()));
        assert_eq!(close(&mut shares, &mut ledger, B), Err(Lie::NotItsOwn));
        assert_eq!(
            shares.withdraw(B, &TOKEN, 0, &mut ledger),
            Err(Lie::NotItsOwn)
        );
        let too_much = shares.withdraw(A, &TOKEN, 101, &mut ledger);
        assert!(matches!(too_much, Err(Lie::Overdrawn(_))));
        assert_eq!(ledger.used(), 100);
    }

    #[test]
    fn a_charge_that_was_a_lie_takes_no_more_than_there_is() {
        let (mut shares, mut ledger) = (Shares::default(), Ledger::new(1000));
        ledger.charge(A, 10).unwrap();
        shares.add(A, ACCOUNT, TOKEN, offer(u64::MAX));
        shares.open(B, &TOKEN).unwrap();
        shares.forget(A, &mut ledger);
        assert_eq!(ledger.close(A), 0);
        assert_eq!(ledger.used(), 10);
        shares.forget(B, &mut ledger);
        assert_eq!(ledger.used(), 0);
    }

    #[test]
    fn one_worker_cannot_fill_the_registry() {
        let (mut shares, _) = zone();
        let token = |n: usize| {
            let mut token = [0; 16];
            token[..8].copy_from_slice(&(n as u64).to_le_bytes());
            token
        };
        for n in 1..MOST_OF_ONE {
            assert_eq!(shares.add(A, ACCOUNT, token(n), offer(1)), Sharing::DONE);
        }
        assert_eq!(shares.add(A, ACCOUNT, [9; 16], offer(1)), Sharing::FULL);
        assert_eq!(shares.add(B, ACCOUNT, [9; 16], offer(1)), Sharing::DONE);
    }
}
