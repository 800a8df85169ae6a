//! The ledger of a host with several zones against a model, for a million operations: grants, returns, shared memory,
//! changed quotas and reservations, and workers that are killed with whatever they hold.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use proxy_channel::message::{Sharing, Token};
use supervisor::ledger::host::{Host, Place, Seat};
use supervisor::ledger::{Ledger, Refused, WorkerId};
use supervisor::shares::{Offer, Shares};

const OPERATIONS: u64 = 1_000_000;
const KILLS: u64 = 1_000;
const CAPACITIES: [(u32, u64); 2] = [(0, 1 << 20), (1, 1 << 18)];

/// Numbers that look random and are the same each time (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(u64::try_from(bound).unwrap())).unwrap()
    }
}

/// What the model knows of shared memory.
struct Shared {
    zone: usize,
    exporter: Option<u64>,
    charged: u64,
    open: BTreeMap<u64, u64>,
}

/// One zone: ours, and the model's.
struct Zone {
    ledger: Ledger,
    shares: Shares,
    limit: u64,
    place: Place,
    /// What each worker holds, what it exported included.
    held: HashMap<u64, u64>,
    /// Shared memory of which the exporter is gone.
    orphans: u64,
}

impl Zone {
    fn used(&self) -> u64 {
        self.held.values().sum::<u64>() + self.orphans
    }
}

struct Model {
    dice: Dice,
    zones: Vec<Zone>,
    shared: HashMap<Token, Shared>,
    next: u64,
    kills: u64,
    refused: [u64; 2],
}

impl Model {
    fn new(seed: u64) -> Self {
        let places = [(0, 1 << 18), (0, 0), (0, 1 << 16), (1, 1 << 17), (1, 0)];
        let places = places.map(|(device, reserve)| Place {
            device: Some(device),
            reserve,
        });
        let host = Rc::new(RefCell::new(Host::new(CAPACITIES, places)));
        let zone = |(index, place)| {
            let limit = 1 << 19;
            Zone {
                ledger: Ledger::seated(limit, Seat::new(Rc::clone(&host), index)),
                shares: Shares::default(),
                limit,
                place,
                held: HashMap::new(),
                orphans: 0,
            }
        };
        Self {
            dice: Dice(seed),
            zones: places.into_iter().enumerate().map(zone).collect(),
            shared: HashMap::new(),
            next: 1000,
            kills: 0,
            refused: [0; 2],
        }
    }

    /// What a zone could get: by its quota, and by its device.
    fn rooms(&self, zone: usize) -> (u64, u64) {
        let own = &self.zones[zone];
        let device = own.place.device.unwrap();
        let neighbours = self.zones.iter().enumerate();
        let mut left = i128::from(CAPACITIES[usize::try_from(device).unwrap()].1);
        for (index, other) in neighbours.filter(|(_, other)| other.place.device == Some(device)) {
            let held = match index == zone {
                true => other.used(),
                false => other.used().max(other.place.reserve),
            };
            left -= i128::from(held);
        }
        let of_device = u64::try_from(left.max(0)).unwrap();
        (own.limit.saturating_sub(own.used()), of_device)
    }

    fn charge(&mut self, zone: usize, worker: u64) {
        let bytes = match self.dice.below(20) {
            0 => self.dice.below(u64::MAX),
            1 => 0,
            _ => self.dice.below(1 << 14),
        };
        let (of_quota, of_device) = self.rooms(zone);
        let own = &mut self.zones[zone];
        let granted = own.ledger.charge(WorkerId(worker), bytes);
        match granted {
            Ok(()) => {
                assert!(bytes == 0 || bytes <= of_quota.min(of_device));
                *own.held.entry(worker).or_default() += bytes;
            }
            Err(Refused::Quota(_)) => {
                assert!(bytes > of_quota);
                self.refused[0] += 1;
            }
            Err(Refused::Device(_)) => {
                assert!(bytes <= of_quota && bytes > of_device);
                self.refused[1] += 1;
            }
        }
    }

    fn release(&mut self, zone: usize, worker: u64) {
        let bytes = self.dice.below(1 << 15);
        let exported = self.exported(zone, worker);
        let own = &mut self.zones[zone];
        let held = own.held.get(&worker).copied().unwrap_or(0);
        if bytes > held {
            assert!(own.ledger.release(WorkerId(worker), bytes).is_err());
        } else if bytes <= held - exported {
            // What it has exported it can only withdraw; one that lied would be ended.
            own.ledger.release(WorkerId(worker), bytes).unwrap();
            *own.held.entry(worker).or_default() -= bytes;
        }
    }

    /// What a worker has exported, as far as it still holds it.
    fn exported(&self, zone: usize, worker: u64) -> u64 {
        let own = self.shared.values();
        own.filter(|shared| shared.zone == zone && shared.exporter == Some(worker))
            .map(|shared| shared.charged)
            .sum()
    }

    fn export(&mut self, zone: usize, worker: u64) {
        let held = self.zones[zone].held.get(&worker).copied().unwrap_or(0);
        let free = held - self.exported(zone, worker);
        if free == 0 || self.shared.len() > 64 {
            return;
        }
        let charged = 1 + self.dice.below(free);
        let mut token = [0; 16];
        token[..8].copy_from_slice(&self.next.to_le_bytes());
        let offer = Offer {
            bytes: charged,
            charged,
            handle: [1; 64],
        };
        let account = WorkerId(self.next + (1 << 40));
        self.next += 1;
        let shares = &mut self.zones[zone].shares;
        let added = shares.add(WorkerId(worker), account, token, offer);
        assert_eq!(added, Sharing::DONE);
        self.shared.insert(
            token,
            Shared {
                zone,
                exporter: Some(worker),
                charged,
                open: BTreeMap::new(),
            },
        );
    }

    fn any_token(&mut self) -> Option<Token> {
        let mut tokens: Vec<Token> = self.shared.keys().copied().collect();
        tokens.sort_unstable();
        (!tokens.is_empty()).then(|| tokens[self.dice.index(tokens.len())])
    }

    fn open_or_close(&mut self, zone: usize, worker: u64) {
        let Some(token) = self.any_token() else {
            return;
        };
        let opens = self.dice.below(2) == 0;
        let own = &mut self.zones[zone];
        let shared = self.shared.get_mut(&token).unwrap();
        let mine = shared.zone == zone;
        if opens {
            let can = mine && shared.exporter.is_some_and(|exporter| exporter != worker);
            let opened = own.shares.open(WorkerId(worker), &token);
            assert_eq!(opened.is_ok(), can);
            if can {
                *shared.open.entry(worker).or_default() += 1;
            }
        } else {
            let can = mine && shared.open.contains_key(&worker);
            let closed = own.shares.close(WorkerId(worker), &token, &mut own.ledger);
            assert_eq!(closed.is_ok(), can);
            if can {
                let count = shared.open.get_mut(&worker).unwrap();
                *count -= 1;
                if *count == 0 {
                    shared.open.remove(&worker);
                }
                self.collect();
            }
        }
    }

    fn withdraw(&mut self) {
        let Some(token) = self.any_token() else {
            return;
        };
        let shared = self.shared.get_mut(&token).unwrap();
        let own = &mut self.zones[shared.zone];
        if let Some(exporter) = shared.exporter.take() {
            let id = WorkerId(exporter);
            let charged = shared.charged;
            own.shares
                .withdraw(id, &token, charged, &mut own.ledger)
                .unwrap();
            *own.held.get_mut(&exporter).unwrap() -= charged;
            own.orphans += charged;
            self.collect();
        }
    }

    fn kill(&mut self, zone: usize, worker: u64) {
        self.kills += 1;
        let id = WorkerId(worker);
        let own = &mut self.zones[zone];
        own.shares.forget(id, &mut own.ledger);
        let mut held = own.held.remove(&worker).unwrap_or(0);
        for shared in self
            .shared
            .values_mut()
            .filter(|shared| shared.zone == zone)
        {
            shared.open.remove(&worker);
            if shared.exporter == Some(worker) {
                shared.exporter = None;
                held -= shared.charged;
                own.orphans += shared.charged;
            }
        }
        assert_eq!(own.ledger.close(id), held);
        self.collect();
    }

    /// What is exported no more and open nowhere is free.
    fn collect(&mut self) {
        let zones = &mut self.zones;
        self.shared.retain(|_, shared| {
            let keep = shared.exporter.is_some() || !shared.open.is_empty();
            if !keep {
                zones[shared.zone].orphans -= shared.charged;
            }
            keep
        });
    }

    fn change(&mut self, zone: usize) {
        let limit = self.dice.below(1 << 20);
        let reserve = self.dice.below(1 << 17);
        let own = &mut self.zones[zone];
        own.limit = limit;
        own.ledger.set_limit(limit);
        own.place.reserve = reserve;
        own.ledger.seat().move_to(own.place);
    }

    fn check(&self, before: &[u64]) {
        for (index, zone) in self.zones.iter().enumerate() {
            let (of_quota, of_device) = self.rooms(index);
            assert_eq!(zone.ledger.used(), zone.used());
            assert_eq!(zone.ledger.room(), of_quota.min(of_device));
            let grew = zone.used() > before[index];
            assert!(!grew || zone.used() <= zone.limit);
            for (&worker, &held) in &zone.held {
                assert_eq!(zone.ledger.granted(WorkerId(worker)), held);
            }
        }
        for (device, capacity) in CAPACITIES {
            let on = self.zones.iter();
            let on = on.filter(|zone| zone.place.device == Some(device));
            assert!(on.map(Zone::used).sum::<u64>() <= capacity);
        }
    }
}

#[test]
fn a_million_operations_and_a_thousand_kills_leave_no_drift() {
    let mut model = Model::new(0x5eed_0bad_cafe_f00d);
    for operation in 0..OPERATIONS {
        let before: Vec<u64> = model.zones.iter().map(Zone::used).collect();
        let zone = model.dice.index(model.zones.len());
        let worker = model.dice.below(6);
        if operation % (OPERATIONS / KILLS) == 0 {
            model.kill(zone, worker);
        } else {
            match model.dice.below(100) {
                0..45 => model.charge(zone, worker),
                45..80 => model.release(zone, worker),
                80..85 => model.export(zone, worker),
                85..93 => model.open_or_close(zone, worker),
                93..99 => model.withdraw(),
                _ => model.change(zone),
            }
        }
        model.check(&before);
    }
    assert_eq!(model.kills, KILLS);
    assert!(
        model.refused.iter().all(|&times| times > 1000),
        "{:?}",
        model.refused
    );
    for zone in 0..model.zones.len() {
        for worker in 0..6 {
            model.kill(zone, worker);
        }
    }
    for zone in &model.zones {
        assert_eq!((zone.ledger.used(), zone.used()), (0, 0));
        assert!(zone.shares.is_empty());
    }
}
