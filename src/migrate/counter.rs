//! How many requests an instance says that it has had, by a page of metrics.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use super::checks::ClientError;
use super::checks::client::{AskError, Client, Question};
use crate::config::{self, Endpoint, Metrics, RequestCounter};
use crate::instance::counter;

/// Reads the counter of one service's instances.
pub struct Counter<'c> {
    settings: &'c RequestCounter,
    client: Client,
}

#[derive(Debug, thiserror::Error)]
#[error("{page}: {fault}")]
pub struct CounterError {
    page: String,
    fault: Fault,
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("has no `{0}` with these labels")]
    NoCounter(String),
}

/// One look at it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counted {
    pub requests: f64,
    /// Pages that were asked for: the instance may count these too.
    pub pages: u64,
}

impl<'c> Counter<'c> {
    /// `tls`: a page over TLS is going to be read; its credentials are read now.
    pub fn new(
        settings: &'c RequestCounter,
        service: &config::Service,
        tls: bool,
    ) -> Result<Self, ClientError> {
        Ok(Self { settings, client: Client::new(&service.upstream.tls, tls)? })
    }

    /// Of an instance with these endpoints: the sum, where the page is theirs. Runs on a `LocalRuntime`.
    pub async fn read(&self, of: &[Endpoint]) -> Result<Counted, CounterError> {
        let pages: Vec<(&Endpoint, &str)> = match &self.settings.metrics {
            Metrics::OfInstance(path) => of.iter().map(|endpoint| (endpoint, path.as_str())).collect(),
            Metrics::At(endpoint, path) => vec![(endpoint, path)],
        };
        let mut requests = 0.0;
        for (endpoint, path) in &pages {
            let failed = |fault| CounterError { page: format!("{endpoint}{path}"), fault };
            requests += self.page(endpoint, path).await.map_err(failed)?;
        }
        Ok(Counted { requests, pages: pages.len() as u64 })
    }

    async fn page(&self, endpoint: &Endpoint, path: &str) -> Result<f64, Fault> {
        let question =
            Question { method: Method::GET, target: path, headers: HeaderMap::new(), body: Bytes::new() };
        let answer = self.client.ask(endpoint, question, config::Check::DEFAULT_TIMEOUT).await?;
        if !answer.status.is_success() {
            return Err(Fault::Status(answer.status));
        }
        let RequestCounter { counter: name, labels, .. } = self.settings;
        counter(&String::from_utf8_lossy(&answer.body), name, labels)
            .ok_or_else(|| Fault::NoCounter(name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::checks::tests::{Scripted, run};
    use super::*;
    use crate::config::{Instance, Service};

    #[test]
    fn a_page_is_the_instances_or_somebody_elses() {
        run(async {
            let answer = |head: &str, body: &str| {
                format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            };
            let service = Service::new(Instance::at(Vec::new()), None);
            let page = "hits{app=\"web\"} 3\nhits{app=\"web\",code=\"500\"} 1\nhits{app=\"db\"} 9\n";
            let (one, other) =
                (Scripted::new(answer("200 OK", page)).await, Scripted::new(answer("200 OK", page)).await);
            let read = async |metrics, of: &[Endpoint]| {
                let labels = vec![("app".to_owned(), "web".to_owned())];
                let settings = RequestCounter { metrics, counter: "hits".to_owned(), labels };
                let counter = Counter::new(&settings, &service, false).unwrap();
                counter.read(of).await.map_err(|error| error.to_string())
            };
            let of = [one.endpoint.clone(), other.endpoint.clone()];
            let counted = |requests, pages| Ok(Counted { requests, pages });
            assert_eq!(read(Metrics::OfInstance("/m?x".into()), &of).await, counted(8.0, 2));
            assert!(other.requests.borrow()[0].starts_with("GET /m?x HTTP/1.1\r\n"));
            let third = Scripted::new(answer("200 OK", page)).await;
            assert_eq!(read(Metrics::At(third.endpoint.clone(), "/".into()), &of).await, counted(4.0, 1));
            for (head, body, why) in
                [("404 Not Found", "", "answered 404"), ("200 OK", "x 1\n", "has no `hits`")]
            {
                let third = Scripted::new(answer(head, body)).await;
                let failed = read(Metrics::At(third.endpoint.clone(), "/".into()), &of).await.unwrap_err();
                assert!(failed.contains(why) && failed.starts_with("http://127.0.0.1:"), "{failed}");
            }
        });
    }
}
