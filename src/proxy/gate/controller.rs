//! The controller's side of the protocol for one service, as a pure state machine.
//!
//! It decides nothing about time: whoever drives it (`migrate::switchover`) holds the deadlines and
//! calls [`Controller::resume`] with the old instance when one passes.

use std::collections::BTreeMap;

use super::member::{Command, Event, Generation};
use crate::config::{InstanceName, Park};

/// Names a member: a worker of this process, or a predecessor being upgraded.
pub type MemberId = u32;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Controller {
    generation: Generation,
    active: InstanceName,
    phase: Phase,
    members: BTreeMap<MemberId, Progress>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Open,
    /// Some member may still admit.
    Closing,
    /// Every member parks; some exchange is still in flight.
    Draining,
    /// Nothing that could write is in flight: the state may be synced and the instances swapped.
    Drained,
    /// The new generation is out; some member has not said that it has it.
    Resuming,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Progress {
    parked: bool,
    drained: bool,
    resumed: bool,
    /// The newest generation of which this member has nothing in flight.
    over: Option<Generation>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfTurn {
    #[error("a switchover of this service is already under way")]
    Busy,
    #[error("the gate is not drained")]
    NotDrained,
}

// === impl Controller ===

impl Controller {
    pub fn new(generation: Generation, active: InstanceName) -> Self {
        Self { generation, active, phase: Phase::Open, members: BTreeMap::new() }
    }

    pub const fn generation(&self) -> Generation {
        self.generation
    }

    pub const fn active(&self) -> InstanceName {
        self.active
    }

    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// A member may come only while the gate is open, or it might admit to a generation that is
    /// being closed. It begins with the present generation, and a name is not used twice: what a dead
    /// member said may still be on its way.
    pub fn join(&mut self, member: MemberId) -> Result<(), OutOfTurn> {
        if self.phase != Phase::Open {
            return Err(OutOfTurn::Busy);
        }
        self.members.insert(member, Progress::at(self.generation));
        Ok(())
    }

    /// A member's process has ended; its exchanges ended with it. An instance may still carry one of
    /// them out, but nobody can be told that it did.
    pub fn leave(&mut self, member: MemberId) {
        self.members.remove(&member);
        self.advance();
    }

    /// The command for every member.
    pub fn close(&mut self, park: Park) -> Result<Command, OutOfTurn> {
        if self.phase != Phase::Open {
            return Err(OutOfTurn::Busy);
        }
        self.phase = Phase::Closing;
        for progress in self.members.values_mut() {
            (progress.parked, progress.drained) = (false, false);
        }
        self.advance();
        Ok(Command::Close { generation: self.generation, park })
    }

    /// Ends a close, with the other instance or, to give up, with the same one. Giving up is allowed
    /// at any time; going over is not, before everything is drained.
    pub fn resume(&mut self, active: InstanceName) -> Result<Command, OutOfTurn> {
        let may = match self.phase {
            Phase::Drained => true,
            Phase::Closing | Phase::Draining => active == self.active,
            Phase::Open | Phase::Resuming => false,
        };
        if may { Ok(self.go_over(active)) } else { Err(OutOfTurn::NotDrained) }
    }

    /// Swaps without a pause, for instances that share their state: the old side finishes what it has.
    pub fn overlap(&mut self, active: InstanceName) -> Result<Command, OutOfTurn> {
        if self.phase != Phase::Open {
            return Err(OutOfTurn::Busy);
        }
        Ok(self.go_over(active))
    }

    /// Goes over with exchanges cut instead of drained; the caller has cut them.
    pub fn resume_after_cut(&mut self, active: InstanceName) -> Result<Command, OutOfTurn> {
        if !matches!(self.phase, Phase::Draining | Phase::Drained) {
            return Err(OutOfTurn::NotDrained);
        }
        Ok(self.go_over(active))
    }

    fn go_over(&mut self, active: InstanceName) -> Command {
        self.generation += 1;
        self.active = active;
        self.phase = Phase::Resuming;
        for progress in self.members.values_mut() {
            progress.resumed = false;
        }
        self.advance();
        Command::Resume { generation: self.generation, active }
    }

    pub fn hear(&mut self, member: MemberId, event: Event) {
        let present = self.generation;
        let Some(progress) = self.members.get_mut(&member) else { return };
        match event {
            Event::Parked { generation } if generation == present => progress.parked = true,
            Event::Drained { generation } if generation == present => progress.drained = true,
            Event::Resumed { generation } if generation == present => progress.resumed = true,
            Event::Over { generation } => progress.over = progress.over.max(Some(generation)),
            // Overtaken by a newer command.
            Event::Parked { .. } | Event::Drained { .. } | Event::Resumed { .. } => return,
        }
        self.advance();
    }

    /// Whether everything before the present generation has ended, on every member.
    pub fn past_is_over(&self) -> bool {
        let past = self.generation.checked_sub(1);
        self.members.values().all(|progress| progress.over >= past)
    }

    fn advance(&mut self) {
        let all = |done: fn(&Progress) -> bool| self.members.values().all(done);
        if self.phase == Phase::Closing && all(|progress| progress.parked) {
            self.phase = Phase::Draining;
        }
        if self.phase == Phase::Draining && all(|progress| progress.drained) {
            self.phase = Phase::Drained;
        }
        if self.phase == Phase::Resuming && all(|progress| progress.resumed) {
            self.phase = Phase::Open;
        }
    }
}

impl Progress {
    fn at(generation: Generation) -> Self {
        Self { parked: false, drained: false, resumed: false, over: generation.checked_sub(1) }
    }
}
