//! What excludes what: switchovers, an upgrade of Segue itself, and the end of the process.
//!
//! Switchovers of different services may overlap (the gates see to one at a time for each service); an
//! upgrade waits for nobody and begins only while none is under way, since the gates go to another
//! process with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub(super) struct Turns(Shared);

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    switchovers: usize,
    upgrading: bool,
    ending: bool,
}

/// A switchover is under way for as long as this lives.
pub(super) struct SwitchoverTurn(Shared);

/// An upgrade is under way for as long as this lives.
pub(super) struct UpgradeTurn(Shared);

/// Why no switchover may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotNow;

/// Why no upgrade may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoUpgrade {
    #[error("a switchover is under way; try again when it is over")]
    Switching,
    #[error("another upgrade is under way; try again when it is over")]
    Upgrading,
    #[error("the running process is ending; start this one again without `--upgrade` once it is gone")]
    Ending,
}

// === impl Turns ===

impl Turns {
    pub fn switchover(&self) -> Result<SwitchoverTurn, NotNow> {
        let mut state = self.0.lock();
        if state.upgrading || state.ending {
            return Err(NotNow);
        }
        state.switchovers += 1;
        Ok(SwitchoverTurn(self.0.clone()))
    }

    pub fn upgrade(&self) -> Result<UpgradeTurn, NoUpgrade> {
        let mut state = self.0.lock();
        if state.ending {
            return Err(NoUpgrade::Ending);
        }
        if state.upgrading {
            return Err(NoUpgrade::Upgrading);
        }
        if state.switchovers > 0 {
            return Err(NoUpgrade::Switching);
        }
        state.upgrading = true;
        Ok(UpgradeTurn(self.0.clone()))
    }

    /// Nothing begins any more.
    pub fn end(&self) {
        self.0.lock().ending = true;
    }

    pub fn is_ending(&self) -> bool {
        self.0.lock().ending
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one step, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SwitchoverTurn {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.switchovers = state.switchovers.saturating_sub(1);
    }
}

impl Drop for UpgradeTurn {
    fn drop(&mut self) {
        self.0.lock().upgrading = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_and_switchovers_exclude_each_other_until_they_are_over() {
        let turns = Turns::default();
        let (one, other) = (turns.switchover().unwrap(), turns.switchover().unwrap());
        assert_eq!(turns.upgrade().err(), Some(NoUpgrade::Switching));
        drop(one);
        assert_eq!(turns.upgrade().err(), Some(NoUpgrade::Switching), "one is still under way");
        drop(other);

        let upgrade = turns.upgrade().unwrap();
        assert_eq!(turns.switchover().err(), Some(NotNow));
        assert_eq!(turns.upgrade().err(), Some(NoUpgrade::Upgrading));
        assert!(!turns.is_ending(), "callers are still served");
        drop(upgrade);
        assert!(turns.switchover().is_ok());
    }

    #[test]
    fn nothing_begins_once_the_end_has() {
        let turns = Turns::default();
        turns.end();
        assert_eq!(turns.switchover().err(), Some(NotNow));
        assert_eq!(turns.upgrade().err(), Some(NoUpgrade::Ending));
    }
}
