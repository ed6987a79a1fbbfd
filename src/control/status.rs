//! What the process knows about itself, for the admin API, the metrics and the demo's report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::past::SwitchoverCounts;
use super::services::ServiceControl;
use super::{Control, lock};
use crate::config::InstanceName;
use crate::proxy::gate::controller::Phase;
use crate::proxy::report::{Report, ServiceReport, Tally};
use crate::proxy::service::{RequestKey, Requests, count};
use crate::record::{Clock, Direction, ExportError, RouteSummary, Side, Summary};
use crate::tee::breaker;
use crate::tee::compare::{Pair, Verdict};
use crate::tee::skip::TeeCounts;

/// One service at this moment.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceStatus {
    pub name: Arc<str>,
    pub active: InstanceName,
    pub generation: u64,
    pub gate: &'static str,
    pub in_flight: usize,
    pub parked: usize,
    pub requests: Vec<RequestCount>,
    pub refused: BTreeMap<&'static str, u64>,
    pub classified: BTreeMap<&'static str, u64>,
    pub suspects: BTreeMap<&'static str, u64>,
    pub tee: TeeStatus,
    pub pairs: PairStatus,
    pub endpoints: Vec<EndpointStatus>,
    pub retries: u64,
    pub informational: u64,
    pub cut: u64,
    /// Writes whose caller left and that were heard out.
    pub abandoned: u64,
    pub caller_left: u64,
    pub held_ms: Held,
    pub switchovers: SwitchoverCounts,
}

#[derive(Clone, Debug, Serialize)]
pub struct RequestCount {
    pub instance: InstanceName,
    pub class: &'static str,
    pub code: u16,
    pub count: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct TeeStatus {
    pub configured_percent: f64,
    pub effective_percent: Option<f64>,
    pub stopped: bool,
    pub breaker: &'static str,
    #[serde(flatten)]
    pub counts: TeeCounts,
    /// Reads that could be told only from their body: a rate of its own.
    pub by_body: TeeCounts,
    pub stale_retries: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct PairStatus {
    pub compared: u64,
    pub mismatched: u64,
    pub aborted: u64,
    pub verdicts: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct EndpointStatus {
    pub instance: InstanceName,
    pub address: String,
    pub healthy: bool,
}

/// How long parked requests were held, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Held {
    pub count: u64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// The process as a whole.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessStatus {
    pub uptime_s: u64,
    pub workers: usize,
    pub connections: usize,
    pub resting: usize,
    pub tees_stopped: bool,
    pub lane_bytes: u64,
    pub refused: BTreeMap<&'static str, u64>,
    pub ended: BTreeMap<&'static str, u64>,
    pub services: Vec<ServiceStatus>,
}

/// Latency of both sides: of every request (`source`) and of the pairs.
#[derive(Clone, Debug, Serialize)]
pub struct LatencyView {
    pub service: Arc<str>,
    /// Callers' answers from the configured source, and teed answers from the configured shadow.
    #[serde(flatten)]
    pub forward: Summaries,
    /// The same after a switchover, when the shadow is active and the tee runs backwards.
    pub reverse: Summaries,
}

/// Times to the last byte in µs unless named otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct Summaries {
    pub source: Summary,
    pub shadow: Summary,
    /// The source's side of the pairs alone: what the shadow's may be compared with.
    pub paired_source: Summary,
    pub first_byte: Sides,
    pub connect: Sides,
    /// The last complete interval of ten seconds.
    pub interval: Sides,
}

/// Latency of each route, as far as reads of it were teed.
#[derive(Clone, Debug, Serialize)]
pub struct RoutesView {
    pub service: Arc<str>,
    #[serde(flatten)]
    pub forward: SideRoutes,
    pub reverse: SideRoutes,
}

#[derive(Clone, Debug, Serialize)]
pub struct SideRoutes {
    pub source: Vec<RouteSummary>,
    pub shadow: Vec<RouteSummary>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Sides {
    pub source: Summary,
    pub shadow: Summary,
}

impl Control {
    pub async fn status(&self) -> ProcessStatus {
        let reports = self.reports().await;
        self.process(&reports)
    }

    pub(super) fn process(&self, reports: &[Report]) -> ProcessStatus {
        let services = self.services.load();
        let mut refused = Tally::new();
        let mut ended = Tally::new();
        for report in reports {
            report.rejects.iter().for_each(|(label, by)| count(&mut refused, label, *by));
            report.ends.iter().for_each(|(label, by)| count(&mut ended, label, *by));
        }
        ProcessStatus {
            uptime_s: self.started.elapsed().as_secs(),
            workers: self.crew.len(),
            connections: reports.iter().map(|report| report.connections).sum(),
            resting: reports.iter().map(|report| report.resting).sum(),
            tees_stopped: self.tees_are_stopped(),
            lane_bytes: self.memory.held().bytes(),
            refused: refused.into_iter().collect(),
            ended: ended.into_iter().collect(),
            services: services.iter().map(|service| self.status_of(service, reports)).collect(),
        }
    }

    pub async fn service(&self, name: &str) -> Option<ServiceStatus> {
        let service = self.services.load().get(name)?;
        let reports = self.reports().await;
        Some(self.status_of(&service, &reports))
    }

    pub fn service_names(&self) -> Vec<Arc<str>> {
        self.services.load().iter().map(|service| Arc::clone(&service.name)).collect()
    }

    /// The most recent pairs, the newest first.
    pub fn pairs(&self, name: &str, mismatched: bool, limit: usize) -> Option<Vec<Pair>> {
        let service = self.services.load().get(name)?;
        let records = service.records.lock();
        Some(records.pairs.latest(mismatched, limit).into_iter().cloned().collect())
    }

    pub async fn latency(&self, name: &str) -> Option<LatencyView> {
        let service = self.services.load().get(name)?;
        // Brings the totals up to now.
        self.reports().await;
        Some(LatencyView {
            service: Arc::clone(&service.name),
            forward: self.summaries(&service, Direction::Forward),
            reverse: self.summaries(&service, Direction::Reverse),
        })
    }

    /// Both sides of the pairs, route by route.
    pub fn routes(&self, name: &str) -> Option<RoutesView> {
        let service = self.services.load().get(name)?;
        let mut records = service.records.lock();
        let pairs = records.totals();
        let of = |direction| SideRoutes {
            source: pairs.routes(Side::Source, direction),
            shadow: pairs.routes(Side::Shadow, direction),
        };
        let (forward, reverse) = (of(Direction::Forward), of(Direction::Reverse));
        Some(RoutesView { service: Arc::clone(&service.name), forward, reverse })
    }

    /// Ends the interval that the interval views show.
    pub async fn turn(&self) {
        let (crew, totals) = (Arc::clone(&self.crew), Arc::clone(&self.totals));
        // In a task of its own, as below.
        let gather = tokio::spawn(async move {
            let gathered = crew.gather().await;
            lock(&totals).absorb(gathered);
        });
        let _ = gather.await;
        self.totals().turn();
        self.services.load().iter().for_each(|service| service.records.lock().turn());
    }

    /// `HdrHistogram` V2 in base64, of the time to the last byte.
    pub async fn export(
        &self,
        name: &str,
        side: Side,
        direction: Direction,
    ) -> Option<Result<String, ExportError>> {
        let service = self.services.load().get(name)?;
        self.reports().await;
        Some(match side {
            Side::Source => self.totals().of(&service.name).latency.export(side, direction, Clock::LastByte),
            Side::Shadow => service.records.lock().totals().export(side, direction, Clock::LastByte),
        })
    }

    fn summaries(&self, service: &ServiceControl, direction: Direction) -> Summaries {
        let mut totals = self.totals();
        let all = &totals.of(&service.name).latency;
        let mut records = service.records.lock();
        let pairs = records.totals();
        let sides = |clock| Sides {
            source: all.total(Side::Source, direction, clock),
            shadow: pairs.total(Side::Shadow, direction, clock),
        };
        Summaries {
            source: all.total(Side::Source, direction, Clock::LastByte),
            shadow: pairs.total(Side::Shadow, direction, Clock::LastByte),
            paired_source: pairs.total(Side::Source, direction, Clock::LastByte),
            first_byte: sides(Clock::FirstByte),
            connect: sides(Clock::Connect),
            interval: Sides {
                source: all.interval(Side::Source, direction, Clock::LastByte),
                shadow: pairs.interval(Side::Shadow, direction, Clock::LastByte),
            },
        }
    }

    /// Every worker's report; the histograms in them are already merged into the totals.
    pub(super) async fn reports(&self) -> Vec<Report> {
        let (crew, totals) = (Arc::clone(&self.crew), Arc::clone(&self.totals));
        // In a task of its own: intervals that were handed over must reach the totals, even if whoever
        // asked has stopped waiting.
        let gather = tokio::spawn(async move {
            let mut reports = crew.report().await;
            lock(&totals).absorb(reports.iter_mut().flat_map(|report| report.gathered.drain(..)));
            reports
        });
        gather.await.unwrap_or_default()
    }

    fn status_of(&self, service: &ServiceControl, reports: &[Report]) -> ServiceStatus {
        let of_service: Vec<&ServiceReport> =
            reports.iter().flat_map(|report| &report.services).filter(|of| of.name == service.name).collect();
        let sum = |of: fn(&ServiceReport) -> u64| of_service.iter().map(|report| of(report)).sum();
        let tally = |of: fn(&ServiceReport) -> &Tally| {
            let mut merged = Tally::new();
            for (label, by) in of_service.iter().flat_map(|report| of(report)) {
                count(&mut merged, label, *by);
            }
            merged.into_iter().collect()
        };
        let mut requests = Requests::default();
        let (mut counts, mut by_body) = (TeeCounts::default(), TeeCounts::default());
        for report in &of_service {
            report.requests.iter().for_each(|(key, by)| requests.add(*key, *by));
            counts += report.tee;
            by_body += report.tee_by_body;
        }
        let gate = self.gates.state(&service.name);
        let held = self.totals().of(&service.name).held.summary();
        let (pairs, stale_retries) = {
            let records = service.records.lock();
            counts += records.counts;
            by_body += records.by_body;
            (PairStatus::of(&records.verdicts), records.stale_retries)
        };
        ServiceStatus {
            name: Arc::clone(&service.name),
            active: gate.map_or(service.start.active, |gate| gate.active),
            generation: gate.map_or(service.start.generation, |gate| gate.generation),
            gate: gate.map_or("unknown", |gate| phase_name(gate.phase)),
            in_flight: of_service.iter().map(|report| report.in_flight).sum(),
            parked: service.parked.load(Ordering::Relaxed),
            requests: sorted(&requests),
            refused: tally(|report| &report.rejects),
            classified: tally(|report| &report.reasons),
            suspects: tally(|report| &report.suspects),
            tee: TeeStatus {
                configured_percent: service.settings.tee.percent.as_f64(),
                effective_percent: counts.effective_percent(),
                stopped: self.tees_are_stopped(),
                breaker: breaker_name(service.tee.lane.breaker.phase()),
                counts,
                by_body,
                stale_retries,
            },
            pairs,
            endpoints: endpoints(service),
            retries: sum(|report| report.retries),
            informational: sum(|report| report.informational),
            cut: sum(|report| report.cut),
            abandoned: sum(|report| report.abandoned),
            caller_left: sum(|report| report.caller_left),
            held_ms: Held::of(&held),
            switchovers: self.past.counts(&service.name),
        }
    }
}

fn sorted(requests: &Requests) -> Vec<RequestCount> {
    let mut all: Vec<(RequestKey, u64)> = requests.iter().copied().collect();
    all.sort_unstable();
    let counted = |(key, count): (RequestKey, u64)| RequestCount {
        instance: key.instance,
        class: key.class.as_str(),
        code: key.code,
        count,
    };
    all.into_iter().map(counted).collect()
}

fn endpoints(service: &ServiceControl) -> Vec<EndpointStatus> {
    let instances = [Some(&service.source), service.shadow.as_ref()];
    let of = |instance: &Arc<crate::upstream::Instance>| {
        let name = instance.name;
        let endpoints = instance.endpoints();
        let status = endpoints.iter().map(move |endpoint| EndpointStatus {
            instance: name,
            address: endpoint.address.to_string(),
            healthy: endpoint.is_healthy(),
        });
        status.collect::<Vec<_>>()
    };
    instances.into_iter().flatten().flat_map(of).collect()
}

const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Open => "open",
        Phase::Closing => "closing",
        Phase::Draining => "draining",
        Phase::Drained => "drained",
        Phase::Resuming => "resuming",
    }
}

const fn breaker_name(phase: breaker::Phase) -> &'static str {
    match phase {
        breaker::Phase::Closed => "closed",
        breaker::Phase::Open => "open",
        breaker::Phase::HalfOpen => "half_open",
    }
}

impl PairStatus {
    fn of(counts: &[u64; Verdict::ALL.len()]) -> Self {
        let counted = || Verdict::ALL.into_iter().zip(counts.iter().copied());
        let total = |which: fn(Verdict) -> bool| {
            counted().filter(|(verdict, _)| which(*verdict)).map(|(_, count)| count).sum()
        };
        let aborted = |verdict| matches!(verdict, Verdict::SourceAborted | Verdict::ShadowAborted);
        Self {
            compared: total(|_| true),
            mismatched: total(Verdict::is_mismatch),
            aborted: total(aborted),
            verdicts: counted().filter(|(_, n)| *n > 0).map(|(verdict, n)| (verdict.as_str(), n)).collect(),
        }
    }
}

impl Held {
    fn of(summary: &Summary) -> Self {
        let millis = |micros: u64| micros as f64 / 1000.0;
        Self {
            count: summary.count,
            p50: millis(summary.p50),
            p99: millis(summary.p99),
            max: millis(summary.max),
        }
    }
}
