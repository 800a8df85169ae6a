//! What is to be kept for objects besides the driver's: host functions that were put into an executable graph
//! after it was made, and how many references to a user object are the client's.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use cuda_abi::types::CUresult;

use crate::callbacks;

/// Executable graphs and user objects of a session.
#[derive(Debug, Default)]
pub struct Execs {
    /// By the driver's object, those that host functions were put into.
    execs: HashMap<usize, Exec>,
    /// User objects, by handle.
    objects: HashMap<u64, Owned>,
}

/// An executable graph that host functions were put into.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Exec {
    /// Their numbers.
    pub callbacks: Vec<usize>,
    /// The stream of the last launch: its handle, and the driver's object.
    pub last: Option<(u64, usize)>,
}

#[derive(Debug)]
struct Owned {
    /// Number of the destructor, which is waiting as long as the object is alive.
    number: usize,
    /// References of the client's own.
    count: u64,
}

impl Execs {
    /// A host function was put into an executable graph, and stays until that is destroyed.
    pub fn keep(&mut self, exec: usize, callback: usize) {
        let exec = self.execs.entry(exec).or_default();
        exec.callbacks.push(callback);
    }

    /// An executable graph was launched.
    pub fn launched(&mut self, exec: usize, stream: (u64, usize)) {
        if let Some(exec) = self.execs.get_mut(&exec) {
            exec.last = Some(stream);
        }
    }

    /// An executable graph is destroyed.
    pub fn destroyed(&mut self, exec: usize) -> Exec {
        self.execs.remove(&exec).unwrap_or_default()
    }

    /// User objects that have ended since the last time: their handles name nothing any more.
    pub fn take_ended(&mut self) -> Vec<u64> {
        let ended = |owned: &Owned| !callbacks::is_waiting(owned.number);
        let found = self.objects.iter().filter(|(_, owned)| ended(owned));
        let gone: Vec<u64> = found.map(|(object, _)| *object).collect();
        for object in &gone {
            self.objects.remove(object);
        }
        gone
    }

    /// The client has a user object, with so many references.
    pub fn own(&mut self, object: u64, number: usize, count: u64) {
        self.objects.insert(object, Owned { number, count });
    }

    /// Number of a user object's destructor.
    pub fn number(&self, object: u64) -> Option<usize> {
        self.objects.get(&object).map(|owned| owned.number)
    }

    /// The client has `count` more references.
    pub fn own_more(&mut self, object: u64, count: u64) {
        if let Some(owned) = self.objects.get_mut(&object) {
            owned.count = owned.count.saturating_add(count);
        }
    }

    /// The client gives up `count` references.
    ///
    /// # Errors
    /// `INVALID_VALUE` if it has not as many.
    pub fn own_fewer(&mut self, object: u64, count: u64) -> Result<(), CUresult> {
        let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
        let owned = self.objects.get_mut(&object).ok_or(invalid)?;
        let left = owned.count.checked_sub(count).filter(|_| count > 0);
        owned.count = left.ok_or(invalid)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gives_up_a_reference_that_he_does_not_hold() {
        let mut execs = Execs::default();
        execs.own(7, 1, 2);
        assert!(execs.own_fewer(7, 3).is_err() && execs.own_fewer(7, 0).is_err());
        execs.own_more(7, 1);
        assert_eq!(execs.own_fewer(7, 3), Ok(()));
        assert!(execs.own_fewer(7, 1).is_err() && execs.own_fewer(8, 1).is_err());
    }

    #[test]
    fn an_object_without_a_destructor_that_waits_has_ended() {
        let mut execs = Execs::default();
        execs.own(7, usize::MAX, 1);
        assert_eq!(execs.take_ended(), [7]);
        assert!(execs.take_ended().is_empty());
    }

    #[test]
    fn host_functions_stay_with_the_executable_graph_they_were_put_into() {
        let mut execs = Execs::default();
        execs.keep(1, 10);
        execs.keep(1, 11);
        execs.keep(2, 12);
        execs.launched(1, (7, 8));
        execs.launched(3, (7, 8));
        let gone = execs.destroyed(1);
        assert_eq!((gone.callbacks, gone.last), (vec![10, 11], Some((7, 8))));
        assert_eq!(execs.destroyed(1), Exec::default());
        assert_eq!(execs.destroyed(3), Exec::default());
    }
}
