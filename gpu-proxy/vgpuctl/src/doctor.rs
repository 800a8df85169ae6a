//! `vgpuctl doctor`: which layers of the workers' jail are on, whether the audit log is kept and the ledger compared with
//! the driver, whether metrics are served, and what to do about it.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use proxy_audit::block::Block;
use proxy_audit::event::Event;
use proxy_audit::load::{self, Piece};
use proxy_channel::admin::{Api, Audit, Layer, Monitor, Status};

/// What a layer is for, and how to get it.
struct Advice {
    layer: &'static str,
    stops: &'static str,
    remedy: &'static str,
}

const USER_NAMESPACES: &str = "permit user namespaces: user.max_user_namespaces > 0, on Debian \
    kernel.unprivileged_userns_clone = 1, on Ubuntu an AppArmor profile with \"userns\"; in a container a \
    seccomp profile that lets unshare pass";

const ADVICE: [Advice; 12] = [
    Advice {
        layer: "user",
        stops: "reaching other zones' workers and anything of the proxy's user",
        remedy: "run gpu-proxy as root and give each zone a worker_uid (and worker_gid) that nothing else runs as",
    },
    Advice {
        layer: "process",
        stops: "debuggers, core files, programs with more rights",
        remedy: "it is always on; report this as a bug",
    },
    Advice {
        layer: "limits",
        stops: "using up descriptors and threads",
        remedy: "set worker_uid and permit user namespaces, so that threads can be counted per worker",
    },
    Advice {
        layer: "capabilities",
        stops: "everything that root may do",
        remedy: "it needs nothing; report this as a bug",
    },
    Advice {
        layer: "user-namespace",
        stops: "being anybody outside, whatever the user",
        remedy: USER_NAMESPACES,
    },
    Advice {
        layer: "root",
        stops: "seeing any file",
        remedy: USER_NAMESPACES,
    },
    Advice {
        layer: "network",
        stops: "reaching any network",
        remedy: USER_NAMESPACES,
    },
    Advice {
        layer: "ipc",
        stops: "shared memory and queues of other processes",
        remedy: USER_NAMESPACES,
    },
    Advice {
        layer: "processes",
        stops: "naming other processes",
        remedy: "run gpu-proxy as root with CAP_SYS_ADMIN",
    },
    Advice {
        layer: "landlock",
        stops: "opening files, TCP, signals to other processes",
        remedy: "Linux 5.13 or newer (6.12 for all of it) with landlock among the modules of lsm=",
    },
    Advice {
        layer: "calls",
        stops: "every system call that serving does not need",
        remedy: "a kernel with CONFIG_SECCOMP_FILTER on x86-64 or ARM64",
    },
    Advice {
        layer: "cgroup",
        stops: "threads without end and, with host_memory, host memory without end, of the zone as a whole",
        remedy: "run gpu-proxy as root in a control group that is delegated to it (Delegate=yes) and passes on pids and memory; \
            in a container, mount /sys/fs/cgroup so that it can be written",
    },
];

/// What the auditor last saw of a topic: its name, the state, why.
type Topic = (String, String, Vec<String>);

/// Lays out everything, with what the log says of its topics.
pub fn examine(status: &Status) -> String {
    let topics = status.audit.as_ref().map(topics);
    render(status, topics.unwrap_or_else(|| Ok(Vec::new())))
}

/// What the log in the spool last says of each topic.
fn topics(audit: &Audit) -> Result<Vec<Topic>, String> {
    let mut seen: BTreeMap<String, Topic> = BTreeMap::new();
    if audit.topics.is_empty() {
        return Ok(Vec::new());
    }
    let read = load::read(Path::new(&audit.spool), |piece| {
        // Most of a log is calls; those need not be understood.
        if let Piece::Block(_, bytes) = piece
            && bytes.first() == Some(&b'{')
            && let Ok(Block::Event { event, .. }) = Block::parse(&bytes)
            && let Event::TopicSettings {
                topic,
                state,
                lines,
            } = event
        {
            let lines = lines.iter().map(|line| line.as_str().to_owned()).collect();
            let topic = topic.as_str().to_owned();
            seen.insert(topic.clone(), (topic, state.as_str().to_owned(), lines));
        }
    });
    read.map_err(|error| error.to_string())?;
    let of = |topic: &String| {
        seen.remove(topic).unwrap_or_else(|| {
            let why = "the auditor has not seen it yet".to_owned();
            (topic.clone(), "unknown".into(), vec![why])
        })
    };
    Ok(audit.topics.iter().map(of).collect())
}

/// Lays out the jail of every zone, the log, the monitor and the api.
fn render(status: &Status, topics: Result<Vec<Topic>, String>) -> String {
    let mut text = String::new();
    render_audit(status.audit.as_ref(), topics, &mut text);
    // An older supervisor does not tell.
    if let Some(monitor) = &status.monitor {
        render_monitor(monitor, &mut text);
    }
    render_api(status.api.as_ref(), &mut text);
    for zone in &status.zones {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "zone {}", zone.name);
        if zone.jail.is_empty() {
            text.push_str("  no worker has become ready yet\n");
        }
        for layer in &zone.jail {
            render_layer(layer, &mut text);
        }
    }
    let missing = (status.zones.iter().flat_map(|zone| &zone.jail))
        .filter(|layer| layer.state == "missing")
        .count();
    let _ = match missing {
        0 => writeln!(text, "\nevery layer that is wanted is on"),
        1 => writeln!(text, "\n1 layer is missing that this host does not offer"),
        many => writeln!(
            text,
            "\n{many} layers are missing that this host does not offer"
        ),
    };
    text
}

/// One thing: its state, its name, what it does, what is the matter and what to do, if anything.
fn item(text: &mut String, state: &str, name: &str, does: &str, why: &str, remedy: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {state:7}  {name:14}  {does}");
    if !why.is_empty() {
        let _ = writeln!(text, "{:27}{why}", "");
    }
    if !remedy.is_empty() {
        let _ = writeln!(text, "{:27}to do: {remedy}", "");
    }
}

fn render_monitor(monitor: &Monitor, text: &mut String) {
    let does = "compares what workers hold with what the driver says";
    let why = monitor.failure.as_deref().unwrap_or_default();
    let (state, remedy) = match (monitor.mode.as_str(), monitor.swept_millis_ago) {
        ("off", _) => (
            "off",
            "set monitor.mode = \"report\" (docs/ledger.md); a software GPU that processes do not share has nothing to tell",
        ),
        (_, None) => (
            "away",
            "what it said is in the proxy's log; see monitor.library",
        ),
        ("enforce", Some(_)) => ("on", ""),
        (_, Some(_)) => (
            "log",
            "once it reports nothing in normal use, set monitor.mode = \"enforce\"",
        ),
    };
    item(text, state, "monitor", does, why, remedy);
}

fn render_api(api: Option<&Api>, text: &mut String) {
    let Some(api) = api else {
        let remedy = "add [api] to the configuration (docs/metrics.md)";
        return item(text, "off", "api", "nobody serves metrics", "", remedy);
    };
    let does = |at: &str| format!("serves metrics at http://{at}/metrics");
    match &api.address {
        Some(address) => item(text, "on", "api", &does(address), "", ""),
        None => {
            let why = api.failure.as_deref().unwrap_or("it has not started yet");
            let remedy = "see that nothing else listens there, or set another api.listen";
            item(text, "away", "api", &does(&api.listen), why, remedy);
        }
    }
}

fn render_audit(audit: Option<&Audit>, topics: Result<Vec<Topic>, String>, text: &mut String) {
    let mut line = |state: &str, what: &str, more: &str, why: &str, remedy: &str| {
        item(text, state, what, more, why, remedy);
    };
    let Some(audit) = audit else {
        line(
            "off",
            "audit",
            "nothing is recorded",
            "",
            "add [audit] to the configuration (docs/audit.md)",
        );
        return;
    };
    let keeps = format!("keeps the log in {}", audit.spool);
    match audit.away_seconds {
        None => line("on", "audit", &keeps, "", ""),
        Some(seconds) => {
            let why = format!(
                "no auditor has listened for {seconds} s; {} events wait",
                audit.waiting
            );
            line(
                "away",
                "audit",
                &keeps,
                &why,
                "what it said last is in the proxy's log",
            );
        }
    }
    for zone in &audit.closed {
        let why = "its calls cannot be recorded, so that it may acquire and run nothing";
        let remedy = "see that the log's sinks take it, or give it more room (audit.share)";
        line("closed", "zone", zone, why, remedy);
    }
    match topics {
        Ok(topics) => {
            for (topic, state, lines) in topics {
                let remedy = match state.as_str() {
                    "good" => "",
                    _ => "docs/kafka.md says how topics should be set, and what an inspector is",
                };
                line(&state, "topic", &topic, &lines.join("; "), remedy);
            }
        }
        Err(why) => line(
            "unknown",
            "topics",
            "",
            &why,
            "run this as the auditor's user or root",
        ),
    }
}

fn render_layer(layer: &Layer, text: &mut String) {
    let advice = ADVICE.iter().find(|advice| advice.layer == layer.name);
    let stops = advice.map_or("", |advice| advice.stops);
    let remedy = match layer.state.as_str() {
        "missing" => advice.map(|advice| advice.remedy),
        "off" if layer.name == "user" => advice.map(|advice| advice.remedy),
        "log" => Some(
            "learn the driver's system calls (docs/jail.md), then set driver.jail = \"enforce\"",
        ),
        _ => None,
    };
    let remedy = remedy.unwrap_or_default();
    item(text, &layer.state, &layer.name, stops, &layer.why, remedy);
}

#[cfg(test)]
mod tests {
    use proxy_channel::jail;

    use super::*;
    use crate::table::tests::status;

    fn layer(name: &str, state: &str, why: &str) -> Layer {
        Layer {
            name: name.into(),
            state: state.into(),
            why: why.into(),
        }
    }

    #[test]
    fn there_is_advice_for_every_layer_in_order() {
        let known: Vec<&str> = jail::Layer::NAMES.iter().map(|(_, name)| *name).collect();
        let advised: Vec<&str> = ADVICE.iter().map(|advice| advice.layer).collect();
        assert_eq!(advised, known);
    }

    #[test]
    fn what_is_missing_comes_with_a_reason_and_something_to_do() {
        let mut status = status();
        status.zones[0].jail = vec![
            layer("landlock", "missing", "the kernel has none"),
            layer("calls", "on", ""),
        ];
        let text = render(&status, Ok(Vec::new()));
        for part in [
            "zone a\n",
            "  missing  landlock        opening files, TCP, signals to other processes\n",
            "the kernel has none\n",
            "to do: Linux 5.13",
            "  on       calls  ",
            "\n1 layer is missing",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        // One for the log and one for the metrics that there are not.
        assert_eq!(text.matches("to do").count(), 3);
    }

    #[test]
    fn a_log_that_is_not_kept_or_not_safe_is_told_with_something_to_do() {
        let mut status = status();
        status.audit = Some(Audit {
            spool: "/var/lib/vgpu/audit".into(),
            auditor: None,
            away_seconds: Some(7),
            waiting: 30,
            closed: vec!["a".into()],
            topics: vec!["audit".into()],
        });
        let why = vec!["min.insync.replicas is 1".into(), "one replica".into()];
        let topics = vec![("audit".into(), "wrong".into(), why)];
        let text = render(&status, Ok(topics));
        for part in [
            "  away     audit           keeps the log in /var/lib/vgpu/audit\n",
            "no auditor has listened for 7 s; 30 events wait\n",
            "  closed   zone            a\n",
            "  wrong    topic           audit\n",
            "min.insync.replicas is 1; one replica\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        let text = render(&status, Err("permission denied".into()));
        assert!(text.contains("  unknown  topics "), "{text}");
    }

    #[test]
    fn a_monitor_that_is_off_away_or_only_reports_is_told_with_something_to_do() {
        let monitor = |mode: &str, swept_millis_ago, failure: Option<&str>| {
            let mut status = status();
            status.monitor = Some(Monitor {
                mode: mode.into(),
                library: "libnvidia-ml.so.1".into(),
                pid: None,
                devices: None,
                swept_millis_ago,
                failure: failure.map(str::to_owned),
            });
            render(&status, Ok(Vec::new()))
        };
        let off = monitor("off", None, None);
        assert!(off.contains("  off      monitor ") && off.contains("monitor.mode = \"report\""));
        let away = monitor("enforce", None, Some("it has ended"));
        assert!(away.contains("  away     monitor ") && away.contains("it has ended\n"));
        assert!(monitor("report", Some(10), None).contains("  log      monitor "));
        assert!(monitor("enforce", Some(10), None).contains("  on       monitor "));
    }

    #[test]
    fn an_api_that_is_off_or_away_is_told_with_something_to_do() {
        let api = |api: Option<(Option<&str>, Option<&str>)>| {
            let mut status = status();
            status.api = api.map(|(address, failure)| Api {
                listen: "127.0.0.1:0".into(),
                address: address.map(str::to_owned),
                pid: None,
                failure: failure.map(str::to_owned),
            });
            render(&status, Ok(Vec::new()))
        };
        assert!(api(None).contains("to do: add [api] to the configuration"));
        let on = api(Some((Some("127.0.0.1:7"), None)));
        assert!(on.contains("  on       api             serves metrics at http://127.0.0.1:7/"));
        let away = api(Some((None, Some("Address already in use"))));
        assert!(away.contains("  away     api ") && away.contains("already in use\n"));
    }

    #[test]
    fn a_zone_without_a_worker_yet_says_so() {
        assert!(render(&status(), Ok(Vec::new())).contains("no worker has become ready yet"));
    }
}
