//! What an instance was asked, so that a test can tell a teed request from a caller's.
//!
//! Each worker counts for itself, on cache lines of its own; a reading adds them up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderName, Method, Request};
use serde::Serialize;

/// Marks a teed request.
const TEE: HeaderName = HeaderName::from_static("segue-tee");

const METHODS: [&str; 10] =
    ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "other"];
/// The first three of [`METHODS`] are the ones that may be teed without further proof.
const READS: usize = 3;

/// Requests so far, those under `/__` not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    pub total: u64,
    /// Carried `Segue-Tee`.
    pub teed: u64,
    /// Carried `Segue-Tee`, and the method was not GET, HEAD or OPTIONS.
    pub writes_teed: u64,
    /// Methods that came at all.
    pub by_method: BTreeMap<&'static str, u64>,
}

/// One worker's counters. The alignment keeps two workers' off one pair of cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Counters {
    by_method: [AtomicU64; METHODS.len()],
    teed: AtomicU64,
    writes_teed: AtomicU64,
}

impl Counters {
    pub fn count<B>(&self, request: &Request<B>) {
        let method = match *request.method() {
            Method::GET => 0,
            Method::HEAD => 1,
            Method::OPTIONS => 2,
            Method::POST => 3,
            Method::PUT => 4,
            Method::DELETE => 5,
            Method::PATCH => 6,
            Method::TRACE => 7,
            Method::CONNECT => 8,
            _ => 9,
        };
        if let Some(counter) = self.by_method.get(method) {
            add_one(counter);
        }
        if request.headers().contains_key(TEE) {
            add_one(&self.teed);
            if method >= READS {
                add_one(&self.writes_teed);
            }
        }
    }
}

/// Only the owning worker writes, so a plain load and store will do.
fn add_one(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

pub(super) fn sum<'a>(workers: impl IntoIterator<Item = &'a Counters>) -> Seen {
    let mut seen = Seen::default();
    for worker in workers {
        for (name, counter) in METHODS.into_iter().zip(&worker.by_method) {
            let count = counter.load(Ordering::Relaxed);
            seen.total += count;
            if count > 0 {
                *seen.by_method.entry(name).or_default() += count;
            }
        }
        seen.teed += worker.teed.load(Ordering::Relaxed);
        seen.writes_teed += worker.writes_teed.load(Ordering::Relaxed);
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_teed_write_stands_out() {
        let (one, two) = (Counters::default(), Counters::default());
        let request = |method: &str, teed: bool| {
            let builder = Request::builder().method(method);
            let builder = if teed { builder.header("Segue-Tee", "shadow") } else { builder };
            builder.body(()).unwrap()
        };
        one.count(&request("GET", false));
        one.count(&request("OPTIONS", true));
        two.count(&request("GET", true));
        two.count(&request("PUT", false));
        let seen = sum([&one, &two]);
        assert_eq!((seen.total, seen.teed, seen.writes_teed), (4, 2, 0));
        assert_eq!(seen.by_method, BTreeMap::from([("GET", 2), ("OPTIONS", 1), ("PUT", 1)]));

        two.count(&request("PURGE", true));
        assert_eq!(sum([&one, &two]).writes_teed, 1);
    }
}
