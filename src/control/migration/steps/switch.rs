//! The switch, what comes of it, and the way back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::evidence::Answered;
use super::super::handover::{Hands, clear_up};
use super::{Result, Stop, Work, again, endpoints};
use crate::config::DrainPolicy;
use crate::control::SwitchoverRequest;
use crate::instance::{Role, Spec};
use crate::migrate::phase::{Came, Cause};
use crate::migrate::record::Record;
use crate::migrate::switchover::{Outcome, Refused};

/// For the source to take connections again, where it has to take over again.
const SOURCE_BACK: Duration = Duration::from_secs(30);
/// Switchovers that may give up before the migration does.
const SWITCHES: u32 = 3;

impl Work<'_> {
    pub(super) async fn switch(&self, record: &mut Record) -> Result {
        let service = &record.spec.service;
        clear_up(self.control, record).await;
        if self.active(service)? == record.slot {
            // The swap was made, and the process that made it is gone.
            return self.promoted(record).await;
        }
        self.is_attached(record)?;
        let hands = Hands::of(self.control, record).map_err(Stop::failed)?;
        if self.repeated {
            // Hooks may have been told of a switch that did not happen, and the evidence is from before.
            hands.untell().await;
            return Err(Stop(Came::Aborted, "Segue was restarted before the switch".to_owned()));
        }
        let ended = loop {
            let asked = self.control.go_to(
                service,
                record.slot,
                SwitchoverRequest::default(),
                Arc::new(hands.clone()),
            );
            match asked.await {
                Ok(ended) => break ended,
                Err(Refused::Busy | Refused::Ending) => {
                    self.wait_for(record, "another switchover or an upgrade to end".to_owned()).await?;
                }
                // Made after all by one that broke off.
                Err(Refused::AlreadyActive(_)) => return self.promoted(record).await,
                Err(error) => return Err(Stop::failed(error.to_string())),
            }
        };
        hands.rest().await;
        record.switchover = Some(json!(ended));
        match ended.outcome {
            Outcome::Completed => {
                record.reason = None;
                self.promoted(record).await
            }
            Outcome::Aborted => {
                record.aborted += 1;
                let why = ended.reason.unwrap_or_default();
                let reason = format!("the switchover gave up for the {}. time: {why}", record.aborted);
                let came =
                    if record.aborted < SWITCHES { Came::Aborted } else { Came::Undone(Cause::Failed) };
                Err(Stop(came, reason))
            }
        }
    }

    pub(super) async fn watch(&self, record: &mut Record) -> Result {
        self.control.mark(&record.spec.service).await;
        let mut progress = Answered::none_yet();
        loop {
            self.follow(record).await;
            let fault = match self.is_steady(record).await {
                Err(gone) => Some(gone),
                Ok(()) => match self.control.regression(record, &mut progress).await {
                    // Its callers may notice its end before anybody looks at it again.
                    Some(worse) => Some(match self.is_steady(record).await {
                        Err(gone) => format!("{worse}: {gone}"),
                        Ok(()) => worse,
                    }),
                    None => None,
                },
            };
            match fault {
                Some(reason) if !record.no_way_back => {
                    return Err(Stop(Came::Undone(Cause::RolledBack), reason));
                }
                None if self.in_step(record) >= record.options.watch => {
                    match self.passes_checks(record).await {
                        Ok(()) => return Ok(()),
                        Err(why) => self.look_again(format!("its checks to pass: {why}")).await,
                    }
                }
                fault => {
                    // Where there is no way back, that it runs again is enough.
                    self.control.migrations.forget_end(&record.spec.id);
                    let left = record.options.watch.saturating_sub(self.in_step(record));
                    let what = fault.unwrap_or_else(|| format!("{} s of real answers", left.as_secs() + 1));
                    self.look_again(what).await;
                }
            }
        }
    }

    /// It runs, and has not ended since it was made active, even if it was started again.
    async fn is_steady(&self, record: &Record) -> std::result::Result<(), String> {
        self.is_alive(record).await.map_err(|Stop(_, why)| why)?;
        match self.control.migrations.end_of(&record.spec.id) {
            Some(how) => Err(format!("the new instance is gone: {how}; it was started again")),
            None => Ok(()),
        }
    }

    /// The new instance is active from here on, also for whoever starts it again.
    async fn promoted(&self, record: &mut Record) -> Result {
        let allocation = record.granted.map_or(record.spec.allocation, |granted| granted.to);
        let spec = Spec { role: Role::Active, allocation, ..record.spec.clone() };
        // The swap is made, so that nothing may be undone for want of this. Before the provider is told: one that dies
        // in between is started again as what it is now.
        while let Err(Stop(_, why)) =
            self.fill(record, record.slot, &endpoints(record), Some(spec.clone())).await
        {
            self.look_again(why).await;
        }
        let provider = self.provider(record)?;
        if let Err(error) = again(|| provider.promote(&record.spec.id)).await {
            tracing::warn!(%error, migration = self.id, "the provider was not told that its instance is active");
        }
        Ok(())
    }

    pub(super) async fn switch_back(&self, record: &mut Record) -> Result {
        let service = &record.spec.service;
        clear_up(self.control, record).await;
        let mut request = SwitchoverRequest::default();
        let began = Instant::now();
        while self.active(service)? == record.slot {
            let hands = Hands::of(self.control, record).map_err(Stop::failed)?.reversed();
            let to = record.slot.other();
            let gone = self.control.go_to(service, to, request, Arc::new(hands.clone())).await;
            hands.rest().await;
            let why = match gone {
                Ok(ended) if ended.outcome == Outcome::Completed => break,
                Ok(ended) => {
                    // What the new instance does not end by itself is no reason to stay with it.
                    request.on_drain_deadline = Some(DrainPolicy::Cut);
                    ended.reason.unwrap_or_default()
                }
                Err(error @ (Refused::Busy | Refused::Ending | Refused::Store(_))) => error.to_string(),
                Err(error) if began.elapsed() < SOURCE_BACK => {
                    if let Some(source) = &record.source
                        && let Ok(provider) = self.control.providers().of(&source.workload)
                        && let Err(error) = provider.start(source).await
                    {
                        tracing::warn!(%error, migration = self.id, "the source does not come back");
                    }
                    error.to_string()
                }
                Err(error) => {
                    let before = record.reason.take().unwrap_or_default();
                    return Err(Stop(
                        Came::NoWayBack,
                        format!("{before}; it cannot be rolled back: {error}"),
                    ));
                }
            };
            self.look_again(format!("the way back: {why}")).await;
        }
        Ok(())
    }
}
