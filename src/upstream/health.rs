//! Active health checks: once for the whole process, on the control thread. A check opens a connection
//! of its own, because being able to accept one is part of being healthy.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Request, Uri};
use http_body_util::Empty;

use super::address;
use super::connect::{self, ConnectError, Sender};
use super::endpoint::{Endpoint, Instance};
use crate::config::HealthCheck;
use crate::http1::client;

/// Why an endpoint is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no answer to the check within {0:?}")]
    Timeout(Duration),
    #[error("the check was not answered: {0}")]
    Broke(#[from] client::SendFault),
    #[error("the check was not answered: {0}")]
    BrokeHttp2(#[from] hyper::Error),
    #[error("the check was answered {0}")]
    Status(http::StatusCode),
    #[error("`{0}` is no path to check")]
    Path(String),
}

/// Checks `instance` until it is gone. Runs on a `LocalRuntime`.
pub async fn follow(instance: Weak<Instance>, check: HealthCheck) {
    let mut rows: HashMap<usize, Row> = HashMap::new();
    loop {
        let Some(present) = instance.upgrade() else { return };
        let endpoints = present.endpoints();
        rows.retain(|key, _| endpoints.iter().any(|endpoint| Arc::as_ptr(endpoint) as usize == *key));
        for endpoint in endpoints.iter() {
            let result = once(&present, endpoint, &check).await;
            let row = rows.entry(Arc::as_ptr(endpoint) as usize).or_default();
            if let Some(healthy) = row.next(result.is_ok(), endpoint.is_healthy(), &check) {
                endpoint.set_healthy(healthy);
                let (instance, address) = (present.name.as_str(), &endpoint.authority);
                match result {
                    Ok(()) => tracing::info!(instance, ?address, "an endpoint is healthy again"),
                    Err(error) => tracing::warn!(instance, ?address, %error, "an endpoint is unhealthy"),
                }
            }
        }
        drop((present, endpoints));
        tokio::time::sleep(check.interval).await;
    }
}

/// Results of one endpoint that agree, in a row.
#[derive(Debug, Default)]
struct Row {
    good: u32,
    bad: u32,
}

impl Row {
    /// The new verdict, where it changes.
    fn next(&mut self, good: bool, healthy: bool, check: &HealthCheck) -> Option<bool> {
        if good {
            (self.good, self.bad) = (self.good.saturating_add(1), 0);
        } else {
            (self.good, self.bad) = (0, self.bad.saturating_add(1));
        }
        match healthy {
            true if self.bad >= check.unhealthy_after => Some(false),
            false if self.good >= check.healthy_after => Some(true),
            _ => None,
        }
    }
}

/// One check of one endpoint.
pub async fn once(instance: &Instance, endpoint: &Endpoint, check: &HealthCheck) -> Result<(), Unhealthy> {
    match tokio::time::timeout(check.timeout, ask(instance, endpoint, check)).await {
        Ok(result) => result,
        Err(_) => Err(Unhealthy::Timeout(check.timeout)),
    }
}

async fn ask(instance: &Instance, endpoint: &Endpoint, check: &HealthCheck) -> Result<(), Unhealthy> {
    let (tls, ahead) = (instance.tls.as_deref(), instance.limits.read_ahead);
    let opened = connect::open(endpoint, tls, false, check.timeout, ahead, None).await?;
    let uri = check.path.parse::<Uri>().map_err(|_| Unhealthy::Path(check.path.clone()))?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = uri;
    request.headers_mut().insert(HOST, endpoint.authority.clone());
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("segue-health"));
    let status = match opened.sender {
        Sender::H1(connection) => {
            let added = client::Added { lines: &[], host: &endpoint.authority };
            connection.send(&mut request, added, |_| {}).await.map_err(|failed| failed.fault)?.status
        }
        Sender::H2(mut sender) => {
            address::for_h2(&mut request, endpoint).map_err(|_| Unhealthy::Path(check.path.clone()))?;
            sender.send_request(request).await?.status()
        }
    };
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(Unhealthy::Status(status)) }
}

/// Whether a connection to any endpoint of `instance` can be opened; the last error if not.
pub async fn reachable(instance: &Instance, timeout: Duration) -> Result<(), ConnectError> {
    let mut last = ConnectError::NoEndpoint;
    for endpoint in instance.endpoints().iter() {
        let (tls, ahead) = (instance.tls.as_deref(), instance.limits.read_ahead);
        let opened = connect::open::<Empty<Bytes>>(endpoint, tls, false, timeout, ahead, None);
        match opened.await {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_changes_only_after_enough_results_in_a_row() {
        let check = HealthCheck { healthy_after: 2, unhealthy_after: 3, ..HealthCheck::at("/".into()) };
        let mut row = Row::default();
        assert_eq!(row.next(false, true, &check), None);
        assert_eq!(row.next(false, true, &check), None);
        assert_eq!(row.next(true, true, &check), None, "a good one starts the row over");
        assert_eq!(row.next(false, true, &check), None);
        assert_eq!(row.next(false, true, &check), None);
        assert_eq!(row.next(false, true, &check), Some(false));
        assert_eq!(row.next(true, false, &check), None);
        assert_eq!(row.next(true, false, &check), Some(true));
    }
}
