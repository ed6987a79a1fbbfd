//! One exchange: a connection if there is none, the request, the whole answer.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;

use super::LoadSettings;
use crate::config::{Endpoint, Scheme, Target};

/// Connections that may turn out to have been closed at rest before an exchange is given up.
const ATTEMPTS: usize = 4;

type Outgoing = Full<Bytes>;

/// What is asked, and what has to come back.
pub(super) struct Request {
    path: String,
    /// The write's number; `None` for a read.
    pub write: Option<u64>,
    /// The exact body, where it is known.
    expected: Option<Bytes>,
}

impl Request {
    pub fn read(path: String, expected: Option<Bytes>) -> Self {
        Self { path, write: None, expected }
    }

    pub fn write(number: u64, key: impl fmt::Display) -> Self {
        Self { path: format!("/ledger/{key}"), write: Some(number), expected: None }
    }

    fn method(&self) -> Method {
        if self.write.is_some() { Method::POST } else { Method::GET }
    }

    fn to_http(&self, settings: &LoadSettings) -> Result<http::Request<Outgoing>, Fault> {
        let authority = settings.host.clone().unwrap_or_else(|| authority(&settings.target));
        let body = if self.write.is_some() { Bytes::from_static(b"1") } else { Bytes::new() };
        let request = http::Request::builder().method(self.method());
        let request = match settings.target.scheme {
            Scheme::H2c => request.uri(format!("http://{authority}{}", self.path)),
            Scheme::Http | Scheme::Https => request.uri(&self.path).header(header::HOST, authority),
        };
        request.body(Full::new(body)).map_err(Fault::Request)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method(), self.path)
    }
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("cannot build the request: {0}")]
    Request(http::Error),
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("cannot begin to speak HTTP: {}", with_cause(.0))]
    Handshake(hyper::Error),
    #[error("every connection was closed before the request could be sent")]
    NeverSent,
    #[error("no answer: {}", with_cause(.0))]
    NoAnswer(hyper::Error),
    #[error("no whole answer within {0:?}")]
    TooLate(Duration),
    #[error("answered with {0}")]
    Status(StatusCode),
    #[error("the answer broke off: {}", with_cause(.0))]
    Body(hyper::Error),
    #[error("the answer is not what was asked for: {got} bytes came, these {expected} were due")]
    Wrong { got: usize, expected: usize },
}

/// hyper names the step that failed and leaves the reason to the source.
fn with_cause(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// HTTP/2 connections, each used by many lanes.
pub(super) struct SharedConnections(Vec<Mutex<Option<http2::SendRequest<Outgoing>>>>);

impl SharedConnections {
    pub fn new(most: usize) -> Self {
        Self((0..most).map(|_| Mutex::default()).collect())
    }
}

enum Sender {
    Http1(http1::SendRequest<Outgoing>),
    Http2(http2::SendRequest<Outgoing>),
}

impl Sender {
    async fn try_send(
        &mut self,
        request: http::Request<Outgoing>,
    ) -> Result<http::Response<Incoming>, TrySendError<http::Request<Outgoing>>> {
        match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::Http2(sender) => sender.try_send_request(request).await,
        }
    }
}

/// A lane's way to the target.
pub(super) struct Connection {
    lane: usize,
    kept: Option<http1::SendRequest<Outgoing>>,
}

impl Connection {
    pub fn new(lane: usize) -> Self {
        Self { lane, kept: None }
    }

    /// Sends the request and reads its whole answer. After a failure the connection is not used again.
    pub async fn exchange(
        &mut self,
        settings: &LoadSettings,
        shared: &SharedConnections,
        request: &Request,
    ) -> Result<(), Fault> {
        let limit = settings.answer_timeout;
        let exchange = self.exchange_unlimited(settings, shared, request);
        tokio::time::timeout(limit, exchange).await.unwrap_or(Err(Fault::TooLate(limit)))
    }

    async fn exchange_unlimited(
        &mut self,
        settings: &LoadSettings,
        shared: &SharedConnections,
        request: &Request,
    ) -> Result<(), Fault> {
        let mut outgoing = request.to_http(settings)?;
        for _ in 0..ATTEMPTS {
            let mut sender = self.connected(settings, shared).await?;
            match sender.try_send(outgoing).await {
                Ok(answer) => {
                    read(answer, request).await?;
                    if let Sender::Http1(sender) = sender {
                        self.kept = Some(sender);
                    }
                    return Ok(());
                }
                Err(mut error) => match error.take_message() {
                    // It comes back only if not a byte of it was written.
                    Some(unsent) => outgoing = unsent,
                    None => return Err(Fault::NoAnswer(error.into_error())),
                },
            }
        }
        Err(Fault::NeverSent)
    }

    async fn connected(
        &mut self,
        settings: &LoadSettings,
        shared: &SharedConnections,
    ) -> Result<Sender, Fault> {
        if settings.target.scheme == Scheme::H2c {
            return shared.sender(settings, self.lane).await.map(Sender::Http2);
        }
        if let Some(mut kept) = self.kept.take()
            && kept.ready().await.is_ok()
        {
            return Ok(Sender::Http1(kept));
        }
        let io = connect(&settings.target).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(Fault::Handshake)?;
        // How it ends, its requests tell.
        tokio::task::spawn_local(async move { drop(connection.await) });
        sender.ready().await.map_err(Fault::Handshake)?;
        Ok(Sender::Http1(sender))
    }
}

impl SharedConnections {
    async fn sender(
        &self,
        settings: &LoadSettings,
        lane: usize,
    ) -> Result<http2::SendRequest<Outgoing>, Fault> {
        // There is at least one: settings without a connection are refused.
        let Some(slot) = self.0.get(lane % self.0.len().max(1)) else { return Err(Fault::NeverSent) };
        let mut slot = slot.lock().await;
        if let Some(sender) = slot.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let io = connect(&settings.target).await?;
        let handshake = http2::handshake(OnThisThread, TokioIo::new(io));
        let (sender, connection) = handshake.await.map_err(Fault::Handshake)?;
        tokio::task::spawn_local(async move { drop(connection.await) });
        *slot = Some(sender.clone());
        Ok(sender)
    }
}

#[derive(Clone)]
struct OnThisThread;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

async fn read(answer: http::Response<Incoming>, request: &Request) -> Result<(), Fault> {
    let status = answer.status();
    let mut body = answer.into_body();
    let mut got = BytesMut::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(Fault::Body)?.into_data() {
            length += data.len();
            if let Some(expected) = &request.expected {
                if length > expected.len() {
                    // It may go on for ever.
                    return Err(Fault::Wrong { got: length, expected: expected.len() });
                }
                got.extend_from_slice(&data);
            }
        }
    }
    if !status.is_success() {
        return Err(Fault::Status(status));
    }
    match &request.expected {
        Some(expected) if length != expected.len() || got != *expected => {
            Err(Fault::Wrong { got: length, expected: expected.len() })
        }
        _ => Ok(()),
    }
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl Io for TcpStream {}
impl Io for UnixStream {}

async fn connect(target: &Endpoint) -> Result<Box<dyn Io>, Fault> {
    match &target.target {
        Target::Host { name, port } => {
            let stream = TcpStream::connect((name.as_str(), *port)).await.map_err(Fault::Connect)?;
            stream.set_nodelay(true).map_err(Fault::Connect)?;
            Ok(Box::new(stream))
        }
        Target::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(Fault::Connect)?)),
    }
}

fn authority(target: &Endpoint) -> String {
    match &target.target {
        Target::Host { name, port } if name.contains(':') => format!("[{name}]:{port}"),
        Target::Host { name, port } => format!("{name}:{port}"),
        Target::Unix(_) => "localhost".to_owned(),
    }
}
