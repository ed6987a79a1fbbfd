//! Where an exchange is recorded: owned by one thread, no lock, no allocation once a histogram exists.

use std::time::Duration;

use hdrhistogram::Counter;
use http::StatusCode;
use serde::Serialize;

use super::histogram::Latency;
use super::route::{OTHER_ROUTE, Routes, place, route_template};
use super::{Clock, Direction, Side};

/// One exchange with one instance, as far as it came.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    pub side: Side,
    pub direction: Direction,
    /// `None` = no answer.
    pub status: Option<StatusCode>,
    pub first_byte: Option<Duration>,
    /// `None` also when the time is the caller's doing: an answer cut off, or held back by a slow caller.
    pub last_byte: Option<Duration>,
}

/// Answers by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statuses {
    /// 101, and what has no class.
    pub other: u64,
    #[serde(rename = "2xx")]
    pub success: u64,
    #[serde(rename = "3xx")]
    pub redirection: u64,
    #[serde(rename = "4xx")]
    pub client_error: u64,
    #[serde(rename = "5xx")]
    pub server_error: u64,
    /// No answer at all.
    pub none: u64,
}

impl Statuses {
    fn count(&mut self, status: Option<StatusCode>) {
        *(match status.map(|status| status.as_u16() / 100) {
            None => &mut self.none,
            Some(2) => &mut self.success,
            Some(3) => &mut self.redirection,
            Some(4) => &mut self.client_error,
            Some(5) => &mut self.server_error,
            Some(_) => &mut self.other,
        }) += 1;
    }

    fn merge(&mut self, other: &Self) {
        self.other += other.other;
        self.success += other.success;
        self.redirection += other.redirection;
        self.client_error += other.client_error;
        self.server_error += other.server_error;
        self.none += other.none;
    }

    pub fn total(&self) -> u64 {
        self.other + self.success + self.redirection + self.client_error + self.server_error + self.none
    }
}

/// What one side recorded, in one direction.
#[derive(Clone, Debug)]
pub(super) struct SideRecord<C: Counter> {
    pub(super) clocks: [Latency<C, 3>; Clock::ALL.len()],
    pub(super) statuses: Statuses,
}

impl<C: Counter> Default for SideRecord<C> {
    fn default() -> Self {
        Self { clocks: Default::default(), statuses: Statuses::default() }
    }
}

/// Everything recorded for one service.
#[derive(Clone, Debug)]
pub(super) struct Record<C: Counter> {
    pub(super) sides: [SideRecord<C>; 4],
    pub(super) routes: Routes<C>,
}

impl<C: Counter> Default for Record<C> {
    fn default() -> Self {
        Self { sides: Default::default(), routes: Routes::default() }
    }
}

impl Record<u64> {
    pub(super) fn merge<C: Counter>(&mut self, other: &Record<C>) {
        self.merge_sides(other);
        self.routes.merge(&other.routes);
    }

    pub(super) fn merge_sides<C: Counter>(&mut self, other: &Record<C>) {
        for (ours, theirs) in self.sides.iter_mut().zip(&other.sides) {
            ours.statuses.merge(&theirs.statuses);
            for (ours, theirs) in ours.clocks.iter_mut().zip(&theirs.clocks) {
                ours.merge(theirs);
            }
        }
    }
}

impl<C: Counter> Record<C> {
    pub(super) fn heap(&self) -> usize {
        let clocks = self.sides.iter().flat_map(|side| &side.clocks).map(Latency::heap).sum::<usize>();
        size_of::<Self>() + clocks + self.routes.heap()
    }
}

/// The recorder of one service on one thread.
#[derive(Debug, Default)]
pub struct Recorder(Box<Record<u32>>);

/// What a recorder gathered since the last time; to be sent to whoever keeps the [`super::Totals`].
#[derive(Debug)]
pub struct Interval(pub(super) Box<Record<u32>>);

impl Recorder {
    #[inline]
    pub fn record(&mut self, exchange: &Exchange) {
        let [first_byte, last_byte, _] = {
            let side = self.side(exchange.side, exchange.direction);
            side.statuses.count(exchange.status);
            &mut side.clocks
        };
        if let Some(took) = exchange.first_byte {
            first_byte.record(took);
        }
        if let Some(took) = exchange.last_byte {
            last_byte.record(took);
        }
    }

    /// A connection made, or the time after which making it was given up.
    pub fn connect(&mut self, side: Side, direction: Direction, took: Duration) {
        let [_, _, connect] = &mut self.side(side, direction).clocks;
        connect.record(took);
    }

    /// Records a request's exchanges for the route of its target, besides [`Recorder::record`].
    ///
    /// An application that answers 404 does not know the path as a route of its own; those share
    /// `other`, so that a scanner cannot fill the table. The source's status decides for both sides.
    pub fn record_route(&mut self, target: &str, source_status: Option<StatusCode>, exchanges: &[Exchange]) {
        let unknown = source_status.is_none_or(|status| status == StatusCode::NOT_FOUND);
        let route = if unknown {
            self.0.routes.get(OTHER_ROUTE)
        } else {
            self.0.routes.get(route_template(target).as_str())
        };
        for exchange in exchanges {
            let Some(side) = route.get_mut(place(exchange.side, exchange.direction)) else { continue };
            if let Some(took) = exchange.first_byte {
                side.first_byte.record(took);
            }
            if let Some(took) = exchange.last_byte {
                side.last_byte.record(took);
            }
        }
    }

    /// Hands over what was gathered and starts anew; `None` when there was nothing.
    pub fn take_interval(&mut self) -> Option<Interval> {
        let any = |side: &SideRecord<u32>| {
            side.statuses.total() > 0 || side.clocks.iter().any(|clock| !clock.is_empty())
        };
        self.0.sides.iter().any(any).then(|| Interval(std::mem::take(&mut self.0)))
    }

    /// Bytes that this recorder holds.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.0.heap()
    }

    #[inline]
    fn side(&mut self, side: Side, direction: Direction) -> &mut SideRecord<u32> {
        let [forward, reverse, shadow_forward, shadow_reverse] = &mut self.0.sides;
        match (side, direction) {
            (Side::Source, Direction::Forward) => forward,
            (Side::Source, Direction::Reverse) => reverse,
            (Side::Shadow, Direction::Forward) => shadow_forward,
            (Side::Shadow, Direction::Reverse) => shadow_reverse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(side: Side, micros: u64) -> Exchange {
        Exchange {
            side,
            direction: Direction::Forward,
            status: Some(StatusCode::OK),
            first_byte: Some(Duration::from_micros(micros)),
            last_byte: Some(Duration::from_micros(micros + 50)),
        }
    }

    #[test]
    fn memory_of_a_service_is_bounded() {
        // A worker: the source alone, three clocks.
        let mut worker = Recorder::default();
        assert!(worker.memory() < 1_500, "{}", worker.memory());
        for micros in 0..100_000 {
            worker.record(&exchange(Side::Source, micros));
        }
        worker.connect(Side::Source, Direction::Forward, Duration::from_micros(80));
        assert!(worker.memory() < 220_000, "{}", worker.memory());

        // A lane: both sides, and thirty routes.
        let mut lane = Recorder::default();
        for n in 0..100_000 {
            for side in Side::ALL {
                let exchange = exchange(side, n);
                lane.record(&exchange);
                lane.connect(side, Direction::Forward, Duration::from_micros(80));
                lane.record_route(&format!("/r{}x/{n}", n % 30), exchange.status, &[exchange]);
            }
        }
        assert!(lane.memory() < 1_850_000, "{}", lane.memory());
    }

    #[test]
    fn an_interval_is_taken_once() {
        let mut recorder = Recorder::default();
        assert!(recorder.take_interval().is_none());
        recorder.record(&exchange(Side::Shadow, 5));
        assert!(recorder.take_interval().is_some());
        assert!(recorder.take_interval().is_none());
        // A failed exchange has no time, and still counts.
        recorder.record(&Exchange {
            status: None,
            first_byte: None,
            last_byte: None,
            ..exchange(Side::Source, 0)
        });
        assert_eq!(recorder.take_interval().unwrap().0.sides[0].statuses.none, 1);
    }

    #[test]
    fn statuses_count_by_class() {
        let mut statuses = Statuses::default();
        for status in [101, 200, 206, 304, 404, 500, 503, 599, 999] {
            statuses.count(Some(StatusCode::from_u16(status).unwrap()));
        }
        statuses.count(None);
        let expected =
            Statuses { other: 2, success: 2, redirection: 1, client_error: 1, server_error: 3, none: 1 };
        assert_eq!(statuses, expected);
        assert_eq!(statuses.total(), 10);
    }
}
