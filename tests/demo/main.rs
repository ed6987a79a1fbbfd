//! `segue demo`: the whole main job, with its report as others rely on it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a panic is how a test fails

use std::process::{Command, Output};

use serde_json::Value;

fn demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_segue")).arg("demo").args(arguments).output().unwrap()
}

#[test]
fn exclusive_it_fails_nothing_tees_exactly_and_ends_on_the_shadow() {
    let run = demo(&["--json", "--seconds", "4", "--rate", "400", "--percent", "5"]);
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    let report: Value = serde_json::from_str(&said)
        .unwrap_or_else(|error| panic!("{error} in {said:?}, {}", String::from_utf8_lossy(&run.stderr)));
    assert!(run.status.success(), "{report:#}");
    assert!(run.stderr.is_empty(), "with --json there is nothing else to read");

    let number = |pointer: &str| {
        let found = report.pointer(pointer).and_then(Value::as_f64);
        found.unwrap_or_else(|| panic!("no number at {pointer} in {report:#}"))
    };
    assert!(number("/requests/sent") > 800.0, "{report:#}");
    assert!(number("/requests/writes") > 100.0, "{report:#}");
    for none in
        ["/requests/failed", "/requests/lost", "/requests/doubled", "/tee/writes_teed", "/pairs/mismatched"]
    {
        assert_eq!(report.pointer(none), Some(&Value::from(0)), "{none}: {report:#}");
    }
    let configured = number("/tee/eligible") * number("/tee/configured_percent") / 100.0;
    assert!((number("/tee/teed") - configured).abs() <= 1.0, "within one request of the rate: {report:#}");
    assert_eq!(report["tee"]["skipped"]["write"], report["requests"]["writes"], "{report:#}");
    assert_eq!(
        (&report["dry_run"]["compatible"], &report["dry_run"]["started"]),
        (&true.into(), &true.into())
    );
    assert_eq!(report["pairs"]["compared"], report["tee"]["teed"], "{report:#}");
    for side in ["source", "shadow"] {
        let at = |quantile: &str| number(&format!("/latency_us/{side}/{quantile}"));
        assert!(at("count") > 0.0 && at("p50") <= at("p90") && at("p999") <= at("max"), "{report:#}");
    }
    assert!(number("/switchover/pause_ms") > 0.0 && number("/switchover/held_ms/max") >= 0.0, "{report:#}");
    assert_eq!(report["switchover"]["outcome"], "completed");
    assert_eq!(report["active"], "shadow");
    assert_eq!(report["migration"]["phase"], "done", "{report:#}");
    assert!(report["gates"].as_array().unwrap().iter().all(|gate| gate["verdict"] != "fail"), "{report:#}");
}

#[test]
fn what_cannot_be_shown_is_refused() {
    for arguments in [&["--percent", "101"][..], &["--seconds", "0"], &["--rate", "many"]] {
        let run = demo(arguments);
        assert_eq!(run.status.code(), Some(2), "{arguments:?}");
        assert!(!run.stderr.is_empty(), "{arguments:?}");
    }
}
