//! Instances that somebody else runs: they are found where they are said to be, and left there.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};

use super::scrape::Page;
use super::{
    Allocation, External, Finding, InstanceId, Provider, ProviderError, Resized, Running, Spec, State, Usage,
    Workload,
};

/// Knows nothing after a start but what it is told again: nothing of an instance is its own.
#[derive(Debug, Default)]
pub struct ExternalProvider {
    /// Of each instance that was created or started here: where its usage stands, if anywhere.
    pages: Mutex<HashMap<InstanceId, Page>>,
}

impl ExternalProvider {
    fn remember(&self, spec: &Spec) {
        let Workload::External(of) = &spec.workload else { return };
        let Some(text) = &of.usage else { return };
        match text.parse() {
            Ok(page) => drop(self.pages().insert(spec.id.clone(), page)),
            Err(error) => tracing::warn!(%error, instance = %spec.id, "its usage cannot be read"),
        }
    }

    /// Each change is one step, so a panic elsewhere leaves them whole.
    fn pages(&self) -> MutexGuard<'_, HashMap<InstanceId, Page>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn usage_findings(of: &External) -> Option<Finding> {
    let warning = |message: String| Some(Finding::warning("usage", message));
    let page: Page = match of.usage.as_ref()?.parse() {
        Ok(page) => page,
        Err(error) => return Some(Finding::fault("usage", format!("`usage`: {error}"))),
    };
    match page.usage().await {
        Ok(usage) if usage == Usage::default() => warning(
            "the page of `usage` says nothing about the instance; where it is about many containers, choose one with \
             #LABEL=VALUE, such as #name=web"
                .to_owned(),
        ),
        Ok(_) => None,
        Err(error) => warning(format!("`usage`: {error}; until it can be read, nothing is known")),
    }
}

fn now<T: Send + 'static>(value: T) -> BoxFuture<'static, Result<T, ProviderError>> {
    Box::pin(ready(Ok(value)))
}

impl Provider for ExternalProvider {
    fn preflight<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Vec<Finding>> {
        let Workload::External(of) = &spec.workload else { return Box::pin(ready(Vec::new())) };
        let mut findings = vec![Finding::warning(
            "fence",
            "somebody else runs the instance: it cannot be fenced, resized or ended from here, so that exactly one \
             instance takes writes holds only for requests that pass Segue",
        )];
        if of.endpoints.is_empty() {
            let message = "`endpoints` is empty; name where the instance answers";
            findings.push(Finding::fault("endpoints", message));
        }
        if !of.isolated {
            let message = "`isolated` is not set: nothing but teed reads is sent to it";
            findings.push(Finding::warning("isolated", message));
        }
        Box::pin(async move {
            findings.extend(usage_findings(of).await);
            findings
        })
    }

    fn create<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<(), ProviderError>> {
        self.remember(spec);
        now(())
    }

    fn start<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running, ProviderError>> {
        self.remember(spec);
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

    fn usage<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<Usage, ProviderError>> {
        let page = self.pages().get(id).cloned();
        let Some(page) = page else { return now(Usage::default()) };
        Box::pin(async move {
            page.usage().await.map_err(|error| ProviderError::Unavailable {
                provider: "external",
                message: error.to_string(),
            })
        })
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

    fn destroy<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), ProviderError>> {
        self.pages().remove(id);
        now(())
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<InstanceId>, ProviderError>> {
        now(Vec::new())
    }

    fn tail<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, String> {
        Box::pin(ready(String::new()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;
    use crate::config::{ByteSize, Millicores};
    use crate::instance::Gravity;
    use crate::instance::Role;

    fn spec(usage: Option<&str>) -> Spec {
        Spec {
            id: InstanceId::new("s-web-1").unwrap(),
            service: "web".to_owned(),
            role: Role::Shadow,
            allocation: Allocation { cpu: Millicores(0), memory: ByteSize(0), storage: ByteSize(0) },
            workload: Workload::External(External {
                endpoints: vec!["http://127.0.0.1:1".parse().unwrap()],
                isolated: true,
                usage: usage.map(ToOwned::to_owned),
            }),
        }
    }

    /// Serves each of these once, on a port of its own, and gives the heads that it was sent.
    fn serve(answers: Vec<String>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/metrics?all=1", listener.local_addr().unwrap());
        let serving = std::thread::spawn(move || {
            let answer = |text: String| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") {
                    stream.read_exact(&mut byte).unwrap();
                    head.extend(byte);
                }
                // It may have seen enough.
                let _ = stream.write_all(text.as_bytes());
                String::from_utf8(head).unwrap()
            };
            answers.into_iter().map(answer).collect()
        });
        (url, serving)
    }

    fn page(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    fn subjects(findings: &[Finding]) -> Vec<(&str, Gravity)> {
        findings.iter().map(|of| (of.subject.as_str(), of.gravity)).filter(|of| of.0 == "usage").collect()
    }

    #[tokio::test]
    async fn usage_is_read_from_a_servers_page() {
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n20\r\nprocess_resident_memory_bytes 7\n\r\n0\r\n\r\n";
        let (url, serving) = serve(vec![
            page("process_cpu_seconds_total 1.5\n"),
            chunked.to_owned(),
            // Its end is the connection's.
            "HTTP/1.0 200 OK\r\n\r\nprocess_cpu_seconds_total 2\n".to_owned(),
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
            page(&"# much\n".repeat(700_000)),
            "HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\nprocess_cpu_seconds_total 1".to_owned(),
        ]);
        let provider = ExternalProvider::default();
        let spec = spec(Some(&url));
        assert_eq!(provider.usage(&spec.id).await.unwrap(), Usage::default(), "it is not known yet");
        provider.start(&spec).await.unwrap();
        let look = || provider.usage(&spec.id);
        assert_eq!(look().await.unwrap().cpu, Some(Duration::from_millis(1500)));
        assert_eq!(look().await.unwrap().memory, Some(7));
        assert_eq!(look().await.unwrap().cpu, Some(Duration::from_secs(2)));
        for why in ["404", "larger than", "is not read to its end"] {
            let error = look().await.unwrap_err();
            assert!(error.is_transient() && error.to_string().contains(why), "{error}");
        }
        let heads = serving.join().unwrap();
        assert!(heads.iter().all(|head| head.starts_with("GET /metrics?all=1 HTTP/1.1\r\n")), "{heads:?}");
        let error = look().await.unwrap_err();
        assert!(error.to_string().contains("cannot be reached"), "{error}");
        provider.destroy(&spec.id).await.unwrap();
        assert_eq!(look().await.unwrap(), Usage::default());
    }

    #[tokio::test]
    async fn a_page_that_says_nothing_is_in_the_report() {
        let (url, serving) = serve(vec![page("up 1\n"), page("process_cpu_seconds_total 1\n")]);
        let provider = ExternalProvider::default();
        let report = async |usage: Option<&str>| provider.preflight(&spec(usage)).await;
        assert_eq!(subjects(&report(Some(&url)).await), [("usage", Gravity::Warning)]);
        assert_eq!(subjects(&report(Some(&url)).await), []);
        serving.join().unwrap();
        assert_eq!(subjects(&report(Some(&url)).await), [("usage", Gravity::Warning)], "nobody is there");
        assert_eq!(subjects(&report(Some("ftp://x/")).await), [("usage", Gravity::Fault)]);
        assert_eq!(subjects(&report(None).await), []);
    }
}
