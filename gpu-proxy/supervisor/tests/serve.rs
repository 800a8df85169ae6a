//! The supervisor as a whole: clients that behave, workers that die, signals, nothing left behind.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use common::*;
use idm_protocol::attach::client::attach;
use idm_protocol::attach::{Capabilities, DriverKind, Hello, RefusalCode};
use idm_protocol::status::{ClientState, EndReason, StatusPage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn client_attaches_runs_and_detaches() {
    let proxy = Proxy::start(ZONE_A);
    let attached = proxy.attach("a", "vectorAdd").unwrap();
    let welcome = attached.welcome;
    assert_eq!(welcome.driver_kind, DriverKind::SOFTGPU);
    assert_eq!((welcome.driver_version, welcome.device_count), (13030, 1));
    assert_eq!(welcome.memory_limit, 1 << 30);
    assert_eq!(welcome.limits.arena_bytes, 32 << 20);
    assert_eq!(welcome.window, 1, "the best candidate that both sides have");
    assert_eq!(welcome.capabilities, Capabilities::ALL);
    let page = StatusPage::open(&attached.status).unwrap();
    assert_eq!(page.state(), ClientState::RUNNING);
    assert_eq!(
        (page.memory_limit(), page.capabilities()),
        (1 << 30, Capabilities::ALL)
    );

    let status = proxy.wait_for_status("the worker's counters", |status| {
        status.zones[0]
            .clients
            .first()
            .is_some_and(|client| client.calls == 10)
    });
    let client = &status.zones[0].clients[0];
    assert_eq!(
        (client.program.as_str(), client.state.as_str()),
        ("vectorAdd", "running")
    );
    assert_eq!(client.pid, i32::try_from(std::process::id()).unwrap());
    assert_eq!(
        (client.kernels[0].name.as_str(), client.kernels[0].launches),
        ("saxpy", 3)
    );
    assert_eq!(status.proxy.driver.version, Some(13030));

    drop(attached);
    let status = proxy.wait_for_status("the client to be gone", |status| {
        status.zones[0].clients.is_empty()
    });
    assert_eq!(status.zones[0].attached_total, 1);
}

#[test]
fn worker_inherits_its_channel_and_nothing_else() {
    let proxy = Proxy::start_with(
        "",
        "SOFTGPU_MEMORY = \"1GiB\"",
        &format!("{ZONE_A}devices = [1, 0]\n"),
    );
    proxy.wait_for_log("fds=");
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("fds=")).unwrap();
    assert!(line.contains(r#"fds=["0", "1", "2", "3"]"#), "{line}");
    assert!(
        line.contains("SOFTGPU_MEMORY") && line.contains("CUDA_VISIBLE_DEVICES"),
        "{line}"
    );
    assert!(!line.contains("SECRET") && !line.contains("PATH"), "{line}");
    assert!(
        line.contains("blocked=0000000000000000") && line.contains("session=true"),
        "{line}"
    );
}

#[test]
fn one_client_too_many_is_refused_and_room_is_made_when_one_leaves() {
    let proxy = Proxy::start(&format!("{ZONE_A}clients = 2\n"));
    let first = proxy.attach("a", "one").unwrap();
    let _second = proxy.attach("a", "two").unwrap();
    let (code, text) = proxy.refusal("a", "three");
    assert_eq!(code, RefusalCode::ZONE_FULL);
    assert!(
        text.contains("2 clients") && text.contains("raise clients"),
        "{text}"
    );
    drop(first);
    // Its worker is still ending; the next client waits for that instead of being refused.
    proxy.wait_for_status("one client to be gone", |status| {
        status.zones[0]
            .clients
            .iter()
            .filter(|client| client.state == "running")
            .count()
            == 1
    });
    proxy.attach("a", "four").unwrap();
}

#[test]
fn zone_without_warm_workers_starts_one_on_demand() {
    let proxy = Proxy::start(&format!("{ZONE_A}warm_workers = 0\n"));
    assert!(proxy.children().is_empty());
    let attached = proxy.attach("a", "one").unwrap();
    assert_eq!(proxy.children().len(), 1);
    drop(attached);
    wait_until("no worker", || proxy.children().is_empty());
}

#[test]
fn table_hash_and_window_that_do_not_match_are_refused_with_a_remedy_and_cost_no_worker() {
    let proxy = Proxy::start(ZONE_A);
    let wrong_table = Hello {
        table_hash: 1,
        ..hello("old")
    };
    let (code, text) = refusal(attach(&proxy.socket("a"), &wrong_table, PATIENCE));
    assert_eq!(code, RefusalCode::WRONG_TABLE);
    assert!(text.contains("install the libvgpu that matches"), "{text}");
    let no_window = Hello {
        window_mask: 0b1001,
        ..hello("cramped")
    };
    let (code, text) = refusal(attach(&proxy.socket("a"), &no_window, PATIENCE));
    assert_eq!(code, RefusalCode::NO_COMMON_WINDOW);
    assert!(text.contains("address range"), "{text}");
    let before = proxy.children();
    proxy.attach("a", "fine").unwrap();
    assert!(!before.is_empty());
}

#[test]
fn memory_is_granted_up_to_the_quota_over_all_clients_and_returns_when_one_is_killed() {
    let proxy = Proxy::start(ZONE_A);
    let mut first = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_client", "--nocapture", "--ignored"])
        .env("HELPER_SOCKET", proxy.socket("a"))
        .env("HELPER_PROGRAM", format!("charge:{}", 800u64 << 20))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let status = proxy.wait_for_status("the first charge", |status| {
        // The grant is the supervisor's, what is held the worker's claim, a moment later.
        status.zones[0].memory_used >= 800 << 20 && status.zones[0].clients[0].memory_held > 0
    });
    assert_eq!(status.zones[0].clients[0].memory_held, 800 << 20);
    let second = proxy
        .attach("a", &format!("charge:{}", 300u64 << 20))
        .unwrap();
    let page = StatusPage::open(&second.status).unwrap();
    wait_until("memory in use on the status page", || {
        page.memory_used() >= 800 << 20
    });
    let status = proxy.wait_for_status("the refusal", |status| {
        status.zones[0]
            .clients
            .iter()
            .any(|client| client.errors == 1)
    });
    assert!(status.zones[0].memory_used < 1 << 30);
    // Killed, not asked: its credit must return all the same.
    first.kill().unwrap();
    first.wait().unwrap();
    proxy.wait_for_status("the credit to return", |status| {
        status.zones[0].memory_used == 0
    });
    assert_eq!(page.memory_used(), 0);
    let _third = proxy
        .attach("a", &format!("charge:{}", 900u64 << 20))
        .unwrap();
    proxy.wait_for_status("the third charge", |status| {
        status.zones[0].memory_used >= 900 << 20
    });
}

/// Not a test of its own: the client that another test kills.
#[test]
#[ignore = "started by another test as its peer"]
fn helper_client() {
    // Run for itself, with all ignored tests, it has nothing to do.
    let Some(socket) = std::env::var_os("HELPER_SOCKET") else {
        return;
    };
    let program = std::env::var("HELPER_PROGRAM").unwrap();
    let _attached = attach(socket.as_ref(), &hello(&program), PATIENCE).unwrap();
    std::thread::sleep(PATIENCE);
}

#[test]
fn killed_worker_ends_its_client_and_no_other() {
    let proxy = Proxy::start(ZONE_A);
    let (victim, bystander) = (
        proxy.attach("a", "victim").unwrap(),
        proxy.attach("a", "other").unwrap(),
    );
    let status = proxy.status();
    let find = |program| {
        status.zones[0]
            .clients
            .iter()
            .find(|client| client.program == program)
            .unwrap()
    };
    let pid = Pid::from_raw(i32::try_from(find("victim").worker_pid).unwrap());
    kill(pid, Signal::SIGKILL).unwrap();
    victim.lifeline.wait_cut();
    let page = StatusPage::open(&victim.status).unwrap();
    assert_eq!(
        (page.state(), page.end_reason()),
        (ClientState::ENDED, EndReason::WORKER_DIED)
    );
    wait_until("the worker to be waited for", || {
        !proxy.children().contains(&pid.as_raw())
    });
    assert!(!bystander.lifeline.is_cut());
    assert_eq!(proxy.status().zones[0].clients.len(), 1);
}

#[test]
fn worker_that_misbehaves_is_ended_with_its_client() {
    let proxy = Proxy::start(ZONE_A);
    for (program, line) in [
        ("die", "exit status 7"),
        ("garbage", "protocol violation"),
        ("empty-packet", "hung up"),
        ("over-release", "released 1152921504606846976 bytes"),
        (
            "close-unshared",
            "names shared memory that it does not have",
        ),
        (
            "withdraw-unshared",
            "names shared memory that it does not have",
        ),
        ("out-of-turn", "out of turn"),
        ("violation", "the client forged a handle"),
        ("flood-charges", "does not read its channel"),
    ] {
        let attached = proxy.attach("a", program).unwrap();
        attached.lifeline.wait_cut();
        let page = StatusPage::open(&attached.status).unwrap();
        let expected = if program == "violation" {
            EndReason::VIOLATION
        } else {
            EndReason::WORKER_DIED
        };
        assert_eq!(page.end_reason(), expected, "{program}");
        proxy.wait_for_log(line);
        let status = proxy.wait_for_status(program, |status| status.zones[0].clients.is_empty());
        assert_eq!(status.zones[0].memory_used, 0, "{program}");
    }
    proxy.attach("a", "fine").unwrap();
}

#[test]
fn worker_that_ignores_stop_is_killed_after_the_grace() {
    let proxy = Proxy::start_with("stop_grace = \"100ms\"", "", ZONE_A);
    drop(proxy.attach("a", "ignore-stop").unwrap());
    proxy.wait_for_status("the client to be gone", |status| {
        status.zones[0].clients.is_empty()
    });
    proxy.wait_for_log("did not stop in time; killed");
}

#[test]
fn worker_that_cannot_attach_has_its_reason_passed_on() {
    let proxy = Proxy::start_with("start_timeout = \"1s\"", "", ZONE_A);
    let (code, text) = proxy.refusal("a", "fail-attach");
    assert_eq!(code, RefusalCode::NO_WORKER);
    assert!(text.contains("the arena does not fit"), "{text}");
    let (code, _) = proxy.refusal("a", "die-attaching");
    assert_eq!(code, RefusalCode::NO_WORKER);
    // By now the zone backs off; the next is served when a worker is there again.
    wait_until("a worker again", || {
        proxy.status().zones[0].warm_workers > 0
    });
    let (code, text) = proxy.refusal("a", "never-attached");
    assert_eq!(code, RefusalCode::NO_WORKER);
    assert!(text.contains("in time"), "{text}");
}

#[test]
fn workers_that_cannot_start_are_retried_ever_more_slowly_and_clients_told_why() {
    for (start, reason) in [
        ("fail", "no such device"),
        ("exit", "before it was ready"),
        ("garbage", "protocol violation"),
    ] {
        let proxy = Proxy::start_with("", &format!("FAKE_START = \"{start}\""), ZONE_A);
        let (code, text) = proxy.refusal("a", "program");
        assert_eq!(code, RefusalCode::NO_WORKER);
        let hung_up = start == "exit" && text.contains("closed its channel");
        assert!(text.contains(reason) || hung_up, "{start}: {text}");
        std::thread::sleep(Duration::from_millis(1500));
        // 0, 250, 750 ms and 1.75 s after the start: no storm.
        let failures = proxy.log().matches("no worker: ").count();
        assert!((2..=6).contains(&failures), "{start}: {failures} failures");
        assert!(proxy.status().zones[0].worker_failure.is_some());
    }
}

#[test]
fn worker_that_hangs_at_start_is_killed_in_time() {
    let proxy = Proxy::start_with("start_timeout = \"200ms\"", "FAKE_START = \"hang\"", ZONE_A);
    let (code, text) = proxy.refusal("a", "program");
    assert_eq!(code, RefusalCode::NO_WORKER);
    assert!(text.contains("did not get ready"), "{text}");
}

#[test]
fn a_noisy_worker_does_not_flood_the_log() {
    let proxy = Proxy::start_with("", "FAKE_START = \"noisy\"", ZONE_A);
    let _attached = proxy.attach("a", "program").unwrap();
    assert!(proxy.log().matches("noise").count() <= 2 * 200);
}

#[test]
fn two_hundred_clients_leave_neither_descriptors_nor_processes_behind() {
    let proxy = Proxy::start(&format!("{ZONE_A}warm_workers = 2\n"));
    let settle = || {
        proxy.wait_for_status("two warm workers and nobody else", |status| {
            let zone = &status.zones[0];
            zone.warm_workers == 2 && zone.clients.is_empty() && zone.starting_workers == 0
        });
        (proxy.descriptors(), proxy.children().len())
    };
    drop(proxy.attach("a", "first").unwrap());
    let before = settle();
    let mut ids = BTreeSet::new();
    let mut times = Vec::new();
    for round in 0..200 {
        let start = Instant::now();
        let attached = proxy.attach("a", &format!("charge:{}", 1 << 20)).unwrap();
        times.push(start.elapsed());
        assert!(
            ids.insert(attached.welcome.client_id),
            "round {round}: an id came twice"
        );
    }
    times.sort();
    println!("attach: median {:?}, most {:?}", times[100], times[199]);
    assert_eq!(settle(), before);
    assert_eq!(proxy.status().zones[0].memory_used, 0);
}

#[test]
fn sigterm_ends_everything_cleanly() {
    let mut proxy = Proxy::start(&format!(
        "{ZONE_A}\n[[zone]]\nname = \"b\"\nmemory = \"1GiB\"\n"
    ));
    let attached = proxy.attach("a", "program").unwrap();
    let workers = proxy.children();
    proxy.signal(Signal::SIGTERM);
    attached.lifeline.wait_cut();
    let page = StatusPage::open(&attached.status).unwrap();
    assert_eq!(page.end_reason(), EndReason::SHUTDOWN);
    assert_eq!(proxy.ended().code(), Some(0));
    for zone in ["a", "b"] {
        assert!(!proxy.socket(zone).exists());
        assert!(!proxy.socket(zone).parent().unwrap().exists());
    }
    assert!(!proxy.folder.path().join("run/admin.sock").exists());
    for worker in workers {
        assert!(
            !fs::exists(format!("/proc/{worker}")).unwrap(),
            "worker {worker} is left"
        );
    }
}

#[test]
fn second_signal_does_not_wait_for_the_grace() {
    let mut proxy = Proxy::start_with("stop_grace = \"60s\"", "", ZONE_A);
    let _attached = proxy.attach("a", "ignore-stop").unwrap();
    proxy.signal(Signal::SIGINT);
    proxy.wait_for_log("stopping");
    proxy.signal(Signal::SIGINT);
    assert_eq!(proxy.ended().code(), Some(0));
    assert!(proxy.log().contains("second signal"));
}

#[test]
fn workers_die_with_a_supervisor_that_is_killed_and_the_next_one_starts_over_its_remains() {
    let mut proxy = Proxy::start(ZONE_A);
    let attached = proxy.attach("a", "ignore-stop").unwrap();
    let workers = proxy.children();
    proxy.signal(Signal::SIGKILL);
    proxy.ended();
    attached.lifeline.wait_cut();
    for worker in workers {
        wait_until("the worker to die", || {
            // An orphan that nobody waits for may stay as a zombie.
            let stat = fs::read_to_string(format!("/proc/{worker}/stat"));
            stat.map_or(true, |stat| stat.contains(") Z"))
        });
    }
    assert!(proxy.socket("a").exists());
    proxy.child = spawn(proxy.folder.path());
    wait_until("the next supervisor", || {
        proxy.log().matches("gpu-proxy serves").count() == 2
    });
    proxy.attach("a", "again").unwrap();
}

#[test]
fn second_supervisor_in_one_folder_is_told_so() {
    let proxy = Proxy::start(ZONE_A);
    let mut second = spawn(proxy.folder.path());
    assert_eq!(second.wait().unwrap().code(), Some(1));
    assert!(
        proxy.log().contains("another gpu-proxy uses"),
        "{}",
        proxy.log()
    );
    proxy.attach("a", "still served").unwrap();
}

#[test]
fn socket_has_the_permissions_that_were_asked_for() {
    let zones = format!("{ZONE_A}mode = \"0622\"\n\n[[zone]]\nname = \"b\"\nmemory = \"1GiB\"\n");
    let proxy = Proxy::start(&zones);
    let mode = |zone| {
        fs::metadata(proxy.socket(zone))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!((mode("a"), mode("b")), (0o622, 0o600));
}

#[test]
fn zones_have_clients_and_quotas_of_their_own() {
    let zones = format!("{ZONE_A}clients = 1\n\n[[zone]]\nname = \"b\"\nmemory = \"1MiB\"\n");
    let proxy = Proxy::start(&zones);
    let _a = proxy.attach("a", &format!("charge:{}", 1 << 29)).unwrap();
    let _b = proxy.attach("b", "charge:4096").unwrap();
    let status = proxy.wait_for_status("both charges", |status| {
        status.zones.iter().all(|zone| zone.memory_used > 0)
    });
    assert!(status.zones[1].memory_used <= 1 << 20);
    assert_eq!(proxy.refusal("a", "x").0, RefusalCode::ZONE_FULL);
}
