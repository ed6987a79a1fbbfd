//! Bodies of every shape, both ways, over the protocols that curl speaks.

use std::path::Path;
use std::process::Command;

use segue::origin::{Origin, OriginSettings, Running};

use crate::support::certificates::Authority;
use crate::support::raw::{RawOrigin, Reply, Wire};
use crate::support::{Segue, free_port};

const LARGE: usize = 20 << 20;

fn origin() -> (Running, String) {
    let origin = Origin::start(OriginSettings::on_loopback()).unwrap();
    let url = format!("http://{}", origin.addr().unwrap());
    (origin, url)
}

/// curl's output: the body, and what `-w` printed after it.
fn curl(arguments: &[&str]) -> (Vec<u8>, String) {
    let mut all = vec!["-sS", "--max-time", "60", "-w", "%{stderr}%{http_version} %{http_code}"];
    all.extend_from_slice(arguments);
    let output = Command::new("curl").args(&all).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "curl {arguments:?}: {said}");
    (output.stdout, said)
}

fn payload(folder: &Path) -> (String, Vec<u8>) {
    let bytes: Vec<u8> = (0..LARGE as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let path = folder.join("payload");
    std::fs::write(&path, &bytes).unwrap();
    (path.display().to_string(), bytes)
}

/// The same requests over one protocol; `how` is what makes curl speak it.
fn carries_everything(url: &str, version: &str, how: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let (file, bytes) = payload(folder.path());
    let ask = |path: &str, more: &[&str]| {
        let target = format!("{url}{path}");
        curl(&[how, more, &[&target]].concat())
    };
    let (body, said) = ask(&format!("/bytes/{LARGE}"), &[]);
    assert_eq!(said, format!("{version} 200"));
    assert_eq!(body.len(), LARGE);
    assert!(body == segue::origin::content::bytes(LARGE as u64), "20 MiB arrive as they were sent");

    for chunked in [false, true] {
        let data = format!("@{file}");
        let mut more = vec!["--data-binary", &data, "-H", "content-type: application/octet-stream"];
        if chunked {
            more.extend(["-H", "transfer-encoding: chunked"]);
        }
        if chunked && version == "2" {
            continue;
        }
        let (answer, said) = ask("/upload", &more);
        assert_eq!(said, format!("{version} 200"));
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["bytes"], LARGE);
        assert_eq!(answer["blake3"], blake3::hash(&bytes).to_hex().as_str());
        let (echoed, _) = ask("/echo", &more);
        assert!(echoed == bytes, "an answer that streams while its request does");
    }
    let (_, said) = ask("/upload", &["--expect100-timeout", "20", "-H", "expect: 100-continue", "-d", "abc"]);
    assert_eq!(said, format!("{version} 200"));
    let (body, said) = ask("/bytes/1000", &["-r", "10-19"]);
    assert_eq!((body.len(), said), (10, format!("{version} 206")));
    let (_, said) = ask("/bytes/1000", &["-r", "5000-6000"]);
    assert_eq!(said, format!("{version} 416"));
    for empty in [204, 304] {
        let (body, said) = ask(&format!("/status/{empty}"), &[]);
        assert_eq!((body.len(), said), (0, format!("{version} {empty}")));
    }
    let (head, said) = ask("/bytes/1000", &["-I"]);
    assert_eq!(said, format!("{version} 200"));
    assert!(String::from_utf8_lossy(&head).to_lowercase().contains("content-length: 1000"));
    for code in [200, 201, 404, 418, 500, 503] {
        assert_eq!(ask(&format!("/status/{code}"), &[]).1, format!("{version} {code}"));
    }
}

#[test]
fn http1_in_clear() {
    let (_origin, url) = origin();
    let segue = Segue::with(&url, None, "", "");
    carries_everything(&segue.url(), "1.1", &["--http1.1"]);
}

#[test]
fn http2_with_prior_knowledge() {
    let (_origin, url) = origin();
    let segue = Segue::with(&url, None, "", "");
    carries_everything(&segue.url(), "2", &["--http2-prior-knowledge"]);
}

#[test]
fn both_over_tls_by_alpn() {
    let (_origin, url) = origin();
    let authority = Authority::new();
    let files = authority.issue("web", &["web.test"]);
    let port = free_port();
    let rest = format!("[[listeners]]\naddress = \"127.0.0.1:{port}\"\ntls = {{ {} }}\n", files.toml());
    let _segue = Segue::with(&url, None, "", &rest);
    let ca = authority.ca().display().to_string();
    let resolve = format!("web.test:{port}:127.0.0.1");
    let url = format!("https://web.test:{port}");
    carries_everything(&url, "2", &["--cacert", &ca, "--resolve", &resolve, "--http2"]);
    carries_everything(&url, "1.1", &["--cacert", &ca, "--resolve", &resolve, "--http1.1"]);
}

#[test]
fn callers_in_http10_and_a_pipeline() {
    let (_origin, url) = origin();
    let segue = Segue::with(&url, None, "", "");
    let mut wire = Wire::sent(segue.address, "GET /stream/3/5 HTTP/1.0\r\n\r\n");
    let answer = wire.answer();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("transfer-encoding"), None, "HTTP/1.0 knows no chunks: {}", answer.head);
    wire.assert_closed();

    let mut wire = Wire::sent(segue.address, "GET /bytes/3 HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
    assert_eq!(wire.answer().body.len(), 3);
    assert_eq!(wire.get("/bytes/4").body.len(), 4, "and may keep its connection");

    // Answers come in the order of the requests, however long each one takes.
    let mut wire = Wire::open(segue.address);
    let mut all = String::new();
    for n in 1..=20 {
        let path = if n % 5 == 1 { "/slow/50".to_owned() } else { format!("/bytes/{n}") };
        all = all + "GET " + &path + " HTTP/1.1\r\nhost: test\r\n\r\n";
    }
    wire.send(all);
    for n in 1..=20 {
        let answer = wire.answer();
        assert_eq!(answer.status, 200);
        assert!(n % 5 == 1 || answer.body.len() == n, "answer {n} has {} bytes", answer.body.len());
    }
    assert!(wire.take_unread().is_empty());
}

#[test]
fn trailers_both_ways_over_http1() {
    let origin = RawOrigin::answering(|_| {
        Reply::Send(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n".to_vec(),
        )
    });
    let segue = Segue::with(&origin.url(), None, "", "");
    let mut wire = Wire::sent(
        segue.address,
        "POST /x HTTP/1.1\r\nhost: test\r\nte: trailers\r\ntrailer: x-check\r\nconnection: te\r\n\
         transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-check: 7\r\n\r\n",
    );
    let end = wire.read_until(b"\r\n0\r\n").unwrap();
    wire.read_until(b"\r\n\r\n").unwrap();
    let _ = wire.is_silent(std::time::Duration::from_millis(50));
    let answer = String::from_utf8_lossy(&wire.take_unread()).into_owned();
    assert!(answer[end..].contains("x-sum: 42"), "{answer}");
    let heard = &origin.take()[0];
    assert_eq!(heard.trailers, "x-check: 7\n", "{}", heard.head);
    assert_eq!(heard.header("te"), Some("trailers"));
}

#[test]
fn an_answer_without_a_length_ends_with_its_connection_and_a_short_one_is_not_made_whole() {
    let origin = RawOrigin::answering(|heard| {
        let bytes: &[u8] = if heard.line().contains("/unframed") {
            b"HTTP/1.1 200 OK\r\n\r\nuntil the end"
        } else if heard.line().contains("/short") {
            b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this"
        } else {
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
        };
        Reply::SendAndClose(bytes.to_vec())
    });
    let segue = Segue::with(&origin.url(), None, "", "");
    assert_eq!(Wire::open(segue.address).get("/unframed").text(), "until the end");
    for broken in ["/short", "/chunked"] {
        let mut wire = Wire::sent(segue.address, format!("GET {broken} HTTP/1.1\r\nhost: test\r\n\r\n"));
        assert!(wire.try_answer().is_err(), "{broken}: a caller can tell that something is missing");
    }
}
