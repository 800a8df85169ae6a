//! A worker's life: load the driver, say so, wait for a client, serve it, end.

use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use idm_protocol::control::WorkerControl;
use idm_protocol::memory::Mapped;
use idm_protocol::status::StatusPage;
use idm_protocol::wait::Patience;
use idm_protocol::window::{Arena, Reservation, WINDOW_BYTES, reserve_candidates};
use idm_protocol::wire::TABLE_HASH;
use proxy_channel::Text;
use proxy_channel::args::{ArgsError, Task, WorkerArgs};
use proxy_channel::calls::CallPage;
use proxy_channel::credit::Credit;
use proxy_channel::message::{Ending, Ready};
use proxy_channel::shares::Shares;
use proxy_channel::worker::{Assignment, Event, WorkerChannel};
use tracing_subscriber::EnvFilter;

use crate::calls::Calls;
use crate::driver::Driver;
use crate::errors::Violation;
use crate::harden::{Jail, Plan};
use crate::lanes::Lanes;
use crate::output::Output;
use crate::session::{Parts, Session};
use crate::{devices, dispatcher, harden, output, scrub, watchdog};

/// Runs the worker process.
pub fn main() -> ExitCode {
    let start = Instant::now();
    // Hardened first: nothing before it reads a file or makes a thread.
    let args = WorkerArgs::from_args(std::env::args_os().skip(1));
    let hardened = args
        .as_ref()
        .ok()
        .map(|args| harden::begin(Plan::new(args)));
    if log_to_stderr().is_err() {
        // There is nobody to tell.
        return ExitCode::FAILURE;
    }
    harden::abort_on_panic();
    let jail = match hardened.transpose() {
        Ok(jail) => jail,
        Err(reason) => {
            tracing::error!(%reason, "cannot harden the process");
            return ExitCode::FAILURE;
        }
    };
    match serve(start, args, jail) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            tracing::error!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr() -> std::io::Result<()> {
    let filter = EnvFilter::try_from_env("VGPU_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // The supervisor reads these lines and adds time, zone and client to each.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Arc::new(output::log()?))
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .init();
    Ok(())
}

fn serve(
    start: Instant,
    args: Result<WorkerArgs, ArgsError>,
    jail: Option<Jail>,
) -> Result<(), String> {
    let channel = WorkerChannel::from_inherited_fd().map_err(|error| error.to_string())?;
    let channel = Arc::new(channel);
    let fail = |reason: String| {
        // Whoever started us may be gone already; then nobody needs to be told.
        let _ = channel.failed(&reason);
        reason
    };
    let args = args.map_err(|error| fail(error.to_string()))?;
    // SAFETY: the supervisor's configuration names the driver library; loading it is our purpose.
    let driver = unsafe { Driver::load(&args.driver_path) };
    let driver = driver.map_err(|error| {
        if args.task != Task::Serve
            && let Some(status) = scrub::status_of(&error)
        {
            // What the driver says of the device is what a scrubber is asked for.
            let _ = channel.scrubbed(&scrub::failed(status));
            return error.to_string();
        }
        fail(error.to_string())
    })?;
    let (window_mask, windows) = reserve_candidates(WINDOW_BYTES);
    tracing::info!(
        driver = %driver.path.display(),
        version = driver.version,
        devices = driver.device_count,
        why = args.why,
        "driver initialised"
    );
    let described = devices::describe(&driver)
        .map_err(|status| fail(format!("a device cannot be described: {status:?}")))?;
    for device in &described {
        channel.device(device).map_err(|error| error.to_string())?;
    }
    let driver_release = devices::release(args.driver_kind);
    // From here on nothing can be opened that the jail does not allow; the client is not there yet.
    for report in jail.into_iter().flat_map(Jail::seal) {
        channel.layer(&report).map_err(|error| error.to_string())?;
    }
    let ready = Ready {
        table_hash: TABLE_HASH,
        init_micros: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
        driver_kind: args.driver_kind,
        driver_version: u32::try_from(driver.version).unwrap_or(0),
        device_count: driver.device_count,
        window_mask,
        driver_path: Text::new(&driver.path.to_string_lossy()),
        driver_release,
        why: Text::new(&args.why),
    };
    channel.ready(&ready).map_err(|error| error.to_string())?;
    if args.task != Task::Serve {
        let said = match args.task {
            Task::Probe => scrub::probe(&driver),
            _ => scrub::run(&driver),
        };
        channel.scrubbed(&said).map_err(|error| error.to_string())?;
        // Not by way of the driver's exit handlers: the memory is free when the process is gone.
        harden::exit(0);
    }
    let mut page = None;
    let assignment = loop {
        match channel.receive().map_err(|error| error.to_string())? {
            Event::Record(given) => page = Some(given),
            Event::Assign(assignment) => break assignment,
            Event::Stop | Event::Closed => return Ok(()),
            Event::Verdict(_) | Event::Shared(_) => {
                return Err("the supervisor answers what nobody asked".into());
            }
        }
    };
    let window = usize::try_from(assignment.assign.window).unwrap_or(usize::MAX);
    let window = windows.into_iter().nth(window).flatten();
    attach(driver, *assignment, page, window, &channel).inspect_err(|reason| {
        // If the supervisor is gone, nobody needs to be told.
        let _ = channel.attach_failed(reason);
    })
}

/// Maps the client's memory, starts the threads that serve it, and then listens to the supervisor.
fn attach(
    driver: Driver,
    assignment: Assignment,
    page: Option<CallPage>,
    window: Option<Reservation>,
    channel: &Arc<WorkerChannel>,
) -> Result<(), String> {
    let Assignment {
        assign,
        layout: _,
        control,
        arena,
        status,
        stats,
    } = assignment;
    let window = window.ok_or("the supervisor chose a window that this worker does not have")?;
    let arena = Arena::map(window, &arena).map_err(|error| error.to_string())?;
    let region = Mapped::new(&control).map_err(|error| error.to_string())?;
    let (control, submissions) = WorkerControl::open(&region, &assign.limits, Patience::detect())
        .map_err(|error| error.to_string())?;
    let status = StatusPage::open(&status).map_err(|error| error.to_string())?;
    let credit = Arc::new(Credit::new(Arc::clone(channel), assign.credit_chunk));
    let shares = Arc::new(Shares::new(Arc::clone(channel)));
    let calls = Calls::new(page, channel).map_err(|error| error.to_string())?;
    let output = Output::capture().map_err(|error| error.to_string())?;
    stats.set_device_count(driver.device_count);
    tracing::info!(
        client = assign.client_id,
        zone = %assign.zone,
        program = %assign.program,
        "serving"
    );
    // One per process, used by threads of the driver's until the process ends.
    let session: &'static Session = Box::leak(Box::new(Session::new(Parts {
        driver,
        control: Arc::new(control),
        arena,
        status,
        credit: Arc::clone(&credit),
        context_overhead: assign.context_overhead,
        images: assign.images,
        shares: Arc::clone(&shares),
        stats,
        channel: Arc::clone(channel),
        output,
        calls,
    })));
    spawn("output", move || {
        session.parts.output.serve(&session.parts.control.output);
    })?;
    spawn("ping", move || {
        session.parts.control.ping.serve(&*session.stop)
    })?;
    spawn("dispatcher", move || {
        let lanes = Lanes::new(session, end_client);
        if let Err(violation) = dispatcher::run(session, submissions, lanes) {
            end_client(session, violation);
        }
    })?;
    if assign.stuck_after_millis > 0 {
        let limit = Duration::from_millis(assign.stuck_after_millis.into());
        spawn("watchdog", move || watchdog::watch(session, limit))?;
    }
    channel.attached().map_err(|error| error.to_string())?;
    listen(channel, &credit, &shares)
}

/// Reads the channel until it says that it is over. Exiting frees what the client held: the kernel and
/// the driver see to that, whatever our threads are doing.
fn listen(channel: &WorkerChannel, credit: &Credit, shares: &Shares) -> ! {
    loop {
        match channel.receive() {
            Ok(Event::Verdict(verdict)) => credit.answer(verdict),
            Ok(Event::Shared(answer)) => shares.answer(answer),
            Ok(Event::Stop) => {
                tracing::debug!("told to stop");
                harden::exit(0);
            }
            Ok(Event::Closed) => {
                tracing::info!("the supervisor is gone");
                harden::exit(0);
            }
            Ok(Event::Assign(_) | Event::Record(_)) => {
                tracing::error!("assigned twice");
                harden::exit(1);
            }
            Err(error) => {
                tracing::error!(%error, "channel lost");
                harden::exit(1);
            }
        }
    }
}

/// Ends a client that broke the protocol, and this worker with it.
fn end_client(session: &Session, violation: Violation) -> ! {
    tracing::warn!(%violation, "the client broke the protocol");
    // If the supervisor is gone, nobody needs to be told.
    let _ = session
        .parts
        .channel
        .ended(&violation.to_string(), Ending::Violation);
    harden::exit(1)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let spawned = thread::Builder::new().name(name.into()).spawn(work);
    spawned
        .map(drop)
        .map_err(|error| format!("no thread for {name}: {error}"))
}
