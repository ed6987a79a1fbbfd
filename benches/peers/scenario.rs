//! What is measured: each scenario is a row of data, and nothing else in this program knows one by name.

use std::fmt;

use serde::Serialize;

use crate::figures::Figure::{
    self, CpuPerRequest, Errors, KibPerConnection, LoadBusy, MirroredPercent, P50Ms, P99Ms, P999Ms,
    P999OfAllMs, PeakMib, RequestsPerSecond, StalledPercent,
};
use crate::peer::Peer::{self, Caddy, Envoy, Haproxy, HaproxyTcp, Nginx, NoProxy, Segue, TrafficServer};

/// What one measurement is of.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub contender: Contender,
    pub workers: usize,
    pub downstream: Downstream,
    pub load: Load,
    /// Segue's services with a path of their own each, the last of which is asked; `None`: one without. Peers have one.
    pub routes: Option<usize>,
    /// Of Segue's tee, where there is a mirror. Peers mirror [`TEE_PERCENT`].
    pub tee_percent: u8,
}

/// A comparison of contenders under one load.
pub struct Scenario {
    pub name: &'static str,
    pub what: &'static str,
    pub contenders: &'static [Contender],
    pub workers: usize,
    pub downstream: Downstream,
    pub load: Load,
    /// What ratios to Segue are taken of.
    pub compared: Figure,
    pub shown: &'static [Figure],
    /// Part of a `--quick` run.
    pub quick: bool,
}

/// A proxy in one configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Contender {
    pub peer: Peer,
    pub mirror: Mirror,
}

/// [`TEE_PERCENT`] of the requests are copied, to a shadow that is as named. (Traffic Server's plugin has no percentage: it copies all.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mirror {
    Off,
    Live,
    /// Accepts, reads, never answers.
    Hung,
    /// Nothing listens.
    Dead,
    /// Answers after ten seconds.
    Slow,
}

/// What callers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Downstream {
    Http1,
    /// HTTP/1.1 over TLS 1.3, ECDSA P-256.
    Tls,
    /// HTTP/2 in clear, with prior knowledge.
    H2c,
}

#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// Closed loop over HTTP/1.1: each connection asks again when it is answered.
    Wrk { connections: usize, ask: Ask },
    /// All contenders are there at once, and their loads take turns of a fraction of a second.
    Alternating(Pace),
    /// Closed loop over one HTTP/2 connection.
    H2load { streams: usize },
    /// Open loop at this share of what Segue carries in [`SATURATION`] in the same run.
    Open { share: f64 },
    /// A new connection, with a full handshake, for each request.
    Handshakes { at_once: usize },
    /// Connections that rest after one request: memory is compared between `from` and `to` of them.
    Resting { from: usize, to: usize },
}

/// Of loads that take turns; as the loads of the same names.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    Closed { connections: usize, ask: Ask },
    Open { share: f64 },
}

#[derive(Clone, Copy, Debug)]
pub enum Ask {
    Answer { bytes: usize },
    Upload { bytes: usize },
}

/// The scenario whose requests/s of Segue stand for saturation.
pub const SATURATION: &str = "small";

pub const TEE_PERCENT: u8 = 5;

pub const KIB: usize = 1024;
pub const SMALL: Load = Load::Wrk { connections: 64, ask: Ask::Answer { bytes: KIB } };

const SATURATING_IN_TURNS: Load =
    Load::Alternating(Pace::Closed { connections: 64, ask: Ask::Answer { bytes: KIB } });
const AT_EASE_IN_TURNS: Load = Load::Alternating(Pace::Open { share: 0.5 });

const ALTERNATING: &[Figure] = &[CpuPerRequest, RequestsPerSecond, PeakMib, MirroredPercent];
const CLOSED: &[Figure] = &[
    CpuPerRequest,
    RequestsPerSecond,
    P50Ms,
    P99Ms,
    P999Ms,
    StalledPercent,
    PeakMib,
    MirroredPercent,
    Errors,
];
const OPEN: &[Figure] =
    &[P50Ms, P99Ms, P999Ms, P999OfAllMs, StalledPercent, CpuPerRequest, RequestsPerSecond, LoadBusy, Errors];
const RESTING: &[Figure] = &[KibPerConnection, PeakMib, Errors];

const fn plain(peer: Peer) -> Contender {
    Contender { peer, mirror: Mirror::Off }
}

const fn to(peer: Peer, mirror: Mirror) -> Contender {
    Contender { peer, mirror }
}

const EVERYBODY: &[Contender] = &[
    plain(HaproxyTcp),
    plain(Nginx),
    plain(Haproxy),
    plain(TrafficServer),
    plain(Caddy),
    plain(Envoy),
    plain(Segue),
];
const EVERYBODY_AND_NOBODY: &[Contender] = &[
    plain(NoProxy),
    plain(HaproxyTcp),
    plain(Nginx),
    plain(Haproxy),
    plain(TrafficServer),
    plain(Caddy),
    plain(Envoy),
    plain(Segue),
];
const HTTP_PEERS: &[Contender] =
    &[plain(Nginx), plain(Haproxy), plain(TrafficServer), plain(Caddy), plain(Envoy), plain(Segue)];
const BESIDE_BAD_SHADOWS: &[Contender] =
    &[plain(Segue), to(Segue, Mirror::Hung), to(Segue, Mirror::Dead), to(Segue, Mirror::Slow)];
const MAIN_PEERS: &[Contender] = &[plain(Nginx), plain(Haproxy), plain(Envoy), plain(Segue)];

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "small",
        what: "1 KiB answers, 64 kept-alive connections",
        contenders: EVERYBODY,
        workers: 1,
        downstream: Downstream::Http1,
        load: SMALL,
        compared: CpuPerRequest,
        shown: CLOSED,
        quick: true,
    },
    Scenario {
        name: "mirror",
        what: "the same, 5 % of the requests mirrored to a live shadow",
        contenders: &[
            to(Nginx, Mirror::Live),
            to(TrafficServer, Mirror::Live),
            to(Envoy, Mirror::Live),
            to(Segue, Mirror::Live),
        ],
        workers: 1,
        downstream: Downstream::Http1,
        load: SMALL,
        compared: CpuPerRequest,
        shown: CLOSED,
        quick: true,
    },
    Scenario {
        name: "cost",
        what: "the same, to tell a few hundredths: in turns of a tenth of a second",
        contenders: &[plain(HaproxyTcp), to(Segue, Mirror::Live), plain(Nginx), plain(Segue)],
        workers: 1,
        downstream: Downstream::Http1,
        load: SATURATING_IN_TURNS,
        compared: CpuPerRequest,
        shown: ALTERNATING,
        quick: true,
    },
    Scenario {
        name: "bad-shadow",
        what: "in such turns: the shadow hung, dead or 10 s slow; without a mirror beside it",
        contenders: BESIDE_BAD_SHADOWS,
        workers: 1,
        downstream: Downstream::Http1,
        load: SATURATING_IN_TURNS,
        compared: RequestsPerSecond,
        shown: ALTERNATING,
        quick: true,
    },
    Scenario {
        name: "hung-shadow-peers",
        what: "peers the same way",
        contenders: &[plain(Envoy), to(Envoy, Mirror::Hung), plain(Nginx), to(Nginx, Mirror::Hung)],
        workers: 1,
        downstream: Downstream::Http1,
        load: SMALL,
        compared: RequestsPerSecond,
        shown: CLOSED,
        quick: false,
    },
    Scenario {
        name: "large",
        what: "1 MiB answers, 64 kept-alive connections",
        contenders: EVERYBODY,
        workers: 1,
        downstream: Downstream::Http1,
        load: Load::Wrk { connections: 64, ask: Ask::Answer { bytes: KIB * KIB } },
        compared: CpuPerRequest,
        shown: CLOSED,
        quick: false,
    },
    Scenario {
        name: "upload",
        what: "64 KiB uploads, 64 kept-alive connections",
        contenders: EVERYBODY,
        workers: 1,
        downstream: Downstream::Http1,
        load: Load::Wrk { connections: 64, ask: Ask::Upload { bytes: 64 * KIB } },
        compared: CpuPerRequest,
        shown: CLOSED,
        quick: false,
    },
    Scenario {
        name: "tls-new",
        what: "TLS 1.3, ECDSA P-256, a new connection with a full handshake for each request, 16 at once",
        contenders: HTTP_PEERS,
        workers: 1,
        downstream: Downstream::Tls,
        load: Load::Handshakes { at_once: 16 },
        compared: CpuPerRequest,
        shown: CLOSED,
        quick: false,
    },
    Scenario {
        name: "tls-kept",
        what: "TLS 1.3, 1 KiB answers, 64 kept-alive connections",
        contenders: HTTP_PEERS,
        workers: 1,
        downstream: Downstream::Tls,
        load: SMALL,
        compared: CpuPerRequest,
        shown: CLOSED,
        quick: false,
    },
    Scenario {
        name: "http2",
        what: "HTTP/2 in clear, 1 KiB answers, one connection with 100 streams",
        contenders: &[plain(Nginx), plain(Haproxy), plain(Caddy), plain(Envoy), plain(Segue)],
        workers: 1,
        downstream: Downstream::H2c,
        load: Load::H2load { streams: 100 },
        compared: CpuPerRequest,
        shown: CLOSED,
        quick: false,
    },
    Scenario {
        name: "open",
        what: "1 KiB answers at half of Segue's saturation, open loop with Poisson arrivals",
        contenders: EVERYBODY_AND_NOBODY,
        workers: 1,
        downstream: Downstream::Http1,
        load: Load::Open { share: 0.5 },
        compared: P999Ms,
        shown: OPEN,
        quick: true,
    },
    Scenario {
        name: "tail",
        what: "the same, for a verdict on the last thousandth: in turns of a second",
        contenders: &[plain(HaproxyTcp), plain(Segue), plain(Nginx), plain(Haproxy)],
        workers: 1,
        downstream: Downstream::Http1,
        load: AT_EASE_IN_TURNS,
        compared: P999Ms,
        shown: OPEN,
        quick: false,
    },
    Scenario {
        name: "open-bad-shadow",
        what: "in such turns: the shadow hung, dead or 10 s slow; without a mirror beside it",
        contenders: BESIDE_BAD_SHADOWS,
        workers: 1,
        downstream: Downstream::Http1,
        load: AT_EASE_IN_TURNS,
        compared: P99Ms,
        shown: OPEN,
        quick: false,
    },
    Scenario {
        name: "open-mirror",
        what: "the same, 5 % mirrored to a live shadow",
        contenders: &[
            to(Nginx, Mirror::Live),
            to(TrafficServer, Mirror::Live),
            to(Envoy, Mirror::Live),
            to(Segue, Mirror::Live),
            plain(Segue),
        ],
        workers: 1,
        downstream: Downstream::Http1,
        load: Load::Open { share: 0.5 },
        compared: P999Ms,
        shown: OPEN,
        quick: false,
    },
    Scenario {
        name: "active-1000",
        what: "1 KiB answers, 1,000 busy connections",
        contenders: MAIN_PEERS,
        workers: 1,
        downstream: Downstream::Http1,
        load: Load::Wrk { connections: 1_000, ask: Ask::Answer { bytes: KIB } },
        compared: CpuPerRequest,
        shown: CLOSED,
        quick: false,
    },
    Scenario {
        name: "active-9000",
        what: "1 KiB answers, 9,000 busy connections",
        contenders: MAIN_PEERS,
        workers: 1,
        downstream: Downstream::Http1,
        load: Load::Wrk { connections: 9_000, ask: Ask::Answer { bytes: KIB } },
        compared: CpuPerRequest,
        shown: CLOSED,
        quick: false,
    },
    Scenario {
        name: "idle-1000",
        what: "HTTP/1.1 connections that rest, 100 to 1,000",
        contenders: HTTP_PEERS,
        workers: 1,
        downstream: Downstream::Http1,
        load: Load::Resting { from: 100, to: 1_000 },
        compared: KibPerConnection,
        shown: RESTING,
        quick: false,
    },
    Scenario {
        name: "idle-9000",
        what: "HTTP/1.1 connections that rest, 1,000 to 9,000",
        contenders: HTTP_PEERS,
        workers: 1,
        downstream: Downstream::Http1,
        load: Load::Resting { from: 1_000, to: 9_000 },
        compared: KibPerConnection,
        shown: RESTING,
        quick: false,
    },
    Scenario {
        name: "idle-tls",
        what: "TLS connections that rest, 1,000 to 5,000",
        contenders: HTTP_PEERS,
        workers: 1,
        downstream: Downstream::Tls,
        load: Load::Resting { from: 1_000, to: 5_000 },
        compared: KibPerConnection,
        shown: RESTING,
        quick: false,
    },
    Scenario {
        name: "idle-http2",
        what: "HTTP/2 connections that rest, 1,000 to 5,000",
        contenders: &[plain(Nginx), plain(Haproxy), plain(Caddy), plain(Envoy), plain(Segue)],
        workers: 1,
        downstream: Downstream::H2c,
        load: Load::Resting { from: 1_000, to: 5_000 },
        compared: KibPerConnection,
        shown: RESTING,
        quick: false,
    },
    Scenario {
        name: "two-workers",
        what: "1 KiB answers, 64 kept-alive connections, two workers",
        contenders: EVERYBODY,
        workers: 2,
        downstream: Downstream::Http1,
        load: SMALL,
        compared: CpuPerRequest,
        shown: CLOSED,
        quick: false,
    },
];

impl Load {
    /// Whether it leaves the cores time.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Open { .. } | Self::Alternating(Pace::Open { .. }))
    }
}

impl Pace {
    /// How often contenders are started in a round, and how many turns they then take: many where a verdict is about a few
    /// hundredths.
    pub const fn starts_and_turns(self) -> (usize, usize) {
        match self {
            Self::Closed { .. } => (6, 20),
            Self::Open { .. } => (3, 6),
        }
    }
}

impl Scenario {
    pub const fn case(&self, contender: Contender) -> Case {
        let Self { workers, downstream, load, .. } = *self;
        Case { contender, workers, downstream, load, routes: None, tee_percent: TEE_PERCENT }
    }

    /// Memory at rest takes half a minute of waiting, and hardly depends on the hour.
    pub const fn most_rounds(&self) -> usize {
        if matches!(self.load, Load::Resting { .. }) { 3 } else { usize::MAX }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mirror = match self.mirror {
            Mirror::Off => "",
            Mirror::Live => " + mirror",
            Mirror::Hung => " + hung shadow",
            Mirror::Dead => " + dead shadow",
            Mirror::Slow => " + slow shadow",
        };
        write!(f, "{}{mirror}", self.peer.name())
    }
}
