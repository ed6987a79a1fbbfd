//! Everything there is to measure, taken at one moment: what a scrape of the metrics shows.

use std::sync::Arc;
use std::time::Duration;

use super::Control;
use super::services::ServiceControl;
use super::status::ProcessStatus;
use crate::record::{Clock, Direction, Distribution, Side, Totals};

#[derive(Debug)]
pub struct Measurements {
    pub process: ProcessStatus,
    pub services: Vec<ServiceMeasurements>,
    /// How long completed switchovers held callers.
    pub pauses: Distribution,
}

/// Distributions since the start. The sides are parts that are played: whichever instance is active is
/// the source.
#[derive(Debug)]
pub struct ServiceMeasurements {
    pub service: Arc<str>,
    pub last_byte: BySide,
    pub first_byte: BySide,
    /// Both sides of the same requests.
    pub paired: BySide,
    /// How long requests were parked.
    pub held: Distribution,
}

#[derive(Debug)]
pub struct BySide {
    pub source: Distribution,
    pub shadow: Distribution,
}

impl Control {
    /// `bounds` are the distributions', ascending.
    pub async fn measure(&self, bounds: &[Duration]) -> Measurements {
        let reports = self.reports().await;
        let services = self.services.load();
        Measurements {
            process: self.process(&reports),
            services: services.iter().map(|service| self.measurements(service, bounds)).collect(),
            pauses: self.past.pauses(bounds),
        }
    }

    fn measurements(&self, service: &ServiceControl, bounds: &[Duration]) -> ServiceMeasurements {
        let mut totals = self.totals();
        let all = totals.of(&service.name);
        let mut records = service.records.lock();
        let pairs = records.totals();
        let both_ways = |totals: &Totals, side, clock| {
            let mut sum = Distribution { at_most: vec![0; bounds.len()], ..Distribution::default() };
            for direction in Direction::ALL {
                sum += &totals.distribution(side, direction, clock, bounds);
            }
            sum
        };
        let sides = |source: &Totals, clock| BySide {
            source: both_ways(source, Side::Source, clock),
            shadow: both_ways(pairs, Side::Shadow, clock),
        };
        ServiceMeasurements {
            service: Arc::clone(&service.name),
            last_byte: sides(&all.latency, Clock::LastByte),
            first_byte: sides(&all.latency, Clock::FirstByte),
            paired: sides(pairs, Clock::LastByte),
            held: all.held.distribution(bounds),
        }
    }
}
