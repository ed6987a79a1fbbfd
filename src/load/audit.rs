//! After the run: is every acknowledged write in the application's ledger, exactly once?

use std::collections::BTreeMap;

use super::LoadReport;

/// What the ledger says of a run's writes. Keys of other runs are not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Acknowledged, and not there.
    pub lost: Vec<String>,
    /// There more than once, acknowledged or not.
    pub doubled: Vec<String>,
    /// There once without having been acknowledged: taken, but the caller could not know.
    pub unacknowledged_present: Vec<String>,
}

impl Audit {
    /// No acknowledged write is missing and none was taken twice.
    pub fn is_exact(&self) -> bool {
        self.lost.is_empty() && self.doubled.is_empty()
    }
}

/// `ledger`: writes per key, of all instances that took any.
pub fn audit(report: &LoadReport, ledger: &BTreeMap<String, u64>) -> Audit {
    let mut audit = Audit::default();
    let acknowledged = report.acknowledged.iter().map(|&number| (number, true));
    let uncertain = report.uncertain.iter().map(|&number| (number, false));
    for (number, was_acknowledged) in acknowledged.chain(uncertain) {
        let key = report.key(number);
        match (ledger.get(&key).copied().unwrap_or(0), was_acknowledged) {
            (0, true) => audit.lost.push(key),
            (1, false) => audit.unacknowledged_present.push(key),
            (0, false) | (1, true) => {}
            _ => audit.doubled.push(key),
        }
    }
    audit
}
