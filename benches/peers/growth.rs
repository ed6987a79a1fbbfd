//! Cost as work grows: Segue alone, at each point of each axis, in turns and in rounds; a table, JSON, and a picture
//! of each axis.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::axis::{AXES, Axis};
use crate::figures::Figure::{
    self, Busy, CpuPerRequest, Errors, LoadBusy, MirroredPercent, RequestsPerSecond,
};
use crate::figures::Spread;
use crate::measure::{Settings, measure};
use crate::peer::Peer;
use crate::plot;
use crate::report::{cell, figures, print_table, write_json};
use crate::results::Results;
use crate::target::Verdict;
use crate::{Outcome, in_turn};

const SHOWN: &[Figure] = &[CpuPerRequest, RequestsPerSecond, Busy, LoadBusy, MirroredPercent, Errors];

pub struct Growth<'a> {
    settings: &'a Settings,
    axes: Vec<&'static Axis>,
    rounds: usize,
    results: Results<usize>,
}

impl<'a> Growth<'a> {
    /// The axes whose names begin with one of `names`; without any, all.
    pub fn new(settings: &'a Settings, names: &[String], rounds: usize) -> Outcome<Self> {
        let is_wanted =
            |axis: &&Axis| names.is_empty() || names.iter().any(|name| axis.name.starts_with(name.as_str()));
        let axes: Vec<&Axis> = AXES.iter().filter(is_wanted).collect();
        if axes.is_empty() {
            let names: Vec<&str> = AXES.iter().map(|axis| axis.name).collect();
            return Err(format!("no such axis; there are {}", names.join(", ")).into());
        }
        Ok(Self { settings, axes, rounds, results: Results::new() })
    }

    pub fn measure(&mut self) {
        let start = Instant::now();
        for axis in &self.axes {
            for round in 0..self.rounds {
                for point in in_turn(axis.points, round) {
                    let seconds = start.elapsed().as_secs();
                    let at = (axis.show)(point);
                    eprintln!("bench: {seconds:4} s  {}  round {}  {at}", axis.name, round + 1);
                    // No load here goes by a saturation.
                    let measured = measure(self.settings, &(axis.case)(point), 0.0);
                    self.results.add(axis.name, point, round, measured);
                }
            }
        }
    }

    /// To stdout.
    pub fn print(&self) {
        for axis in &self.axes {
            println!("\nAgainst {}: {}\n", axis.against, axis.what);
            let headings = SHOWN.iter().map(|figure| figure.heading().to_owned());
            let mut rows = vec![[String::new()].into_iter().chain(headings).collect::<Vec<_>>()];
            for &point in axis.points {
                let mut row = vec![(axis.show)(point)];
                row.extend(
                    SHOWN.iter().map(|&figure| cell(self.results.spread(axis.name, point, figure), figure)),
                );
                rows.push(row);
            }
            print_table(&rows);
            for &point in axis.points {
                if let Some(why) = self.results.failure(axis.name, point) {
                    println!("  {}: {why}", (axis.show)(point));
                }
            }
        }
        println!();
        for axis in &self.axes {
            if let (Some(bound), Some((ratio, verdict))) = (axis.bound, self.judge(axis)) {
                let [from, to] = [axis.points.first(), axis.points.last()]
                    .map(|end| end.map_or_else(String::new, |&end| (axis.show)(end)));
                let what = format!("CPU per request, {to} / {from} {}", axis.against);
                println!("  {:7}  {what:54} ≤ {bound:.2}   {ratio:.2}", verdict.shown());
            }
        }
    }

    /// The last point's median over the first's.
    fn judge(&self, axis: &Axis) -> Option<(f64, Verdict)> {
        let median = |end: Option<&usize>| Some(self.cost(axis, *end?)?.median);
        let ratio = median(axis.points.last())? / median(axis.points.first())?;
        Some((ratio, if ratio <= axis.bound? { Verdict::Reached } else { Verdict::Missed }))
    }

    fn cost(&self, axis: &Axis, point: usize) -> Option<Spread> {
        self.results.spread(axis.name, point, CpuPerRequest)
    }

    /// One picture of each axis, `FOLDER/AXIS.svg`.
    pub fn draw(&self, folder: &Path) -> Outcome<()> {
        let machine = &self.settings.machine;
        let how = format!(
            "Median and extremes of {} × {} s on {}, {} cores, Linux {}",
            self.rounds,
            self.settings.duration.as_secs(),
            machine.cpu,
            machine.cores,
            machine.kernel
        );
        std::fs::create_dir_all(folder)?;
        for axis in &self.axes {
            let measured: Vec<_> =
                axis.points.iter().filter_map(|&point| Some((point, self.cost(axis, point)?))).collect();
            plot::draw(&folder.join(axis.name).with_extension("svg"), axis, &measured, &how)?;
        }
        Ok(())
    }

    pub fn write(&self, file: &Path) -> Outcome<()> {
        let axes: Vec<Value> = self.axes.iter().map(|axis| self.axis_json(axis)).collect::<Outcome<_>>()?;
        let json = json!({
            "machine": self.settings.machine,
            "rounds": self.rounds,
            "seconds": self.settings.duration.as_secs(),
            "segue": Peer::Segue.version(),
            "axes": axes,
        });
        write_json(file, &json)
    }

    fn axis_json(&self, axis: &'static Axis) -> Outcome<Value> {
        let mut points = Vec::new();
        for &point in axis.points {
            points.push(json!({
                "at": point,
                "figures": figures(&self.results, axis.name, point)?,
                "failure": self.results.failure(axis.name, point),
            }));
        }
        let judged = self.judge(axis);
        Ok(json!({
            "name": axis.name,
            "against": axis.against,
            "what": axis.what,
            "points": points,
            "bound": axis.bound,
            "last_to_first": judged.map(|(ratio, _)| ratio),
            "verdict": judged.map(|(_, verdict)| verdict),
        }))
    }
}
