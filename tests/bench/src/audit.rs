//! What it costs that every call is written down.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::kafka::Brokers;
use e2e::{Proxy, Setup, Zone, system};
use nix::time::{ClockId, clock_gettime};
use proxy_audit::block::{Origin, Zone as LogZone};
use proxy_audit::call::{COMPLETED, CallRecord, Calls, MAX_RECORDS};
use proxy_audit::event::Stamp;
use proxy_audit::hash::LogId;
use proxy_audit::spool::{Settings, Spool, WhenFull};
use proxy_channel::calls::{Call, CallPage, NO_DEVICE, NO_NAME};

use crate::report::{Goal, Result as Measured};
use crate::sample::{Samples, nanoseconds, rate};
use crate::{Outcome, TURNS, Turns, remoted};

const LAUNCHES: &str = "launch";
const RATE: &str = "launch-rate";

/// Calls that one turn of [`write`] writes.
const WRITTEN: usize = 1_000_000;

/// Blocks that one turn of [`spool`] writes.
const BLOCKS: usize = 100;

fn zone() -> Zone {
    Zone::new("bench").memory("1GiB").pinned("128MiB").warm(2)
}

/// Processor time for each call that is recorded, of everybody who has to do with it.
pub fn record() -> Outcome<Measured> {
    let brokers = Brokers::start(1);
    let sending = match &brokers {
        Some(brokers) => {
            brokers.create_topic("audit", 1, 1, &[]);
            brokers.create_topic("audit-notes", 1, 1, &[]);
            let bootstrap = brokers.bootstrap();
            format!(
                "[audit.kafka]\nbrokers = {bootstrap:?}\ntopic = \"audit\"\ncheckpoints = \"audit-notes\"\n"
            )
        }
        None => "json_lines = \"-\"\n".to_owned(),
    };
    let with = Setup::new().zone(zone()).audit(&sending).start();
    let without = Setup::new().zone(zone()).audit("").start();
    let (mut sent, mut kept, mut written) =
        (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..TURNS {
        sent.add(auditor_time(&with)?);
        kept.add(auditor_time(&without)?);
        written.add(write()?);
    }
    with.stop();
    without.stop();
    let mut result = Measured::new(
        "audit_record",
        "ns",
        sent.median() + written.median(),
        0.0,
        Goal::ValueAtMost(350.0),
    );
    result.what = match brokers {
        Some(_) => {
            "processor time for each recorded launch: the worker's writing, and the auditor's collecting, chain, spool and sending to Kafka"
        }
        None => {
            "processor time for each recorded launch: the worker's writing, and the auditor's collecting, chain, spool and lines (there is no Kafka here)"
        }
    };
    result.part("the worker", written.median());
    result.part("the auditor", sent.median());
    result.part("the auditor, if nothing is sent", kept.median());
    Ok(result)
}

/// Of the auditor's threads, for each call of a program that launches and launches, in ns.
fn auditor_time(proxy: &Proxy) -> Outcome<f64> {
    let auditor = proxy
        .family()
        .into_iter()
        .map(|process| process.pid)
        .find(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name.trim() == "vgpu-auditor")
        })
        .ok_or("the proxy has no auditor")?;
    let (calls, ends) = ended(proxy);
    let time = system::processor_time(auditor);
    remoted(proxy, LAUNCHES);
    proxy.wait_until("the end of the client", |proxy| ended(proxy).1 > ends);
    // What it has not sent yet is its work, too.
    let mut last = time;
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = system::processor_time(auditor);
        // What sends to Kafka looks around while there is nothing to send: a hundredth of a core.
        if now.saturating_sub(last) < Duration::from_millis(10) {
            break;
        }
        last = now;
    }
    let spent = system::processor_time(auditor).saturating_sub(time);
    // Counts are far below 2^53.
    #[allow(clippy::cast_precision_loss)]
    let calls = (ended(proxy).0 - calls) as f64;
    Ok(nanoseconds(spent) / calls)
}

/// What all clients that have gone called, and how many they are.
fn ended(proxy: &Proxy) -> (u64, usize) {
    let log = proxy.log();
    let counts: Vec<u64> = log
        .lines()
        .filter_map(|line| {
            let (_, rest) = line.split_once(" calls=")?;
            rest.split_whitespace().next()?.parse().ok()
        })
        .collect();
    (counts.iter().sum(), counts.len())
}

/// What a worker does for each call, in ns: two looks at the clock and two copies into its page.
fn write() -> Outcome<f64> {
    let page = CallPage::create()?;
    let descriptors = page
        .descriptors()
        .map(|descriptor| descriptor.as_fd().try_clone_to_owned());
    let descriptors = descriptors.into_iter().collect::<Result<Vec<_>, _>>()?;
    let (mut reader, _wake) = CallPage::receive(descriptors)?.reader(0)?;
    let (writer, _wake) = page.writer()?;
    let mut call = Call {
        start_ns: 0,
        size: 1,
        object: 7,
        duration_ns: 0,
        result: 0,
        opcode: 300,
        kernel: NO_NAME,
        image: NO_NAME,
        device: NO_DEVICE,
        reserved: 0,
    };
    let now = || {
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
    };
    let mut spent = Duration::ZERO;
    let mut taken = Vec::new();
    let row = proxy_channel::calls::SLOTS / 2;
    for _ in 0..WRITTEN / row {
        let began = Instant::now();
        for _ in 0..row {
            call.start_ns = now();
            writer.begin(0, &call);
            call.duration_ns = u32::try_from(now() - call.start_ns).unwrap_or(u32::MAX);
            if !writer.end(0, black_box(&call)) {
                return Err("the page is full".into());
            }
            black_box(writer.must_wake());
        }
        spent += began.elapsed();
        taken.clear();
        reader.take(row, &mut taken);
        reader.release();
    }
    // Counts are far below 2^53.
    #[allow(clippy::cast_precision_loss)]
    let count = (WRITTEN / row * row) as f64;
    Ok(nanoseconds(spent) / count)
}

/// Launches whose calls are all recorded, against the same without a log.
pub fn launches() -> Outcome<Measured> {
    let start = |class: Option<&str>| {
        let class = class.map_or_else(String::new, |class| format!("audit = {class:?}\n"));
        let policy = format!(
            "version = 1\n[[zone]]\nname = \"bench\"\nallow = [\"compute\", \"memory\", \"jit\"]\nmemory = \"512MiB\"\n{class}"
        );
        Setup::new().zone(zone()).policy(&policy)
    };
    let every = start(Some("every")).audit("").start();
    let summary = start(Some("summary")).audit("").start();
    let off = start(None).start();
    let mut turns: [Turns; 3] = Default::default();
    for _ in 0..TURNS {
        for (turns, proxy) in turns.iter_mut().zip([&every, &summary, &off]) {
            turns.add(&remoted(proxy, LAUNCHES), RATE);
        }
    }
    let [every_rate, summary_rate, off_rate] = turns.map(|turns| turns.p50.median());
    for proxy in [every, summary, off] {
        proxy.stop();
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Client and worker keep a core each busy.
    let goal = match cores {
        0..=2 => Goal::Information,
        _ => Goal::RatioAtLeast(0.97),
    };
    let mut result = Measured::new("audit_launches", "1/s", every_rate, off_rate, goal);
    result.what = match cores {
        0..=2 => {
            "launches in a row with every call recorded, against the same without a log; client, worker and auditor share two cores or one, and the goal of 0.97 is for machines with a core to spare"
        }
        _ => {
            "launches in a row with every call recorded, against the same without a log; client, worker and auditor have a core each"
        }
    };
    result.part("with a summary a second", summary_rate);
    Ok(result)
}

/// Calls through chain and spool onto the disk, against the same bytes written and synchronised as they are.
pub fn spool() -> Outcome<Measured> {
    let folder = tempfile::tempdir()?;
    let mut spool = Spool::open(Settings {
        folder: folder.path().join("spool"),
        segment: 64 << 20,
        retain: 64 << 20,
        share: 1 << 30,
        headroom: 16 << 20,
        when_full: WhenFull::FailClosed,
    })?;
    let calls = full_block();
    // Its head is not counted: what is compared is calls.
    let bytes = size_of_val(calls.records());
    let (mut value, mut reference) = (Samples::default(), Samples::default());
    let mut first = 0;
    for _ in 0..TURNS {
        let began = Instant::now();
        for _ in 0..BLOCKS {
            let origin = Origin {
                worker: 1,
                session: LogId([1; 16]),
                client: 1,
                first,
            };
            first += calls.records().len() as u64;
            spool.calls(&LogZone::proxy(), Stamp::now(), origin, &calls)?;
            spool.sync()?;
        }
        value.add(rate(BLOCKS * bytes, began.elapsed()) * 1e3);
        spool.acknowledge(spool.chain().next_leaf())?;
        reference.add(plain(folder.path(), bytes)? * 1e3);
    }
    let mut result = Measured::new(
        "audit_spool",
        "MB/s",
        value.median(),
        reference.median(),
        Goal::Information,
    );
    result.what = "blocks of 4,096 calls through chain and spool, each on disk before the next, against a file that gets as many bytes in the same way";
    Ok(result)
}

fn full_block() -> Calls {
    let mut calls = Calls::default();
    for number in 0..MAX_RECORDS as u64 {
        let record = CallRecord {
            client: 1.into(),
            start_ns: (number * 1000).into(),
            size: 32.into(),
            object: (0x7f00_0000_0000 + number * 512).into(),
            duration_ns: 900.into(),
            result: 0.into(),
            opcode: 300.into(),
            kernel: NO_NAME.into(),
            image: NO_NAME.into(),
            device: 0,
            flags: COMPLETED,
        };
        // A block of the largest size has room for each.
        let _ = calls.push(record);
    }
    calls
}

/// GB/s of a preallocated file.
fn plain(folder: &Path, bytes: usize) -> Outcome<f64> {
    let path = folder.join("plain");
    let mut file = File::create(&path)?;
    let length = i64::try_from(BLOCKS * bytes)?;
    nix::fcntl::fallocate(file.as_fd(), nix::fcntl::FallocateFlags::empty(), 0, length)?;
    file.sync_all()?;
    let block = vec![7_u8; bytes];
    let began = Instant::now();
    for _ in 0..BLOCKS {
        file.write_all(&block)?;
        file.sync_data()?;
    }
    let rate = rate(BLOCKS * bytes, began.elapsed());
    fs::remove_file(&path)?;
    Ok(rate)
}
