//! From a TOML document to a [`Policy`].

#![forbid(unsafe_code)]

use std::path::Path;

use cuda_abi::function::{AUDIT_CLASSES, FunctionInfo, Group};
use toml::de::DeValue;

use crate::document::{Item, Mistakes, Reader, Section, article, near};
use crate::limits::Limits;
use crate::{Audit, OnLostDevice, Policy, Rule, values};

pub(crate) fn policy(file: &Path, source: &str) -> Result<Policy, Mistakes> {
    let (mut reader, mut root) = Reader::open(source);
    version(&mut reader, &mut root);
    let sections = reader.tables(&mut root, "zone");
    reader.close(root);
    let mut rules: Vec<Rule> = Vec::new();
    for section in sections {
        let (at, key) = (section.at(), section.key("name"));
        let Some(rule) = rule(&mut reader, section) else {
            continue;
        };
        if let Some(earlier) = rules.iter().find(|other| other.zone == rule.zone) {
            let problem = format!("line {} is about {:?} already", earlier.line, rule.zone);
            reader.mistake(at, &key, problem, "write one [[zone]] for each zone");
        }
        rules.push(rule);
    }
    reader.finish(
        file,
        Policy {
            file: file.to_owned(),
            rules,
        },
    )
}

/// Takes `version`. A file of a later version may mean something else by what this one understands.
fn version<'s>(reader: &mut Reader<'s>, root: &mut Section<'s>) {
    let remedy = format!("write version = {} in the first line", Policy::VERSION);
    let Some(item) = Reader::take(root, "version") else {
        reader.missing(0, "version", "is missing", &remedy);
        return;
    };
    let known = Policy::VERSION.to_string();
    if !matches!(&item.value, DeValue::Integer(number) if number.as_str() == known) {
        let problem = "is a version of the format that this build does not read";
        reader.mistake(item.at, &item.key, problem, remedy);
    }
}

fn rule<'s>(reader: &mut Reader<'s>, mut section: Section<'s>) -> Option<Rule> {
    let keys = &mut section;
    let line = reader.line(keys.at());
    let zone = values::zone_name(reader, keys).map(|(_, name)| name);
    let groups = allow(reader, keys);
    let memory = values::memory(reader, keys);
    let pinned = values::pinned(reader, keys);
    let clients = values::clients(reader, keys);
    let devices = values::devices(reader, keys);
    let on_lost_device = reader.word(keys, "on_lost_device", &OnLostDevice::NAMES);
    let audit = reader.word(keys, "audit", &Audit::NAMES);
    let limits = Limits::take(reader, keys);
    reader.close(section);
    Some(Rule {
        zone: zone?,
        line,
        groups: groups?,
        memory,
        pinned,
        clients,
        devices,
        on_lost_device,
        audit,
        limits,
    })
}

/// Takes `allow`: the names of groups.
fn allow<'s>(reader: &mut Reader<'s>, keys: &mut Section<'s>) -> Option<u64> {
    let remedy = format!(
        "write a list such as [\"compute\", \"memory\"]; there are {}",
        crate::group_names(Group::MASK)
    );
    let Some(item) = Reader::take(keys, "allow") else {
        let key = keys.key("allow");
        reader.missing(keys.at(), &key, "is missing", &remedy);
        return None;
    };
    let DeValue::Array(array) = item.value else {
        let problem = format!("is {} and should be a list", article(item.value.type_str()));
        reader.mistake(item.at, &item.key, problem, remedy);
        return None;
    };
    let mut groups = 0;
    for (index, element) in array.into_iter().enumerate() {
        let element = Item {
            key: format!("{}[{index}]", item.key),
            at: element.span().start,
            value: element.into_inner(),
        };
        let DeValue::String(name) = &element.value else {
            let problem = format!(
                "is {} and should be a text in quotes",
                article(element.value.type_str())
            );
            reader.mistake(element.at, &element.key, problem, remedy.clone());
            continue;
        };
        match Group::named(name) {
            Some(group) if groups & group.bit() != 0 => {
                let problem = format!("{name:?} is listed twice");
                reader.mistake(element.at, &element.key, problem, "remove it");
            }
            Some(group) => groups |= group.bit(),
            None => {
                let remedy = instead(name).unwrap_or_else(|| remedy.clone());
                let problem = format!("{name:?} is no capability group");
                reader.mistake(element.at, &element.key, problem, remedy);
            }
        }
    }
    Some(groups)
}

/// What was probably meant by a word that is no group.
fn instead(name: &str) -> Option<String> {
    if let Some(info) = FunctionInfo::named(name) {
        return Some(match info.requires {
            Some(group) => format!("it is a call; allow its group, {:?}", group.name()),
            None => "it is a call that is never refused; remove it".to_owned(),
        });
    }
    let free = |class: &&cuda_abi::function::AuditClass| class.name == name && !class.refusable;
    if AUDIT_CLASSES.iter().any(|class| free(&class)) {
        return Some("such calls are never refused; remove it".to_owned());
    }
    near(name, Group::ALL.into_iter().map(Group::name))
        .map(|group| format!("did you mean {group:?}?"))
}
