//! Whether a log holds: names what was altered, is missing, stands elsewhere, was replayed or forged.
//!
//! The evidence is blocks in the order in which they are found, and signed notes. Three things are checked:
//! numbers and hashes along each zone's chain, which name a single block; the tree against every checkpoint,
//! which a forger who rewrites the chain cannot follow; and the checkpoints against the keys, through every
//! change of key that the log itself records.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use crate::block::{Block, Header, Origin, Zone};
use crate::chain::Chain;
use crate::checkpoint::Checkpoint;
use crate::event::Event;
use crate::hash::{Hash, LogId};
use crate::load::claimed_size;
use crate::note::{Note, PublicKey};
use crate::tree::Frontier;

/// Where a piece of evidence was found: a file, and a byte or a line in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub file: Rc<str>,
    /// Where in it.
    pub at: u64,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.at)
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A block is not what was written.
    Altered(Named, String),
    /// Leaves `.0` to `.1` are not there.
    Missing(u64, u64, String),
    /// A block stands elsewhere than it was written.
    Reordered(Named),
    /// A block is there again.
    Replayed(Named),
    /// A block that this log never held.
    Forged(Named, String),
    /// Somewhere from leaf `.0` to `.1` a block was altered, and all that follow were made to fit.
    Rewritten(u64, u64),
    /// A checkpoint, by its place among them, that proves nothing.
    Checkpoint(usize, String),
    /// By what is recorded of a zone's clients there were calls before it that no gap tells of.
    Untold(Zone, u64),
}

/// A block, as it names itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its leaf.
    pub leaf: u64,
    /// Its zone and first number, if it can be read.
    pub record: Option<(Zone, u64)>,
    /// Where it was found.
    pub found: Found,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "leaf {}", self.leaf)?;
        if let Some((zone, seq)) = &self.record {
            write!(f, " (zone {zone}, record {seq})")?;
        }
        write!(f, " in {}", self.found)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Altered(named, why) => write!(f, "altered: {named}: {why}"),
            Self::Missing(from, to, why) if from == to => write!(f, "missing: leaf {from}: {why}"),
            Self::Missing(from, to, why) => write!(f, "missing: leaves {from} to {to}: {why}"),
            Self::Reordered(named) => {
                write!(f, "reordered: {named} stands before leaves that precede it")
            }
            Self::Replayed(named) => write!(f, "replayed: {named} is there again"),
            Self::Forged(named, why) => write!(f, "forged: {named}: {why}"),
            Self::Rewritten(from, to) if from == to => {
                write!(
                    f,
                    "altered: leaf {from} is not what was signed, though later blocks fit it"
                )
            }
            Self::Rewritten(from, to) => write!(
                f,
                "altered: a block from leaf {from} to {to} is not what was signed, though the blocks fit each other"
            ),
            Self::Checkpoint(number, why) => write!(f, "forged: checkpoint {number}: {why}"),
            Self::Untold(zone, calls) => {
                write!(
                    f,
                    "missing: {calls} calls of zone {zone}, of which no gap tells"
                )
            }
        }
    }
}

impl Finding {
    /// The first leaf that it concerns.
    fn leaf(&self) -> u64 {
        match self {
            Self::Altered(named, _)
            | Self::Reordered(named)
            | Self::Replayed(named)
            | Self::Forged(named, _) => named.leaf,
            Self::Missing(from, ..) | Self::Rewritten(from, _) => *from,
            Self::Checkpoint(..) | Self::Untold(..) => u64::MAX,
        }
    }
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which log; none if there is no block.
    pub log: Option<LogId>,
    /// Leaves `.0..(.1)` are there.
    pub leaves: (u64, u64),
    /// The leaf before which everything is signed and holds.
    pub signed: u64,
    /// Checkpoints that hold.
    pub checkpoints: u64,
    /// For each zone, the number of its next record.
    pub zones: BTreeMap<Zone, u64>,
    /// For each zone that called, how complete its calls are.
    pub calls: BTreeMap<Zone, CallCount>,
    /// The key that signs now.
    pub key: Option<PublicKey>,
    /// Everything that is wrong, the first leaf first.
    pub findings: Vec<Finding>,
}

/// What a zone's blocks of calls say of the calls before them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCount {
    /// Calls that are there, each once. A summary stands for as many as it says.
    pub recorded: u64,
    /// Calls that are there again: an auditor was ended before it knew that it had recorded them.
    pub repeated: u64,
    /// Calls that are not there.
    pub absent: u64,
    /// Records that gaps of the zone tell of, calls that never came into a block among them.
    pub told: u64,
    /// Some gap says that it may be of more.
    pub uncertain: bool,
}

/// Evidence, collected.
#[derive(Debug, Default)]
pub struct Evidence {
    base: Option<Chain>,
    log: Option<LogId>,
    blocks: Vec<Exhibit>,
    findings: Vec<Finding>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Exhibit {
    found: Found,
    hash: Hash,
    header: Option<Header>,
    rotation: Option<String>,
    calls: Option<(Origin, u64)>,
    /// For a gap, whether it is uncertain.
    gap: Option<bool>,
    fault: Option<String>,
}

impl Exhibit {
    fn named(&self, leaf: u64) -> Named {
        Named {
            leaf,
            record: self
                .header
                .as_ref()
                .map(|header| (header.zone.clone(), header.seq)),
            found: self.found.clone(),
        }
    }
}

impl Evidence {
    /// The state at which the evidence begins, or goes on in another file.
    pub fn head(&mut self, found: &Found, chain: &Chain) {
        if self.base.is_none() && self.blocks.is_empty() {
            self.log = Some(chain.log());
            self.base = Some(chain.clone());
        } else if self.log.is_some_and(|log| log != chain.log()) {
            let named = Named {
                leaf: chain.next_leaf(),
                record: None,
                found: found.clone(),
            };
            let why = format!("its segment belongs to another log, {}", chain.log());
            self.findings.push(Finding::Forged(named, why));
        }
    }

    /// A block.
    pub fn block(&mut self, found: Found, bytes: &[u8]) {
        let mut exhibit = Exhibit {
            found,
            hash: Hash::leaf(bytes),
            header: None,
            rotation: None,
            calls: None,
            gap: None,
            fault: None,
        };
        match Block::parse(bytes) {
            Ok(block) => {
                exhibit.header = Some(block.header().clone());
                match block {
                    Block::Calls { origin, calls, .. } => {
                        exhibit.calls = Some((origin, calls.stand_for()));
                    }
                    Block::Event { event, .. } => match event {
                        Event::KeyRotated { key } => {
                            exhibit.rotation = Some(key.as_str().to_owned());
                        }
                        Event::Gap { uncertain, .. } => exhibit.gap = Some(uncertain),
                        _ => {}
                    },
                }
            }
            Err(error) => exhibit.fault = Some(error.to_string()),
        }
        let header = exhibit.header.as_ref();
        self.log = self.log.or(header.map(|header| header.log));
        self.blocks.push(exhibit);
    }

    /// Something that should be a block and cannot be read.
    pub fn damage(&mut self, found: Found, why: String) {
        self.blocks.push(Exhibit {
            found,
            hash: Hash::ZERO,
            header: None,
            rotation: None,
            calls: None,
            gap: None,
            fault: Some(why),
        });
    }

    /// A signed note, in the order of their signing.
    pub fn checkpoint(&mut self, note: String) {
        self.notes.push(note);
    }

    /// A signed note that was kept elsewhere: it takes its place among the others by its size.
    pub fn kept_checkpoint(&mut self, note: String) {
        let size = claimed_size(&note);
        let at = self
            .notes
            .partition_point(|other| claimed_size(other) <= size);
        self.notes.insert(at, note);
    }

    /// Judges all of it by keys that are trusted.
    #[must_use]
    pub fn judge(mut self, keys: &[PublicKey]) -> Report {
        let base = self.base.as_ref().map_or(0, Chain::next_leaf);
        let order = self.order(base);
        self.judge_chains(base, &order);
        let mut report = Report {
            log: self.log,
            leaves: (base, order.last().map_or(base, |&(leaf, _)| leaf + 1)),
            signed: base,
            checkpoints: 0,
            zones: BTreeMap::new(),
            calls: self.count_calls(&order),
            key: None,
            findings: Vec::new(),
        };
        for header in self.blocks.iter().filter_map(|block| block.header.as_ref()) {
            let next = report.zones.entry(header.zone.clone()).or_default();
            *next = (*next).max(header.seq.saturating_add(header.count));
        }
        // What else is wrong may explain it.
        if self.findings.is_empty() {
            for (zone, count) in &report.calls {
                if count.absent > count.told && !count.uncertain {
                    let untold = Finding::Untold(zone.clone(), count.absent - count.told);
                    self.findings.push(untold);
                }
            }
        }
        self.judge_checkpoints(&order, keys, &mut report);
        report.findings = self.findings;
        report.findings.sort_by_key(Finding::leaf);
        report
    }

    /// Which block is which leaf, in the order of leaves; what does not fit is named.
    fn order(&mut self, base: u64) -> Vec<(u64, usize)> {
        let mut first: BTreeMap<u64, usize> = BTreeMap::new();
        let mut expected = base;
        let later: BTreeMap<u64, usize> = self
            .blocks
            .iter()
            .enumerate()
            .rev()
            .filter_map(|(at, block)| Some((block.header.as_ref()?.leaf, at)))
            .collect();
        for (at, block) in self.blocks.iter().enumerate() {
            let Some(header) = &block.header else {
                let why = block.fault.clone().unwrap_or_default();
                let altered = Finding::Altered(block.named(expected), why);
                self.findings.push(altered);
                // It stands for the leaf that should be here, if no other block says that it is that.
                if !later.contains_key(&expected) {
                    first.insert(expected, at);
                    expected = expected.saturating_add(1);
                }
                continue;
            };
            let named = block.named(header.leaf);
            if self.log.is_some_and(|log| log != header.log) {
                let why = format!("it belongs to another log, {}", header.log);
                self.findings.push(Finding::Forged(named, why));
                continue;
            }
            let before = first.get(&header.leaf).and_then(|&at| self.blocks.get(at));
            if let Some(before) = before {
                let replayed = before.hash == block.hash;
                let why = format!("another block is that leaf, in {}", before.found);
                self.findings.push(if replayed {
                    Finding::Replayed(named)
                } else {
                    Finding::Forged(named, why)
                });
                continue;
            }
            if header.leaf < base {
                let why = "it is older than where the evidence begins".into();
                self.findings.push(Finding::Forged(named, why));
                continue;
            }
            if header.leaf > expected && later.get(&expected).is_some_and(|&there| there > at) {
                self.findings.push(Finding::Reordered(named));
            }
            first.insert(header.leaf, at);
            while first.contains_key(&expected) {
                expected += 1;
            }
            // A hole that nothing fills later is told below; the walk goes on behind it.
            if header.leaf > expected && !later.contains_key(&expected) {
                expected = header.leaf + 1;
            }
        }
        let mut expected = base;
        for &leaf in first.keys() {
            if leaf > expected {
                let why = "no block is that leaf".into();
                self.findings
                    .push(Finding::Missing(expected, leaf - 1, why));
            }
            expected = leaf.saturating_add(1);
        }
        first.into_iter().collect()
    }

    /// Whether each client's calls go on where they were.
    fn count_calls(&self, order: &[(u64, usize)]) -> BTreeMap<Zone, CallCount> {
        let mut counts: BTreeMap<Zone, CallCount> = BTreeMap::new();
        let mut clients: BTreeMap<(&Zone, LogId, u64), u64> = BTreeMap::new();
        let blocks = order.iter().filter_map(|&(_, at)| self.blocks.get(at));
        for block in blocks {
            let Some(header) = &block.header else {
                continue;
            };
            if let Some(uncertain) = block.gap {
                let count = counts.entry(header.zone.clone()).or_default();
                count.told = count.told.saturating_add(header.count);
                count.uncertain |= uncertain;
            }
            let Some((origin, calls)) = &block.calls else {
                continue;
            };
            let end = origin.first.saturating_add(*calls);
            let count = counts.entry(header.zone.clone()).or_default();
            let client = (&header.zone, origin.session, origin.client);
            // Where the evidence does not go back to a client's beginning, nothing is known of what was before.
            let next = *clients.entry(client).or_insert(match self.base {
                Some(_) => origin.first,
                None => 0,
            });
            let repeated = next.min(end).saturating_sub(origin.first);
            count.repeated = count.repeated.saturating_add(repeated);
            count.recorded = count.recorded.saturating_add(*calls - repeated);
            count.absent = count
                .absent
                .saturating_add(origin.first.saturating_sub(next));
            clients.insert(client, next.max(end));
        }
        counts
    }

    /// Numbers and hashes along each zone.
    fn judge_chains(&mut self, base: u64, order: &[(u64, usize)]) {
        struct Last<'e> {
            seq: u64,
            hash: Hash,
            block: Option<(u64, &'e Exhibit)>,
        }
        let mut lasts: BTreeMap<&Zone, Last<'_>> = BTreeMap::new();
        let mut from_base = BTreeMap::new();
        if let Some(base) = &self.base {
            from_base = base.zones().collect();
        }
        // For each block the hash that the next one of its zone says it has.
        let mut said: BTreeMap<u64, Hash> = BTreeMap::new();
        let mut previous: BTreeMap<&Zone, u64> = BTreeMap::new();
        // The last leaf that is missing, cannot be read or was blamed: what does not fit across it is explained.
        let mut hole: Option<u64> = None;
        let mut expected = base;
        for &(leaf, at) in order {
            if let Some(header) = self.blocks.get(at).and_then(|block| block.header.as_ref())
                && let Some(before) = previous.insert(&header.zone, leaf)
            {
                said.insert(before, header.prev);
            }
        }
        let mut findings = Vec::new();
        for &(leaf, at) in order {
            if leaf > expected {
                hole = Some(leaf - 1);
            }
            expected = leaf.saturating_add(1);
            let Some(block) = self.blocks.get(at) else {
                continue;
            };
            let Some(header) = &block.header else {
                hole = Some(leaf);
                continue;
            };
            let last = lasts.entry(&header.zone).or_insert_with(|| {
                let tail = from_base.get(&header.zone);
                Last {
                    seq: tail.map_or(0, |tail| tail.seq),
                    hash: tail.map_or(Hash::ZERO, |tail| tail.prev),
                    block: None,
                }
            });
            let fits = header.prev == last.hash;
            let in_turn = header.seq == last.seq;
            let explained =
                hole.is_some_and(|hole| last.block.is_none_or(|(before, _)| before < hole));
            // What the next block says of this one, and what follows from it.
            let vouched = said.get(&leaf).map(|hash| *hash == block.hash);
            if !(explained || fits && in_turn) {
                findings.push(match (fits, vouched, last.block) {
                    (false, None | Some(true), Some((before, exhibit))) => Finding::Altered(
                        exhibit.named(before),
                        format!("leaf {leaf}, the next of its zone, names another hash"),
                    ),
                    (false, ..) => {
                        let why = "it names another block than the one before it in its zone";
                        Finding::Altered(block.named(leaf), why.into())
                    }
                    (true, ..) => Finding::Altered(
                        block.named(leaf),
                        format!("its first record should be number {}", last.seq),
                    ),
                });
            }
            last.seq = header.seq.saturating_add(header.count);
            // An altered block was blamed already; the next one is judged by what it says of it.
            last.hash = block.hash;
            let blamed = findings.last().is_some_and(|last| last.leaf() == leaf);
            if blamed {
                hole = Some(leaf);
            }
            if vouched == Some(false) && blamed {
                last.hash = said.get(&leaf).copied().unwrap_or(block.hash);
            }
            last.block = Some((leaf, block));
        }
        self.findings.extend(findings);
    }

    /// The tree against the notes, and the notes against the keys.
    fn judge_checkpoints(
        &mut self,
        order: &[(u64, usize)],
        keys: &[PublicKey],
        report: &mut Report,
    ) {
        let (from, to) = report.leaves;
        let mut tree = self
            .base
            .as_ref()
            .map_or_else(Frontier::default, |base| base.tree().clone());
        let mut leaves = order.iter().peekable();
        let mut whole = true;
        let mut rotations: Vec<(u64, String)> = Vec::new();
        let mut trusted: Option<PublicKey> = None;
        let mut last_size = 0;
        let mut findings = Vec::new();
        let mut beyond: Option<u64> = None;
        for (number, note) in self.notes.iter().enumerate() {
            let refusal = |why: String| Finding::Checkpoint(number, why);
            let candidates: Vec<&PublicKey> = match &trusted {
                Some(key) => vec![key],
                None => keys.iter().collect(),
            };
            let (checkpoint, signer) = match Checkpoint::open(note, candidates) {
                Ok((checkpoint, signer)) => (checkpoint, signer.clone()),
                Err(error) => {
                    findings.push(refusal(error.to_string()));
                    continue;
                }
            };
            let Checkpoint { size, root, .. } = checkpoint;
            if size < last_size {
                let why = format!("it is of {size} leaves and comes after one of {last_size}");
                findings.push(refusal(why));
                continue;
            }
            last_size = size;
            trusted = Some(signer);
            if size > to {
                beyond = beyond.max(Some(size));
                continue;
            }
            if size < from {
                continue;
            }
            while tree.size() < size && whole {
                match leaves.next_if(|&&(leaf, _)| leaf == tree.size()) {
                    Some(&(leaf, at)) => {
                        let Some(block) = self.blocks.get(at) else {
                            continue;
                        };
                        tree.push(block.hash);
                        rotations.extend(block.rotation.clone().map(|key| (leaf, key)));
                    }
                    None => whole = false,
                }
            }
            if !whole || tree.size() != size {
                continue;
            }
            if tree.root() != root {
                let range = report.signed..size;
                let known = self.findings.iter().chain(&findings);
                if !known.map(Finding::leaf).any(|leaf| range.contains(&leaf))
                    && size > report.signed
                {
                    findings.push(Finding::Rewritten(report.signed, size - 1));
                } else if size == report.signed {
                    let why = format!("it names another root than the one before of {size} leaves");
                    findings.push(refusal(why));
                }
                // Nothing after it can hold.
                whole = false;
                continue;
            }
            report.signed = size;
            report.checkpoints += 1;
            for (leaf, text) in rotations.drain(..) {
                let co_signed = |key: &PublicKey| {
                    Note::parse(note).is_ok_and(|note| note.signed_by(key).is_ok())
                };
                match text.parse::<PublicKey>() {
                    Ok(key) if co_signed(&key) => trusted = Some(key),
                    _ => findings.push(Finding::Checkpoint(
                        number,
                        format!("leaf {leaf} makes another key the log's, which has not signed it"),
                    )),
                }
            }
        }
        if let Some(size) = beyond.filter(|&size| size > to) {
            let why = format!("a checkpoint signs {size} leaves");
            findings.push(Finding::Missing(to, size - 1, why));
        }
        report.key = trusted;
        self.findings.extend(findings);
    }
}

#[cfg(test)]
mod tests;
