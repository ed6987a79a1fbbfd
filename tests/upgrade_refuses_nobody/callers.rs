//! What callers notice: nothing.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use segue::config::{Endpoint, Scheme, Target};
use segue::load::{Load, LoadSettings};
use segue::origin::{Origin, OriginSettings};

use crate::stage::{Caller, Stage};
use crate::support::{Segue, get, try_request, until};

fn endpoint(scheme: Scheme, address: SocketAddr) -> Endpoint {
    Endpoint { scheme, target: Target::Host { name: address.ip().to_string(), port: address.port() } }
}

/// New connections all the time, kept ones, and HTTP/2: none is refused, reset or fails.
#[test]
fn three_upgrades_in_a_row_fail_no_request() {
    let origin = Origin::start(OriginSettings::on_loopback()).unwrap();
    let source = format!("http://{}", origin.addr().unwrap());
    let mut segue = Segue::with(&source, None, "", "workers = 2");
    let address = segue.address;
    let load = |scheme, seed| {
        let mut settings = LoadSettings::new(endpoint(scheme, address), 300.0);
        settings.max_connections = 16;
        settings.seed = seed;
        settings.write_share = 0.3;
        Load::start(settings).unwrap()
    };
    let loads = [load(Scheme::Http, 1), load(Scheme::H2c, 2)];
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let short = || {
            while !stop.load(Ordering::Relaxed) {
                let answer =
                    try_request(address, "GET /item/1 HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
                assert_eq!(answer.unwrap().status, 200);
                done.fetch_add(1, Ordering::Relaxed);
            }
        };
        let callers = [scope.spawn(short), scope.spawn(short)];
        for _ in 0..3 {
            let before = done.load(Ordering::Relaxed);
            until("callers to come", || (done.load(Ordering::Relaxed) > before + 200).then_some(()));
            let mut predecessor = segue.upgrade();
            assert!(predecessor.wait().success(), "{}", predecessor.log());
            assert!(!predecessor.log().contains("cut at the end"), "{}", predecessor.log());
        }
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.join().unwrap();
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for load in loads {
        let report = runtime.block_on(load.finish()).unwrap();
        assert_eq!(report.failed, 0, "{:?}", report.failures);
        assert!(report.sent > 300, "the load ran: {}", report.sent);
        let audit = segue::load::audit(&report, &origin.ledger().unwrap());
        assert!(audit.is_exact(), "{audit:?}");
    }
}

#[test]
fn what_is_in_flight_is_answered_by_the_predecessor_which_then_goes() {
    let mut stage = Stage::new();
    stage.source.hold();
    let mut writer = Caller::connect(stage.segue.address);
    writer.send("POST", "/in-flight");
    stage.source.await_write("/in-flight");

    let mut predecessor = stage.segue.upgrade();
    assert_eq!(get(stage.segue.address, "/").text(), "source", "the successor serves meanwhile");
    assert!(predecessor.is_running(), "it has a write in flight");
    stage.source.release();
    let answer = writer.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "source"));
    assert_eq!(answer.header("connection"), Some("close"), "the caller is told not to come back here");
    writer.await_end();
    assert!(predecessor.wait().success());
    assert_eq!(stage.source.writes(), ["/in-flight"]);
}

#[test]
fn a_kept_connection_is_asked_to_go_and_a_quiet_one_closed_in_order() {
    let mut stage = Stage::new();
    let mut callers = [Caller::connect(stage.segue.address), Caller::connect(stage.segue.address)];
    for caller in &mut callers {
        caller.send("GET", "/");
        assert_eq!(caller.answer().header("connection"), None);
    }
    let [active, quiet] = &mut callers;
    // It has never said anything: it must not be closed before it could.
    let mut fresh = Caller::connect(stage.segue.address);
    let mut predecessor = stage.segue.upgrade();
    for caller in [active, &mut fresh] {
        caller.send("GET", "/");
        let answer = caller.answer();
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        caller.await_end();
    }
    quiet.await_end();
    assert!(predecessor.wait().success());
}

#[test]
fn an_http2_connection_gets_a_goaway() {
    let mut stage = Stage::new();
    let mut caller = Caller::connect(stage.segue.address);
    let (settings, ping_type, goaway) = (4, 6, 7);
    caller.stream().write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    assert_eq!(frame(&mut caller).0, settings);
    let _predecessor = stage.segue.upgrade();
    loop {
        let (kind, flags, payload) = frame(&mut caller);
        if kind == goaway {
            assert_eq!(payload[4..8], [0; 4], "no error");
            return;
        }
        if kind == ping_type && flags & 1 == 0 {
            caller.stream().write_all(&[0, 0, 8, 6, 1, 0, 0, 0, 0]).unwrap();
            caller.stream().write_all(&payload).unwrap();
        }
    }
}

fn frame(caller: &mut Caller) -> (u8, u8, Vec<u8>) {
    let mut head = [0; 9];
    caller.stream().read_exact(&mut head).unwrap();
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    caller.stream().read_exact(&mut payload).unwrap();
    (head[3], head[4], payload)
}

#[test]
fn without_a_running_process_it_starts_as_usual() {
    let mut stage = Stage::new();
    stage.segue.signal("TERM");
    assert!(stage.segue.wait().success());
    let beside = Segue::beside(&stage.segue.config, &["--upgrade"]);
    stage.segue.adopt(beside);
    assert_eq!(get(stage.segue.address, "/").text(), "source");
}
