//! Whether a service could be moved, found out without moving it: the provider is asked, and the new instance is
//! started, looked at, and destroyed again.
//!
//! Nothing of it is journalled. The instance is nobody's but the dry run's, so a Segue that is killed in the middle
//! leaves one that nobody knows, and the next one destroys those.

mod report;
mod trial;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::{Deserializer, Error, Visitor};
use tokio::sync::{oneshot, watch};

pub(super) use self::report::before;
use self::trial::Trial;
use super::{Control, MigrationError, MigrationRequest, Migrations};
use crate::instance::{Allocation, Finding, Gravity, InstanceId};

/// For those under way to be undone, when this process ends or is replaced. What is left then is found at the next start.
const UNDONE: Duration = Duration::from_secs(10);

/// How far it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The provider is asked; nothing is made.
    Static,
    /// The new instance is started, and destroyed again.
    Full,
}

/// The compatibility report of a migration that was not started.
#[derive(Clone, Debug, Serialize)]
pub struct DryRun {
    pub service: Arc<str>,
    pub provider: &'static str,
    /// It could run here.
    pub compatible: bool,
    /// The new instance was started to find out.
    pub started: bool,
    pub report: Vec<Finding>,
    pub starts_with: Allocation,
    pub serves_with: Allocation,
}

/// Those under way, by service; one for each at a time.
#[derive(Clone, Debug)]
pub(super) struct DryRuns(Arc<watch::Sender<HashMap<String, Option<InstanceId>>>>);

/// One is under way for as long as this lives.
struct Turn {
    all: DryRuns,
    service: String,
}

impl Control {
    /// Says whether it could run, and leaves everything as it was. A migration of the service that begins meanwhile ends
    /// it, and so does whoever asked by going away.
    pub async fn try_migration(
        self: &Arc<Self>,
        request: MigrationRequest,
        depth: Depth,
    ) -> Result<DryRun, MigrationError> {
        if self.turns.is_ending() {
            return Err(MigrationError::Ending);
        }
        let turn = self.migrations.dry_runs.begin(&request.service)?;
        let record = self.prepare_migration(request).await?;
        let provider = Arc::clone(self.providers().of(&record.spec.workload)?);
        let looked_at = provider.preflight(&record.spec).await;
        let (starts_with, serves_with) = (record.spec.allocation, record.wanted);
        let (service, kind) = (record.spec.service.clone(), record.spec.workload.provider());
        let is_fault = |finding: &Finding| finding.gravity == Gravity::Fault;
        let started = depth == Depth::Full && !looked_at.iter().any(is_fault);
        let mut report = before(&record, &looked_at);
        let silence = if started {
            turn.is_of(&record.spec.id);
            let (mut asked, answer) = oneshot::channel();
            let trial = Trial { control: Arc::clone(self), record, provider };
            tokio::task::spawn_local(async move {
                let found = trial.run(&mut asked).await;
                drop(turn);
                // Whoever asked may have gone.
                let _ = asked.send(found);
            });
            let found = answer.await.map_err(|_| MigrationError::Ending)??;
            report.splice(0..0, found);
            report::Silence::Tried
        } else if depth == Depth::Static {
            report::Silence::Static
        } else {
            report::Silence::NotStarted
        };
        report.splice(0..0, looked_at);
        report::complete(&mut report, silence);
        Ok(DryRun {
            service: service.into(),
            provider: kind,
            compatible: !report.iter().any(is_fault),
            started,
            report,
            starts_with,
            serves_with,
        })
    }
}

impl Migrations {
    /// Waits until nothing is left of those under way, but not for ever.
    pub async fn dry_runs_are_over(&self) {
        let mut all = self.dry_runs.0.subscribe();
        if tokio::time::timeout(UNDONE, all.wait_for(HashMap::is_empty)).await.is_err() {
            tracing::warn!("the instance of a dry run is still there; the next start of Segue destroys it");
        }
    }
}

impl Default for DryRuns {
    fn default() -> Self {
        Self(Arc::new(watch::channel(HashMap::new()).0))
    }
}

impl DryRuns {
    fn begin(&self, service: &str) -> Result<Turn, MigrationError> {
        let begun = self.0.send_if_modified(|all| {
            let free = !all.contains_key(service);
            if free {
                all.insert(service.to_owned(), None);
            }
            free
        });
        if begun {
            return Ok(Turn { all: self.clone(), service: service.to_owned() });
        }
        Err(MigrationError::NotNow(format!(
            "a dry run of `{service}` is under way; try again when it is over, or start the migration itself"
        )))
    }

    /// What they have made.
    pub fn instances(&self) -> Vec<InstanceId> {
        self.0.borrow().values().flatten().cloned().collect()
    }
}

impl Turn {
    /// Known before anything of it is made.
    fn is_of(&self, instance: &InstanceId) {
        self.all.0.send_modify(|all| {
            all.insert(self.service.clone(), Some(instance.clone()));
        });
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.all.0.send_modify(|all| {
            all.remove(&self.service);
        });
    }
}

/// `true` or a word, as it is asked for.
pub(super) fn depth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Depth>, D::Error> {
    struct Words;
    impl Visitor<'_> for Words {
        type Value = Option<Depth>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true, false, \"full\" or \"static\" as `dry_run`")
        }

        fn visit_bool<E: Error>(self, asked: bool) -> Result<Self::Value, E> {
            Ok(asked.then_some(Depth::Full))
        }

        fn visit_str<E: Error>(self, word: &str) -> Result<Self::Value, E> {
            match word {
                "full" => Ok(Some(Depth::Full)),
                "static" => Ok(Some(Depth::Static)),
                _ => Err(E::invalid_value(serde::de::Unexpected::Str(word), &self)),
            }
        }
    }
    deserializer.deserialize_any(Words)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_dry_run_is_asked_for_by_a_flag_or_a_word() {
        let asked = |value| {
            let request = json!({ "service": "web", "dry_run": value });
            let request = serde_json::from_value::<MigrationRequest>(request);
            request.map(|request| request.dry_run).map_err(|error| error.to_string())
        };
        assert_eq!(asked(json!(true)), Ok(Some(Depth::Full)));
        assert_eq!(asked(json!(false)), Ok(None));
        assert_eq!(asked(json!("full")), Ok(Some(Depth::Full)));
        assert_eq!(asked(json!("static")), Ok(Some(Depth::Static)));
        let refused = asked(json!("some")).unwrap_err();
        assert!(refused.contains("\"full\" or \"static\""), "{refused}");
        assert!(asked(json!(1)).is_err());
    }

    #[test]
    fn one_at_a_time_for_each_service_and_its_instance_is_known() {
        let all = DryRuns::default();
        let turn = all.begin("web").unwrap();
        assert!(all.begin("web").is_err() && all.begin("shop").is_ok());
        let id = InstanceId::new("s-web-1").unwrap();
        turn.is_of(&id);
        assert_eq!(all.instances(), [id]);
        drop(turn);
        assert_eq!(all.instances(), []);
        assert!(all.begin("web").is_ok());
    }
}
