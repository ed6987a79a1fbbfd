//! The open loop, by Segue's own load generator: a request's latency runs from when it was due.

use std::time::Duration;

use segue::config::{Endpoint, Scheme, Target};
use segue::load::{Load, LoadSettings, Reads};
use tokio::runtime::{Builder, Runtime};

use super::percentiles;
use crate::Outcome;
use crate::figures::{Figure, Figures};

/// As many connections as the closed loop has: more in flight is waiting, and counted as latency.
const CONNECTIONS: usize = 64;

pub struct Open {
    runtime: Runtime,
    load: Load,
}

impl Open {
    pub fn start(port: u16, rate_per_second: f64, duration: Duration) -> Outcome<Self> {
        let target =
            Endpoint { scheme: Scheme::Http, target: Target::Host { name: "127.0.0.1".into(), port } };
        let settings = LoadSettings {
            duration: Some(duration),
            max_connections: CONNECTIONS,
            write_share: 0.0,
            reads: Reads::Paths(vec!["/bytes/1024".into()]),
            // A proxy that cannot carry the rate must not keep the run for longer than this.
            answer_timeout: Duration::from_secs(5),
            ..LoadSettings::new(target, rate_per_second)
        };
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let load = Load::start(settings)?;
        Ok(Self { runtime, load })
    }

    pub fn finish(self) -> Outcome<Figures> {
        let report = self.runtime.block_on(self.load.done())?;
        let mut figures = percentiles(&report.latency);
        figures.insert(Figure::Errors, report.failed as f64);
        Ok(figures)
    }
}
