//! Places at which a test ends the process as `kill -9` would: between any two things that a migration does.
//!
//! They are values, not texts, so that the crash matrix goes through all of them and a new step is in it without
//! being added. `SEGUE_FAILPOINT` arms one of them by its name; release builds have none.

use std::fmt;

use super::phase::Step;

/// Between which two things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
    Step(Step, Moment),
    Inner(Inner),
}

/// Of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The intent is in the journal.
    Intended,
    /// It is done, and nobody knows.
    Done,
    /// The outcome is in the journal.
    Noted,
}

/// Within the switchover, which is one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    Drained,
    HandedOver,
    Swapped,
}

impl Failpoint {
    pub fn all() -> impl Iterator<Item = Self> {
        let moments = [Moment::Intended, Moment::Done, Moment::Noted];
        let steps = Step::all().flat_map(move |step| moments.map(|moment| Self::Step(step, moment)));
        steps.chain([Inner::Drained, Inner::HandedOver, Inner::Swapped].map(Self::Inner))
    }
}

impl From<Inner> for Failpoint {
    fn from(inner: Inner) -> Self {
        Self::Inner(inner)
    }
}

impl fmt::Display for Failpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(step, moment) => {
                let moment = match moment {
                    Moment::Intended => "intended",
                    Moment::Done => "done",
                    Moment::Noted => "noted",
                };
                write!(f, "{}.{moment}", step.as_str())
            }
            Self::Inner(Inner::Drained) => f.write_str("switchover.drained"),
            Self::Inner(Inner::HandedOver) => f.write_str("switchover.handed_over"),
            Self::Inner(Inner::Swapped) => f.write_str("switchover.swapped"),
        }
    }
}

/// Ends the process if this point is the armed one, or panics if `SEGUE_PANICS` says how often.
#[cfg(debug_assertions)]
pub fn reach(point: impl Into<Failpoint>) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static ARMED: OnceLock<Option<String>> = OnceLock::new();
    static PANICS: OnceLock<Option<AtomicU32>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| std::env::var("SEGUE_FAILPOINT").ok());
    if armed.as_ref().is_some_and(|armed| *armed == point.into().to_string()) {
        let panics =
            PANICS.get_or_init(|| Some(std::env::var("SEGUE_PANICS").ok()?.parse::<u32>().ok()?.into()));
        if let Some(left) = panics {
            let more = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            assert!(more.is_err(), "a test asked for it");
            return;
        }
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal may take a moment, in which nothing more may happen.
        loop {
            std::thread::park();
        }
    }
}

#[cfg(not(debug_assertions))]
pub fn reach(_: impl Into<Failpoint>) {}
