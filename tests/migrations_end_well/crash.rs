//! `kill -9` of Segue between any two things that a migration does. It goes on from there: to its end, or all the way
//! back, with one writer, no acknowledged write lost or doubled, and nothing left behind.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Instant;

use segue::migrate::failpoint::Failpoint;
use segue::migrate::phase::{Progress, Step};
use serde_json::json;

use crate::stage::{SLOW_SOURCE, Stage};
use crate::support::until;

/// At once; more would starve each other on a small machine.
const LANES: usize = 3;

#[test]
fn a_migration_survives_kill_9_at_every_step() {
    let points: Mutex<VecDeque<Failpoint>> = Mutex::new(Failpoint::all().collect());
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                loop {
                    let Some(point) = points.lock().unwrap().pop_front() else { return };
                    let began = Instant::now();
                    let outcome = std::panic::catch_unwind(|| crash_at(point));
                    let row = outcome.map_err(|panic| {
                        let text = panic.downcast_ref::<String>().map(String::as_str);
                        text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
                    });
                    rows.lock().unwrap().push((point.to_string(), row, began.elapsed()));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    let order: Vec<String> = Failpoint::all().map(|point| point.to_string()).collect();
    rows.sort_by_key(|(point, ..)| order.iter().position(|of| of == point));
    eprintln!("{:<28} {:<12} {:>8} {:>8}  seconds", "killed at", "ended", "writes", "failed");
    for (point, row, took) in &rows {
        match row {
            Ok(row) => eprintln!(
                "{point:<28} {:<12} {:>8} {:>8}  {:.1}",
                row.ended,
                row.writes,
                row.failed,
                took.as_secs_f64()
            ),
            Err(panic) => eprintln!("{point:<28} FAILED: {panic}"),
        }
    }
    let failed: Vec<_> = rows.iter().filter(|(_, row, _)| row.is_err()).map(|(point, ..)| point).collect();
    assert_eq!(rows.len(), order.len());
    assert!(failed.is_empty(), "{failed:?}");
}

struct Row {
    ended: String,
    writes: u64,
    /// Of the callers' requests, while Segue was dead.
    failed: u64,
}

fn crash_at(point: Failpoint) -> Row {
    let turns_back = matches!(point, Failpoint::Step(step, _) if is_back(step));
    let mut stage = Stage::with(&[("SEGUE_FAILPOINT", &point.to_string())], "", &SLOW_SOURCE);
    let load = stage.load(300.0);
    let mut request = stage.request(&[]);
    if turns_back {
        request["watch_ms"] = json!(60_000);
    }
    // It may die before it has answered.
    let (config, admin) = (stage.segue.config.clone(), stage.segue.admin);
    assert!(config.exists() && admin.port() != 0);
    let _ = crate::support::try_request(
        admin,
        format!(
            "POST /v1/migrations HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{request}",
            request.to_string().len()
        ),
    );
    let id = 1;
    if turns_back {
        stage.until_phase(id, "watching");
        until("the new instance to take a write", || {
            stage.writers().contains(&"shadow".to_owned()).then_some(())
        });
        let _ = crate::support::try_request(
            admin,
            format!(
                "POST /v1/migrations/{id}/rollback HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            ),
        );
    }
    stage.segue.wait();
    stage.segue.restart();
    let view = stage.until_over(id);
    let (phase, active) = if turns_back { ("rolled_back", "source") } else { ("done", "shadow") };
    assert_eq!(view["phase"], phase, "{view:#}");
    stage.assert_one_instance_is_left(active);
    let answered = || load.live().done() - load.live().failed();
    let before = answered();
    until("callers to be served again", || (answered() > before).then_some(()));
    let report = stage.finish(load);
    let writers = stage.writers();
    assert_eq!(writers, if turns_back { &["active", "shadow", "active"][..] } else { &["active", "shadow"] });
    Row { ended: phase.to_owned(), writes: report.writes, failed: report.failed }
}

fn is_back(step: Step) -> bool {
    let mut progress = Progress::Requested;
    while let Some(onward) = progress.step() {
        if onward == step {
            return false;
        }
        progress = progress.next(segue::migrate::phase::Came::Done);
    }
    true
}
