//! Telling somebody else that an instance becomes active, or stops being so.
//!
//! Both hooks run inside the pause, and a hook that fails stops the switchover. It may run again: whoever restarts a
//! switchover in the middle does not know whether the first run had come to its end.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::checks::ClientError;
use super::checks::client::{AskError, Client, Question};
use super::checks::command::{self, CommandError, last, last_line};
use crate::config::{self, Call, Endpoint, Scheme, UpstreamTls};
use crate::instance::{InstanceId, Role};

/// The hooks of one service, ready to run.
pub struct Hooks {
    service: String,
    on_promote: Option<config::Hook>,
    on_demote: Option<config::Hook>,
    client: Client,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It becomes active.
    Promote,
    /// It stops being active.
    Demote,
}

/// To whom it happens.
#[derive(Clone, Copy, Debug)]
pub struct Occasion<'a> {
    pub event: Event,
    pub instance: &'a InstanceId,
    /// That it has from now on.
    pub role: Role,
    pub endpoint: &'a Endpoint,
}

#[derive(Debug, thiserror::Error)]
#[error("the {event} hook of instance `{instance}`: {reason}")]
pub struct HookError {
    pub event: Event,
    pub instance: InstanceId,
    pub reason: HookFault,
}

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct HookFault(Fault);

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("answered {status}{}", last(line))]
    Status { status: StatusCode, line: String },
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("the method cannot be sent: {0}")]
    Method(#[from] http::method::InvalidMethod),
    #[error("a header cannot be sent: {0}")]
    Header(#[from] http::header::InvalidHeaderValue),
}

impl Hooks {
    /// Reads now what hooks over TLS need, so that nothing is wanting in the pause. They trust what
    /// `upstream.tls.ca` says, and are shown the same client certificate.
    pub fn new(service: &str, settings: &config::Service) -> Result<Self, ClientError> {
        let config::Migration { on_promote, on_demote, .. } = settings.migration.clone();
        let is_tls = |hook: &config::Hook| matches!(&hook.call, Call::Http { endpoint, .. } if endpoint.scheme == Scheme::Https);
        let tls = on_promote.iter().chain(&on_demote).any(is_tls);
        // The name is the instance's, not the hook's.
        let trust = UpstreamTls { server_name: None, ..settings.upstream.tls.clone() };
        let client = Client::new(&trust, tls)?;
        Ok(Self { service: service.to_owned(), on_promote, on_demote, client })
    }

    /// Runs the hook of `occasion`, where there is one, for at most its timeout. Runs on a `LocalRuntime`.
    pub async fn run(&self, occasion: Occasion<'_>) -> Result<(), HookError> {
        let hook = match occasion.event {
            Event::Promote => &self.on_promote,
            Event::Demote => &self.on_demote,
        };
        let Some(hook) = hook else { return Ok(()) };
        let Occasion { event, instance, .. } = occasion;
        self.call(hook, occasion).await.map_err(|fault| HookError {
            event,
            instance: instance.clone(),
            reason: HookFault(fault),
        })
    }

    async fn call(&self, hook: &config::Hook, of: Occasion<'_>) -> Result<(), Fault> {
        let told = [
            ("SEGUE_SERVICE", "segue-service", self.service.clone()),
            ("SEGUE_INSTANCE", "segue-instance", of.instance.to_string()),
            ("SEGUE_ROLE", "segue-role", of.role.as_str().to_owned()),
            ("SEGUE_EVENT", "segue-event", of.event.as_str().to_owned()),
            ("SEGUE_ENDPOINT", "segue-endpoint", of.endpoint.to_string()),
        ];
        match &hook.call {
            Call::Command(command) => {
                let variables = told.map(|(variable, _, value)| (variable, value));
                Ok(command::run(command, &variables, hook.timeout).await.map(drop)?)
            }
            Call::Http { method, endpoint, path } => {
                let mut headers = HeaderMap::new();
                for (_, header, value) in told {
                    headers.insert(HeaderName::from_static(header), HeaderValue::try_from(value)?);
                }
                let method = Method::from_bytes(method.as_bytes())?;
                let question = Question { method, target: path, headers, body: Bytes::new() };
                let answer = self.client.ask(endpoint, question, hook.timeout).await?;
                if answer.status.is_success() {
                    return Ok(());
                }
                Err(Fault::Status { status: answer.status, line: last_line(&answer.body) })
            }
        }
    }
}

impl Event {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Demote => "demote",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::checks::tests::{Scripted, run};
    use super::*;
    use crate::config::{Hook, Instance, Service};

    fn hooks(on_promote: Option<Call>, on_demote: Option<Call>) -> Hooks {
        let mut settings = Service::new(Instance::at(Vec::new()), None);
        let hook = |call| Hook { call, timeout: Duration::from_mins(1) };
        settings.migration.on_promote = on_promote.map(hook);
        settings.migration.on_demote = on_demote.map(hook);
        Hooks::new("web", &settings).unwrap()
    }

    fn command(script: &str) -> Call {
        Call::Command(["sh", "-c", script].map(str::to_owned).to_vec())
    }

    async fn ran(hooks: &Hooks, event: Event) -> Result<(), String> {
        let instance = InstanceId::new("web-2").unwrap();
        let role = if event == Event::Promote { Role::Active } else { Role::Shadow };
        let endpoint = "http://127.0.0.1:3001".parse().unwrap();
        let occasion = Occasion { event, instance: &instance, role, endpoint: &endpoint };
        hooks.run(occasion).await.map_err(|error| error.to_string())
    }

    #[test]
    fn each_event_has_its_own_hook_and_without_one_nothing_happens() {
        run(async {
            let told = "test \"$SEGUE_SERVICE/$SEGUE_INSTANCE/$SEGUE_ROLE/$SEGUE_EVENT/$SEGUE_ENDPOINT\" = \
                        web/web-2/active/promote/http://127.0.0.1:3001";
            let both =
                hooks(Some(command(told)), Some(command("echo still; echo 'has the lock' >&2; exit 7")));
            assert_eq!(ran(&both, Event::Promote).await, Ok(()));
            let refused = "the demote hook of instance `web-2`: `sh` ended with exit status: 7; its last line: has the lock";
            assert_eq!(ran(&both, Event::Demote).await, Err(refused.to_owned()));
            let neither = hooks(None, None);
            assert_eq!(ran(&neither, Event::Promote).await, Ok(()));
            assert_eq!(ran(&neither, Event::Demote).await, Ok(()));
        });
    }

    #[test]
    fn an_http_hook_consents_with_2xx_and_is_told_what_happens() {
        run(async {
            for (head, expected) in [
                ("204 No Content", Ok(())),
                ("302 Found", Err("answered 302 Found; its last line: not the leader")),
                ("409 Conflict", Err("answered 409 Conflict; its last line: not the leader")),
            ] {
                let body = if expected.is_ok() { "" } else { "no:\nnot the leader\n" };
                let hub =
                    Scripted::new(format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
                        .await;
                let call = Call::Http {
                    method: "PUT".into(),
                    endpoint: hub.endpoint.clone(),
                    path: "/role?of=web".into(),
                };
                let found = ran(&hooks(Some(call), None), Event::Promote).await;
                let expected =
                    expected.map_err(|reason| format!("the promote hook of instance `web-2`: {reason}"));
                assert_eq!(found, expected);
                let request = hub.requests.borrow()[0].to_lowercase();
                assert!(request.starts_with("put /role?of=web http/1.1\r\n"), "{request}");
                for line in [
                    "segue-service: web",
                    "segue-instance: web-2",
                    "segue-role: active",
                    "segue-event: promote",
                    "segue-endpoint: http://127.0.0.1:3001",
                ] {
                    assert!(request.contains(&format!("\r\n{line}\r\n")), "{line}: {request}");
                }
            }
        });
    }

    #[test]
    fn what_a_hook_over_tls_needs_is_read_before_the_pause() {
        let mut settings = Service::new(Instance::at(Vec::new()), None);
        settings.upstream.tls.ca = Some("/no/such/ca.pem".into());
        assert!(Hooks::new("web", &settings).is_ok(), "no hook, no credentials");
        let call =
            |url: &str| Call::Http { method: "PUT".into(), endpoint: url.parse().unwrap(), path: "/".into() };
        let hook = |call| Some(Hook { call, timeout: Duration::from_secs(1) });
        settings.migration.on_demote = hook(call("http://hub.test"));
        assert!(Hooks::new("web", &settings).is_ok());
        settings.migration.on_demote = hook(call("https://hub.test"));
        let error = Hooks::new("web", &settings).err().unwrap().to_string();
        assert!(error.contains("/no/such/ca.pem"), "{error}");
    }
}
