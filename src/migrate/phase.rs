//! The life of a migration: which step follows which, and what is undone on each way out.
//!
//! ```text
//!  requested ─► preflight ─► provisioning ─► replicating ─► shadowing ─► sizing ─► validating ─► ready
//!                                                                                     ▲            │
//!                                                              the switchover aborted │            ▼
//!                                                     done ◄─ retiring ◄─ watching ◄──┴─────── switching
//!
//!  a failure, a deadline, cancel, rollback:  any of these, until retiring ─► unwinding ─► failed, cancelled, rolled back
//! ```
//!
//! A phase is made of steps. Each is written to the journal before it begins (its intent) and after it has
//! ended (its outcome), and can be done again: a restart repeats the step whose intent has no outcome.
//! Unwinding goes through all of its steps, whatever was done before: undoing what was never done is nothing.

use serde::{Deserialize, Serialize};

/// One thing that is done; the unit of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The compatibility report.
    Check,
    Create,
    Start,
    /// Until the new instance passes its health checks.
    AwaitHealthy,
    /// From here on the proxy knows the instance as the shadow.
    Attach,
    Replicate,
    /// Until enough pairs were seen that the shadow works at all.
    Observe,
    Resize,
    /// Requests that fill its caches, where the settings have some.
    Warm,
    /// What was measured at another allocation is no evidence.
    Forget,
    /// Until every gate passes, or one fails for good.
    Judge,
    /// Until somebody says yes, where that is asked for, and a maintenance window is open.
    Approve,
    Switch,
    /// Real answers of the new instance against the source's own baseline.
    Watch,
    /// The source is left in peace, so that whoever finds a fault now can still look at it.
    Grace,
    /// The proxy forgets the source; nothing is teed to it any more.
    Vacate,
    StopSource,
    DestroySource,
    SwitchBack,
    Detach,
    StopShadow,
    DestroyShadow,
}

/// Where a migration is, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Requested,
    Preflight,
    Provisioning,
    Replicating,
    Shadowing,
    Sizing,
    Validating,
    Ready,
    Switching,
    Watching,
    Retiring,
    Unwinding,
    Done,
    Cancelled,
    RolledBack,
    Failed,
}

/// Why a migration is undone, and so how it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Cancelled,
    RolledBack,
    Failed,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    Requested,
    Onward(Step),
    Back(Cause, Step),
    Ended(Option<Cause>),
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    Done,
    /// It cannot be done, or must not be; undo what was done.
    Undone(Cause),
    /// The switchover gave up with the source serving; the shadow is judged again.
    Aborted,
    /// The source cannot take over again: there is only forward.
    NoWayBack,
}

/// In the order in which they are taken.
const ONWARD: [Step; 18] = [
    Step::Check,
    Step::Create,
    Step::Start,
    Step::AwaitHealthy,
    Step::Attach,
    Step::Replicate,
    Step::Observe,
    Step::Resize,
    Step::Warm,
    Step::Forget,
    Step::Judge,
    Step::Approve,
    Step::Switch,
    Step::Watch,
    Step::Grace,
    Step::Vacate,
    Step::StopSource,
    Step::DestroySource,
];
const BACK: [Step; 4] = [Step::SwitchBack, Step::Detach, Step::StopShadow, Step::DestroyShadow];

impl Step {
    /// Every step there is: what the crash matrix goes through.
    pub fn all() -> impl Iterator<Item = Self> {
        ONWARD.into_iter().chain(BACK)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Create => "create",
            Self::Start => "start",
            Self::AwaitHealthy => "await_healthy",
            Self::Attach => "attach",
            Self::Replicate => "replicate",
            Self::Observe => "observe",
            Self::Resize => "resize",
            Self::Warm => "warm",
            Self::Forget => "forget",
            Self::Judge => "judge",
            Self::Approve => "approve",
            Self::Switch => "switch",
            Self::Watch => "watch",
            Self::Grace => "grace",
            Self::Vacate => "vacate",
            Self::StopSource => "stop_source",
            Self::DestroySource => "destroy_source",
            Self::SwitchBack => "switch_back",
            Self::Detach => "detach",
            Self::StopShadow => "stop_shadow",
            Self::DestroyShadow => "destroy_shadow",
        }
    }

    pub const fn phase(self) -> Phase {
        match self {
            Self::Check => Phase::Preflight,
            Self::Create | Self::Start | Self::AwaitHealthy | Self::Attach => Phase::Provisioning,
            Self::Replicate => Phase::Replicating,
            Self::Observe => Phase::Shadowing,
            Self::Resize | Self::Warm | Self::Forget => Phase::Sizing,
            Self::Judge => Phase::Validating,
            Self::Approve => Phase::Ready,
            Self::Switch => Phase::Switching,
            Self::Watch => Phase::Watching,
            Self::Grace | Self::Vacate | Self::StopSource | Self::DestroySource => Phase::Retiring,
            Self::SwitchBack | Self::Detach | Self::StopShadow | Self::DestroyShadow => Phase::Unwinding,
        }
    }

    fn after(self, list: &[Self]) -> Option<Self> {
        list.iter().skip_while(|step| **step != self).nth(1).copied()
    }
}

impl Progress {
    pub const fn phase(self) -> Phase {
        match self {
            Self::Requested => Phase::Requested,
            Self::Onward(step) | Self::Back(_, step) => step.phase(),
            Self::Ended(None) => Phase::Done,
            Self::Ended(Some(Cause::Cancelled)) => Phase::Cancelled,
            Self::Ended(Some(Cause::RolledBack)) => Phase::RolledBack,
            Self::Ended(Some(Cause::Failed)) => Phase::Failed,
        }
    }

    /// The step that is to be done, or done again.
    pub const fn step(self) -> Option<Step> {
        match self {
            Self::Requested => Some(Step::Check),
            Self::Onward(step) | Self::Back(_, step) => Some(step),
            Self::Ended(_) => None,
        }
    }

    pub const fn is_over(self) -> bool {
        matches!(self, Self::Ended(_))
    }

    /// Whether it may still be undone because somebody asks for it: until the source is being retired.
    pub fn may_turn_back(self) -> bool {
        match self {
            Self::Requested => true,
            Self::Onward(step) => step <= Step::Watch,
            Self::Back(..) | Self::Ended(_) => false,
        }
    }

    /// Where it goes from here, once its step has come to something.
    #[must_use]
    pub fn next(self, came: Came) -> Self {
        match (self, came) {
            (Self::Requested, Came::Done) => Self::Onward(Step::Create),
            (Self::Requested | Self::Onward(Step::Check), Came::Undone(cause)) => Self::Ended(Some(cause)),
            (Self::Onward(step), Came::Done) => step.after(&ONWARD).map_or(Self::Ended(None), Self::Onward),
            (Self::Onward(step), Came::Undone(cause)) if step <= Step::Watch => {
                Self::Back(cause, Step::SwitchBack)
            }
            (Self::Onward(Step::Switch), Came::Aborted) => Self::Onward(Step::Judge),
            (Self::Back(cause, step), Came::Done) => {
                step.after(&BACK).map_or(Self::Ended(Some(cause)), |step| Self::Back(cause, step))
            }
            (Self::Back(_, Step::SwitchBack), Came::NoWayBack) => Self::Onward(Step::Watch),
            // Nothing else comes of any step; staying is what can be done again.
            (Self::Ended(_), _)
            // Once the source is being given up there is only onward.
            | (Self::Onward(_), Came::Undone(_))
            | (Self::Requested | Self::Onward(_), Came::Aborted | Came::NoWayBack)
            | (Self::Back(..), Came::Undone(_) | Came::Aborted | Came::NoWayBack) => self,
        }
    }
}

impl Phase {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Preflight => "preflight",
            Self::Provisioning => "provisioning",
            Self::Replicating => "replicating",
            Self::Shadowing => "shadowing",
            Self::Sizing => "sizing",
            Self::Validating => "validating",
            Self::Ready => "ready",
            Self::Switching => "switching",
            Self::Watching => "watching",
            Self::Retiring => "retiring",
            Self::Unwinding => "unwinding",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::RolledBack => "rolled_back",
            Self::Failed => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_came() -> impl Strategy<Value = Came> {
        prop_oneof![
            8 => Just(Came::Done),
            1 => prop_oneof![Just(Cause::Cancelled), Just(Cause::RolledBack), Just(Cause::Failed)]
                .prop_map(Came::Undone),
            1 => Just(Came::Aborted),
            1 => Just(Came::NoWayBack),
        ]
    }

    #[test]
    fn it_goes_through_every_phase_in_order() {
        let mut progress = Progress::Requested;
        let mut phases = vec![progress.phase()];
        let mut steps = Vec::new();
        while let Some(step) = progress.step() {
            steps.push(step);
            progress = progress.next(Came::Done);
            phases.push(progress.phase());
        }
        phases.dedup();
        assert_eq!(steps, ONWARD);
        let names: Vec<_> = phases.iter().map(|phase| phase.as_str()).collect();
        assert_eq!(
            names.join(" "),
            "requested provisioning replicating shadowing sizing validating ready switching watching retiring done"
        );
    }

    #[test]
    fn whatever_was_made_is_undone_in_full_and_nothing_is_undone_before_something_was_made() {
        for (n, step) in ONWARD.into_iter().filter(|step| *step <= Step::Watch).enumerate() {
            let mut progress = Progress::Onward(step).next(Came::Undone(Cause::Failed));
            let mut undone = Vec::new();
            while let Some(step) = progress.step() {
                undone.push(step);
                progress = progress.next(Came::Done);
            }
            assert_eq!(progress, Progress::Ended(Some(Cause::Failed)));
            assert_eq!(undone, if n == 0 { &[] } else { &BACK[..] }, "after {step:?}");
        }
    }

    #[test]
    fn once_the_source_is_being_given_up_nothing_is_undone() {
        for step in [Step::Grace, Step::Vacate, Step::StopSource, Step::DestroySource] {
            let retiring = Progress::Onward(step);
            assert_eq!(retiring.next(Came::Undone(Cause::Failed)), retiring);
        }
    }

    #[test]
    fn an_aborted_switchover_is_judged_again_and_a_rollback_that_cannot_be_goes_on() {
        let switching = Progress::Onward(Step::Switch);
        assert_eq!(switching.next(Came::Aborted), Progress::Onward(Step::Judge));
        let back = Progress::Back(Cause::RolledBack, Step::SwitchBack);
        assert_eq!(back.next(Came::NoWayBack), Progress::Onward(Step::Watch));
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = Step::all().map(Step::as_str).collect();
        assert_eq!(names.len(), Step::all().count());
        for step in Step::all() {
            assert_eq!(serde_json::to_value(step).unwrap(), step.as_str());
        }
    }

    proptest! {
        #[test]
        fn the_source_is_retired_only_after_a_watch_and_ends_are_final(
            came in proptest::collection::vec(any_came(), 0..200),
        ) {
            let mut progress = Progress::Requested;
            let mut watched = false;
            for came in came {
                let before = progress;
                progress = progress.next(came);
                if before == Progress::Onward(Step::Watch) && came == Came::Done {
                    watched = true;
                }
                prop_assert!(!before.is_over() || progress == before);
                prop_assert!(!before.may_turn_back() || !matches!(came, Came::Undone(_)) || progress != before);
                if progress.phase() == Phase::Retiring || progress == Progress::Ended(None) {
                    prop_assert!(watched, "{before:?} → {progress:?}");
                }
            }
        }
    }
}
