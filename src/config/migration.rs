//! Settings of a migration of one service: when it may switch, how long it may take, how the instances are
//! checked and told.

pub(super) mod read;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Endpoint, Requirement, Window};

/// How a service is moved to another instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Migration {
    pub policy: Policy,
    /// When a switchover may begin; empty = at any time.
    pub windows: Vec<Window>,
    /// From its start a migration has to be switched over within this, or it is cancelled.
    pub deadline: Duration,
    /// For which the new instance's answers are watched, with the old one ready to take over again.
    pub watch: Duration,
    /// From the end of the watch to the end of the old instance.
    pub grace: Duration,
    /// Pairs before the gates that rest on them may pass.
    pub min_pairs: u64,
    /// Runs when an instance becomes active, while callers are held.
    pub on_promote: Option<Hook>,
    /// Runs when an instance stops being active, while callers are held.
    pub on_demote: Option<Hook>,
    /// What a new instance has to reach; a dry run looks for it from where the instance is.
    pub requires: Vec<Requirement>,
    /// How an instance is asked for its version, and for that of its data's schema; a dry run compares both sides.
    pub version: Option<Reading>,
    pub schema_version: Option<Reading>,
    /// Where the instance that serves counts its requests itself, to be held against what Segue has sent it.
    pub bypass: Option<RequestCounter>,
    /// What a new instance is asked for before it is judged.
    pub warm: Option<Warm>,
}

/// Who decides that a migration which is ready switches over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The gates.
    Auto,
    /// An operator, once the gates pass.
    Manual,
}

/// How somebody else is told that an instance changes its role.
#[derive(Clone, Debug, PartialEq)]
pub struct Hook {
    pub call: Call,
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Any 2xx is consent.
    Http { method: String, endpoint: Endpoint, path: String },
    /// The program and its arguments; exit code 0 is consent.
    Command(Vec<String>),
}

/// Something that an instance says about itself in one line.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    pub of: ReadingOf,
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ReadingOf {
    /// GET `path`, with its query. The value at the JSON pointer, or the first line of the body.
    Http { path: String, json: Option<String> },
    /// The program and its arguments; the last line that it writes.
    Command(Vec<String>),
}

/// Requests that fill an instance's caches.
#[derive(Clone, Debug, PartialEq)]
pub struct Warm {
    /// Paths, with their queries, to GET.
    pub requests: Vec<String>,
    /// So many of the last distinct reads that were teed; 0 = none.
    pub recent: usize,
    /// Requests a second, …
    pub per_second: u32,
    /// … and at once.
    pub concurrency: usize,
}

impl Warm {
    /// What a service that gets two thousand a second gets in a tenth of a second: nothing that would hurt a shadow, and
    /// a thousand are through in twenty seconds.
    pub const PER_SECOND: u32 = 50;
    pub const CONCURRENCY: usize = 4;
    /// Of each kind.
    pub const MOST: usize = 1000;
}

/// A counter of requests on a page of metrics in Prometheus' text format.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestCounter {
    pub metrics: Metrics,
    /// The name of the counter, as it stands on the page.
    pub counter: String,
    /// Only rows that have all of these count.
    pub labels: Vec<(String, String)>,
}

/// Where a page of metrics is.
#[derive(Clone, Debug, PartialEq)]
pub enum Metrics {
    /// At this path of each endpoint of the instance.
    OfInstance(String),
    At(Endpoint, String),
}

/// One check of the suite that says whether an instance is healthy.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Unique in its service.
    pub name: String,
    pub probe: Probe,
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    Http(Box<HttpProbe>),
    /// The program and its arguments; exit code 0 is health.
    Command(Vec<String>),
}

/// A request to the instance itself.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpProbe {
    pub method: String,
    /// With its query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Option<String>,
    pub expect: Expect,
}

/// What an answer has to be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expect {
    /// Empty = any 2xx.
    pub status: Vec<u16>,
    /// Header names in lower case, and a regex on a value of each.
    pub headers: Vec<(String, String)>,
    /// JSON pointers, and the value that the body has there.
    pub json: Vec<(String, Value)>,
    /// A regex on the body.
    pub body: Option<String>,
    /// From sending the request to the last byte of the answer.
    pub within: Option<Duration>,
}

impl Default for Migration {
    fn default() -> Self {
        Self {
            // Whoever starts a migration wants it to arrive; the gates are what approves it.
            policy: Policy::Auto,
            windows: Vec::new(),
            deadline: Duration::from_hours(24),
            watch: Duration::from_mins(1),
            grace: Duration::from_mins(1),
            min_pairs: 300,
            on_promote: None,
            on_demote: None,
            requires: Vec::new(),
            version: None,
            schema_version: None,
            bypass: None,
            warm: None,
        }
    }
}

impl Migration {
    /// What the hooks may add to a pause.
    pub fn hook_time(&self) -> Duration {
        let hooks = [&self.on_promote, &self.on_demote];
        hooks.into_iter().flatten().map(|hook| hook.timeout).sum()
    }
}

impl Hook {
    /// Callers are held meanwhile: two hooks stay within the 5 s that a request is held by default.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
}

impl Check {
    /// Longer than an answer that is worth waiting for, shorter than the patience of whoever starts a migration.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

    /// GET `path` answers 2xx.
    pub fn get(name: impl Into<String>, path: impl Into<String>) -> Self {
        let probe = HttpProbe {
            method: "GET".to_owned(),
            path: path.into(),
            headers: Vec::new(),
            body: None,
            expect: Expect::default(),
        };
        Self { name: name.into(), probe: Probe::Http(Box::new(probe)), timeout: Self::DEFAULT_TIMEOUT }
    }
}
