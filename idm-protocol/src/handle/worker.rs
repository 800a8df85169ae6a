//! The worker's table: binds handles that the client minted, and believes none of them.

use super::client::check;
use super::{Handle, HandleError, HandleLimits, Kind};

/// One client's objects, by handle. Not synchronised: the owner locks.
#[derive(Debug)]
pub struct WorkerTable<T> {
    limits: HandleLimits,
    kinds: Vec<Vec<Slot<T>>>,
}

/// What a handle that was bound stands for.
#[derive(Debug, PartialEq, Eq)]
pub enum Bound<T> {
    /// An object.
    Object(T),
    /// A creation that failed with this result.
    Poisoned(u32),
}

#[derive(Debug)]
struct Slot<T> {
    /// Last generation bound here; 0 before the first.
    generation: u32,
    bound: Option<Bound<T>>,
}

impl<T> WorkerTable<T> {
    /// An empty table.
    pub fn new(limits: HandleLimits) -> Self {
        Self {
            limits,
            kinds: (0..64).map(|_| Vec::new()).collect(),
        }
    }

    /// Whether [`WorkerTable::bind`] would accept this handle: to be asked before the driver makes
    /// the object.
    ///
    /// # Errors
    /// [`HandleError`]: forged, wrong kind, over the limit, bound already, or older than what was
    /// bound there.
    pub fn check_free(&self, value: u64, kind: Kind) -> Result<Handle, HandleError> {
        let handle = check(value, kind)?;
        let limit = self.limits.of(kind);
        if handle.slot() >= limit {
            return Err(HandleError::OverLimit { kind, limit });
        }
        match self.slot(handle) {
            None => Ok(handle),
            Some(slot) if slot.bound.is_some() => Err(HandleError::Bound(handle)),
            Some(slot) if slot.generation >= handle.generation() => Err(HandleError::Stale(handle)),
            Some(_) => Ok(handle),
        }
    }

    /// Binds a handle to an object.
    ///
    /// # Errors
    /// As [`WorkerTable::check_free`]; the object comes back, to be destroyed.
    pub fn bind(&mut self, value: u64, kind: Kind, object: T) -> Result<Handle, (HandleError, T)> {
        match self.check_free(value, kind) {
            Ok(handle) => {
                self.put(handle, Bound::Object(object));
                Ok(handle)
            }
            Err(error) => Err((error, object)),
        }
    }

    /// Takes note that the object was not made: every use gets `code` (D11).
    ///
    /// # Errors
    /// As [`WorkerTable::check_free`].
    pub fn poison(&mut self, value: u64, kind: Kind, code: u32) -> Result<Handle, HandleError> {
        let handle = self.check_free(value, kind)?;
        self.put(handle, Bound::Poisoned(code));
        Ok(handle)
    }

    /// The object that a record names.
    ///
    /// # Errors
    /// [`HandleError`]: forged, wrong kind, stale or poisoned.
    #[inline]
    pub fn resolve(&self, value: u64, kind: Kind) -> Result<&T, HandleError> {
        let handle = check(value, kind)?;
        match self.slot(handle) {
            Some(slot) if slot.generation == handle.generation() => match &slot.bound {
                Some(Bound::Object(object)) => Ok(object),
                Some(Bound::Poisoned(code)) => Err(HandleError::Poisoned {
                    handle,
                    code: *code,
                }),
                None => Err(HandleError::Stale(handle)),
            },
            _ => Err(HandleError::Stale(handle)),
        }
    }

    /// As [`WorkerTable::resolve`], to change it.
    ///
    /// # Errors
    /// [`HandleError`]: forged, wrong kind, stale or poisoned.
    pub fn resolve_mut(&mut self, value: u64, kind: Kind) -> Result<&mut T, HandleError> {
        let handle = check(value, kind)?;
        match self.slot_mut(handle) {
            Some(slot) if slot.generation == handle.generation() => match &mut slot.bound {
                Some(Bound::Object(object)) => Ok(object),
                Some(Bound::Poisoned(code)) => Err(HandleError::Poisoned {
                    handle,
                    code: *code,
                }),
                None => Err(HandleError::Stale(handle)),
            },
            _ => Err(HandleError::Stale(handle)),
        }
    }

    /// Takes the binding away; the handle is stale from now on.
    ///
    /// # Errors
    /// [`HandleError`]: forged, wrong kind or stale.
    pub fn unbind(&mut self, value: u64, kind: Kind) -> Result<Bound<T>, HandleError> {
        let handle = check(value, kind)?;
        let stale = HandleError::Stale(handle);
        match self.slot_mut(handle) {
            Some(slot) if slot.generation == handle.generation() => slot.bound.take().ok_or(stale),
            _ => Err(stale),
        }
    }

    /// All objects of a kind.
    pub fn iter(&self, kind: Kind) -> impl Iterator<Item = (Handle, &T)> {
        let slots = &self.kinds[usize::from(kind.number())];
        (0u32..)
            .zip(slots)
            .filter_map(move |(number, slot)| match &slot.bound {
                Some(Bound::Object(object)) => {
                    Some((Handle::new(kind, number, slot.generation)?, object))
                }
                _ => None,
            })
    }

    /// Empties the table; objects of a kind come in the order of their slots.
    pub fn drain(&mut self, kind: Kind) -> impl Iterator<Item = T> {
        self.kinds[usize::from(kind.number())]
            .iter_mut()
            .filter_map(|slot| match slot.bound.take() {
                Some(Bound::Object(object)) => Some(object),
                _ => None,
            })
    }

    fn put(&mut self, handle: Handle, bound: Bound<T>) {
        let slots = &mut self.kinds[usize::from(handle.kind().number())];
        let number = usize::try_from(handle.slot()).unwrap_or(usize::MAX);
        // Below the kind's limit, which `check_free` checked: a client can make this table no larger
        // than its limits.
        if number >= slots.len() {
            slots.resize_with(number + 1, || Slot {
                generation: 0,
                bound: None,
            });
        }
        slots[number] = Slot {
            generation: handle.generation(),
            bound: Some(bound),
        };
    }

    fn slot(&self, handle: Handle) -> Option<&Slot<T>> {
        let slots = &self.kinds[usize::from(handle.kind().number())];
        slots.get(usize::try_from(handle.slot()).ok()?)
    }

    fn slot_mut(&mut self, handle: Handle) -> Option<&mut Slot<T>> {
        let slots = &mut self.kinds[usize::from(handle.kind().number())];
        slots.get_mut(usize::try_from(handle.slot()).ok()?)
    }
}
