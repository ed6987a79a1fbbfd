//! What is to be reached, as data; and whether it was, by the median over the rounds.

use serde::Serialize;

use crate::figures::Figure::{
    self, CpuPerRequest, KibPerConnection, P99Ms, P999Ms, PeakMib, RequestsPerSecond,
};
use crate::figures::Spread;
use crate::peer::Peer;
use crate::results::Results;
use crate::scenario::{Contender, Mirror, SCENARIOS};

pub struct Target {
    what: &'static str,
    figure: Figure,
    ours: Place,
    bound: Bound,
}

/// A contender's row in a scenario's table.
#[derive(Clone, Copy)]
struct Place {
    scenario: &'static str,
    contender: Contender,
}

/// What the figure is held against, and how far it may go.
enum Bound {
    Times(f64, Place),
    NoLessThan(f64, Place),
    /// Times the other one in the same scenario whose median is lowest. (Whoever was lowest in a round was also lucky.)
    TimesBest(f64),
    MoreThan(f64, Place),
    Absolute(f64),
}

#[derive(Serialize)]
pub struct Judged {
    pub what: &'static str,
    pub bound: String,
    /// In the bound's terms: a ratio, a difference or the figure itself.
    pub measured: Spread,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Reached,
    Missed,
    /// The load generator was at its own limit: what it saw says nothing about a proxy.
    Unclear,
}

impl Verdict {
    /// A word of at most seven letters.
    pub const fn shown(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::Missed => "MISSED",
            Self::Unclear => "unclear",
        }
    }
}

/// Of the load's cores. Above it an open loop measures how long its own requests wait for a core.
const MAX_LOAD_BUSY: f64 = 0.9;

const fn at(scenario: &'static str, peer: Peer, mirror: Mirror) -> Place {
    Place { scenario, contender: Contender { peer, mirror } }
}

const fn segue(scenario: &'static str) -> Place {
    at(scenario, Peer::Segue, Mirror::Off)
}

/// Throughput and memory of a saturated proxy; latency of one that is not, as a closed loop's is the length of its queue.
const SATURATED: &str = "bad-shadow";
const AT_EASE: &str = "open-bad-shadow";

const fn target(what: &'static str, figure: Figure, ours: Place, bound: Bound) -> Target {
    Target { what, figure, ours, bound }
}

/// One bad shadow: throughput, latency, memory.
const fn unhurt(what: [&'static str; 3], shadow: Mirror) -> [Target; 3] {
    let [rate, latency, memory] = what;
    [
        target(
            rate,
            RequestsPerSecond,
            at(SATURATED, Peer::Segue, shadow),
            Bound::NoLessThan(0.97, segue(SATURATED)),
        ),
        target(latency, P99Ms, at(AT_EASE, Peer::Segue, shadow), Bound::Times(1.10, segue(AT_EASE))),
        target(memory, PeakMib, at(SATURATED, Peer::Segue, shadow), Bound::MoreThan(8.0, segue(SATURATED))),
    ]
}

const MIRRORED: Place = at("cost", Peer::Segue, Mirror::Live);

const COST: [Target; 3] = [
    target(
        "CPU per request with 5 % tee / HAProxy TCP",
        CpuPerRequest,
        MIRRORED,
        Bound::Times(1.15, at("cost", Peer::HaproxyTcp, Mirror::Off)),
    ),
    target(
        "CPU per request with 5 % tee / nginx without mirror",
        CpuPerRequest,
        MIRRORED,
        Bound::Times(0.95, at("cost", Peer::Nginx, Mirror::Off)),
    ),
    target(
        "CPU per request with 5 % tee / Envoy with 5 % mirror",
        CpuPerRequest,
        at("mirror", Peer::Segue, Mirror::Live),
        Bound::Times(0.45, at("mirror", Peer::Envoy, Mirror::Live)),
    ),
];
const HUNG: [Target; 3] = unhurt(
    ["requests/s, hung shadow / no tee", "p99, hung shadow / no tee", "peak MiB, hung shadow − no tee"],
    Mirror::Hung,
);
const DEAD: [Target; 3] = unhurt(
    ["requests/s, dead shadow / no tee", "p99, dead shadow / no tee", "peak MiB, dead shadow − no tee"],
    Mirror::Dead,
);
const SLOW: [Target; 3] = unhurt(
    [
        "requests/s, 10 s slow shadow / no tee",
        "p99, 10 s slow shadow / no tee",
        "peak MiB, 10 s slow shadow − no tee",
    ],
    Mirror::Slow,
);
const REST: [Target; 7] = [
    target(
        "CPU per 1 MiB answer / nginx",
        CpuPerRequest,
        segue("large"),
        Bound::Times(1.0, at("large", Peer::Nginx, Mirror::Off)),
    ),
    target(
        "CPU per new TLS 1.3 connection / nginx",
        CpuPerRequest,
        segue("tls-new"),
        Bound::Times(1.0, at("tls-new", Peer::Nginx, Mirror::Off)),
    ),
    target(
        "CPU per request over HTTP/2 / Envoy",
        CpuPerRequest,
        segue("http2"),
        Bound::Times(0.6, at("http2", Peer::Envoy, Mirror::Off)),
    ),
    target("KiB per resting HTTP/1.1 connection", KibPerConnection, segue("idle-9000"), Bound::Absolute(0.5)),
    target("KiB per resting TLS connection", KibPerConnection, segue("idle-tls"), Bound::Absolute(9.0)),
    // 38 was asked for, when huge pages made the whole of buffers resident that are hardly written to.
    target("KiB per resting HTTP/2 connection", KibPerConnection, segue("idle-http2"), Bound::Absolute(24.0)),
    target("p99.9 at half of saturation / the best peer", P999Ms, segue("tail"), Bound::TimesBest(1.1)),
];

/// Those that were measured.
pub fn judge(results: &Results) -> Vec<Judged> {
    let all = [COST.as_slice(), &HUNG, &DEAD, &SLOW, &REST];
    all.iter().flat_map(|targets| targets.iter()).filter_map(|target| target.judge(results)).collect()
}

impl Target {
    fn judge(&self, results: &Results) -> Option<Judged> {
        let find =
            |place: Place| move |round| results.one(place.scenario, place.contender, round, self.figure);
        let ours = find(self.ours);
        let ratio = |a: f64, b: f64| a / b;
        let measured = match self.bound {
            Bound::Times(_, than) | Bound::NoLessThan(_, than) => results.by_round(ours, find(than), ratio),
            Bound::TimesBest(_) => results.by_round(ours, find(self.best(results)?), ratio),
            Bound::MoreThan(_, than) => results.by_round(ours, find(than), |a, b| a - b),
            Bound::Absolute(_) => results.spread(self.ours.scenario, self.ours.contender, self.figure),
        }?;
        let (bound, reached) = match self.bound {
            Bound::NoLessThan(least, _) => (format!("≥ {least}"), measured.median >= least),
            Bound::MoreThan(most, _) => (format!("≤ +{most}"), measured.median <= most),
            Bound::Times(most, _) | Bound::TimesBest(most) | Bound::Absolute(most) => {
                (format!("≤ {most}"), measured.median <= most)
            }
        };
        let verdict = match (self.is_blurred(results), reached) {
            (true, _) => Verdict::Unclear,
            (false, true) => Verdict::Reached,
            (false, false) => Verdict::Missed,
        };
        Some(Judged { what: self.what, bound, measured, verdict })
    }

    /// In a closed loop the generator waits for answers and may well be busy; in an open one it must not be.
    fn is_blurred(&self, results: &Results) -> bool {
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == self.ours.scenario);
        scenario.is_some_and(|scenario| scenario.load.is_open())
            && results
                .spread(self.ours.scenario, self.ours.contender, Figure::LoadBusy)
                .is_some_and(|busy| busy.median > MAX_LOAD_BUSY)
    }

    fn best(&self, results: &Results) -> Option<Place> {
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == self.ours.scenario)?;
        let median = |contender: Contender| {
            let is_peer = !matches!(contender.peer, Peer::Segue | Peer::NoProxy);
            let spread = is_peer.then(|| results.spread(scenario.name, contender, self.figure)).flatten()?;
            Some((contender, spread.median))
        };
        let others = scenario.contenders.iter().filter_map(|&contender| median(contender));
        let (contender, _) = others.min_by(|(_, one), (_, other)| one.total_cmp(other))?;
        Some(Place { scenario: scenario.name, contender })
    }
}
