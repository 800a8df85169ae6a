//! Auditor, supervisor, workers, clients and the broker are killed, one after the other and at random, while programs work.
//! Then the log holds, and every launch that a program saw finished is in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use e2e::kafka::Brokers;
use e2e::random::Random;
use e2e::{Proxy, Running, Setup, Zone, place, system};
use proxy_audit::block::Block;
use proxy_audit::call::COMPLETED;
use proxy_audit::hash::LogId;
use proxy_audit::load::{self, Piece};

const ZONES: [&str; 2] = ["a", "b"];
const CLIENTS: usize = 4;

/// What a client allocates beyond this tells which it is.
const MARK: u64 = 1 << 20;

#[test]
fn what_programs_saw_is_in_the_log_whoever_is_killed() {
    torment(20);
}

#[test]
#[ignore = "takes ten minutes"]
fn soak_what_programs_saw_is_in_the_log_through_200_kills() {
    torment(200);
}

/// Programs that work until they fail, and then others in their place.
struct Load {
    folder: tempfile::TempDir,
    running: Vec<Running>,
    started: u64,
}

impl Load {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("the temporary directory is writable"),
            running: Vec::new(),
            started: 0,
        }
    }

    fn file(&self, number: u64) -> PathBuf {
        self.folder.path().join(number.to_string())
    }

    /// As many as there should be.
    fn refill(&mut self, proxy: &Proxy) {
        self.running.retain_mut(Running::is_running);
        while self.running.len() < CLIENTS {
            let zone = ZONES[usize::from(self.started % 2 == 1)];
            let client = proxy
                .program_in(zone, place::client())
                .arg("tell-until-error")
                .arg(self.file(self.started))
                .arg((MARK + self.started).to_string());
            self.running.push(client.start());
            self.started += 1;
        }
    }

    /// Launches that each client saw finished.
    fn seen(&self) -> BTreeMap<u64, u64> {
        let seen = |number| {
            let bytes = fs::read(self.file(number)).ok()?;
            Some((number, u64::from_le_bytes(bytes.try_into().ok()?)))
        };
        (0..self.started).filter_map(seen).collect()
    }

    /// Until each of those that run has seen one more.
    fn wait_for_progress(&mut self, proxy: &Proxy) {
        let give_up = Instant::now() + Duration::from_secs(120);
        let mut before = self.seen();
        let mut behind = CLIENTS;
        while behind > 0 {
            assert!(
                Instant::now() < give_up,
                "no client gets on\n--- log\n{}",
                proxy.log()
            );
            std::thread::sleep(Duration::from_millis(20));
            self.refill(proxy);
            for (number, seen) in self.seen() {
                if before.insert(number, seen).unwrap_or(0) < seen {
                    behind = behind.saturating_sub(1);
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Auditor,
    Supervisor,
    Worker,
    Client,
    Broker,
}

impl Victim {
    /// A broker takes seconds to come back.
    fn draw(random: &mut Random) -> Self {
        match random.below(20) {
            0..6 => Self::Auditor,
            6..10 => Self::Supervisor,
            10..15 => Self::Worker,
            15..18 => Self::Client,
            _ => Self::Broker,
        }
    }
}

fn torment(kills: u32) {
    let brokers = Brokers::start(1);
    let kafka = brokers.as_ref().map_or_else(String::new, |brokers| {
        brokers.create_topic("audit", 2, 1, &[]);
        brokers.create_topic("audit-notes", 1, 1, &[]);
        format!(
            "[audit.kafka]\nbrokers = {:?}\ntopic = \"audit\"\ncheckpoints = \"audit-notes\"\n",
            brokers.bootstrap()
        )
    });
    let mut proxy = Setup::new()
        .zone(Zone::new(ZONES[0]).clients(16))
        .zone(Zone::new(ZONES[1]).clients(16))
        .audit(&format!("retain = \"4GiB\"\n{kafka}"))
        .watchdog(Duration::from_secs(300))
        .start();
    let seed = std::env::var("SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let mut random = Random::new(seed);
    let mut load = Load::new();
    let mut killed: BTreeMap<Victim, u32> = BTreeMap::new();
    load.refill(&proxy);
    for number in 1..=kills {
        load.wait_for_progress(&proxy);
        std::thread::sleep(Duration::from_millis(random.below(200)));
        let victim = Victim::draw(&mut random);
        match (victim, &brokers) {
            (Victim::Auditor, _) => kill_one(&proxy, "vgpu-auditor", &mut random),
            (Victim::Worker, _) => kill_one(&proxy, "vgpu-worker", &mut random),
            (Victim::Supervisor, _) => {
                // If both are gone at a time, calls are lost (docs/audit.md).
                proxy.wait_until("an auditor that has every page", has_every_page);
                proxy.kill_and_restart();
            }
            (Victim::Client, _) => {
                let client = random.index(load.running.len());
                load.running.remove(client).kill();
            }
            (Victim::Broker, Some(brokers)) => {
                brokers.kill(1);
                load.wait_for_progress(&proxy);
                brokers.resume(1);
            }
            (Victim::Broker, None) => {}
        }
        *killed.entry(victim).or_default() += 1;
        if number % 20 == 0 {
            println!("{number} of {kills}: {killed:?}, {} clients", load.started);
        }
    }
    load.wait_for_progress(&proxy);
    for client in load.running.drain(..) {
        client.kill();
    }
    proxy.wait_until("the end of all clients", |proxy| {
        let status = proxy.status();
        let zones = status["zones"].as_array().into_iter().flatten();
        zones
            .into_iter()
            .all(|zone| zone["clients"] == serde_json::json!([]))
    });
    let folder = proxy.directory().join("spool");
    if brokers.is_some() {
        let mut end = 0;
        load::read(&folder, |piece| {
            end += u64::from(matches!(piece, Piece::Block(..)));
        })
        .expect("the spool can be read");
        proxy.wait_until("everything in Kafka", |_| {
            let text = fs::read_to_string(folder.join("acknowledged"));
            text.is_ok_and(|text| text.trim().parse().is_ok_and(|leaf: u64| leaf >= end))
        });
    }
    proxy.end();
    let verified = proxy
        .verify(&folder)
        .watchdog(Duration::from_secs(300))
        .run()
        .expect_success();
    println!("{}", verified.stdout);
    let recorded = recorded(&folder);
    let seen = load.seen();
    println!(
        "{} clients saw {} launches finished; {} are recorded",
        seen.len(),
        seen.values().sum::<u64>(),
        recorded.values().sum::<u64>()
    );
    assert!(seen.len() >= CLIENTS);
    let recorded = |client| recorded.get(&client).copied().unwrap_or(0);
    let lost: Vec<String> = seen
        .into_iter()
        .filter(|&(client, seen)| recorded(client) < seen)
        .map(|(client, seen)| format!("client {client}: {} of {seen}", recorded(client)))
        .collect();
    assert!(
        lost.is_empty(),
        "launches that were seen finished are not recorded: {lost:?}\n--- log\n{}",
        proxy.log()
    );
}

/// Whether the auditor has every page that the supervisor keeps: of clients who work, and of such as have gone.
fn has_every_page(proxy: &Proxy) -> bool {
    const PAGE: &str = "memfd:vgpu-calls";
    let family = proxy.family().into_iter();
    let mut auditors = family.filter(|process| process.name.starts_with("vgpu-auditor"));
    let kept = system::open_files(proxy.pid(), PAGE);
    auditors.any(|auditor| kept.is_subset(&system::mapped(auditor.pid, PAGE)))
}

fn kill_one(proxy: &Proxy, name: &str, random: &mut Random) {
    let family = proxy.family().into_iter();
    let mut found: Vec<_> = family
        .filter(|process| process.name.starts_with(name))
        .collect();
    // There may be none at the moment.
    if !found.is_empty() {
        found.swap_remove(random.index(found.len())).kill();
    }
}

/// Finished launches in the log, each once, by the mark of the client.
fn recorded(folder: &std::path::Path) -> BTreeMap<u64, u64> {
    #[derive(Default)]
    struct Client {
        next: u64,
        mark: Option<u64>,
        launches: u64,
    }
    let mut clients: BTreeMap<(LogId, u64), Client> = BTreeMap::new();
    load::read(folder, |piece| {
        let Piece::Block(_, bytes) = piece else {
            return;
        };
        let block = Block::parse(&bytes).expect("it was verified");
        let Block::Calls { origin, calls, .. } = block else {
            return;
        };
        let client = clients.entry((origin.session, origin.client)).or_default();
        for (number, record) in (origin.first..).zip(calls.records()) {
            // What an auditor recorded that was killed before it knew that is there again.
            if number < client.next {
                continue;
            }
            client.next = number + 1;
            let size = record.size.get();
            let kernel = calls.kernel(record).map(|name| name.as_str());
            if record.flags & COMPLETED == 0 || record.result.get() != 0 {
                continue;
            }
            match kernel {
                Some("count") => client.launches += 1,
                None if (MARK..2 * MARK).contains(&size) && client.mark.is_none() => {
                    client.mark = Some(size - MARK);
                }
                _ => {}
            }
        }
    })
    .expect("the spool can be read");
    let clients = clients.into_values();
    clients
        .filter_map(|client| Some((client.mark?, client.launches)))
        .collect()
}
