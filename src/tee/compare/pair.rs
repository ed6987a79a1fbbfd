//! What is remembered of a pair, and the most recent ones.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Method;
use serde::{Serialize, Serializer};

use super::difference::{redact_target, shorten};
use super::{Asked, Comparison, Difference, Outcome, Verdict};
use crate::config::InstanceName;

/// One compared pair. It names the instances and the generation it was taken at: evidence about an
/// instance must never be read as evidence about its successor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// Ascending; given by [`RecentPairs::push`].
    pub id: u64,
    #[serde(rename = "at_unix_ms", serialize_with = "unix_millis")]
    pub at: SystemTime,
    #[serde(serialize_with = "name")]
    pub service: Arc<str>,
    pub method: Cow<'static, str>,
    /// Redacted.
    pub path: String,
    pub generation: u64,
    pub source_instance: InstanceName,
    pub shadow_instance: InstanceName,
    pub verdict: Verdict,
    pub differences: Vec<Difference>,
    pub source: Times,
    pub shadow: Times,
    /// The source's time to last byte is the caller's doing.
    pub caller_slow: bool,
}

/// One side's times, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Times {
    pub first_byte_us: Option<u64>,
    pub last_byte_us: Option<u64>,
}

/// Who took part in a pair, and when.
#[derive(Clone, Debug)]
pub struct Parties {
    pub service: Arc<str>,
    pub generation: u64,
    pub source_instance: InstanceName,
    pub shadow_instance: InstanceName,
}

impl Pair {
    /// `target` is the request's path and query as the caller sent it.
    pub fn new(
        at: SystemTime,
        parties: Parties,
        asked: &Asked,
        target: &str,
        source: &Outcome,
        shadow: &Outcome,
        comparison: Comparison,
    ) -> Self {
        Self {
            id: 0,
            at,
            service: parties.service,
            method: shown(&asked.method),
            path: shorten(redact_target(target)),
            generation: parties.generation,
            source_instance: parties.source_instance,
            shadow_instance: parties.shadow_instance,
            verdict: comparison.verdict,
            differences: comparison.differences,
            source: Times::of(source),
            shadow: Times::of(shadow),
            caller_slow: source.caller_slow,
        }
    }
}

impl Times {
    fn of(outcome: &Outcome) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self { first_byte_us: outcome.first_byte.map(micros), last_byte_us: outcome.last_byte.map(micros) }
    }
}

fn unix_millis<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The usual ones as they are; anybody can make up others of any length.
fn shown(method: &Method) -> Cow<'static, str> {
    match *method {
        Method::GET => "GET".into(),
        Method::HEAD => "HEAD".into(),
        _ => shorten(method.as_str().to_owned()).into(),
    }
}

fn name<S: Serializer>(name: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name)
}

/// The latest pairs of a service, bounded. Mismatches have a ring of their own: a rare one has to be
/// there when somebody looks, however many good pairs came after it.
#[derive(Debug)]
pub struct RecentPairs {
    next: u64,
    capacity: usize,
    mismatched: VecDeque<Pair>,
    others: VecDeque<Pair>,
}

impl RecentPairs {
    /// Keeps up to `capacity` mismatches and as many others.
    pub fn new(capacity: usize) -> Self {
        Self { next: 1, capacity, mismatched: VecDeque::new(), others: VecDeque::new() }
    }

    pub fn push(&mut self, mut pair: Pair) {
        pair.id = self.next;
        self.next += 1;
        let ring = if pair.verdict.is_mismatch() { &mut self.mismatched } else { &mut self.others };
        if ring.len() >= self.capacity {
            ring.pop_front();
        }
        if self.capacity > 0 {
            ring.push_back(pair);
        }
    }

    /// The newest first.
    pub fn latest(&self, only_mismatched: bool, limit: usize) -> Vec<&Pair> {
        let mut pairs: Vec<&Pair> = self.mismatched.iter().collect();
        if !only_mismatched {
            pairs.extend(&self.others);
        }
        pairs.sort_unstable_by_key(|pair| std::cmp::Reverse(pair.id));
        pairs.truncate(limit);
        pairs
    }
}
