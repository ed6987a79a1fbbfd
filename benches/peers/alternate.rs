//! Contenders side by side, whose closed loops take turns of a tenth of a second while those of the others stand still.
//!
//! A shared machine is another one from one second to the next. What it does within half a second it does to all
//! contenders alike, so a ratio within one rotation says more than one of two measurements on end; and there is no time
//! lost on starting everything anew.

use std::thread::sleep;
use std::time::Duration;

use crate::Outcome;
use crate::figures::{Figure, Figures};
use crate::load::stalls::Watch;
use crate::load::wrk::Wrk;
use crate::machine;
use crate::measure::{Look, Settings, look, peak_memory, sum_up};
use crate::scenario::{Contender, Downstream, Load, Scenario};
use crate::stage::Stage;

const SLICE: Duration = Duration::from_millis(100);
/// For connections that stood still to be busy again.
const LEAD: Duration = Duration::from_millis(30);
/// For what was in flight to come through.
const TAIL: Duration = Duration::from_millis(20);
/// For a load to open its connections.
const OPENING: Duration = Duration::from_millis(500);

struct Side {
    contender: Contender,
    load: Wrk,
    stage: Stage,
    slices: Vec<[Look; 2]>,
}

/// Measures those contenders so many times; `tell` hears of each time, by its number.
pub fn alternate(
    settings: &Settings,
    scenario: &Scenario,
    contenders: impl Iterator<Item = Contender>,
    rotations: usize,
    mut tell: impl FnMut(Contender, usize, Outcome<Figures>),
) -> Outcome<()> {
    let placing = settings.machine.placing(scenario.workers, false);
    machine::pin(&placing.load)?;
    let mut sides = Vec::new();
    for contender in contenders {
        match Side::set(settings, scenario, contender, rotations) {
            Ok(side) => sides.push(side),
            Err(error) => tell(contender, 0, Err(error)),
        }
    }
    let watch = settings.machine.real_time.then(|| Watch::start(placing.cores()));
    for rotation in 0..rotations {
        let first = rotation % sides.len().max(1);
        // Each begins with another one, so that nobody always follows the same predecessor.
        let (later, sooner) = sides.split_at_mut(first);
        for side in sooner.iter_mut().chain(later) {
            side.take_turn(&placing.load)?;
        }
    }
    let stalls = watch.map(Watch::finish).transpose()?;
    for side in &mut sides {
        let peak = peak_memory(&side.stage);
        let measured = std::mem::take(&mut side.slices);
        let measured: Vec<_> = measured.iter().map(|slice| sum_up(slice, stalls.as_ref())).collect();
        let stalled = measured.iter().filter(|slice| is_stalled(slice)).count();
        let left_out =
            stalls.as_ref().map(|_| (Figure::StalledPercent, stalled as f64 * 100.0 / rotations as f64));
        for (number, slice) in measured.into_iter().enumerate() {
            // Where there are no others, those are better than nothing.
            if stalled == rotations || !is_stalled(&slice) {
                let figures = slice.map(|slice| slice.into_iter().chain(peak).chain(left_out).collect());
                tell(side.contender, number, figures);
            }
        }
    }
    Ok(())
}

/// Whether the machine stood still, or crept, for more than it may.
fn is_stalled(slice: &Outcome<Figures>) -> bool {
    slice.as_ref().is_ok_and(|slice| slice.get(&Figure::StalledPercent).is_some_and(|share| *share > 0.0))
}

impl Side {
    /// Everything is running, and stands still.
    fn set(
        settings: &Settings,
        scenario: &Scenario,
        contender: Contender,
        rotations: usize,
    ) -> Outcome<Self> {
        let case = scenario.case(contender);
        let (Load::Alternating { connections, ask }, Downstream::Http1) = (case.load, case.downstream) else {
            return Err("only closed loops over HTTP/1.1 can take turns".into());
        };
        let placing = settings.machine.placing(case.workers, false);
        let stage = Stage::set(&case, &settings.certificate, &placing)?;
        let base = format!("http://127.0.0.1:{}", stage.port);
        // Far longer than it takes: it is stopped at the end.
        let longest =
            Duration::from_mins(1) + SLICE * 4 * u32::try_from(rotations * scenario.contenders.len())?;
        let load = Wrk::start(stage.folder.path(), &base, connections, ask, longest)?;
        sleep(OPENING);
        load.halt();
        Ok(Self { contender, load, stage, slices: Vec::with_capacity(rotations) })
    }

    fn take_turn(&mut self, load_cores: &[usize]) -> Outcome<()> {
        self.load.go_on();
        sleep(LEAD);
        let from = look(&self.stage, load_cores)?;
        sleep(SLICE);
        let to = look(&self.stage, load_cores)?;
        self.load.halt();
        sleep(TAIL);
        self.slices.push([from, to]);
        Ok(())
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.load.end();
    }
}
