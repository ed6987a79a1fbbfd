//! The results, as tables for people and as JSON for programs. The JSON has every round's value, or every start's.

use std::collections::BTreeMap;
use std::fs;
use std::hash::Hash;
use std::path::Path;

use serde_json::{Value, json};

use crate::Outcome;
use crate::figures::{Figure, Spread};
use crate::machine::Machine;
use crate::peer::Peer;
use crate::results::Results;
use crate::scenario::{Contender, Mirror, Scenario};
use crate::target;

pub struct Report<'a> {
    pub machine: &'a Machine,
    pub rounds: usize,
    pub seconds: f64,
    pub quick: bool,
    pub scenarios: &'a [&'static Scenario],
    pub left_out: &'a BTreeMap<Peer, String>,
    pub results: &'a Results,
}

impl Report<'_> {
    /// To stdout.
    pub fn print(&self) {
        for scenario in self.scenarios {
            self.print_scenario(scenario);
        }
        let judged = target::judge(self.results);
        if !judged.is_empty() {
            println!("\nTargets, by the median of {} rounds, or of all their starts\n", self.rounds);
            for target in judged {
                let Spread { min, low, high, max, .. } = target.measured;
                // Of a few values the extremes say it all.
                let interval = if low > min || high < max {
                    format!("; median {low:.2}–{high:.2}")
                } else {
                    String::new()
                };
                println!(
                    "  {:7}  {:54} {:>7}   {}{interval}",
                    target.verdict.shown(),
                    target.what,
                    target.bound,
                    spread(target.measured, |value| format!("{value:.2}")),
                );
            }
        }
        if !self.left_out.is_empty() {
            println!("\nLeft out\n");
        }
        for (peer, why) in self.left_out {
            println!("  {}: {why}", peer.name());
        }
        if !self.machine.real_time {
            println!(
                "\nReal-time priority is not permitted here: whatever else ran is in the open loops' latencies, and what \
                 the machine itself did in all figures."
            );
        }
        if self.quick {
            println!("\nA --quick run says that everything works; its figures are no comparison.");
        }
    }

    fn print_scenario(&self, scenario: &'static Scenario) {
        println!("\n{}: {}\n", scenario.name, scenario.what);
        let compared = format!("{} × Segue", scenario.compared.heading());
        let headings = scenario.shown.iter().map(|figure| figure.heading().to_owned());
        let mut rows = vec![[String::new(), compared].into_iter().chain(headings).collect::<Vec<_>>()];
        let mut failures = Vec::new();
        for &contender in scenario.contenders {
            if let Some(why) = self.results.failure(scenario.name, contender) {
                failures.push(format!("  {contender}: {why}"));
            }
            if self.results.all(scenario.name, contender, scenario.compared).is_empty() {
                continue;
            }
            let ratio =
                self.ratio(scenario, contender).map(|ratio| spread(ratio, |value| format!("{value:.2}")));
            let mut row = vec![contender.to_string(), ratio.unwrap_or_default()];
            for &figure in scenario.shown {
                row.push(cell(self.results.spread(scenario.name, contender, figure), figure));
            }
            rows.push(row);
        }
        print_table(&rows);
        for failure in failures {
            println!("{failure}");
        }
    }

    /// To Segue in the same scenario: without a mirror if it is there, else with one.
    fn ratio(&self, scenario: &'static Scenario, contender: Contender) -> Option<Spread> {
        let ours = scenario
            .contenders
            .iter()
            .filter(|other| other.peer == Peer::Segue)
            .min_by_key(|other| other.mirror != Mirror::Off)?;
        let of = |whose| move |round| self.results.one(scenario.name, whose, round, scenario.compared);
        self.results.by_round(of(contender), of(*ours), |theirs, ours| theirs / ours)
    }

    pub fn write(&self, file: &Path) -> Outcome<()> {
        write_json(file, &self.json()?)
    }

    fn json(&self) -> Outcome<Value> {
        let measured = Peer::ALL.iter().filter(|peer| !self.left_out.contains_key(peer));
        let peers: Vec<Value> =
            measured.map(|peer| json!({ "peer": peer, "version": peer.version() })).collect();
        let left_out: Vec<Value> =
            self.left_out.iter().map(|(peer, why)| json!({ "peer": peer, "why": why })).collect();
        let scenarios: Vec<Value> =
            self.scenarios.iter().map(|scenario| self.scenario_json(scenario)).collect::<Outcome<_>>()?;
        Ok(json!({
            "machine": self.machine,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "quick": self.quick,
            "peers": peers,
            "left_out": left_out,
            "scenarios": scenarios,
            "targets": target::judge(self.results),
        }))
    }

    fn scenario_json(&self, scenario: &'static Scenario) -> Outcome<Value> {
        let mut rows = Vec::new();
        for &contender in scenario.contenders {
            rows.push(json!({
                "peer": contender.peer,
                "mirror": contender.mirror,
                "figures": figures(self.results, scenario.name, contender)?,
                "compared_to_segue": self.ratio(scenario, contender),
                "failure": self.results.failure(scenario.name, contender),
            }));
        }
        Ok(json!({
            "name": scenario.name,
            "what": scenario.what,
            "workers": scenario.workers,
            "compared": scenario.compared,
            "rows": rows,
        }))
    }
}

const EVERY_FIGURE: &[Figure] = &[
    Figure::CpuPerRequest,
    Figure::Busy,
    Figure::LoadBusy,
    Figure::RequestsPerSecond,
    Figure::P50Ms,
    Figure::P99Ms,
    Figure::P999Ms,
    Figure::P999OfAllMs,
    Figure::StalledPercent,
    Figure::PeakMib,
    Figure::KibPerConnection,
    Figure::MirroredPercent,
    Figure::Errors,
];

/// All that was measured of a row.
pub fn figures<Row: Copy + Eq + Hash>(
    results: &Results<Row>,
    scenario: &'static str,
    row: Row,
) -> Outcome<Value> {
    let mut figures = serde_json::Map::new();
    for &figure in EVERY_FIGURE {
        if let Some(spread) = results.spread(scenario, row, figure) {
            let name = serde_json::to_value(figure)?.as_str().unwrap_or_default().to_owned();
            let values = results.all(scenario, row, figure);
            figures.insert(name, json!({ "spread": spread, "values": values }));
        }
    }
    Ok(figures.into())
}

pub fn write_json(file: &Path, value: &Value) -> Outcome<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, serde_json::to_vec_pretty(value)?)?;
    Ok(())
}

/// Empty where nothing was measured.
pub fn cell(of: Option<Spread>, figure: Figure) -> String {
    of.map_or_else(String::new, |values| spread(values, |value| figure.show(value)))
}

/// The median, and in brackets from where to where, if that says more.
fn spread(of: Spread, show: impl Fn(f64) -> String) -> String {
    let (min, median, max) = (show(of.min), show(of.median), show(of.max));
    if min == max { median } else { format!("{median} ({min}–{max})") }
}

pub fn print_table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        println!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
