//! Contenders side by side, whose loads take turns of a fraction of a second while those of the others stand still.
//!
//! A shared machine is another one from one second to the next. What it does within a second or two falls on all
//! contenders alike if they take turns often enough, so their ratio says more than one of two measurements on end; and
//! little time is lost on starting everything anew.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use crate::Outcome;
use crate::figures::{Figure, Figures, Spread};
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
/// Of an open loop, whose connections are new each time. Three fifths of it are recorded: thousands of requests, or there is
/// no 99.9th of a hundred, and long enough for what a proxy does every second to be in most turns.
const OPEN_SLICE: Duration = Duration::from_secs(1);

struct Side {
    contender: Contender,
    // Dropped in this order: the load before what it asks.
    turns: Turns,
    stage: Stage,
}

/// What was seen in each.
enum Turns {
    Closed { load: Wrk, seen: Vec<[Look; 2]> },
    Open { rate_per_second: f64, seen: Vec<(Ended, [Look; 2])> },
}

/// Starts those contenders, has each of them take so many turns, and tells what all of them come to.
pub fn alternate(
    settings: &Settings,
    scenario: &Scenario,
    contenders: impl Iterator<Item = Contender>,
    (turns, saturation): (usize, f64),
    mut tell: impl FnMut(Contender, Outcome<Figures>),
) -> Outcome<()> {
    let Load::Alternating(pace) = scenario.load else { return Err("a load without turns".into()) };
    let placing = settings.machine.placing(scenario.workers, scenario.load.is_open());
    machine::pin(&placing.load)?;
    let mut sides = Vec::new();
    for contender in contenders {
        match Side::set(settings, scenario, contender, (pace, saturation), turns, &placing) {
            Ok(side) => sides.push(side),
            Err(error) => tell(contender, Err(error)),
        }
    }
    // For latencies: a stall is the tail of whomever it meets. In CPU time and requests/s, which are of all turns together,
    // it weighs little, and leaving it out costs more turns than it is worth.
    let is_watched = settings.machine.real_time && scenario.load.is_open();
    let watch = is_watched.then(|| Watch::start(placing.cores()));
    for turn in 0..turns {
        // Or each would always follow the same one.
        fastrand::shuffle(&mut sides);
        sides.retain_mut(|side| {
            let taken = side.take_turn(turn, &placing);
            taken.map_err(|error| tell(side.contender, Err(error))).is_ok()
        });
    }
    let stalls = watch.map(Watch::finish).transpose()?;
    for Side { contender, turns, stage } in &sides {
        let figures = turns.figures(stalls.as_ref());
        tell(*contender, figures.map(|figures| figures.into_iter().chain(peak_memory(stage)).collect()));
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
        turns: usize,
        placing: &Placing,
    ) -> Outcome<Self> {
        let case = scenario.case(contender);
        if case.downstream != Downstream::Http1 {
            return Err("only loads over HTTP/1.1 take turns".into());
        }
        let stage = Stage::set(&case, &settings.certificate, placing)?;
        let taken = match pace {
            Pace::Closed { connections, ask } => {
                let base = format!("http://127.0.0.1:{}", stage.port);
                // Far longer than it takes: it is stopped at the end.
                let all = u32::try_from(turns * scenario.contenders.len())?;
                let longest = Duration::from_mins(1) + (LEAD + SLICE + TAIL) * 2 * all;
                let load = Wrk::start(stage.folder.path(), &base, connections, ask, longest)?;
                sleep(OPENING);
                load.halt();
                Turns::Closed { load, seen: Vec::with_capacity(turns) }
            }
            Pace::Open { share } => {
                Turns::Open { rate_per_second: saturation * share, seen: Vec::with_capacity(turns) }
            }
        };
        Ok(Self { contender, turns: taken, stage })
    }

    fn take_turn(&mut self, number: usize, placing: &Placing) -> Outcome<()> {
        match &mut self.turns {
            Turns::Closed { load, seen } => {
                load.go_on()?;
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
                let seed = number as u64;
                let open = Open::start(self.stage.port, *rate_per_second, OPEN_SLICE, placing, seed)?;
                let ended = open.finish()?;
                seen.push((ended, [from, look(&self.stage, &placing.load)?]));
            }
        }
        Ok(())
    }
}

impl Turns {
    /// Of all together.
    fn figures(&self, stalls: Option<&Stalls>) -> Outcome<Figures> {
        match self {
            Self::Closed { seen, .. } => sum_up(seen.iter().map(|[from, to]| (from, to)), None),
            Self::Open { seen, .. } => {
                let turns: Vec<_> =
                    seen.iter().map(|(ended, _)| ended.figures(stalls)).collect::<Outcome<_>>()?;
                let mut figures = sum_up(seen.iter().map(|(_, [from, to])| (from, to)), None)?;
                figures.extend(middle(turns));
                Ok(figures)
            }
        }
    }
}

/// The median of each figure that all turns have: one in which something was amiss is not the tail of them all. What failed
/// adds up.
fn middle(turns: Vec<Figures>) -> Figures {
    let count = turns.len();
    let mut values: BTreeMap<Figure, Vec<f64>> = BTreeMap::new();
    for (figure, value) in turns.into_iter().flatten() {
        values.entry(figure).or_default().push(value);
    }
    values.retain(|_, values| values.len() == count);
    let one = |(figure, values): (Figure, Vec<f64>)| match figure {
        Figure::Errors => Some((figure, values.iter().sum())),
        _ => Some((figure, Spread::of(values)?.median)),
    };
    values.into_iter().filter_map(one).collect()
}

impl Drop for Turns {
    fn drop(&mut self) {
        if let Self::Closed { load, .. } = self {
            load.end();
        }
    }
}
