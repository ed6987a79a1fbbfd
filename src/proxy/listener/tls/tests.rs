//! Whole handshakes, between a listener and the client side that Segue itself uses.

use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{ClientConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsConnector;
use tokio_rustls::client;

use super::*;
use crate::config::{Certificate, UpstreamTls};
use crate::credentials::samples::Authority;
use crate::upstream::tls::ClientTls;

/// Far beyond what a handshake takes on a busy machine; no test waits for it.
const ENOUGH: Duration = Duration::from_mins(1);

type Ends = (client::TlsStream<DuplexStream>, TlsStream<DuplexStream>);

fn settings(certificates: Vec<Certificate>) -> ListenerTls {
    ListenerTls { certificates, client_auth: ClientAuth::Off, only_tls13: false }
}

fn listener(settings: &ListenerTls) -> TlsListener {
    TlsListener::new(prepare(settings, UnixTime::now()).unwrap())
}

fn trusting(ca: &Authority) -> UpstreamTls {
    UpstreamTls { ca: Some(ca.ca()), ..UpstreamTls::default() }
}

fn client(settings: &UpstreamTls) -> Arc<ClientConfig> {
    ClientTls::new(settings, UnixTime::now()).unwrap().negotiating
}

async fn connect(
    listener: &TlsListener,
    config: &Arc<ClientConfig>,
    name: &str,
) -> Result<Ends, HandshakeError> {
    let (near, far) = duplex(64 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let caller = TlsConnector::from(Arc::clone(config)).connect(name, near);
    let (caller, accepted) = tokio::join!(caller, listener.accept(far, ENOUGH));
    // The caller's failure reaches the listener as an alert, at the latest when it reads.
    Ok((caller.map_err(HandshakeError::from)?, accepted?))
}

/// The certificate that the caller was shown.
fn shown(ends: &Ends) -> CertificateDer<'static> {
    ends.0.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

fn certificate(files: &Certificate) -> CertificateDer<'static> {
    credentials::certified_key(files).unwrap().end_entity_cert().unwrap().clone().into_owned()
}

async fn assert_alive((caller, accepted): &mut Ends) {
    let mut heard = [0; 4];
    caller.write_all(b"ping").await.unwrap();
    accepted.read_exact(&mut heard).await.unwrap();
    accepted.write_all(b"pong").await.unwrap();
    caller.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"pong");
}

#[tokio::test]
async fn the_server_name_selects_the_certificate() {
    let ca = Authority::new();
    // The caller verifies the name, so the default one carries the names that nobody else does.
    let default =
        ca.sign("default", &["default.test", "unknown.test", "a.b.wild.test", "127.0.0.1", "wild.test"]);
    let named = ca.sign("named", &["Named.test", "also.test"]);
    let wild = ca.sign("wild", &["*.wild.test"]);
    let exact = ca.sign("exact", &["exact.wild.test"]);
    let listener = listener(&settings(vec![default.clone(), named.clone(), wild.clone(), exact.clone()]));
    let client = client(&trusting(&ca));
    for (name, expected) in [
        ("named.test", &named),
        ("NAMED.test", &named),
        ("also.test", &named),
        ("any.wild.test", &wild),
        ("exact.wild.test", &exact),
        ("default.test", &default),
        ("unknown.test", &default),
        ("wild.test", &default),
        ("a.b.wild.test", &default),
        ("127.0.0.1", &default), // an address is never sent as a server name
    ] {
        let ends = connect(&listener, &client, name).await.unwrap();
        assert_eq!(shown(&ends), certificate(expected), "{name}");
        let sent = Negotiated::of(ends.1.get_ref().1).server_name;
        let expected = (name != "127.0.0.1").then(|| name.to_lowercase().into_boxed_str());
        assert_eq!(sent, expected);
    }
}

#[tokio::test]
async fn a_caller_gets_the_certificate_whose_key_it_can_verify() {
    let ca = Authority::with(&rcgen::PKCS_ED25519);
    let ecdsa = ca.sign("ecdsa", &["a.test"]);
    let ed25519 = ca.sign_with(&rcgen::PKCS_ED25519, "ed25519", &["a.test"]);
    let listener = listener(&settings(vec![ecdsa.clone(), ed25519.clone()]));
    let modern = client(&trusting(&ca));
    assert_eq!(shown(&connect(&listener, &modern, "a.test").await.unwrap()), certificate(&ecdsa));

    let mut provider = credentials::provider().as_ref().clone();
    let known = provider.signature_verification_algorithms.mapping;
    let only: Vec<_> =
        known.iter().copied().filter(|(scheme, _)| *scheme == SignatureScheme::ED25519).collect();
    let only = Vec::leak(only);
    provider.signature_verification_algorithms = WebPkiSupportedAlgorithms { all: only[0].1, mapping: only };
    let provider = Arc::new(provider);
    let roots = Arc::new(credentials::trust_anchors(&ca.ca()).unwrap().0);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build().unwrap();
    let picky = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_webpki_verifier(verifier)
        .with_no_client_auth();
    assert_eq!(shown(&connect(&listener, &Arc::new(picky), "a.test").await.unwrap()), certificate(&ed25519));
}

#[tokio::test]
async fn http2_is_preferred_and_nothing_is_taken_for_http1() {
    let ca = Authority::new();
    let listener = listener(&settings(vec![ca.sign("a", &["a.test"])]));
    for (offered, http2) in [
        (&[&b"h2"[..], b"http/1.1"][..], true),
        (&[b"http/1.1", b"h2"], true),
        (&[b"http/1.1"], false),
        (&[], false),
    ] {
        let mut config = client(&trusting(&ca)).as_ref().clone();
        config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
        let (_, accepted) = connect(&listener, &Arc::new(config), "a.test").await.unwrap();
        assert_eq!(Negotiated::of(accepted.get_ref().1).http2, http2, "{offered:?}");
    }
}

#[tokio::test]
async fn a_reload_changes_new_handshakes_and_no_open_connection() {
    let ca = Authority::new();
    let settings = settings(vec![ca.sign("a", &["a.test"])]);
    let listener = listener(&settings);
    let client = client(&trusting(&ca));
    let mut old = connect(&listener, &client, "a.test").await.unwrap();
    let before = shown(&old);

    let renewed = ca.sign("a", &["a.test"]); // the same files, as a renewal writes them
    assert_eq!(shown(&connect(&listener, &client, "a.test").await.unwrap()), before);
    listener.reload(&settings).unwrap();
    let mut new = connect(&listener, &client, "a.test").await.unwrap();
    assert_eq!(shown(&new), certificate(&renewed));
    assert_ne!(shown(&new), before);
    assert_alive(&mut old).await;
    assert_alive(&mut new).await;
}

#[tokio::test]
async fn a_reload_with_any_fault_changes_nothing() {
    let ca = Authority::new();
    let (first, second) = (ca.sign("first", &["a.test"]), ca.sign("second", &["b.test"]));
    let settings = settings(vec![first.clone(), second.clone()]);
    let listener = listener(&settings);
    let client = client(&trusting(&ca));
    let before = certificate(&first);

    ca.sign("first", &["a.test"]);
    std::fs::write(&second.key, "oops").unwrap();
    let refused = listener.reload(&settings).unwrap_err().to_string();
    assert!(refused.contains(second.key.to_str().unwrap()), "{refused}");
    assert_eq!(shown(&connect(&listener, &client, "a.test").await.unwrap()), before);
}

#[tokio::test]
async fn sessions_resume_until_a_reload() {
    use rustls::HandshakeKind::{Full, Resumed};
    let ca = Authority::new();
    let settings = settings(vec![ca.sign("a", &["a.test"])]);
    let listener = listener(&settings);
    assert!(listener.current.load().ticketer.enabled(), "resumption would cost memory here");
    let client = client(&trusting(&ca));
    for expected in [Full, Resumed, Resumed] {
        let mut ends = connect(&listener, &client, "a.test").await.unwrap();
        assert_alive(&mut ends).await; // tickets arrive with the first answer
        assert_eq!(ends.1.get_ref().1.handshake_kind(), Some(expected));
    }
    listener.reload(&settings).unwrap();
    let ends = connect(&listener, &client, "a.test").await.unwrap();
    assert_eq!(ends.1.get_ref().1.handshake_kind(), Some(Full), "an old ticket passed a new configuration");
}

#[tokio::test]
async fn mutual_tls_required_and_optional() {
    let ca = Authority::new();
    let (callers, strangers) = (Authority::new(), Authority::new());
    let anonymous = client(&trusting(&ca));
    let with = |files| client(&UpstreamTls { client: Some(files), ..trusting(&ca) });
    let known = with(callers.sign("known", &["known.test"]));
    let stranger = with(strangers.sign("stranger", &["known.test"]));
    let server = ca.sign("a", &["a.test"]);

    let required = ClientAuth::Required { ca: callers.ca() };
    let optional = ClientAuth::Optional { ca: callers.ca() };
    for (client_auth, caller, expected) in [
        (&required, &known, Some(true)),
        (&required, &anonymous, None),
        (&required, &stranger, None),
        (&optional, &known, Some(true)),
        (&optional, &anonymous, Some(false)),
        (&optional, &stranger, None),
    ] {
        for only_tls13 in [false, true] {
            let settings = ListenerTls {
                client_auth: client_auth.clone(),
                only_tls13,
                ..settings(vec![server.clone()])
            };
            let outcome = connect(&listener(&settings), caller, "a.test").await;
            let verified =
                outcome.as_ref().ok().map(|(_, ours)| Negotiated::of(ours.get_ref().1).client_verified);
            assert_eq!(verified, expected, "{client_auth:?}");
            assert!(outcome.is_ok() || matches!(outcome, Err(HandshakeError::Refused(_))));
        }
    }
}

#[tokio::test]
async fn tls_1_2_is_spoken_unless_it_is_refused() {
    let ca = Authority::new();
    let settings = settings(vec![ca.sign("a", &["a.test"])]);
    let roots = credentials::trust_anchors(&ca.ca()).unwrap().0;
    let old = ClientConfig::builder_with_provider(credentials::provider())
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let old = Arc::new(old);
    assert_alive(&mut connect(&listener(&settings), &old, "a.test").await.unwrap()).await;

    let strict = listener(&ListenerTls { only_tls13: true, ..settings });
    let refused = connect(&strict, &old, "a.test").await.err();
    assert!(matches!(refused, Some(HandshakeError::Refused(_))), "{refused:?}");
    assert_alive(&mut connect(&strict, &client(&trusting(&ca)), "a.test").await.unwrap()).await;
}

#[tokio::test]
async fn an_instance_is_verified() {
    let ca = Authority::new();
    let listener = listener(&settings(vec![ca.sign("a", &["a.test"])]));
    let wrong_name = connect(&listener, &client(&trusting(&ca)), "b.test").await.err();
    assert!(matches!(wrong_name, Some(HandshakeError::Refused(_))), "{wrong_name:?}");
    let web_roots = connect(&listener, &client(&UpstreamTls::default()), "a.test").await.err();
    assert!(matches!(web_roots, Some(HandshakeError::Refused(_))), "{web_roots:?}");
}

#[tokio::test]
async fn what_is_not_tls_is_refused() {
    let ca = Authority::new();
    let listener = listener(&settings(vec![ca.sign("a", &["a.test"])]));
    let hello_of_nothing = [&[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3][..], &[0xFF; 194]].concat();
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 64],
        &[0xFF; 300],
        &hello_of_nothing,
        &[22, 3, 1, 0xFF, 0xFF, 1],
    ] {
        let (mut near, far) = duplex(1024);
        near.write_all(bytes).await.unwrap();
        let refused = listener.accept(far, ENOUGH).await.err();
        assert!(matches!(refused, Some(HandshakeError::Refused(_))), "{}: {refused:?}", bytes.escape_ascii());
    }
    // Cut off within the first record.
    let (mut near, far) = duplex(1024);
    near.write_all(&hello_of_nothing[..40]).await.unwrap();
    drop(near);
    let cut = listener.accept(far, ENOUGH).await.err();
    assert!(matches!(cut, Some(HandshakeError::Connection(_))), "{cut:?}");
}

#[tokio::test]
async fn a_caller_that_says_nothing_is_given_up() {
    let ca = Authority::new();
    let listener = listener(&settings(vec![ca.sign("a", &["a.test"])]));
    let (_silent, far) = duplex(1024);
    let outcome = listener.accept(far, Duration::from_millis(1)).await.err();
    assert!(matches!(outcome, Some(HandshakeError::TimedOut(_))), "{outcome:?}");
}

#[test]
fn what_stops_nothing_is_a_warning() {
    let ca = Authority::new();
    let (first, same) = (ca.sign("first", &["a.test"]), ca.sign("same", &["a.test"]));
    let address = ca.sign("address", &["10.0.0.1"]);
    let warnings =
        |now| prepare(&settings(vec![first.clone(), same.clone(), address.clone()]), now).unwrap().warnings;
    let structural =
        [Warning::Shadowed { path: same.cert.clone() }, Warning::NoNames { path: address.cert.clone() }];
    assert_eq!(warnings(UnixTime::now()), structural);

    let in_the_year_9000 = UnixTime::since_unix_epoch(Duration::from_hours(7030 * 365 * 24));
    let expired = warnings(in_the_year_9000);
    assert!(matches!(&expired[0], Warning::Expired { path, .. } if *path == first.cert), "{expired:?}");
    let early = warnings(UnixTime::since_unix_epoch(Duration::ZERO));
    assert!(matches!(&early[0], Warning::NotYetValid { path, .. } if *path == first.cert), "{early:?}");
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let ca = Authority::new();
    let none = prepare(&settings(Vec::new()), UnixTime::now()).err();
    assert!(matches!(none, Some(TlsError::NoCertificate)), "{none:?}");
    let no_ca = ListenerTls {
        client_auth: ClientAuth::Required { ca: ca.path("absent.pem") },
        ..settings(vec![ca.sign("a", &["a.test"])])
    };
    let message = prepare(&no_ca, UnixTime::now()).err().unwrap().to_string();
    assert!(message.contains("absent.pem"), "{message}");
}
