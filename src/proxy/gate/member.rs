//! A member's side of the protocol, as a pure state machine.

use crate::config::{InstanceName, Park};
use crate::proxy::classify::Class;

/// Grows by one with every resume; it names the instance that exchanges of it went to.
pub type Generation = u64;

/// From the controller to a member, about one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    Close { generation: Generation, park: Park },
    Resume { generation: Generation, active: InstanceName },
}

/// From a member to the controller, about one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

    /// `None` = it has to wait.
    pub fn admit(&mut self, class: Class) -> Option<Admitted> {
        if let Some(closed) = self.closed
            && (closed.park == Park::All || class == Class::Write)
        {
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
            Command::Close { generation, park } => {
                self.closed = Some(Closed { park, drained: false });
                [Some(Event::Parked { generation }), self.newly_drained()]
            }
            Command::Resume { generation, .. } if generation < self.generation => [None, None],
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
        let blocks = |of: &InFlight| of.writes + if closed.park == Park::All { of.reads } else { 0 };
        if self.in_flight.iter().any(|of| blocks(of) > 0) {
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

impl InFlight {
    fn count(&mut self, class: Class) -> &mut usize {
        match class {
            Class::Read => &mut self.reads,
            Class::Write => &mut self.writes,
        }
    }
}
