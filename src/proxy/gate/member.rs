//! A member's side of the protocol, as a pure state machine.

use serde::{Deserialize, Serialize};

use crate::config::{InstanceName, Park};
use crate::proxy::classify::Class;

/// Grows by one with every resume; it names the instance that exchanges of it went to.
pub type Generation = u64;

/// From the controller to a member, about one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    Close { generation: Generation, park: Park },
    Resume { generation: Generation, active: InstanceName },
}

/// From a member to the controller, about one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Parked {
        generation: Generation,
    },
    Drained {
        generation: Generation,
    },
    Resumed {
        generation: Generation,
    },
    /// Nothing of this generation or an earlier one is in flight any more.
    Over {
        generation: Generation,
    },
}

/// A request that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Admitted {
    pub generation: Generation,
    pub active: InstanceName,
    pub class: Class,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    generation: Generation,
    active: InstanceName,
    closed: Option<Closed>,
    /// Exchanges in flight, by generation; the oldest first. Never longer than the switchovers that
    /// happened during the slowest exchange.
    in_flight: Vec<InFlight>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Closed {
    park: Park,
    drained: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct InFlight {
    generation: Generation,
    reads: usize,
    writes: usize,
}

/// At most two things can be worth telling after one step.
pub type Events = [Option<Event>; 2];

// === impl Member ===

impl Member {
    pub fn new(generation: Generation, active: InstanceName) -> Self {
        Self { generation, active, closed: None, in_flight: Vec::new() }
    }

    pub const fn generation(&self) -> Generation {
        self.generation
    }

    pub const fn active(&self) -> InstanceName {
        self.active
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.iter().map(|of| of.reads + of.writes).sum()
    }

    /// Whether requests of this class have to wait.
    pub fn parks(&self, class: Class) -> bool {
        self.closed.is_some_and(|closed| closed.park.holds(class))
    }

    /// Whether exchanges of this class have to end before the instances are swapped or, where the gate
    /// is open, before the past is over.
    pub fn waits_for(&self, class: Class) -> bool {
        self.closed.is_none_or(|closed| closed.park.holds(class))
    }

    /// `None` = it has to wait.
    pub fn admit(&mut self, class: Class) -> Option<Admitted> {
        if self.parks(class) {
            return None;
        }
        let generation = self.generation;
        let of = match self.in_flight.last_mut() {
            Some(last) if last.generation == generation => last,
            _ => {
                self.in_flight.push(InFlight { generation, reads: 0, writes: 0 });
                // Just pushed, so there is a last one.
                self.in_flight.last_mut()?
            }
        };
        *of.count(class) += 1;
        Some(Admitted { generation, active: self.active, class })
    }

    /// An admitted exchange has ended.
    pub fn leave(&mut self, admitted: Admitted) -> Events {
        if let Some(of) = self.in_flight.iter_mut().find(|of| of.generation == admitted.generation) {
            let count = of.count(admitted.class);
            *count = count.saturating_sub(1);
        }
        self.told_after_leaving(admitted.generation)
    }

    fn told_after_leaving(&mut self, generation: Generation) -> Events {
        let present = self.generation;
        self.in_flight.retain(|of| of.reads + of.writes > 0 || of.generation == present);
        [self.newly_drained(), self.over(generation)]
    }

    pub fn obey(&mut self, command: Command) -> Events {
        match command {
            // A command for another generation was overtaken; only the newest counts.
            Command::Close { generation, .. } if generation != self.generation => [None, None],
            // Told again; what was said about it still holds.
            Command::Close { .. } if self.closed.is_some() => [None, None],
            Command::Close { generation, park } => {
                self.closed = Some(Closed { park, drained: false });
                [Some(Event::Parked { generation }), self.newly_drained()]
            }
            // Overtaken too. One for the present generation was obeyed before and must not open what
            // was closed since.
            Command::Resume { generation, .. } if generation <= self.generation => [None, None],
            Command::Resume { generation, active } => {
                let before = self.generation;
                self.generation = generation;
                self.active = active;
                self.closed = None;
                self.in_flight.retain(|of| of.reads + of.writes > 0);
                [Some(Event::Resumed { generation }), self.over(before)]
            }
        }
    }

    /// Tells `Drained` once for each close: with `park = writes`, reads may go on.
    fn newly_drained(&mut self) -> Option<Event> {
        let closed = self.closed.as_mut().filter(|closed| !closed.drained)?;
        let (reads, writes) = (closed.park.holds(Class::Read), closed.park.holds(Class::Write));
        if self.in_flight.iter().any(|of| reads && of.reads > 0 || writes && of.writes > 0) {
            return None;
        }
        closed.drained = true;
        Some(Event::Drained { generation: self.generation })
    }

    /// The newest past generation up to which nothing is in flight, if that includes `generation`.
    fn over(&self, generation: Generation) -> Option<Event> {
        let oldest = self.in_flight.iter().find(|of| of.reads + of.writes > 0).map(|of| of.generation);
        let up_to = oldest.unwrap_or(self.generation).min(self.generation).checked_sub(1)?;
        (up_to >= generation).then_some(Event::Over { generation: up_to })
    }
}

impl Park {
    const fn holds(self, class: Class) -> bool {
        matches!((self, class), (Self::All, _) | (Self::Writes, Class::Write))
    }
}

impl InFlight {
    fn count(&mut self, class: Class) -> &mut usize {
        match class {
            Class::Read => &mut self.reads,
            Class::Write => &mut self.writes,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Admit(Class),
        Leave(prop::sample::Index),
        Close { behind: u64, park: Park },
        Resume { behind: u64, ahead: u64, active: InstanceName },
    }

    fn step() -> impl Strategy<Value = Step> {
        let class = prop_oneof![Just(Class::Read), Just(Class::Write)];
        let park = prop_oneof![Just(Park::All), Just(Park::Writes)];
        let active = prop_oneof![Just(InstanceName::Source), Just(InstanceName::Shadow)];
        let old = prop_oneof![4 => Just(0), 1 => 1_u64..3];
        prop_oneof![
            4 => class.prop_map(Step::Admit),
            4 => any::<prop::sample::Index>().prop_map(Step::Leave),
            2 => (old.clone(), park).prop_map(|(behind, park)| Step::Close { behind, park }),
            2 => (old, 1_u64..3, active).prop_map(|(behind, ahead, active)| Step::Resume { behind, ahead, active }),
        ]
    }

    proptest! {
        /// Whatever comes, in whatever order: the count is right, `Drained` is told once for each close
        /// and when it is true, and `Over` never while it is not.
        #[test]
        fn it_tells_the_truth(steps in vec(step(), 0..60)) {
            let mut member = Member::new(3, InstanceName::Source);
            let mut in_flight: Vec<Admitted> = Vec::new();
            // The close that is under way, and how often it was said to be drained.
            let mut closed: Option<(Park, usize)> = None;
            for step in steps {
                let generation = member.generation();
                let events = match step {
                    Step::Admit(class) => {
                        let admitted = member.admit(class);
                        let may = closed.is_none_or(|(park, _)| park == Park::Writes && class == Class::Read);
                        prop_assert_eq!(admitted.is_some(), may);
                        in_flight.extend(admitted);
                        [None, None]
                    }
                    Step::Leave(_) if in_flight.is_empty() => continue,
                    Step::Leave(which) => member.leave(in_flight.swap_remove(which.index(in_flight.len()))),
                    Step::Close { behind, park } => {
                        if behind == 0 && closed.is_none() {
                            closed = Some((park, 0));
                        }
                        member.obey(Command::Close { generation: generation.saturating_sub(behind), park })
                    }
                    Step::Resume { behind: 0, ahead, active } => {
                        closed = None;
                        member.obey(Command::Resume { generation: generation + ahead, active })
                    }
                    Step::Resume { behind, active, .. } => {
                        member.obey(Command::Resume { generation: generation.saturating_sub(behind), active })
                    }
                };
                prop_assert!(member.generation() >= generation);
                prop_assert_eq!(member.in_flight(), in_flight.len());
                let blocked = |park: Park| in_flight.iter().any(|of| park == Park::All || of.class == Class::Write);
                for event in events.into_iter().flatten() {
                    match event {
                        Event::Drained { generation } => {
                            prop_assert_eq!(generation, member.generation());
                            let Some((park, told)) = &mut closed else { panic!("drained, but not closed") };
                            *told += 1;
                            prop_assert!(!blocked(*park));
                        }
                        Event::Over { generation } => {
                            prop_assert!(generation < member.generation());
                            prop_assert!(in_flight.iter().all(|of| of.generation > generation));
                        }
                        Event::Parked { generation } => {
                            prop_assert!(closed.is_some());
                            prop_assert_eq!(generation, member.generation());
                        }
                        Event::Resumed { generation } => prop_assert_eq!(generation, member.generation()),
                    }
                }
                if let Some((park, told)) = closed {
                    prop_assert_eq!(told == 0, blocked(park), "told {} times", told);
                    prop_assert!(told <= 1, "told {} times", told);
                }
            }
        }
    }

    #[test]
    fn an_old_resume_does_not_open_what_was_closed_since() {
        let mut member = Member::new(0, InstanceName::Source);
        let resume = Command::Resume { generation: 1, active: InstanceName::Shadow };
        member.obey(resume);
        member.obey(Command::Close { generation: 1, park: Park::All });
        assert_eq!(member.obey(resume), [None, None]);
        assert_eq!(member.admit(Class::Read), None);
    }

    #[test]
    fn the_past_is_over_when_the_slowest_of_it_has_left() {
        let mut member = Member::new(0, InstanceName::Source);
        let slow = member.admit(Class::Read).unwrap();
        member.obey(Command::Resume { generation: 1, active: InstanceName::Shadow });
        let quick = member.admit(Class::Read).unwrap();
        member.obey(Command::Resume { generation: 2, active: InstanceName::Source });
        assert_eq!(member.leave(quick), [None, None]);
        assert_eq!(member.leave(slow), [None, Some(Event::Over { generation: 1 })]);
    }
}
