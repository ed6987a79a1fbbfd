//! The requests that wait at a closed gate, in the order they came, and the count of them over all
//! workers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::uri::PathAndQuery;
use tokio::sync::oneshot;

use super::local::Guard;
use crate::proxy::classify::Class;

/// A line for each class: with `park = writes`, reads that waited before may go while writes do not.
#[derive(Default)]
pub struct Line {
    next: u64,
    reads: BTreeMap<u64, Waiting>,
    writes: BTreeMap<u64, Waiting>,
}

pub struct Waiting {
    pub path: Option<PathAndQuery>,
    /// It is let through by whoever opens the gate, so that nothing can come between.
    pub go: oneshot::Sender<Guard>,
}

/// One request's share of `max_parked`.
pub struct Place<'a>(&'a AtomicUsize);

// === impl Line ===

impl Line {
    pub fn len(&self) -> usize {
        self.reads.len() + self.writes.len()
    }

    /// The ticket to leave with.
    pub fn join(&mut self, class: Class, waiting: Waiting) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.of(class).insert(ticket, waiting);
        ticket
    }

    pub fn leave(&mut self, class: Class, ticket: u64) -> Option<Waiting> {
        self.of(class).remove(&ticket)
    }

    /// Takes the one that has waited longest of those that `may` go.
    pub fn next(&mut self, may: impl Fn(Class) -> bool) -> Option<(Class, Waiting)> {
        let first = |class, of: &BTreeMap<u64, Waiting>| {
            of.first_key_value().filter(|_| may(class)).map(|(ticket, _)| (*ticket, class))
        };
        let fronts = [first(Class::Read, &self.reads), first(Class::Write, &self.writes)];
        let (ticket, class) = fronts.into_iter().flatten().min()?;
        Some((class, self.leave(class, ticket)?))
    }

    fn of(&mut self, class: Class) -> &mut BTreeMap<u64, Waiting> {
        match class {
            Class::Read => &mut self.reads,
            Class::Write => &mut self.writes,
        }
    }
}

// === impl Place ===

impl<'a> Place<'a> {
    pub fn take(everywhere: &'a AtomicUsize, max: usize) -> Option<Self> {
        let more = |parked| (parked < max).then_some(parked + 1);
        everywhere.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self(everywhere))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
