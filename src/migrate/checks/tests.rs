//! Suites against instances that answer what a test wants, over real sockets.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;

use super::*;
use crate::config::{Expect, HealthCheck, Instance, Probe as ProbeSettings, Service};
use crate::credentials::samples::Authority;
use crate::origin::{Origin, OriginSettings};

/// Far beyond what anything here takes on a busy machine; no test waits for it.
const ENOUGH: Duration = Duration::from_mins(1);
/// For what never comes.
const BRIEF: Duration = Duration::from_millis(50);

pub(in crate::migrate) fn run<T>(work: impl Future<Output = T>) -> T {
    let options = tokio::runtime::LocalOptions::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(options).unwrap();
    runtime.block_on(work)
}

/// An instance that sends `answer` on each connection as soon as a whole request has come, and closes it.
pub(in crate::migrate) struct Scripted {
    pub endpoint: Endpoint,
    /// What came, one text for each connection.
    pub requests: Rc<RefCell<Vec<String>>>,
}

impl Scripted {
    pub async fn new(answer: impl Into<Vec<u8>>) -> Self {
        Self::meeting(answer, 1).await
    }

    /// Answers once `guests` requests are there at the same time.
    async fn meeting(answer: impl Into<Vec<u8>>, guests: usize) -> Self {
        let (answer, requests) = (Arc::new(answer.into()), Rc::<RefCell<Vec<String>>>::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (seen, meeting) = (Rc::clone(&requests), Rc::new(Barrier::new(guests)));
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, answer, meeting) = (Rc::clone(&seen), Arc::clone(&answer), Rc::clone(&meeting));
                tokio::task::spawn_local(async move {
                    serve(stream, &seen, &answer, &meeting).await;
                });
            }
        });
        Self { endpoint, requests }
    }
}

async fn serve(mut stream: TcpStream, seen: &RefCell<Vec<String>>, answer: &[u8], meeting: &Barrier) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                break;
            }
        }
        match stream.read(&mut buffer).await {
            Ok(count @ 1..) => request.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
    seen.borrow_mut().push(String::from_utf8(request).unwrap());
    meeting.wait().await;
    if answer.is_empty() {
        std::future::pending::<()>().await;
    }
    let _ = stream.write_all(answer).await;
}

fn answer(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn service(checks: Vec<config::Check>) -> Service {
    Service { checks, ..Service::new(Instance::at(Vec::new()), None) }
}

fn get(expect: Expect) -> config::Check {
    let mut check = config::Check { timeout: ENOUGH, ..config::Check::get("page", "/page?a=b") };
    if let ProbeSettings::Http(http) = &mut check.probe {
        http.expect = expect;
    }
    check
}

fn command(script: &str, timeout: Duration) -> config::Check {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    config::Check { name: "script".to_owned(), probe: ProbeSettings::Command(command), timeout }
}

/// Why the only check failed; empty = it passed.
async fn failure(settings: &Service, endpoint: &Endpoint) -> String {
    let suite = Suite::new("web", settings, endpoint.scheme == config::Scheme::Https).unwrap();
    let instance = InstanceId::new("web-2").unwrap();
    let results = suite.run(Patient { instance: &instance, role: Role::Shadow, endpoint }).await;
    let [result] = results.as_slice() else { panic!("{results:?}") };
    result.failure.clone().unwrap_or_default()
}

#[test]
fn an_answer_has_to_be_all_that_is_expected_of_it() {
    let ok = answer("200 OK\r\nContent-Type: application/json", r#"{"status":"ok","open":3,"of":[1.5]}"#);
    let bad = answer("503 Service Unavailable", "warming\r\nup");
    let text = |text: &str| text.to_owned();
    let status = |status: &[u16]| Expect { status: status.to_vec(), ..Expect::default() };
    let header = |name, pattern| Expect { headers: vec![(text(name), text(pattern))], ..Expect::default() };
    let json = |pointer, value: serde_json::Value| Expect {
        json: vec![(text(pointer), value)],
        ..Expect::default()
    };
    let body = |pattern| Expect { body: Some(text(pattern)), ..Expect::default() };
    let cases = [
        (&ok, Expect::default(), ""),
        (&bad, Expect::default(), "answered 503 Service Unavailable, expected 2xx: warming  up"),
        (&bad, status(&[200, 503]), ""),
        (
            &ok,
            status(&[204, 404]),
            "answered 200 OK, expected 204 or 404: {\"status\":\"ok\",\"open\":3,\"of\":[1.5]}",
        ),
        (&ok, header("content-type", "^application/json$"), ""),
        (
            &ok,
            header("content-type", "html"),
            "the header `content-type` is \"application/json\", which does not match \"html\"",
        ),
        (&ok, header("etag", ""), "the answer has no header `etag`"),
        (&ok, json("/status", "ok".into()), ""),
        (&ok, json("/open", 3.0.into()), ""),
        (&ok, json("/of/0", 1.5.into()), ""),
        (&ok, json("/status", "down".into()), "the body has \"ok\" at \"/status\", expected \"down\""),
        (&ok, json("/stock", 1.into()), "the body has nothing at \"/stock\""),
        (
            &bad,
            Expect { status: vec![503], ..json("/a", 1.into()) },
            "the body is not JSON: expected value at line 1 column 1",
        ),
        (&ok, body("\"open\":[1-9]"), ""),
        (
            &ok,
            body("^closed"),
            "the body does not match \"^closed\": {\"status\":\"ok\",\"open\":3,\"of\":[1.5]}",
        ),
        (&ok, Expect { within: Some(ENOUGH), ..Expect::default() }, ""),
    ];
    run(async {
        for (answer, expect, expected) in cases {
            let instance = Scripted::new(answer.as_str()).await;
            let name = format!("{expect:?}");
            assert_eq!(failure(&service(vec![get(expect)]), &instance.endpoint).await, expected, "{name}");
        }
        let hasty = Expect { within: Some(Duration::from_nanos(1)), ..Expect::default() };
        let instance = Scripted::new(ok.as_str()).await;
        let slow = failure(&service(vec![get(hasty)]), &instance.endpoint).await;
        assert!(slow.ends_with("at most 1ns may pass"), "{slow}");
    });
}

#[test]
fn what_is_sent_is_what_was_configured() {
    run(async {
        let instance = Scripted::new(answer("200 OK", "")).await;
        let mut check = get(Expect::default());
        if let ProbeSettings::Http(http) = &mut check.probe {
            http.method = "POST".to_owned();
            http.headers =
                vec![("x-probe".to_owned(), "1".to_owned()), ("x-probe".to_owned(), "2".to_owned())];
            http.body = Some("{}".to_owned());
        }
        assert_eq!(failure(&service(vec![check]), &instance.endpoint).await, "");
        let request = instance.requests.borrow()[0].to_lowercase();
        assert!(request.starts_with("post /page?a=b http/1.1\r\n"), "{request}");
        let host = instance.endpoint.to_string().replace("http://", "host: ");
        for line in ["x-probe: 1", "x-probe: 2", "user-agent: segue-check", "content-length: 2", &host] {
            assert!(request.contains(&format!("\r\n{line}\r\n")), "{line}: {request}");
        }
        assert!(request.ends_with("\r\n\r\n{}"), "{request}");
    });
}

#[test]
fn an_instance_that_does_not_answer_well_is_not_healthy() {
    run(async {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody: Endpoint = format!("http://{}", free.local_addr().unwrap()).parse().unwrap();
        drop(free);
        let one = |timeout| service(vec![config::Check { timeout, ..get(Expect::default()) }]);
        let refused = failure(&one(ENOUGH), &nobody).await;
        assert!(refused.contains("refused"), "{refused}");

        let hung = Scripted::new("").await;
        assert_eq!(failure(&one(BRIEF), &hung.endpoint).await, "not answered within 50ms");

        let endless = "x".repeat(2 << 20);
        for (wire, expected) in [
            (
                "HTTP/1.1 200 OK\r\n\r\n",
                endless.as_str(),
                "the answer is larger than 1048576 bytes; ask for something smaller",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
                "abc",
                "the answer broke off: the connection ended in the middle of the body",
            ),
            ("", "SSH-2.0-OpenSSH\r\n\r\n", ""),
        ]
        .map(|(head, body, expected)| (format!("{head}{body}"), expected))
        {
            let instance = Scripted::new(wire).await;
            let found = failure(&one(ENOUGH), &instance.endpoint).await;
            if expected.is_empty() {
                assert!(found.starts_with("no answer: "), "{found}");
            } else {
                assert_eq!(found, expected);
            }
        }

        let nowhere: Endpoint = "http://no-such-host.invalid:80".parse().unwrap();
        let unknown = failure(&one(ENOUGH), &nowhere).await;
        assert!(unknown.contains("no endpoint"), "{unknown}");
    });
}

#[test]
fn checks_run_at_once_each_on_a_connection_of_its_own_in_the_order_of_the_settings() {
    run(async {
        let instance = Scripted::meeting(answer("200 OK", ""), 3).await;
        let named = |name: &str| config::Check { name: name.to_owned(), ..get(Expect::default()) };
        let settings = service(vec![named("c"), named("a"), named("b")]);
        let suite = Suite::new("web", &settings, false).unwrap();
        let id = InstanceId::new("web-2").unwrap();
        let patient = Patient { instance: &id, role: Role::Shadow, endpoint: &instance.endpoint };
        let results = suite.run(patient).await;
        let names: Vec<_> = results.iter().map(|result| result.check.as_str()).collect();
        assert_eq!(names, ["c", "a", "b"]);
        assert!(Run(results.clone()).is_good(), "{results:?}");
        assert_eq!(instance.requests.borrow().len(), 3);
        assert!(Run(suite.run(patient).await).is_good());
        assert_eq!(instance.requests.borrow().len(), 6, "none is used again");
    });
}

#[test]
fn without_checks_the_health_path_is_asked_for_or_a_connection_is_enough() {
    run(async {
        let instance = Scripted::new(answer("500 Internal Server Error", "")).await;
        assert_eq!(failure(&service(Vec::new()), &instance.endpoint).await, "");
        let mut settings = service(Vec::new());
        settings.upstream.health =
            Some(HealthCheck { timeout: ENOUGH, ..HealthCheck::at("/healthz".into()) });
        assert!(failure(&settings, &instance.endpoint).await.starts_with("answered 500"));
        assert!(instance.requests.borrow()[0].starts_with("GET /healthz "));
        let gone = "unix:/no/such/socket".parse().unwrap();
        assert!(failure(&service(Vec::new()), &gone).await.contains("No such file"));
    });
}

#[test]
fn http2_and_tls_endpoints_are_reached_as_the_proxy_reaches_them() {
    let origin = Origin::start(OriginSettings::on_loopback()).unwrap();
    let h2c: Endpoint = format!("h2c://{}", origin.addr().unwrap()).parse().unwrap();
    let of = |path: &str| {
        let mut check = get(Expect { body: Some("^.{12}$".to_owned()), ..Expect::default() });
        if let ProbeSettings::Http(http) = &mut check.probe {
            http.path = path.to_owned();
        }
        service(vec![check])
    };
    run(async {
        assert!(failure(&of("/bytes/12"), &h2c).await.is_empty());
        assert!(failure(&of("/nothing"), &h2c).await.starts_with("answered 404"));

        let ca = Authority::new();
        let instance = Scripted::new(answer("200 OK", "twelve bytes")).await;
        let inner: SocketAddr = instance.endpoint.to_string().replace("http://", "").parse().unwrap();
        let tls = terminating(&ca, inner).await;
        let mut settings = of("/");
        settings.upstream.tls.ca = Some(ca.ca());
        assert_eq!(failure(&settings, &tls).await, "");
        settings.upstream.tls.ca = None;
        let untrusted = failure(&settings, &tls).await;
        assert!(untrusted.contains("certificate"), "{untrusted}");
    });
}

/// TLS for `127.0.0.1` in front of `inner`.
async fn terminating(ca: &Authority, inner: SocketAddr) -> Endpoint {
    let files = ca.sign("instance", &["127.0.0.1"]);
    let key = crate::credentials::certified_key(&files).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(crate::credentials::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut outer) = acceptor.accept(stream).await else { continue };
            let mut inner = TcpStream::connect(inner).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
        }
    });
    endpoint
}

#[test]
fn a_command_answers_by_its_exit_code_and_is_told_whom_to_look_at() {
    let endpoint: Endpoint = "http://127.0.0.1:3001".parse().unwrap();
    run(async {
        let told = "test \"$SEGUE_SERVICE/$SEGUE_INSTANCE/$SEGUE_ROLE/$SEGUE_ENDPOINT\" = \
                    web/web-2/shadow/http://127.0.0.1:3001";
        assert_eq!(failure(&service(vec![command(told, ENOUGH)]), &endpoint).await, "");
        for (script, expected) in [
            ("echo one; echo two >&2; echo; exit 3", "`sh` ended with exit status: 3; its last line: two"),
            ("exit 1", "`sh` ended with exit status: 1 without a word"),
            ("kill -9 $$", "`sh` ended with signal: 9 (SIGKILL) without a word"),
            // More than a pipe holds, and all of it on one line; then closed before the end.
            (
                "head -c 300000 /dev/zero | tr '\\0' x; echo; echo end; exec >&- 2>&-; exit 4",
                "`sh` ended with exit status: 4; its last line: end",
            ),
        ] {
            assert_eq!(
                failure(&service(vec![command(script, ENOUGH)]), &endpoint).await,
                expected,
                "{script}"
            );
        }
        let mut absent = command("", ENOUGH);
        absent.probe = ProbeSettings::Command(vec!["/no/such/program".to_owned()]);
        let absent = failure(&service(vec![absent]), &endpoint).await;
        assert!(absent.starts_with("`/no/such/program` cannot be started: No such file"), "{absent}");
    });
}

#[test]
fn a_command_that_leaves_something_behind_does_not_hold_its_verdict_back() {
    let endpoint: Endpoint = "http://127.0.0.1:3001".parse().unwrap();
    run(async {
        // It keeps the output open for longer than the test may take.
        let script = "sleep 1000 & echo $!; exit 5";
        let found = failure(&service(vec![command(script, ENOUGH)]), &endpoint).await;
        assert!(found.starts_with("`sh` ended with exit status: 5"), "{found}");
        let left = found.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(is_running(left), "what it started is its own affair");
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(left).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
    });
}

#[test]
fn a_command_that_hangs_ends_with_all_that_it_started() {
    let endpoint: Endpoint = "http://127.0.0.1:3001".parse().unwrap();
    run(async {
        let mut timeout = BRIEF;
        let pid = loop {
            let found =
                failure(&service(vec![command("sleep 1000 & echo $!; wait", timeout)]), &endpoint).await;
            assert!(found.starts_with("`sh` took longer than"), "{found}");
            // On a busy machine the shell may not have come that far.
            match found.rsplit(' ').next().unwrap().parse::<i32>() {
                Ok(pid) => break pid,
                Err(_) => timeout *= 2,
            }
        };
        until_ended(pid).await;
    });
}

#[test]
fn whoever_stops_waiting_ends_the_command() {
    let endpoint: Endpoint = "http://127.0.0.1:3001".parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 1000", file.display());
    let settings = service(vec![command(&script, ENOUGH)]);
    run(async {
        let waiting = async {
            failure(&settings, &endpoint).await;
        };
        let started = async {
            loop {
                match std::fs::read_to_string(&file) {
                    Ok(pid) => break pid.trim().parse().unwrap(),
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let pid = tokio::select! {
            () = waiting => panic!("it ended by itself"),
            pid = started => pid,
        };
        until_ended(pid).await;
    });
}

fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A process that ended and was not waited for is a zombie.
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

async fn until_ended(pid: i32) {
    tokio::time::timeout(ENOUGH, async {
        while is_running(pid) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{pid} still runs"));
}

#[test]
fn settings_that_did_not_come_from_a_file_are_checked_as_well() {
    let broken = get(Expect { body: Some("(".to_owned()), ..Expect::default() });
    let error = Suite::new("web", &service(vec![broken]), false).err().unwrap().to_string();
    assert!(error.starts_with("check \"page\": "), "{error}");
    let mut settings = service(Vec::new());
    settings.upstream.tls.ca = Some("/no/such/ca.pem".into());
    assert!(Suite::new("web", &settings, false).is_ok(), "nothing speaks TLS");
    assert!(Suite::new("web", &settings, true).err().unwrap().to_string().contains("/no/such/ca.pem"));
}
