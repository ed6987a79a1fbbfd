//! The bounds of waiting: how many, how long, how much of their bodies, and how they are let go.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use crate::callers::{Upload, http2, sent, sent_get, sent_post};
use crate::stage::{Instance, Stage, block_on, head, instance_of};
use crate::support::{read_answer, until};

#[test]
fn beyond_max_parked_callers_are_refused_and_one_that_leaves_makes_room() {
    let stage = Stage::new("max_parked = 2", &[]);
    let upload = Upload::begin(stage.address());
    stage.until_service("in_flight", 1);
    thread::scope(|scope| {
        let switchover = scope.spawn(|| stage.segue.switchover("{}"));
        stage.until_service("gate", "draining");
        let (mut first, second) =
            (sent_get(stage.address(), "/item/1"), sent_get(stage.address(), "/item/1"));
        stage.until_service("parked", 2);
        let third = stage.get("/item/1");
        assert_eq!((third.status, third.header("segue-error")), (503, Some("too_many_parked")));
        assert!(third.header("retry-after").is_some(), "{}", third.head);
        drop(second);
        stage.until_service("parked", 1);
        let mut fourth = sent_post(stage.address(), "/ledger/fourth");
        stage.until_service("parked", 2);
        upload.finish();
        assert_eq!(switchover.join().unwrap()["outcome"], "completed");
        for parked in [&mut first, &mut fourth] {
            assert_eq!(instance_of(&read_answer(parked).unwrap()), "b");
        }
    });
    stage.assert_quiet();
    // The upload, two that waited; the third was refused, and the second was never let through.
    assert_eq!(stage.segue.service()["held_ms"]["count"], 2);
}

#[test]
fn who_has_left_while_it_was_parked_is_not_sent_afterwards() {
    let stage = Stage::new("", &[]);
    let upload = Upload::begin(stage.address());
    stage.until_service("in_flight", 1);
    thread::scope(|scope| {
        let switchover = scope.spawn(|| stage.segue.switchover("{}"));
        stage.until_service("gate", "draining");
        // What of a body was not read yet would hide that its caller has left.
        let write = |n| format!("{}content-length: 0\r\n\r\n", head(&format!("POST /ledger/left-{n}")));
        let left: Vec<_> = (0..8).map(|n| sent(stage.address(), write(n))).collect();
        stage.until_service("parked", left.len());
        drop(left);
        upload.finish();
        assert_eq!(switchover.join().unwrap()["outcome"], "completed");
    });
    assert_eq!(stage.post("/ledger/stayed").status, 200);
    stage.assert_quiet();
    let keys: Vec<_> = stage.counts().into_keys().collect();
    assert_eq!(keys, ["stayed"], "callers that gave up may have tried elsewhere");
}

#[test]
fn who_is_not_let_go_in_time_is_told_to_come_again() {
    // Two workers share the rate: each lets one go at once and the next a second later.
    let stage = Stage::new("park_timeout = \"700ms\"\nrelease_per_second = 2", &[]);
    let upload = Upload::begin(stage.address());
    stage.until_service("in_flight", 1);
    thread::scope(|scope| {
        let switchover = scope.spawn(|| stage.segue.switchover("{}"));
        stage.until_service("gate", "draining");
        let parked: Vec<_> = (0..6).map(|_| sent_get(stage.address(), "/item/1")).collect();
        stage.until_service("parked", parked.len());
        upload.finish();
        assert_eq!(switchover.join().unwrap()["outcome"], "completed");
        let answers: Vec<_> =
            parked.into_iter().map(|mut parked| read_answer(&mut parked).unwrap()).collect();
        let (let_go, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
        assert!(!let_go.is_empty() && refused.len() >= 2, "{answers:?}");
        for refused in refused {
            assert_eq!((refused.status, refused.header("segue-error")), (503, Some("parked_too_long")));
            assert!(refused.header("retry-after").is_some());
        }
    });
    stage.assert_quiet();
}

/// A drain ends early enough that nobody is held longer than allowed.
#[test]
fn a_drain_never_outlasts_the_patience_of_the_parked() {
    let stage = Stage::new("park_timeout = \"600ms\"", &[]);
    let upload = Upload::begin(stage.address());
    stage.until_service("in_flight", 1);
    thread::scope(|scope| {
        // Longer than the gate will hold anybody.
        let orders = r#"{"drain_timeout_ms":5000,"park_timeout_ms":5000}"#;
        let switchover = scope.spawn(|| stage.segue.switchover(orders));
        stage.until_service("gate", "draining");
        let mut parked = sent_get(stage.address(), "/item/1");
        assert_eq!(instance_of(&read_answer(&mut parked).unwrap()), "a");
        assert_eq!(switchover.join().unwrap()["outcome"], "aborted");
    });
    upload.finish();
    stage.assert_quiet();
}

#[test]
fn the_body_of_a_parked_request_is_not_read() {
    /// More than all buffers on the way take.
    const BODY: usize = 64 << 20;
    let stage = Stage::new("", &[]);
    let upload = Upload::begin(stage.address());
    stage.until_service("in_flight", 1);
    let before = stage.segue.memory();
    let taken = AtomicUsize::new(0);
    thread::scope(|scope| {
        let switchover = scope.spawn(|| stage.segue.switchover("{}"));
        stage.until_service("gate", "draining");
        let begin = format!("{}content-length: {BODY}\r\n\r\n", head("POST /upload"));
        let mut parked = sent(stage.address(), begin);
        let writing = scope.spawn({
            let taken = &taken;
            move || {
                let piece = vec![7; 64 << 10];
                for _ in 0..BODY / piece.len() {
                    parked.write_all(&piece).unwrap();
                    taken.fetch_add(piece.len(), Ordering::SeqCst);
                }
                read_answer(&mut parked).unwrap()
            }
        });
        stage.until_service("parked", 1);
        let stalled = until("the caller to be held back", || {
            let before = taken.load(Ordering::SeqCst);
            thread::sleep(Duration::from_millis(100));
            (taken.load(Ordering::SeqCst) == before).then_some(before)
        });
        assert!(stalled < BODY / 2, "{stalled} bytes were taken of a parked request");
        assert!(stage.segue.memory() < before + (8 << 20), "parked bodies are held in memory");
        assert_eq!(stage.segue.service()["parked"], 1);
        upload.finish();
        let ended = switchover.join().unwrap();
        assert_eq!(ended["outcome"], "completed", "{ended}");
        let answer = writing.join().unwrap();
        assert_eq!(instance_of(&answer), "b");
        assert!(answer.text().contains(&format!("\"bytes\":{BODY}")), "{}", answer.text());
    });
    stage.assert_quiet();
}

/// One connection, many parked uploads with their windows full: an upload to another service goes on.
#[test]
fn parked_uploads_over_http2_do_not_stall_other_streams() {
    const PARKED: usize = 80;
    let lone = Instance::start("lone", &[]);
    let other = format!(
        "[services.other]\nhosts = [\"other.test\"]\nsource = {{ endpoints = [\"{}\"] }}",
        lone.url()
    );
    let stage = Stage::with("", &other, &[]);
    let holding = Upload::begin(stage.address());
    stage.until_service("in_flight", 1);
    thread::scope(|scope| {
        let switchover = scope.spawn(|| stage.segue.switchover("{}"));
        stage.until_service("gate", "draining");
        block_on(async {
            let mut sender = http2(stage.address()).await;
            let mut parked: Vec<_> =
                (0..PARKED).map(|_| tokio::spawn(sender.send_request(upload("test", 1 << 20)))).collect();
            stage.until_service("parked", PARKED);
            let answer = sender.send_request(upload("other.test", 4 << 20)).await.unwrap();
            assert_eq!(answer.headers()["x-instance"], "lone");
            assert_received(answer, 4 << 20).await;
            // One whose caller leaves makes room.
            parked.swap_remove(0).abort();
            stage.until_service("parked", PARKED - 1);
            holding.finish();
            for parked in parked {
                let answer = parked.await.unwrap().unwrap();
                assert_eq!(answer.headers()["x-instance"], "b");
                assert_received(answer, 1 << 20).await;
            }
        });
        assert_eq!(switchover.join().unwrap()["outcome"], "completed");
    });
    stage.assert_quiet();
}

fn upload(host: &str, bytes: usize) -> http::Request<Full<Bytes>> {
    http::Request::post(format!("http://{host}/upload")).body(Full::new(Bytes::from(vec![7; bytes]))).unwrap()
}

async fn assert_received(answer: http::Response<Incoming>, bytes: usize) {
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let said: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(said["bytes"], bytes);
}

#[test]
fn the_parked_are_let_go_at_the_configured_rate() {
    const RATE: f64 = 100.0;
    const PARKED: usize = 40;
    let stage =
        Stage::with("tee = { percent = 0.0 }\n[services.web.switchover]\nrelease_per_second = 100", "", &[]);
    let holding = Upload::begin(stage.address());
    stage.until_service("in_flight", 1);
    thread::scope(|scope| {
        let switchover = scope.spawn(|| stage.segue.switchover("{}"));
        stage.until_service("gate", "draining");
        let parked: Vec<_> = (0..PARKED).map(|_| sent_get(stage.address(), "/item/1")).collect();
        stage.until_service("parked", PARKED);
        assert_eq!(stage.b.seen(), 0);
        let start = Instant::now();
        holding.finish();
        until("all to arrive", || {
            let seen = stage.b.seen();
            // Looked at afterwards, so a slow look is no burst. Each worker lets one go at once.
            let due = RATE * start.elapsed().as_secs_f64() + 2.0;
            assert!(seen as f64 <= due * 1.1, "{seen} have arrived where {due} were due");
            (seen as usize == PARKED).then_some(())
        });
        assert_eq!(switchover.join().unwrap()["outcome"], "completed");
        for mut parked in parked {
            assert_eq!(instance_of(&read_answer(&mut parked).unwrap()), "b");
        }
    });
    stage.assert_quiet();
}
