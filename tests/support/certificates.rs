//! A private certificate authority, and a blocking TLS caller.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::PATIENCE;
use super::raw::Wire;

/// An authority with a folder of its own.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Files {
    /// `cert = "…", key = "…"`, as in a configuration.
    pub fn toml(&self) -> String {
        format!("cert = \"{}\", key = \"{}\"", self.cert.display(), self.key.display())
    }

    pub fn replace(&self, with: &Self) {
        std::fs::copy(&with.cert, &self.cert).unwrap();
        std::fs::copy(&with.key, &self.key).unwrap();
    }
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for these names, in files called after `name`.
    pub fn issue(&self, name: &str, names: &[&str]) -> Files {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let at = |ending: &str| self.folder.path().join(format!("{name}.{ending}"));
        let files = Files { cert: at("pem"), key: at("key") };
        std::fs::write(&files.cert, cert.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    pub fn config(&self, caller: &TlsCaller<'_>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions: &[&rustls::SupportedProtocolVersion] =
            if caller.tls12 { &[&rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match caller.certificate {
            None => builder.with_no_client_auth(),
            Some(files) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_file(&files.cert).unwrap()],
                    PrivateKeyDer::from_pem_file(&files.key).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = caller.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }

    /// A TLS connection whose handshake is over, or why there is none.
    pub fn connect(&self, address: SocketAddr, caller: &TlsCaller<'_>) -> std::io::Result<TlsWire> {
        let tcp = TcpStream::connect_timeout(&address, PATIENCE)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from(caller.name.to_owned()).map_err(std::io::Error::other)?;
        let session = ClientConnection::new(Arc::new(self.config(caller)), name);
        let mut stream = StreamOwned::new(session.map_err(std::io::Error::other)?, tcp.try_clone()?);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        let leaf = stream.conn.peer_certificates().and_then(|chain| chain.first());
        Ok(TlsWire {
            leaf: leaf.map(|leaf| leaf.to_vec()).unwrap_or_default(),
            protocol: stream
                .conn
                .protocol_version()
                .map(|version| format!("{version:?}"))
                .unwrap_or_default(),
            alpn: stream.conn.alpn_protocol().map(|alpn| String::from_utf8_lossy(alpn).into_owned()),
            wire: Wire::over(Box::new(stream), tcp),
        })
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

/// What a TLS caller is and wants.
pub struct TlsCaller<'a> {
    pub name: &'a str,
    pub alpn: &'a [&'a str],
    pub tls12: bool,
    pub certificate: Option<&'a Files>,
}

impl<'a> TlsCaller<'a> {
    pub const fn to(name: &'a str) -> Self {
        Self { name, alpn: &["http/1.1"], tls12: false, certificate: None }
    }
}

pub struct TlsWire {
    pub wire: Wire,
    /// The server's certificate, DER.
    pub leaf: Vec<u8>,
    pub protocol: String,
    pub alpn: Option<String>,
}

/// A certificate file as DER, to compare with what a server presented.
pub fn der(files: &Files) -> Vec<u8> {
    CertificateDer::from_pem_file(&files.cert).unwrap().to_vec()
}
