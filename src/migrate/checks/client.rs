//! One request on a connection of its own, and the whole of its answer.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use rustls_pki_types::UnixTime;

use crate::config::{Endpoint, InstanceName, Scheme, Upstream, UpstreamTls};
use crate::http1::Reply;
use crate::upstream::tls::{ClientTls, UpstreamTlsError};
use crate::upstream::{Added, AnswerFault, ConnectError, Instance, Limits, Pool, SendFault, Want, resolve};

/// The largest answer that is read: a check looks at a page, it does not download.
const MAX_ANSWER: usize = 1 << 20;

/// Names are looked up once for each request, so whoever looks them up again has to notice soon that nobody asks.
const NAMES_LAST: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub(in crate::migrate) enum AskError {
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("no answer: {0}")]
    Send(SendFault),
    #[error("the answer broke off: {0}")]
    Broke(#[from] AnswerFault),
    #[error("not answered within {0:?}")]
    Timeout(Duration),
    #[error("the answer is larger than {MAX_ANSWER} bytes; ask for something smaller")]
    TooLarge,
    #[error("{0:?} is no target of a request")]
    Target(String),
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Tls(#[from] UpstreamTlsError),
}

/// What requests are sent with.
pub(in crate::migrate) struct Client {
    tls: Option<Arc<ClientTls>>,
}

pub(in crate::migrate) struct Question<'a> {
    pub method: Method,
    /// Path and query.
    pub target: &'a str,
    pub headers: HeaderMap,
    pub body: Bytes,
}

pub(in crate::migrate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// From sending the request to the last byte.
    pub took: Duration,
}

impl Client {
    pub fn new(settings: &UpstreamTls, tls: bool) -> Result<Self, ClientError> {
        let tls = tls.then(|| ClientTls::new(settings, UnixTime::now()).map(Arc::new)).transpose()?;
        Ok(Self { tls })
    }

    /// Whether a connection can be had.
    pub async fn connect(&self, endpoint: &Endpoint, timeout: Duration) -> Result<(), AskError> {
        within(timeout, async {
            let pool = self.pool(endpoint, timeout).await;
            pool.checkout(Instant::now(), Want::default()).await?;
            Ok(())
        })
        .await
    }

    /// `timeout` is for connecting and the whole answer.
    pub async fn ask(
        &self,
        endpoint: &Endpoint,
        question: Question<'_>,
        timeout: Duration,
    ) -> Result<Answer, AskError> {
        within(timeout, async {
            let target = || AskError::Target(question.target.to_owned());
            let mut request = Request::new(Full::new(question.body));
            *request.method_mut() = question.method;
            *request.uri_mut() = question.target.parse::<Uri>().map_err(|_| target())?;
            *request.headers_mut() = question.headers;
            let agent = HeaderValue::from_static("segue-check");
            request.headers_mut().entry(USER_AGENT).or_insert(agent);
            let pool = self.pool(endpoint, timeout).await;
            let mut lease = pool.checkout(Instant::now(), Want::default()).await?;
            let sent = Instant::now();
            let reply = lease.send(&mut request, &Added::default(), |_| {}).await;
            let Reply { status, headers, body: mut rest } =
                reply.map_err(|failed| AskError::Send(failed.error))?;
            let mut body = BytesMut::new();
            while let Some(frame) = rest.frame().await {
                if let Ok(data) = frame?.into_data() {
                    if body.len() + data.len() > MAX_ANSWER {
                        return Err(AskError::TooLarge);
                    }
                    body.extend_from_slice(&data);
                }
            }
            let took = sent.elapsed();
            Ok(Answer { status, headers: headers.into_map(), body: body.freeze(), took })
        })
        .await
    }

    /// Of one connection, to an instance that is known for this long only.
    async fn pool(&self, endpoint: &Endpoint, timeout: Duration) -> Rc<Pool<Full<Bytes>>> {
        let limits = Limits {
            max_connections: 1,
            connect_timeout: timeout,
            queue_timeout: timeout,
            eject_after: 0,
            ..Limits::of_callers(&Upstream::default())
        };
        let tls = self.tls.as_ref().filter(|_| endpoint.scheme == Scheme::Https).cloned();
        let instance = Arc::new(Instance::new(InstanceName::Shadow, limits, tls, Instant::now()));
        resolve::follow(&instance, vec![endpoint.clone()], NAMES_LAST).await;
        Pool::new(instance)
    }
}

async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, AskError>>,
) -> Result<T, AskError> {
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(AskError::Timeout(timeout)))
}
