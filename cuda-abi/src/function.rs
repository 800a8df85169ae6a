//! What is declared about each function of the Driver API.

pub use crate::generated::functions::{FUNCTIONS, OPCODES};

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
    /// Capability group that policy grants or refuses.
    pub group: &'static str,
    pub audit: &'static str,
    /// Refused where no context is current, unless the function looks for one in a way of its own.
    pub needs_context: bool,
    /// Opcode on the wire; 0 where nothing is posted.
    pub opcode: u16,
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
}
