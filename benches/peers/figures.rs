//! What one measurement yields, and how several of them are summed up.

use std::collections::BTreeMap;

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Of all the proxy's processes and threads, from the kernel's scheduler; microseconds.
    CpuPerRequest,
    /// CPU-seconds of the proxy in a second. Near its number of workers, the proxy is what limits.
    Busy,
    /// Share of the load's cores that is in use. Near 1, latency is the load generator's, not the proxy's.
    LoadBusy,
    RequestsPerSecond,
    P50Ms,
    P99Ms,
    P999Ms,
    /// The same with the requests that met a stall of the machine, which the other percentiles leave out.
    P999OfAllMs,
    /// Requests that met a stall of the machine, per hundred; in a closed loop, time that is left out because of one.
    StalledPercent,
    /// Highest resident memory of all the proxy's processes together; what they share counts for each.
    PeakMib,
    /// Anonymous memory that a connection adds which has nothing in flight; kibibytes.
    KibPerConnection,
    /// Copies that reached the shadow, per hundred requests.
    MirroredPercent,
    /// Requests without a good answer, as the load generator counts them.
    Errors,
}

impl Figure {
    pub const fn heading(self) -> &'static str {
        match self {
            Self::CpuPerRequest => "CPU µs/request",
            Self::Busy => "proxy CPUs",
            Self::LoadBusy => "load busy",
            Self::RequestsPerSecond => "requests/s",
            Self::P50Ms => "p50 ms",
            Self::P99Ms => "p99 ms",
            Self::P999Ms => "p99.9 ms",
            Self::P999OfAllMs => "p99.9 of all",
            Self::StalledPercent => "stalled %",
            Self::PeakMib => "peak MiB",
            Self::KibPerConnection => "KiB/connection",
            Self::MirroredPercent => "mirrored %",
            Self::Errors => "errors",
        }
    }

    pub fn show(self, value: f64) -> String {
        match self {
            Self::RequestsPerSecond | Self::Errors => format!("{value:.0}"),
            Self::PeakMib => format!("{value:.1}"),
            _ => format!("{value:.2}"),
        }
    }
}

/// The figures of one measurement; those that the load cannot know are absent.
pub type Figures = BTreeMap<Figure, f64>;

/// Several values of one figure. The extremes are shown, not hidden: on a shared machine they say how far to trust a single
/// one. What they are samples of has its median between `low` and `high`: with 95 %, as far as they do not depend on each other.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    pub min: f64,
    pub low: f64,
    pub median: f64,
    pub high: f64,
    pub max: f64,
}

/// Of the true median's being beyond each end of its interval.
const BEYOND: f64 = 0.025;

impl Spread {
    /// `None` without a value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let median = if values.len() % 2 == 1 {
            upper
        } else {
            f64::midpoint(*values.get(middle.saturating_sub(1))?, upper)
        };
        let outside = beyond_median(values.len());
        let low = *values.get(outside)?;
        let high = *values.get(values.len() - 1 - outside)?;
        Some(Self { min, low, median, high, max })
    }
}

/// How many of the least, and of the largest, of `count` values lie outside of the median's interval: how many are below
/// the true median is binomial (David & Nagaraja, Order Statistics, § 7.1). With fewer than six values it is none.
fn beyond_median(count: usize) -> usize {
    let mut exactly = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut at_most = exactly;
    let mut outside = 0;
    while at_most <= BEYOND && outside < count / 2 {
        outside += 1;
        exactly *= (count - outside + 1) as f64 / outside as f64;
        at_most += exactly;
    }
    outside.saturating_sub(1)
}
