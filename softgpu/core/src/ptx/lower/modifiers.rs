//! What an instruction says of itself, taken piece by piece.
#![forbid(unsafe_code)]

use super::super::ast::Instruction;
use super::Result;
use super::builder::Builder;

/// The modifiers of an instruction that have not been understood yet; their order matters little.
pub(super) struct Modifiers<'i>(Vec<&'i str>);

impl<'i> Modifiers<'i> {
    pub(super) fn of(i: &Instruction<'i>) -> Self {
        Self(i.modifiers.clone())
    }

    /// Takes the first one of that kind.
    pub(super) fn take(&mut self, kind: impl Fn(&str) -> bool) -> Option<&'i str> {
        let place = self.0.iter().position(|modifier| kind(modifier))?;
        Some(self.0.remove(place))
    }

    /// Takes `name`; whether it was there.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        self.take(|modifier| modifier == name).is_some()
    }

    /// Takes the first one that `table` knows, and says what it stands for.
    pub(super) fn choose<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        let find = |modifier: &str| table.iter().find(|(name, _)| *name == modifier);
        let found = self.take(|modifier| find(modifier).is_some())?;
        find(found).map(|(_, value)| *value)
    }

    /// Those that are left, in order.
    pub(super) fn rest(&self) -> &[&'i str] {
        &self.0
    }
}

impl Builder<'_, '_> {
    /// Refuses what has not been understood.
    pub(super) fn nothing_else(&self, modifiers: &Modifiers<'_>) -> Result<()> {
        match modifiers.0.first() {
            Some(modifier) => Err(self.error(format!("modifier {modifier} is not supported"))),
            None => Ok(()),
        }
    }
}
