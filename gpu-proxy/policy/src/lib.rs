//! Policy as data: which zone is granted what, and why a call is refused.
//!
//! A policy file names zones; what it does not name is granted nothing. [`Policy::parse`] reports all mistakes of a
//! file, each with its line and what to do about it; [`Policy::explain`] says what a policy makes of one call. The
//! supervisor binds a policy to its zones, `vgpuctl` checks and explains one without a proxy.

#![forbid(unsafe_code)]

use std::fmt;
use std::path::{Path, PathBuf};

use cuda_abi::function::Group;

pub mod document;
mod explain;
pub mod limits;
mod read;
pub mod units;
pub mod values;

use document::Mistakes;
use limits::Limits;
use units::size_text;

pub use explain::{Explanation, UnknownCall, Verdict};

/// A policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Where it was read; names it in messages.
    pub file: PathBuf,
    /// Each `[[zone]]`, in the order of the file.
    pub rules: Vec<Rule>,
}

/// `[[zone]]`: what one zone is granted. Where it says nothing of a limit, the configuration's counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `name`: the zone of the configuration that it is about. No default.
    pub zone: String,
    /// The line in which it begins.
    pub line: usize,
    /// `allow`: capability groups, as the bits of the capability page. No default; `[]` is nothing.
    pub groups: u64,
    /// `memory`: device memory that all its clients together may hold.
    pub memory: Option<u64>,
    /// `pinned`: pinned host memory of each client that attaches from now on, staging included.
    pub pinned: Option<u64>,
    /// `clients`: most clients at one time.
    pub clients: Option<u32>,
    /// `devices`: ordinals of the devices that clients see which attach from now on.
    pub devices: Option<Vec<u32>>,
    /// `on_lost_device`: what becomes of new clients when all devices of the zone are lost.
    pub on_lost_device: Option<OnLostDevice>,
    /// `audit`: what the log says of the calls of clients that attach from now on.
    pub audit: Option<Audit>,
    /// Further limits.
    pub limits: Limits,
}

/// What becomes of new clients of a zone whose devices are all lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLostDevice {
    /// They are refused, with `CUDA_ERROR_DEVICE_UNAVAILABLE`.
    #[default]
    Refuse,
    /// The software GPU serves them.
    Softgpu,
}

impl OnLostDevice {
    /// All of them, with the words for them.
    pub const NAMES: [(&'static str, Self); 2] =
        [("refuse", Self::Refuse), ("softgpu", Self::Softgpu)];

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Softgpu => "softgpu",
        }
    }
}

/// What the log says of the calls of a zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Audit {
    /// Every one.
    #[default]
    Every,
    /// How many of each function, kernel and result there were in a second, and how long they took.
    Summary,
}

impl Audit {
    /// All of them, with the words for them.
    pub const NAMES: [(&'static str, Self); 2] =
        [("every", Self::Every), ("summary", Self::Summary)];

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Every => "every",
            Self::Summary => "summary",
        }
    }
}

/// A policy that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The file cannot be read: its name and why.
    Unreadable(PathBuf, String),
    /// It says something that is wrong.
    Wrong(Mistakes),
}

impl Policy {
    /// The version of the format that this build reads.
    pub const VERSION: u32 = 1;

    /// Reads a policy; `file` only names it in messages.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file: &Path, source: &str) -> Result<Self, Mistakes> {
        read::policy(file, source)
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn read(file: &Path) -> Result<Self, Unusable> {
        let source = std::fs::read_to_string(file)
            .map_err(|error| Unusable::Unreadable(file.to_owned(), error.to_string()))?;
        Self::parse(file, &source).map_err(Unusable::Wrong)
    }

    /// What a zone is granted; none if the policy does not name it.
    #[must_use]
    pub fn rule(&self, zone: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.zone == zone)
    }

    /// Refuses to name zones that there are not: a zone whose name was misspelt would be granted nothing.
    ///
    /// # Errors
    /// A mistake for each such rule.
    pub fn check_zones(&self, known: &[&str]) -> Result<(), Mistakes> {
        let strangers = self.rules.iter().enumerate();
        let list: Vec<_> = strangers
            .filter(|(_, rule)| !known.contains(&rule.zone.as_str()))
            .map(|(index, rule)| document::Mistake {
                line: rule.line,
                key: format!("zone[{index}].name"),
                problem: format!("{:?} is no zone of the configuration", rule.zone),
                remedy: match document::near(&rule.zone, known.iter().copied()) {
                    Some(near) => format!("did you mean {near:?}?"),
                    None => format!("remove it, or name one of {}", known.join(", ")),
                },
            })
            .collect();
        if list.is_empty() {
            return Ok(());
        }
        Err(Mistakes {
            file: self.file.clone(),
            list,
        })
    }
}

/// The words for the groups of a bitmap.
#[must_use]
pub fn group_names(groups: u64) -> String {
    let names: Vec<_> = Group::in_mask(groups).map(Group::name).collect();
    if names.is_empty() {
        return "nothing".to_owned();
    }
    names.join(", ")
}

/// The same as a file, with nothing left out.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "version = {}", Self::VERSION)?;
        self.rules.iter().try_for_each(|rule| write!(f, "\n{rule}"))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Group::in_mask(self.groups).map(Group::name).collect();
        writeln!(f, "[[zone]]\nname = \"{}\"\nallow = {names:?}", self.zone)?;
        for (key, size) in [("memory", self.memory), ("pinned", self.pinned)] {
            if let Some(size) = size {
                writeln!(f, "{key} = \"{}\"", size_text(size))?;
            }
        }
        if let Some(clients) = self.clients {
            writeln!(f, "clients = {clients}")?;
        }
        if let Some(devices) = &self.devices {
            writeln!(f, "devices = {devices:?}")?;
        }
        if let Some(what) = self.on_lost_device {
            writeln!(f, "on_lost_device = \"{}\"", what.name())?;
        }
        if let Some(what) = self.audit {
            writeln!(f, "audit = \"{}\"", what.name())?;
        }
        self.limits.fmt(f)
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(file, why) => write!(f, "{}: {why}", file.display()),
            Self::Wrong(mistakes) => mistakes.fmt(f),
        }
    }
}

impl std::error::Error for Unusable {}
