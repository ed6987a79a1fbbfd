//! Back and forth, twenty times and more, under load.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use segue::load::{Load, LoadSettings, audit};
use serde_json::json;

use crate::callers::Upload;
use crate::stage::{Stage, block_on, instance_of, name_of, post};
use crate::support::{get, until};
use crate::websocket::WebSocket;

const PAUSES: usize = 16;
const OVERLAPS: usize = 6;

#[test]
fn nobody_notices_over_http1() {
    back_and_forth("http", 64, "http");
}

#[test]
fn nobody_notices_over_http2() {
    back_and_forth("h2c", 4, "http");
}

#[test]
fn nobody_notices_where_the_instances_speak_http2() {
    back_and_forth("http", 64, "h2c");
}

/// `scheme` and `connections` of the callers; `upstream`: the instances' scheme.
fn back_and_forth(scheme: &str, connections: usize, upstream: &str) {
    let stage = Stage::over(upstream, "", "", &["--latency", "lognormal:3ms,1.0"]);
    let target = format!("{scheme}://{}", stage.address()).parse().unwrap();
    let mut settings = LoadSettings::new(target, 250.0);
    settings.write_share = 0.2;
    settings.max_connections = connections;
    let load = Load::start(settings).unwrap();

    let turns = Turns::default();
    std::thread::scope(|scope| {
        let stop = StopOnDrop(&turns.stop);
        let uploads = [1, 2].map(|_| scope.spawn(|| uploads(stage.address(), &turns)));
        let own_writes = scope.spawn(|| own_writes(stage.address(), &turns));
        for turn in 0..PAUSES {
            await_writes(&load);
            let park = if turn % 2 == 0 { "all" } else { "writes" };
            turns.turn(&stage, &json!({ "mode": "pause", "park": park }));
        }
        await_writes(&load);
        let writers = stage.writers();
        let alternating = (0..=PAUSES).map(|turn| if turn % 2 == 0 { "a" } else { "b" });
        assert!(alternating.eq(writers.iter().map(String::as_str)), "{writers:?}");

        // What asks for an upgrade is HTTP/1.1, on both sides.
        let mut old = (upstream == "http").then(|| WebSocket::open(stage.address()));
        for _ in 0..OVERLAPS {
            await_writes(&load);
            // The old side is given a moment; the WebSocket outlasts it, and is left alone.
            turns.turn(&stage, &json!({ "mode": "overlap", "drain_timeout_ms": 100 }));
            if let Some(old) = &mut old {
                old.echo();
                let mut new = WebSocket::open(stage.address());
                assert_eq!((old.instance.as_str(), &new.instance), ("a", &stage.answering()));
                new.echo();
            }
        }
        drop(stop);
        let uploads: usize = uploads.map(|thread| thread.join().unwrap()).iter().sum();
        let reads_of_own_writes = own_writes.join().unwrap();
        assert!(uploads > PAUSES && reads_of_own_writes > PAUSES, "{uploads}, {reads_of_own_writes}");
    });

    let report = block_on(load.finish()).unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    let found = audit(&report, &stage.counts());
    assert!(found.is_exact(), "{found:?}");
    assert_eq!(report.acknowledged.len() as u64, report.writes);
    stage.assert_quiet();
    eprintln!("{scheme} over {upstream}: {} requests, {} writes, 0 failed", report.sent, report.writes);
}

/// What the switchovers and the callers beside the load tell each other.
#[derive(Default)]
struct Turns {
    stop: AtomicBool,
    begun: AtomicU64,
}

impl Turns {
    /// One switchover, and all that has to hold after it.
    fn turn(&self, stage: &Stage, request: &serde_json::Value) {
        let before = stage.segue.service();
        let to = if before["active"] == "source" { "b" } else { "a" };
        self.begun.fetch_add(1, Ordering::SeqCst);
        let ended = stage.segue.switchover(&request.to_string());
        assert_eq!(ended["outcome"], "completed", "{ended}");
        assert_eq!(ended["active"], name_of(to), "{ended}");
        assert_eq!(ended["cut"], 0, "{ended}");
        let generation = before["generation"].as_u64().unwrap() + 1;
        assert_eq!(ended["generation"], generation, "{ended}");
        assert_eq!(stage.answering(), to);
        let after = stage.segue.service();
        assert_eq!((&after["active"], &after["generation"]), (&ended["active"], &ended["generation"]));
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// A test that fails must not wait for its callers.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn await_writes(load: &Load) {
    let before = load.live().writes();
    until("a few writes", || (load.live().writes() >= before + 8).then_some(()));
}

/// Slow uploads, one after the other; says how many there were.
fn uploads(address: SocketAddr, turns: &Turns) -> usize {
    let mut done = 0;
    while !turns.stopped() {
        let mut upload = Upload::begin(address);
        for _ in 0..8 {
            // The caller's own pace.
            std::thread::sleep(Duration::from_millis(10));
            upload.send(4000);
        }
        upload.finish();
        done += 1;
    }
    done
}

/// A caller that reads what it wrote, each time over new connections; says how often.
///
/// Where the instances do not share their state, what was written on the new one cannot be read on the
/// old one. So a read that begins after a write was acknowledged never goes back, unless a further
/// switchover began in between. (Overlapping is for instances that do share it.)
fn own_writes(address: SocketAddr, turns: &Turns) -> usize {
    let mut done = 0;
    while !turns.stopped() {
        let begun = turns.begun.load(Ordering::SeqCst);
        let key = format!("own-{done}");
        let written = instance_of(&post(address, &format!("/ledger/{key}")));
        let answer = get(address, &format!("/ledger/{key}"));
        let read = instance_of(&answer);
        assert_eq!(answer.text(), json!({ "key": key, "writes": 1 }).to_string());
        let current = if begun.is_multiple_of(2) { "a" } else { "b" };
        let pausing = begun <= PAUSES as u64;
        if pausing && turns.begun.load(Ordering::SeqCst) == begun && written == current {
            assert_eq!(read, written, "written on one instance, read on the other");
        }
        done += 1;
    }
    done
}
