//! A worker that stays although it was killed.
//!
//! The kernel does not let the first process of a namespace of process ids end as long as one that somebody outside
//! started there has not been waited for. So whoever may make such namespaces can hold a worker where nothing ends it.

mod common;

use std::fs::File;
use std::process::{Child, Command, Stdio};

use common::*;
use idm_protocol::attach::RefusalCode;
use nix::sched::{CloneFlags, setns};

/// A process in the namespace of the worker `pid`, which cannot end before this one has been waited for.
fn hold(pid: u32) -> Child {
    let file = File::open(format!("/proc/{pid}/ns/pid")).unwrap();
    // Of the calling thread's children, so a thread of its own.
    let start = move || {
        setns(file, CloneFlags::CLONE_NEWPID).unwrap();
        let mut command = Command::new("/bin/sleep");
        command.arg("1000").stdin(Stdio::null()).spawn().unwrap()
    };
    std::thread::spawn(start).join().unwrap()
}

/// Whether this process may make namespaces of process ids and move into them.
fn may_hold() -> bool {
    let attempt = || {
        let home = File::open("/proc/self/ns/pid").ok()?;
        nix::sched::unshare(CloneFlags::CLONE_NEWPID).ok()?;
        setns(home, CloneFlags::CLONE_NEWPID).ok()
    };
    std::thread::spawn(attempt).join().unwrap().is_some()
}

#[test]
fn a_worker_that_stays_after_a_kill_keeps_its_charge_and_quarantines_its_device() {
    if !may_hold() {
        println!("skipped: no namespaces of process ids for this user");
        return;
    }
    let word = tempfile::NamedTempFile::new().unwrap();
    let path = word.path().display().to_string();
    // A driver whose processes share devices, and workers in namespaces of their own.
    let proxy = Proxy::start_on(
        "nvidia",
        "jail = \"enforce\"",
        "stop_grace = \"100ms\"",
        &format!("FAKE_SCRUB = \"{path}\""),
        &format!("{ZONE_A}\n[[zone]]\nname = \"b\"\nmemory = \"1GiB\"\n"),
    );
    let charge = format!("charge:{}", 1 << 20);
    let neighbour = proxy.attach("b", &charge).unwrap();
    let client = proxy.attach("a", &charge).unwrap();
    let status = proxy.wait_for_status("both charges", |status| {
        status.zones.iter().all(|zone| zone.memory_used > 0)
    });
    let worker = status.zones[0].clients[0].worker_pid;
    let mut held = hold(worker);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(worker).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    drop(client);
    proxy.wait_for_log("alert=\"worker_stuck\"");

    let status = proxy.status();
    assert_eq!(status.devices[0].state, "quarantined");
    assert_eq!(status.devices[0].stuck, [worker]);
    assert_eq!(status.zones[0].clients[0].state, "stuck");
    assert!(status.zones[0].memory_used > 0, "it may still have it");
    assert!(status.zones[1].memory_used > 0, "who is there stays");
    let (code, text) = proxy.refusal("b", "late");
    assert_eq!(code, RefusalCode::DEVICE_LOST);
    assert!(text.contains("device 0 is quarantined"), "{text}");

    held.wait().unwrap();
    let status = proxy.wait_for_status("its end", |status| {
        status.devices[0].state == "clean" && status.devices[0].scrubs == 2
    });
    assert_eq!(status.zones[0].memory_used, 0);
    assert!(proxy.log().contains("worker is gone after all"));
    proxy.attach("b", "later").unwrap();
    drop(neighbour);
}
