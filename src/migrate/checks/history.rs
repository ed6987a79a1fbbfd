//! The last runs of a suite.

use std::collections::VecDeque;

use super::CheckResult;
use crate::migrate::gate::Health;

/// Runs, the newest last; of those beyond its capacity the oldest are forgotten.
#[derive(Clone, Debug)]
pub struct History {
    runs: VecDeque<Run>,
    capacity: usize,
}

/// One run of all checks.
#[derive(Clone, Debug, PartialEq)]
pub struct Run(pub Vec<CheckResult>);

impl Run {
    /// Every check passed, and there was one.
    pub fn is_good(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|result| result.failure.is_none())
    }

    /// `CHECK: REASON` of the first check that failed.
    pub fn failure(&self) -> Option<String> {
        let failed = |result: &CheckResult| Some(format!("{}: {}", result.check, result.failure.as_ref()?));
        self.0.iter().find_map(failed)
    }
}

impl History {
    /// Keeps `capacity` runs, at least one.
    pub fn new(capacity: usize) -> Self {
        Self { runs: VecDeque::new(), capacity: capacity.max(1) }
    }

    pub fn push(&mut self, results: Vec<CheckResult>) {
        while self.runs.len() >= self.capacity {
            self.runs.pop_front();
        }
        self.runs.push_back(Run(results));
    }

    /// The oldest first.
    pub fn runs(&self) -> impl DoubleEndedIterator<Item = &Run> {
        self.runs.iter()
    }

    /// Forgets all of them: they were of another instance, or of another size of it.
    pub fn clear(&mut self) {
        self.runs.clear();
    }

    /// What the health gate judges by.
    pub fn health(&self) -> Health {
        let good = |run: &&Run| run.is_good();
        Health {
            runs: self.runs.len() as u64,
            failed: self.runs.iter().filter(|run| !run.is_good()).count() as u64,
            good_in_a_row: self.runs.iter().rev().take_while(good).count() as u64,
            last_failure: self.runs.iter().rev().find_map(Run::failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn result(failure: Option<&str>) -> CheckResult {
        CheckResult {
            check: "stock".to_owned(),
            at: SystemTime::UNIX_EPOCH,
            took: Duration::ZERO,
            failure: failure.map(str::to_owned),
        }
    }

    #[test]
    fn health_is_counted_by_runs_and_the_oldest_are_forgotten() {
        let mut history = History::new(3);
        assert_eq!(history.health(), Health::default());
        history.push(vec![result(Some("old")), result(None)]);
        history.push(vec![result(None), result(Some("answered 503"))]);
        history.push(vec![result(None)]);
        history.push(vec![result(None), result(None)]);
        let last_failure = Some("stock: answered 503".to_owned());
        assert_eq!(history.health(), Health { runs: 3, failed: 1, good_in_a_row: 2, last_failure });
        history.push(Vec::new());
        assert_eq!(history.health().good_in_a_row, 0, "nothing checked is nothing known");
        history.clear();
        assert_eq!(history.health(), Health::default());
    }
}
