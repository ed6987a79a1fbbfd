//! TLS towards callers: certificates by server name, mutual TLS, reload under open connections.
//!
//! A [`TlsListener`] holds one immutable `ServerConfig` and replaces it whole. Connections keep the one
//! they shook hands with; a reload that finds any fault changes nothing. Each configuration has ticket
//! keys of its own, so a session from before a reload cannot resume past a stricter client check.
//! Early data stays off: a replayed write is a second write.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, ResolvesServerCert, ServerSessionMemoryCache, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};
use rustls_pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use webpki::EndEntityCert;

use crate::config::{ClientAuth, ListenerTls};
use crate::credentials::{self, CredentialError, Warning};

/// What we speak inside TLS, best first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Sessions kept for TLS 1.2 callers that know no tickets; everyone else resumes without state here.
/// Such callers are few, and an entry is well below a kilobyte.
const STATEFUL_SESSIONS: usize = 1024;

/// Why a listener's TLS settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("tls needs at least one certificate; add `cert` and `key`")]
    NoCertificate,
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error("cannot verify callers' certificates against {}: {source}", ca.display())]
    ClientCa { ca: PathBuf, source: VerifierBuilderError },
    #[error("tls cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// Why one caller did not get a TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("the tls handshake was not over within {0:?}")]
    TimedOut(Duration),
    /// The caller broke the protocol, offered nothing acceptable, or its certificate was refused.
    #[error("tls handshake refused: {0}")]
    Refused(rustls::Error),
    /// The connection ended or failed under the handshake.
    #[error("the connection failed during the tls handshake: {0}")]
    Connection(io::Error),
}

/// A configuration that was checked whole and may be installed.
pub struct Prepared {
    config: Arc<ServerConfig>,
    /// For the operator; nothing stops because of them.
    pub warnings: Vec<Warning>,
}

/// What a handshake agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The server name that the caller asked for, in lower case.
    pub server_name: Option<Box<str>>,
    /// HTTP/2 by ALPN; without ALPN it is HTTP/1.1.
    pub http2: bool,
    /// The caller presented a certificate, and it was verified.
    pub client_verified: bool,
}

/// The TLS side of one listening socket.
pub struct TlsListener {
    current: ArcSwap<ServerConfig>,
}

// === impl TlsListener ===

impl TlsListener {
    pub fn new(prepared: Prepared) -> Self {
        Self { current: ArcSwap::new(prepared.config) }
    }

    /// Handshakes that begin from now on use `prepared`; established connections are not touched.
    ///
    /// Apart from [`prepare`] so that a reload of several listeners can check them all before it changes one.
    pub fn install(&self, prepared: Prepared) {
        self.current.store(prepared.config);
    }

    /// Reads all files again and installs the result, or changes nothing.
    pub fn reload(&self, settings: &ListenerTls) -> Result<Vec<Warning>, TlsError> {
        let mut prepared = prepare(settings, UnixTime::now())?;
        let warnings = std::mem::take(&mut prepared.warnings);
        self.install(prepared);
        Ok(warnings)
    }

    /// Shakes hands with a caller within `timeout`.
    pub async fn accept<S>(&self, stream: S, timeout: Duration) -> Result<TlsStream<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let handshake = TlsAcceptor::from(self.current.load_full()).accept(stream);
        match tokio::time::timeout(timeout, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(HandshakeError::from(error)),
            Err(_elapsed) => Err(HandshakeError::TimedOut(timeout)),
        }
    }
}

// === impl Negotiated ===

impl Negotiated {
    pub fn of(connection: &ServerConnection) -> Self {
        Self {
            server_name: connection.server_name().map(Into::into),
            http2: connection.alpn_protocol() == Some(ALPN[0]),
            client_verified: connection.peer_certificates().is_some(),
        }
    }
}

// === impl HandshakeError ===

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(refused) => Self::Refused(refused.clone()),
            None => Self::Connection(error),
        }
    }
}

/// Reads every file that `settings` names and builds the configuration from them.
///
/// `now` is what the certificates' validity is held against.
pub fn prepare(settings: &ListenerTls, now: UnixTime) -> Result<Prepared, TlsError> {
    let mut warnings = Vec::new();
    let verifier = client_verifier(&settings.client_auth, &mut warnings)?;
    let certificates = by_name(settings, now, &mut warnings)?;

    let versions: &[&SupportedProtocolVersion] =
        if settings.only_tls13 { &[&TLS13] } else { &[&TLS13, &TLS12] };
    let mut config = ServerConfig::builder_with_provider(credentials::provider())
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = ALPN.map(Vec::from).to_vec();
    config.ticketer = Ticketer::new()?;
    config.session_storage = ServerSessionMemoryCache::new(STATEFUL_SESSIONS);
    Ok(Prepared { config: Arc::new(config), warnings })
}

fn client_verifier(
    auth: &ClientAuth,
    warnings: &mut Vec<Warning>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let (ca, optional) = match auth {
        ClientAuth::Off => return Ok(WebPkiClientVerifier::no_client_auth()),
        ClientAuth::Optional { ca } => (ca, true),
        ClientAuth::Required { ca } => (ca, false),
    };
    let (roots, ignored) = credentials::trust_anchors(ca)?;
    warnings.extend(ignored);
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), credentials::provider());
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|source| TlsError::ClientCa { ca: ca.clone(), source })
}

fn by_name(
    settings: &ListenerTls,
    now: UnixTime,
    warnings: &mut Vec<Warning>,
) -> Result<CertificatesByName, TlsError> {
    let (first, others) = settings.certificates.split_first().ok_or(TlsError::NoCertificate)?;
    let default = Arc::new(credentials::certified_key(first)?);
    let mut index = CertificatesByName::new(Arc::clone(&default));
    let others = others.iter().map(|files| Ok((files, Arc::new(credentials::certified_key(files)?))));
    for loaded in std::iter::once(Ok((first, default))).chain(others) {
        let (files, key) = loaded.map_err(TlsError::Credential)?;
        if let Ok(certificate) = key.end_entity_cert() {
            warnings.extend(credentials::check_validity(&files.cert, certificate, now));
        }
        match index.add(&key) {
            Reach::Names => {}
            Reach::NoNames => warnings.push(Warning::NoNames { path: files.cert.clone() }),
            Reach::Shadowed => warnings.push(Warning::Shadowed { path: files.cert.clone() }),
        }
    }
    Ok(index)
}

/// Certificates indexed by the names they carry, so that a handshake costs at most two look-ups.
///
/// An exact name wins over a wildcard, as the more specific claim. A name may have several certificates of
/// different key types (ECDSA beside RSA for old callers); the first that the caller can verify is used.
#[derive(Debug)]
struct CertificatesByName {
    default: Arc<CertifiedKey>,
    exact: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    /// Keyed by what follows `*.`; a wildcard stands for exactly one label.
    wildcard: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
}

/// Which server names lead to a certificate that was just added.
#[derive(Debug, PartialEq, Eq)]
enum Reach {
    Names,
    NoNames,
    Shadowed,
}

// === impl CertificatesByName ===

impl CertificatesByName {
    fn new(default: Arc<CertifiedKey>) -> Self {
        Self { default, exact: HashMap::new(), wildcard: HashMap::new() }
    }

    fn add(&mut self, key: &Arc<CertifiedKey>) -> Reach {
        let Some(parsed) = key.end_entity_cert().ok().and_then(|der| EndEntityCert::try_from(der).ok())
        else {
            return Reach::NoNames;
        };
        let mut reach = Reach::NoNames;
        for name in parsed.valid_dns_names() {
            let name = name.to_ascii_lowercase();
            let holders = match name.strip_prefix("*.") {
                Some(parent) => self.wildcard.entry(parent.into()).or_default(),
                None => self.exact.entry(name.into()).or_default(),
            };
            if holders.iter().all(|earlier| earlier.key.algorithm() != key.key.algorithm()) {
                holders.push(Arc::clone(key));
                reach = Reach::Names;
            } else if reach == Reach::NoNames {
                reach = Reach::Shadowed;
            }
        }
        reach
    }

    fn find(&self, name: &str) -> Option<&[Arc<CertifiedKey>]> {
        let holders = self.exact.get(name).or_else(|| {
            let (_label, parent) = name.split_once('.')?;
            self.wildcard.get(parent)
        })?;
        Some(holders)
    }
}

impl ResolvesServerCert for CertificatesByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let holders = hello
            .server_name()
            .and_then(|name| self.find(name))
            .unwrap_or_else(|| std::slice::from_ref(&self.default));
        let usable = holders.iter().find(|key| key.key.choose_scheme(hello.signature_schemes()).is_some());
        // When the caller can verify none of them, let rustls say so with the right alert.
        usable.or_else(|| holders.first()).cloned()
    }
}

#[cfg(test)]
mod tests;
