//! From made to running, stopped, and gone.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::call::Call;
use super::machine::{Machine, PORT, RUNNING, STOPPED, Status, WANTED};
use super::{EVER, Ec2Provider, THERE, gone, lock, workload};
use crate::config::{Endpoint, Scheme, Target};
use crate::instance::{Ec2, InstanceId, ProviderError, Running, ServiceProtocol, Spec, takes_connections};

/// What one looks at to see why something does not come up.
const TAIL_LINES: usize = 20;
/// A line may have any length; a report may not.
const TAIL_BYTES: usize = 8 * 1024;

/// Until then something may still run.
const NOT_GONE: [&str; 5] = ["pending", "running", "stopping", "stopped", "shutting-down"];

impl Ec2Provider {
    pub(super) async fn set_going(&self, spec: &Spec) -> Result<Running, ProviderError> {
        let of = workload(spec)?;
        let machine = self.find(&spec.id).await?;
        self.tag(&spec.id, &machine, WANTED, RUNNING).await?;
        let was_running = machine.status == Status::Running;
        let machine = self.run(&spec.id, machine).await?;
        if !was_running && let Err(why) = self.await_application(&machine).await {
            // Whether it answers is for others to judge.
            tracing::warn!(instance = %spec.id, "it was started, and {why}");
        }
        let refused = |message: &str| ProviderError::Refused { id: spec.id.clone(), message: message.into() };
        let address = machine
            .address
            .ok_or_else(|| refused("the machine has no private IPv4 address; use another `subnet`"))?;
        let address = address.to_string();
        self.remember(spec, of, &address);
        let scheme = match of.protocol {
            ServiceProtocol::Http => Scheme::Http,
            ServiceProtocol::H2c => Scheme::H2c,
        };
        let target = Target::Host { name: address, port: of.port };
        Ok(Running { endpoints: vec![Endpoint { scheme, target }] })
    }

    /// Until it takes connections, or why it does not.
    pub(super) async fn await_application(&self, machine: &Machine) -> Result<(), String> {
        let port = machine.tag(PORT).and_then(|port| port.parse().ok());
        let Some((address, port)) = machine.address.zip(port) else { return Ok(()) };
        let target = Target::Host { name: address.to_string(), port };
        let endpoints = [Endpoint { scheme: Scheme::Http, target }];
        let (began, patience) = (Instant::now(), self.client.patience);
        while let Err(why) = takes_connections(&endpoints).await {
            if began.elapsed() >= patience.boot {
                return Err(format!("it did not come up within {:?}: {why}", patience.boot));
            }
            tokio::time::sleep(patience.look).await;
        }
        Ok(())
    }

    /// Where its usage stands.
    fn remember(&self, spec: &Spec, of: &Ec2, address: &str) {
        let Some(text) = &of.usage else { return };
        match text.replace("{address}", address).parse() {
            Ok(page) => drop(lock(&self.pages).insert(spec.id.clone(), page)),
            Err(error) => tracing::warn!(%error, instance = %spec.id, "its usage cannot be read"),
        }
    }

    /// Until it runs; one that is on its way down gets there first.
    pub(super) async fn run(&self, id: &InstanceId, machine: Machine) -> Result<Machine, ProviderError> {
        let machine = match machine.status {
            Status::Stopping => self.until_stopped(id, self.client.patience.change).await?,
            _ => machine,
        };
        if machine.status == Status::Stopped {
            let start = Call::new("StartInstances").list("InstanceId", [&machine.key]);
            self.change(id, &start).await?;
        }
        let before = machine.reason;
        self.until(id, &EVER, "run", self.client.patience.change, |seen| {
            let machine = seen.into_iter().find(|seen| seen.key == machine.key)?;
            match machine.status {
                Status::Running => Some(Ok(machine)),
                Status::Gone => Some(Err(gone(id, &machine))),
                // It may still be seen as it was before it was started.
                Status::Stopped if machine.reason != before => {
                    let reason = machine.reason.unwrap_or_default();
                    let message = format!("its machine stopped as it started: {reason}");
                    Some(Err(ProviderError::Refused { id: id.clone(), message }))
                }
                _ => None,
            }
        })
        .await
    }

    pub(super) async fn end(&self, id: &InstanceId, grace: Duration) -> Result<(), ProviderError> {
        let machine = self.find(id).await?;
        // One that was stopped, or ended by itself, stays what it is.
        if machine.status == Status::Stopped {
            return Ok(());
        }
        // Before it ends: a Segue that dies in between finds it running, and stops it again.
        self.tag(id, &machine, WANTED, STOPPED).await?;
        self.halt(id, machine, grace).await.map(drop)
    }

    /// Shuts it down, and switches it off after `grace`.
    pub(super) async fn halt(
        &self,
        id: &InstanceId,
        machine: Machine,
        grace: Duration,
    ) -> Result<Machine, ProviderError> {
        // EC2 stops no machine that is still starting.
        let machine = match machine.status {
            Status::Pending => self.run(id, machine).await?,
            _ => machine,
        };
        let stop = Call::new("StopInstances").list("InstanceId", [&machine.key]);
        if machine.status == Status::Running && !grace.is_zero() {
            self.change(id, &stop).await?;
        }
        if !grace.is_zero() {
            match self.until_stopped(id, grace).await {
                Err(error) if error.is_transient() => {}
                outcome => return outcome,
            }
        }
        self.change(id, &stop.with("Force", true)).await?;
        self.until_stopped(id, self.client.patience.change).await
    }

    async fn until_stopped(&self, id: &InstanceId, within: Duration) -> Result<Machine, ProviderError> {
        self.until(id, &THERE, "stop", within, |seen| match seen.into_iter().next() {
            None => Some(Err(ProviderError::Absent(id.clone()))),
            Some(machine) if machine.status == Status::Stopped => Some(Ok(machine)),
            Some(_) => None,
        })
        .await
    }

    /// Returns once nothing of it runs any more. Its disk goes with it.
    pub(super) async fn remove(&self, id: &InstanceId) -> Result<(), ProviderError> {
        let left = self.described(Some(id), &THERE).await.map_err(|failure| failure.about(id))?;
        if !left.is_empty() {
            let terminate = Call::new("TerminateInstances");
            let terminate = terminate.list("InstanceId", left.iter().map(|machine| &machine.key));
            match self.client.ask(&terminate, |_| ()).await {
                Ok(()) => {}
                // Seen a little longer than it was there.
                Err(failure) if failure.is("InvalidInstanceID.NotFound") => {}
                Err(failure) => return Err(failure.about(id)),
            }
        }
        self.until(id, &NOT_GONE, "go", self.client.patience.change, |seen| {
            seen.is_empty().then_some(Ok(()))
        })
        .await?;
        lock(&self.pages).remove(id);
        lock(&self.glances).remove(id);
        Ok(())
    }

    pub(super) async fn last_lines(&self, id: &InstanceId) -> String {
        match self.console(id).await {
            Ok(text) => last(&text),
            Err(error) => format!("(its console cannot be read: {error})"),
        }
    }

    async fn console(&self, id: &InstanceId) -> Result<String, ProviderError> {
        let machine = self.find(id).await?;
        let call = Call::new("GetConsoleOutput").with("InstanceId", &machine.key);
        let read = |answer: super::answer::Part<'_>| {
            let text: String = answer.text("output")?.split_whitespace().collect();
            BASE64.decode(text).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        // What it says now, and not what it said when it was last started; older types cannot do that.
        let said = match self.client.ask(&call.clone().with("Latest", true), read).await {
            Err(failure) if failure.is("UnsupportedOperation") => self.client.ask(&call, read).await,
            said => said,
        };
        Ok(said.map_err(|failure| failure.about(id))?.unwrap_or_default())
    }
}

fn last(text: &str) -> String {
    let from = text.len().saturating_sub(TAIL_BYTES);
    let text = text.get(text.ceil_char_boundary(from)..).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_few_and_whole_characters() {
        let lines: Vec<_> = (0..100).map(|n| format!("line {n}")).collect();
        let tail = last(&lines.join("\n"));
        assert_eq!((tail.lines().next(), tail.lines().count()), (Some("line 80"), TAIL_LINES));
        let long = last(&"ö".repeat(TAIL_BYTES));
        assert!(long.len() <= TAIL_BYTES && long.chars().all(|c| c == 'ö'));
    }
}
