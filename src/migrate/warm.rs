//! Warming an instance: requests that are sent to it before anybody judges how fast it answers.
//!
//! They go to the instance itself, beside the tee and at a bounded rate, and are marked as the tee's are, so that an
//! application that treats those apart treats these alike. Nothing of them is recorded as evidence.

use std::cell::Cell;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};

use super::checks::ClientError;
use super::checks::client::{AskError, Client, Question};
use crate::config::{self, Endpoint, Scheme, Warm};
use crate::tee::compare::redact_target;
use crate::tee::recent::Read;

const TEE: HeaderName = HeaderName::from_static("segue-tee");
/// For one answer; what takes longer is left to those who really want it.
const PATIENCE: Duration = Duration::from_secs(5);
/// For all of it: an instance that answers so slowly is for the gates to judge.
const LONGEST: Duration = Duration::from_mins(2);

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warmed {
    /// Over all endpoints of the instance.
    pub sent: u64,
    pub failed: u64,
    /// For which there was no time.
    pub left_out: u64,
    pub took_ms: u64,
    /// The first failure, with the values of its query replaced.
    pub failure: Option<String>,
}

/// Ready to be sent.
pub struct Warming {
    client: Client,
    host: Option<String>,
    warm: Warm,
}

/// How far it has come, for whoever watches.
#[derive(Debug, Default)]
pub struct Sent(Cell<u64>);

impl Sent {
    pub fn count(&self) -> u64 {
        self.0.get()
    }
}

impl Warming {
    /// `None`: the settings want none.
    pub fn new(settings: &config::Service, endpoints: &[Endpoint]) -> Result<Option<Self>, ClientError> {
        let Some(warm) = settings.migration.warm.clone() else { return Ok(None) };
        let tls = endpoints.iter().any(|endpoint| endpoint.scheme == Scheme::Https);
        let client = Client::new(&settings.upstream.tls, tls)?;
        let host = settings.hosts.iter().find(|host| !host.starts_with('*')).cloned();
        Ok(Some(Self { client, host, warm }))
    }

    /// What is to be asked for: the settings' own, then what was teed.
    pub fn reads(&self, recent: Vec<Read>) -> Vec<Read> {
        let own = self.warm.requests.iter();
        let own = own.map(|target| Read { host: self.host.clone(), target: target.clone() });
        own.chain(recent).collect()
    }

    /// Sends each of `reads` once to each endpoint. Runs on a `LocalRuntime`.
    pub async fn run(&self, endpoints: &[Endpoint], reads: &[Read], sent: &Sent) -> Warmed {
        let began = Instant::now();
        let all = endpoints.iter().flat_map(|endpoint| reads.iter().map(move |read| (endpoint, read)));
        let total = (endpoints.len() * reads.len()) as u64;
        let mut pace = tokio::time::interval(Duration::from_secs(1) / self.warm.per_second.max(1));
        // One that is held up does not make up for it in a burst.
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let pace = tokio::sync::Mutex::new(pace);
        let asked = futures_util::stream::iter(all).map(|(endpoint, read)| {
            let pace = &pace;
            async move {
                pace.lock().await.tick().await;
                sent.0.set(sent.0.get() + 1);
                self.ask(endpoint, read).await
            }
        });
        let mut asked = std::pin::pin!(asked.buffered(self.warm.concurrency.max(1)));
        let mut warmed = Warmed::default();
        let taking = async {
            while let Some(answer) = asked.next().await {
                if let Err(failure) = answer {
                    warmed.failed += 1;
                    warmed.failure.get_or_insert(failure);
                }
            }
        };
        // Whatever is under way then is given up.
        let _ = tokio::time::timeout(LONGEST, taking).await;
        warmed.sent = sent.count();
        warmed.left_out = total.saturating_sub(warmed.sent);
        warmed.took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        warmed
    }

    async fn ask(&self, endpoint: &Endpoint, read: &Read) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        headers.insert(TEE, HeaderValue::from_static("shadow"));
        headers.insert(USER_AGENT, HeaderValue::from_static("segue-warm"));
        let host = read.host.as_deref().and_then(|host| HeaderValue::try_from(host).ok());
        headers.extend(host.map(|host| (HOST, host)));
        let question = Question { method: Method::GET, target: &read.target, headers, body: Bytes::new() };
        let why = match self.client.ask(endpoint, question, PATIENCE).await {
            // It did what it had to do to answer, which is what this is for.
            Err(AskError::TooLarge) => return Ok(()),
            Ok(answer) if answer.status.as_u16() < 400 => return Ok(()),
            Ok(answer) => format!("answered {}", answer.status),
            Err(error) => error.to_string(),
        };
        Err(format!("GET {} of {endpoint}: {why}", redact_target(&read.target)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::checks::tests::{Scripted, run};
    use super::*;
    use crate::config::{Instance, Service};

    fn settings(requests: &[&str]) -> Service {
        let mut settings = Service::new(Instance::at(Vec::new()), None);
        settings.hosts = vec!["*.example".into(), "app.example".into()];
        let requests = requests.iter().map(ToString::to_string).collect();
        settings.migration.warm = Some(Warm { requests, recent: 0, per_second: 1000, concurrency: 2 });
        settings
    }

    fn answer(head: &str) -> String {
        format!("HTTP/1.1 {head}\r\nContent-Length: 2\r\n\r\nok")
    }

    async fn warm(settings: &Service, recent: Vec<Read>, endpoint: &Endpoint) -> Warmed {
        let endpoints = [endpoint.clone()];
        let warming = Warming::new(settings, &endpoints).unwrap().unwrap();
        warming.run(&endpoints, &warming.reads(recent), &Sent::default()).await
    }

    #[test]
    fn without_settings_there_is_none() {
        let plain = Service::new(Instance::at(Vec::new()), None);
        assert!(Warming::new(&plain, &[]).unwrap().is_none());
    }

    #[test]
    fn a_request_is_marked_and_goes_to_the_host_that_it_is_for() {
        run(async {
            let app = Scripted::new(answer("200 OK")).await;
            let warmed = warm(&settings(&["/a?x=1"]), Vec::new(), &app.endpoint).await;
            assert_eq!((warmed.sent, warmed.failed, warmed.left_out), (1, 0, 0), "{warmed:?}");
            let request = app.requests.borrow()[0].to_lowercase();
            assert!(request.starts_with("get /a?x=1 http/1.1\r\n"), "{request}");
            for line in ["segue-tee: shadow", "host: app.example", "user-agent: segue-warm"] {
                assert!(request.contains(&format!("\r\n{line}\r\n")), "{line}: {request}");
            }
        });
    }

    #[test]
    fn a_failure_is_counted_and_shown_without_what_may_be_a_secret() {
        run(async {
            let app = Scripted::new(answer("503 Service Unavailable")).await;
            let recent = vec![Read { host: None, target: "/a?token=hunter2".into() }];
            let warmed = warm(&settings(&[]), recent, &app.endpoint).await;
            assert_eq!((warmed.sent, warmed.failed), (1, 1), "{warmed:?}");
            let failure = warmed.failure.unwrap();
            assert!(failure.starts_with("GET /a?token=* of http://127.0.0.1:"), "{failure}");
            assert!(failure.ends_with("answered 503 Service Unavailable"), "{failure}");
        });
    }
}
