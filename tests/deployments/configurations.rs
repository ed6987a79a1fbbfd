//! `config/*.toml`, with nothing changed but addresses and folders.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use segue::config::Address;
use segue::origin::{Origin, OriginSettings, Running};

use crate::support::{Answer, free_port, read_answer, until};

/// `segue run` on a file; killed when dropped.
struct Run(Child);

impl Run {
    fn start(config: &Path) -> Self {
        let run = Command::new(env!("CARGO_BIN_EXE_segue"))
            .args(["run", "--config"])
            .arg(config)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(run)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn origin(name: &str, listen: Address) -> Running {
    let settings = OriginSettings { name: Some(name.to_owned()), ..OriginSettings::new(listen) };
    Origin::start(settings).unwrap()
}

fn loopback() -> Address {
    Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// The example, with each of `changes` made; every one of them has to be there to be changed.
fn example(name: &str, changes: &[(&str, String)], folder: &Path) -> std::path::PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    let mut text = std::fs::read_to_string(from).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{name} does not mention {from}");
        text = text.replace(from, to);
    }
    let path = folder.join("segue.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn try_get(port: u16, host: &str, path: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").ok()?;
    read_answer(&mut stream).ok()
}

fn get(port: u16, host: &str, path: &str) -> Answer {
    until("an answer", || try_get(port, host, path).filter(|answer| answer.status != 502))
}

#[test]
fn the_annotated_file_serves_a_service_with_a_shadow() {
    let folder = tempfile::tempdir().unwrap();
    let (source, shadow) = (origin("source", loopback()), origin("shadow", loopback()));
    let port = free_port();
    let changes = [
        ("0.0.0.0:8080", format!("127.0.0.1:{port}")),
        ("127.0.0.1:9900", format!("127.0.0.1:{}", free_port())),
        ("http://127.0.0.1:3000", format!("http://{}", source.addr().unwrap())),
        ("http://127.0.0.1:3001", format!("http://{}", shadow.addr().unwrap())),
    ];
    let _run = Run::start(&example("segue.toml", &changes, folder.path()));
    assert_eq!(get(port, "any", "/").header("x-instance"), Some("source"));
}

#[test]
fn the_sidecar_reaches_its_application_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let _app = origin("app", Address::Unix(folder.path().join("app.sock")));
    let port = free_port();
    let changes = [
        ("127.0.0.1:8080", format!("127.0.0.1:{port}")),
        ("unix:/run/segue/admin.sock", format!("unix:{}", at("admin.sock"))),
        ("/var/lib/segue", at("state")),
        ("unix:/run/app/app.sock", format!("unix:{}", at("app.sock"))),
    ];
    let config = example("sidecar.toml", &changes, folder.path());
    let _run = Run::start(&config);
    assert_eq!(get(port, "any", "/").header("x-instance"), Some("app"));

    let status =
        Command::new(env!("CARGO_BIN_EXE_segue")).args(["status", "--config"]).arg(&config).output().unwrap();
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.status.success() && said.contains("app: source is active"), "{said}");
    let mut admin = UnixStream::connect(folder.path().join("admin.sock")).unwrap();
    admin.write_all(b"GET /readyz HTTP/1.0\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    admin.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn the_edge_routes_by_host_and_path_behind_tls() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("tls")).unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("admin.token"), "a-token-of-some-length\n").unwrap();
    for domain in ["example.com", "example.org"] {
        let names = vec![domain.to_owned(), format!("*.{domain}"), format!("*.partners.{domain}")];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        std::fs::write(at(&format!("tls/{domain}.pem")), made.cert.pem()).unwrap();
        std::fs::write(at(&format!("tls/{domain}.key")), made.signing_key.serialize_pem()).unwrap();
    }
    let authority = rcgen::generate_simple_self_signed(vec!["ca.internal".to_owned()]).unwrap();
    std::fs::write(at("tls/internal-ca.pem"), authority.cert.pem()).unwrap();

    let shop = origin("shop", loopback());
    let shop_too = origin("shop", loopback());
    let shadow = origin("shop-shadow", loopback());
    let partners = origin("partners", loopback());
    let rest = origin("rest", loopback());
    let (plain, tls) = (free_port(), free_port());
    let changes = [
        ("0.0.0.0:9900", format!("127.0.0.1:{}", free_port())),
        ("0.0.0.0:80", format!("127.0.0.1:{plain}")),
        ("0.0.0.0:443", format!("127.0.0.1:{tls}")),
        ("/var/lib/segue", at("state").display().to_string()),
        ("/var/log/segue/access.jsonl", at("access.jsonl").display().to_string()),
        ("http://10.0.1.10:8080", format!("http://{}", shop.addr().unwrap())),
        ("http://10.0.1.11:8080", format!("http://{}", shop_too.addr().unwrap())),
        ("http://10.0.2.10:8080", format!("http://{}", shadow.addr().unwrap())),
        ("h2c://10.0.3.10:50051", format!("h2c://{}", partners.addr().unwrap())),
        ("http://10.0.4.10:8080", format!("http://{}", rest.addr().unwrap())),
        ("https://api.internal.example.com", "https://127.0.0.1:9".to_owned()),
        ("path = \"/healthz\"", "path = \"/\"".to_owned()),
    ];
    let _run = Run::start(&example("edge.toml", &changes, folder.path()));

    assert_eq!(get(plain, "www.example.com", "/").header("x-instance"), Some("shop"));
    assert_eq!(get(plain, "a.partners.example.org", "/").header("x-instance"), Some("partners"));
    assert_eq!(get(plain, "elsewhere.test", "/").header("x-instance"), Some("rest"));
    let api = until("the API's refusal", || try_get(plain, "api.example.com", "/api/x"));
    assert_eq!(api.status, 502, "its instance is not there: {}", api.text());

    for domain in ["example.com", "example.org"] {
        let shown = Command::new("curl")
            .args(["--silent", "--show-error", "--http2", "--cacert"])
            .arg(at(&format!("tls/{domain}.pem")))
            .args(["--resolve", &format!("{domain}:{tls}:127.0.0.1"), "--dump-header", "-", "--output"])
            .args(["/dev/null", &format!("https://{domain}:{tls}/")])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&shown.stdout).into_owned();
        let error = String::from_utf8_lossy(&shown.stderr).into_owned();
        assert!(said.starts_with("HTTP/2 200"), "{domain}: {said}{error}");
    }
    let lines = until("the access log", || {
        let lines = std::fs::read_to_string(at("access.jsonl")).ok()?;
        (lines.lines().count() >= 6).then_some(lines)
    });
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["status"].is_u64() && line["took_us"].is_u64(), "{line}");
    }
}

#[test]
fn the_load_target_stands_in_front_of_the_origin() {
    let folder = tempfile::tempdir().unwrap();
    let subject = origin("origin", loopback());
    let port = free_port();
    let changes = [
        ("0.0.0.0:8080", format!("127.0.0.1:{port}")),
        ("127.0.0.1:9900", format!("127.0.0.1:{}", free_port())),
        ("http://127.0.0.1:3000", format!("http://{}", subject.addr().unwrap())),
    ];
    let _run = Run::start(&example("load-target.toml", &changes, folder.path()));
    assert_eq!(get(port, "any", "/").header("x-instance"), Some("origin"));
}
