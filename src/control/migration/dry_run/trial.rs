//! The life of the instance of a dry run: made, started, looked at until it is ready or plainly will not be, destroyed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::super::steps::{START_UP, again};
use super::super::{Control, MigrationError};
use super::report::{self, Compared, Outcome, Start};
use crate::config::{self, Endpoint, Scheme};
use crate::instance::{Finding, InstanceId, Provider, Role, Sight, State, takes_connections};
use crate::migrate::checks::{Patient, Suite};
use crate::migrate::protocol::{self, NotTold, Spoken};
use crate::migrate::reading::Reader;
use crate::migrate::record::Record;

/// Between two looks at an instance that starts: what its time until ready is told to.
const LOOK: Duration = Duration::from_millis(50);
/// For which one that is ready is watched further: its memory, and whether it stays.
const STEADY: Duration = Duration::from_secs(1);
/// For an answer by which the protocol is told.
const PROTOCOL: Duration = Duration::from_secs(5);
/// Tries to destroy it, a second apart.
const TRIES: u32 = 5;

type Answer = Result<Vec<Finding>, MigrationError>;

pub(super) struct Trial {
    pub control: Arc<Control>,
    pub record: Record,
    pub provider: Arc<dyn Provider>,
}

impl Trial {
    /// Whatever comes of it, nothing of the instance is left afterwards. Given up once nobody waits for `asked`.
    pub async fn run(&self, asked: &mut oneshot::Sender<Answer>) -> Answer {
        let began = Instant::now();
        let looked = match self.start().await {
            // Making it is not broken off in the middle: what it would leave could not be told from what is being made.
            Ok(endpoints) => tokio::select! {
                looked = self.look(&endpoints, began) => looked,
                () = asked.closed() => Ok(Vec::new()),
            },
            Err(refused) => Ok(report::starts(&Outcome {
                start: Start::Refused(refused),
                memory_peak: None,
                granted: self.record.spec.allocation,
                said: String::new(),
            })),
        };
        let left = self.destroy().await;
        looked.map(|mut report| {
            report.extend(left);
            report
        })
    }

    async fn start(&self) -> Result<Vec<Endpoint>, String> {
        let spec = &self.record.spec;
        tracing::info!(service = spec.service, instance = %spec.id, "a dry run starts an instance");
        again(|| self.provider.create(spec)).await.map_err(|error| error.to_string())?;
        let running = again(|| self.provider.start(spec)).await.map_err(|error| error.to_string())?;
        // Asking the instance that serves would say nothing about this one, and is not for a dry run to do.
        let serving = self.serving();
        match running.endpoints.iter().find(|endpoint| serving.contains(endpoint)) {
            Some(same) => Err(format!("it would answer at {same}, where the instance that serves does")),
            None => Ok(running.endpoints),
        }
    }

    async fn look(&self, endpoints: &[Endpoint], began: Instant) -> Answer {
        let id = &self.record.spec.id;
        // Before it may have ended: what it sees is gone then.
        let sight = self.provider.sight(id).await.ok().flatten();
        let mut peak = None;
        let mut start = self.watch(endpoints, began, &mut peak).await?;
        if let Start::Ready { .. } = start
            && let Some(ended) = self.steady(&mut peak).await
        {
            start = ended;
        }
        self.sample(&mut peak).await;
        let is_ready = matches!(start, Start::Ready { .. });
        let said = if is_ready { String::new() } else { self.provider.tail(id).await };
        let granted = self.record.spec.allocation;
        let outcome = Outcome { start, memory_peak: peak, granted, said };
        let mut report = report::starts(&outcome);
        report.extend(report::dependencies(&self.required(sight).await, &outcome));
        if is_ready {
            for endpoint in endpoints {
                report.push(report::protocol(endpoint, &self.spoken(endpoint).await));
            }
            report.extend(self.versions(endpoints).await);
        }
        Ok(report)
    }

    /// Until it is ready, has ended, or is late.
    async fn watch(
        &self,
        endpoints: &[Endpoint],
        began: Instant,
        peak: &mut Option<u64>,
    ) -> Result<Start, MigrationError> {
        let spec = &self.record.spec;
        let patience = START_UP.min(self.record.options.deadline);
        loop {
            if let Some(ended) = self.ended().await {
                return Ok(ended);
            }
            self.sample(peak).await;
            let why = match self.is_ready(endpoints).await {
                Ok(checks) => return Ok(Start::Ready { after: began.elapsed(), checks }),
                Err(why) => why,
            };
            if began.elapsed() >= patience {
                return Ok(Start::Late { after: patience, why });
            }
            if self.control.turns.is_ending() {
                return Err(MigrationError::Ending);
            }
            if let Some(migration) = self.control.under_way(&spec.service).await? {
                return Err(MigrationError::UnderWay(migration));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Many an application answers before it has loaded all that it needs; how it ended, if that was too much for it.
    async fn steady(&self, peak: &mut Option<u64>) -> Option<Start> {
        let began = Instant::now();
        while began.elapsed() < STEADY {
            tokio::time::sleep(LOOK).await;
            self.sample(peak).await;
            let ended = self.ended().await;
            if ended.is_some() {
                return ended;
            }
        }
        None
    }

    async fn ended(&self) -> Option<Start> {
        match self.provider.state(&self.record.spec.id).await {
            Ok(State::Ended { code, out_of_memory }) => Some(Start::Ended { code, out_of_memory }),
            Ok(State::Absent | State::Made) => Some(Start::Ended { code: None, out_of_memory: false }),
            // What cannot be seen now may be seen a little later.
            Ok(State::Running | State::Fenced) | Err(_) => None,
        }
    }

    /// Takes connections and passes the service's checks; how many these are.
    async fn is_ready(&self, endpoints: &[Endpoint]) -> Result<usize, String> {
        takes_connections(endpoints).await?;
        let settings = self.settings()?;
        let suite = Suite::new(&self.record.spec.service, &settings, is_tls(endpoints))
            .map_err(|error| error.to_string())?;
        let mut passed = 0;
        for endpoint in endpoints {
            let results = suite.run(self.patient(endpoint)).await;
            passed = results.len();
            if let Some(failed) = results.into_iter().find(|of| of.failure.is_some()) {
                let why = failed.failure.unwrap_or_default();
                return Err(format!("its check {:?} fails: {why}", failed.check));
            }
        }
        Ok(passed)
    }

    async fn sample(&self, peak: &mut Option<u64>) {
        if let Ok(usage) = self.provider.usage(&self.record.spec.id).await {
            *peak = (*peak).max(usage.memory_peak.max(usage.memory));
        }
    }

    async fn required(&self, sight: Option<Sight>) -> Vec<report::Looked> {
        let required = self.settings().map(|settings| settings.migration.requires.clone());
        let mut looked = Vec::new();
        for requirement in required.unwrap_or_default() {
            let found = match &sight {
                Some(sight) => sight.find(&requirement).await,
                None => Err(report::unseen()),
            };
            looked.push((requirement, found));
        }
        looked
    }

    async fn spoken(&self, endpoint: &Endpoint) -> Result<Spoken, NotTold> {
        protocol::spoken(endpoint, PROTOCOL).await
    }

    async fn versions(&self, endpoints: &[Endpoint]) -> Vec<Finding> {
        let Ok(settings) = self.settings() else { return Vec::new() };
        let config::Migration { version, schema_version, .. } = &settings.migration;
        let mut found = Vec::new();
        if let Some(reading) = version {
            found.push(report::version(&self.compare(reading, &settings, endpoints).await));
        }
        if let Some(reading) = schema_version {
            found.push(report::schema(&self.compare(reading, &settings, endpoints).await));
        }
        found
    }

    /// What both sides say.
    async fn compare(
        &self,
        reading: &config::Reading,
        settings: &config::Service,
        endpoints: &[Endpoint],
    ) -> Compared {
        let serving = self.serving();
        let tls = is_tls(endpoints) || is_tls(&serving);
        let reader = match Reader::new(&self.record.spec.service, settings, tls) {
            Ok(reader) => reader,
            Err(error) => return [Err(error.to_string()), Err(error.to_string())],
        };
        let slot = self.record.slot.other();
        let source = self.record.source.as_ref().map(|spec| spec.id.clone());
        let source = source.or_else(|| InstanceId::new(slot.as_str()).ok());
        let source = source.as_ref().zip(serving.first()).map(|(instance, endpoint)| Patient {
            instance,
            role: Role::Active,
            endpoint,
        });
        let new = endpoints.first().map(|endpoint| self.patient(endpoint));
        let mut said = Vec::new();
        for patient in [source, new] {
            said.push(match patient {
                Some(patient) => reader.read(reading, patient).await.map_err(|error| error.to_string()),
                None => Err("it has no endpoint".to_owned()),
            });
        }
        let mut said = said.into_iter();
        let none = || Err("it was not asked".to_owned());
        [said.next().unwrap_or_else(none), said.next().unwrap_or_else(none)]
    }

    /// `None` once it is gone.
    async fn destroy(&self) -> Option<Finding> {
        let id = &self.record.spec.id;
        let mut tries = 1;
        loop {
            match self.provider.destroy(id).await {
                Ok(()) | Err(crate::instance::ProviderError::Absent(_)) => return None,
                Err(error) if tries < TRIES => {
                    tracing::debug!(%error, instance = %id, "the instance of a dry run is not gone yet");
                    tries += 1;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(error) => {
                    tracing::error!(%error, instance = %id, "the instance of a dry run was left behind");
                    let message = format!(
                        "the instance of this dry run could not be removed: {error}; the next start of Segue removes it"
                    );
                    return Some(Finding::warning("left_behind", message));
                }
            }
        }
    }

    fn patient<'a>(&'a self, endpoint: &'a Endpoint) -> Patient<'a> {
        Patient { instance: &self.record.spec.id, role: Role::Shadow, endpoint }
    }

    /// Of the instance that serves.
    fn serving(&self) -> Vec<Endpoint> {
        let service = self.control.services.load().get(&self.record.spec.service);
        let serving = service.as_ref().and_then(|of| of.endpoints(self.record.slot.other()));
        serving.unwrap_or_default().to_vec()
    }

    fn settings(&self) -> Result<config::Service, String> {
        let service = &self.record.spec.service;
        let settings = self.control.settings();
        let of = settings.services.get(service).cloned();
        of.ok_or_else(|| format!("service `{service}` is no longer in the settings"))
    }
}

fn is_tls(endpoints: &[Endpoint]) -> bool {
    endpoints.iter().any(|endpoint| endpoint.scheme == Scheme::Https)
}
