//! Limits that configuration and policy both may set, beside memory and clients.
//!
//! What neither sets is not limited, or has the default that [`Limits`] of the shared layout has.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;

use idm_protocol::handle::Kind;
use idm_protocol::layout;

use crate::document::{Reader, Section};
use crate::units::size_text;
use crate::values::bytes;

/// Kinds of handles, by the names that an operator gives them.
pub const HANDLES: [(&str, Kind); 16] = [
    ("context", Kind::CONTEXT),
    ("module", Kind::MODULE),
    ("function", Kind::FUNCTION),
    ("stream", Kind::STREAM),
    ("event", Kind::EVENT),
    ("graph", Kind::GRAPH),
    ("graph_node", Kind::GRAPH_NODE),
    ("graph_exec", Kind::GRAPH_EXEC),
    ("pool", Kind::POOL),
    ("library", Kind::LIBRARY),
    ("kernel", Kind::KERNEL),
    ("array", Kind::ARRAY),
    ("mipmapped_array", Kind::MIPMAPPED_ARRAY),
    ("link", Kind::LINK),
    ("user_object", Kind::USER_OBJECT),
    ("allocation", Kind::ALLOCATION),
];

/// The name of a kind.
#[must_use]
pub fn handle_name(kind: Kind) -> Option<&'static str> {
    let found = HANDLES.iter().find(|(_, known)| *known == kind);
    found.map(|(name, _)| *name)
}

/// What one zone is limited to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `reserve`: device memory that is set aside for it on its one device.
    pub reserve: Option<u64>,
    /// `context_overhead`: device memory that each context is charged for what the driver keeps in it.
    pub context_overhead: Option<u64>,
    /// `images`: bytes of code images that one client may have loaded.
    pub images: Option<u64>,
    /// `calls_per_second`: forwarded calls of all its clients together; more wait.
    pub calls_per_second: Option<u32>,
    /// `launches_per_second`: launches of kernels and graphs of all its clients together; more wait.
    pub launches_per_second: Option<u32>,
    /// `handles`: objects of each kind that one client may have.
    pub handles: BTreeMap<&'static str, u32>,
}

/// A context's limit for a whole process is what one word of latches each allows.
const MOST_CONTEXTS: u64 = 1 << 12;
const MOST_HANDLES: u64 = 1 << 20;
const MOST_RATE: u64 = 1 << 30;

impl Limits {
    /// Takes the keys of a zone.
    pub fn take<'s>(reader: &mut Reader<'s>, keys: &mut Section<'s>) -> Self {
        let reserve = bytes(reader, keys, "reserve", (1 << 20)..=1 << 50);
        let context_overhead = bytes(reader, keys, "context_overhead", 0..=1 << 34);
        let images = bytes(reader, keys, "images", (1 << 20)..=1 << 40);
        let calls_per_second = reader.number(keys, "calls_per_second", 1..MOST_RATE);
        let launches_per_second = reader.number(keys, "launches_per_second", 1..MOST_RATE);
        let mut table = reader.table(keys, "handles");
        let mut handles = BTreeMap::new();
        for (name, kind) in HANDLES {
            let most = match kind {
                // Each has a place in the shared layout.
                Kind::CONTEXT | Kind::STREAM => MOST_CONTEXTS,
                _ => MOST_HANDLES,
            };
            if let Some(count) = reader.number(&mut table, name, 1..most + 1) {
                handles.insert(name, count);
            }
        }
        reader.close(table);
        Self {
            reserve,
            context_overhead,
            images,
            calls_per_second,
            launches_per_second,
            handles,
        }
    }

    /// These, and where they say nothing, those.
    #[must_use]
    pub fn or(&self, those: &Self) -> Self {
        let mut handles = those.handles.clone();
        handles.extend(&self.handles);
        Self {
            reserve: self.reserve.or(those.reserve),
            context_overhead: self.context_overhead.or(those.context_overhead),
            images: self.images.or(those.images),
            calls_per_second: self.calls_per_second.or(those.calls_per_second),
            launches_per_second: self.launches_per_second.or(those.launches_per_second),
            handles,
        }
    }

    /// What is set, by key; of handles `handles.stream` and so on.
    #[must_use]
    pub fn list(&self) -> BTreeMap<String, u64> {
        let numbers = [
            ("reserve", self.reserve),
            ("context_overhead", self.context_overhead),
            ("images", self.images),
            ("calls_per_second", self.calls_per_second.map(u64::from)),
            (
                "launches_per_second",
                self.launches_per_second.map(u64::from),
            ),
        ];
        let set = numbers
            .into_iter()
            .filter_map(|(key, number)| Some((key.to_owned(), number?)));
        let handles = self.handles.iter();
        set.chain(handles.map(|(name, &count)| (format!("handles.{name}"), count.into())))
            .collect()
    }

    /// Sets what a client's tables may hold.
    pub fn apply(&self, limits: &mut layout::Limits) {
        for (name, kind) in HANDLES {
            if let Some(&count) = self.handles.get(name) {
                limits.set_handles(kind, count);
            }
        }
    }
}

/// The keys as in a file.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = [
            ("reserve", self.reserve),
            ("context_overhead", self.context_overhead),
            ("images", self.images),
        ];
        for (key, size) in sizes {
            if let Some(size) = size {
                writeln!(f, "{key} = \"{}\"", size_text(size))?;
            }
        }
        let rates = [
            ("calls_per_second", self.calls_per_second),
            ("launches_per_second", self.launches_per_second),
        ];
        for (key, rate) in rates {
            if let Some(rate) = rate {
                writeln!(f, "{key} = {rate}")?;
            }
        }
        if !self.handles.is_empty() {
            let list: Vec<String> = self
                .handles
                .iter()
                .map(|(name, count)| format!("{name} = {count}"))
                .collect();
            writeln!(f, "handles = {{ {} }}", list.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &str) -> Limits {
        let (mut reader, mut root) = Reader::open(source);
        let limits = Limits::take(&mut reader, &mut root);
        reader.close(root);
        reader.finish(std::path::Path::new("x"), limits).unwrap()
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same() {
        let text = "reserve = \"2GiB\"\ncontext_overhead = \"300MiB\"\nimages = \"1GiB\"\ncalls_per_second = 5\n\
                    launches_per_second = 7\nhandles = { event = 9, stream = 3 }\n";
        assert_eq!(read(text).to_string(), text);
        assert_eq!(read("").to_string(), "");
    }

    #[test]
    fn a_policy_overrides_key_by_key_and_handles_kind_by_kind() {
        let ours = read("images = \"1GiB\"\nhandles = { event = 9 }\n");
        let theirs = read("calls_per_second = 5\nhandles = { event = 1, stream = 2 }\n");
        let both = ours.or(&theirs);
        assert_eq!(
            (both.images, both.calls_per_second),
            (Some(1 << 30), Some(5))
        );
        assert_eq!(
            both.to_string().lines().last().unwrap(),
            "handles = { event = 9, stream = 2 }"
        );
        let mut limits = layout::Limits::default();
        both.apply(&mut limits);
        assert_eq!((limits.streams, limits.handles_of(Kind::EVENT)), (2, 9));
        assert_eq!(limits.handles_of(Kind::MODULE), limits.handles_per_kind);
    }

    #[test]
    fn a_kind_that_is_none_and_a_count_of_none_are_mistakes() {
        for source in [
            "handles = { strem = 4 }",
            "handles = { stream = 0 }",
            "handles = 4",
        ] {
            let (mut reader, mut root) = Reader::open(source);
            let limits = Limits::take(&mut reader, &mut root);
            reader.close(root);
            let wrong = reader
                .finish(std::path::Path::new("x"), limits)
                .unwrap_err();
            assert_eq!(wrong.list.len(), 1, "{source}: {wrong}");
        }
    }
}
