//! The seam: what every kind of instance can be asked to do.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{Allocation, InstanceId, Sight, Spec, Usage};
use crate::config::Endpoint;

/// Whoever runs instances. A new kind is one new file beside this one and one more [`Workload`].
///
/// [`Workload`]: super::Workload
pub trait Provider: Send + Sync {
    /// What would keep `spec` from running here, and what will be weaker than asked. Makes nothing, and leaves
    /// nothing behind.
    fn preflight<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Vec<Finding>>;

    /// Makes everything that the instance needs but its running: limits, network, data directory.
    fn create<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<(), ProviderError>>;

    /// Starts it, or finds it running. That it answers is for health checks to say.
    fn start<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running, ProviderError>>;

    fn state<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<State, ProviderError>>;

    /// Changes what it is granted, while it runs. Memory never falls below what is in use.
    fn resize<'a>(
        &'a self,
        id: &'a InstanceId,
        to: Allocation,
    ) -> BoxFuture<'a, Result<Resized, ProviderError>>;

    /// What an instance that runs sees of the world; `None`: it cannot be seen from here.
    fn sight<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, Result<Option<Sight>, ProviderError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn usage<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<Usage, ProviderError>>;

    /// Freezes it: it takes no write from anybody until it is unfenced. `false`: this provider cannot.
    fn fence<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<bool, ProviderError>>;

    fn unfence<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), ProviderError>>;

    /// It is the active one from here on: whatever brings instances back after a failure brings it back, and it
    /// reaches what an instance does that is not [confined](Spec::is_confined). Its address stays. Doing it again
    /// changes nothing.
    fn promote<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Asks it to end, with all its processes, and ends it after `grace`. What it left on disk stays.
    fn stop<'a>(&'a self, id: &'a InstanceId, grace: Duration) -> BoxFuture<'a, Result<(), ProviderError>>;

    /// Removes everything that [`create`](Self::create) made, and the instance itself if it still runs. Its logs
    /// are kept.
    fn destroy<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), ProviderError>>;

    /// Every instance that this provider has made for this Segue and not destroyed.
    fn list(&self) -> BoxFuture<'_, Result<Vec<InstanceId>, ProviderError>>;

    /// The last lines that it wrote, for whoever asks why it does not come up.
    fn tail<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, String>;
}

/// An instance that was started.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    pub endpoints: Vec<Endpoint>,
}

/// Where an instance is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Absent,
    /// Created, and not started or stopped again.
    Made,
    Running,
    Fenced,
    /// It ended by itself.
    Ended {
        /// `None` where nobody saw how: the process outlived the Segue that had started it.
        code: Option<i32>,
        /// The kernel killed it for want of memory.
        out_of_memory: bool,
    },
}

/// What a resize came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resized {
    /// What is granted now; memory may be more than was asked for, as it is in use.
    pub to: Allocation,
    /// Which limits the system holds the instance to; the others are advice.
    pub cpu_enforced: bool,
    pub memory_enforced: bool,
    pub storage_enforced: bool,
}

/// A line of a compatibility report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub gravity: Gravity,
    /// A stable word, such as `memory` or `architecture`.
    pub subject: String,
    /// What is so, and the way out.
    pub message: String,
    /// The numbers behind it, each with its unit in its name: `memory_free_bytes`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gravity {
    /// As it should be.
    Fine,
    /// It was not found out, and the message says why.
    NotKnown,
    /// It will work, and something will be weaker than asked.
    Warning,
    /// It cannot work.
    Fault,
}

#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// Nothing of that name was made here.
    #[error("there is no instance `{0}`")]
    Absent(InstanceId),
    /// The spec is for another provider.
    #[error("instance `{id}` is for the provider `{wanted}`, not `{asked}`")]
    WrongProvider { id: InstanceId, wanted: &'static str, asked: &'static str },
    /// `what` completes "cannot …".
    #[error("cannot {what} of instance `{id}`: {error}")]
    Io { id: InstanceId, what: &'static str, error: std::io::Error },
    /// The engine, the cloud or the command said no.
    #[error("instance `{id}`: {message}")]
    Refused { id: InstanceId, message: String },
    /// Whoever should carry it out does not answer; trying again may help.
    #[error("the provider `{provider}` does not answer: {message}")]
    Unavailable { provider: &'static str, message: String },
}

impl ProviderError {
    /// Whether the same call may succeed a little later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

impl Gravity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::NotKnown => "not known",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

impl Finding {
    pub fn new(gravity: Gravity, subject: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { gravity, subject: subject.to_owned(), message, numbers: BTreeMap::new() }
    }

    pub fn fine(subject: &str, message: impl Into<String>) -> Self {
        Self::new(Gravity::Fine, subject, message)
    }

    pub fn warning(subject: &str, message: impl Into<String>) -> Self {
        Self::new(Gravity::Warning, subject, message)
    }

    pub fn fault(subject: &str, message: impl Into<String>) -> Self {
        Self::new(Gravity::Fault, subject, message)
    }

    pub fn not_known(subject: &str, message: impl Into<String>) -> Self {
        Self::new(Gravity::NotKnown, subject, message)
    }

    #[must_use]
    pub fn number(mut self, name: &str, value: u64) -> Self {
        self.numbers.insert(name.to_owned(), value);
        self
    }
}
