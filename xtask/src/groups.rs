//! Reads `cuda-abi/decl/groups.toml`: what policy can grant to a zone, and what it never takes away.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

/// Names of groups that cannot be granted, for functions that need no grant at all.
const FREE: [&str; 2] = ["query", "session"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its bit on the capability page.
    pub bit: u8,
    pub about: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditClass {
    /// Whether policy can refuse calls of this class.
    pub refusable: bool,
    pub about: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    group: BTreeMap<String, Group>,
    pub audit: BTreeMap<String, AuditClass>,
}

impl Groups {
    pub fn read(root: &Path) -> Result<Self, String> {
        let path = root.join("cuda-abi/decl/groups.toml");
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let groups: Self =
            toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let bits: Vec<usize> = groups.by_bit().map(|(_, group)| group.bit.into()).collect();
        if bits.iter().enumerate().any(|(index, &bit)| index != bit) || bits.len() > 64 {
            return Err(format!(
                "{}: the groups' bits are {bits:?}; number them from 0 without gaps, up to 63",
                path.display()
            ));
        }
        Ok(groups)
    }

    /// In the order of their bits.
    pub fn by_bit(&self) -> impl Iterator<Item = (&str, &Group)> {
        let mut all: Vec<_> = self.group.iter().collect();
        all.sort_by_key(|(_, group)| group.bit);
        all.into_iter().map(|(name, group)| (name.as_str(), group))
    }

    /// The group that a function needs; none for one that is never refused.
    pub fn required(&self, group: &str, audit: &str) -> Result<Option<String>, String> {
        let class = self
            .audit
            .get(audit)
            .ok_or_else(|| format!("audit = {audit:?} is no class of groups.toml"))?;
        match (self.group.contains_key(group), class.refusable) {
            (true, true) => Ok(Some(group.to_owned())),
            (true, false) => Ok(None),
            (false, false) if FREE.contains(&group) => Ok(None),
            (false, true) if FREE.contains(&group) => Err(format!(
                "audit = {audit:?} can be refused, so it needs a group that can be granted, not {group:?}"
            )),
            (false, _) => Err(format!("group = {group:?} is no group of groups.toml")),
        }
    }
}
