//! TLS towards instances: whom to trust, whom to be, and which name to expect.
//!
//! Built once per service and shared by its connections on all workers. There is no switch that turns
//! verification off: an instance with a private certificate is trusted by naming its CA.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{ServerName, UnixTime};

use crate::config::UpstreamTls;
use crate::credentials::{self, CredentialError, Warning};

/// Sessions remembered for resumption, over all endpoints of a service. Each endpoint name needs few, and
/// workers that reconnect at once should all find one.
const RESUMABLE_SESSIONS: usize = 256;

/// Why TLS to a service's instances cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamTlsError {
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error("tls to the instance cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
    #[error(
        "`{0}` is neither a host name nor an address, so no certificate can be verified for it; set `server_name`"
    )]
    BadName(String),
}

/// Ready-made client sides for the endpoints of one service.
pub struct ClientTls {
    /// Offers HTTP/2 and HTTP/1.1; the instance chooses.
    pub negotiating: Arc<ClientConfig>,
    /// Offers HTTP/1.1 alone, for upgrades such as WebSocket, which HTTP/2 connections cannot carry.
    pub http1: Arc<ClientConfig>,
    /// For the operator; nothing stops because of them.
    pub warnings: Vec<Warning>,
    server_name: Option<ServerName<'static>>,
}

// === impl ClientTls ===

impl ClientTls {
    /// Reads every file that `settings` names. `now` is what the client certificate's validity is held against.
    pub fn new(settings: &UpstreamTls, now: UnixTime) -> Result<Self, UpstreamTlsError> {
        let mut warnings = Vec::new();
        let roots = match &settings.ca {
            None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
            Some(path) => {
                let (roots, ignored) = credentials::trust_anchors(path)?;
                warnings.extend(ignored);
                roots
            }
        };
        let builder = ClientConfig::builder_with_provider(credentials::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match &settings.client {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let key = credentials::certified_key(files)?;
                if let Ok(certificate) = key.end_entity_cert() {
                    warnings.extend(credentials::check_validity(&files.cert, certificate, now));
                }
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)))
            }
        };
        config.resumption = Resumption::in_memory_sessions(RESUMABLE_SESSIONS);
        let mut http1 = config.clone();
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let server_name = settings.server_name.as_deref().map(parse_name).transpose()?;
        Ok(Self { negotiating: Arc::new(config), http1: Arc::new(http1), warnings, server_name })
    }

    /// The name to verify (and, unless it is an address, to send as SNI) for an endpoint on `host`: the
    /// configured `server_name`, else the host itself.
    ///
    /// `host` is a name or an address literal, IPv6 with or without brackets.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, UpstreamTlsError> {
        self.server_name.clone().map_or_else(|| parse_name(host), Ok)
    }
}

fn parse_name(host: &str) -> Result<ServerName<'static>, UpstreamTlsError> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    // A trailing dot makes a name absolute for DNS; certificates and SNI are without it.
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    ServerName::try_from(bare)
        .map(|name| name.to_owned())
        .map_err(|_| UpstreamTlsError::BadName(host.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::samples::Authority;

    #[test]
    fn the_expected_name_is_the_configured_one_else_the_host() {
        let plain = ClientTls::new(&UpstreamTls::default(), UnixTime::now()).unwrap();
        for (host, name) in [
            ("app.test", "app.test"),
            ("app.test.", "app.test"),
            ("10.0.0.1", "10.0.0.1"),
            ("::1", "::1"),
            ("[::1]", "::1"),
        ] {
            assert_eq!(plain.server_name(host).unwrap().to_str(), name);
        }
        assert!(matches!(plain.server_name("::1").unwrap(), ServerName::IpAddress(_)));
        assert!(matches!(plain.server_name("not a host"), Err(UpstreamTlsError::BadName(_))));

        let named = UpstreamTls { server_name: Some("public.test".to_owned()), ..UpstreamTls::default() };
        let named = ClientTls::new(&named, UnixTime::now()).unwrap();
        assert_eq!(named.server_name("10.0.0.1").unwrap().to_str(), "public.test");
    }

    #[test]
    fn bad_settings_name_what_is_wrong() {
        let bad_name = UpstreamTls { server_name: Some("no name".to_owned()), ..UpstreamTls::default() };
        let message = ClientTls::new(&bad_name, UnixTime::now()).err().unwrap().to_string();
        assert!(message.contains("`no name`"), "{message}");

        let ca = Authority::new();
        let absent = UpstreamTls { ca: Some(ca.path("absent.pem")), ..UpstreamTls::default() };
        let message = ClientTls::new(&absent, UnixTime::now()).err().unwrap().to_string();
        assert!(message.contains("absent.pem"), "{message}");
    }

    #[test]
    fn upgrades_get_a_side_that_offers_no_http2() {
        let tls = ClientTls::new(&UpstreamTls::default(), UnixTime::now()).unwrap();
        assert_eq!(tls.negotiating.alpn_protocols, [&b"h2"[..], b"http/1.1"]);
        assert_eq!(tls.http1.alpn_protocols, [b"http/1.1"]);
    }
}
