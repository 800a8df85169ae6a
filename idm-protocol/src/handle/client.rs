//! The client's table: mints handles and keeps what the client knows about each object.

use super::{Handle, HandleError, HandleLimits, Kind};

/// One client's handles, each with what the client keeps about it. Not synchronised: the owner locks.
#[derive(Debug)]
pub struct ClientTable<T> {
    limits: HandleLimits,
    kinds: Vec<KindTable<T>>,
}

#[derive(Debug)]
struct KindTable<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    /// Generation of the current or the next use; never 0.
    generation: u32,
    content: Option<T>,
}

impl<T> ClientTable<T> {
    /// An empty table.
    pub fn new(limits: HandleLimits) -> Self {
        let kinds = (0..64)
            .map(|_| KindTable {
                slots: Vec::new(),
                free: Vec::new(),
            })
            .collect();
        Self { limits, kinds }
    }

    /// Mints a handle for a new object.
    ///
    /// # Errors
    /// [`HandleError::OverLimit`]; the caller reports out of memory.
    pub fn mint(&mut self, kind: Kind, content: T) -> Result<Handle, HandleError> {
        let limit = self.limits.of(kind);
        let over = HandleError::OverLimit { kind, limit };
        let table = &mut self.kinds[usize::from(kind.number())];
        if let Some(number) = table.free.pop() {
            let slot = table
                .slots
                .get_mut(usize::try_from(number).unwrap_or(usize::MAX));
            let slot = slot.ok_or(over)?;
            slot.content = Some(content);
            return Handle::new(kind, number, slot.generation).ok_or(over);
        }
        let number = u32::try_from(table.slots.len()).unwrap_or(u32::MAX);
        if number >= limit {
            return Err(over);
        }
        table.slots.push(Slot {
            generation: 1,
            content: Some(content),
        });
        Handle::new(kind, number, 1).ok_or(over)
    }

    /// What is kept about the object that a program names.
    ///
    /// # Errors
    /// [`HandleError::Forged`], [`HandleError::WrongKind`], [`HandleError::Stale`].
    #[inline]
    pub fn resolve(&self, value: u64, kind: Kind) -> Result<(Handle, &T), HandleError> {
        let handle = check(value, kind)?;
        let slots = &self.kinds[usize::from(kind.number())].slots;
        match slots.get(usize::try_from(handle.slot()).unwrap_or(usize::MAX)) {
            Some(Slot {
                generation,
                content: Some(content),
            }) if *generation == handle.generation() => Ok((handle, content)),
            _ => Err(HandleError::Stale(handle)),
        }
    }

    /// As [`ClientTable::resolve`], to change it.
    ///
    /// # Errors
    /// [`HandleError::Forged`], [`HandleError::WrongKind`], [`HandleError::Stale`].
    #[inline]
    pub fn resolve_mut(&mut self, value: u64, kind: Kind) -> Result<(Handle, &mut T), HandleError> {
        let handle = check(value, kind)?;
        let slots = &mut self.kinds[usize::from(kind.number())].slots;
        match slots.get_mut(usize::try_from(handle.slot()).unwrap_or(usize::MAX)) {
            Some(Slot {
                generation,
                content: Some(content),
            }) if *generation == handle.generation() => Ok((handle, content)),
            _ => Err(HandleError::Stale(handle)),
        }
    }

    /// Forgets an object; its handle is stale from now on. A slot whose generations are used up is
    /// not used again.
    ///
    /// # Errors
    /// [`HandleError::Forged`], [`HandleError::WrongKind`], [`HandleError::Stale`].
    pub fn remove(&mut self, value: u64, kind: Kind) -> Result<T, HandleError> {
        let handle = check(value, kind)?;
        let table = &mut self.kinds[usize::from(kind.number())];
        let stale = HandleError::Stale(handle);
        let number = usize::try_from(handle.slot()).unwrap_or(usize::MAX);
        let slot = table.slots.get_mut(number).ok_or(stale)?;
        if slot.generation != handle.generation() {
            return Err(stale);
        }
        let content = slot.content.take().ok_or(stale)?;
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            table.free.push(handle.slot());
        }
        Ok(content)
    }

    /// All objects of a kind.
    pub fn iter(&self, kind: Kind) -> impl Iterator<Item = (Handle, &T)> {
        let slots = &self.kinds[usize::from(kind.number())].slots;
        (0u32..).zip(slots).filter_map(move |(number, slot)| {
            Some((
                Handle::new(kind, number, slot.generation)?,
                slot.content.as_ref()?,
            ))
        })
    }
}

/// The shape and the kind of a handle.
#[inline]
pub(super) fn check(value: u64, wanted: Kind) -> Result<Handle, HandleError> {
    let handle = Handle::from_value(value).ok_or(HandleError::Forged(value))?;
    if handle.kind() != wanted {
        return Err(HandleError::WrongKind {
            found: handle,
            wanted,
        });
    }
    Ok(handle)
}
