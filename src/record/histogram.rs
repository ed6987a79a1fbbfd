//! One latency histogram, created when its first value comes.

use std::ops::AddAssign;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::{Serializer, V2SerializeError, V2Serializer};
use hdrhistogram::{Counter, Histogram};
use serde::Serialize;
use thiserror::Error;

/// What is shorter counts as this.
pub const LOWEST: Duration = Duration::from_micros(1);
/// What is longer counts as this, and is counted apart.
pub const HIGHEST: Duration = Duration::from_mins(1);

const LOWEST_US: u64 = LOWEST.as_micros() as u64;
const HIGHEST_US: u64 = HIGHEST.as_micros() as u64;

#[derive(Debug, Error)]
pub enum ExportError {
    #[error("no latency has been recorded yet; ask again once requests have passed")]
    Empty,
    #[error("cannot encode the histogram: {0}")]
    Encode(#[from] V2SerializeError),
}

/// Percentiles in microseconds; all 0 when nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
    pub mean: f64,
}

/// How values spread, as Prometheus wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    pub count: u64,
    /// Exact, but for what is out of range.
    pub sum: Duration,
    /// For each bound that was asked for, how many values are at or below it. A bucket that a bound falls
    /// into counts as below: off by at most the histogram's last digit, and never less than before.
    pub at_most: Vec<u64>,
}

impl AddAssign<&Self> for Distribution {
    /// Both have to be of the same bounds.
    fn add_assign(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.at_most.resize(self.at_most.len().max(other.at_most.len()), 0);
        for (ours, theirs) in self.at_most.iter_mut().zip(&other.at_most) {
            *ours += theirs;
        }
    }
}

/// Microseconds with `DIGITS` significant digits.
///
/// Counters of 32 bits halve the memory and the cache lines that recording touches (68 KB for three
/// digits, 10 KB for two); they are for one interval. Totals count in 64 bits.
#[derive(Clone, Debug)]
pub(super) struct Latency<C: Counter, const DIGITS: u8> {
    histogram: Option<Box<Histogram<C>>>,
    /// Values above `HIGHEST`.
    pub(super) clamped: u64,
    /// Of all values, in microseconds; the buckets alone know it to three digits only.
    sum: u64,
}

/// One kind of duration on its own, such as how long requests were parked.
#[derive(Clone, Debug, Default)]
pub struct Durations(Latency<u64, 3>);

impl Durations {
    pub fn record(&mut self, took: Duration) {
        self.0.record(took);
    }

    pub fn summary(&self) -> Summary {
        self.0.summary()
    }

    pub fn distribution(&self, bounds: &[Duration]) -> Distribution {
        self.0.distribution(bounds)
    }
}

impl<C: Counter, const DIGITS: u8> Default for Latency<C, DIGITS> {
    fn default() -> Self {
        Self { histogram: None, clamped: 0, sum: 0 }
    }
}

impl<C: Counter, const DIGITS: u8> Latency<C, DIGITS> {
    #[inline]
    pub(super) fn record(&mut self, took: Duration) {
        // Cheaper than `as_micros`, which counts in 128 bits.
        let mut micros = took.as_secs().saturating_mul(1_000_000) + u64::from(took.subsec_micros());
        if took > HIGHEST {
            self.clamped += 1;
            micros = HIGHEST_US;
        }
        let micros = micros.max(LOWEST_US);
        self.sum += micros;
        self.histogram().saturating_record(micros);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.histogram.as_ref().is_none_or(|histogram| histogram.is_empty())
    }

    pub(super) fn summary(&self) -> Summary {
        let Some(histogram) = &self.histogram else { return Summary::default() };
        let at = |quantile| histogram.value_at_quantile(quantile).min(HIGHEST_US);
        Summary {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max().min(HIGHEST_US),
            mean: histogram.mean(),
        }
    }

    /// The value that `quantile` of them, from 0 to 1, do not exceed; 0 when there are none.
    pub(super) fn quantile(&self, quantile: f64) -> Duration {
        let at = |of: &Histogram<C>| of.value_at_quantile(quantile).min(HIGHEST_US);
        Duration::from_micros(self.histogram.as_deref().map_or(0, at))
    }

    /// `bounds` have to ascend.
    pub(super) fn distribution(&self, bounds: &[Duration]) -> Distribution {
        let mut distribution =
            Distribution { count: 0, sum: Duration::from_micros(self.sum), at_most: vec![0; bounds.len()] };
        let Some(histogram) = &self.histogram else { return distribution };
        let mut recorded = histogram.iter_recorded().peekable();
        for (bound, at_most) in bounds.iter().zip(&mut distribution.at_most) {
            let bound = histogram.highest_equivalent(bound.as_micros() as u64);
            while let Some(bucket) = recorded.next_if(|bucket| bucket.value_iterated_to() <= bound) {
                distribution.count += bucket.count_at_value().as_u64();
            }
            *at_most = distribution.count;
        }
        distribution.count += recorded.map(|bucket| bucket.count_at_value().as_u64()).sum::<u64>();
        distribution
    }

    /// `HdrHistogram` V2, base64.
    pub(super) fn export(&self) -> Result<String, ExportError> {
        let histogram = self.histogram.as_ref().ok_or(ExportError::Empty)?;
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(histogram, &mut bytes)?;
        Ok(STANDARD.encode(bytes))
    }

    fn histogram(&mut self) -> &mut Histogram<C> {
        self.histogram.get_or_insert_with(|| Box::new(new_histogram::<C, DIGITS>()))
    }

    /// Bytes on the heap.
    pub(super) fn heap(&self) -> usize {
        self.histogram
            .as_ref()
            .map_or(0, |histogram| size_of::<Histogram<C>>() + histogram.distinct_values() * size_of::<C>())
    }
}

impl<const DIGITS: u8> Latency<u64, DIGITS> {
    /// Adds every count of the other. Nothing is lost: both have the same buckets, and no counter of a
    /// total is narrower than what it takes in.
    pub(super) fn merge<C: Counter>(&mut self, other: &Latency<C, DIGITS>) {
        self.clamped += other.clamped;
        self.sum += other.sum;
        let Some(theirs) = &other.histogram else { return };
        let ours = self.histogram();
        for bucket in theirs.iter_recorded() {
            ours.saturating_record_n(bucket.value_iterated_to(), bucket.count_at_value().as_u64());
        }
    }
}

#[cold]
#[expect(clippy::expect_used, reason = "the bounds are constants; a test creates each kind")]
fn new_histogram<C: Counter, const DIGITS: u8>() -> Histogram<C> {
    Histogram::new_with_bounds(LOWEST_US, HIGHEST_US, DIGITS).expect("constant bounds are valid")
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use proptest::prelude::*;

    use super::*;

    type Fine = Latency<u32, 3>;

    fn of(micros: &[u64]) -> Fine {
        let mut latency = Fine::default();
        for us in micros {
            latency.record(Duration::from_micros(*us));
        }
        latency
    }

    fn buckets<C: Counter, const D: u8>(latency: &Latency<C, D>) -> Vec<(u64, u64)> {
        latency
            .histogram
            .iter()
            .flat_map(|h| h.iter_recorded())
            .map(|b| (b.value_iterated_to(), b.count_at_value().as_u64()))
            .collect()
    }

    proptest! {
        #[test]
        fn merging_parts_is_recording_the_whole(
            values in prop::collection::vec(0_u64..100_000_000, 1..300), parts in 1_usize..5,
        ) {
            let mut merged = Latency::<u64, 3>::default();
            for part in values.chunks(values.len().div_ceil(parts)) {
                merged.merge(&of(part));
            }
            let whole = of(&values);
            prop_assert_eq!(buckets(&merged), buckets(&whole));
            prop_assert_eq!(merged.summary(), whole.summary());
            prop_assert_eq!(merged.clamped, whole.clamped);
        }

        #[test]
        fn percentiles_are_right_to_three_digits(mut values in prop::collection::vec(1_u64..60_000_000, 1..500)) {
            let summary = of(&values).summary();
            values.sort_unstable();
            let exact = |q: f64| values[((values.len() as f64 * q).ceil() as usize - 1).min(values.len() - 1)];
            for (shown, exact) in [(summary.p50, exact(0.5)), (summary.p99, exact(0.99)), (summary.max, exact(1.0))] {
                prop_assert!(shown >= exact && shown as f64 <= exact as f64 * 1.001, "{} for {}", shown, exact);
            }
        }
    }

    #[test]
    fn a_distribution_is_cumulative_and_its_sum_exact() {
        let bounds = [1_000, 10_000, 1_000_000].map(Duration::from_micros);
        let latency = of(&[1, 1_000, 1_001, 10_000, 10_300, 123_457, 1_000_001_000]);
        let distribution = latency.distribution(&bounds);
        assert_eq!((distribution.count, &*distribution.at_most), (7, [2, 4, 6].as_slice()));
        assert_eq!(distribution.sum, Duration::from_micros(145_759 + 60_000_000));

        let mut merged = Latency::<u64, 3>::default();
        merged.merge(&latency);
        assert_eq!(merged.distribution(&bounds), distribution);
        let mut twice = Distribution::default();
        twice += &distribution;
        twice += &distribution;
        assert_eq!((twice.count, &*twice.at_most), (14, [4, 8, 12].as_slice()));
        assert_eq!(Fine::default().distribution(&bounds).at_most, [0; 3]);
    }

    #[test]
    fn what_is_out_of_range_is_clamped_and_counted() {
        let latency = of(&[0, 60_000_000, 60_000_001, u64::MAX]);
        let summary = latency.summary();
        assert_eq!((summary.count, summary.max, latency.clamped), (4, 60_000_000, 2));
        assert_eq!(of(&[0]).summary().p50, 1);
    }

    #[test]
    fn an_export_reads_back_the_same() {
        let latency = of(&[1, 150, 150, 9_999, 59_999_999]);
        let bytes = STANDARD.decode(latency.export().unwrap()).unwrap();
        let read: Histogram<u32> = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
        assert_eq!(read, **latency.histogram.as_ref().unwrap());
        assert_eq!((read.low(), read.high(), read.sigfig()), (1, 60_000_000, 3));
        assert!(matches!(Fine::default().export(), Err(ExportError::Empty)));
    }

    #[test]
    fn every_kind_can_be_created_within_its_memory() {
        fn heap<C: Counter, const D: u8>() -> usize {
            let mut latency = Latency::<C, D>::default();
            assert_eq!(latency.heap(), 0);
            latency.record(LOWEST);
            latency.heap()
        }
        for (heap, bound) in [
            (heap::<u32, 3>(), 72_000),
            (heap::<u64, 3>(), 144_000),
            (heap::<u32, 2>(), 11_000),
            (heap::<u64, 2>(), 22_000),
        ] {
            assert!(heap <= bound, "{heap} > {bound}");
        }
    }
}
