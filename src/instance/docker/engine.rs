//! The way to the engine: its socket, a limit to every call, and what a failure means.
//!
//! A connection is made for each request (a Unix socket costs nothing), so an engine that was restarted or upgraded
//! underneath is no special case. Requests name no API version: the engine then speaks its newest, and whatever
//! is used here is in each since 20.10.

use std::path::PathBuf;
use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, Docker as Client};

use super::NAME;
use crate::instance::{InstanceId, ProviderError};

const SOCKET: &str = "/var/run/docker.sock";
/// The engine creates and starts containers in well under a second, on a busy disk in several; one that takes this
/// long has stopped.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Engine {
    /// Or why there is none.
    socket: Result<PathBuf, String>,
    pub patience: Duration,
}

/// Why a request came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// The engine's word, with the status of its answer.
    Refused { status: u16, message: String },
    /// No answer that says anything.
    Silent(String),
}

// === impl Engine ===

impl Engine {
    pub fn from_environment() -> Self {
        let host = std::env::var("DOCKER_HOST").unwrap_or_default();
        Self { socket: socket(&host), patience: PATIENCE }
    }

    pub fn at(socket: PathBuf, patience: Duration) -> Self {
        Self { socket: Ok(socket), patience }
    }

    pub fn client(&self) -> Result<Client, Failure> {
        let socket = self.socket.as_ref().map_err(|message| Failure::Silent(message.clone()))?;
        // Its own limit ends with an answer's head, and cannot be changed for one call; `ask` is what counts.
        let limit = Duration::from_hours(24).as_secs();
        Client::connect_with_unix(&socket.to_string_lossy(), limit, API_DEFAULT_VERSION)
            .map_err(|error| self.failure(error))
    }

    pub async fn ask<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        self.ask_within(self.patience, call).await
    }

    pub async fn ask_within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(limit, call).await {
            Ok(outcome) => outcome.map_err(|error| self.failure(error)),
            Err(_) => Err(Failure::Silent(format!(
                "the engine at {} has not answered for {limit:?}; see whether `docker info` does",
                self.place()
            ))),
        }
    }

    fn failure(&self, error: Error) -> Failure {
        match error {
            Error::DockerResponseServerError { status_code: status, message } => {
                Failure::Refused { status, message }
            }
            Error::JsonDataError { message, .. } => Failure::Refused {
                status: 200,
                message: format!("the engine's answer is not understood: {message}; is it a Docker engine?"),
            },
            error => Failure::Silent(format!(
                "there is no engine to be reached at {} ({}); start it, or set DOCKER_HOST",
                self.place(),
                root_of(&error)
            )),
        }
    }

    fn place(&self) -> String {
        self.socket.as_ref().map_or_else(String::clone, |socket| socket.display().to_string())
    }
}

// === impl Failure ===

impl Failure {
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// The thing is in a state that does not allow it, or its name is taken.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }

    pub fn about(self, id: &InstanceId) -> ProviderError {
        match self {
            // An engine that is shutting down, or is not up yet.
            Self::Refused { status: 503, message } | Self::Silent(message) => {
                ProviderError::Unavailable { provider: NAME, message }
            }
            Self::Refused { message, .. } => {
                ProviderError::Refused { id: id.clone(), message: format!("the engine says: {message}") }
            }
        }
    }

    /// Of a request that is about no instance.
    pub fn anywhere(self) -> ProviderError {
        ProviderError::Unavailable { provider: NAME, message: self.into_message() }
    }

    pub fn into_message(self) -> String {
        match self {
            Self::Refused { message, .. } | Self::Silent(message) => message,
        }
    }
}

/// Where `DOCKER_HOST` leads to; empty as when it is not set.
fn socket(host: &str) -> Result<PathBuf, String> {
    if host.is_empty() {
        return Ok(SOCKET.into());
    }
    host.strip_prefix("unix://").map(PathBuf::from).ok_or_else(|| {
        format!("DOCKER_HOST is {host:?}, and only an engine of this machine is spoken to; set it to unix://{SOCKET}")
    })
}

/// What the operating system said, below the layers that only say that something failed.
fn root_of(error: &Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    match error {
        Error::SocketNotFoundError(_) => "no such socket".to_owned(),
        _ => deepest.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_are_spoken_to() {
        assert_eq!(socket(""), Ok(SOCKET.into()));
        assert_eq!(socket("unix:///run/user/1000/docker.sock"), Ok("/run/user/1000/docker.sock".into()));
        let error = socket("tcp://10.0.0.1:2375").unwrap_err();
        assert!(error.contains("tcp://10.0.0.1:2375") && error.contains("unix://"), "{error}");
    }

    #[test]
    fn an_engine_that_shuts_down_may_be_asked_again_and_one_that_says_no_may_not() {
        let id = InstanceId::new("web-1").unwrap();
        let said = |status| Failure::Refused { status, message: "no".into() }.about(&id);
        assert!(said(503).is_transient());
        assert!(!said(500).is_transient() && !said(409).is_transient());
        assert!(Failure::Silent("gone".into()).about(&id).is_transient());
    }
}
