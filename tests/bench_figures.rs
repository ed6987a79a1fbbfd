//! How `make bench` sums up what it measured: a verdict is no better than this.

#[path = "../benches/peers/figures.rs"]
#[allow(dead_code, reason = "the bench uses the rest of it")]
mod figures;

use figures::Spread;

fn spread(values: impl IntoIterator<Item = f64>) -> Option<[f64; 5]> {
    Spread::of(values).map(|of| [of.min, of.low, of.median, of.high, of.max])
}

fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    spread(values).map(|[_, _, median, ..]| median)
}

/// As text, as that is how they are read.
fn shown(value: impl std::fmt::Debug) -> String {
    format!("{value:?}")
}

#[test]
fn a_median_has_as_many_below_as_above() {
    assert_eq!(shown(median([9.0])), "Some(9.0)");
    assert_eq!(shown(median([5.0, 1.0, 3.0])), "Some(3.0)");
    assert_eq!(shown(median([7.0, 1.0, 3.0, 5.0])), "Some(4.0)");
    assert_eq!(median([]), None);
    // A ratio to nothing measured is no value.
    assert_eq!(median([f64::NAN, f64::INFINITY]), None);
    assert_eq!(shown(median([f64::NAN, 2.0])), "Some(2.0)");
}

/// Ranks, from the binomial distribution: no more than 2.5 % beyond each end.
#[test]
fn the_interval_of_a_median_is_known() {
    let table = [
        (1, "Some([1.0, 1.0, 1.0, 1.0, 1.0])"),
        (5, "Some([1.0, 1.0, 3.0, 5.0, 5.0])"),
        (8, "Some([1.0, 1.0, 4.5, 8.0, 8.0])"),
        (9, "Some([1.0, 2.0, 5.0, 8.0, 9.0])"),
        (12, "Some([1.0, 3.0, 6.5, 10.0, 12.0])"),
        (20, "Some([1.0, 6.0, 10.5, 15.0, 20.0])"),
        (30, "Some([1.0, 10.0, 15.5, 21.0, 30.0])"),
    ];
    for (count, expected) in table {
        assert_eq!(shown(spread((1..=count).rev().map(f64::from))), expected);
    }
}

/// By counting: of many samples the interval of nearly all has the true median in it.
#[test]
fn it_has_the_true_median_in_it_19_times_of_20() {
    let mut random = fastrand::Rng::with_seed(7);
    for count in [9, 15, 30] {
        // Skewed, as latencies are; half of it is below 0.25.
        let mut holds = || {
            let sample: Vec<f64> = (0..count).map(|_| random.f64().powi(2)).collect();
            spread(sample).is_some_and(|[_, low, _, high, _]| (low..=high).contains(&0.25))
        };
        let held = (0..2_000).filter(|_| holds()).count();
        assert!((1_880..2_000).contains(&held), "{held} of 2,000 samples of {count}");
    }
}
