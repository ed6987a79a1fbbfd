//! What the drain waits for, and what happens at its deadline.

use std::io::Read;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::callers::{Upload, http2, sent_get, sent_post};
use crate::stage::{Stage, block_on, instance_of};
use crate::support::{read_answer, until};
use crate::websocket::WebSocket;

/// Longer than everything that a test does meanwhile.
const LATE: &str = "/ledger/late?wait_ms=2000";

#[test]
fn a_write_that_its_caller_abandons_is_waited_for_over_http1() {
    let stage = Stage::new("", &[]);
    thread::scope(|scope| {
        let caller = sent_post(stage.address(), LATE);
        stage.until_service("in_flight", 1);
        let switchover = scope.spawn(|| stage.segue.switchover("{}"));
        stage.until_service("gate", "draining");
        drop(caller);
        assert_swapped_after_the_commit(&stage, &switchover.join().unwrap());
    });
}

#[test]
fn a_write_that_its_caller_abandons_is_waited_for_over_http2() {
    let stage = Stage::new("", &[]);
    block_on(async {
        let mut sender = http2(stage.address()).await;
        let request =
            http::Request::post(format!("http://test{LATE}")).body(Full::new(Bytes::from_static(b"1")));
        let answer = tokio::spawn(sender.send_request(request.unwrap()));
        stage.until_service("in_flight", 1);
        // The stream is reset; the connection goes on.
        answer.abort();
        stage.until_service("abandoned", 1);
        assert_swapped_after_the_commit(&stage, &stage.segue.switchover("{}"));
        drop(sender);
    });
}

/// The switchover is under way, and the write's caller has left.
fn assert_swapped_after_the_commit(stage: &Stage, ended: &Value) {
    assert_eq!(ended["outcome"], "completed", "{ended}");
    assert_eq!(
        stage.writes(),
        [("late".to_owned(), "a".to_owned())],
        "swapped before the source had committed"
    );
    assert_eq!(stage.segue.service()["abandoned"], 1);
    assert_eq!(stage.answering(), "b");
    stage.assert_quiet();
}

#[test]
fn a_slow_uploader_at_the_deadline_aborts_and_nobody_has_noticed() {
    let stage = Stage::new("", &[]);
    let mut upload = Upload::begin(stage.address());
    stage.until_service("in_flight", 1);
    upload.send(20_000);
    thread::scope(|scope| {
        let switchover = scope.spawn(|| stage.segue.switchover(r#"{"drain_timeout_ms":400}"#));
        stage.until_service("gate", "draining");
        let parked = scope.spawn(|| (stage.get("/item/1"), stage.post("/ledger/parked")));
        stage.until_service("parked", 1);
        let ended = switchover.join().unwrap();
        assert_eq!(ended["outcome"], "aborted", "{ended}");
        assert_eq!(ended["active"], "source", "{ended}");
        let [blocker] = ended["blockers"].as_array().unwrap().as_slice() else { panic!("{ended}") };
        assert_eq!((&blocker["path"], &blocker["class"]), (&json!("/upload"), &json!("write")), "{ended}");
        assert_eq!(blocker["bytes"], upload.sent(), "{ended}");
        assert!(blocker["age_ms"].as_u64().unwrap() >= 400, "{ended}");
        let (read, written) = parked.join().unwrap();
        assert_eq!((instance_of(&read), instance_of(&written)), ("a".to_owned(), "a".to_owned()));
    });
    upload.send(1000);
    assert_eq!(instance_of(&upload.finish()), "a");
    stage.assert_quiet();
    let service = stage.segue.service();
    assert_eq!((&service["active"], &service["cut"]), (&json!("source"), &json!(0)));
    // The next one finds nothing in its way.
    let ended = stage.segue.switchover("{}");
    assert_eq!((&ended["outcome"], stage.answering().as_str()), (&json!("completed"), "b"), "{ended}");
}

#[test]
fn a_slow_uploader_at_the_deadline_is_cut_where_the_policy_says_so() {
    let stage = Stage::new("on_drain_deadline = \"cut\"", &[]);
    let upload = Upload::begin(stage.address());
    stage.until_service("in_flight", 1);
    thread::scope(|scope| {
        let switchover = scope.spawn(|| stage.segue.switchover(r#"{"drain_timeout_ms":300}"#));
        stage.until_service("gate", "draining");
        let parked = scope.spawn(|| stage.get("/item/1"));
        let ended = switchover.join().unwrap();
        assert_eq!(ended["outcome"], "completed", "{ended}");
        assert_eq!(ended["cut"], 1, "{ended}");
        assert_eq!(instance_of(&parked.join().unwrap()), "b");
    });
    let answer = upload.answer().unwrap();
    assert_eq!((answer.status, answer.header("segue-error")), (503, Some("cut")), "{}", answer.head);
    assert_eq!(stage.segue.service()["cut"], 1);
    stage.assert_quiet();
}

#[test]
fn an_answer_that_nobody_takes_does_not_outlast_a_cut() {
    let stage = Stage::new("on_drain_deadline = \"cut\"", &[]);
    let mut caller = sent_get(stage.address(), "/bytes/268435456");
    let mut first = [0; 1024];
    caller.read_exact(&mut first).unwrap();
    let ended = stage.segue.switchover(r#"{"drain_timeout_ms":200}"#);
    assert_eq!((&ended["outcome"], &ended["cut"]), (&json!("completed"), &json!(1)), "{ended}");
    // Broken off where it was, rather than passed off as whole.
    assert!(read_answer(&mut first.chain(caller)).is_err());
    assert_eq!(stage.answering(), "b");
    stage.assert_quiet();
}

/// It cannot be sent for as long as another one keeps the only connection busy.
#[test]
fn a_request_that_waits_for_a_connection_does_not_outlast_a_cut() {
    let stage = Stage::with(
        "[services.web.upstream]\nmax_connections = 1\nqueue_timeout = \"20s\"\n\
         [services.web.switchover]\non_drain_deadline = \"cut\"",
        "",
        &[],
    );
    let mut busy = sent_get(stage.address(), "/bytes/268435456");
    busy.read_exact(&mut [0; 1024]).unwrap();
    let mut waiting = sent_post(stage.address(), "/ledger/waiting");
    stage.until_service("in_flight", 2);
    let ended = stage.segue.switchover(r#"{"drain_timeout_ms":200}"#);
    assert_eq!((&ended["outcome"], &ended["cut"]), (&json!("completed"), &json!(2)), "{ended}");
    let answer = read_answer(&mut waiting).unwrap();
    assert_eq!((answer.status, answer.header("segue-error")), (503, Some("cut")), "{}", answer.head);
    drop(busy);
    assert_eq!(stage.writes(), [], "a write that was cut before it was sent");
    assert_eq!(stage.answering(), "b");
    stage.assert_quiet();
}

#[test]
fn a_websocket_holds_the_drain_and_goes_on_after_an_abort() {
    let stage = Stage::new("", &[]);
    let mut socket = WebSocket::open(stage.address());
    socket.echo();
    let ended = stage.segue.switchover(r#"{"drain_timeout_ms":200}"#);
    assert_eq!((&ended["outcome"], &ended["active"]), (&json!("aborted"), &json!("source")), "{ended}");
    let blocker = &ended["blockers"][0];
    assert_eq!((&blocker["path"], &blocker["stage"]), (&json!("/ws"), &json!("tunnel")), "{ended}");
    socket.echo();
    drop(socket);
    // Nothing of it is left to hold the next one.
    stage.assert_quiet();
    assert_eq!(stage.segue.switchover("{}")["outcome"], "completed");
}

#[test]
fn a_websocket_that_is_cut_is_told_to_come_again() {
    let stage = Stage::new("on_drain_deadline = \"cut\"", &[]);
    let mut socket = WebSocket::open(stage.address());
    socket.echo();
    let ended = stage.segue.switchover(r#"{"drain_timeout_ms":200}"#);
    assert_eq!((&ended["outcome"], &ended["cut"]), (&json!("completed"), &json!(1)), "{ended}");
    assert_eq!(socket.closed().code, CloseCode::Restart);
    assert_eq!(stage.segue.service()["cut"], 1);
    assert_eq!(WebSocket::open(stage.address()).instance, "b");
    stage.assert_quiet();
}

#[test]
fn a_websocket_whose_caller_takes_nothing_does_not_outlast_a_cut() {
    let stage = Stage::new("on_drain_deadline = \"cut\"", &[]);
    let mut socket = WebSocket::open(stage.address());
    socket.stream().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    // Until the echoes fill every buffer on the way back, and with it on the way there.
    until("all buffers to be full", || socket.send(Message::binary(vec![7; 1 << 20])).err());
    let ended = stage.segue.switchover(r#"{"drain_timeout_ms":200}"#);
    assert_eq!((&ended["outcome"], &ended["cut"]), (&json!("completed"), &json!(1)), "{ended}");
    assert_eq!(stage.answering(), "b");
    drop(socket);
    stage.assert_quiet();
}

/// Held requests do not change sides, and what goes on meanwhile is right: reads see what was written.
#[test]
fn with_park_writes_reads_go_on_while_writes_wait() {
    let stage = Stage::new("park = \"writes\"", &[]);
    stage.post("/ledger/before");
    let upload = Upload::begin(stage.address());
    stage.until_service("in_flight", 1);
    thread::scope(|scope| {
        let switchover = scope.spawn(|| stage.segue.switchover("{}"));
        stage.until_service("gate", "draining");
        let write = scope.spawn(|| stage.post("/ledger/meanwhile"));
        stage.until_service("parked", 1);
        let read = stage.get("/ledger/before");
        assert_eq!(
            (instance_of(&read).as_str(), read.text().as_str()),
            ("a", r#"{"key":"before","writes":1}"#)
        );
        assert!(stage.get("/ledger/meanwhile").text().contains("\"writes\":0"), "it is held");
        assert_eq!(stage.segue.service()["gate"], "draining");
        assert_eq!(instance_of(&upload.finish()), "a");
        let ended = switchover.join().unwrap();
        assert_eq!(ended["outcome"], "completed", "{ended}");
        assert_eq!(instance_of(&write.join().unwrap()), "b");
    });
    assert!(stage.get("/ledger/meanwhile").text().contains("\"writes\":1"));
    stage.assert_quiet();
}

/// Ending Segue drops what is in flight, abandoned writes among them, without a panic.
#[test]
fn ending_with_an_abandoned_write_in_flight_is_orderly() {
    let mut stage = Stage::with("", "shutdown_grace = \"1s\"", &[]);
    let caller = sent_post(stage.address(), "/ledger/late?wait_ms=5000");
    let second = sent_post(stage.address(), "/ledger/later?wait_ms=5000");
    stage.until_service("in_flight", 2);
    drop(caller);
    stage.until_service("abandoned", 1);
    stage.segue.signal("TERM");
    assert!(stage.segue.wait().success());
    drop(second);
    assert!(!stage.segue.log().contains("panicked"), "{}", stage.segue.log());
}
