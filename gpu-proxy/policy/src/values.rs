//! What configuration and policy both say of a zone: its name, its limits, its devices.

#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

use idm_protocol::layout::{CHUNK_BYTES, Limits, PAGE_BYTES};
use idm_protocol::window::WINDOW_BYTES;
use toml::de::DeValue;

use crate::document::{Item, Reader, Section, article};
use crate::units::{size, size_text};

/// Most clients that a zone can be given.
pub const MAX_CLIENTS: u64 = 1024;

const MAX_NAME_LEN: usize = 32;
/// Ordinals are below.
pub const MAX_DEVICES: u64 = 64;

/// Takes `name`: what names a zone, and its folder.
pub fn zone_name<'s>(
    reader: &mut Reader<'s>,
    keys: &mut Section<'s>,
) -> Option<(Item<'s>, String)> {
    let Some((item, name)) = reader.text(keys, "name", "\"tenant-a\"") else {
        if !keys.took("name") {
            let key = keys.key("name");
            reader.missing(
                keys.at(),
                &key,
                "is missing",
                "add it, for example name = \"tenant-a\"",
            );
        }
        return None;
    };
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !starts_well || !name.chars().all(valid) || name.len() > MAX_NAME_LEN {
        let problem = format!("{name:?} cannot be the name of a zone");
        let remedy = format!(
            "use at most {MAX_NAME_LEN} of a-z, 0-9, - and _, beginning with a letter or digit"
        );
        reader.mistake(item.at, &item.key, problem, remedy);
        return None;
    }
    Some((item, name))
}

/// Takes `memory`: device memory of the zone.
pub fn memory<'s>(reader: &mut Reader<'s>, keys: &mut Section<'s>) -> Option<u64> {
    bytes(reader, keys, "memory", (1 << 20)..=(1 << 50))
}

/// Takes `pinned`: pinned host memory of each client, staging included.
pub fn pinned<'s>(reader: &mut Reader<'s>, keys: &mut Section<'s>) -> Option<u64> {
    let least = u64::from(Limits::default().staging_chunks) * CHUNK_BYTES as u64;
    bytes(reader, keys, "pinned", least..=WINDOW_BYTES)
}

/// Takes `host_memory`: host memory of all the zone's workers.
pub fn host_memory<'s>(reader: &mut Reader<'s>, keys: &mut Section<'s>) -> Option<u64> {
    bytes(reader, keys, "host_memory", (64 << 20)..=(1 << 50))
}

/// Takes `clients`: most clients at one time.
pub fn clients<'s>(reader: &mut Reader<'s>, keys: &mut Section<'s>) -> Option<u32> {
    reader.number(keys, "clients", 1..MAX_CLIENTS + 1)
}

/// Takes `devices`: ordinals.
pub fn devices<'s>(reader: &mut Reader<'s>, keys: &mut Section<'s>) -> Option<Vec<u32>> {
    let item = Reader::take(keys, "devices")?;
    let remedy = "write a list of ordinals such as [0, 1], or leave the key out for all";
    let (at, key) = (item.at, item.key);
    let DeValue::Array(array) = item.value else {
        let problem = format!("is {} and should be a list", article(item.value.type_str()));
        reader.mistake(at, &key, problem, remedy);
        return None;
    };
    let mut ordinals = Vec::new();
    for (index, element) in array.into_iter().enumerate() {
        let element = Item {
            key: format!("{key}[{index}]"),
            at: element.span().start,
            value: element.into_inner(),
        };
        let Some(ordinal) = reader.number_of(&element, 0..MAX_DEVICES) else {
            continue;
        };
        if ordinals.contains(&ordinal) {
            reader.mistake(
                element.at,
                &element.key,
                format!("{ordinal} is listed twice"),
                remedy,
            );
        }
        ordinals.push(ordinal);
    }
    if ordinals.is_empty() {
        reader.mistake(at, &key, "lists no device", remedy);
    }
    Some(ordinals)
}

/// Takes a size within bounds, in whole pages.
pub fn bytes<'s>(
    reader: &mut Reader<'s>,
    keys: &mut Section<'s>,
    key: &'static str,
    bounds: RangeInclusive<u64>,
) -> Option<u64> {
    let (item, text) = reader.text(keys, key, "\"4GiB\"")?;
    let Some(found) = size(&text) else {
        let problem = format!("{text:?} is not a size");
        let remedy = "write a whole number with KiB, MiB, GiB or TiB, such as \"4GiB\"";
        reader.mistake(item.at, &item.key, problem, remedy);
        return None;
    };
    if !bounds.contains(&found) || !found.is_multiple_of(PAGE_BYTES as u64) {
        let (low, high) = (size_text(*bounds.start()), size_text(*bounds.end()));
        let remedy = format!("write whole 4KiB pages from {low} to {high}");
        reader.mistake(
            item.at,
            &item.key,
            format!("{text:?} is out of range"),
            remedy,
        );
        return None;
    }
    Some(found)
}
