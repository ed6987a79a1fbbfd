//! The reads that were teed lately, so that a new shadow, or one that was started again, can be warmed with them.
//!
//! Only what may be asked again by anybody: a GET without a body, credentials, range or conditions. Targets are kept as they
//! came, as a shadow has to be asked for the real thing; they are never shown, stored, or sent to anybody but a shadow.

use std::collections::{HashSet, VecDeque};

use http::{HeaderValue, Method};

use super::compare::Asked;

/// A longer target is not kept, so that the whole is bounded by its count.
const LONGEST: usize = 2048;

/// What to ask for, and of which host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Read {
    pub host: Option<String>,
    /// Path and query.
    pub target: String,
}

/// Distinct ones, the oldest first.
#[derive(Debug, Default)]
pub struct RecentReads {
    limit: usize,
    order: VecDeque<Read>,
    known: HashSet<Read>,
}

impl RecentReads {
    /// At most so many; 0 = none, and what is kept is dropped.
    pub fn keep(&mut self, limit: usize) {
        self.limit = limit;
        self.shrink();
    }

    pub fn note(&mut self, asked: &Asked, host: Option<&HeaderValue>, target: &str) {
        let again = asked.method == Method::GET && !asked.credentials && !asked.ranged && !asked.conditional;
        if self.limit == 0 || !again || target.len() > LONGEST {
            return;
        }
        let host = host.and_then(|host| host.to_str().ok()).map(str::to_owned);
        let read = Read { host, target: target.to_owned() };
        if self.known.insert(read.clone()) {
            self.order.push_back(read);
            self.shrink();
        }
    }

    pub fn all(&self) -> Vec<Read> {
        self.order.iter().cloned().collect()
    }

    fn shrink(&mut self) {
        while self.order.len() > self.limit {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: Method) -> Asked {
        Asked { method, conditional: false, ranged: false, credentials: false }
    }

    fn targets(reads: &RecentReads) -> Vec<String> {
        reads.all().into_iter().map(|read| read.target).collect()
    }

    #[test]
    fn the_last_distinct_ones_are_kept_and_no_more() {
        let mut reads = RecentReads::default();
        reads.note(&asked(Method::GET), None, "/before");
        reads.keep(3);
        for target in ["/a", "/b", "/a", "/c?x=1", "/d"] {
            reads.note(&asked(Method::GET), Some(&HeaderValue::from_static("app.example")), target);
        }
        assert_eq!(targets(&reads), ["/b", "/c?x=1", "/d"]);
        assert_eq!(reads.all()[0].host.as_deref(), Some("app.example"));
        reads.note(&asked(Method::GET), None, "/a");
        assert_eq!(targets(&reads).last().map(String::as_str), Some("/a"), "forgotten, so it is new again");
        reads.keep(1);
        assert_eq!(targets(&reads), ["/a"]);
        reads.keep(0);
        assert_eq!(targets(&reads), [""; 0]);
    }

    #[test]
    fn what_is_somebodys_own_is_not_kept() {
        let mut reads = RecentReads::default();
        reads.keep(9);
        reads.note(&Asked { credentials: true, ..asked(Method::GET) }, None, "/mine");
        reads.note(&Asked { ranged: true, ..asked(Method::GET) }, None, "/part");
        reads.note(&Asked { conditional: true, ..asked(Method::GET) }, None, "/maybe");
        reads.note(&asked(Method::HEAD), None, "/head");
        reads.note(&asked(Method::POST), None, "/_search");
        reads.note(&asked(Method::GET), None, &"/".repeat(LONGEST + 1));
        assert_eq!(targets(&reads), [""; 0]);
    }
}
