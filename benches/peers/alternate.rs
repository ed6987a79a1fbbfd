//! Contenders side by side, whose loads take turns of a fraction of a second while those of the others stand still.
//!
//! A shared machine is another one from one second to the next. What it does within a second or two it does to all
//! contenders alike, so a ratio within one rotation says more than one of two measurements on end; and little time is
//! lost on starting everything anew.

use std::mem::take;
use std::thread::sleep;
use std::time::Duration;

use crate::Outcome;
use crate::figures::{Figure, Figures};
use crate::load::open::{Ended, Open};
use crate::load::stalls::{Stalls, Watch};
use crate::load::wrk::Wrk;
use crate::machine::{self, Placing};
use crate::measure::{Look, Settings, look, peak_memory, sum_up};
use crate::scenario::{Contender, Downstream, Load, Pace, Scenario};
use crate::stage::Stage;

/// Of a closed loop.
const SLICE: Duration = Duration::from_millis(100);
/// For connections that stood still to be busy again.
const LEAD: Duration = Duration::from_millis(30);
/// For what was in flight to come through.
const TAIL: Duration = Duration::from_millis(20);
/// For a closed loop to open its connections.
const OPENING: Duration = Duration::from_millis(500);
/// Of an open loop, whose connections are new each time: thousands of requests, or there is no 99.9th of a hundred.
const OPEN_SLICE: Duration = Duration::from_millis(500);

struct Side {
    contender: Contender,
    stage: Stage,
    turns: Turns,
}

/// What was seen in each.
enum Turns {
    Closed { load: Wrk, seen: Vec<[Look; 2]> },
    Open { rate_per_second: f64, seen: Vec<(Ended, [Look; 2])> },
}

/// Measures those contenders so many times; `tell` hears of each time, by its number.
pub fn alternate(
    settings: &Settings,
    scenario: &Scenario,
    contenders: impl Iterator<Item = Contender>,
    (rotations, saturation): (usize, f64),
    mut tell: impl FnMut(Contender, usize, Outcome<Figures>),
) -> Outcome<()> {
    let Load::Alternating(pace) = scenario.load else { return Err("a load without turns".into()) };
    let placing = settings.machine.placing(scenario.workers, scenario.load.is_open());
    machine::pin(&placing.load)?;
    let mut sides = Vec::new();
    for contender in contenders {
        match Side::set(settings, scenario, contender, (pace, saturation), rotations, &placing) {
            Ok(side) => sides.push(side),
            Err(error) => tell(contender, 0, Err(error)),
        }
    }
    let watch = settings.machine.real_time.then(|| Watch::start(placing.cores()));
    for rotation in 0..rotations {
        // Each begins with another one, so that nobody always follows the same predecessor.
        let first = rotation % sides.len().max(1);
        let (later, sooner) = sides.split_at_mut(first);
        for side in sooner.iter_mut().chain(later) {
            side.take_turn(&placing)?;
        }
    }
    let stalls = watch.map(Watch::finish).transpose()?;
    for side in &sides {
        // One of them all, so it is told with the first one, even if that does not count.
        let mut peak: Figures = peak_memory(&side.stage).into_iter().collect();
        for (number, figures) in side.turns.figures(stalls.as_ref()) {
            let of_all = if number == 0 { take(&mut peak) } else { Figures::new() };
            tell(side.contender, number, figures.map(|figures| figures.into_iter().chain(of_all).collect()));
        }
        if !peak.is_empty() {
            tell(side.contender, 0, Ok(peak));
        }
    }
    Ok(())
}

impl Side {
    /// Everything is running, and stands still.
    fn set(
        settings: &Settings,
        scenario: &Scenario,
        contender: Contender,
        (pace, saturation): (Pace, f64),
        rotations: usize,
        placing: &Placing,
    ) -> Outcome<Self> {
        let case = scenario.case(contender);
        if case.downstream != Downstream::Http1 {
            return Err("only loads over HTTP/1.1 take turns".into());
        }
        let stage = Stage::set(&case, &settings.certificate, placing)?;
        let turns = match pace {
            Pace::Closed { connections, ask } => {
                let base = format!("http://127.0.0.1:{}", stage.port);
                // Far longer than it takes: it is stopped at the end.
                let all = u32::try_from(rotations * scenario.contenders.len())?;
                let longest = Duration::from_mins(1) + (LEAD + SLICE + TAIL) * 2 * all;
                let load = Wrk::start(stage.folder.path(), &base, connections, ask, longest)?;
                sleep(OPENING);
                load.halt();
                Turns::Closed { load, seen: Vec::with_capacity(rotations) }
            }
            Pace::Open { share } => {
                Turns::Open { rate_per_second: saturation * share, seen: Vec::with_capacity(rotations) }
            }
        };
        Ok(Self { contender, stage, turns })
    }

    fn take_turn(&mut self, placing: &Placing) -> Outcome<()> {
        match &mut self.turns {
            Turns::Closed { load, seen } => {
                load.go_on();
                sleep(LEAD);
                let from = look(&self.stage, &placing.load)?;
                sleep(SLICE);
                let to = look(&self.stage, &placing.load)?;
                load.halt();
                sleep(TAIL);
                seen.push([from, to]);
            }
            Turns::Open { rate_per_second, seen } => {
                let from = look(&self.stage, &placing.load)?;
                let open = Open::start(self.stage.port, *rate_per_second, OPEN_SLICE, placing)?;
                let ended = open.finish()?;
                seen.push((ended, [from, look(&self.stage, &placing.load)?]));
            }
        }
        Ok(())
    }
}

impl Turns {
    /// Of each turn that counts, with its number.
    fn figures(&self, stalls: Option<&Stalls>) -> Vec<(usize, Outcome<Figures>)> {
        let all: Vec<_> = match self {
            Self::Closed { seen, .. } => seen.iter().map(|looks| sum_up(looks, stalls)).collect(),
            Self::Open { seen, .. } => {
                let figures = |(ended, looks): &(Ended, [Look; 2])| {
                    let mut figures = sum_up(looks, None)?;
                    // Without the requests that met a stall.
                    figures.extend(ended.figures(stalls)?);
                    Ok(figures)
                };
                return seen.iter().map(figures).enumerate().collect();
            }
        };
        let count = all.len();
        let stalled = all.iter().filter(|turn| is_stalled(turn)).count();
        let left_out = stalls.map(|_| (Figure::StalledPercent, stalled as f64 * 100.0 / count as f64));
        // Where there are no others, those are better than nothing.
        let counts = |turn: &Outcome<Figures>| stalled == count || !is_stalled(turn);
        let with_share = |turn: Outcome<Figures>| turn.map(|turn| turn.into_iter().chain(left_out).collect());
        let counted = all.into_iter().enumerate().filter(|(_, turn)| counts(turn));
        counted.map(|(number, turn)| (number, with_share(turn))).collect()
    }
}

/// Whether the machine stood still, or crept, for more than it may.
fn is_stalled(turn: &Outcome<Figures>) -> bool {
    turn.as_ref().is_ok_and(|turn| turn.get(&Figure::StalledPercent).is_some_and(|share| *share > 0.0))
}

impl Drop for Turns {
    fn drop(&mut self) {
        if let Self::Closed { load, .. } = self {
            load.end();
        }
    }
}
