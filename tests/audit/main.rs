//! What the log says of programs' calls, and that everything is in it that a program has an answer for.
#![forbid(unsafe_code)]

mod kills;

use std::fs;
use std::time::Duration;

use e2e::{Finished, Proxy, Setup, Zone, place};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn proxy(more: &str) -> Proxy {
    Setup::new()
        .zone(Zone::new("a"))
        .audit(&format!("checkpoint_after = \"50ms\"\n{more}"))
        .watchdog(Duration::from_secs(120))
        .start()
}

fn vgpuctl(proxy: &Proxy, arguments: &[&str]) -> Finished {
    let (command, rest) = arguments.split_first().expect("a command");
    let program = proxy.audit(command, &proxy.spool()).args(rest);
    program.run().expect_success()
}

/// The log holds, in the spool and as lines.
fn verify(proxy: &Proxy) {
    proxy.verify(&proxy.spool()).run().expect_success();
    let log = proxy.directory().join("log");
    fs::write(&log, vgpuctl(proxy, &["export"]).stdout).expect("the directory is ours");
    proxy.expect_verified(&log);
}

/// The lines of the zone's log, once its last record is that a client has gone.
fn lines(proxy: &Proxy, clients: usize) -> Vec<String> {
    let mut lines = Vec::new();
    proxy.wait_until("the end of the client in the log", |proxy| {
        let tail = vgpuctl(proxy, &["tail", "--zone", "a", "--count", "1000000"]);
        lines = tail.stdout.lines().map(str::to_owned).collect();
        lines
            .iter()
            .filter(|line| line.contains(" detach {"))
            .count()
            == clients
    });
    lines
}

/// Where the log of one program's vector addition tells of its steps: in the order in which they happened, with what
/// they happened to.
fn steps(lines: &[String]) -> [usize; 6] {
    let at = |words: &[&str]| {
        let found = lines
            .iter()
            .position(|line| words.iter().all(|word| line.contains(word)));
        found.unwrap_or_else(|| panic!("{words:?} in\n{}", lines.join("\n")))
    };
    let steps = [
        at(&[" attach {", "vgpu-test-client"]),
        at(&[" call cuModuleLoadDataEx ", " image ", " result 0 "]),
        at(&[" call cuMemAlloc_v2 ", " device 0 ", " result 0 "]),
        at(&[" call cuLaunchKernel ", " kernel add ", " image "]),
        at(&[" call cuMemFree_v2 ", " result 0 "]),
        at(&[" detach {"]),
    ];
    assert!(steps.is_sorted(), "{steps:?} in\n{}", lines.join("\n"));
    steps
}

#[test]
fn what_happened_while_the_auditor_was_away_is_recorded_in_its_order() {
    let proxy = proxy("");
    let auditor = || {
        let mut family = proxy.family().into_iter();
        family.find(|process| process.name.starts_with("vgpu-auditor"))
    };
    proxy.client("vector-add").run().expect_success();
    let before = lines(&proxy, 1).len();
    let killed = auditor().expect("it records");
    killed.kill();
    proxy.client("vector-add").run().expect_success();
    steps(&lines(&proxy, 2)[before..]);
    assert_ne!(auditor().expect("another").pid, killed.pid);
    verify(&proxy);
    proxy.stop();
}

#[test]
fn what_a_program_did_can_be_told_from_the_log() {
    let proxy = proxy("");
    proxy.client("vector-add").run().expect_success();
    let lines = lines(&proxy, 1);
    let order = steps(&lines);
    let of = |line: usize, word: &str| {
        let mut words = lines[line].split(' ').skip_while(|found| *found != word);
        words.nth(1).expect("a value").to_owned()
    };
    proxy.vgpuctl(&["allocations", "a"]).expect_success();
    proxy.wait_until("the administrator's question in the log", |proxy| {
        let tail = vgpuctl(proxy, &["tail", "--zone", "@proxy"]).stdout;
        tail.contains(" admin {") && tail.contains("asked for the allocations of a")
    });
    // What was allocated was given back.
    assert_eq!(of(order[2], "object"), of(order[4], "object"));
    assert_eq!(of(order[1], "image"), of(order[3], "image"));
    verify(&proxy);
    proxy.stop();
}

#[test]
fn a_program_names_what_it_does_and_how_long_the_device_took_is_in_the_log() {
    let proxy = proxy("");
    let said = proxy.client("operations").run().expect_success();
    assert!(said.stdout.contains("logged true"), "{}", said.describe());
    let lines = lines(&proxy, 1);
    let operations: Vec<&String> = lines
        .iter()
        .filter(|line| line.contains(" call vgpuLogOperation "))
        .collect();
    let of = |name: &str| operations.iter().filter(|line| line.contains(name)).count();
    for (shape, size) in [
        ("1x10000", 10_000),
        ("2x10000", 20_000),
        ("3x10000", 30_000),
    ] {
        let line = format!(" kernel sums[{shape}] ");
        let found = operations.iter().find(|found| found.contains(&line));
        let found = found.unwrap_or_else(|| panic!("{line} in\n{}", lines.join("\n")));
        assert!(found.contains(&format!(" size {size} ")), "{found}");
    }
    assert_eq!((of(r" two\x0alines[] "), of(" many[1] ")), (1, 300));
    verify(&proxy);
    proxy.stop();
    // Without the proxy it runs as well.
    let said = e2e::proxy::direct(place::client()).arg("operations").run();
    assert!(said.expect_success().stdout.contains("logged false"));
}

#[test]
fn the_log_goes_to_standard_output_while_programs_run() {
    let proxy = proxy("json_lines = \"-\"\n");
    proxy.client("vector-add").run().expect_success();
    lines(&proxy, 1);
    // Log messages are on standard error, which a test has in the same file.
    let printed = |proxy: &Proxy| {
        let log = proxy.log();
        let lines = log.lines().filter(|line| line.starts_with('{'));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let blocks = |lines: &[String]| {
        let is_block =
            |line: &&String| line.starts_with("{\"v\":") || line.starts_with("{\"calls\":");
        let blocks = lines.iter().filter(is_block);
        blocks.cloned().collect::<Vec<_>>()
    };
    let kept = vgpuctl(&proxy, &["export"]).stdout;
    let kept: Vec<String> = kept.lines().map(str::to_owned).collect();
    let kept = blocks(&kept);
    proxy.wait_until("as much on standard output", |proxy| {
        blocks(&printed(proxy)).starts_with(&kept)
    });
    let log = proxy.directory().join("log");
    fs::write(&log, printed(&proxy).join("\n") + "\n").expect("the directory is ours");
    proxy.verify(&log).run().expect_success();
    proxy.stop();
}

/// A program prints how many launches it has seen finished; its worker is killed meanwhile.
#[test]
fn every_call_that_was_answered_is_recorded_although_its_worker_is_killed() {
    let proxy = proxy("");
    for _ in 0..5 {
        let mut client = proxy.client("until-error").start();
        client.wait_for_line("works");
        let family = proxy.family().into_iter();
        let status = proxy.status();
        let worker = status["zones"][0]["clients"][0]["worker_pid"]
            .as_i64()
            .expect("a number");
        assert!(
            family
                .map(|process| i64::from(process.pid))
                .any(|pid| pid == worker)
        );
        let pid = i32::try_from(worker).expect("a process id");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is the proxy's");
        client.finish();
        proxy.wait_until("nobody", |proxy| {
            let status = proxy.status();
            status["zones"][0]["clients"]
                .as_array()
                .is_some_and(Vec::is_empty)
        });
    }
    let lines = lines(&proxy, 5);
    let calls = lines.iter().filter(|line| line.contains(" call ")).count();
    let answered: u64 = lines
        .iter()
        .filter_map(|line| {
            line.split_once(" detach ")?
                .1
                .parse::<serde_json::Value>()
                .ok()
        })
        .map(|data| data["launches"].as_u64().expect("a number"))
        .sum();
    let launches = lines
        .iter()
        .filter(|line| line.contains(" call cuLaunchKernel ") && line.contains(" result 0 "))
        .count();
    // A worker counts a launch when the driver has it, a moment before it is written down.
    let launches = u64::try_from(launches).expect("a count fits");
    assert!(
        (answered.saturating_sub(5)..=answered).contains(&launches),
        "{launches} of {answered}"
    );
    assert!(calls > 20, "{calls}");
    verify(&proxy);
    proxy.stop();
}
