//! Contenders side by side, whose loads take turns of a fraction of a second while those of the others stand still.
//!
//! A shared machine is another one from one second to the next. What it does within a second or two it does to all
//! contenders alike, so a ratio within one rotation says more than one of two measurements on end; and little time is
//! lost on starting everything anew.

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

/// Starts those contenders, has each of them take so many turns, and tells what they come to.
pub fn alternate(
    settings: &Settings,
    scenario: &Scenario,
    contenders: impl Iterator<Item = Contender>,
    (rotations, saturation): (usize, f64),
    mut tell: impl FnMut(Contender, Outcome<Figures>),
) -> Outcome<()> {
    let Load::Alternating(pace) = scenario.load else { return Err("a load without turns".into()) };
    let placing = settings.machine.placing(scenario.workers, scenario.load.is_open());
    machine::pin(&placing.load)?;
    let mut sides = Vec::new();
    for contender in contenders {
        match Side::set(settings, scenario, contender, (pace, saturation), rotations, &placing) {
            Ok(side) => sides.push(side),
            Err(error) => tell(contender, Err(error)),
        }
    }
    // Of an open loop: a stall is in all the latencies of its moment, while what it adds to cost and throughput it adds to all.
    let is_watched = settings.machine.real_time && scenario.load.is_open();
    let watch = is_watched.then(|| Watch::start(placing.cores()));
    for _ in 0..rotations {
        // Or each would always follow the same one.
        fastrand::shuffle(&mut sides);
        for side in &mut sides {
            side.take_turn(&placing)?;
        }
    }
    let stalls = watch.map(Watch::finish).transpose()?;
    for side in &sides {
        let figures = side.turns.figures(stalls.as_ref());
        tell(
            side.contender,
            figures.map(|figures| figures.into_iter().chain(peak_memory(&side.stage)).collect()),
        );
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
    fn figures(&self, stalls: Option<&Stalls>) -> Outcome<Figures> {
        match self {
            Self::Closed { seen, .. } => sum_up(seen.iter().map(|[from, to]| (from, to)), None),
            Self::Open { seen, .. } => {
                let figures = |(ended, [from, to]): &(Ended, [Look; 2])| {
                    let mut figures = sum_up([(from, to)].into_iter(), None)?;
                    // Without the requests that met a stall.
                    figures.extend(ended.figures(stalls)?);
                    Ok(figures)
                };
                Ok(middle(seen.iter().map(figures).collect::<Outcome<Vec<_>>>()?))
            }
        }
    }
}

/// The median of each figure: one turn in which something was amiss is not the tail of all of them. What failed adds up.
fn middle(turns: Vec<Figures>) -> Figures {
    let mut values: BTreeMap<Figure, Vec<f64>> = BTreeMap::new();
    for (figure, value) in turns.into_iter().flatten() {
        values.entry(figure).or_default().push(value);
    }
    let one = |(figure, values): (Figure, Vec<f64>)| {
        let value = match figure {
            Figure::Errors => values.iter().sum(),
            _ => Spread::of(values)?.median,
        };
        Some((figure, value))
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
