//! What is declared about each function of the Driver API.

pub use crate::generated::functions::{AUDIT_CLASSES, FUNCTIONS, Group, OPCODES};

/// A declared function; an index into [`FUNCTIONS`], stable only within one build.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Function(pub u16);

/// How a call travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Answered in the client's process.
    Local,
    /// Answered from a snapshot that an earlier reply brought.
    Cached,
    /// Posted; nobody waits.
    Async,
    /// Posted; the caller waits, and the worker's dispatcher runs it at once because it cannot block.
    Inline,
    /// Posted; the caller waits, and the lane's own worker thread runs it.
    Blocking,
}

/// One row of the declarations.
#[derive(Debug, Clone, Copy)]
pub struct FunctionInfo {
    /// Exported name, or `vgpu…` for a record of our own protocol.
    pub name: &'static str,
    /// The CUDA chapter: the file name of both halves.
    pub chapter: &'static str,
    pub class: Class,
    /// The capability group it belongs to.
    pub group: &'static str,
    /// Its [`AuditClass`]: what it does.
    pub audit: &'static str,
    /// The group that a zone must be granted for it; none where it acquires and runs nothing.
    pub requires: Option<Group>,
    /// Refused where no context is current, unless the function looks for one in a way of its own.
    pub needs_context: bool,
    /// Opcode on the wire; 0 where nothing is posted.
    pub opcode: u16,
}

/// What a call can do.
#[derive(Debug, Clone, Copy)]
pub struct AuditClass {
    pub name: &'static str,
    /// Whether policy can refuse it.
    pub refusable: bool,
    pub about: &'static str,
}

impl Group {
    /// All bits.
    pub const MASK: u64 = (1 << Self::ALL.len()) - 1;

    /// Its bit on the capability page.
    #[must_use]
    pub const fn bit(self) -> u64 {
        1 << self as u8
    }

    /// The group of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.name() == name)
    }

    /// The groups of a bitmap.
    pub fn in_mask(mask: u64) -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .filter(move |group| mask & group.bit() != 0)
    }
}

impl FunctionInfo {
    /// What is declared about a name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        FUNCTIONS
            .binary_search_by_key(&name, |info| info.name)
            .ok()
            .and_then(|index| FUNCTIONS.get(index))
    }

    /// What the call does.
    #[must_use]
    pub fn audit_class(&self) -> Option<&'static AuditClass> {
        AUDIT_CLASSES.iter().find(|class| class.name == self.audit)
    }

    /// The bit that the function needs on the capability page; 0 if none.
    #[must_use]
    pub fn required_bits(&self) -> u64 {
        self.requires.map_or(0, Group::bit)
    }
}

impl Function {
    /// The function behind an opcode.
    #[must_use]
    pub fn from_opcode(opcode: u16) -> Option<Self> {
        OPCODES
            .binary_search_by_key(&opcode, |(candidate, _)| *candidate)
            .ok()
            .and_then(|index| OPCODES.get(index))
            .map(|(_, function)| *function)
    }

    #[must_use]
    pub fn info(self) -> &'static FunctionInfo {
        // Values are minted by the generated constants only, which index this very table.
        &FUNCTIONS[usize::from(self.0)]
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        self.info().name
    }
}

impl core::fmt::Debug for Function {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_opcode_finds_every_remote_function_and_nothing_else() {
        for (index, info) in FUNCTIONS.iter().enumerate() {
            if info.opcode != 0 {
                let function = Function::from_opcode(info.opcode).expect("declared");
                assert_eq!(usize::from(function.0), index);
            }
        }
        assert_eq!(Function::from_opcode(0), None);
        assert_eq!(Function::from_opcode(u16::MAX), None);
    }

    #[test]
    fn every_function_is_found_by_its_name() {
        for info in &FUNCTIONS {
            let found = FunctionInfo::named(info.name).expect("declared");
            assert_eq!(found.name, info.name);
            assert!(info.audit_class().is_some(), "{}", info.name);
        }
        assert!(FunctionInfo::named("cuNothing").is_none());
    }

    #[test]
    fn what_frees_ends_waits_or_tells_needs_no_grant() {
        let leaves = [
            "Destroy",
            "Free",
            "Release",
            "Unload",
            "Unmap",
            "Unregister",
            "Close",
            "Synchronize",
            "Query",
            "Reset_v2",
            "EndCapture",
            "Disable",
            "GetError",
            "ProfilerStop",
        ];
        for info in &FUNCTIONS {
            if leaves.iter().any(|word| info.name.contains(word)) {
                assert_eq!(info.requires, None, "{}", info.name);
            }
        }
    }

    #[test]
    fn what_acquires_or_runs_needs_a_grant() {
        let takes = [
            "Alloc",
            "Create",
            "Launch",
            "Memcpy",
            "Memset",
            "LoadData",
            "Open",
            "Instantiate",
            "Register",
            "MemMap",
            "Retain",
            "BeginCapture",
            "WriteValue",
            "AddNode",
        ];
        let tells = ["Get", "Unregister"];
        for info in &FUNCTIONS {
            let is = |words: &[&str]| words.iter().any(|word| info.name.contains(word));
            if is(&takes) && !is(&tells) {
                assert!(info.requires.is_some(), "{}", info.name);
            }
        }
    }

    #[test]
    fn groups_have_a_bit_of_their_own_and_are_found_by_name() {
        let mut seen = 0;
        for group in Group::ALL {
            assert_eq!(seen & group.bit(), 0);
            seen |= group.bit();
            assert_eq!(Group::named(group.name()), Some(group));
        }
        assert_eq!(seen, Group::MASK);
        assert_eq!(Group::in_mask(Group::MASK).count(), Group::ALL.len());
    }
}
