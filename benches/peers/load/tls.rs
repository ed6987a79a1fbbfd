//! The TLS caller: 1.3 only, and it never resumes a session, so that every handshake is a full one.

use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::Outcome;

pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

#[derive(Clone)]
pub struct TlsCaller {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    port: u16,
}

impl TlsCaller {
    pub fn new(certificate: &Path, port: u16) -> Outcome<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate)?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), name: ServerName::try_from("localhost")?, port })
    }

    /// Connects; the handshake happens with the first bytes.
    pub fn connect(&self) -> Outcome<TlsStream> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_nodelay(true)?;
        let session = ClientConnection::new(Arc::clone(&self.config), self.name.clone())?;
        Ok(StreamOwned::new(session, stream))
    }
}
