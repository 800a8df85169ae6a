//! A plan: which clients would come to which zones, and what each would want.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proxy_policy::Unusable;
use proxy_policy::document::{Mistakes, Reader, Section, article};
use proxy_policy::limits::HANDLES;
use proxy_policy::units::size;
use proxy_policy::values::bytes;
use toml::de::DeValue;

/// A plan file.
#[derive(Debug)]
pub struct Plan {
    /// `config`: the configuration of the proxy. Default `/etc/vgpu/gpu-proxy.toml`.
    pub config: PathBuf,
    /// `policy`: instead of the one that the configuration names.
    pub policy: Option<PathBuf>,
    /// Each `[[client]]`, in the order in which they come.
    pub clients: Vec<Client>,
}

/// `[[client]]`
#[derive(Debug)]
pub struct Client {
    /// `zone`. No default.
    pub zone: String,
    /// `name`: what it is called in the answer. Default `client`.
    pub name: String,
    /// `count`: so many of them. Default 1.
    pub count: u32,
    /// `contexts`: so many each. Default 1.
    pub contexts: u32,
    /// `allocate`: sizes of device memory, one after the other.
    pub allocate: Vec<u64>,
    /// `images`: bytes of code, which cost the device as much.
    pub images: u64,
    /// `pinned`: pinned host memory.
    pub pinned: u64,
    /// `calls_per_second`
    pub calls_per_second: u32,
    /// `launches_per_second`
    pub launches_per_second: u32,
    /// `handles`: objects of each kind, by the names of the configuration.
    pub handles: BTreeMap<&'static str, u32>,
}

const MOST: u64 = 1 << 20;
const MOST_RATE: u64 = 1 << 30;

impl Plan {
    /// Reads a plan. Paths in it are seen from its folder.
    ///
    /// # Errors
    /// It cannot be read, or everything that is wrong with it.
    pub fn read(file: &Path) -> Result<Self, Unusable> {
        let source = std::fs::read_to_string(file)
            .map_err(|error| Unusable::Unreadable(file.to_owned(), error.to_string()))?;
        Self::parse(file, &source).map_err(Unusable::Wrong)
    }

    fn parse(file: &Path, source: &str) -> Result<Self, Mistakes> {
        let folder = file.parent().unwrap_or(Path::new(""));
        let (mut reader, mut root) = Reader::open(source);
        let mut path = |key| {
            let text = reader.text(&mut root, key, "\"gpu-proxy.toml\"");
            text.map(|(_, text)| folder.join(text))
        };
        let config = path("config").unwrap_or_else(|| "/etc/vgpu/gpu-proxy.toml".into());
        let policy = path("policy");
        let sections = reader.tables(&mut root, "client");
        reader.close(root);
        let clients = sections
            .into_iter()
            .filter_map(|section| client(&mut reader, section))
            .collect();
        let plan = Self {
            config,
            policy,
            clients,
        };
        reader.finish(file, plan)
    }
}

fn client<'s>(reader: &mut Reader<'s>, mut section: Section<'s>) -> Option<Client> {
    let keys = &mut section;
    let zone = reader.text(keys, "zone", "\"tenant-a\"");
    if zone.is_none() && !keys.took("zone") {
        let key = keys.key("zone");
        reader.missing(keys.at(), &key, "is missing", "name a zone");
    }
    let name = reader.text(keys, "name", "\"training\"");
    let count = reader.number(keys, "count", 1..MOST).unwrap_or(1);
    let contexts = reader.number(keys, "contexts", 0..MOST).unwrap_or(1);
    let allocate = sizes(reader, keys, "allocate");
    let images = bytes(reader, keys, "images", 0..=1 << 50).unwrap_or(0);
    let pinned = bytes(reader, keys, "pinned", 0..=1 << 50).unwrap_or(0);
    let mut rate = |key| reader.number(keys, key, 0..MOST_RATE).unwrap_or(0);
    let calls_per_second = rate("calls_per_second");
    let launches_per_second = rate("launches_per_second");
    let mut table = reader.table(keys, "handles");
    let handles = HANDLES
        .iter()
        .filter_map(|(kind, _)| Some((*kind, reader.number(&mut table, kind, 0..1 << 30)?)))
        .collect();
    reader.close(table);
    reader.close(section);
    Some(Client {
        zone: zone?.1,
        name: name.map_or_else(|| "client".to_owned(), |(_, name)| name),
        count,
        contexts,
        allocate,
        images,
        pinned,
        calls_per_second,
        launches_per_second,
        handles,
    })
}

/// Takes a list of sizes.
fn sizes<'s>(reader: &mut Reader<'s>, keys: &mut Section<'s>, key: &'static str) -> Vec<u64> {
    let remedy = "write a list such as [\"4GiB\", \"512MiB\"]";
    let Some(item) = Reader::take(keys, key) else {
        return Vec::new();
    };
    let DeValue::Array(array) = item.value else {
        let problem = format!("is {} and should be a list", article(item.value.type_str()));
        reader.mistake(item.at, &item.key, problem, remedy);
        return Vec::new();
    };
    let mut found = Vec::new();
    for element in array {
        let at = element.span().start;
        match element.get_ref() {
            DeValue::String(text) if size(text).is_some() => found.extend(size(text)),
            _ => reader.mistake(at, &item.key, "has something in it that is no size", remedy),
        }
    }
    found
}
