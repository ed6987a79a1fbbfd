//! The sweep: what a worker looks at from time to time, instead of a timer for each connection and request.
//!
//! It goes in steps, between which callers get their turn: thousands of connections may fall idle together, and taking
//! one apart costs as much as half a request.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tokio::time::MissedTickBehavior;

use super::Worker;
use crate::allocator;
use crate::proxy::connection::resting::BATCH;
use crate::proxy::connection::{self, Link, Patience, Signal};

/// Timeouts are this exact.
const SWEEP: Duration = Duration::from_millis(250);
/// Of more idle connections than are kept ready, those that were idle longest rest after this.
const REST: Duration = SWEEP.saturating_mul(2);
/// Those kept ready rest after this. Their next request is spared the building up; callers whose load comes in bursts are
/// back by then.
const REST_OF_READY: Duration = Duration::from_secs(10);
/// When the process ends, a connection that says nothing for this long is closed: its caller is no
/// more likely to speak at just that moment than at the end of any idle timeout.
const QUIET: Duration = Duration::from_secs(2);
/// Connections that one step has something to tell, or closes: about a tenth of a millisecond.
const TOLD: usize = 16;
/// Connections that one step looks at.
const LOOKED_AT: usize = 1024;

/// What a sweep has seen of the connections that have a task.
#[derive(Default)]
struct Seen {
    /// How many hold more than their stream.
    holding: usize,
    /// Those that are idle and could rest, and since when they are.
    ready: Vec<(Instant, Rc<Link>)>,
    /// Those of HTTP/2 that are idle, and since when.
    idle_http2: Vec<(Instant, Rc<Link>)>,
}

pub async fn run(worker: Rc<Worker>) {
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = Instant::now();
        worker.clock.set(now);
        worker.pass_on_what_waits(now);
        let seen = worker.sweep_links(now).await;
        worker.rest_beyond(seen.ready, now).await;
        worker.close_beyond(seen.idle_http2).await;
        worker.sweep_resting(now).await;
        if worker.ebb.borrow_mut().is_due(seen.holding, Instant::now()) {
            allocator::give_back();
        }
    }
}

impl Worker {
    fn patience(&self) -> Patience {
        let table = self.table();
        let callers = &table.plan.callers;
        let (idle, rest) = if self.closing.get() {
            // What is about to be closed does not rest.
            (callers.idle_timeout.min(QUIET), Duration::MAX)
        } else {
            (callers.idle_timeout, REST_OF_READY)
        };
        Patience { header: callers.header_timeout, idle, stall: callers.stall_timeout, rest }
    }

    /// Of what all workers may have together.
    fn share(&self, of: usize) -> usize {
        of.div_ceil(self.peers.len().max(1))
    }

    /// Callers have their turn. Who goes by the clock meanwhile is not to be taken for older than it is by the time of a
    /// long sweep.
    async fn make_way(&self) {
        yield_now().await;
        self.clock.set(Instant::now());
    }

    async fn sweep_links(&self, now: Instant) -> Seen {
        let patience = self.patience();
        let mut seen = Seen::default();
        let mut from = 0;
        while let Some(next) = self.sweep_some(from, now, &patience, &mut seen) {
            from = next;
            self.make_way().await;
        }
        seen
    }

    /// One step through the connections, beginning with key `from`; where the next one begins.
    fn sweep_some(&self, from: usize, now: Instant, patience: &Patience, seen: &mut Seen) -> Option<usize> {
        let links = self.links.borrow();
        let mut told = 0;
        for key in from..links.capacity() {
            if told == TOLD || key - from == LOOKED_AT {
                return Some(key);
            }
            let Some(link) = links.get(key) else { continue };
            if let Some(signal) = link.due(now, patience) {
                link.send(signal);
                // Looking once more costs next to nothing.
                told += usize::from(signal != Signal::Watch);
            } else if let Some(since) = link.idle_ready() {
                seen.ready.push((since, Rc::clone(link)));
            }
            seen.holding += usize::from(link.holds_memory());
            if let Some(since) = link.idle_http2() {
                seen.idle_http2.push((since, Rc::clone(link)));
            }
        }
        None
    }

    /// Lays to rest what is beyond the share of connections that this worker keeps ready.
    async fn rest_beyond(&self, ready: Vec<(Instant, Rc<Link>)>, now: Instant) {
        if self.closing.get() {
            return;
        }
        let mut beyond = longest_beyond(ready, self.share(self.table().plan.callers.keep_ready));
        beyond.retain(|(since, _)| now.saturating_duration_since(*since) >= REST);
        self.tell(beyond, Signal::Rest, Link::idle_ready).await;
    }

    /// Closes idle HTTP/2 connections beyond this worker's share.
    async fn close_beyond(&self, idle: Vec<(Instant, Rc<Link>)>) {
        let beyond = longest_beyond(idle, self.share(self.table().plan.callers.max_idle_http2));
        self.tell(beyond, Signal::Close, Link::idle_http2).await;
    }

    /// Those whose idleness is still the one that was seen.
    async fn tell(
        &self,
        links: Vec<(Instant, Rc<Link>)>,
        signal: Signal,
        idle: impl Fn(&Link) -> Option<Instant>,
    ) {
        for some in links.chunks(TOLD) {
            for (_, link) in some.iter().filter(|(since, link)| idle(link) == Some(*since)) {
                link.send(signal);
            }
            self.make_way().await;
        }
    }

    async fn sweep_resting(self: &Rc<Self>, now: Instant) {
        let idle = self.patience().idle;
        let mut from = Some(0);
        while let Some(at) = from {
            // Who has spoken by now is not closed for having been silent.
            while self.resting.take_ready(BATCH, |entry| connection::rouse(self, entry)) {
                self.make_way().await;
            }
            let step = self.resting.expire(at..at + LOOKED_AT, now, idle, TOLD);
            if step.closed > 0 {
                self.freed();
            }
            from = step.next;
            if from.is_some() {
                self.make_way().await;
            }
        }
        self.resting.compact();
    }

    /// What was gathered for others and has no moment of its own to go.
    pub(super) fn pass_on_what_waits(&self, now: Instant) {
        self.lane.sweep(now);
        let table = self.table();
        let stall = table.plan.callers.stall_timeout;
        self.active.borrow_mut().retain(|service| service.sweep(now, stall));
        if let Some(log) = &table.plan.access_log {
            log.flush(&self.lines);
        }
    }
}

/// The entries beyond `keep` of them, those that are oldest.
fn longest_beyond<T>(mut idle: Vec<(Instant, T)>, keep: usize) -> Vec<(Instant, T)> {
    let excess = idle.len().saturating_sub(keep);
    if excess > 0 {
        idle.select_nth_unstable_by_key(excess - 1, |(since, _)| *since);
    }
    idle.truncate(excess);
    idle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_idle_longest_are_too_many() {
        let start = Instant::now();
        let beyond = |keep| {
            let idle =
                [3, 1, 4, 2, 5].map(|seconds| (start + Duration::from_secs(seconds), seconds)).to_vec();
            let mut beyond: Vec<_> = longest_beyond(idle, keep).into_iter().map(|(_, of)| of).collect();
            beyond.sort_unstable();
            beyond
        };
        assert_eq!(beyond(3), [1, 2]);
        assert_eq!((beyond(0).len(), beyond(5).len(), beyond(6).len()), (5, 0, 0));
    }
}
