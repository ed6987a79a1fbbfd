//! What changes hands in a migration's pause: the old side is frozen, so that a write that bypasses Segue or was given
//! up by its caller cannot land on it any more, and thawed once the swap is over.
//!
//! Between the two the service's hooks are told: first that the old side stops being active, then that the new one is.
//! A hook that fails stops the switchover; what was told before is taken back by the same hooks the other way round.
//!
//! It does not stay frozen after the swap: copies of reads go to it for as long as the new side is watched, and it has
//! to be able to take over again at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::Control;
use crate::config::Endpoint;
use crate::instance::{InstanceId, ProviderError, Providers, Role, Spec};
use crate::migrate::hook::{Event, Hooks, Occasion};
use crate::migrate::record::Record;
use crate::migrate::switchover::HandOver;

#[derive(Clone)]
pub(super) struct Hands {
    providers: Providers,
    /// Where Segue runs them.
    old: Option<Spec>,
    new: Option<Spec>,
    hooks: Arc<Hooks>,
    told: [Told; 2],
    /// On the way back nobody's consent is needed to leave.
    leaving: bool,
    /// Callers may have been told of something that did not happen.
    begun: Arc<AtomicBool>,
    /// Held while that is taken back.
    back: Arc<tokio::sync::Mutex<()>>,
}

/// Who a hook is about.
#[derive(Clone)]
struct Told {
    instance: InstanceId,
    endpoint: Endpoint,
}

impl Hands {
    pub fn of(control: &Arc<Control>, record: &Record) -> Result<Self, String> {
        let service = &record.spec.service;
        let gone = || format!("service `{service}` is no longer in the settings");
        let settings = control.settings();
        let hooks = Hooks::new(service, settings.services.get(service).ok_or_else(gone)?);
        let running = control.services.load().get(service).ok_or_else(gone)?;
        let first = |name| running.endpoints(name).and_then(<[Endpoint]>::first).cloned();
        let old = record.slot.other();
        let nameless = || InstanceId::new(old.as_str()).map_err(|error| error.to_string());
        let old_id = record.source.as_ref().map_or_else(nameless, |spec| Ok(spec.id.clone()))?;
        let told = [(old_id, old), (record.spec.id.clone(), record.slot)].map(|(instance, name)| {
            let endpoint = first(name).ok_or_else(|| format!("the {} has no endpoint", name.as_str()));
            endpoint.map(|endpoint| Told { instance, endpoint })
        });
        let [old, new] = told;
        Ok(Self {
            providers: control.providers().clone(),
            old: record.source.clone(),
            new: Some(record.spec.clone()),
            hooks: Arc::new(hooks.map_err(|error| error.to_string())?),
            told: [old?, new?],
            leaving: false,
            begun: Arc::default(),
            back: Arc::default(),
        })
    }

    /// For the way back.
    pub fn reversed(self) -> Self {
        let [old, new] = self.told;
        Self { old: self.new, new: self.old, told: [new, old], leaving: true, ..self }
    }

    /// Returns once nothing is being taken back any more: what comes next must not be told in between.
    pub async fn rest(&self) {
        drop(self.back.lock().await);
    }

    async fn clear_up(&self) {
        thaw(&self.providers, [&self.old, &self.new].into_iter().flatten()).await;
    }

    async fn fence_old(&self) -> Result<(), String> {
        let Some(old) = &self.old else { return Ok(()) };
        let provider = self.providers.of(&old.workload).map_err(|error| error.to_string())?;
        match provider.fence(&old.id).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::info!(instance = %old.id, "it cannot be fenced; writes that bypass Segue still reach it");
            }
            Err(error) => return Err(format!("the old side could not be fenced: {error}")),
        }
        Ok(())
    }

    async fn tell(&self, event: Event, of: &Told) -> Result<(), String> {
        let role = match event {
            Event::Promote => Role::Active,
            Event::Demote => Role::Shadow,
        };
        let occasion = Occasion { event, instance: &of.instance, role, endpoint: &of.endpoint };
        self.hooks.run(occasion).await.map_err(|error| error.to_string())
    }

    /// Takes back what was told of a switch that did not happen.
    pub async fn untell(&self) {
        let [old, new] = &self.told;
        for (event, of) in [(Event::Demote, new), (Event::Promote, old)] {
            if let Err(error) = self.tell(event, of).await {
                tracing::error!(error, "a hook does not take back what it was told");
            }
        }
    }
}

/// A process that was killed in a pause may have left either side frozen.
pub(super) async fn clear_up(control: &Control, record: &Record) {
    thaw(control.providers(), record.source.iter().chain([&record.spec])).await;
}

async fn thaw(providers: &Providers, specs: impl Iterator<Item = &Spec>) {
    for spec in specs {
        let Ok(provider) = providers.of(&spec.workload) else { continue };
        match provider.unfence(&spec.id).await {
            Ok(()) | Err(ProviderError::Absent(_)) => {}
            Err(error) => tracing::warn!(%error, "an instance could not be thawed"),
        }
    }
}

/// Runs something on this thread, where hooks have to run, and lets anybody wait for it.
fn here<T: Send + 'static>(work: impl Future<Output = T> + 'static, lost: T) -> BoxFuture<'static, T> {
    let (sender, receiver) = oneshot::channel();
    let task = tokio::task::spawn_local(async move {
        // Whoever asked may have given up.
        let _ = sender.send(work.await);
    });
    let until_then = AbortOnDrop(task.abort_handle());
    Box::pin(async move {
        let _until_then = until_then;
        receiver.await.unwrap_or(lost)
    })
}

/// What nobody waits for any more must not go on: something else undoes it.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl HandOver for Hands {
    fn hand_over(&self, _: Duration) -> BoxFuture<'_, Result<(), String>> {
        let hands = self.clone();
        let work = async move {
            let [old, new] = &hands.told;
            hands.begun.store(true, Ordering::Relaxed);
            // A hook may want to ask the old side for something, so it is not frozen yet.
            match hands.tell(Event::Demote, old).await {
                Err(error) if hands.leaving => tracing::warn!(error, "a hook was not told"),
                told => told?,
            }
            hands.fence_old().await?;
            hands.tell(Event::Promote, new).await
        };
        here(work, Err("it broke off".to_owned()))
    }

    /// The old side is told that it serves before callers are let go to it, unless that takes too long: then it
    /// hears it while they are.
    fn take_back(&self, limit: Duration) -> BoxFuture<'_, ()> {
        let hands = self.clone();
        let (done, over) = oneshot::channel();
        tokio::task::spawn_local(async move {
            let _back = hands.back.lock().await;
            hands.clear_up().await;
            if hands.begun.swap(false, Ordering::Relaxed) {
                hands.untell().await;
            }
            // Whoever waits may have given up.
            let _ = done.send(());
        });
        Box::pin(async move {
            if tokio::time::timeout(limit, over).await.is_err() {
                tracing::warn!("hooks still take back what they were told; callers go on meanwhile");
            }
        })
    }

    fn settle(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.clear_up())
    }
}
