//! Load generators, one file each. All are started, run beside the measuring, and are then asked what they saw.

pub mod connections;
pub mod h2load;
pub mod handshakes;
pub mod open;
pub mod stalls;
mod tls;
pub mod wrk;

use crate::figures::{Figure, Figures};

/// Percentiles of latency, in milliseconds.
const PERCENTILES: [(Figure, f64); 3] =
    [(Figure::P50Ms, 50.0), (Figure::P99Ms, 99.0), (Figure::P999Ms, 99.9)];

/// Latencies in microseconds, as figures.
fn percentiles(latency: &hdrhistogram::Histogram<u64>) -> Figures {
    let mut figures = Figures::new();
    if !latency.is_empty() {
        let at = |percentile| latency.value_at_percentile(percentile) as f64 / 1e3;
        figures.extend(PERCENTILES.map(|(figure, percentile)| (figure, at(percentile))));
    }
    figures
}
