//! Every kind of endpoint: HTTP/1.1, HTTP/2 in clear, TLS with a private authority, Unix sockets.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use segue::config::Address;
use segue::origin::{Origin, OriginSettings};

use crate::support::certificates::{Authority, Files};
use crate::support::{Segue, get, request};

/// What the instance saw, as it tells: its own view of the request.
fn seen(segue: &Segue) -> serde_json::Value {
    let answer =
        request(segue.address, "GET /headers HTTP/1.1\r\nhost: web.test\r\nconnection: close\r\n\r\n");
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

#[test]
fn in_clear_over_both_versions_and_a_socket() {
    let tcp = Origin::start(OriginSettings::on_loopback()).unwrap();
    let tcp_address = tcp.addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let _unix = Origin::start(OriginSettings::new(Address::Unix(path.clone()))).unwrap();
    for (endpoint, version) in [
        (format!("http://{tcp_address}"), "HTTP/1.1"),
        (format!("h2c://{tcp_address}"), "HTTP/2.0"),
        (format!("unix:{}", path.display()), "HTTP/1.1"),
        (format!("h2c+unix:{}", path.display()), "HTTP/2.0"),
    ] {
        let segue = Segue::with(&endpoint, None, "", "");
        let seen = seen(&segue);
        assert_eq!(seen["version"], version, "{endpoint}");
        let host = if version == "HTTP/2.0" { &seen["target"] } else { &seen["headers"]["host"][0] };
        assert!(host.as_str().unwrap().contains("web.test"), "{endpoint}: the host is kept: {seen}");
        let upload = request(
            segue.address,
            format!(
                "POST /upload HTTP/1.1\r\nhost: web.test\r\ncontent-length: 300000\r\n\r\n{}",
                "u".repeat(300_000)
            ),
        );
        assert!(upload.text().contains("300000"), "{endpoint}: {}", upload.text());
        assert_eq!(get(segue.address, "/bytes/3000000").body.len(), 3_000_000, "{endpoint}");
    }
}

#[test]
fn a_host_that_http2_cannot_carry_is_its_callers_fault() {
    let origin = Origin::start(OriginSettings::on_loopback()).unwrap();
    let segue = Segue::with(&format!("h2c://{}", origin.addr().unwrap()), None, "", "");
    let with = |host| {
        request(segue.address, format!("GET /headers HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"))
    };
    // More often than an instance may fail.
    for _ in 0..20 {
        let answer = with("we%62.test");
        assert_eq!(
            (answer.status, answer.header("segue-error")),
            (400, Some("bad_host")),
            "{}",
            answer.text()
        );
        assert_eq!(with("web.test").status, 200, "the instance is not to blame");
    }
    assert_eq!(with("").status, 200, "an empty Host is legal");
}

/// One TLS server that answers each connection once, and says which name it was asked for.
fn tls_origin(files: &Files) -> SocketAddr {
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&files.cert).unwrap()],
            PrivateKeyDer::from_pem_file(&files.key).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for tcp in listener.incoming().map_while(Result::ok) {
            let config = Arc::clone(&config);
            std::thread::spawn(move || answer_once(config, tcp));
        }
    });
    address
}

fn answer_once(config: Arc<ServerConfig>, tcp: TcpStream) {
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), tcp);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let name = stream.conn.server_name().unwrap_or("none").to_owned();
    let answer =
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{name}", name.len());
    let _ = std::io::Write::write_all(&mut stream, answer.as_bytes());
    stream.conn.send_close_notify();
    let _ = stream.flush_all();
}

trait FlushAll {
    fn flush_all(&mut self) -> std::io::Result<()>;
}

impl FlushAll for StreamOwned<ServerConnection, TcpStream> {
    fn flush_all(&mut self) -> std::io::Result<()> {
        std::io::Write::flush(self)?;
        let _ = self.read(&mut [0; 1]);
        Ok(())
    }
}

#[test]
fn over_tls_the_instance_is_verified() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let origin = tls_origin(&authority.issue("app", &["app.internal", "localhost"]));
    let with = |ca: &Authority, name: &str| {
        let service = format!(
            "upstream = {{ tls = {{ ca = \"{}\", server_name = \"{name}\" }} }}\n",
            ca.ca().display()
        );
        Segue::with(&format!("https://{origin}"), None, &service, "")
    };
    let answer = get(with(&authority, "app.internal").address, "/");
    assert_eq!((answer.status, answer.text().as_str()), (200, "app.internal"));
    for (segue, why) in [
        (with(&stranger, "app.internal"), "another authority"),
        (with(&authority, "other.internal"), "another name"),
        (Segue::with(&format!("https://localhost:{}", origin.port()), None, "", ""), "the public roots"),
    ] {
        let answer = get(segue.address, "/");
        assert_eq!((answer.status, answer.header("segue-error")), (502, Some("connect_failed")), "{why}");
    }
    let service = format!("upstream = {{ tls = {{ ca = \"{}\" }} }}\n", authority.ca().display());
    let segue = Segue::with(&format!("https://localhost:{}", origin.port()), None, &service, "");
    assert_eq!(get(segue.address, "/").text(), "localhost", "the endpoint's own name is verified by default");
}
