//! Opening one connection to an endpoint, up to the point where a request can be sent on it.

use std::error::Error as StdError;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Body;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsConnector;

use super::endpoint::{Address, Endpoint};
use super::tls::ClientTls;
use crate::config::Scheme;
use crate::http1::client;
use crate::net::{LocalExecutor, Stream};

/// Why no connection could be had. None of these reached the application, so any request may be
/// tried again elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the instance has no endpoint; check its name in DNS")]
    NoEndpoint,
    #[error("connecting took longer than {0:?}")]
    Timeout(Duration),
    #[error(
        "all {0} connections stayed busy; raise `upstream.max_connections` or give the instance more room"
    )]
    Busy(usize),
    #[error("connecting: {0}")]
    Io(#[from] io::Error),
    #[error("starting HTTP/2 on a new connection: {0}")]
    Http(#[from] hyper::Error),
    #[error("an https:// endpoint without TLS settings")]
    NoTls,
}

/// A stream whose HTTP/1.1 exchange ended in `101 Switching Protocols`, and what was already read.
pub type Upgraded = (Stream, Bytes);

pub(super) enum Sender<B> {
    H1(Rc<client::Connection>),
    H2(http2::SendRequest<B>),
}

pub(super) struct Opened<B> {
    pub sender: Sender<B>,
    pub took: Duration,
}

/// How much of an answer may be taken in before whoever asked has come for it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadAhead {
    /// Of an HTTP/1 connection; the head of an answer has to fit as well. `None` = as the connection sees fit.
    pub http1: Option<usize>,
    pub http2_stream: u32,
    /// Larger than a stream's, so that one stalled stream starves no other.
    pub http2_connection: u32,
}

impl ReadAhead {
    /// 1 MiB a stream keeps a single large answer at full speed over a millisecond of round trip.
    pub const GENEROUS: Self = Self { http1: None, http2_stream: 1 << 20, http2_connection: 16 << 20 };
    /// Nobody waits for a shadow's answer, and each of its connections may send without end: what they
    /// can fill together has to be small. The head of an answer is as large as a request's may be by default.
    pub const SPARING: Self =
        Self { http1: Some(32 << 10), http2_stream: 64 << 10, http2_connection: 1 << 20 };
}

/// Connects. `permit` goes back when the connection ends.
/// `http1`: the request asks for an upgrade, which HTTP/2 cannot carry.
pub(super) async fn open<B>(
    endpoint: &Endpoint,
    tls: Option<&ClientTls>,
    http1: bool,
    timeout: Duration,
    ahead: ReadAhead,
    permit: Option<OwnedSemaphorePermit>,
) -> Result<Opened<B>, ConnectError>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let started = Instant::now();
    let stream = tokio::time::timeout(timeout, stream_to(endpoint, tls, http1))
        .await
        .map_err(|_| ConnectError::Timeout(timeout))??;
    let is_h2 = endpoint.scheme == Scheme::H2c || stream.negotiated_h2();
    let sender = if is_h2 {
        start_h2(stream, ahead, permit).await?
    } else {
        Sender::H1(client::Connection::new(stream, permit, ahead.http1))
    };
    Ok(Opened { sender, took: started.elapsed() })
}

async fn stream_to(
    endpoint: &Endpoint,
    tls: Option<&ClientTls>,
    http1: bool,
) -> Result<Stream, ConnectError> {
    let tcp = match &endpoint.address {
        Address::Unix(path) => return Ok(Stream::Unix(UnixStream::connect(path).await?)),
        Address::Tcp(address) => TcpStream::connect(address).await?,
    };
    tcp.set_nodelay(true)?;
    if endpoint.scheme != Scheme::Https {
        return Ok(Stream::Tcp(tcp));
    }
    let (Some(tls), Some(name)) = (tls, &endpoint.server_name) else { return Err(ConnectError::NoTls) };
    let config = if http1 { &tls.http1 } else { &tls.negotiating };
    let session = TlsConnector::from(Arc::clone(config)).connect(name.clone(), tcp).await?;
    Ok(Stream::Tls(Box::new(session.into())))
}

async fn start_h2<B>(
    stream: Stream,
    ahead: ReadAhead,
    permit: Option<OwnedSemaphorePermit>,
) -> Result<Sender<B>, ConnectError>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let (sender, connection) = http2::Builder::new(LocalExecutor)
        .initial_stream_window_size(ahead.http2_stream)
        .initial_connection_window_size(ahead.http2_connection)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::task::spawn_local(async move {
        let _permit = permit;
        let _ = connection.await;
    });
    Ok(Sender::H2(sender))
}
