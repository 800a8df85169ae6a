//! `vgpuctl audit`: reads a log from a spool or a file of lines; needs no proxy and no secret.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use cuda_abi::function::Function;
use proxy_audit::block::Block;
use proxy_audit::call::{COMPLETED, Calls, NO_DEVICE, SUMMARY};
use proxy_audit::export::Line;
use proxy_audit::hash::LogId;
use proxy_audit::keys::{self, KeysError};
use proxy_audit::load::{self, LoadError, Piece, ProveError, Wanted};
use proxy_audit::note::{KeyError, PublicKey};
use proxy_audit::proof::{MAX_PROOF_LEN, Proof, ProofError};
use proxy_audit::spool::{Cursor, CursorError};
use proxy_audit::topic::{self, ArrangeError, Arranged};
use proxy_audit::verify::Report;
use thiserror::Error;

use crate::Failure;

/// How often `tail --follow` looks.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The last records, for people.
    Tail {
        #[command(flatten)]
        log: Log,
        /// How many blocks.
        #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
        count: usize,
        /// Only this zone's.
        #[arg(long, value_name = "ZONE")]
        zone: Option<String>,
        /// Go on with what is written from now on (a spool's folder only).
        #[arg(short, long)]
        follow: bool,
    },
    /// Whether the log is what was written: names what was altered, is missing, reordered, replayed or forged.
    /// Fails if anything is.
    Verify {
        #[command(flatten)]
        log: Log,
        #[command(flatten)]
        keys: Keys,
        /// A checkpoint that was kept elsewhere, as a file; may be given several times.
        #[arg(long, value_name = "FILE")]
        checkpoint: Vec<PathBuf>,
    },
    /// Write the log as lines of JSON, checkpoints included.
    Export {
        #[command(flatten)]
        log: Log,
    },
    /// Write a log as lines of JSON out of what was read from its Kafka topics: in order, each block once.
    FromTopic {
        /// What was read from the topic of the blocks, a line for each message.
        #[arg(value_name = "BLOCKS")]
        blocks: PathBuf,
        /// What was read from the topic of the checkpoints.
        #[arg(value_name = "CHECKPOINTS")]
        checkpoints: Option<PathBuf>,
        /// Which log, if the topic holds several: its 32 digits.
        #[arg(long, value_name = "LOG", value_parser = log_id)]
        of: Option<LogId>,
    },
    /// Write a proof that a record is in the log, for somebody who has nothing but the public key.
    Prove {
        #[command(flatten)]
        log: Log,
        #[command(flatten)]
        keys: Keys,
        /// The record: ZONE:NUMBER, or the number of a leaf.
        #[arg(value_name = "RECORD")]
        record: String,
    },
    /// Make a signing key: in FILE for whoever signs, and in FILE.pub for everybody else.
    Keygen {
        /// What the key, and with it the log, is called: such as node1.example.com/audit.
        #[arg(value_name = "NAME")]
        name: String,
        /// A file that does not exist yet.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Check a proof and print what it proves. Needs no log.
    CheckProof {
        #[command(flatten)]
        keys: Keys,
        /// The proof.
        #[arg(value_name = "FILE")]
        proof: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct Log {
    /// The spool's folder, or a file that export or a JSON lines sink wrote.
    #[arg(
        long = "log",
        value_name = "PATH",
        default_value = "/var/lib/vgpu/audit"
    )]
    path: PathBuf,
}

#[derive(Debug, Args)]
pub struct Keys {
    /// A public key that is trusted, NAME+ID+KEY, or a file that holds it; may be given several times.
    #[arg(long = "key", value_name = "KEY", required = true)]
    keys: Vec<String>,
}

/// Why there is no answer, or the answer is no.
#[derive(Debug, Error)]
pub enum AuditFailure {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Prove(#[from] ProveError),
    #[error(transparent)]
    Cursor(#[from] CursorError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Topic(#[from] ArrangeError),
    #[error("{0:?} is no public key: {1}")]
    Key(String, KeyError),
    #[error("cannot read {}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("{0:?} names no record; write ZONE:NUMBER or the number of a leaf")]
    Record(String),
    #[error("it proves nothing: {0}")]
    Proof(#[from] ProofError),
    #[error("the log does not hold: {0}")]
    DoesNotHold(String),
    #[error("only a spool's folder can be followed")]
    Follow,
}

pub fn run(command: &Command) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match command {
        Command::Tail {
            log,
            count,
            zone,
            follow,
        } => tail(&log.path, *count, zone.as_deref(), *follow, &mut out),
        Command::Verify {
            log,
            keys,
            checkpoint,
        } => verify(&log.path, keys, checkpoint, &mut out),
        Command::Export { log } => export(&log.path, &mut out),
        Command::FromTopic {
            blocks,
            checkpoints,
            of,
        } => from_topic(blocks, checkpoints.as_deref(), *of, &mut out),
        Command::Prove { log, keys, record } => {
            let wanted = wanted(record)?;
            let proof =
                load::prove(&log.path, &wanted, &keys.read()?).map_err(AuditFailure::from)?;
            write!(out, "{proof}").map_err(Failure::Output)
        }
        Command::Keygen { name, file } => {
            let key = keys::create(file, name).map_err(AuditFailure::from)?;
            writeln!(out, "{}", key.public()).map_err(Failure::Output)
        }
        Command::CheckProof { keys, proof } => {
            let proof = Proof::parse(&text(proof)?).map_err(AuditFailure::from)?;
            let checked = proof.check(&keys.read()?).map_err(AuditFailure::from);
            let (block, checkpoint) = checked?;
            let (origin, size) = (checkpoint.origin, checkpoint.size);
            writeln!(out, "proved: leaf {} of {size} in {origin}", proof.index)
                .map_err(Failure::Output)?;
            show(&block, &mut out)
        }
    }
}

impl Keys {
    fn read(&self) -> Result<Vec<PublicKey>, AuditFailure> {
        let mut keys = Vec::new();
        for given in &self.keys {
            let key = match given.parse() {
                Ok(key) => key,
                Err(error) => {
                    let Ok(text) = text(Path::new(given)) else {
                        return Err(AuditFailure::Key(given.clone(), error));
                    };
                    let text = text.trim_end();
                    text.parse()
                        .map_err(|error| AuditFailure::Key(text.into(), error))?
                }
            };
            keys.push(key);
        }
        Ok(keys)
    }
}

fn wanted(record: &str) -> Result<Wanted, AuditFailure> {
    let wrong = || AuditFailure::Record(record.into());
    match record.rsplit_once(':') {
        Some((zone, number)) => {
            let number = number.parse().map_err(|_| wrong())?;
            Ok(Wanted::Record(zone.into(), number))
        }
        None => record.parse().map(Wanted::Leaf).map_err(|_| wrong()),
    }
}

/// A small file, whole.
fn text(path: &Path) -> Result<String, AuditFailure> {
    let fail = |error| AuditFailure::File {
        path: path.to_owned(),
        error,
    };
    let most = u64::try_from(MAX_PROOF_LEN).unwrap_or(u64::MAX);
    let mut text = String::new();
    let file = fs::File::open(path).map_err(fail)?;
    file.take(most).read_to_string(&mut text).map_err(fail)?;
    Ok(text)
}

fn verify(
    log: &Path,
    keys: &Keys,
    checkpoints: &[PathBuf],
    out: &mut impl Write,
) -> Result<(), Failure> {
    let keys = keys.read()?;
    let mut evidence = load::evidence(log).map_err(AuditFailure::from)?;
    for path in checkpoints {
        evidence.kept_checkpoint(text(path)?);
    }
    let report = evidence.judge(&keys);
    write!(out, "{}", summary(&report)).map_err(Failure::Output)?;
    match report.findings.first() {
        None => Ok(()),
        Some(first) => Err(AuditFailure::DoesNotHold(first.to_string()).into()),
    }
}

fn summary(report: &Report) -> String {
    let mut text = String::new();
    let (from, to) = report.leaves;
    if let Some(log) = report.log {
        text += &format!("log {log}: leaves {from} to {}\n", to.saturating_sub(1));
    }
    for (zone, next) in &report.zones {
        text += &format!("zone {zone}: {next} records");
        if let Some(count) = report.calls.get(zone) {
            text += &format!(", of {} calls", count.recorded);
            for (calls, what) in [
                (count.repeated, "calls are there again"),
                (count.told, "records are missing, as gaps tell"),
            ] {
                if calls > 0 {
                    text += &format!("; {calls} {what}");
                }
            }
        }
        text.push('\n');
    }
    let (checkpoints, signed) = (report.checkpoints, report.signed);
    text += &format!("{checkpoints} checkpoints hold; the first {signed} leaves are signed");
    match &report.key {
        Some(key) => text += &format!(", by {key}\n"),
        None => text.push('\n'),
    }
    let unsigned = to.saturating_sub(signed.max(from));
    if unsigned > 0 {
        text += &format!("the last {unsigned} blocks are not signed yet\n");
    }
    for finding in &report.findings {
        text += &format!("{finding}\n");
    }
    if report.findings.is_empty() {
        text += "nothing was altered, is missing, reordered, replayed or forged\n";
    }
    text
}

fn export(log: &Path, out: &mut impl Write) -> Result<(), Failure> {
    let mut done = Ok(());
    let mut first = true;
    let mut damage = None;
    load::read(log, |piece| {
        let is_first = std::mem::take(&mut first);
        let line = match piece {
            Piece::Head(_, chain) if is_first => Line::Chain(chain),
            Piece::Head(..) => return,
            Piece::Block(_, bytes) => Line::Block(bytes),
            Piece::Checkpoint(note) => Line::Checkpoint(note),
            Piece::Damage(found, why) => {
                damage.get_or_insert(format!("{found}: {why}"));
                return;
            }
        };
        if done.is_ok() {
            done = out.write_all(line.to_text().as_bytes());
        }
    })
    .map_err(AuditFailure::from)?;
    done.map_err(Failure::Output)?;
    match damage {
        Some(why) => Err(AuditFailure::DoesNotHold(why).into()),
        None => Ok(()),
    }
}

fn log_id(text: &str) -> Result<LogId, &'static str> {
    LogId::try_from(text.to_owned())
}

fn from_topic(
    blocks: &Path,
    checkpoints: Option<&Path>,
    of: Option<LogId>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let done = topic::arrange(blocks, checkpoints, of, &mut io::BufWriter::new(out));
    let Arranged {
        log,
        blocks,
        again,
        checkpoints,
        unreadable,
    } = done.map_err(|error| match error {
        ArrangeError::Write(error) => Failure::Output(error),
        other => AuditFailure::from(other).into(),
    })?;
    eprintln!(
        "log {log}: {blocks} blocks and {checkpoints} checkpoints; left out: {again} blocks that were there again; \
         last: {unreadable} lines that cannot be read"
    );
    Ok(())
}

fn tail(
    log: &Path,
    count: usize,
    zone: Option<&str>,
    follow: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    if follow && !log.is_dir() {
        return Err(AuditFailure::Follow.into());
    }
    let mut last = std::collections::VecDeque::new();
    let mut next = 0;
    let mut damage = Vec::new();
    load::read(log, |piece| match piece {
        Piece::Head(_, chain) => next = chain.next_leaf(),
        Piece::Block(found, bytes) => {
            next += 1;
            match Block::parse(&bytes) {
                Ok(block) if is_of(&block, zone) => {
                    if last.len() >= count {
                        last.pop_front();
                    }
                    last.push_back(block);
                }
                Ok(_) => {}
                Err(error) => damage.push(format!("{found}: {error}")),
            }
        }
        // A frame that is being written is not damage.
        Piece::Damage(..) if follow => {}
        Piece::Damage(found, why) => damage.push(format!("{found}: {why}")),
        Piece::Checkpoint(_) => {}
    })
    .map_err(AuditFailure::from)?;
    for block in last.iter().skip(last.len().saturating_sub(count)) {
        show(block, out)?;
    }
    if let Some(why) = damage.first() {
        return Err(AuditFailure::DoesNotHold(why.clone()).into());
    }
    if follow {
        return go_on(Cursor::new(log, next), zone, out);
    }
    Ok(())
}

/// Shows what is written from now on, until nobody reads it any more.
fn go_on(mut cursor: Cursor, zone: Option<&str>, out: &mut impl Write) -> Result<(), Failure> {
    loop {
        out.flush().map_err(Failure::Output)?;
        // Whatever is not whole at the end is still being written.
        match cursor.next_below(u64::MAX) {
            Ok(Some(bytes)) => {
                if let Ok(block) = Block::parse(&bytes)
                    && is_of(&block, zone)
                {
                    show(&block, out)?;
                }
            }
            Ok(None) | Err(CursorError::Damaged(..)) => std::thread::sleep(PAUSE),
            Err(error) => return Err(AuditFailure::from(error).into()),
        }
    }
}

fn is_of(block: &Block, zone: Option<&str>) -> bool {
    zone.is_none_or(|zone| block.header().zone.as_str() == zone)
}

/// A block, a line for each record.
fn show(block: &Block, out: &mut impl Write) -> Result<(), Failure> {
    let header = block.header();
    let text = match block {
        Block::Event { .. } => event_line(block),
        Block::Calls { calls, origin, .. } => call_lines(
            &format!("{} {}", header.leaf, header.zone),
            header.seq,
            origin.worker,
            calls,
        ),
    };
    out.write_all(text.as_bytes()).map_err(Failure::Output)
}

fn event_line(block: &Block) -> String {
    let header = block.header();
    // An event's bytes are JSON of our own making; what a block can be parsed from can be read as a value.
    let value: serde_json::Value = serde_json::from_slice(&block.to_bytes()).unwrap_or_default();
    let word = |key: &str| value.get(key).and_then(|word| word.as_str()).unwrap_or("");
    let data = value
        .get("data")
        .map(ToString::to_string)
        .unwrap_or_default();
    format!(
        "{} {} {}:{} {} {data}\n",
        word("time"),
        header.leaf,
        header.zone,
        header.seq,
        word("event")
    )
}

fn call_lines(place: &str, first: u64, worker: u32, calls: &Calls) -> String {
    let mut text = String::new();
    for (number, record) in (first..).zip(calls.records()) {
        let kernel = calls.kernel(record).map(|name| format!(" kernel {name}"));
        let image = calls.image(record).map(|hash| format!(" image {hash}"));
        let device = match record.device {
            NO_DEVICE => String::new(),
            device => format!(" device {device}"),
        };
        let result = match record.flags & COMPLETED {
            0 => " not completed".to_owned(),
            _ => format!(" result {} after {} ns", record.result, record.duration_ns),
        };
        let kind = match record.flags & SUMMARY {
            0 => "call",
            _ => "calls",
        };
        let function = Function::from_opcode(record.opcode.get());
        let function = function.map_or_else(
            || format!("number {}", record.opcode),
            |function| function.info().name.to_owned(),
        );
        text += &format!(
            "{place}:{number} {kind} {function} client {} worker {worker}{device} size {} object {:#x}{}{}{result}\n",
            record.client,
            record.size,
            record.object.get(),
            kernel.unwrap_or_default(),
            image.unwrap_or_default(),
        );
    }
    text
}
