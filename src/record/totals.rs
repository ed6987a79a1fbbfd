//! The merged record of one service: since the start, and of the last complete interval.

use std::time::Duration;

use serde::Serialize;

use super::histogram::{Distribution, ExportError, Latency, Summary};
use super::recorder::{Interval, Record, Statuses};
use super::route::place;
use super::{Clock, Direction, Side};

/// Owned by the control plane, fed by messages from workers or lane threads.
#[derive(Debug, Default)]
pub struct Totals {
    total: Record<u64>,
    /// Of the interval that is being gathered; its routes stay empty.
    current: Record<u64>,
    last: Record<u64>,
    /// Since the last mark.
    marked: Record<u64>,
}

/// One route, seen from one side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteSummary {
    pub route: String,
    pub first_byte: Summary,
    pub last_byte: Summary,
}

impl Totals {
    /// Merges what one thread gathered; nothing is lost.
    pub fn absorb(&mut self, interval: &Interval) {
        self.total.merge(&interval.0);
        self.current.merge_sides(&interval.0);
        self.marked.merge_sides(&interval.0);
    }

    /// From here on the views `since_mark` count anew.
    pub fn mark(&mut self) {
        self.marked = Record::default();
    }

    pub fn since_mark(&self, side: Side, direction: Direction, clock: Clock) -> Summary {
        latency(&self.marked, side, direction, clock).map(Latency::summary).unwrap_or_default()
    }

    /// The time that `quantile` of the answers, from 0 to 1, did not exceed; 0 when there are none.
    pub fn quantile_since_mark(
        &self,
        side: Side,
        direction: Direction,
        clock: Clock,
        quantile: f64,
    ) -> Duration {
        latency(&self.marked, side, direction, clock).map(|of| of.quantile(quantile)).unwrap_or_default()
    }

    pub fn statuses_since_mark(&self, side: Side, direction: Direction) -> Statuses {
        self.marked.sides.get(place(side, direction)).map(|side| side.statuses).unwrap_or_default()
    }

    /// Ends the interval: what was absorbed since the last call is what the `interval` views show.
    pub fn turn(&mut self) {
        self.last = std::mem::take(&mut self.current);
    }

    pub fn total(&self, side: Side, direction: Direction, clock: Clock) -> Summary {
        latency(&self.total, side, direction, clock).map(Latency::summary).unwrap_or_default()
    }

    pub fn interval(&self, side: Side, direction: Direction, clock: Clock) -> Summary {
        latency(&self.last, side, direction, clock).map(Latency::summary).unwrap_or_default()
    }

    /// Since the start; `bounds` have to ascend.
    pub fn distribution(
        &self,
        side: Side,
        direction: Direction,
        clock: Clock,
        bounds: &[Duration],
    ) -> Distribution {
        latency(&self.total, side, direction, clock).map(|of| of.distribution(bounds)).unwrap_or_default()
    }

    /// Values above the histograms' range, which count as the highest.
    pub fn clamped(&self, side: Side, direction: Direction, clock: Clock) -> u64 {
        latency(&self.total, side, direction, clock).map_or(0, |latency| latency.clamped)
    }

    pub fn statuses(&self, side: Side, direction: Direction) -> Statuses {
        self.total.sides.get(place(side, direction)).map(|side| side.statuses).unwrap_or_default()
    }

    pub fn interval_statuses(&self, side: Side, direction: Direction) -> Statuses {
        self.last.sides.get(place(side, direction)).map(|side| side.statuses).unwrap_or_default()
    }

    /// `HdrHistogram` V2 in base64, of everything since the start.
    pub fn export(&self, side: Side, direction: Direction, clock: Clock) -> Result<String, ExportError> {
        latency(&self.total, side, direction, clock).ok_or(ExportError::Empty)?.export()
    }

    /// Routes with anything recorded, the busiest first.
    pub fn routes(&self, side: Side, direction: Direction) -> Vec<RouteSummary> {
        let mut routes: Vec<_> = self
            .total
            .routes
            .iter()
            .filter_map(|(route, sides)| Some((route, sides.get(place(side, direction))?)))
            .filter(|(_, side)| !side.first_byte.is_empty() || !side.last_byte.is_empty())
            .map(|(route, side)| RouteSummary {
                route: route.to_owned(),
                first_byte: side.first_byte.summary(),
                last_byte: side.last_byte.summary(),
            })
            .collect();
        routes.sort_unstable_by(|a, b| {
            b.first_byte.count.cmp(&a.first_byte.count).then_with(|| a.route.cmp(&b.route))
        });
        routes
    }

    /// Bytes that these totals hold.
    pub fn memory(&self) -> usize {
        self.total.heap() + self.current.heap() + self.last.heap() + self.marked.heap()
    }
}

fn latency(record: &Record<u64>, side: Side, direction: Direction, clock: Clock) -> Option<&Latency<u64, 3>> {
    record.sides.get(place(side, direction))?.clocks.get(clock as usize)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::record::{Exchange, Recorder};

    const WAY: (Side, Direction) = (Side::Source, Direction::Forward);

    fn exchange(micros: u64) -> Exchange {
        Exchange {
            side: WAY.0,
            direction: WAY.1,
            status: Some(StatusCode::OK),
            first_byte: Some(Duration::from_micros(micros)),
            last_byte: Some(Duration::from_micros(2 * micros)),
        }
    }

    #[test]
    fn workers_records_come_together_by_message() {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let sender = sender.clone();
                scope.spawn(move || {
                    let mut recorder = Recorder::default();
                    for n in 1..=1_000 {
                        recorder.record(&exchange(worker * 1_000 + n));
                        if n % 300 == 0 {
                            sender.send(recorder.take_interval().unwrap()).unwrap();
                        }
                    }
                    sender.send(recorder.take_interval().unwrap()).unwrap();
                });
            }
        });
        drop(sender);
        let mut totals = Totals::default();
        for interval in receiver {
            totals.absorb(&interval);
        }
        let summary = totals.total(WAY.0, WAY.1, Clock::FirstByte);
        assert_eq!(summary.count, 4_000);
        assert!((2_000..=2_002).contains(&summary.p50), "{summary:?}");
        assert!((3_960..=3_964).contains(&summary.p99), "{summary:?}");
        assert!((1_999.5..=2_001.5).contains(&summary.mean), "{summary:?}");
        assert_eq!(totals.statuses(WAY.0, WAY.1).success, 4_000);
        assert!((8_000..=8_004).contains(&totals.total(WAY.0, WAY.1, Clock::LastByte).max));
    }

    #[test]
    fn sides_directions_and_clocks_are_kept_apart() {
        let mut recorder = Recorder::default();
        let mut expected = Vec::new();
        for (n, side) in Side::ALL.into_iter().enumerate() {
            for (m, direction) in Direction::ALL.into_iter().enumerate() {
                let micros = 1 + 100 * (2 * n + m) as u64;
                recorder.record(&Exchange { side, direction, ..exchange(micros) });
                recorder.connect(side, direction, Duration::from_micros(micros + 7));
                expected.push((side, direction, micros));
            }
        }
        let mut totals = Totals::default();
        totals.absorb(&recorder.take_interval().unwrap());
        for (side, direction, micros) in expected {
            let shown = Clock::ALL.map(|clock| totals.total(side, direction, clock));
            assert_eq!(shown.map(|s| s.count), [1; 3]);
            assert_eq!(shown.map(|s| s.max), [micros, 2 * micros, micros + 7]);
        }
    }

    #[test]
    fn an_interval_shows_only_itself_and_the_total_everything() {
        let (mut recorder, mut totals) = (Recorder::default(), Totals::default());
        for (round, count) in [3, 5, 0].into_iter().enumerate() {
            (0..count).for_each(|_| recorder.record(&exchange(100)));
            recorder.take_interval().iter().for_each(|interval| totals.absorb(interval));
            totals.turn();
            assert_eq!(totals.interval(WAY.0, WAY.1, Clock::FirstByte).count, count, "round {round}");
            assert_eq!(totals.interval_statuses(WAY.0, WAY.1).success, count);
        }
        assert_eq!(totals.total(WAY.0, WAY.1, Clock::FirstByte).count, 8);
    }

    #[test]
    fn routes_are_merged_by_name_and_unknown_paths_are_other() {
        let mut totals = Totals::default();
        for worker in 0..2_u64 {
            let mut recorder = Recorder::default();
            for n in 0..10 {
                let exchange = exchange(100 + worker);
                recorder.record(&exchange);
                recorder.record_route(&format!("/users/{n}?q={n}"), exchange.status, &[exchange]);
                recorder.record_route(&format!("/.env{n}"), Some(StatusCode::NOT_FOUND), &[exchange]);
            }
            recorder.record_route("/rare", Some(StatusCode::OK), &[exchange(9)]);
            totals.absorb(&recorder.take_interval().unwrap());
        }
        let routes = totals.routes(WAY.0, WAY.1);
        let counts: Vec<_> =
            routes.iter().map(|r| (&*r.route, r.first_byte.count, r.last_byte.count)).collect();
        assert_eq!(counts, [("/users/:id", 20, 20), ("other", 20, 20), ("/rare", 2, 2)].map(|r| r).to_vec());
        assert!(totals.routes(Side::Shadow, WAY.1).is_empty());
    }

    #[test]
    fn a_summary_has_the_fields_of_the_interface() {
        let json = serde_json::to_value(Summary::default()).unwrap();
        let expected = serde_json::json!(
            {"count": 0, "p50": 0, "p90": 0, "p99": 0, "p999": 0, "max": 0, "mean": 0.0});
        assert_eq!(json, expected);
    }

    #[test]
    fn an_export_of_nothing_says_so() {
        let totals = Totals::default();
        assert!(totals.export(WAY.0, WAY.1, Clock::Connect).is_err());
        assert!(totals.memory() < 4_000, "{}", totals.memory());
    }
}
