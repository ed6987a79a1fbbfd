//! One check, and what its answer has to be.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use regex::Regex;
use serde_json::Value;

use super::Patient;
use super::client::{Answer, AskError, Client, Question};
use super::command::{self, CommandError};
use crate::config;

/// Characters of an answer's own words in a failure.
const QUOTED: usize = 120;

/// Settings are checked when they are read; these are for whoever makes them otherwise.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("the method cannot be sent: {0}")]
    Method(#[from] http::method::InvalidMethod),
    #[error("a header's name cannot be sent: {0}")]
    Name(#[from] http::header::InvalidHeaderName),
    #[error("a header's value cannot be sent: {0}")]
    Value(#[from] http::header::InvalidHeaderValue),
    #[error("{0}")]
    Regex(#[from] regex::Error),
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("answered {found}, expected {expected}: {body}")]
    Status { found: StatusCode, expected: String, body: String },
    #[error("the answer has no header `{0}`")]
    NoHeader(HeaderName),
    #[error("the header `{name}` is {found:?}, which does not match {expected:?}")]
    Header { name: HeaderName, found: String, expected: String },
    #[error("the body is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("the body has nothing at {0:?}")]
    NoValue(String),
    #[error("the body has {found} at {pointer:?}, expected {expected}")]
    Value { pointer: String, found: String, expected: Value },
    #[error("the body does not match {expected:?}: {body}")]
    Body { expected: String, body: String },
    #[error("the answer took {took:?}, at most {within:?} may pass")]
    Slow { took: Duration, within: Duration },
}

pub(super) enum Probe {
    /// A connection can be had.
    Connect,
    Http(Box<HttpProbe>),
    Command(Vec<String>),
}

pub(super) struct HttpProbe {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    expect: Expect,
}

struct Expect {
    status: Vec<u16>,
    headers: Vec<(HeaderName, Regex)>,
    json: Vec<(String, Value)>,
    body: Option<Regex>,
    within: Option<Duration>,
}

impl Probe {
    pub fn new(settings: &config::Probe) -> Result<Self, CompileError> {
        match settings {
            config::Probe::Command(command) => Ok(Self::Command(command.clone())),
            config::Probe::Http(http) => Ok(Self::Http(Box::new(HttpProbe::new(http)?))),
        }
    }

    pub async fn ask(
        &self,
        client: &Client,
        service: &str,
        patient: Patient<'_>,
        timeout: Duration,
    ) -> Result<(), Failure> {
        match self {
            Self::Connect => Ok(client.connect(patient.endpoint, timeout).await?),
            Self::Http(probe) => {
                let question = Question {
                    method: probe.method.clone(),
                    target: &probe.path,
                    headers: probe.headers.clone(),
                    body: probe.body.clone(),
                };
                probe.expect.hold(&client.ask(patient.endpoint, question, timeout).await?)
            }
            Self::Command(command) => {
                let variables = patient.variables(service);
                Ok(command::run(command, &variables, timeout).await.map(drop)?)
            }
        }
    }
}

impl HttpProbe {
    fn new(settings: &config::HttpProbe) -> Result<Self, CompileError> {
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.headers {
            headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        let expected = |(name, pattern): &(String, String)| {
            Ok::<_, CompileError>((HeaderName::try_from(name)?, Regex::new(pattern)?))
        };
        let config::Expect { status, headers: patterns, json, body, within } = &settings.expect;
        Ok(Self {
            method: Method::from_bytes(settings.method.as_bytes())?,
            path: settings.path.clone(),
            headers,
            body: Bytes::from(settings.body.clone().unwrap_or_default()),
            expect: Expect {
                status: status.clone(),
                headers: patterns.iter().map(expected).collect::<Result<_, _>>()?,
                json: json.clone(),
                body: body.as_deref().map(Regex::new).transpose()?,
                within: *within,
            },
        })
    }
}

impl Expect {
    fn hold(&self, answer: &Answer) -> Result<(), Failure> {
        self.hold_status(answer)?;
        for (name, pattern) in &self.headers {
            hold_header(answer, name, pattern)?;
        }
        if !self.json.is_empty() {
            let document: Value = serde_json::from_slice(&answer.body)?;
            for (pointer, expected) in &self.json {
                hold_value(&document, pointer, expected)?;
            }
        }
        if let Some(pattern) = &self.body
            && !pattern.is_match(&String::from_utf8_lossy(&answer.body))
        {
            let expected = pattern.as_str().to_owned();
            return Err(Failure::Body { expected, body: quoted(&answer.body) });
        }
        match self.within {
            Some(within) if answer.took > within => Err(Failure::Slow { took: answer.took, within }),
            _ => Ok(()),
        }
    }

    fn hold_status(&self, answer: &Answer) -> Result<(), Failure> {
        let found = answer.status;
        let good =
            if self.status.is_empty() { found.is_success() } else { self.status.contains(&found.as_u16()) };
        if good {
            return Ok(());
        }
        let listed: Vec<_> = self.status.iter().map(ToString::to_string).collect();
        let expected = if listed.is_empty() { "2xx".to_owned() } else { listed.join(" or ") };
        Err(Failure::Status { found, expected, body: quoted(&answer.body) })
    }
}

/// One of the values has to match, where a header comes several times.
fn hold_header(answer: &Answer, name: &HeaderName, pattern: &Regex) -> Result<(), Failure> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let found: Vec<_> = answer.headers.get_all(name).iter().map(text).collect();
    let Some(first) = found.first() else { return Err(Failure::NoHeader(name.clone())) };
    if found.iter().any(|value| pattern.is_match(value)) {
        return Ok(());
    }
    let expected = pattern.as_str().to_owned();
    Err(Failure::Header { name: name.clone(), found: quoted(first.as_bytes()), expected })
}

fn hold_value(document: &Value, pointer: &str, expected: &Value) -> Result<(), Failure> {
    let found = document.pointer(pointer).ok_or_else(|| Failure::NoValue(pointer.to_owned()))?;
    // 3 and 3.0 are the same number, however the two sides write it.
    let same_number = found.is_number() && expected.is_number() && found.as_f64() == expected.as_f64();
    if found == expected || same_number {
        return Ok(());
    }
    let found = quoted(found.to_string().as_bytes());
    Err(Failure::Value { pointer: pointer.to_owned(), found, expected: expected.clone() })
}

/// The beginning of a text, in one line.
pub(in crate::migrate) fn quoted(text: &[u8]) -> String {
    let text = text.get(..text.len().min(4 * QUOTED)).unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(QUOTED).collect()
}
