//! What cost is measured against as work grows: each axis is a row of data, as scenarios are.

use crate::peer::Peer;
use crate::scenario::{Ask, Case, Contender, Downstream, KIB, Load, Mirror, SMALL};

/// One thing that grows while everything else stays.
pub struct Axis {
    pub name: &'static str,
    /// In a heading, after "CPU time per request against".
    pub against: &'static str,
    /// What stays.
    pub what: &'static str,
    /// Rising.
    pub points: &'static [usize],
    pub show: fn(usize) -> String,
    pub scale: Scale,
    pub cost_scale: Scale,
    pub case: fn(usize) -> Case,
    /// How many times the cost of the first point the last may be. `None`: it grows by nature, and is only shown.
    pub bound: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Linear,
    Log,
}

const MIB: usize = KIB * KIB;

const BASE: Case = Case {
    contender: Contender { peer: Peer::Segue, mirror: Mirror::Off },
    workers: 1,
    downstream: Downstream::Http1,
    load: SMALL,
    routes: None,
    tee_percent: 0,
};

pub const AXES: &[Axis] = &[
    Axis {
        name: "connections",
        against: "busy connections",
        what: "1 KiB answers, tee off",
        points: &[1, 8, 64, 512, 1_000, 4_000, 9_000],
        show: grouped,
        scale: Scale::Log,
        cost_scale: Scale::Linear,
        case: |connections| Case { load: Load::Wrk { connections, ask: Ask::Answer { bytes: KIB } }, ..BASE },
        bound: None,
    },
    Axis {
        name: "body",
        against: "the size of an answer's body",
        // Requests are counted when they begin: with few large answers in flight that is near enough to their end.
        what: "8 connections, tee off",
        points: &[0, KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB],
        show: size,
        scale: Scale::Log,
        cost_scale: Scale::Log,
        case: |bytes| Case { load: Load::Wrk { connections: 8, ask: Ask::Answer { bytes } }, ..BASE },
        bound: None,
    },
    Axis {
        name: "routes",
        against: "configured routes",
        what: "64 connections, 1 KiB answers, tee off; the last route is asked",
        points: &[1, 10, 100, 1_000, 10_000],
        show: grouped,
        scale: Scale::Log,
        cost_scale: Scale::Linear,
        case: |routes| Case { routes: Some(routes), ..BASE },
        bound: Some(1.1),
    },
    Axis {
        name: "tee",
        against: "the tee's percentage",
        what: "64 connections, 1 KiB answers, a live shadow; the lane's CPU time included",
        points: &[0, 1, 5, 20, 50, 100],
        show: |percent| format!("{percent} %"),
        scale: Scale::Linear,
        cost_scale: Scale::Linear,
        case: |percent| Case {
            contender: Contender { peer: Peer::Segue, mirror: Mirror::Live },
            tee_percent: u8::try_from(percent).unwrap_or(100),
            ..BASE
        },
        bound: None,
    },
];

/// With a comma between thousands.
pub fn grouped(number: usize) -> String {
    let (thousands, rest) = (number / 1_000, number % 1_000);
    if thousands == 0 { rest.to_string() } else { format!("{},{rest:03}", grouped(thousands)) }
}

fn size(bytes: usize) -> String {
    match bytes {
        0 => "0".to_owned(),
        MIB.. => format!("{} MiB", bytes / MIB),
        _ => format!("{} KiB", bytes / KIB),
    }
}
