//! A worker that was taken over: started by gpu-proxy in the place of `vgpu-worker`, it does to the supervisor
//! what the name of its zone says. In the zone `honest` it is the real worker.
//!
//! Lines on standard error, which the proxy logs, tell what it got.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use idm_protocol::attach::socket::{receive_with_descriptors, send};
use idm_protocol::attach::survey::{Device, MAX_DEVICES};
use idm_protocol::wire::TABLE_HASH;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use proxy_channel::args::WorkerArgs;
use proxy_channel::bound::{Bound, Denied};
use proxy_channel::jail::{Layer, MAX_LAYERS, Report};
use proxy_channel::message::{
    Assign, CHANNEL_VERSION, Charge, Ending, FromWorker, MAX_PACKET_LEN, Open, Outcome, Ready,
    Refused, Scrubbed, Share, Sharing, Suspect, ToWorker, Withdraw,
};
use proxy_channel::worker::WorkerChannel;
use proxy_channel::{DriverKind, Text};
use softgpu_core::config::Config;
use softgpu_core::memory::GRANULE;
use softgpu_core::shared::{Pool, device_folder};
use zerocopy::FromZeros;

/// The channel, with nothing of the real worker's restraint.
struct Channel(WorkerChannel);

impl Channel {
    fn raw(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The supervisor may have had enough; that is what the test looks for in its log.
    fn say(&self, message: &FromWorker) {
        self.bytes(message.encode().as_bytes());
    }

    fn bytes(&self, packet: &[u8]) {
        let _ = send(self.raw(), packet, &[]);
    }

    /// The next message, and what came with it; none at the end of the channel.
    fn hear(&self) -> Option<(ToWorker, Vec<std::os::fd::OwnedFd>)> {
        let mut buffer = [0; MAX_PACKET_LEN];
        let packet = receive_with_descriptors(self.raw(), &mut buffer).ok()?;
        let message = ToWorker::decode(&buffer[..packet.len]).ok()?;
        Some((message, packet.descriptors))
    }

    fn ready(&self, device_count: u32) {
        self.say(&FromWorker::Ready(Ready {
            table_hash: TABLE_HASH,
            init_micros: 1,
            driver_kind: DriverKind::SOFTGPU,
            driver_version: 13_050,
            device_count,
            window_mask: u32::MAX,
            driver_path: Text::new("/nowhere"),
            driver_release: Text::new(""),
            why: Text::new("evil"),
        }));
    }

    /// Waits for a client as an honest worker does.
    fn assigned(&self) -> (Assign, Vec<std::os::fd::OwnedFd>) {
        self.ready(0);
        loop {
            match self.hear() {
                Some((ToWorker::Assign(assign), descriptors)) => return (assign, descriptors),
                // It keeps no record.
                Some((ToWorker::Record, _)) => {}
                _ => std::process::exit(0),
            }
        }
    }

    fn serve(&self) -> Assign {
        let (assign, _) = self.assigned();
        self.say(&FromWorker::Attached);
        assign
    }

    /// Whether the bytes may be spent.
    fn charge(&self, request_id: u64, bytes: u64) -> bool {
        self.say(&FromWorker::Charge(Charge { request_id, bytes }));
        matches!(
            self.hear(),
            Some((ToWorker::Verdict(verdict), _)) if verdict.outcome == Outcome::Granted
        )
    }

    /// Until the supervisor hangs up, deaf to all that it says.
    fn stay(&self) {
        while self.hear().is_some() {}
    }
}

fn main() -> ExitCode {
    let args = WorkerArgs::from_args(std::env::args_os().skip(1)).expect("arguments of a worker");
    // Whoever scrubs is of no zone.
    if args.zone == "honest" || args.zone.is_empty() {
        let worker = std::env::current_exe().expect("/proc is mounted");
        let error = Command::new(worker.with_file_name("vgpu-worker"))
            .args(std::env::args_os().skip(1))
            .exec();
        eprintln!("cannot become the real worker: {error}");
        return ExitCode::FAILURE;
    }
    let channel = Channel(WorkerChannel::from_inherited_fd().expect("a channel"));
    let Some((_, behave)) = BEHAVIOURS.iter().find(|(name, _)| *name == args.zone) else {
        eprintln!("no such behaviour");
        return ExitCode::FAILURE;
    };
    behave(&channel);
    ExitCode::SUCCESS
}

type Behaviour = fn(&Channel);

/// What it can do, by the name of the zone.
const BEHAVIOURS: [(&str, Behaviour); 31] = [
    // Before any client is there.
    ("garbage", |channel| {
        channel.bytes(&[0xa5; 100]);
        channel.stay();
    }),
    ("a-byte", |channel| {
        channel.bytes(&[1]);
        channel.stay();
    }),
    ("another-version", |channel| {
        let mut packet = FromWorker::Attached.encode().as_bytes().to_vec();
        packet[4..8].copy_from_slice(&(CHANNEL_VERSION + 1).to_le_bytes());
        channel.bytes(&packet);
        channel.stay();
    }),
    ("too-long", |channel| {
        channel.bytes(&[0; MAX_PACKET_LEN + 1]);
        channel.stay();
    }),
    ("descriptors", |channel| {
        let packet = FromWorker::Attached.encode();
        let own = [channel.raw(); 3];
        let _ = send(channel.raw(), packet.as_bytes(), &own);
        channel.stay();
    }),
    ("ready-without-devices", |channel| {
        channel.ready(1);
        channel.stay();
    }),
    ("devices-without-end", |channel| {
        for _ in 0..=MAX_DEVICES {
            channel.say(&FromWorker::Device(Device::new_zeroed()));
        }
        channel.stay();
    }),
    ("layers-without-end", |channel| {
        for _ in 0..=MAX_LAYERS {
            channel.say(&FromWorker::Layer(Report::on(Layer(77))));
        }
        channel.stay();
    }),
    ("spends-before-it-is-ready", |channel| {
        channel.say(&FromWorker::Charge(Charge {
            request_id: 1,
            bytes: 1 << 20,
        }));
        channel.stay();
    }),
    ("spends-without-client", |channel| {
        channel.ready(0);
        channel.say(&FromWorker::Charge(Charge {
            request_id: 1,
            bytes: 1 << 20,
        }));
        channel.stay();
    }),
    ("silent", Channel::stay),
    ("loud", |channel| {
        for _ in 0..20_000 {
            eprintln!("\u{1b}[2Jforged\r\n2026-01-01T00:00:00Z ERROR forged zone=\"honest\"");
        }
        eprint!("{}", "forged without end ".repeat(50_000));
        channel.stay();
    }),
    // With a client.
    ("gone-while-attaching", |channel| {
        channel.assigned();
    }),
    ("attached-twice", |channel| {
        channel.serve();
        channel.say(&FromWorker::Attached);
        channel.stay();
    }),
    ("gives-back-what-it-has-not", |channel| {
        channel.serve();
        channel.say(&FromWorker::Release { bytes: 1 << 60 });
        channel.stay();
    }),
    ("denies-nonsense", |channel| {
        channel.serve();
        for bound in [u64::MAX, 0].into_iter().chain(0..20_000) {
            channel.say(&FromWorker::Denied(Denied {
                bound: Bound(bound),
                asked: u64::MAX,
                times: u64::MAX,
            }));
        }
        channel.stay();
    }),
    ("scrubs-uninvited", |channel| {
        channel.serve();
        channel.say(&FromWorker::Scrubbed(Scrubbed {
            status: 0,
            reserved: 0,
            total: 1 << 30,
            free: 1 << 30,
            zeroed: 1 << 30,
            left: 0,
        }));
        channel.stay();
    }),
    ("cries-wolf", |channel| {
        channel.serve();
        for status in (0..20_000).chain([u32::MAX]) {
            let reserved = status;
            channel.say(&FromWorker::Suspect(Suspect { status, reserved }));
        }
        // It is heard all the same, and nobody believes it.
        eprintln!("served after all: {}", channel.charge(1, 1 << 20));
        channel.stay();
    }),
    ("withdraws-anothers", |channel| {
        channel.serve();
        channel.say(&FromWorker::Withdraw(Withdraw {
            token: [7; 16],
            returned: 0,
        }));
        channel.stay();
    }),
    ("closes-anothers", |channel| {
        channel.serve();
        channel.say(&FromWorker::CloseShare { token: [7; 16] });
        channel.stay();
    }),
    ("refuses-nothing", |channel| {
        channel.serve();
        channel.say(&FromWorker::Refused(Refused {
            call: Text::new("cuInit"),
            groups: 0,
            times: 1,
        }));
        channel.stay();
    }),
    ("deaf", |channel| {
        channel.serve();
        for request_id in 0..1_000_000 {
            let charge = Charge {
                request_id,
                bytes: 0,
            };
            if send(
                channel.raw(),
                FromWorker::Charge(charge).encode().as_bytes(),
                &[],
            )
            .is_err()
            {
                return;
            }
        }
    }),
    ("greedy", |channel| {
        let assign = channel.serve();
        let piece = 1 << 20;
        let mut had = 0;
        while channel.charge(had, piece) {
            had += piece;
        }
        let more = channel.charge(1, u64::MAX) || channel.charge(2, piece);
        let all = had == assign.memory_limit;
        eprintln!("granted all: {all}, more: {more}");
        channel.stay();
    }),
    // Of a device that processes share: memory that nobody granted.
    ("helps-itself", |channel| {
        channel.serve();
        let config = Config::from_env().expect("what the software GPU understands");
        let folder = config.shared.expect("a shared device");
        let pool = Pool::join(&device_folder(&folder, 0), config.memory).expect("a device");
        let most = config.memory / GRANULE / 2;
        // A scrubber may have it for a while.
        while pool.take(most).expect("a table").is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        eprintln!("helped itself to {}", most * GRANULE);
        channel.stay();
    }),
    ("guesses-tokens", |channel| {
        channel.serve();
        let mut opened = 0;
        for request_id in 0_u64..20_000 {
            let mut token = [0; 16];
            token[..8]
                .copy_from_slice(&request_id.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            channel.say(&FromWorker::Open(Open { request_id, token }));
            if let Some((ToWorker::Shared(answer), _)) = channel.hear() {
                opened += u32::from(answer.outcome == Sharing::DONE);
            }
        }
        eprintln!("tokens guessed: {opened}");
        channel.stay();
    }),
    ("shares-without-end", |channel| {
        channel.serve();
        let mut named = 0;
        for request_id in 0..20_000 {
            channel.say(&FromWorker::Share(Share {
                request_id,
                bytes: u64::MAX,
                charged: u64::MAX,
                handle: [0xff; 64],
            }));
            match channel.hear() {
                Some((ToWorker::Shared(answer), _)) if answer.outcome == Sharing::DONE => {
                    named += 1;
                }
                _ => break,
            }
        }
        eprintln!("shared before it was enough: {}", named < 20_000);
        channel.stay();
    }),
    ("lies-on-its-page", |channel| {
        let (_, descriptors) = channel.assigned();
        let written = nix::sys::uio::pwrite(&descriptors[3], &[0xff; 16 << 10], 0);
        channel.say(&FromWorker::Attached);
        eprintln!("page written: {}", written.is_ok());
        channel.stay();
    }),
    ("writes-where-it-may-not", |channel| {
        let (_, descriptors) = channel.assigned();
        let written = nix::sys::uio::pwrite(&descriptors[2], &[0xff; 64], 0);
        let cut = descriptors
            .iter()
            .filter(|file| nix::unistd::ftruncate(file, 0).is_ok())
            .count();
        eprintln!("status written: {}, files cut: {cut}", written.is_ok());
        channel.say(&FromWorker::Attached);
        channel.stay();
    }),
    ("ends-for-ever", |channel| {
        channel.serve();
        for _ in 0..10_000 {
            channel.say(&FromWorker::Ended {
                text: Text::new("again\nforged zone=\"honest\""),
                ending: Ending::Own,
            });
        }
        channel.stay();
    }),
    ("busy", |channel| {
        // As fast as it can for a while, and it does read the answers.
        channel.serve();
        let nonblocking = FcntlArg::F_SETFL(OFlag::O_NONBLOCK);
        let _ = fcntl(channel.raw(), nonblocking);
        let end = Instant::now() + Duration::from_secs(5);
        let (mut said, mut heard) = (0_u64, 0_u64);
        while Instant::now() < end {
            let charge = Charge {
                request_id: said,
                bytes: 0,
            };
            let packet = FromWorker::Charge(charge).encode();
            if said - heard < 64 && send(channel.raw(), packet.as_bytes(), &[]).is_ok() {
                said += 1;
            }
            while channel.hear().is_some() {
                heard += 1;
            }
        }
        eprintln!("answers: {}", if heard > 0 { "some" } else { "none" });
    }),
    ("stubborn", |channel| {
        channel.serve();
        loop {
            // It neither reads nor goes.
            std::thread::sleep(Duration::from_secs(1));
        }
    }),
];
