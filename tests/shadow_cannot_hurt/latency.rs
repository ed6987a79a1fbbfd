//! Callers' latency: slices with and without a tee take turns under one load, so that whatever else
//! this machine does falls on both alike.

use std::time::Duration;

use hdrhistogram::Histogram;
use segue::config::Endpoint;
use segue::load::{Load, LoadSettings, audit};

use crate::support::Segue;
use crate::support::tee::{EVERYTHING, Wrong, origin, set_percent, settled, skipped, teed, url};

const RATE: f64 = 250.0;
const SLICE: Duration = Duration::from_millis(600);
const TURNS: usize = 4;

/// Twice as slow and this much more is still noise on a busy machine; a caller that waits for its
/// shadow waits for the connect timeout or the deadline, which is a second.
const NOISE: u64 = 50_000;

fn p99(slices: &[Histogram<u64>]) -> u64 {
    // The median over the slices: one hiccup of the machine is one slice's.
    let mut each: Vec<u64> = slices.iter().map(|slice| slice.value_at_quantile(0.99)).collect();
    each.sort_unstable();
    each[each.len() / 2]
}

fn callers_wait_no_longer(fault: &str) {
    let (source, shadow) = (origin(&[]), Wrong::shadow(fault));
    let segue = Segue::with(&url(&source), Some(&shadow.url), EVERYTHING, "");
    let target: Endpoint = segue.url().parse().unwrap();
    let load = Load::start(LoadSettings::new(target, RATE)).unwrap();
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for turn in 0..=2 * TURNS {
        let on = turn % 2 == 1;
        set_percent(&segue, if on { 100.0 } else { 0.0 });
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

    let (on, off) = (p99(&with), p99(&without));
    println!("{fault}: p99 with the tee {on} µs, without {off} µs, ratio {:.2}", on as f64 / off as f64);
    assert!(on <= 2 * off + NOISE, "p99 is {on} µs with a tee and {off} µs without");
    // Had callers waited, they would be missing from the slice and found later.
    let answered = |slices: &[Histogram<u64>]| slices.iter().map(Histogram::len).sum::<u64>() as f64;
    let due = RATE * SLICE.as_secs_f64() * TURNS as f64;
    assert!(answered(&with) > 0.7 * due, "{} of {due} were answered in time", answered(&with));
    let all = report.latency.value_at_quantile(0.99);
    assert!(all < 500_000, "p99 of the whole run is {all} µs");

    let service = settled(&segue, report.sent);
    assert!(teed(&service) + skipped(&service, "connect_failed") > 0, "{:#}", service["tee"]);
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
