//! `vgpuctl simulate`: whether a plan would fit, and what would refuse it.
//!
//! Configuration, policy, reservations and the ledger are the supervisor's own code; nothing is modelled twice. What a
//! worker keeps as spare credit is left out: it may hold less than two chunks more than its client uses, and gives them up
//! to nobody who asks.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use idm_protocol::layout::{self, CHUNK_BYTES};
use proxy_policy::Unusable;
use proxy_policy::limits::HANDLES;
use proxy_policy::units::size_text;
use supervisor::config::{Config, Installation};
use supervisor::ledger::host::{Host, Seat};
use supervisor::ledger::{Ledger, Refused, WorkerId};
use supervisor::server::read_policy;
use supervisor::zone::grant::Grant;

use crate::plan::{Client, Plan};

/// What the driver's heap rounds to.
const GRAIN: u64 = 512;

/// What becomes of a plan, for people, and how much of it would be refused.
#[derive(Debug)]
pub struct Answer {
    pub text: String,
    pub refused: usize,
}

/// One zone while the plan is gone through.
struct Zone {
    name: String,
    grant: Grant,
    ledger: Ledger,
    clients: u32,
}

/// Goes through a plan file.
///
/// # Errors
/// The plan, or the configuration or policy that it names, cannot be read or is wrong.
pub fn run(file: &Path) -> Result<Answer, Unusable> {
    let plan = Plan::read(file)?;
    let source = std::fs::read_to_string(&plan.config)
        .map_err(|error| Unusable::Unreadable(plan.config.clone(), error.to_string()))?;
    // Where the proxy is installed plays no part in what a zone may have.
    let installation = Installation {
        executable_dir: PathBuf::from("/"),
    };
    let mut config =
        Config::parse(&plan.config, &source, &installation).map_err(Unusable::Wrong)?;
    if let Some(policy) = &plan.policy {
        config.proxy.policy = Some(policy.clone());
    }
    let policy = read_policy(&config.proxy, &config.devices, &config.zones)?;
    let grants: Vec<Grant> = config
        .zones
        .iter()
        .map(|zone| Grant::of(zone, policy.as_ref()))
        .collect();
    let named = config.zones.iter().zip(&grants);
    let places = named.map(|(zone, grant)| grant.claim(&zone.name).place());
    let host = Rc::new(RefCell::new(Host::new(config.devices.clone(), places)));
    let zones = config.zones.iter().zip(grants).enumerate();
    let mut zones: Vec<Zone> = zones
        .map(|(index, (zone, grant))| Zone {
            name: zone.name.clone(),
            ledger: Ledger::seated(grant.memory, Seat::new(Rc::clone(&host), index)),
            grant,
            clients: 0,
        })
        .collect();
    let mut report = Report::default();
    let mut next = 1;
    for client in &plan.clients {
        let Some(zone) = zones.iter_mut().find(|zone| zone.name == client.zone) else {
            report.line(&format!("{} in {}", client.name, client.zone));
            report.refuse("attach", "the configuration has no such zone");
            continue;
        };
        for number in 1..=client.count {
            let of = match client.count {
                1 => String::new(),
                count => format!(" {number} of {count}"),
            };
            report.line(&format!("{}{of} in {}", client.name, client.zone));
            attach(zone, client, WorkerId(next), &mut report);
            next += 1;
        }
    }
    for zone in &zones {
        rates(zone, &plan, &mut report);
    }
    for zone in &zones {
        let (used, limit, room) = (zone.ledger.used(), zone.ledger.limit(), zone.ledger.room());
        report.line(&format!(
            "zone {}: {} of {} used, {} could be granted",
            zone.name,
            size_text(used),
            size_text(limit),
            size_text(room)
        ));
    }
    Ok(report.0)
}

/// One client, from its greeting to its last allocation.
fn attach(zone: &mut Zone, client: &Client, worker: WorkerId, report: &mut Report) {
    let grant = &zone.grant;
    if !grant.is_usable() {
        return report.refuse(
            "attach",
            &format!("the zone is granted nothing ({})", grant.rule),
        );
    }
    if zone.clients >= grant.clients {
        let why = format!("clients = {} ({})", grant.clients, grant.rule);
        return report.refuse("attach", &why);
    }
    zone.clients += 1;
    let mut limits = layout::Limits {
        arena_bytes: grant.pinned,
        ..layout::Limits::default()
    };
    grant.limits.apply(&mut limits);
    for (name, kind) in HANDLES {
        let wanted = match name {
            "context" => client.contexts,
            _ => client.handles.get(name).copied().unwrap_or(0),
        };
        let most = limits.handles_of(kind);
        if wanted > most {
            let why = format!("handles.{name} = {most} ({})", grant.rule);
            report.refuse(&format!("{wanted} of {name}"), &why);
        }
    }
    let staging = u64::from(limits.staging_chunks) * CHUNK_BYTES as u64;
    let pinned = grant.pinned.saturating_sub(staging);
    if client.pinned > pinned {
        let why = format!(
            "pinned = {}, of which {} are for staging ({})",
            size_text(grant.pinned),
            size_text(staging),
            grant.rule
        );
        report.refuse(&format!("pinned {}", size_text(client.pinned)), &why);
    }
    let overhead = grant.limits.context_overhead.unwrap_or(0);
    let rule = grant.rule.clone();
    let images = grant.limits.images.unwrap_or(u64::MAX);
    for _ in 0..client.contexts {
        charge(zone, worker, "context", overhead, &rule, report);
    }
    if client.images > images {
        let why = format!("images = {} ({rule})", size_text(images));
        report.refuse(&format!("images {}", size_text(client.images)), &why);
    } else if client.images > 0 {
        charge(zone, worker, "images", client.images, &rule, report);
    }
    for &bytes in &client.allocate {
        charge(zone, worker, "allocate", bytes, &rule, report);
    }
}

fn charge(
    zone: &mut Zone,
    worker: WorkerId,
    what: &str,
    bytes: u64,
    rule: &str,
    report: &mut Report,
) {
    let what = format!("{what} {}", size_text(bytes));
    let charged = bytes.checked_next_multiple_of(GRAIN).unwrap_or(u64::MAX);
    match zone.ledger.charge(worker, charged) {
        Ok(()) => {
            let left = size_text(zone.ledger.room());
            report.line(&format!("  {what}: fits, {left} left"));
        }
        Err(Refused::Quota(over)) => {
            let (used, limit) = (size_text(over.used), size_text(over.limit));
            let why = format!("memory = {limit}, of which {used} are used ({rule})");
            report.refuse(&what, &why);
        }
        Err(Refused::Device(full)) => {
            let why = format!(
                "device {} has {}, of which {} are granted and {} are set aside for other zones",
                full.device,
                size_text(full.capacity),
                size_text(full.used),
                size_text(full.set_aside)
            );
            report.refuse(&what, &why);
        }
    }
}

/// Rates refuse nothing: who is faster waits.
fn rates(zone: &Zone, plan: &Plan, report: &mut Report) {
    let (calls, launches) = zone.grant.rates(zone.clients);
    for client in plan
        .clients
        .iter()
        .filter(|client| client.zone == zone.name)
    {
        let wanted = [
            ("calls", client.calls_per_second, calls),
            ("launches", client.launches_per_second, launches),
        ];
        for (what, wanted, share) in wanted {
            if share != 0 && wanted > share {
                report.line(&format!(
                    "{} in {}: {wanted} {what} per second: waits, its share is {share} ({})",
                    client.name, zone.name, zone.grant.rule
                ));
            }
        }
    }
}

struct Report(Answer);

impl Default for Report {
    fn default() -> Self {
        Self(Answer {
            text: String::new(),
            refused: 0,
        })
    }
}

impl Report {
    fn line(&mut self, line: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0.text, "{line}");
    }

    fn refuse(&mut self, what: &str, why: &str) {
        self.0.refused += 1;
        self.line(&format!("  {what}: REFUSED by {why}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "\
[[device]]
ordinal = 0
memory = \"16GiB\"
[[zone]]
name = \"a\"
memory = \"12GiB\"
pinned = \"1GiB\"
clients = 2
devices = [0]
reserve = \"8GiB\"
context_overhead = \"512MiB\"
handles = { stream = 4 }
[[zone]]
name = \"b\"
memory = \"16GiB\"
devices = [0]
launches_per_second = 100
";

    fn simulate(clients: &str) -> Result<Answer, Unusable> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("proxy.toml"), CONFIG).unwrap();
        let plan = folder.path().join("plan.toml");
        std::fs::write(&plan, format!("config = \"proxy.toml\"\n{clients}")).unwrap();
        run(&plan)
    }

    fn refusals(clients: &str) -> Vec<String> {
        let answer = simulate(clients).unwrap();
        let lines: Vec<String> = answer
            .text
            .lines()
            .filter(|line| line.contains("REFUSED"))
            .map(|line| line.trim().to_owned())
            .collect();
        assert_eq!(answer.refused, lines.len(), "{}", answer.text);
        lines
    }

    #[test]
    fn what_fits_fits_and_what_is_left_is_told() {
        let answer = simulate(
            "[[client]]\nzone = \"a\"\nname = \"train\"\ncount = 2\nallocate = [\"4GiB\"]\nhandles = { stream = 4 }\n",
        )
        .unwrap();
        assert_eq!(answer.refused, 0, "{}", answer.text);
        let expected = "\
train 1 of 2 in a
  context 512MiB: fits, 11776MiB left
  allocate 4GiB: fits, 7680MiB left
train 2 of 2 in a
  context 512MiB: fits, 7GiB left
  allocate 4GiB: fits, 3GiB left
zone a: 9GiB of 12GiB used, 3GiB could be granted
zone b: 0B of 16GiB used, 7GiB could be granted
";
        assert_eq!(answer.text, expected);
    }

    #[test]
    fn each_limit_that_refuses_is_named() {
        let found = refusals(
            "[[client]]\nzone = \"b\"\nallocate = [\"8GiB\", \"1GiB\"]\n\
             [[client]]\nzone = \"a\"\ncontexts = 65\nallocate = [\"12GiB\"]\npinned = \"1GiB\"\nhandles = { stream = 5 }\n\
             [[client]]\nzone = \"a\"\ncount = 2\n[[client]]\nzone = \"c\"\n",
        );
        for (line, part) in found.iter().zip([
            "allocate 1GiB: REFUSED by device 0 has 16GiB, of which 8GiB are granted and 8GiB are set aside",
            "65 of context: REFUSED by handles.context = 64",
            "5 of stream: REFUSED by handles.stream = 4",
            "pinned 1GiB: REFUSED by pinned = 1GiB, of which 16MiB are for staging",
            "context 512MiB: REFUSED by device 0",
        ]) {
            assert!(line.starts_with(part), "{line}\nis not {part}");
        }
        for part in [
            "allocate 12GiB: REFUSED by memory = 12GiB",
            "attach: REFUSED by clients = 2",
            "no such zone",
        ] {
            assert!(
                found.iter().any(|line| line.contains(part)),
                "{part}: {found:#?}"
            );
        }
    }

    #[test]
    fn who_is_too_fast_waits_and_is_refused_nothing() {
        let answer = simulate(
            "[[client]]\nzone = \"b\"\nname = \"serve\"\ncount = 4\nlaunches_per_second = 30\n",
        )
        .unwrap();
        assert_eq!(answer.refused, 0);
        let line = "serve in b: 30 launches per second: waits, its share is 25";
        assert!(answer.text.contains(line), "{}", answer.text);
    }

    #[test]
    fn a_plan_with_mistakes_is_refused_with_their_lines() {
        let wrong = simulate("[[client]]\nzone = \"a\"\nallocate = [4]\nalocate = [\"1GiB\"]\n");
        let Err(Unusable::Wrong(mistakes)) = wrong else {
            panic!("{wrong:?}")
        };
        let lines: Vec<usize> = mistakes.list.iter().map(|mistake| mistake.line).collect();
        assert_eq!(lines, [4, 5], "{mistakes}");
    }
}
