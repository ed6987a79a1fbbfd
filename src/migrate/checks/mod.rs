//! Whether one instance is healthy, asked of the instance itself and not through the proxy: the suite of checks that
//! its service's settings name.
//!
//! A check opens a connection of its own, because being able to accept one is part of being healthy. Running the
//! suite again and again is for whoever watches; [`History`] keeps what came of it.

pub(super) mod client;
pub(super) mod command;
mod history;
pub(super) mod probe;
#[cfg(test)]
pub(super) mod tests;

use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use self::client::Client;
use self::probe::Probe;
use crate::config::{self, Endpoint};
use crate::instance::{InstanceId, Role};

pub use self::client::ClientError;
pub use self::history::{History, Run};
pub use self::probe::CompileError;

/// The checks of one service, ready to run.
pub struct Suite {
    service: String,
    client: Client,
    checks: Vec<Check>,
}

struct Check {
    name: String,
    probe: Probe,
    timeout: Duration,
}

/// Whom to check.
#[derive(Clone, Copy, Debug)]
pub struct Patient<'a> {
    pub instance: &'a InstanceId,
    pub role: Role,
    pub endpoint: &'a Endpoint,
}

/// How one check went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    pub check: String,
    /// When it began.
    pub at: SystemTime,
    /// Until its verdict.
    pub took: Duration,
    /// Why it failed, in one line; `None` = it passed.
    pub failure: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    #[error("check {check:?}: {error}")]
    Compile { check: String, error: CompileError },
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Patient<'_> {
    /// What a command that asks about it finds in its environment.
    pub(super) fn variables(&self, service: &str) -> [(&'static str, String); 4] {
        [
            ("SEGUE_SERVICE", service.to_owned()),
            ("SEGUE_INSTANCE", self.instance.to_string()),
            ("SEGUE_ROLE", self.role.as_str().to_owned()),
            ("SEGUE_ENDPOINT", self.endpoint.to_string()),
        ]
    }
}

impl Suite {
    /// The checks of `settings`. Where there are none, the path of `upstream.health` is asked for, and without that
    /// the instance has to take a connection.
    ///
    /// `tls`: an endpoint that speaks TLS is going to be checked; its credentials are read now.
    pub fn new(service: &str, settings: &config::Service, tls: bool) -> Result<Self, SuiteError> {
        let client = Client::new(&settings.upstream.tls, tls)?;
        let compiled = |check: &config::Check| {
            let probe = Probe::new(&check.probe)
                .map_err(|error| SuiteError::Compile { check: check.name.clone(), error })?;
            Ok::<_, SuiteError>(Check { name: check.name.clone(), probe, timeout: check.timeout })
        };
        let checks = match (settings.checks.as_slice(), &settings.upstream.health) {
            ([], Some(health)) => {
                let get = config::Check::get(format!("GET {}", health.path), health.path.clone());
                vec![compiled(&config::Check { timeout: health.timeout, ..get })?]
            }
            ([], None) => vec![Check {
                name: "connect".to_owned(),
                probe: Probe::Connect,
                timeout: settings.upstream.connect_timeout,
            }],
            (checks, _) => checks.iter().map(compiled).collect::<Result<_, _>>()?,
        };
        Ok(Self { service: service.to_owned(), client, checks })
    }

    /// Runs every check against `patient`, all at once, and takes as long as the slowest of them, at most its timeout.
    /// In the order of the settings. Runs on a `LocalRuntime`.
    pub async fn run(&self, patient: Patient<'_>) -> Vec<CheckResult> {
        join_all(self.checks.iter().map(|check| self.run_one(check, patient))).await
    }

    async fn run_one(&self, check: &Check, patient: Patient<'_>) -> CheckResult {
        let (at, started) = (SystemTime::now(), Instant::now());
        let asked = check.probe.ask(&self.client, &self.service, patient, check.timeout).await;
        CheckResult {
            check: check.name.clone(),
            at,
            took: started.elapsed(),
            failure: asked.err().map(|error| error.to_string()),
        }
    }
}
