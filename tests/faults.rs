//! What goes wrong goes wrong promptly, in CUDA's words and with one line that says what to do.
//!
//! A client that hangs is ended by its watchdog, which fails the test with every log there is.
#![forbid(unsafe_code)]

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use e2e::system::Identity;
use e2e::{Finished, Program, Proxy, Setup, Zone, place, proxy};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SYSTEM_NOT_READY: u32 = 802;
const NOT_PERMITTED: u32 = 800;
const DEVICE_UNAVAILABLE: u32 = 46;

// --- A proxy that is absent, refuses or hangs

/// A client whose socket is `socket`, whoever is or is not behind it.
fn client_at(socket: &Path, scenario: &str) -> Program {
    let library = place::profile().join("vgpu-test-remoted");
    proxy::link_once(&library, &place::libvgpu());
    Program::new(place::client())
        .arg(scenario)
        .env("LD_LIBRARY_PATH", library)
        .env("VGPU_SOCKET", socket)
}

/// Checks that `cuInit` failed with `code`, that nothing succeeded after it and that one line on stderr
/// names the socket.
fn expect_refusal(finished: Finished, code: u32, socket: &Path) -> Finished {
    let finished = finished.expect_success();
    let line = |start: &str| {
        finished
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix(start))
            .unwrap_or_else(|| panic!("no line `{start}`: {}", finished.describe()))
            .to_owned()
    };
    assert!(
        line("init ").starts_with(&format!("{code} ns")),
        "{}",
        finished.describe()
    );
    assert_ne!(line("again "), "0", "{}", finished.describe());
    assert_ne!(line("count "), "0", "{}", finished.describe());
    assert_eq!(
        finished.stderr.lines().count(),
        1,
        "one line says it: {}",
        finished.describe()
    );
    assert!(
        finished.stderr.contains(&socket.display().to_string()),
        "{}",
        finished.describe()
    );
    finished
}

#[test]
fn absent_socket_is_system_not_ready() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("gpu.sock");
    expect_refusal(client_at(&socket, "init").run(), SYSTEM_NOT_READY, &socket);
}

#[test]
fn socket_that_nobody_serves_is_system_not_ready() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("gpu.sock");
    drop(seqpacket_listener(&socket));
    assert!(socket.exists());
    expect_refusal(client_at(&socket, "init").run(), SYSTEM_NOT_READY, &socket);
}

#[test]
fn socket_of_another_kind_is_system_not_ready() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("gpu.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    expect_refusal(client_at(&socket, "init").run(), SYSTEM_NOT_READY, &socket);
}

#[test]
fn proxy_that_never_answers_is_system_not_ready() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("gpu.sock");
    let _listener = seqpacket_listener(&socket);
    let client = client_at(&socket, "init").env("VGPU_ATTACH_TIMEOUT", "1");
    expect_refusal(client.run(), SYSTEM_NOT_READY, &socket);
}

#[test]
fn stopped_proxy_is_system_not_ready() {
    let proxy = Proxy::start();
    proxy.signal(Signal::SIGSTOP);
    let socket = proxy.socket("default");
    let finished = proxy.client("init").env("VGPU_ATTACH_TIMEOUT", "1").run();
    proxy.signal(Signal::SIGCONT);
    expect_refusal(finished, SYSTEM_NOT_READY, &socket);
    // It forgets who gave up.
    proxy.client("vector-add").run().expect_success();
}

#[test]
fn full_zone_refuses_by_name_and_has_room_again_afterwards() {
    let proxy = Setup::new().zone(Zone::new("small").clients(1)).start();
    let mut first = proxy.client("hold-memory").start();
    first.wait_for_line("holds");
    let refused = expect_refusal(
        proxy.client("init").run(),
        NOT_PERMITTED,
        &proxy.socket("small"),
    );
    assert!(
        refused.stderr.contains("small"),
        "the line names the zone: {}",
        refused.describe()
    );
    first.close_input();
    first.finish().expect_success();
    proxy.wait_until("the zone has room again", |proxy| {
        proxy.client("init").run().stdout.starts_with("init 0 ")
    });
}

#[test]
fn driver_that_does_not_load_is_refused_with_its_reason() {
    let proxy = Setup::new()
        .zone(Zone::new("default").warm(1))
        .driver_library(place::built("libcuda.so"))
        .start();
    let finished = proxy
        .client("init")
        .env("VGPU_ATTACH_TIMEOUT", "20")
        .run()
        .expect_success();
    assert!(
        !finished.stdout.contains("init 0 "),
        "{}",
        finished.describe()
    );
    assert_eq!(
        finished.stderr.lines().count(),
        1,
        "{}",
        finished.describe()
    );
}

fn seqpacket_listener(path: &Path) -> std::os::fd::OwnedFd {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
    };
    use std::os::fd::AsRawFd;
    let listener = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&listener, Backlog::new(8).unwrap()).unwrap();
    listener
}

// --- A worker or a proxy that dies or hangs under a client

fn workers(proxy: &Proxy) -> Vec<Identity> {
    proxy
        .family()
        .into_iter()
        .filter(|process| process.pid != proxy.pid() && process.name.starts_with("vgpu-worker"))
        .collect()
}

/// Waits until one worker serves the one client and returns it: the one that uses the processor.
fn worker_of_only_client(proxy: &Proxy) -> Identity {
    // With no warm worker beside it the only worker is the client's.
    proxy.wait_until("one worker runs", |proxy| workers(proxy).len() == 1);
    workers(proxy).remove(0)
}

fn send(process: &Identity, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(process.pid).unwrap()), signal).unwrap();
}

fn expect_told(finished: Finished) -> Finished {
    let finished = finished.expect_success();
    assert!(
        finished
            .stdout
            .contains(&format!("failed {DEVICE_UNAVAILABLE}")),
        "{}",
        finished.describe()
    );
    assert_eq!(
        finished.stderr.lines().count(),
        1,
        "one line says it: {}",
        finished.describe()
    );
    finished
}

#[test]
fn killed_worker_is_device_unavailable_for_its_client_only() {
    let proxy = Setup::new()
        .zone(Zone::new("struck").warm(0))
        .zone(Zone::new("other").warm(0))
        .start();
    let mut struck = proxy.client("until-error").start();
    struck.wait_for_line("works");
    let worker = worker_of_only_client(&proxy);
    let mut other = proxy
        .program_in("other", place::client())
        .arg("until-error")
        .start();
    other.wait_for_line("works");
    send(&worker, Signal::SIGKILL);
    expect_told(struck.finish());
    std::thread::sleep(Duration::from_millis(200));
    assert!(other.is_running(), "the other zone's client goes on");
    other.kill();
    // The struck zone serves the next client.
    proxy.client("vector-add").run().expect_success();
}

#[test]
fn hung_worker_is_noticed() {
    let proxy = Setup::new().zone(Zone::new("default").warm(0)).start();
    let mut client = proxy
        .client("until-error")
        .env("VGPU_HANG_TIMEOUT", "1")
        .start();
    client.wait_for_line("works");
    let worker = worker_of_only_client(&proxy);
    send(&worker, Signal::SIGSTOP);
    expect_told(client.finish());
    proxy.wait_until("the hung worker is gone", |_| !worker.is_alive());
}

#[test]
fn client_whose_kernel_or_translation_never_ends_is_ended_and_a_busy_one_is_not() {
    let zone = Zone::new("default").warm(1).set("stuck_after", "\"500ms\"");
    let proxy = Setup::new().zone(zone).start();
    let mut busy = proxy.client("until-error").start();
    busy.wait_for_line("works");
    for _ in 0..3 {
        let finished = proxy.client("endless").run().expect_success();
        assert!(
            finished.stderr.contains("stuck_after"),
            "it says why: {}",
            finished.describe()
        );
    }
    let finished = proxy.client("endless-code").run().expect_success();
    assert!(
        finished.stderr.contains("stuck_after"),
        "{}",
        finished.describe()
    );
    let why = "reason=\"an image was not translated within 500ms, the zone's stuck_after\"";
    assert!(proxy.log().contains(why), "{}", proxy.log());
    assert!(busy.is_running(), "{}", proxy.log());
    busy.kill();
    proxy.wait_until("nothing is charged any more", |proxy| {
        proxy.status()["zones"][0]["memory_used"] == 0
    });
    proxy.stop();
}

#[test]
fn stopped_proxy_does_not_disturb_a_client_at_work() {
    let proxy = Proxy::start();
    let mut client = proxy.client("until-error").start();
    client.wait_for_line("works");
    proxy.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        client.is_running(),
        "the proxy is beside the path of a call, not in it"
    );
    proxy.signal(Signal::SIGCONT);
    client.kill();
}

#[test]
fn proxy_killed_under_load_tells_every_client() {
    let proxy = Setup::new().zone(Zone::new("default").warm(3)).start();
    let mut clients: Vec<_> = (0..3)
        .map(|_| proxy.client("until-error").start())
        .collect();
    for client in &mut clients {
        client.wait_for_line("works");
    }
    proxy.kill();
    for client in clients {
        expect_told(client.finish());
    }
}

// --- Clients that die

/// Kills clients at random moments and checks that the zone has everything back.
fn kill_clients(count: u32) {
    let proxy = Setup::new()
        .zone(Zone::new("default").memory("64MiB").clients(3).warm(1))
        .start();
    let mut bystander = proxy.client("until-error").start();
    bystander.wait_for_line("works");
    // A fixed sequence: a failure can be repeated.
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..count {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut client = proxy.client("load").start();
        // Some die while they attach, most in the middle of their work.
        if !random.is_multiple_of(5) {
            client.wait_for_line("works");
        }
        std::thread::sleep(Duration::from_micros(random % 60_000));
        let finished = client.kill();
        assert_eq!(finished.signal, Some(9), "{}", finished.describe());
        assert!(
            bystander.is_running(),
            "the bystander ended\n--- log\n{}",
            proxy.log()
        );
    }
    bystander.kill();
    proxy.wait_until("the workers of the dead are gone", |proxy| {
        workers(proxy).len() <= 1
    });
    // All of the zone's memory can be had by one client: nothing is still held for the dead.
    let mut heir = proxy.client("fill-memory").arg("1048576").start();
    let got: u64 = heir.wait_for_line("got ")[4..].parse().unwrap();
    heir.wait_for_line("filled");
    heir.close_input();
    heir.finish().expect_success();
    assert!(
        got >= 48 << 20,
        "only {got} bytes of 64 MiB can be had\n--- log\n{}",
        proxy.log()
    );
    proxy.stop();
}

#[test]
fn fifty_clients_killed_at_random_leave_nothing_behind() {
    kill_clients(50);
}

#[test]
#[ignore = "long: `make soak`"]
fn soak_five_hundred_clients_killed_at_random_leave_nothing_behind() {
    kill_clients(500);
}

// --- What programs do to themselves: the same as on the driver directly

fn same_as_direct(scenario: &str) {
    let direct = proxy::direct(place::client())
        .arg(scenario)
        .run()
        .expect_success();
    let proxy = Proxy::start();
    let remoted = proxy.client(scenario).run().expect_success();
    assert_eq!(direct.stdout, remoted.stdout, "--- log\n{}", proxy.log());
    // stderr stays clean: what the program did is none of its user's worries.
    assert_eq!(remoted.stderr, "", "--- log\n{}", proxy.log());
    proxy.stop();
}

#[test]
fn fork_after_use_refuses_the_child_and_spares_the_parent() {
    same_as_direct("fork");
}

#[test]
fn fork_before_use_lets_child_and_parent_work() {
    same_as_direct("fork-first");
}

#[test]
fn exit_while_threads_call_ends_the_process() {
    same_as_direct("exit-busy");
}

#[test]
fn calls_at_exit_are_answered() {
    same_as_direct("exit-late");
}

#[test]
fn threads_that_end_give_their_lanes_back() {
    same_as_direct("thread-exit");
}

#[test]
fn signals_interrupt_no_call() {
    same_as_direct("interrupted");
}

#[test]
fn library_can_be_closed_and_opened_again() {
    same_as_direct("reopen");
}
