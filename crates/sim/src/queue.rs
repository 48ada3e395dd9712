//! What is to happen, by time; at the same time, in the order in which it was planned.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use evenkeel_core::model::Time;

/// A queue of things to happen.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    heap: BinaryHeap<Reverse<Planned<T>>>,
    planned: u64,
}

#[derive(Debug)]
struct Planned<T> {
    at: Time,
    order: u64,
    what: T,
}

impl<T> Planned<T> {
    const fn key(&self) -> (Time, u64) {
        (self.at, self.order)
    }
}

impl<T> PartialEq for Planned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Planned<T> {}

impl<T> PartialOrd for Planned<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Planned<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl<T> Queue<T> {
    pub(crate) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), planned: 0 }
    }

    pub(crate) fn push(&mut self, at: Time, what: T) {
        self.heap.push(Reverse(Planned { at, order: self.planned, what }));
        self.planned += 1;
    }

    pub(crate) fn next_at(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse(planned)| planned.at)
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        self.heap.pop().map(|Reverse(planned)| planned.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_planned_first_for_a_moment_happens_first_then() {
        let mut queue = Queue::new();
        for (at, what) in [(5, "c"), (3, "a"), (5, "d"), (3, "b")] {
            queue.push(Time::from_unix_ms(at), what);
        }
        assert_eq!(queue.next_at(), Some(Time::from_unix_ms(3)));
        let order: String = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, "abcd");
    }
}
