//! Callers' latency: slices with and without a tee take turns under one load, so that whatever else
//! this machine does falls on both alike.

use std::time::Duration;

use hdrhistogram::Histogram;
use segue::config::Endpoint;
use segue::load::{Load, LoadSettings, audit};
use segue::origin::Running;

use crate::support::tee::{EVERYTHING, Wrong, count, origin, set_percent, url};
use crate::support::{Segue, until};

const RATE: f64 = 250.0;
const SLICE: Duration = Duration::from_millis(400);
const TURNS: usize = 6;

/// Twice as slow and this much more is still noise on a busy machine. A caller that waits for its shadow
/// waits for the tee's deadline, which is ten seconds here.
const NOISE: u64 = 100_000;
/// Reading a shadow's endless answers takes its share of a machine that is full. Of callers that wait for the shadow nobody
/// is answered in the slice.
const IN_TIME: f64 = 0.3;
/// The machine may be busy with other things for the whole of a run; a tee that holds callers back does
/// so in every run.
const RUNS: usize = 3;

/// p99 with and without the tee in µs, and how much was answered in the slices with it for each one in those without.
struct Run {
    on: u64,
    off: u64,
    in_time: f64,
}

impl Run {
    fn is_good(&self) -> bool {
        self.on <= 2 * self.off + NOISE && self.in_time > IN_TIME
    }
}

fn p99(slices: &[Histogram<u64>]) -> u64 {
    // The median over the slices: one hiccup of the machine is one slice's.
    let mut each: Vec<u64> = slices.iter().map(|slice| slice.value_at_quantile(0.99)).collect();
    each.sort_unstable();
    each[each.len() / 2]
}

fn run(segue: &Segue, source: &Running) -> Run {
    let target: Endpoint = segue.url().parse().unwrap();
    let load = Load::start(LoadSettings::new(target, RATE)).unwrap();
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for turn in 0..=2 * TURNS {
        let on = turn % 2 == 1;
        set_percent(segue, if on { 100.0 } else { 0.0 });
        // What was asked before belongs to the slice before.
        let asked = load.live().sent();
        until("the slice before to end", || (load.live().done() >= asked).then_some(()));
        load.live().take_interval();
        std::thread::sleep(SLICE);
        let slice = load.live().take_interval();
        match (turn, on) {
            // The first one connects, and warms up.
            (0, _) => {}
            (_, true) => with.push(slice),
            (_, false) => without.push(slice),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(load.finish()).unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert!(audit(&report, &source.ledger().unwrap()).is_exact());
    let slowest = report.latency.max();
    assert!(slowest < 5_000_000, "somebody waited for {slowest} µs: {:?}", report.slowest);
    // Had callers waited for longer than a slice, they would be missing from it.
    let answered = |slices: &[Histogram<u64>]| slices.iter().map(Histogram::len).sum::<u64>() as f64;
    Run { on: p99(&with), off: p99(&without), in_time: answered(&with) / answered(&without).max(1.0) }
}

fn callers_wait_no_longer(fault: &str) {
    let (source, shadow) = (origin(&[]), Wrong::shadow(fault));
    let long = EVERYTHING.replace("deadline = \"1s\"", "deadline = \"10s\"");
    let segue = Segue::with(&url(&source), Some(&shadow.url), &long, "");
    let mut runs = (0..RUNS).map(|_| run(&segue, &source)).inspect(|run| {
        let ratio = run.on as f64 / run.off as f64;
        println!(
            "{fault}: p99 with the tee {} µs, without {} µs, ratio {ratio:.2}; answered {:.2}",
            run.on, run.off, run.in_time
        );
    });
    assert!(runs.any(|run| run.is_good()), "in each of {RUNS} runs callers were slower with a tee");
    let service = segue.service();
    assert!(count(&service, "/tee/sampled") > 100, "{:#}", service["tee"]);
}

#[test]
fn of_a_dead_shadow() {
    callers_wait_no_longer("dead");
}

#[test]
fn of_a_shadow_that_hangs_after_accept() {
    callers_wait_no_longer("hang-after-accept");
}

#[test]
fn of_a_shadow_that_hangs_after_its_header() {
    callers_wait_no_longer("hang-after-header");
}

#[test]
fn of_a_slow_shadow() {
    callers_wait_no_longer("slow=10s");
}

#[test]
fn of_a_shadow_whose_answer_never_ends() {
    callers_wait_no_longer("endless-body");
}

#[test]
fn of_a_shadow_that_sends_a_gigabyte() {
    callers_wait_no_longer("huge-body=1GiB");
}

#[test]
fn of_a_shadow_that_resets() {
    callers_wait_no_longer("reset");
}
