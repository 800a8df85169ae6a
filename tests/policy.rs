//! Policy: what a zone is not granted is refused at once, on both sides; what gives back, waits and tells never is.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use cuda_abi::function::{Function, Group};
use e2e::{Orders, Program, Proxy, Setup, Zone, place};
use idm_protocol::attach::client::{AttachError, attach, survey};
use idm_protocol::attach::{Capabilities, Hello, RefusalCode};
use idm_protocol::control::ClientControl;
use idm_protocol::memory::Mapped;
use idm_protocol::record::{Flags, Head};
use idm_protocol::wait::{Deadline, Patience};
use idm_protocol::wire::{REQUESTS, TABLE_HASH};

const MIB: u64 = 1 << 20;
const NOT_PERMITTED: u32 = 800;

/// A policy that grants these groups to zone `a`, with more lines for it.
fn policy(groups: u64, more: &str) -> String {
    let names: Vec<&str> = Group::in_mask(groups).map(Group::name).collect();
    format!("version = 1\n\n[[zone]]\nname = \"a\"\nallow = {names:?}\n{more}")
}

fn proxy(groups: u64) -> Proxy {
    Setup::new()
        .zone(Zone::new("a"))
        .policy(&policy(groups, ""))
        .start()
}

#[test]
fn every_function_of_a_group_that_is_not_granted_is_refused_at_once() {
    let proxy = proxy(Group::MASK);
    let mut client = Orders::start(proxy.client("policy"));
    let groups = Group::ALL.into_iter().filter(|&group| group != Group::Nvml);
    for group in groups {
        proxy
            .reload(&policy(Group::MASK & !group.bit(), ""))
            .expect_success();
        let answer = client.order(&format!("probe {}", group.name()));
        let (count, let_through) = answer.split_once(' ').unwrap();
        assert_ne!(count, "0", "{group:?}");
        assert_eq!(let_through, "none", "{group:?} was not refused");
    }
    proxy.reload(&policy(Group::MASK, "")).expect_success();
    // What was granted again works again: the next call goes by the new word.
    assert_eq!(client.order("allocate 1024"), "0");
    let finished = client.finish();
    let told = finished
        .stderr
        .lines()
        .filter(|line| line.contains("policy does not grant"));
    assert_eq!(told.count(), Group::ALL.len() - 1, "{}", finished.stderr);
}

#[test]
fn a_refusal_is_on_record_with_zone_call_group_and_rule() {
    let proxy = proxy(Group::MASK & !Group::Vmm.bit());
    let mut client = Orders::start(proxy.client("policy"));
    client.order("probe vmm");
    proxy.wait_until("the refusal is on record", |proxy| {
        proxy.log().lines().any(|line| {
            let parts = [
                "call refused by policy",
                "zone=\"a\"",
                "client=",
                "group=\"vmm\"",
                "policy.toml:3",
                "audit=\"memory\"",
            ];
            line.contains("cuMemCreate") && parts.iter().all(|part| line.contains(part))
        })
    });
    client.finish();
}

#[test]
fn what_was_held_can_be_given_back_after_everything_was_taken_away() {
    let proxy = proxy(Group::MASK);
    let mut client = Orders::start(proxy.client("policy"));
    assert_eq!(client.order("hold"), "all");
    let reloaded = proxy.reload(&policy(0, "")).expect_success();
    assert!(
        reloaded.stdout.contains("no longer allows compute, memory"),
        "{}",
        reloaded.stdout
    );
    assert_eq!(client.order("allocate 1024"), NOT_PERMITTED.to_string());
    assert_eq!(client.order("leave"), "all");
    client.finish();
    // Who comes now is told at once.
    let late = proxy.client("init").run();
    assert!(
        late.stdout.starts_with("init 800 ") && late.stderr.contains("grants this zone nothing"),
        "{}",
        late.describe()
    );
    proxy.reload(&policy(Group::MASK, "")).expect_success();
    proxy.client("vector-add").run().expect_success();
}

#[test]
fn a_zone_that_the_policy_does_not_name_gets_nothing() {
    let proxy = Setup::new()
        .zone(Zone::new("a"))
        .zone(Zone::new("b"))
        .policy(&policy(Group::MASK, ""))
        .start();
    proxy.client("vector-add").run().expect_success();
    let refused = proxy
        .program_in("b", place::client())
        .arg("vector-add")
        .run();
    assert_ne!(refused.code, Some(0));
    let hello = Hello::new(TABLE_HASH, Capabilities::ALL, u32::MAX, "stranger");
    let outcome = attach(&proxy.socket("b"), &hello, Duration::from_secs(60));
    assert!(
        matches!(
            outcome,
            Err(AttachError::Refused {
                code: RefusalCode::NOT_GRANTED,
                ..
            })
        ),
        "{outcome:?}"
    );
    let seen = survey(&proxy.socket("b"), Duration::from_secs(60)).err();
    assert!(
        matches!(
            seen,
            Some(AttachError::Refused {
                code: RefusalCode::NOT_GRANTED,
                ..
            })
        ),
        "{seen:?}"
    );
    assert!(survey(&proxy.socket("a"), Duration::from_secs(60)).is_ok());
}

/// A client that does not look at the capability page: the worker refuses what it sends all the same.
#[test]
fn records_of_a_group_that_is_not_granted_are_refused_by_the_worker() {
    let proxy = proxy(Group::Jit.bit());
    let hello = Hello::new(TABLE_HASH, Capabilities::ALL, u32::MAX, "raw");
    let attached = attach(&proxy.socket("a"), &hello, Duration::from_secs(60)).unwrap();
    let region = Mapped::new(&attached.control).unwrap();
    let limits = &attached.welcome.limits;
    let (control, _callbacks) = ClientControl::open(&region, limits, Patience::detect()).unwrap();
    let mut lane = control.lanes.take().unwrap();
    let mut refused = 0;
    for &(name, opcode, size) in REQUESTS {
        let required = Function::from_opcode(opcode).unwrap().info().requires;
        if required.is_none() || required == Some(Group::Jit) {
            continue;
        }
        // Bodies of no sense: nothing looks at them.
        let body = vec![0xff; size];
        for flags in [Flags::REPLY, Flags::REPLY.union(Flags::LANE)] {
            let head = Head {
                opcode,
                flags,
                lane: lane.index(),
                context: 0,
            };
            let live = Deadline(Instant::now() + Duration::from_secs(60));
            let sequence = control.submissions.post(head, &body, &[], &live).unwrap();
            let reply = lane.await_reply(sequence, &live).unwrap();
            assert_eq!(reply.status, NOT_PERMITTED, "{name}");
        }
        refused += 1;
    }
    assert!(refused > 50, "{refused}");
}

#[test]
fn text_that_the_driver_would_compile_needs_jit() {
    let proxy = proxy(Group::MASK & !Group::Jit.bit());
    let finished = proxy.client("vector-add").run();
    assert_eq!(finished.code, Some(1), "{}", finished.describe());
    assert!(
        finished.stderr.contains("cuModuleLoadData") && finished.stderr.contains("(800)"),
        "{}",
        finished.describe()
    );
    proxy.wait_until("the refusal is on record", |proxy| {
        proxy
            .log()
            .lines()
            .any(|line| line.contains("cuModuleLoadDataEx") && line.contains("group=\"jit\""))
    });
}

#[test]
fn a_wrong_policy_changes_nothing_and_says_where_it_is_wrong() {
    let granted = Group::MASK & !Group::Ipc.bit();
    let proxy = proxy(granted);
    let mut client = Orders::start(proxy.client("policy"));
    let wrong = policy(
        Group::MASK,
        "memroy = \"1GiB\"\n[[zone]]\nname = \"b\"\nallow = [\"grphs\"]\n",
    );
    let refused = proxy.reload(&wrong);
    assert_eq!(refused.code, Some(1), "{}", refused.describe());
    for part in [
        "the old one stays",
        "policy.toml:6: zone[0].memroy",
        "did you mean memory?",
        "policy.toml:9: zone[1].allow[0]",
        "did you mean \"graphs\"?",
    ] {
        assert!(
            refused.stderr.contains(part),
            "{part}\n{}",
            refused.describe()
        );
    }
    let stranger = policy(Group::MASK, "[[zone]]\nname = \"b\"\nallow = []\n");
    let refused = proxy.reload(&stranger);
    assert_eq!(refused.code, Some(1), "{}", refused.describe());
    assert!(refused.stderr.contains("no zone of the configuration"));
    // The old one stays: ipc is refused, the rest is not.
    assert!(client.order("probe ipc").ends_with(" none"));
    assert_eq!(client.order("allocate 1024"), "0");
    let status = proxy.status();
    assert_eq!(
        status["zones"][0]["allow"].as_array().unwrap().len(),
        Group::ALL.len() - 1
    );
    client.finish();
}

#[test]
fn a_zone_above_its_new_quota_keeps_what_it_has_and_cannot_grow() {
    let proxy = Setup::new()
        .zone(Zone::new("a").memory("64MiB"))
        .policy(&policy(Group::MASK, ""))
        .start();
    let mut client = Orders::start(proxy.client("policy"));
    assert_eq!(client.order(&format!("allocate {}", 32 * MIB)), "0");
    let reloaded = proxy
        .reload(&policy(Group::MASK, "memory = \"16MiB\"\nclients = 1\n"))
        .expect_success();
    assert!(
        reloaded.stdout.contains("memory 64MiB -> 16MiB")
            && reloaded.stdout.contains("clients 8 -> 1"),
        "{}",
        reloaded.stdout
    );
    let out_of_memory = "2";
    assert_eq!(
        client.order(&format!("allocate {}", 8 * MIB)),
        out_of_memory
    );
    assert_eq!(proxy.status()["zones"][0]["memory_limit"], 16 * MIB);
    let second = proxy.client("init").run();
    assert!(
        second.stdout.starts_with("init 800 "),
        "{}",
        second.describe()
    );
    assert_eq!(client.order("free"), "0");
    assert_eq!(client.order(&format!("allocate {}", 8 * MIB)), "0");
    client.finish();
}

#[test]
fn check_and_explain_need_no_proxy() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    let vgpuctl = |arguments: &[&str]| {
        Program::new(place::built("vgpuctl"))
            .arg("policy")
            .args(arguments)
            .run()
    };
    std::fs::write(&file, policy(Group::Compute.bit(), "")).unwrap();
    let name = file.to_str().unwrap();
    let checked = vgpuctl(&["check", name]).expect_success();
    assert!(
        checked.stdout.contains("allow = [\"compute\"]"),
        "{}",
        checked.stdout
    );
    let explain = |call| vgpuctl(&["explain", "a", call, "--file", name]);
    let explained = explain("cuMemAlloc").expect_success().stdout;
    for part in [
        ":3: zone \"a\" is granted compute",
        "group memory",
        "add \"memory\"",
    ] {
        assert!(explained.contains(part), "{part}\n{explained}");
    }
    assert!(
        explain("cuMemFree")
            .expect_success()
            .stdout
            .contains("allowed, as always")
    );
    assert_eq!(explain("cudaMalloc").code, Some(1));
    std::fs::write(&file, "version = 9\n").unwrap();
    let wrong = vgpuctl(&["check", name]);
    assert_eq!(wrong.code, Some(1));
    assert!(
        wrong.stderr.contains("policy.toml:1: version"),
        "{}",
        wrong.stderr
    );
    let absent = vgpuctl(&["check", "/nowhere/policy.toml"]);
    assert!(
        absent.stderr.contains("/nowhere/policy.toml"),
        "{}",
        absent.stderr
    );
}
