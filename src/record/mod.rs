//! What was measured: latency histograms of both sides, and answers by status class.
//!
//! A worker or lane thread owns a [`Recorder`] for each service and writes to it without a lock; at an
//! interval it hands the filled histograms over by message and goes on with empty ones. [`Totals`]
//! merges them without loss.
//!
//! A worker records every exchange, of the source alone. The lane records the pairs, both sides, in a
//! recorder and totals of its own: a comparison of the sides has to rest on the same requests. Routes
//! are recorded only there: that needs a template and a table look-up for each request, and thousands of
//! histograms would otherwise be multiplied by the number of workers.

mod histogram;
mod recorder;
mod route;
mod totals;

pub use histogram::{Distribution, Durations, ExportError, HIGHEST, LOWEST, Summary};
pub use recorder::{Exchange, Interval, Recorder, Statuses};
pub use route::{MAX_ROUTES, OTHER_ROUTE, route_template};
pub use totals::{RouteSummary, Totals};

/// The part that an instance plays in an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// It answers the caller.
    Source,
    /// It sees a copy.
    Shadow,
}

/// Which way round the service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The configured source is active.
    Forward,
    /// The configured shadow is active: after a switchover the tee runs backwards.
    Reverse,
}

/// What was timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clock {
    /// From the start of the exchange to the first byte of the answer, without connecting.
    FirstByte,
    /// From the start of the exchange to the last byte of the answer, without connecting.
    LastByte,
    Connect,
}

impl Side {
    pub const ALL: [Self; 2] = [Self::Source, Self::Shadow];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Shadow => "shadow",
        }
    }
}

impl Direction {
    pub const ALL: [Self; 2] = [Self::Forward, Self::Reverse];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reverse => "reverse",
        }
    }
}

impl Clock {
    pub const ALL: [Self; 3] = [Self::FirstByte, Self::LastByte, Self::Connect];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FirstByte => "first_byte",
            Self::LastByte => "last_byte",
            Self::Connect => "connect",
        }
    }
}
