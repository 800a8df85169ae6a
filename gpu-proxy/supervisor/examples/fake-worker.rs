//! A worker without a GPU, for the supervisor's tests, which start it in the place of `vgpu-worker`.
//!
//! Its start follows the environment variable `FAKE_START`, its service the name that the client's program
//! claims to have. What one does that is to scrub a device stands in the file that `FAKE_SCRUB` names.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::exit;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use cuda_abi::function::Group;
use idm_protocol::attach::survey::Device;
use idm_protocol::memory::Mapped;
use idm_protocol::status::StatusPage;
use proxy_channel::Text;
use proxy_channel::args::{Task, WorkerArgs};
use proxy_channel::bound::{Bound, Denied};
use proxy_channel::calls::{Call, CallPage, CallWriter, IMAGE_NAME, KERNEL_NAME};
use proxy_channel::credit::{Credit, CreditError};
use proxy_channel::message::{Ending, Ready, Scrubbed};
use proxy_channel::worker::{Assignment, Event, WorkerChannel};
use zerocopy::FromZeros;

const MEMORY: u64 = 8 << 30;

fn main() {
    let args = WorkerArgs::from_args(std::env::args_os().skip(1)).expect("arguments");
    let channel = Arc::new(WorkerChannel::from_inherited_fd().expect("channel"));
    // One system call, so that the line arrives whole.
    let _ = std::io::stderr().write_all(surroundings().as_bytes());
    let start = std::env::var("FAKE_START").unwrap_or_default();
    match start.as_str() {
        "fail" => {
            channel.failed("no such device").expect("said");
            exit(1);
        }
        "exit" => exit(3),
        "hang" => hang(),
        "garbage" => {
            send_raw(&channel, b"garbage");
            hang();
        }
        "noisy" => {
            for line in 0..5000 {
                eprintln!("noise {line}");
            }
        }
        _ => {}
    }
    // One device for each that `Ready` announces, unless the start is to be a lie.
    for _ in 0..if start == "mute" { 0 } else { 1 } {
        let device = Device {
            total_memory: MEMORY,
            uuid: [7; 16],
            pci: [0, 1, 0],
            name: Text::new("a fake"),
            ..Device::new_zeroed()
        };
        channel.device(&device).expect("said");
    }
    let ready = Ready {
        table_hash: 0x7ab1e,
        init_micros: 1000,
        driver_kind: args.driver_kind,
        driver_version: 13030,
        device_count: 1,
        window_mask: 0b110,
        driver_path: Text::new(&args.driver_path.to_string_lossy()),
        driver_release: Text::new("1.2.3"),
        why: Text::new(&args.why),
    };
    channel.ready(&ready).expect("said");
    if args.task != Task::Serve {
        scrub(&channel, args.task);
    }
    let mut page = None;
    loop {
        match channel.receive().expect("an event") {
            Event::Record(given) => page = Some(given),
            Event::Assign(assignment) => serve(&channel, *assignment, page.take()),
            Event::Stop | Event::Closed => return,
            Event::Verdict(_) | Event::Shared(_) => panic!("an answer to nothing"),
        }
    }
}

fn scrub(channel: &WorkerChannel, task: Task) -> ! {
    let file = std::env::var("FAKE_SCRUB").expect("a file");
    let said = Scrubbed {
        status: 0,
        reserved: 0,
        total: MEMORY,
        free: MEMORY / 2,
        zeroed: MEMORY / 2,
        left: 0,
    };
    let word = std::fs::read_to_string(file).expect("a word");
    eprintln!("{}: {word}", task.name());
    let said = match word.as_str() {
        "lost" => Scrubbed { status: 46, ..said },
        "full" => Scrubbed { status: 2, ..said },
        "lie" => Scrubbed {
            zeroed: u64::MAX,
            ..said
        },
        "little" => Scrubbed {
            zeroed: 4096,
            ..said
        },
        "die" => exit(5),
        "hang" => hang(),
        "garbage" => {
            send_raw(channel, b"garbage");
            hang();
        }
        "charge" => {
            let charge = proxy_channel::message::Charge {
                request_id: 0,
                bytes: 1,
            };
            channel.charge(charge).expect("said");
            hang();
        }
        _ => said,
    };
    channel.scrubbed(&said).expect("said");
    match word.as_str() {
        "twice" => {
            // The supervisor may have hung up by then.
            let _ = channel.scrubbed(&said);
            hang();
        }
        "die-late" => exit(6),
        _ => exit(0),
    }
}

fn serve(channel: &Arc<WorkerChannel>, assignment: Assignment, calls: Option<CallPage>) {
    let Assignment {
        assign,
        status,
        stats,
        ..
    } = assignment;
    let page = StatusPage::open(&status).expect("status page");
    assert_eq!(page.memory_limit(), assign.memory_limit);
    let program = assign.program.to_string();
    match program.as_str() {
        "fail-attach" => {
            channel
                .attach_failed("the arena does not fit")
                .expect("said");
            exit(1);
        }
        "die-attaching" => exit(9),
        "never-attached" => hang(),
        _ => {}
    }
    channel.attached().expect("said");
    let credit = Arc::new(Credit::new(Arc::clone(channel), assign.credit_chunk));
    for _ in 0..3 {
        stats.count_launch(stats.kernel("saxpy"));
    }
    stats.count_calls(10);
    let writer = calls.map(|page| page.writer().expect("a page").0);
    if let (Some(writer), Some(count)) = (&writer, program.strip_prefix("calls:")) {
        // The last one is under way, for ever.
        let count: u64 = count.parse().expect("a number");
        for number in 0..count {
            writer.begin(0, &call(writer, number));
            assert!(writer.end(0, &call(writer, number)));
        }
        writer.begin(0, &call(writer, count));
    }
    if let Some(writer) = writer.as_ref().filter(|_| program == "behind") {
        // Nobody takes them, or they would not come to an end.
        while writer.end(0, &call(writer, 0)) {}
        channel.behind().expect("said");
    }
    let spender = {
        let (credit, channel) = (Arc::clone(&credit), Arc::clone(channel));
        let program = program.clone();
        move || {
            if let Some(bytes) = program.strip_prefix("charge:") {
                match credit.take(bytes.parse().expect("a number")) {
                    Ok(()) => stats.set_memory_held(credit.spent()),
                    Err(CreditError::Refused { .. }) => stats.count_error(),
                    Err(error) => panic!("{error}"),
                }
            }
            match program.as_str() {
                "die" => exit(7),
                "suspect" => channel.suspect(999).expect("said"),
                "garbage" => send_raw(&channel, &[7; 300]),
                "empty-packet" => send_raw(&channel, b""),
                "over-release" => channel.release(1 << 60).expect("said"),
                "close-unshared" => channel.close_share([1; 16]).expect("said"),
                "withdraw-unshared" => credit.withdraw([1; 16], 0).expect("said"),
                "out-of-turn" => channel.attached().expect("said"),
                "violation" => {
                    channel
                        .ended("the client forged a handle", Ending::Violation)
                        .expect("said");
                    exit(0);
                }
                "flood-charges" => {
                    for request_id in 0..100_000 {
                        let charge = proxy_channel::message::Charge {
                            request_id,
                            bytes: 1,
                        };
                        if channel.charge(charge).is_err() {
                            break;
                        }
                    }
                    hang();
                }
                _ => {}
            }
        }
    };
    if program == "flood-charges" {
        spender();
    }
    thread::spawn(spender);
    loop {
        match channel.receive().expect("an event") {
            Event::Verdict(verdict) => credit.answer(verdict),
            Event::Stop if program == "ignore-stop" => hang(),
            Event::Stop if program == "refused-at-last" => {
                let groups = Group::Jit.bit();
                channel
                    .refused("cuModuleLoadDataEx", groups, 1)
                    .expect("said");
                let denied = Denied {
                    bound: Bound::DRIVER,
                    asked: 0,
                    times: 1,
                };
                channel.denied(denied).expect("said");
                exit(0);
            }
            Event::Stop | Event::Closed => exit(0),
            Event::Shared(answer) => panic!("{answer:?}"),
            Event::Assign(again) => panic!("{again:?}"),
            Event::Record(again) => panic!("{again:?}"),
        }
    }
}

/// A call with a number, of a kernel whose name is hostile.
fn call(writer: &CallWriter<Mapped>, number: u64) -> Call {
    Call {
        start_ns: number,
        size: number,
        object: 4711,
        duration_ns: 5,
        result: 0,
        opcode: 16,
        kernel: writer.name(KERNEL_NAME, b"evil\nkernel\x1b"),
        image: writer.name(IMAGE_NAME, &[7; 32]),
        device: 0,
        reserved: 0,
    }
}

/// What a worker has inherited.
fn surroundings() -> String {
    let mut fds: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .expect("/proc")
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let target = std::fs::read_link(&path).ok()?;
            let own = target.to_string_lossy().contains("/proc/");
            (!own).then(|| {
                path.file_name()
                    .map(|name| name.to_string_lossy().into_owned())
            })?
        })
        .collect();
    fds.sort();
    let mut names: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
    names.sort();
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let blocked = status
        .lines()
        .find(|line| line.starts_with("SigBlk"))
        .unwrap_or_default();
    let blocked = blocked.split_whitespace().last().unwrap_or_default();
    let session = nix::unistd::getsid(None).expect("session") == nix::unistd::getpid();
    format!("fds={fds:?} env={names:?} blocked={blocked} session={session}\n")
}

fn send_raw(channel: &WorkerChannel, bytes: &[u8]) {
    use std::os::fd::AsFd;
    let fd = channel.as_fd().as_raw_fd();
    nix::sys::socket::send(fd, bytes, nix::sys::socket::MsgFlags::empty()).expect("sent");
}

fn hang() -> ! {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}
