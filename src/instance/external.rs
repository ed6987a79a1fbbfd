//! Instances that somebody else runs: they are found where they are said to be, and left there.

use std::time::Duration;

use futures_util::future::{BoxFuture, ready};

use super::{
    Allocation, Finding, Gravity, InstanceId, Provider, ProviderError, Resized, Running, Spec, State, Usage,
    Workload,
};

#[derive(Debug)]
pub struct ExternalProvider;

fn now<T: Send + 'static>(value: T) -> BoxFuture<'static, Result<T, ProviderError>> {
    Box::pin(ready(Ok(value)))
}

impl Provider for ExternalProvider {
    fn preflight<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Vec<Finding>> {
        let Workload::External(of) = &spec.workload else { return Box::pin(ready(Vec::new())) };
        let mut findings = vec![Finding::new(
            Gravity::Warning,
            "fence",
            "somebody else runs the instance: it cannot be fenced, resized or ended from here, so that exactly one \
             instance takes writes holds only for requests that pass Segue",
        )];
        if of.endpoints.is_empty() {
            let message = "`endpoints` is empty; name where the instance answers";
            findings.push(Finding::new(Gravity::Fault, "endpoints", message));
        }
        if !of.isolated {
            let message = "`isolated` is not set: nothing but teed reads is sent to it";
            findings.push(Finding::new(Gravity::Warning, "isolated", message));
        }
        Box::pin(ready(findings))
    }

    fn create<'a>(&'a self, _: &'a Spec) -> BoxFuture<'a, Result<(), ProviderError>> {
        now(())
    }

    fn start<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running, ProviderError>> {
        Box::pin(ready(match &spec.workload {
            Workload::External(of) => Ok(Running { endpoints: of.endpoints.clone() }),
            other => Err(ProviderError::WrongProvider {
                id: spec.id.clone(),
                wanted: other.provider(),
                asked: "external",
            }),
        }))
    }

    fn state<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, Result<State, ProviderError>> {
        now(State::Running)
    }

    fn resize<'a>(
        &'a self,
        _: &'a InstanceId,
        to: Allocation,
    ) -> BoxFuture<'a, Result<Resized, ProviderError>> {
        now(Resized { to, cpu_enforced: false, memory_enforced: false, storage_enforced: false })
    }

    fn usage<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, Result<Usage, ProviderError>> {
        now(Usage::default())
    }

    fn fence<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, Result<bool, ProviderError>> {
        now(false)
    }

    fn unfence<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, Result<(), ProviderError>> {
        now(())
    }

    fn stop<'a>(&'a self, _: &'a InstanceId, _: Duration) -> BoxFuture<'a, Result<(), ProviderError>> {
        now(())
    }

    fn destroy<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, Result<(), ProviderError>> {
        now(())
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<InstanceId>, ProviderError>> {
        now(Vec::new())
    }

    fn tail<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, String> {
        Box::pin(ready(String::new()))
    }
}
