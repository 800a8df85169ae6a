//! Metrics: what they say is so, whoever listens on a network can do nothing, and one that dies comes back.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::{Program, Proxy, Setup, Zone, place, system};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// A user that nothing else runs as; it counts where the tests are root.
const UID: u32 = 64_321;

fn setup() -> Setup {
    let lines = format!("listen = \"127.0.0.1:0\"\nuid = {UID}\ngid = {UID}");
    Setup::new().api(&lines)
}

/// Where it listens, once it does.
fn address(proxy: &Proxy) -> String {
    // The folder of a test is closed to other users, and a runtime folder is not.
    let open = fs::Permissions::from_mode(0o711);
    fs::set_permissions(proxy.directory(), open).expect("it is ours");
    let mut address = None;
    proxy.wait_until("an api that listens", |proxy| {
        address = proxy.status()["api"]["address"].as_str().map(str::to_owned);
        address.is_some()
    });
    address.expect("it listens")
}

/// The head and the body of what it answers.
fn ask(address: &str, request: &str) -> (String, String) {
    let mut socket = TcpStream::connect(address).expect("it listens");
    let request = format!("{request}\r\nHost: test\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("it takes it");
    let mut reply = String::new();
    socket.read_to_string(&mut reply).expect("text");
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

/// What every metric is, by its name and labels.
fn metrics(address: &str) -> BTreeMap<String, f64> {
    let (head, body) = ask(address, "GET /metrics HTTP/1.1");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(body.ends_with("# EOF\n"), "{body}");
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

#[test]
fn metrics_tell_what_zones_hold_and_have_done() {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let proxy = setup()
        .zone(Zone::new("a"))
        .zone(Zone::new("b"))
        .audit("")
        .monitor("mode = \"report\"\ninterval = \"20ms\"")
        .driver_env("SOFTGPU_SHARED", folder.path().to_str().expect("plain"))
        .driver_env("SOFTGPU_MEMORY", "256M")
        .start();
    let address = address(&proxy);
    proxy.client("vector-add").run().expect_success();
    proxy.wait_until("nobody", |proxy| {
        let clients = proxy.status()["zones"][0]["clients"].clone();
        clients.as_array().is_some_and(Vec::is_empty)
    });
    let holder = proxy
        .program_in("b", place::client())
        .arg("hold-memory")
        .arg((50 * MIB).to_string());
    let mut holder = holder.start();
    holder.wait_for_line("holds");
    proxy.wait_until("a sweep", |proxy| {
        proxy.status()["monitor"]["swept_millis_ago"].is_u64()
    });
    let told = metrics(&address);
    let status = proxy.status();
    let metric = |name: &str| told.get(name).copied();
    let limit = status["zones"][1]["memory_limit"].as_f64();
    assert_eq!(metric("vgpu_zone_memory_limit_bytes{zone=\"b\"}"), limit);
    let used = status["zones"][1]["memory_used"].as_f64();
    assert!(used >= Some(50.0 * 1_048_576.0), "{used:?}");
    assert_eq!(metric("vgpu_zone_memory_used_bytes{zone=\"b\"}"), used);
    for (name, value) in [
        ("vgpu_stopping", 0.0),
        ("vgpu_auditor_up", 1.0),
        ("vgpu_monitor_up", 1.0),
        ("vgpu_driver_info{kind=\"softgpu\"}", 1.0),
        ("vgpu_zone_clients{zone=\"a\",state=\"running\"}", 0.0),
        ("vgpu_zone_clients{zone=\"b\",state=\"running\"}", 1.0),
        ("vgpu_zone_attached_total{zone=\"a\"}", 1.0),
        ("vgpu_zone_refused_total{zone=\"a\"}", 0.0),
        ("vgpu_zone_ended_total{zone=\"a\",reason=\"detached\"}", 1.0),
        (
            "vgpu_zone_ended_total{zone=\"a\",reason=\"worker_died\"}",
            0.0,
        ),
        ("vgpu_zone_ended_total{zone=\"b\",reason=\"detached\"}", 0.0),
        ("vgpu_zone_launches_total{zone=\"a\"}", 1.0),
        ("vgpu_zone_call_errors_total{zone=\"a\"}", 0.0),
        ("vgpu_zone_audit_closed{zone=\"b\"}", 0.0),
        ("vgpu_device_stuck_workers{device=\"0\"}", 0.0),
    ] {
        assert_eq!(metric(name), Some(value), "{name} in {told:#?}");
    }
    // The client has gone, and what it did still counts.
    let calls = status["zones"][0]["totals"]["calls"].as_f64();
    assert!(calls > Some(5.0));
    assert_eq!(metric("vgpu_zone_calls_total{zone=\"a\"}"), calls);
    let states = told.iter().filter(|(name, _)| {
        name.starts_with("vgpu_device_state{device=\"0\"") || name.starts_with("vgpu_build_info{")
    });
    assert_eq!(states.map(|(_, value)| value).sum::<f64>(), 2.0);

    // The page in the book lists them, and nothing else.
    let book = fs::read_to_string(place::repository().join("docs/metrics.md")).expect("it is ours");
    let listed: BTreeSet<&str> = book
        .lines()
        .filter_map(|line| line.strip_prefix("| `vgpu_")?.split('`').next())
        .collect();
    let named = told.keys().map(|name| name.split('{').next());
    let named: BTreeSet<&str> = named
        .filter_map(|name| name?.strip_prefix("vgpu_"))
        .collect();
    assert_eq!(named, listed);
    holder.kill();
    proxy.stop();
}

#[test]
fn whoever_listens_on_the_network_has_no_rights() {
    let proxy = setup().start();
    let address = address(&proxy);
    let mut family = proxy.family().into_iter();
    let api = family.find(|process| process.name.starts_with("vgpu-api"));
    let api = api.expect("it runs");
    assert_eq!(system::network_sockets(proxy.pid()), Vec::<String>::new());
    assert_eq!(system::network_sockets(api.pid).len(), 1);
    let status = fs::read_to_string(format!("/proc/{}/status", api.pid)).expect("it runs");
    for (name, value) in [
        ("CapPrm", "0000000000000000"),
        ("CapInh", "0000000000000000"),
        ("NoNewPrivs", "1"),
    ] {
        assert!(status.contains(&format!("{name}:\t{value}\n")), "{status}");
    }
    if nix::unistd::Uid::effective().is_root() {
        let ids = format!("Uid:\t{UID}\t{UID}\t{UID}\t{UID}\nGid:\t{UID}\t{UID}\t{UID}\t{UID}\n");
        assert!(status.contains(&ids), "{status}");
    }
    // Where it asks nothing can be changed, nor seen that is not in the status.
    for request in ["policy reload 1\n", "allocations 1 default\n", "status 2\n"] {
        let socket = proxy.directory().join("run/status.sock");
        let mut socket = UnixStream::connect(socket).expect("it is there");
        socket.write_all(request.as_bytes()).expect("it is taken");
        let mut reply = String::new();
        socket.read_to_string(&mut reply).expect("text");
        assert!(reply.contains("answers only 'status 1'"), "{reply}");
    }
    let code = |request: &str| {
        let (head, body) = ask(&address, request);
        let code = head.split(' ').nth(1).map(str::to_owned);
        (code.expect("a code"), body)
    };
    for (request, expected, words) in [
        ("GET /healthz HTTP/1.1", "200", "the api serves"),
        ("GET /readyz HTTP/1.1", "200", "gpu-proxy serves"),
        ("HEAD /metrics HTTP/1.1", "200", ""),
        ("GET / HTTP/1.1", "404", "/metrics"),
        ("GET /metrics/../../etc/passwd HTTP/1.1", "404", "/metrics"),
        ("POST /metrics HTTP/1.1", "405", "GET"),
        ("GET /metrics?a=b HTTP/1.1", "200", "# EOF"),
        ("nonsense", "400", ""),
    ] {
        let (found, body) = code(request);
        assert_eq!(found, expected, "{request}: {body}");
        assert!(body.contains(words), "{request}: {body}");
    }
    // Those who connect and say nothing are in nobody's way for long.
    let silent: Vec<TcpStream> = (0..40)
        .map(|_| TcpStream::connect(&address).expect("the kernel takes them"))
        .collect();
    assert_eq!(code("GET /healthz HTTP/1.1").0, "200");
    drop(silent);
    proxy.stop();
}

#[test]
fn an_api_that_dies_is_started_again_and_one_that_cannot_listen_is_told() {
    let proxy = setup().start();
    address(&proxy);
    let pid = |proxy: &Proxy| proxy.status()["api"]["pid"].as_u64();
    let first = pid(&proxy).and_then(|pid| u32::try_from(pid).ok());
    let first = first.and_then(system::Identity::of).expect("it runs");
    first.kill();
    proxy.wait_until("another", |proxy| {
        pid(proxy).is_some_and(|pid| pid != u64::from(first.pid))
    });
    metrics(&address(&proxy));
    proxy.stop();

    let taken = TcpListener::bind("127.0.0.1:0").expect("a loopback");
    let listen = taken.local_addr().expect("it listens");
    let proxy = Setup::new().api(&format!("listen = \"{listen}\"")).start();
    let why = format!("cannot listen on {listen}: Address already in use");
    proxy.wait_until("what is the matter", |proxy| {
        let failure = proxy.status()["api"]["failure"].clone();
        failure
            .as_str()
            .is_some_and(|failure| failure.contains(&why))
    });
    // Clients are served all the same.
    proxy.client("vector-add").run().expect_success();
    let doctor = proxy.vgpuctl(&["doctor"]).expect_success().stdout;
    assert!(
        doctor.contains(&why) && doctor.contains("another api.listen"),
        "{doctor}"
    );
    // Once the port is free it is served there.
    drop(taken);
    assert_eq!(address(&proxy), listen.to_string());
    proxy.stop();
}

/// What a real Prometheus makes of it, with our settings, our rules and what our dashboard asks.
#[test]
fn prometheus_takes_them_and_the_dashboard_shows_them() {
    let deploy = place::repository().join("deploy");
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let shared = folder.path().join("device");
    fs::create_dir(&shared).expect("the directory is ours");
    let proxy = setup()
        .audit("")
        .monitor("mode = \"report\"\ninterval = \"20ms\"")
        .driver_env("SOFTGPU_SHARED", shared.to_str().expect("plain"))
        .start();
    let Some(prometheus) = Prometheus::start(&address(&proxy), folder.path()) else {
        eprintln!("not run: there is no prometheus; install what Debian calls prometheus");
        return;
    };
    proxy.client("vector-add").run().expect_success();
    proxy.wait_until("all metrics in Prometheus", |_| {
        // Rates need two samples.
        let rate = "rate(vgpu_zone_launches_total[1m])";
        let age = "vgpu_monitor_sweep_age_seconds and on (job) vgpu_device_state";
        !prometheus.ask(rate).is_empty() && !prometheus.ask(age).is_empty()
    });
    let targets = prometheus.ask("up{job=\"vgpu\"}");
    assert_eq!(targets[0]["value"][1], "1", "{targets:?}");
    let dashboard = fs::read_to_string(deploy.join("grafana/dashboards/vgpu.json"));
    let dashboard: Value = serde_json::from_str(&dashboard.expect("it is ours")).expect("JSON");
    let mut questions = 0;
    for target in panels(&dashboard).flat_map(|panel| list(&panel["targets"])) {
        let question = target["expr"].as_str().expect("a question");
        let plain = question
            .replace("$zone", ".+")
            .replace("$__rate_interval", "1m");
        let answer = prometheus.ask(&plain);
        // Those have something to show when something is wrong.
        let is_quiet = question.contains("ALERTS") || question.ends_with("> 0");
        assert!(is_quiet || !answer.is_empty(), "nothing for {question}");
        questions += 1;
    }
    assert!(questions > 30, "{questions}");
    proxy.stop();
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The panels of a dashboard, those in folded rows among them.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    list(&dashboard["panels"]).flat_map(|panel| list(&panel["panels"]).chain([panel]))
}

/// A Prometheus with our settings, but for the address and its pace.
struct Prometheus {
    address: String,
    _process: e2e::Running,
}

impl Prometheus {
    /// None where it is not installed; what is wrong with our files fails the test.
    fn start(target: &str, folder: &Path) -> Option<Self> {
        let ours = place::repository().join("deploy/prometheus");
        let promtool = |words: &[&str], file: &str| {
            let program = Program::new("/usr/bin/env").arg("promtool").args(words);
            program.arg(ours.join(file)).run().expect_success();
        };
        let is_there = |name: &str| Path::new("/usr/bin").join(name).exists();
        if !is_there("prometheus") || !is_there("promtool") {
            return None;
        }
        promtool(&["check", "config"], "prometheus.yml");
        promtool(&["test", "rules"], "rules-test.yml");
        let settings = fs::read_to_string(ours.join("prometheus.yml")).expect("it is ours");
        let rules = ours.join("rules.yml").display().to_string();
        let settings = settings
            .replace("127.0.0.1:9464", target)
            .replace("interval: 5s", "interval: 200ms")
            .replace("rules.yml", &rules);
        let file = folder.join("prometheus.yml");
        fs::write(&file, settings).expect("the directory is ours");
        // A port that was free a moment ago.
        let free = TcpListener::bind("127.0.0.1:0").expect("a loopback");
        let address = free.local_addr().expect("it listens").to_string();
        drop(free);
        let process = Program::new("/usr/bin/prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .start();
        let give_up = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(&address).is_err() {
            assert!(Instant::now() < give_up, "Prometheus does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self {
            address,
            _process: process,
        })
    }

    /// The series that answer a question.
    fn ask(&self, question: &str) -> Vec<Value> {
        let escape = |byte: u8| format!("%{byte:02x}");
        let question: String = question.bytes().map(escape).collect();
        let (head, body) = ask(
            &self.address,
            &format!("GET /api/v1/query?query={question} HTTP/1.0"),
        );
        assert!(
            head.contains(" 200 ") || head.contains(" 503 "),
            "{head}\n{body}"
        );
        let answer: Value = serde_json::from_str(&body).unwrap_or_default();
        list(&answer["data"]["result"]).cloned().collect()
    }
}
