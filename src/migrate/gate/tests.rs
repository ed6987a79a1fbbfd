use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::ByteSize;
use crate::instance::{Allocation, InstanceId, Millicores};

fn subject(name: &str, resizes: u32) -> Subject {
    Subject { instance: InstanceId::new(name).unwrap(), resizes }
}

fn allocation(cpu: u32, mib: u64) -> Allocation {
    Allocation { cpu: Millicores(cpu), memory: ByteSize::mib(mib), storage: ByteSize::mib(100) }
}

/// Known exactly.
fn quantiles(count: u64, of: [u64; 3]) -> Quantiles {
    let [p50, p90, p99] = of.map(Duration::from_micros).map(|seen| Quantile { low: seen, seen, high: seen });
    Quantiles { count, p50, p90, p99 }
}

fn intervals(of: &[(u64, u64)]) -> Vec<Interval> {
    of.iter().map(|(count, us)| Interval { count: *count, p50: Duration::from_micros(*us) }).collect()
}

/// A shadow that is as good as its source, after a minute at ten pairs a second.
fn good() -> Evidence {
    Evidence {
        shadow: subject("web-2", 1),
        observed: Observed {
            of: subject("web-2", 1),
            health: Some(Health { runs: 12, failed: 0, good_in_a_row: 12, last_failure: None }),
            pairs: Pairs { asked: 600, compared: 600, ..Pairs::default() },
            source: quantiles(600, [5_000, 9_000, 20_000]),
            shadow: quantiles(600, [5_200, 9_100, 21_000]),
            intervals: intervals(&[(50, 5_200); 6]),
        },
        sizing: Sizing {
            wanted: Some(allocation(1000, 512)),
            granted: Some(allocation(1000, 512)),
            refused: None,
        },
        replication: None,
        pause: Pause { predicted: Some(Duration::from_millis(70)), budget: Duration::from_secs(5) },
    }
}

fn judged(gate: Gate, change: impl FnOnce(&mut Evidence)) -> GateVerdict {
    let mut evidence = good();
    change(&mut evidence);
    let verdicts = judge(&evidence, &Thresholds::default());
    verdicts.into_iter().find(|judged| judged.gate == gate).unwrap()
}

fn verdict(gate: Gate, change: impl FnOnce(&mut Evidence)) -> Verdict {
    judged(gate, change).verdict
}

const fn needs(n: u64, what: What) -> Verdict {
    Verdict::NeedsMore { n, what }
}

#[test]
fn a_shadow_as_good_as_its_source_passes_every_gate_that_is_configured() {
    let verdicts = judge(&good(), &Thresholds::default());
    assert_eq!(verdicts.iter().map(|judged| judged.gate).collect::<Vec<_>>(), Gate::ALL);
    assert!(all_open(&verdicts), "{verdicts:#?}");
    let provisional: Vec<_> = verdicts.iter().filter(|judged| judged.provisional).collect();
    assert_eq!(provisional.len(), 4);
    assert!(provisional.iter().all(|judged| judged.reason.ends_with("(provisional)")));
    assert!(!all_open(&[]), "no verdict is no pass");
}

#[test]
fn seven_of_ten_answers_a_hundred_times_slower_fail_as_do_three_of_ten() {
    let hundred = 100_000;
    for (count, shadow) in [
        (600, [hundred, hundred, hundred]),
        (600, [1_000, hundred, hundred]),
        (2_000, [1_000, 1_000, hundred]),
    ] {
        let found = verdict(Gate::Latency, |evidence| {
            evidence.observed.source = quantiles(count, [1_000, 1_000, 1_000]);
            evidence.observed.shadow = quantiles(count, shadow);
        });
        assert_eq!(found, Verdict::Fail, "{shadow:?}");
    }
}

#[test]
fn sparse_errors_fail() {
    let erring = |asked, errors| {
        verdict(Gate::Errors, |evidence| {
            evidence.observed.pairs =
                Pairs { asked, compared: asked, shadow_errors: errors, ..Pairs::default() };
        })
    };
    assert_eq!(erring(300, 3), Verdict::Fail, "1 % where the source has none");
    assert_eq!(erring(100_000, 501), Verdict::Fail);
    assert_eq!(erring(300, 1), Verdict::Pass, "0.33 %");
}

#[test]
fn an_empty_group_never_passes() {
    let nothing = |evidence: &mut Evidence| {
        evidence.observed.pairs = Pairs::default();
        evidence.observed.intervals.clear();
        evidence.observed.shadow = Quantiles::default();
    };
    assert_eq!(verdict(Gate::Comparison, nothing), needs(300, What::ComparedPairs));
    assert_eq!(verdict(Gate::Errors, nothing), needs(300, What::Pairs));
    assert_eq!(verdict(Gate::Latency, nothing), needs(300, What::Pairs));
    assert_eq!(verdict(Gate::Warm, nothing), needs(4, What::Intervals));
    let no_source = |evidence: &mut Evidence| evidence.observed.source = Quantiles::default();
    assert_eq!(verdict(Gate::Latency, no_source), needs(300, What::Pairs));
    let no_runs = |evidence: &mut Evidence| evidence.observed.health = Some(Health::default());
    assert_eq!(verdict(Gate::Health, no_runs), needs(3, What::GoodRuns));
    assert_eq!(verdict(Gate::Pause, |evidence| evidence.pause.predicted = None), needs(1, What::Answers));
}

#[test]
fn thresholds_of_zero_still_need_something_to_judge() {
    let mut evidence = good();
    evidence.observed.pairs = Pairs::default();
    evidence.observed.source = Quantiles::default();
    let lax = Thresholds { min_pairs: 0, min_good_runs: 0, warm_intervals: 0, ..Thresholds::default() };
    let verdicts = judge(&evidence, &lax);
    for gate in [Gate::Comparison, Gate::Errors, Gate::Latency] {
        let judged = verdicts.iter().find(|judged| judged.gate == gate).unwrap();
        assert!(matches!(judged.verdict, Verdict::NeedsMore { n: 1, .. }), "{judged:?}");
    }
}

#[test]
fn the_least_number_of_pairs_is_the_operators() {
    let settings = crate::config::Migration { min_pairs: 601, ..crate::config::Migration::default() };
    assert_eq!(Thresholds::from(&crate::config::Migration::default()), Thresholds::default());
    let verdicts = judge(&good(), &Thresholds::from(&settings));
    let waiting = verdicts.iter().filter(|judged| matches!(judged.verdict, Verdict::NeedsMore { n: 1, .. }));
    let waiting: Vec<_> = waiting.map(|judged| judged.gate).collect();
    assert_eq!(waiting, [Gate::Comparison, Gate::Errors, Gate::Latency]);
}

#[test]
fn too_little_traffic_says_how_much_more() {
    let pairs = Pairs { asked: 180, compared: 120, aborted: 5, ..Pairs::default() };
    let found = judged(Gate::Comparison, |evidence| evidence.observed.pairs = pairs);
    assert_eq!(found.verdict, needs(180, What::ComparedPairs));
    assert_eq!(found.verdict.to_string(), "needs 180 more compared pairs");
    assert!(found.reason.contains("180 pairs were asked"), "why so few: {}", found.reason);
    assert_eq!(verdict(Gate::Errors, |evidence| evidence.observed.pairs = pairs), needs(125, What::Pairs));
}

#[test]
fn a_hopeless_shadow_fails_before_the_minimum_sample_and_an_unlucky_one_does_not() {
    let of = |shadow_errors, source_errors| {
        verdict(Gate::Errors, |evidence| {
            evidence.observed.pairs = Pairs { asked: 40, shadow_errors, source_errors, ..Pairs::default() };
        })
    };
    assert_eq!(of(20, 0), Verdict::Fail);
    assert_eq!(of(19, 0), needs(260, What::Pairs));
    assert_eq!(of(20, 20), needs(260, What::Pairs), "the source errs as often");
    let mismatching = |compared, mismatched| {
        verdict(Gate::Comparison, |evidence| {
            evidence.observed.pairs = Pairs { asked: compared, compared, mismatched, ..Pairs::default() };
        })
    };
    assert_eq!(mismatching(20, 20), Verdict::Fail);
    assert_eq!(mismatching(20, 2), needs(280, What::ComparedPairs));
    assert_eq!(mismatching(300, 2), Verdict::Fail);
    assert_eq!(mismatching(300, 1), Verdict::Pass);
}

#[test]
fn a_source_that_errs_more_than_the_shadow_does_not_stand_in_its_way() {
    let found = verdict(Gate::Errors, |evidence| {
        evidence.observed.pairs =
            Pairs { asked: 400, source_errors: 40, shadow_errors: 3, ..Pairs::default() };
    });
    assert_eq!(found, Verdict::Pass);
}

#[test]
fn microseconds_do_not_decide() {
    let of = |source, shadow| {
        verdict(Gate::Latency, |evidence| {
            evidence.observed.source = quantiles(600, source);
            evidence.observed.shadow = quantiles(600, shadow);
        })
    };
    assert_eq!(
        of([100, 150, 300], [280, 900, 2_200]),
        Verdict::Pass,
        "many times slower, and nobody notices"
    );
    assert_eq!(of([1_000, 1_500, 3_000], [3_000, 4_500, 9_000]), Verdict::Fail, "three times slower");
    assert_eq!(of([100_000, 150_000, 300_000], [110_000, 160_000, 320_000]), Verdict::Pass, "10 ms of 100");
}

/// Answers that take 1 to 100 ms, evenly, times `slower`.
fn even(count: u64, slower: f64) -> Quantiles {
    Quantiles::of(count, |at| Duration::from_secs_f64((1.0 + 99.0 * at) * slower / 1000.0))
}

#[test]
fn what_chance_explains_does_not_fail() {
    let of = |count, slower| {
        judged(Gate::Latency, |evidence| {
            evidence.observed.source = even(count, 1.0);
            evidence.observed.shadow = even(count, slower);
        })
    };
    assert_eq!(of(300, 1.2).verdict, Verdict::Pass);
    let undecided = of(300, 1.3);
    assert_eq!(undecided.verdict, needs(300, What::Pairs), "{}", undecided.reason);
    assert!(undecided.reason.contains("needs 300 more"), "{}", undecided.reason);
    assert_eq!(of(100_000, 1.3).verdict, Verdict::Fail, "the same, and no chance any more");
    assert_eq!(of(300, 2.0).verdict, Verdict::Fail);
}

#[test]
fn one_stall_of_the_shadow_fails_nothing_while_it_is_more_than_a_hundredth() {
    // 16 callers' answers were held up together, and the rest are faster than the source's.
    let of = |count: u64| {
        judged(Gate::Latency, |evidence| {
            evidence.observed.source = even(count, 1.0);
            let stalled =
                |at: f64| Duration::from_millis(if at > 1.0 - 16.0 / count as f64 { 500 } else { 5 });
            evidence.observed.shadow = Quantiles::of(count, stalled);
        })
    };
    assert_eq!(of(300).verdict, needs(300, What::Pairs), "{}", of(300).reason);
    assert_eq!(of(1_599).verdict, needs(1_599, What::Pairs));
    assert_eq!(of(1_700).verdict, Verdict::Pass, "it is known for what it was");
    // A shadow whose every twenty-fifth answer is late is another matter.
    let late = |at: f64| Duration::from_millis(if at > 0.96 { 500 } else { 5 });
    let found = judged(Gate::Latency, |evidence| {
        evidence.observed.source = even(20_000, 1.0);
        evidence.observed.shadow = Quantiles::of(20_000, late);
    });
    assert_eq!(found.verdict, Verdict::Fail, "{}", found.reason);
}

#[test]
fn more_answers_narrow_a_quantile() {
    let width = |count| {
        let Quantile { low, seen, high } = even(count, 1.0).p50;
        assert!(low < seen && seen < high);
        high.saturating_sub(low)
    };
    let narrower = width(400).as_secs_f64() / width(1_600).as_secs_f64();
    assert!((1.9..2.1).contains(&narrower), "{narrower}");
    // 0.5 ± 3 × √(0.25 / 400) = 0.425 … 0.575 of an even spread over 99 ms.
    assert_eq!(width(400).as_micros(), 14_850);
}

#[test]
fn what_was_measured_of_another_instance_or_size_is_no_evidence() {
    for of in [subject("web-1", 1), subject("web-2", 0)] {
        for (gate, more) in [
            (Gate::Health, needs(3, What::GoodRuns)),
            (Gate::Comparison, needs(300, What::ComparedPairs)),
            (Gate::Errors, needs(300, What::Pairs)),
            (Gate::Latency, needs(300, What::Pairs)),
            (Gate::Warm, needs(4, What::Intervals)),
        ] {
            let found = judged(gate, |evidence| evidence.observed.of = of.clone());
            assert_eq!(found.verdict, more, "{gate}");
            assert!(found.reason.contains(of.instance.as_str()), "{}", found.reason);
        }
    }
}

#[test]
fn health_is_the_last_run_and_a_few_before_it() {
    let of = |runs, failed, good_in_a_row| {
        judged(Gate::Health, |evidence| {
            let last_failure = (failed > 0).then(|| "stock: answered 503".to_owned());
            evidence.observed.health = Some(Health { runs, failed, good_in_a_row, last_failure });
        })
    };
    let broken = of(12, 1, 0);
    assert_eq!(broken.verdict, Verdict::Fail);
    assert!(broken.reason.ends_with("last failure: stock: answered 503"), "{}", broken.reason);
    assert_eq!(of(12, 1, 2).verdict, needs(1, What::GoodRuns));
    assert_eq!(of(12, 9, 3).verdict, Verdict::Pass);
    let none = judged(Gate::Health, |evidence| evidence.observed.health = None);
    assert_eq!(none.verdict, Verdict::NotConfigured);
}

#[test]
fn a_shadow_is_warm_when_its_latency_no_longer_falls() {
    let of =
        |list: &[(u64, u64)]| verdict(Gate::Warm, |evidence| evidence.observed.intervals = intervals(list));
    assert_eq!(of(&[(50, 40_000), (50, 20_000), (50, 12_000), (50, 8_000)]), needs(1, What::Intervals));
    assert_eq!(of(&[(50, 40_000), (50, 5_200), (50, 5_000), (50, 5_100), (50, 5_050)]), Verdict::Pass);
    assert_eq!(
        of(&[(50, 5_000), (50, 5_000), (50, 9_000), (50, 9_000)]),
        Verdict::Pass,
        "slower is not cold"
    );
    assert_eq!(of(&[(50, 5_000), (19, 5_000), (50, 5_000), (0, 0)]), needs(2, What::Intervals));
    assert_eq!(of(&[(50, 300), (50, 300), (50, 150), (50, 150)]), Verdict::Pass, "microseconds");
}

#[test]
fn sizing_waits_for_the_allocation_and_fails_when_it_cannot_be_had() {
    let of = |granted, refused: Option<&str>| {
        verdict(Gate::Sizing, |evidence| {
            evidence.sizing.granted = granted;
            evidence.sizing.refused = refused.map(str::to_owned);
        })
    };
    let needs_one = needs(1, What::Resizes);
    assert_eq!(of(Some(allocation(500, 512)), None), needs_one);
    assert_eq!(of(Some(allocation(2000, 512)), None), needs_one, "more CPU flatters it");
    assert_eq!(of(Some(allocation(1000, 256)), None), needs_one);
    assert_eq!(of(Some(allocation(1000, 900)), None), Verdict::Pass, "memory in use stays");
    assert_eq!(of(None, None), needs_one);
    assert_eq!(of(Some(allocation(500, 512)), Some("the host is full")), Verdict::Fail);
    assert_eq!(verdict(Gate::Sizing, |evidence| evidence.sizing.wanted = None), needs_one);
}

#[test]
fn replication_and_pause_hold_their_bounds() {
    let replicated = |lag, verified| {
        let lag = Duration::from_millis(lag);
        verdict(Gate::Replication, |evidence| evidence.replication = Some(Replication { lag, verified }))
    };
    assert_eq!(replicated(20, true), Verdict::Pass);
    assert_eq!(replicated(20, false), needs(1, What::Verifications));
    assert_eq!(replicated(1_001, true), Verdict::Fail);
    let pause = |predicted| {
        let predicted = Some(Duration::from_millis(predicted));
        verdict(Gate::Pause, |evidence| evidence.pause.predicted = predicted)
    };
    assert_eq!((pause(5_000), pause(5_001)), (Verdict::Pass, Verdict::Fail));
}

#[test]
fn a_verdict_is_read_back_from_its_json() {
    let found = judged(Gate::Comparison, |evidence| evidence.observed.pairs.compared = 7);
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["gate"], "comparison");
    assert_eq!(
        (&json["verdict"], &json["n"], &json["what"]),
        (&"needs_more".into(), &293.into(), &"compared_pairs".into())
    );
    assert_eq!(json["numbers"]["compared"], 7);
    assert_eq!(serde_json::from_value::<GateVerdict>(json).unwrap(), found);
}

proptest! {
    /// Whatever the numbers: a pass has its minimum sample, and every reason has a number in it.
    #[test]
    fn no_pass_without_a_sample_and_no_reason_without_a_number(
        counts in prop::array::uniform6(0..2_000u64),
        answers in prop::array::uniform2(0..2_000u64),
        times in prop::array::uniform3(0..u64::MAX),
        list in prop::collection::vec((0..100u64, 0..u64::MAX), 0..8),
        pinned in any::<bool>(),
    ) {
        let [asked, compared, mismatched, shadow_errors, source_errors, aborted] = counts;
        let mut evidence = good();
        evidence.observed.of.resizes = u32::from(pinned);
        evidence.observed.pairs = Pairs { asked, compared, mismatched, shadow_errors, source_errors, aborted };
        evidence.observed.source.count = answers[0];
        evidence.observed.shadow = quantiles(answers[1], times);
        evidence.observed.intervals = intervals(&list);
        for judged in judge(&evidence, &Thresholds::default()) {
            prop_assert!(judged.reason.contains(|c: char| c.is_ascii_digit()), "{}", judged.reason);
            if judged.verdict == Verdict::Pass {
                match judged.gate {
                    Gate::Comparison => prop_assert!(pinned && compared >= 300),
                    Gate::Errors => prop_assert!(pinned && asked.saturating_sub(aborted) >= 300),
                    Gate::Latency => prop_assert!(pinned && answers.iter().all(|count| *count >= 300)),
                    Gate::Warm => prop_assert!(pinned && list.len() >= 4),
                    _ => {}
                }
            }
        }
    }
}
