//! The exchanges that one gate has let through: where each stands, and which has to end early.
//!
//! Nothing of the outside runs in here: wakers and whatever else could call back are handed out, to be
//! used when nothing is borrowed any more.

use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use serde::{Deserialize, Serialize};
use slab::Slab;

use super::member::Admitted;
use crate::proxy::forward::upload::UploadState;

#[derive(Default)]
pub struct Flight(Slab<Exchange>);

/// Where an exchange stands; decides which timeout applies to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Waiting for a connection to the instance; the pool has its own timeouts.
    Connecting,
    /// The request is on its way, or out; no head yet.
    Awaiting,
    Answering,
    Tunnel,
}

/// Why an exchange has to end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The drain deadline passed and the policy is `cut`.
    Cut,
    /// The instance did not answer in time.
    AnswerTimeout,
    /// The caller stopped sending its body.
    CallerStalled,
}

pub struct Exchange {
    admitted: Admitted,
    path: Option<PathAndQuery>,
    started: Instant,
    stage: Stage,
    upload: Option<Rc<UploadState>>,
    progress: Instant,
    bytes: u64,
    signal: Option<Signal>,
    waker: Option<Waker>,
    /// Counted out before its guard was dropped.
    pub left: bool,
}

/// An exchange that keeps a drain from ending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    pub path: String,
    pub class: String,
    pub stage: Stage,
    pub age_ms: u64,
    /// Of the answer and of the caller's body.
    pub bytes: u64,
}

/// What a cut has done.
#[derive(Default)]
pub struct Cut {
    pub signalled: usize,
    /// To be counted out at once.
    pub left: Vec<Admitted>,
    pub wakers: Vec<Waker>,
}

// === impl Flight ===

impl Flight {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn begin(&mut self, admitted: Admitted, path: Option<PathAndQuery>, now: Instant) -> usize {
        self.0.insert(Exchange {
            admitted,
            path,
            started: now,
            stage: Stage::Connecting,
            upload: None,
            progress: now,
            bytes: 0,
            signal: None,
            waker: None,
            left: false,
        })
    }

    /// Its age counts from `now`, whatever it was admitted with.
    pub fn begins(&mut self, key: usize, now: Instant) {
        if let Some(exchange) = self.0.get_mut(key) {
            exchange.started = now;
        }
    }

    pub fn end(&mut self, key: usize) -> Option<Exchange> {
        self.0.try_remove(key)
    }

    /// Moves an exchange to its next stage. `true`: it is to be counted out at once.
    pub fn enter(&mut self, key: usize, stage: Stage, now: Instant) -> bool {
        let Some(exchange) = self.0.get_mut(key) else { return false };
        exchange.stage = stage;
        exchange.progress = now;
        exchange.leaves_by_cut()
    }

    pub fn attach(&mut self, key: usize, upload: Rc<UploadState>) {
        if let Some(exchange) = self.0.get_mut(key) {
            exchange.upload = Some(upload);
        }
    }

    pub fn took(&mut self, key: usize, bytes: u64) -> Option<Signal> {
        let exchange = self.0.get_mut(key)?;
        exchange.bytes += bytes;
        exchange.signal
    }

    pub fn signal(&self, key: usize) -> Option<Signal> {
        self.0.get(key)?.signal
    }

    pub fn is_woken_by(&self, key: usize, waker: &Waker) -> bool {
        self.0
            .get(key)
            .and_then(|exchange| exchange.waker.as_ref())
            .is_some_and(|known| known.will_wake(waker))
    }

    /// The waker that was there before, for the caller to drop.
    pub fn wake_by(&mut self, key: usize, waker: Waker) -> Option<Waker> {
        self.0.get_mut(key)?.waker.replace(waker)
    }

    /// Asks all exchanges that are `meant` to end.
    pub fn cut(&mut self, meant: impl Fn(Admitted) -> bool) -> Cut {
        let mut cut = Cut::default();
        for (_, exchange) in self.0.iter_mut().filter(|(_, exchange)| meant(exchange.admitted)) {
            if exchange.signal.is_none() {
                exchange.signal = Some(Signal::Cut);
                cut.signalled += 1;
                cut.wakers.extend(exchange.waker.take());
            }
            if exchange.leaves_by_cut() {
                cut.left.push(exchange.admitted);
            }
        }
        cut
    }

    /// Applies the timeouts to what waits for an answer.
    pub fn sweep(&mut self, now: Instant, answer_timeout: Duration, stall_timeout: Duration) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for (_, exchange) in &mut self.0 {
            if exchange.stage != Stage::Awaiting || exchange.signal.is_some() {
                continue;
            }
            // A body that came before the request went out, or did not move while it was parked, has
            // not stalled: the time counts from when it could move.
            // One that the instance does not take has not stalled either: then the instance is late.
            let (since, starved) = match exchange.upload.as_deref() {
                Some(upload) => (upload.progress.get().max(exchange.progress), upload.starved.get()),
                None => (exchange.progress, false),
            };
            let (patience, signal) = if starved {
                (stall_timeout, Signal::CallerStalled)
            } else {
                (answer_timeout, Signal::AnswerTimeout)
            };
            if now.saturating_duration_since(since) >= patience {
                exchange.signal = Some(signal);
                wakers.extend(exchange.waker.take());
            }
        }
        wakers
    }

    /// The oldest of the exchanges that are `meant`, the oldest first.
    pub fn blockers(&self, meant: impl Fn(Admitted) -> bool, now: Instant, limit: usize) -> Vec<Blocker> {
        let exchanges = self.0.iter().map(|(_, exchange)| exchange);
        let mut found: Vec<_> =
            exchanges.filter(|exchange| !exchange.left && meant(exchange.admitted)).collect();
        found.sort_by_key(|exchange| exchange.started);
        found.into_iter().take(limit).map(|exchange| exchange.blocker(now)).collect()
    }
}

// === impl Exchange ===

impl Exchange {
    /// An answer that its caller does not take is not polled; once cut, it must not hold the drain.
    fn leaves_by_cut(&mut self) -> bool {
        let leaves = self.signal == Some(Signal::Cut) && self.stage == Stage::Answering && !self.left;
        self.left |= leaves;
        leaves
    }

    fn blocker(&self, now: Instant) -> Blocker {
        Blocker {
            path: self.path.as_ref().map_or_else(String::new, |path| path.path().to_owned()),
            class: self.admitted.class.as_str().to_owned(),
            stage: self.stage,
            age_ms: u64::try_from(now.saturating_duration_since(self.started).as_millis())
                .unwrap_or(u64::MAX),
            bytes: self.bytes + self.upload.as_ref().map_or(0, |upload| upload.bytes.get()),
        }
    }
}
