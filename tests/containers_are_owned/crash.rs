//! `kill -9` of Segue where it has asked the engine for something and nobody knows. Every place there is goes through
//! the same with processes; here are those at which the engine has its own say.

use segue::migrate::failpoint::{Failpoint, Inner, Moment};
use segue::migrate::phase::Step;
use serde_json::json;

use crate::moving::Moving;
use crate::support::{try_request, until};

const ONWARD: [Failpoint; 6] = [
    Failpoint::Step(Step::Create, Moment::Done),
    Failpoint::Step(Step::Start, Moment::Done),
    Failpoint::Step(Step::Resize, Moment::Done),
    Failpoint::Inner(Inner::HandedOver),
    Failpoint::Step(Step::Switch, Moment::Done),
    Failpoint::Step(Step::StopSource, Moment::Done),
];

const BACK: [Failpoint; 2] =
    [Failpoint::Step(Step::SwitchBack, Moment::Done), Failpoint::Step(Step::DestroyShadow, Moment::Done)];

#[test]
fn a_migration_of_containers_survives_kill_9_of_segue_on_its_way() {
    for point in ONWARD {
        crash_at(point, false);
    }
}

#[test]
fn a_migration_of_containers_survives_kill_9_of_segue_on_its_way_back() {
    for point in BACK {
        crash_at(point, true);
    }
}

fn crash_at(point: Failpoint, turns_back: bool) {
    let Some(mut moving) = Moving::set(&[("SEGUE_FAILPOINT", &point.to_string())]) else { return };
    let source = moving.containers();
    let load = moving.load(200.0);
    let mut request = moving.request();
    if turns_back {
        request["watch_ms"] = json!(60_000);
    }
    // It may die before it has answered.
    let admin = moving.segue.admin;
    let post = |path: &str, body: &str| {
        let length = body.len();
        let _ = try_request(
            admin,
            format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                 content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            ),
        );
    };
    post("/v1/migrations", &request.to_string());
    if turns_back {
        until("the new instance to be watched", || {
            let (_, view) = moving.segue.call("GET", "/v1/migrations/1", "");
            (view["phase"] == "watching").then_some(())
        });
        post("/v1/migrations/1/rollback", "");
    }
    moving.segue.wait();
    moving.segue.restart();
    let view = moving.until_over();
    let (phase, active) = if turns_back { ("rolled_back", "source") } else { ("done", "shadow") };
    assert_eq!(view["phase"], phase, "{point}: {view:#}");
    assert_eq!(moving.active(), active, "{point}");
    let left = moving.containers();
    assert_eq!(left.len(), 1, "{point}: {left:?}");
    assert_eq!(left == source, turns_back, "{point}: {source:?} {left:?}");
    // A shadow's own network stays with it; a source never had one.
    let networks = if turns_back { Vec::new() } else { left.clone() };
    assert_eq!(Moving::belongings(&left[0]), [networks, Vec::new()], "{point}");
    let answered = || load.live().done() - load.live().failed();
    let before = answered();
    until("callers to be served again", || (answered() > before).then_some(()));
    moving.finish(load);
}
