//! Percentiles as reported against those of a client that knows nothing of Segue's clocks.
//!
//! The client times from the moment a request was due to its last byte, so its figures hold the
//! proxy's own time and the client's: a millisecond of an unoptimised build, and on a busy machine each
//! one's wait for a core. The instances therefore take long, in a way that is known.

use std::time::Duration;

use segue::config::Endpoint;
use segue::load::{Load, LoadSettings};
use segue::origin::{Origin, OriginSettings, Running};

use crate::support::Segue;
use crate::support::tee::{EVERYTHING, count, settled, url};

fn slow(delay: &str, seed: u64) -> Running {
    let delay = delay.parse().unwrap();
    Origin::start(OriginSettings { delay, seed, ..OriginSettings::on_loopback() }).unwrap()
}

/// The machine may be busy with other things, which only the client's figures show. Wrong figures are
/// wrong in every run.
const RUNS: usize = 3;
/// In µs: what three processes may wait for a core on the way.
const SCHEDULING: f64 = 20_000.0;

#[test]
fn of_both_sides_are_what_was_measured() {
    let good = (0..RUNS).any(|number| is_true_in_one_run(number as u64));
    assert!(good, "in each of {RUNS} runs the percentiles were off; the output says which");
}

fn is_true_in_one_run(seed: u64) -> bool {
    let (source, shadow) = (slow("lognormal:300ms,0.5", seed), slow("lognormal:500ms,0.25", seed + 9));
    let everything = EVERYTHING.replace("\"1s\"", "\"10s\"");
    let segue = Segue::with(&url(&source), Some(&url(&shadow)), &everything, "");
    let target: Endpoint = segue.url().parse().unwrap();
    let settings = LoadSettings {
        duration: Some(Duration::from_secs(8)),
        write_share: 0.0,
        seed,
        ..LoadSettings::new(target, 100.0)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(Load::run(settings)).unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    settled(&segue, report.sent);
    let (_, view) = segue.call("GET", "/v1/services/web/latency", "");
    assert_eq!(count(&view, "/source/count"), report.sent);

    let mut good = true;
    let mut holds = |what: String, holds: bool| {
        println!("{what}{}", if holds { "" } else { ": too far off" });
        good &= holds;
    };
    for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
        let shown = count(&view, &format!("/source/{name}")) as f64;
        let measured = report.latency.value_at_quantile(quantile) as f64;
        // The client cannot have been faster than the instance; 1 % is the histograms' own.
        assert!(measured >= shown * 0.99, "{name}: reported {shown}, measured {measured}");
        let what =
            format!("{name}: {shown} µs reported, {measured} µs measured, ratio {:.3}", measured / shown);
        holds(what, measured <= shown * 1.05 + SCHEDULING);
    }
    // What the instances were set to. Of about 800 requests the median is off by 2 % of itself at
    // σ = 0.5 (one deviation); a timer adds a millisecond.
    for (side, set, sigma) in [("source", 300_000.0, 0.5), ("shadow", 500_000.0, 0.25)] {
        let p50 = count(&view, &format!("/{side}/p50")) as f64;
        let p90 = count(&view, &format!("/{side}/p90")) as f64;
        let due = set * f64::exp(1.2816 * sigma);
        // The instance cannot have been faster than that, give or take the sample.
        assert!(p50 > set * 0.9 && p90 > due * 0.85, "the {side} reports {p50} µs and {p90} µs");
        let what = format!("{side}: p50 {p50} µs of {set}, p90 {p90} µs of {due:.0}");
        holds(what, p50 < set * 1.1 + SCHEDULING && p90 < due * 1.15 + SCHEDULING);
    }
    good
}
