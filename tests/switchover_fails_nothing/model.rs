//! Every order in which a few requests, commands, answers and deaths can happen, tried out on the real
//! [`Member`] and [`Controller`].
//!
//! Each member has a channel in either direction. [`Order::Kept`] is what the workers have;
//! [`Order::Any`] lets any message overtake any other, which asks more than they need. A world has a
//! budget of everything that comes from outside, so each of its histories ends, and a history that ends
//! with somebody still waiting is a failure of the protocol.
//!
//! The ledger of what is in flight is the model's own: neither side is believed about itself.

use segue::config::{InstanceName, Park};
use segue::proxy::classify::Class;
use segue::proxy::gate::controller::{Controller, MemberId, Phase};
use segue::proxy::gate::member::{Admitted, Command, Event, Generation, Member};
use stateright::{Checker, HasDiscoveries, Model, Property};

const CLASSES: [Class; 2] = [Class::Read, Class::Write];

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Kept,
    Any,
}

/// How a close can end.
#[derive(Clone, Copy, PartialEq)]
enum Temper {
    /// In a swap alone, so the drain itself must end.
    Patient,
    /// Also by giving up, or with a cut.
    Hasty,
}

/// A fault put in on purpose, to see that it is seen.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    DrainedIsSaidAtOnce,
    ClosedLetsThrough,
    CommandsHaveNoGeneration,
    SwapsUndrained,
}

#[derive(Clone, Copy)]
struct Protocol {
    order: Order,
    temper: Temper,
    members: usize,
    budget: Budget,
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    reads: u8,
    writes: u8,
    switches: u8,
    joins: u8,
    deaths: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    controller: Controller,
    /// By [`MemberId`].
    seats: Vec<Seat>,
    left: Budget,
    /// Of the latest close.
    park: Park,
    /// The active instance of each generation.
    actives: Vec<InstanceName>,
    /// Up to here exchanges were left to finish beside the new instance, on purpose: reads, writes.
    excused: [Option<Generation>; 2],
    a_generation_fell: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Seat {
    member: Option<Member>,
    down: Vec<Down>,
    up: Vec<Up>,
    in_flight: Vec<Admitted>,
    /// Reads, writes.
    waiting: [u8; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Down {
    Begin { generation: Generation, active: InstanceName },
    Obey(Command),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Up {
    Said(Event),
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Arrive(usize, Class),
    Release(usize, Class),
    Finish(usize, Admitted),
    Deliver(usize, usize),
    Hear(usize, usize),
    Close(Park),
    Swap,
    GiveUp,
    SwapAfterCut,
    Overlap,
    Join,
    /// Its last words may be lost with it.
    Die {
        seat: usize,
        silently: bool,
    },
}

// === impl Protocol ===

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let mut controller = Controller::new(0, InstanceName::Source);
        let seats = (0..self.members).map(|number| {
            controller.join(number as MemberId).ok();
            Seat { member: Some(Member::new(0, InstanceName::Source)), ..Seat::default() }
        });
        vec![World {
            seats: seats.collect(),
            controller,
            left: self.budget,
            park: Park::All,
            actives: vec![InstanceName::Source],
            excused: [None, None],
            a_generation_fell: false,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for (number, seat) in world.seats.iter().enumerate() {
            let first_only = |len: usize| if self.order == Order::Kept { len.min(1) } else { len };
            steps.extend((0..first_only(seat.up.len())).map(|at| Step::Hear(number, at)));
            steps.extend((0..first_only(seat.down.len())).map(|at| Step::Deliver(number, at)));
            if seat.member.is_none() {
                continue;
            }
            for class in CLASSES {
                if world.left.has(class) {
                    steps.push(Step::Arrive(number, class));
                }
                if seat.waiting[class as usize] > 0 {
                    steps.push(Step::Release(number, class));
                }
            }
            for (at, admitted) in seat.in_flight.iter().enumerate() {
                if !seat.in_flight[..at].contains(admitted) {
                    steps.push(Step::Finish(number, *admitted));
                }
            }
            if world.left.deaths > 0 {
                steps.extend([true, false].map(|silently| Step::Die { seat: number, silently }));
            }
        }
        if world.left.switches > 0 {
            steps.extend([Step::Close(Park::All), Step::Close(Park::Writes), Step::Overlap]);
        }
        if world.left.joins > 0 {
            steps.push(Step::Join);
        }
        // Whether the others are allowed is the controller's to say.
        steps.push(Step::Swap);
        if self.temper == Temper::Hasty {
            steps.extend([Step::GiveUp, Step::SwapAfterCut]);
        }
    }

    /// Tries every command at every moment: what the controller refuses is no step.
    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        match step {
            Step::Arrive(number, class) => {
                take_one(world.left.of(class))?;
                let seat = &mut world.seats[number];
                let member = seat.member.as_mut()?;
                let faulty = Admitted { generation: member.generation(), active: member.active(), class };
                let fault = (self.fault == Some(Fault::ClosedLetsThrough)).then_some(faulty);
                match member.admit(class).or(fault) {
                    Some(admitted) => seat.note(admitted),
                    None => seat.waiting[class as usize] += 1,
                }
            }
            Step::Release(number, class) => {
                let seat = &mut world.seats[number];
                take_one(&mut seat.waiting[class as usize])?;
                let admitted = seat.member.as_mut()?.admit(class)?;
                seat.note(admitted);
            }
            Step::Finish(number, admitted) => {
                let seat = &mut world.seats[number];
                let at = seat.in_flight.iter().position(|known| *known == admitted)?;
                seat.in_flight.remove(at);
                let events = seat.member.as_mut()?.leave(admitted);
                seat.say(events);
            }
            Step::Deliver(number, at) => self.deliver(&mut world.seats[number], at)?,
            Step::Hear(number, at) => match world.seats[number].up.remove(at) {
                Up::Said(event) => world.controller.hear(number as MemberId, event),
                Up::Gone => world.controller.leave(number as MemberId),
            },
            Step::Close(park) => {
                take_one(&mut world.left.switches)?;
                let command = world.controller.close(park).ok()?;
                world.park = park;
                world.send(command);
            }
            Step::Swap => {
                let (to, generation) = (other(world.controller.active()), world.controller.generation());
                let undrained = self.fault == Some(Fault::SwapsUndrained);
                let command = match world.controller.resume(to) {
                    Err(_) if undrained => world.controller.resume_after_cut(to),
                    command => command,
                };
                world.go_over(command.ok()?);
                if world.park == Park::Writes {
                    world.excused[Class::Read as usize] = Some(generation);
                }
            }
            Step::GiveUp => {
                let command = world.controller.resume(world.controller.active()).ok()?;
                world.go_over(command);
            }
            Step::SwapAfterCut => {
                let (to, generation) = (other(world.controller.active()), world.controller.generation());
                let command = world.controller.resume_after_cut(to).ok()?;
                world.go_over(command);
                world.excused = [Some(generation); 2];
            }
            Step::Overlap => {
                take_one(&mut world.left.switches)?;
                let (to, generation) = (other(world.controller.active()), world.controller.generation());
                let command = world.controller.overlap(to).ok()?;
                world.go_over(command);
                world.excused = [Some(generation); 2];
            }
            Step::Join => {
                take_one(&mut world.left.joins)?;
                world.controller.join(world.seats.len() as MemberId).ok()?;
                let (generation, active) = (world.controller.generation(), world.controller.active());
                world.seats.push(Seat { down: vec![Down::Begin { generation, active }], ..Seat::default() });
            }
            Step::Die { seat, silently } => {
                take_one(&mut world.left.deaths)?;
                let seat = &mut world.seats[seat];
                let last_words = if silently { Vec::new() } else { std::mem::take(&mut seat.up) };
                *seat = Seat { up: last_words, ..Seat::default() };
                seat.up.push(Up::Gone);
            }
        }
        world.a_generation_fell |= world.controller.generation() < before.controller.generation()
            || world.seats.iter().zip(&before.seats).any(|(now, before)| now.fell_since(before));
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_INSTANCE, |_, world: &World| {
                let rivals = |one: &Admitted, other: &Admitted| one.active != other.active;
                let strict = || world.in_flight().filter(|admitted| !world.excuses(admitted));
                strict().all(|one| !strict().any(|other| rivals(one, other)))
            }),
            Property::always(DRAINED, |_, world: &World| {
                world.controller.phase() != Phase::Drained
                    || (!world.in_flight().any(|admitted| holds(world.park, admitted.class))
                        && world.members().all(|member| {
                            CLASSES.iter().all(|class| {
                                !holds(world.park, *class) || member.clone().admit(*class).is_none()
                            })
                        }))
            }),
            Property::always(OVER, |_, world: &World| {
                let present = world.controller.generation();
                !world.controller.past_is_over()
                    || world.in_flight().all(|admitted| admitted.generation >= present)
            }),
            Property::always("a generation has one instance", |_, world: &World| {
                world.in_flight().all(|of| world.actives.get(of.generation as usize) == Some(&of.active))
            }),
            Property::always("no generation falls", |_, world: &World| !world.a_generation_fell),
            Property::always("a member counts right", |_, world: &World| {
                world.seats.iter().all(|seat| {
                    seat.member.as_ref().is_none_or(|member| member.in_flight() == seat.in_flight.len())
                })
            }),
            Property::eventually(ENDS, |_, world: &World| world.is_at_rest()),
            Property::sometimes("a swap is complete and the shadow writes", |_, world: &World| {
                world.controller.phase() == Phase::Open
                    && world.excused[Class::Write as usize].is_none()
                    && world
                        .in_flight()
                        .any(|of| (of.active, of.class) == (InstanceName::Shadow, Class::Write))
            }),
            Property::sometimes("a read goes on while writes are drained", |_, world: &World| {
                world.controller.phase() == Phase::Drained && world.in_flight().count() > 0
            }),
            Property::sometimes("both classes wait", |_, world: &World| {
                world.seats.iter().any(|seat| seat.waiting.iter().all(|waiting| *waiting > 0))
            }),
        ]
    }
}

const ONE_INSTANCE: &str = "nothing goes to one instance while something goes to the other";
const DRAINED: &str = "once drained, nothing is in flight and nothing gets in";
const OVER: &str = "the past is over when it is said to be";
const ENDS: &str = "every close ends and every request is let through";

impl Protocol {
    fn deliver(&self, seat: &mut Seat, at: usize) -> Option<()> {
        match (seat.down[at], &mut seat.member) {
            (Down::Begin { generation, active }, none @ None) => {
                *none = Some(Member::new(generation, active));
            }
            (Down::Obey(command), Some(member)) => {
                let events = member.obey(match command {
                    Command::Close { park, .. } if self.fault == Some(Fault::CommandsHaveNoGeneration) => {
                        Command::Close { generation: member.generation(), park }
                    }
                    command => command,
                });
                seat.say(events);
                if let Command::Close { generation, .. } = command
                    && self.fault == Some(Fault::DrainedIsSaidAtOnce)
                {
                    seat.say([Some(Event::Drained { generation }), None]);
                }
            }
            // A member that has not begun takes no commands.
            _ => return None,
        }
        seat.down.remove(at);
        Some(())
    }
}

// === impl World ===

impl World {
    fn send(&mut self, command: Command) {
        // The dead get nothing: their channel is gone.
        let seats = self.seats.iter_mut().filter(|seat| seat.member.is_some() || !seat.down.is_empty());
        seats.for_each(|seat| seat.down.push(Down::Obey(command)));
    }

    fn go_over(&mut self, command: Command) {
        self.actives.push(self.controller.active());
        self.send(command);
    }

    fn in_flight(&self) -> impl Iterator<Item = &Admitted> {
        self.seats.iter().flat_map(|seat| &seat.in_flight)
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.seats.iter().filter_map(|seat| seat.member.as_ref())
    }

    fn excuses(&self, admitted: &Admitted) -> bool {
        Some(admitted.generation) <= self.excused[admitted.class as usize]
    }

    fn is_at_rest(&self) -> bool {
        let Budget { reads, writes, switches, joins, deaths } = self.left;
        [reads, writes, switches, joins, deaths] == [0; 5]
            && self.controller.phase() == Phase::Open
            && self.controller.past_is_over()
            && self.seats.iter().all(|seat| {
                seat.up.is_empty()
                    && seat.down.is_empty()
                    && seat.in_flight.is_empty()
                    && seat.waiting == [0; 2]
            })
            && self.members().all(|member| {
                (member.generation(), member.active())
                    == (self.controller.generation(), self.controller.active())
                    && CLASSES.iter().all(|class| !member.parks(*class))
            })
    }
}

// === impl Seat ===

impl Seat {
    fn note(&mut self, admitted: Admitted) {
        self.in_flight.push(admitted);
        // In which order they came makes no difference, so worlds that differ in it are one.
        self.in_flight.sort_by_key(|admitted| (admitted.generation, admitted.class));
    }

    fn say(&mut self, events: [Option<Event>; 2]) {
        self.up.extend(events.into_iter().flatten().map(Up::Said));
    }

    fn fell_since(&self, before: &Self) -> bool {
        let generation = |seat: &Self| seat.member.as_ref().map(Member::generation);
        generation(self).is_some_and(|now| Some(now) < generation(before))
    }
}

impl Budget {
    fn has(mut self, class: Class) -> bool {
        *self.of(class) > 0
    }

    fn of(&mut self, class: Class) -> &mut u8 {
        match class {
            Class::Read => &mut self.reads,
            Class::Write => &mut self.writes,
        }
    }
}

fn take_one(budget: &mut u8) -> Option<()> {
    *budget = budget.checked_sub(1)?;
    Some(())
}

fn other(instance: InstanceName) -> InstanceName {
    match instance {
        InstanceName::Source => InstanceName::Shadow,
        InstanceName::Shadow => InstanceName::Source,
    }
}

fn holds(park: Park, class: Class) -> bool {
    park == Park::All || class == Class::Write
}

// === the tests ===
//
// The budgets are what a few seconds hold. They cover one another: what matters is every pair of things
// that can go wrong together, not all of them at once.

const PLAIN: Protocol =
    Protocol { order: Order::Kept, temper: Temper::Hasty, members: 2, budget: Budget::NONE, fault: None };

impl Budget {
    const NONE: Self = Self { reads: 0, writes: 0, switches: 0, joins: 0, deaths: 0 };
}

/// Some things are out of the reach of a small budget, so whether they happen is asked only where they can.
fn holds_everywhere(protocol: Protocol) -> impl Checker<Protocol> {
    let checker = protocol.checker().spawn_dfs().join();
    assert!(checker.is_done());
    let failures = protocol.properties().into_iter().filter(|of| of.expectation.discovery_is_failure());
    for property in failures {
        checker.assert_no_discovery(property.name);
    }
    checker
}

#[test]
fn it_holds_for_reads_and_writes() {
    let budget = Budget { reads: 1, writes: 1, switches: 1, ..Budget::NONE };
    // Here all of it is in reach.
    holds_everywhere(Protocol { budget, ..PLAIN }).assert_properties();
    let budget = Budget { writes: 2, switches: 1, ..Budget::NONE };
    holds_everywhere(Protocol { budget, ..PLAIN });
}

#[test]
fn it_holds_for_one_switch_after_another() {
    let budget = Budget { writes: 1, switches: 2, ..Budget::NONE };
    holds_everywhere(Protocol { budget, ..PLAIN });
}

#[test]
fn it_holds_when_messages_overtake_each_other() {
    for (reads, writes) in [(0, 2), (1, 0)] {
        let budget = Budget { reads, writes, switches: 1, ..Budget::NONE };
        holds_everywhere(Protocol { order: Order::Any, budget, ..PLAIN });
    }
}

#[test]
fn it_holds_when_a_member_joins() {
    for (writes, switches) in [(2, 1), (1, 2)] {
        let budget = Budget { writes, switches, joins: 1, ..Budget::NONE };
        holds_everywhere(Protocol { members: 1, budget, ..PLAIN });
    }
}

#[test]
fn it_holds_when_a_member_dies() {
    let budget = Budget { writes: 2, switches: 1, deaths: 1, ..Budget::NONE };
    holds_everywhere(Protocol { budget, ..PLAIN });
}

#[test]
fn a_drain_ends_by_itself() {
    let budget = Budget { reads: 1, writes: 2, switches: 1, ..Budget::NONE };
    holds_everywhere(Protocol { temper: Temper::Patient, budget, ..PLAIN });
    let budget = Budget { writes: 2, switches: 2, ..Budget::NONE };
    holds_everywhere(Protocol { temper: Temper::Patient, budget, ..PLAIN });
    let budget = Budget { writes: 1, switches: 1, joins: 1, deaths: 1, ..Budget::NONE };
    holds_everywhere(Protocol { temper: Temper::Patient, budget, ..PLAIN });
}

#[test]
fn three_members_agree() {
    let budget = Budget { writes: 1, switches: 1, ..Budget::NONE };
    holds_everywhere(Protocol { members: 3, temper: Temper::Patient, budget, ..PLAIN });
}

#[test]
fn each_fault_is_seen() {
    let budget = Budget { writes: 2, switches: 1, ..Budget::NONE };
    for (fault, order, seen) in [
        (Fault::DrainedIsSaidAtOnce, Order::Kept, DRAINED),
        (Fault::DrainedIsSaidAtOnce, Order::Kept, ONE_INSTANCE),
        (Fault::ClosedLetsThrough, Order::Kept, DRAINED),
        (Fault::ClosedLetsThrough, Order::Kept, ONE_INSTANCE),
        (Fault::SwapsUndrained, Order::Kept, ONE_INSTANCE),
        (Fault::CommandsHaveNoGeneration, Order::Any, ENDS),
    ] {
        let protocol = Protocol { order, budget, fault: Some(fault), ..PLAIN };
        let wanted = HasDiscoveries::AnyOf([seen].into());
        let checker = protocol.checker().finish_when(wanted).spawn_dfs().join();
        assert!(checker.discovery(seen).is_some(), "nobody sees that {seen:?} is broken");
    }
}
