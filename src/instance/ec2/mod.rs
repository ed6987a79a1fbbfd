//! Machines of EC2.
//!
//! EC2 is the only memory: a machine and its volume carry the tags below from the moment they are made, so a Segue that
//! starts again finds its own by asking, and leaves alone what another Segue, or a person, has in the same account.
//!
//! ```text
//! machine segue-ID ── volume that it boots from        both with  segue:store = STORE
//!                     (goes with it)                              segue:instance = ID
//! ```
//!
//! **Made once.** The machine runs from the moment it is made: EC2 has no other beginning. A request to make it carries
//! a token made of store and id, so that one that is sent again, by this process or by the next, finds the machine that
//! the first one made, even before EC2 shows it to those who ask.
//!
//! **Resizing** needs the machine stopped: the type changes, disks and the private address stay. `segue:wanted` says
//! whether a machine that stands still is to run, so that a resize that was broken off ends with a machine that runs.
//!
//! **No fence is whole.** A group that lets nothing in refuses new connections; those that are open go on, and the
//! application itself is not stopped. So [`fence`](Provider::fence) puts the machine into the group that it was given
//! for that, and still says that it cannot.

mod answer;
mod call;
mod client;
mod credentials;
mod fence;
mod life;
mod machine;
mod make;
mod metadata;
mod owner;
mod patience;
mod preflight;
mod resize;
mod sign;
mod size;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, ready};

use super::scrape::Page;
use super::{
    Allocation, Ec2, Finding, InstanceId, Provider, ProviderError, Resized, Running, Spec, State, Usage,
    Workload,
};
use crate::config::{AddressError, Ec2Access};
use crate::upstream::tls::UpstreamTlsError;
use call::Call;
use client::{Client, Failure};
use machine::{INSTANCE, Machine, STORE, machines};

pub use credentials::Environment;
pub use owner::{OwnerError, owner};
pub use patience::Patience;

/// As in a [`Workload`] and in errors.
const NAME: &str = "ec2";

/// States of those that are there; the others are only remembered.
const THERE: [&str; 4] = ["pending", "running", "stopping", "stopped"];
const EVER: [&str; 6] = ["pending", "running", "stopping", "stopped", "shutting-down", "terminated"];

/// Why the API cannot be reached at all.
#[derive(Debug, thiserror::Error)]
pub enum Ec2Error {
    #[error("EC2 has no region; set `ec2.region` or AWS_REGION")]
    NoRegion,
    #[error(
        "EC2 has no endpoint {url:?}: {error}; see `ec2.region`, AWS_ENDPOINT_URL_EC2 and AWS_ENDPOINT_URL"
    )]
    Endpoint { url: String, error: AddressError },
    #[error("AWS_CA_BUNDLE: {0}")]
    Tls(#[from] UpstreamTlsError),
}

/// Runs instances as machines of one region.
pub struct Ec2Provider {
    client: Client,
    /// Which Segue this is, among those that share the account.
    owner: String,
    /// What machines were a moment ago.
    glances: Mutex<HashMap<InstanceId, (Instant, State)>>,
    /// Of each instance that was started here: where its usage stands, if anywhere.
    pages: Mutex<HashMap<InstanceId, Page>>,
}

// === impl Ec2Provider ===

impl Ec2Provider {
    /// The API as `access` and, for what is absent there, `environment` say. Nothing is connected yet. `owner` tells
    /// this Segue from others in the same account, and has to be the same after a restart: see [`owner`].
    pub fn connect(
        owner: &str,
        access: &Ec2Access,
        environment: Environment,
        patience: Patience,
    ) -> Result<Self, Ec2Error> {
        Ok(Self {
            client: Client::new(access, environment, patience)?,
            owner: owner.to_owned(),
            glances: Mutex::default(),
            pages: Mutex::default(),
        })
    }

    async fn ask<T>(
        &self,
        id: &InstanceId,
        call: &Call,
        look: impl Fn(answer::Part<'_>) -> T,
    ) -> Result<T, ProviderError> {
        self.client.ask(call, look).await.map_err(|failure| failure.about(id))
    }

    /// A call that changes a machine; what was seen of it before does not count any more.
    async fn change(&self, id: &InstanceId, call: &Call) -> Result<(), ProviderError> {
        let changed = self.ask(id, call, |_| ()).await;
        lock(&self.glances).remove(id);
        changed
    }

    async fn find(&self, id: &InstanceId) -> Result<Machine, ProviderError> {
        self.look(id).await?.ok_or_else(|| ProviderError::Absent(id.clone()))
    }

    async fn look(&self, id: &InstanceId) -> Result<Option<Machine>, ProviderError> {
        let found = self.described(Some(id), &THERE).await.map_err(|failure| failure.about(id))?;
        let machine = found.into_iter().next();
        let state = machine.as_ref().map_or(State::Absent, Machine::state);
        lock(&self.glances).insert(id.clone(), (Instant::now(), state));
        Ok(machine)
    }

    /// Everything of ours, or what is ours of one instance.
    async fn described(&self, id: Option<&InstanceId>, states: &[&str]) -> Result<Vec<Machine>, Failure> {
        let call = Call::new("DescribeInstances").filter(&format!("tag:{STORE}"), &[self.owner.as_str()]);
        let call = match id {
            Some(id) => call.filter(&format!("tag:{INSTANCE}"), &[id.as_str()]),
            None => call,
        };
        let call = call.filter("instance-state-name", states).with("MaxResults", 1000);
        let mut found = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let page = call.clone().with_some("NextToken", next.as_ref());
            let read = |answer: answer::Part<'_>| (machines(answer), answer.owned("nextToken"));
            let (here, further) = self.client.ask(&page, read).await?;
            found.extend(here);
            // One that leads to itself would never end.
            if further.is_none() || further == next {
                return Ok(found);
            }
            next = further;
        }
    }

    async fn tag(
        &self,
        id: &InstanceId,
        machine: &Machine,
        tag: &str,
        value: &str,
    ) -> Result<(), ProviderError> {
        if machine.tag(tag) == Some(value) {
            return Ok(());
        }
        let call = Call::new("CreateTags").list("ResourceId", [&machine.key]);
        self.change(id, &call.tags("Tag", &[(tag, value.to_owned())])).await
    }

    /// Looks at what is in one of these states until `is` says what came of it, for `within` at most. `what` completes
    /// "it did not …".
    async fn until<T>(
        &self,
        id: &InstanceId,
        states: &[&str],
        what: &str,
        within: Duration,
        is: impl Fn(Vec<Machine>) -> Option<Result<T, ProviderError>>,
    ) -> Result<T, ProviderError> {
        let began = Instant::now();
        loop {
            let seen = self.described(Some(id), states).await.map_err(|failure| failure.about(id))?;
            if let Some(outcome) = is(seen) {
                return outcome;
            }
            if began.elapsed() >= within {
                let message = format!("instance `{id}` did not {what} within {within:?}");
                return Err(ProviderError::Unavailable { provider: NAME, message });
            }
            tokio::time::sleep(self.client.patience.look).await;
        }
    }
}

fn gone(id: &InstanceId, machine: &Machine) -> ProviderError {
    let reason = machine.reason.as_deref().unwrap_or("EC2 does not say why");
    ProviderError::Refused {
        id: id.clone(),
        message: format!("its machine {} is gone: {reason}", machine.key),
    }
}

/// Each change is one step, so a panic elsewhere leaves them whole.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Provider for Ec2Provider {
    fn preflight<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(self.findings(spec))
    }

    /// The machine boots at once.
    fn create<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.make(spec))
    }

    /// Waits for a machine that did not run before until the application takes connections, as long as a boot may take.
    fn start<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running, ProviderError>> {
        Box::pin(self.set_going(spec))
    }

    fn state<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<State, ProviderError>> {
        let seen = lock(&self.glances).get(id).cloned();
        if let Some((since, state)) = seen
            && since.elapsed() < self.client.patience.glance
        {
            return Box::pin(ready(Ok(state)));
        }
        Box::pin(async move { Ok(self.look(id).await?.map_or(State::Absent, |machine| machine.state())) })
    }

    /// Where another type is needed the machine is stopped and started again; it returns once the application takes
    /// connections as before.
    fn resize<'a>(
        &'a self,
        id: &'a InstanceId,
        to: Allocation,
    ) -> BoxFuture<'a, Result<Resized, ProviderError>> {
        Box::pin(self.regrant(id, to))
    }

    /// What a page of metrics says; without one nothing is known.
    fn usage<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<Usage, ProviderError>> {
        let page = lock(&self.pages).get(id).cloned();
        let Some(page) = page else { return Box::pin(ready(Ok(Usage::default()))) };
        Box::pin(async move {
            let unavailable = |error: super::scrape::ScrapeError| ProviderError::Unavailable {
                provider: NAME,
                message: error.to_string(),
            };
            page.usage().await.map_err(unavailable)
        })
    }

    /// Always `false`, though new connections are refused where the machine has a group for that.
    fn fence<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<bool, ProviderError>> {
        Box::pin(async move { self.shut_out(id).await.map(|()| false) })
    }

    fn unfence<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.let_in(id))
    }

    /// The machine itself may read the tag from its metadata service.
    fn promote<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async move {
            let machine = self.find(id).await?;
            self.tag(id, &machine, machine::ROLE, super::Role::Active.as_str()).await
        })
    }

    fn stop<'a>(&'a self, id: &'a InstanceId, grace: Duration) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.end(id, grace))
    }

    fn destroy<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.remove(id))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<InstanceId>, ProviderError>> {
        Box::pin(async {
            let found = self.described(None, &THERE).await.map_err(Failure::anywhere)?;
            let ids: std::collections::BTreeSet<_> = found.iter().filter_map(Machine::id).collect();
            Ok(ids.into_iter().collect())
        })
    }

    fn tail<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, String> {
        Box::pin(self.last_lines(id))
    }
}

fn workload(spec: &Spec) -> Result<&Ec2, ProviderError> {
    match &spec.workload {
        Workload::Ec2(ec2) => Ok(ec2),
        other => {
            Err(ProviderError::WrongProvider { id: spec.id.clone(), wanted: other.provider(), asked: NAME })
        }
    }
}
