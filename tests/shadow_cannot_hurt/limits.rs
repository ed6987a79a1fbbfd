//! Each cap of the tee shows as a reason of its own, and the reasons add up.

use std::io::Write as _;
use std::net::Shutdown;

use serde_json::Value;

use crate::support::client::{Ask, Client, connect};
use crate::support::tee::{count, origin, settled, skipped, teed, url};
use crate::support::{Segue, read_answer, until};

/// A service that tees everything, within these limits.
fn within(limits: &str, fault: &[&str], rest: &str, more: &str) -> (Segue, impl Drop) {
    let (source, shadow) = (origin(&[]), origin(fault));
    let tee = format!(
        "tee = {{ percent = 100, allow_above_5_percent = true, breaker_after = 0, deadline = \"2s\", {limits} }}\n{more}"
    );
    let segue = Segue::with(&url(&source), Some(&url(&shadow)), &tee, rest);
    (segue, Instances(source, shadow))
}

struct Instances(segue::origin::Running, segue::origin::Running);

impl Drop for Instances {
    fn drop(&mut self) {
        let _ = (self.0.seen(), self.1.seen());
    }
}

fn after(segue: &Segue, gets: u64, target: &str) -> Value {
    let mut client = Client::new(segue.address);
    for _ in 0..gets {
        assert_eq!(client.get(target).status, 200);
    }
    settled(segue, gets)
}

/// So many callers at once.
fn crowd(segue: &Segue, size: usize, ask: Ask) {
    let mut callers: Vec<_> = (0..size).map(|_| connect(segue.address)).collect();
    let ask = ask.with("connection", "close").bytes();
    for caller in &mut callers {
        caller.write_all(&ask).unwrap();
    }
    for caller in &mut callers {
        assert_eq!(read_answer(caller).unwrap().status, 200);
    }
}

#[test]
fn pairs_in_flight() {
    let (segue, _instances) = within("max_concurrency = 3", &["hang"], "", "");
    let service = after(&segue, 20, "/");
    assert_eq!((teed(&service), skipped(&service, "concurrency")), (3, 17), "{:#}", service["tee"]);
}

#[test]
fn connections_to_the_shadow() {
    let limits = "max_connections = 2, connect_timeout = \"200ms\"";
    let (segue, _instances) = within(limits, &["hang"], "", "");
    let service = after(&segue, 10, "/");
    assert_eq!((teed(&service), skipped(&service, "connections")), (2, 8), "{:#}", service["tee"]);
}

#[test]
fn a_deadline_that_passes_before_there_is_a_connection() {
    let limits = "max_connections = 1, connect_timeout = \"20s\"";
    let (segue, _instances) = within(limits, &["hang"], "", "");
    // One holds the only connection until its deadline; those that came with it cannot have been sent.
    crowd(&segue, 20, Ask::get("/"));
    let service = settled(&segue, 20);
    let (teed, unsent) = (teed(&service), skipped(&service, "connect_failed"));
    assert!(teed > 0 && unsent > 0 && teed + unsent == 20, "{:#}", service["tee"]);
}

#[test]
fn requests_a_second() {
    let (segue, _instances) = within("max_requests_per_second = 2", &[], "", "");
    let service = after(&segue, 50, "/");
    let (teed, skipped) = (teed(&service), skipped(&service, "rate_limit"));
    assert_eq!(teed + skipped, 50);
    assert!(teed >= 2 && skipped > 0, "{:#}", service["tee"]);
}

#[test]
fn bytes_a_second() {
    // The first answer costs a hundred seconds' worth, which the others would have to wait for.
    let (segue, _instances) = within("max_bytes_per_second = \"10 KiB\"", &[], "", "");
    after(&segue, 1, "/bytes/1000000");
    let mut client = Client::new(segue.address);
    (0..9).for_each(|_| drop(client.get("/bytes/1000000")));
    let service = settled(&segue, 10);
    let (teed, skipped) = (teed(&service), skipped(&service, "byte_limit"));
    assert_eq!(teed + skipped, 10);
    assert!(skipped >= 8, "{:#}", service["tee"]);
}

#[test]
fn bytes_held() {
    let rest = "[lane]\nmax_bytes = \"64 KiB\"\n";
    let (segue, _instances) = within("max_concurrency = 1000", &["hang"], rest, "");
    let mut client = Client::new(segue.address);
    let ask = Ask::get("/").with("x-padding", &"p".repeat(20_000));
    (0..10).for_each(|_| assert_eq!(client.ask(&ask).status, 200));
    let service = settled(&segue, 10);
    assert_eq!((teed(&service), skipped(&service, "memory")), (3, 7), "{:#}", service["tee"]);
    let (_, status) = segue.call("GET", "/v1/status", "");
    assert_eq!(status["lane_bytes"], 0, "what a pair held is given back");
}

#[test]
fn the_queue_to_the_lane() {
    let rest = "[lane]\nqueue = 1\n";
    // A worker asks for plain copies itself, so what goes by the queue is those with a body.
    let (segue, _instances) = within("max_concurrency = 100000", &[], rest, SEARCH);
    let mut asked = 0;
    until("a full queue", || {
        // A worker finds many of them ready and offers faster than the lane takes.
        crowd(&segue, 60, Ask::new("POST", "/echo").carrying("application/json", b"{}".to_vec()));
        asked += 60;
        (skipped(&settled(&segue, asked), "queue_full") > 0).then_some(())
    });
}

const SEARCH: &str = "classify = { search = [\"/echo\"] }";

#[test]
fn the_body_of_a_read() {
    let (segue, _instances) = within("max_body_bytes = \"1 KiB\"", &[], "", SEARCH);
    let mut client = Client::new(segue.address);
    for size in [10, 1024, 1025, 300_000] {
        let answer = client.ask(&Ask::new("POST", "/echo").carrying("application/json", vec![b'x'; size]));
        assert_eq!((answer.status, answer.body.len()), (200, size));
    }
    let service = settled(&segue, 4);
    assert_eq!((teed(&service), skipped(&service, "body_too_large")), (2, 2), "{:#}", service["tee"]);
    assert_eq!(count(&service, "/tee/eligible"), 0, "its rate is a rate of its own");
}

#[test]
fn a_body_that_breaks_off() {
    let (segue, _instances) = within("max_concurrency = 9", &[], "", SEARCH);
    let mut stream = connect(segue.address);
    let whole = Ask::new("POST", "/echo").carrying("application/json", vec![b'x'; 1000]).bytes();
    stream.write_all(&whole[..whole.len() - 500]).unwrap();
    until("the request to be under way", || {
        (count(&segue.service(), "/tee/by_body/sampled") == 1).then_some(())
    });
    stream.shutdown(Shutdown::Both).unwrap();
    let service = settled(&segue, 1);
    assert_eq!((teed(&service), skipped(&service, "body_incomplete")), (0, 1), "{:#}", service["tee"]);
}

#[test]
fn one_switch_stops_all_tees() {
    let (segue, _instances) = within("max_concurrency = 9", &[], "", "");
    after(&segue, 3, "/");
    assert_eq!(segue.call("PATCH", "/v1/tee", "{\"stopped\":true}").0, 200);
    let mut client = Client::new(segue.address);
    (0..5).for_each(|_| assert_eq!(client.get("/").status, 200));
    let service = settled(&segue, 8);
    assert_eq!((teed(&service), skipped(&service, "stopped")), (3, 5), "{:#}", service["tee"]);
}
