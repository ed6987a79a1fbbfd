//! Segue beside its peers: the same load on the same origin, one proxy after another, in turns and in rounds.
//!
//! ```text
//! scenario (data) ─┐
//!                  ├─ measure: stage (origin, shadow, proxy) + load ─► figures ─► results ─► report
//! peer (how each  ─┘                                                                └─ target (data)
//!  is started)
//! ```
//!
//! With `--growth`: Segue alone at the points of each axis (data), through the same `measure`, into tables and pictures.
//!
//! Load, origin and shadow are on core 0 and the proxy is alone on core 1. A round goes through all scenarios and, in
//! each, through all contenders; ratios are formed within a round. What it all means, and how far to trust it, is in
//! `docs/performance.md`.

mod alternate;
mod axis;
mod figures;
mod growth;
mod load;
mod machine;
mod measure;
mod peer;
mod plot;
mod process;
mod report;
mod results;
mod scenario;
mod stage;
mod target;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use crate::alternate::alternate;
use crate::figures::Figure;
use crate::growth::Growth;
use crate::machine::Machine;
use crate::measure::{Settings, measure};
use crate::peer::Peer;
use crate::report::Report;
use crate::results::Results;
use crate::scenario::{Contender, Load, Mirror, SATURATION, SCENARIOS, Scenario};
use crate::stage::Certificate;

/// Errors are for whoever reads the run; nothing decides by their kind.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bench-results");
const PICTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance");
/// Assumed, where the scenario that measures it is not part of the run; well below any proxy's here.
const UNMEASURED_SATURATION: f64 = 8_000.0;
/// Of the one start in a quick run.
const QUICK_TURNS: usize = 5;

/// Compare Segue with other proxies
#[derive(Parser)]
struct Arguments {
    /// Instead: what a request costs Segue as connections, bodies, routes and the tee grow
    #[arg(long, conflicts_with = "peer")]
    growth: bool,
    /// A minute: main scenarios (all axes), one round, a second each
    #[arg(long)]
    quick: bool,
    /// How often everything is measured [default: 5, with --growth 3, with --quick 1]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Whole seconds of each load [default: 2, with --growth 3, with --quick 1]
    #[arg(long, value_name = "N")]
    seconds: Option<u32>,
    /// Only scenarios (axes) whose name starts so; may be given several times
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// Only these peers (as in `nginx`, `haproxy_tcp`); may be given several times
    #[arg(long, value_name = "NAME")]
    peer: Vec<String>,
    /// Where the JSON goes [default: bench-results/peers.json, with --growth growth.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// With --growth: the folder of the pictures [default: docs/performance, with --quick bench-results]
    #[arg(long, value_name = "FOLDER", requires = "growth")]
    pictures: Option<PathBuf>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let (rounds, seconds) = match (arguments.quick, arguments.growth) {
        (true, _) => (1, 1),
        (_, true) => (3, 3),
        _ => (5, 2),
    };
    let rounds = arguments.rounds.unwrap_or(rounds).max(1);
    let seconds = arguments.seconds.unwrap_or(seconds).max(1);
    let settings = Settings {
        machine: Machine::look(),
        certificate: Certificate::new()?,
        duration: Duration::from_secs(seconds.into()),
        settle: Duration::from_secs(if arguments.quick { 2 } else { 12 }),
    };
    let Machine { cores, load_before, .. } = settings.machine;
    eprintln!(
        "bench: {cores} cores, load average {load_before}; whatever else runs here disturbs the figures"
    );
    if Peer::Segue.program().is_none() {
        return Err("Segue itself is not there; build it, or name its binary in SEGUE_BIN".into());
    }
    if arguments.growth { grow(arguments, &settings, rounds) } else { compare(arguments, &settings, rounds) }
}

fn grow(arguments: &Arguments, settings: &Settings, rounds: usize) -> Outcome<()> {
    let mut growth = Growth::new(settings, &arguments.scenario, rounds)?;
    growth.measure();
    growth.print();
    let json = arguments.json.clone().unwrap_or_else(|| Path::new(RESULTS).join("growth.json"));
    growth.write(&json)?;
    // A quick run's pictures are nothing to keep.
    let pictures = if arguments.quick { RESULTS } else { PICTURES };
    let pictures = arguments.pictures.as_deref().unwrap_or(Path::new(pictures));
    growth.draw(pictures)?;
    eprintln!("\nbench: the figures are in {}, the pictures in {}", json.display(), pictures.display());
    Ok(())
}

fn compare(arguments: &Arguments, settings: &Settings, rounds: usize) -> Outcome<()> {
    let scenarios = chosen(arguments);
    if scenarios.is_empty() {
        let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        return Err(format!("no such scenario; there are {}", names.join(", ")).into());
    }
    let left_out = left_out(arguments);
    let start = Instant::now();
    let mut results = Results::new();
    for round in 0..rounds {
        for &scenario in scenarios.iter().filter(|scenario| round < scenario.most_rounds()) {
            let say = |who: &dyn fmt::Display| {
                let seconds = start.elapsed().as_secs();
                eprintln!("bench: {seconds:4} s  round {}  {}  {who}", round + 1, scenario.name);
            };
            let contenders = |place| {
                let all = in_turn(scenario.contenders, place);
                all.filter(|contender| !left_out.contains_key(&contender.peer))
            };
            if let Load::Alternating(pace) = scenario.load {
                let (starts, turns) =
                    if arguments.quick { (1, QUICK_TURNS) } else { pace.starts_and_turns() };
                for place in round * starts..(round + 1) * starts {
                    say(&format!("all in turns, start {}", place + 1));
                    let extent = (turns, saturation(&results));
                    alternate(settings, scenario, contenders(place), extent, |contender, figures| {
                        results.add(scenario.name, contender, place, figures);
                    })?;
                }
            } else {
                for contender in contenders(round) {
                    say(&contender);
                    one(settings, scenario, contender, round, &mut results);
                }
            }
        }
    }
    let report = Report {
        machine: &settings.machine,
        rounds,
        seconds: settings.duration.as_secs_f64(),
        quick: arguments.quick,
        scenarios: &scenarios,
        left_out: &left_out,
        results: &results,
    };
    report.print();
    let json = arguments.json.clone().unwrap_or_else(|| Path::new(RESULTS).join("peers.json"));
    report.write(&json)?;
    eprintln!("\nbench: all values are in {}", json.display());
    Ok(())
}

fn chosen(arguments: &Arguments) -> Vec<&'static Scenario> {
    let is_wanted = |scenario: &&'static Scenario| match arguments.scenario.as_slice() {
        [] => scenario.quick || !arguments.quick,
        names => names.iter().any(|name| scenario.name.starts_with(name.as_str())),
    };
    SCENARIOS.iter().filter(is_wanted).collect()
}

/// Those that cannot take part, and why; and those that were not asked for.
fn left_out(arguments: &Arguments) -> BTreeMap<Peer, String> {
    let why = |peer: &Peer| {
        let name = serde_json::to_value(peer).ok()?;
        let is_asked_for =
            arguments.peer.is_empty() || arguments.peer.iter().any(|asked| name == asked.as_str());
        if !is_asked_for {
            Some("not asked for")
        } else if peer.program().is_none() {
            Some("not installed; scripts/prepare-bench says why")
        } else {
            None
        }
    };
    Peer::ALL.iter().filter_map(|peer| Some((*peer, why(peer)?.to_owned()))).collect()
}

/// Each round begins with another one.
fn in_turn<T: Copy>(all: &[T], round: usize) -> impl Iterator<Item = T> {
    all.iter().copied().cycle().skip(round % all.len().max(1)).take(all.len())
}

fn one(
    settings: &Settings,
    scenario: &'static Scenario,
    contender: Contender,
    round: usize,
    results: &mut Results,
) {
    let saturation = saturation(results);
    if scenario.load.is_open() {
        eprintln!("bench:         a saturation of {saturation:.0} requests/s is assumed");
    }
    let figures = measure(settings, &scenario.case(contender), saturation);
    results.add(scenario.name, contender, round, figures);
}

/// What Segue carries, in requests/s.
fn saturation(results: &Results) -> f64 {
    let segue = Contender { peer: Peer::Segue, mirror: Mirror::Off };
    let measured = results.spread(SATURATION, segue, Figure::RequestsPerSecond);
    measured.map_or(UNMEASURED_SATURATION, |rate| rate.median)
}
