//! What the worker's sweep has to know of a caller's connection, and how it speaks to it.
//!
//! One sweep a worker replaces a timer a connection: arming and cancelling timers costs a request 6 %
//! of its instructions, and none of these limits needs more than a quarter of a second's precision.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// What an exchange is spared that takes less, about: to look whether its caller is still there costs it two locks.
const UNWATCHED: Duration = Duration::from_millis(500);
/// After it was told to go for its idleness, an HTTP/2 caller has this long to acknowledge that, which anyone who is there does.
const FAREWELL: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Link {
    phase: Cell<Phase>,
    since: Cell<Instant>,
    in_flight: Cell<usize>,
    /// Set while the caller does not take what is written to it.
    blocked_since: Cell<Option<Instant>>,
    multiplexed: Cell<bool>,
    /// Idle, it still holds what it could give up.
    may_rest: Cell<bool>,
    /// The exchange takes long or waits at the gate, so that its caller may leave before it ends.
    watched: Cell<bool>,
    signal: Cell<Option<Signal>>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing but the stream is kept.
    Resting,
    /// Nothing is in flight.
    Idle,
    /// Part of a head has arrived.
    Head,
    Busy,
    /// No longer HTTP; the exchange's guard is what matters.
    Tunnel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Take the connection apart and keep the stream alone. HTTP/2, which cannot be, gives up what it can.
    Rest,
    /// Look whether the caller is still there, until the exchange ends. HTTP/2 always does.
    Watch,
    /// The head did not arrive in time.
    HeaderTimeout,
    /// Finish what is in flight, then close.
    Close,
    /// Close now.
    Cut,
}

/// The limits that the sweep applies.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub header: Duration,
    pub idle: Duration,
    pub stall: Duration,
    pub rest: Duration,
}

impl Link {
    pub fn new(now: Instant) -> Self {
        Self {
            phase: Cell::new(Phase::Resting),
            since: Cell::new(now),
            in_flight: Cell::new(0),
            blocked_since: Cell::new(None),
            multiplexed: Cell::new(false),
            may_rest: Cell::new(true),
            watched: Cell::new(false),
            signal: Cell::new(None),
            waker: RefCell::default(),
        }
    }

    pub fn enter(&self, phase: Phase, now: Instant) {
        self.phase.set(phase);
        self.since.set(now);
    }

    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// HTTP/2: many exchanges, and frames that are no requests.
    pub fn set_multiplexed(&self) {
        self.multiplexed.set(true);
    }

    /// What can be given up while idle is given up; until the next exchange there is no more.
    pub fn set_rested(&self) {
        self.may_rest.set(false);
    }

    /// It has more than its stream.
    pub fn holds_memory(&self) -> bool {
        self.phase.get() != Phase::Resting && self.may_rest.get()
    }

    pub fn is_multiplexed(&self) -> bool {
        self.multiplexed.get()
    }

    /// Bytes came from the caller.
    pub fn on_read(&self, now: Instant) {
        if self.phase.get() == Phase::Idle && !self.multiplexed.get() {
            self.enter(Phase::Head, now);
        }
    }

    pub fn on_write(&self, blocked: bool, now: Instant) {
        match (blocked, self.blocked_since.get()) {
            (true, None) => self.blocked_since.set(Some(now)),
            (false, Some(_)) => self.blocked_since.set(None),
            _ => {}
        }
    }

    pub fn begin(&self, now: Instant) {
        self.in_flight.set(self.in_flight.get() + 1);
        if self.in_flight.get() == 1 {
            self.may_rest.set(true);
            self.watched.set(false);
            self.enter(Phase::Busy, now);
        }
    }

    pub fn end(&self, now: Instant) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        if self.in_flight.get() == 0 && self.phase.get() == Phase::Busy {
            self.enter(Phase::Idle, now);
        }
    }

    /// From here on the exchange looks whether its caller is still there.
    pub fn watch(&self) {
        self.watched.set(true);
    }

    pub fn is_watched(&self) -> bool {
        self.watched.get()
    }

    /// Since when it has been idle, if it is and could rest.
    pub fn idle_ready(&self) -> Option<Instant> {
        (self.phase.get() == Phase::Idle && self.may_rest.get()).then(|| self.since.get())
    }

    /// Since when it has been idle, if it is an HTTP/2 connection that is.
    pub fn idle_http2(&self) -> Option<Instant> {
        (self.multiplexed.get() && self.phase.get() == Phase::Idle).then(|| self.since.get())
    }

    /// What the connection should be told, if anything.
    pub fn due(&self, now: Instant, patience: &Patience) -> Option<Signal> {
        let age = now.saturating_duration_since(self.since.get());
        let blocked = self.blocked_since.get().map(|since| now.saturating_duration_since(since));
        if blocked.is_some_and(|blocked| blocked >= patience.stall) {
            return Some(Signal::Cut);
        }
        match self.phase.get() {
            Phase::Head if age >= patience.header => Some(Signal::HeaderTimeout),
            Phase::Idle if self.multiplexed.get() && age >= patience.idle.saturating_add(FAREWELL) => {
                Some(Signal::Cut)
            }
            Phase::Idle | Phase::Resting if age >= patience.idle => Some(Signal::Close),
            Phase::Idle if age >= patience.rest && self.may_rest.get() => Some(Signal::Rest),
            Phase::Busy if age >= UNWATCHED && !self.watched.get() && !self.multiplexed.get() => {
                Some(Signal::Watch)
            }
            _ => None,
        }
    }

    pub fn send(&self, signal: Signal) {
        if signal == Signal::Watch {
            self.watch();
        }
        // A connection that is to close does not rest, and is woken for that already.
        let stronger = match (self.signal.get(), signal) {
            (Some(Signal::Cut), _) | (Some(Signal::Close), Signal::Rest | Signal::Watch) => return,
            (_, signal) => signal,
        };
        self.signal.set(Some(stronger));
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Ready when there is a signal; otherwise the task is woken by the next one.
    pub fn poll_signal(&self, cx: &Context<'_>) -> Poll<Signal> {
        if let Some(signal) = self.signal.take() {
            return Poll::Ready(signal);
        }
        match &mut *self.waker.borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            empty => *empty = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        header: Duration::from_secs(10),
        idle: Duration::from_secs(75),
        stall: Duration::from_mins(1),
        rest: Duration::from_millis(500),
    };

    #[test]
    fn each_phase_has_its_own_patience() {
        let start = Instant::now();
        let link = Link::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(link.due(at(74), &PATIENCE), None, "a resting connection only grows old");
        assert_eq!(link.due(at(75), &PATIENCE), Some(Signal::Close));

        link.enter(Phase::Idle, at(0));
        assert_eq!(link.due(at(1), &PATIENCE), Some(Signal::Rest));
        link.on_read(at(1));
        assert_eq!(link.due(at(10), &PATIENCE), None);
        assert_eq!(link.due(at(11), &PATIENCE), Some(Signal::HeaderTimeout));

        link.begin(at(11));
        assert_eq!(link.due(at(11), &PATIENCE), None, "most exchanges are over in no time");
        assert_eq!(link.due(at(12), &PATIENCE), Some(Signal::Watch));
        link.send(Signal::Watch);
        assert_eq!(link.due(at(10_000), &PATIENCE), None, "an exchange has timeouts of its own");
        link.on_write(true, at(20));
        assert_eq!(link.due(at(80), &PATIENCE), Some(Signal::Cut), "the caller takes nothing");
        link.on_write(false, at(80));
        assert_eq!(link.due(at(200), &PATIENCE), None);
        link.end(at(200));
        link.begin(at(200));
        assert_eq!(link.due(at(201), &PATIENCE), Some(Signal::Watch), "each exchange anew");
    }

    #[test]
    fn frames_of_an_idle_http2_connection_start_no_header_timeout() {
        let start = Instant::now();
        let link = Link::new(start);
        link.set_multiplexed();
        link.enter(Phase::Idle, start);
        link.on_read(start);
        link.set_rested();
        assert_eq!(link.due(start + Duration::from_secs(30), &PATIENCE), None);
    }

    #[test]
    fn what_cannot_be_taken_apart_is_told_to_rest_once_after_each_use() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let link = Link::new(start);
        link.set_multiplexed();
        for since in [0, 20] {
            link.begin(at(since));
            assert_eq!(link.due(at(since + 9), &PATIENCE), None, "busy");
            link.end(at(since + 9));
            assert_eq!(link.due(at(since + 10), &PATIENCE), Some(Signal::Rest));
            link.set_rested();
            assert_eq!(link.due(at(since + 11), &PATIENCE), None);
        }
        assert_eq!(link.due(at(29 + 75), &PATIENCE), Some(Signal::Close), "it grows old all the same");
        assert_eq!(link.due(at(29 + 80), &PATIENCE), Some(Signal::Cut), "and does not answer that");
    }

    #[test]
    fn who_is_to_close_is_watched_too() {
        let start = Instant::now();
        let link = Link::new(start);
        link.begin(start);
        link.send(Signal::Close);
        link.send(Signal::Watch);
        let told = link.poll_signal(&Context::from_waker(Waker::noop()));
        assert!(told == Poll::Ready(Signal::Close) && link.is_watched());
    }

    #[test]
    fn only_http2_that_has_nothing_in_flight_is_idle_http2() {
        let start = Instant::now();
        let of = |multiplexed, phase| {
            let link = Link::new(start);
            if multiplexed {
                link.set_multiplexed();
            }
            link.enter(phase, start);
            link.idle_http2()
        };
        assert_eq!(of(true, Phase::Idle), Some(start));
        for (multiplexed, phase) in [(false, Phase::Idle), (true, Phase::Busy), (true, Phase::Resting)] {
            assert_eq!(of(multiplexed, phase), None);
        }
    }
}
