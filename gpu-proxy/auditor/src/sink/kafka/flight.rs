//! What was handed to the client and is not confirmed yet.

use std::collections::VecDeque;

/// Messages in the order in which they were handed over; brokers confirm them in any.
#[derive(Debug, Default)]
pub(super) struct Flight {
    /// The number of the first.
    first: usize,
    messages: VecDeque<Message>,
}

#[derive(Debug)]
struct Message {
    /// Once it and all before it are confirmed, everything before this leaf is.
    leaf: Option<u64>,
    confirmed: bool,
}

impl Flight {
    /// The number that the next message gets.
    pub(super) fn next(&self) -> usize {
        self.first.wrapping_add(self.messages.len())
    }

    /// A message was handed over; with it everything before `leaf` was.
    pub(super) fn push(&mut self, leaf: Option<u64>) {
        let confirmed = false;
        self.messages.push_back(Message { leaf, confirmed });
    }

    /// A message is where it should be.
    pub(super) fn confirm(&mut self, number: usize) {
        let at = number.wrapping_sub(self.first);
        if let Some(message) = self.messages.get_mut(at) {
            message.confirmed = true;
        }
    }

    /// The leaf before which everything is confirmed that was not known yet.
    pub(super) fn land(&mut self) -> Option<u64> {
        let mut leaf = None;
        while let Some(message) = self.messages.pop_front_if(|message| message.confirmed) {
            self.first = self.first.wrapping_add(1);
            leaf = message.leaf.or(leaf);
        }
        leaf
    }

    /// Whether everything is confirmed.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_confirmed_without_a_hole_has_landed() {
        let mut flight = Flight::default();
        for leaf in [Some(1), Some(2), None, Some(3)] {
            flight.push(leaf);
        }
        assert_eq!((flight.next(), flight.land()), (4, None));
        flight.confirm(1);
        flight.confirm(3);
        assert_eq!(flight.land(), None);
        flight.confirm(0);
        assert_eq!(flight.land(), Some(2));
        // A checkpoint that is not confirmed holds back the block that was sent after it.
        assert_eq!((flight.land(), flight.is_empty()), (None, false));
        flight.confirm(2);
        assert_eq!((flight.land(), flight.is_empty()), (Some(3), true));
        flight.confirm(77);
        assert_eq!((flight.next(), flight.land()), (4, None));
    }
}
