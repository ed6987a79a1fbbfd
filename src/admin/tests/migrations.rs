//! Migrations as the API shows them and as it lets them be steered, to an instance that somebody else runs.

use std::rc::Rc;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::contract::{assert_shape, described};
use super::{Reply, Stand, run, send};

/// So much slower than the shadow that no busy moment can turn the gate of latency against it.
const SLOW_SOURCE: &str = "slow=40ms";
const CALLERS: usize = 8;

/// Its settings know of no shadow.
async fn stand() -> Rc<Stand> {
    let stand = Stand::with(|settings| settings.services.get_mut("web").unwrap().shadow = None).await;
    stand.source.set_faults(&[SLOW_SOURCE.parse().unwrap()]).unwrap();
    Rc::new(stand)
}

fn request(stand: &Stand, more: &Value) -> String {
    let shadow = stand.shadow.as_ref().unwrap().addr().unwrap();
    let to = json!({ "provider": "external", "endpoints": [format!("http://{shadow}")], "isolated": true });
    let mut request = json!({ "service": "web", "to": to, "min_pairs": 20, "watch_ms": 50, "grace_ms": 1 });
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request.to_string()
}

/// Starts one, and gives its path.
async fn start(stand: &Stand, more: &Value) -> String {
    let reply = stand.call("POST", "/v1/migrations", &request(stand, more)).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    assert_shape(&described(), "Migration", &reply.json(), "a start");
    let path = format!("/v1/migrations/{}", reply.json()["id"]);
    assert_eq!(reply.header("location"), path);
    path
}

async fn until(stand: &Stand, path: &str, what: impl Fn(&Value) -> bool) -> Value {
    loop {
        let view = stand.get(path).await;
        if what(&view) {
            return view;
        }
        assert_ne!(view["over"], true, "it ended before: {view}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Callers that ask again and again until they are dropped.
struct Callers(Vec<tokio::task::JoinHandle<()>>);

impl Callers {
    fn of(stand: &Rc<Stand>) -> Self {
        let ask = |stand: Rc<Stand>| async move {
            loop {
                assert_eq!(stand.request("GET", "/item/1").await.status, 200);
            }
        };
        Self((0..CALLERS).map(|_| tokio::task::spawn_local(ask(Rc::clone(stand)))).collect())
    }

    fn end(self) {
        for caller in self.0 {
            assert!(!caller.is_finished(), "a caller was not served");
            caller.abort();
        }
    }
}

#[derive(Debug)]
struct Event {
    name: String,
    id: Option<u64>,
    data: Value,
}

/// The whole stream, which ends by itself.
async fn events(stand: &Stand, path: &str, after: Option<u64>) -> (Reply, Vec<Event>) {
    let address = stand.api.address().unwrap();
    let (host, after) = (address.to_string(), after.map(|id| id.to_string()));
    let mut headers = vec![("host", host.as_str())];
    headers.extend(after.as_deref().map(|id| ("last-event-id", id)));
    let reply = send(address, "GET", &format!("{path}/events"), &headers, "").await;
    let blocks = reply.text.split("\n\n").filter(|block| !block.trim_start_matches(':').trim().is_empty());
    let parse = |block: &str| {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Event {
            name: field("event").unwrap().to_owned(),
            id: field("id").map(|id| id.parse().unwrap()),
            data: serde_json::from_str(field("data").unwrap()).unwrap(),
        }
    };
    let events = blocks.map(parse).collect();
    (reply, events)
}

fn steps(events: &[Event]) -> Vec<(u64, &str, &str)> {
    let steps = events.iter().filter(|event| event.name == "step");
    steps
        .map(|event| {
            (event.id.unwrap(), event.data["step"].as_str().unwrap(), event.data["phase"].as_str().unwrap())
        })
        .collect()
}

#[test]
fn one_goes_to_its_end_and_its_journal_can_be_read_again() {
    run(async {
        let stand = stand().await;
        let path = start(&stand, &json!({})).await;
        let watcher = {
            let (stand, path) = (Rc::clone(&stand), path.clone());
            tokio::task::spawn_local(async move { events(&stand, &path, None).await })
        };
        let (detail, reason) = stand
            .call("POST", "/v1/migrations", &request(&stand, &json!({})))
            .await
            .problem(409, "/v1/migrations");
        assert_eq!(reason.as_deref(), Some("under_way"));
        assert!(detail.contains("migration 1 "), "{detail}");

        let callers = Callers::of(&stand);
        let (reply, all) = watcher.await.unwrap();
        assert_eq!(reply.header("content-type"), "text/event-stream");
        assert_eq!(reply.header("cache-control"), "no-store");
        callers.end();
        let last = all.last().unwrap();
        assert_eq!((last.name.as_str(), &last.data["phase"]), ("migration", &json!("done")), "{last:?}");
        let document = described();
        for event in &all {
            let schema = if event.name == "step" { "MigrationEvent" } else { "Migration" };
            assert_shape(&document, schema, &event.data, "an event");
            assert_eq!(event.id.is_some(), event.name == "step", "what has an id is not sent again");
        }
        let whole = steps(&all);
        assert!(whole.is_sorted() && whole.windows(2).all(|two| two[0].0 < two[1].0), "{whole:?}");
        assert_eq!((whole[0].1, whole[whole.len() - 1].1), ("requested", "destroy_source"));
        for step in ["create", "attach", "observe", "judge", "switch", "watch", "vacate"] {
            let phases: Vec<_> = whole.iter().filter(|of| of.1 == step).map(|of| of.2).collect();
            assert_eq!(phases, ["intent", "outcome"], "{step}");
        }
        assert!(
            all.iter().any(|event| event.data["reason"].as_str().is_some_and(|why| why.contains("pairs"))),
            "it said what it was waiting for"
        );

        let (_, rest) = events(&stand, &path, Some(whole[4].0)).await;
        assert_eq!(steps(&rest), whole[5..]);
        let (nothing, _) = events(&stand, &path, Some(whole[whole.len() - 1].0)).await;
        assert_eq!((nothing.status.as_u16(), nothing.text.as_str()), (204, ""), "so that nobody asks again");

        let view = stand.get(&path).await;
        assert_eq!((&view["phase"], &view["switchover"]["outcome"]), (&json!("done"), &json!("completed")));
        assert_eq!(stand.get("/v1/migrations").await["migrations"], json!([view]));
        assert_eq!(stand.service().await["active"], "shadow");
        for wish in ["approve", "switchover", "rollback", "retire", "cancel"] {
            let path = format!("{path}/{wish}");
            let (detail, reason) = stand.call("POST", &path, "").await.problem(409, &path);
            assert_eq!(reason.as_deref(), Some("not_now"));
            assert!(detail.contains("is over: done"), "{detail}");
        }
    });
}

#[test]
fn one_that_waits_for_traffic_is_cancelled_and_leaves_nothing() {
    run(async {
        let stand = stand().await;
        let path = start(&stand, &json!({})).await;
        let waiting =
            until(&stand, &path, |view| view["phase"] == "shadowing" && view["reason"].is_string()).await;
        assert!(waiting["reason"].as_str().unwrap().contains("20 more pairs"), "{waiting}");
        assert_eq!(
            waiting["may"],
            json!({ "approve": true, "cancel": true, "rollback": false, "retire": false })
        );
        let shadows = |service: &Value| {
            let all = service["endpoints"].as_array().unwrap();
            all.iter().filter(|endpoint| endpoint["instance"] == "shadow").count()
        };
        assert_eq!(shadows(&stand.service().await), 1);

        let back = format!("{path}/rollback");
        let (detail, reason) = stand.call("POST", &back, "").await.problem(409, &back);
        assert_eq!(reason.as_deref(), Some("not_now"));
        assert!(detail.contains("cancel the migration instead"), "{detail}");
        for call in ["switchover", "rollback"] {
            let call = format!("/v1/services/web/{call}");
            let (detail, reason) = stand.call("POST", &call, "").await.problem(409, &call);
            assert_eq!(reason.as_deref(), Some("migration_under_way"));
            assert!(detail.contains("migration 1 "), "{detail}");
        }

        let cancelled = stand.call("POST", &format!("{path}/cancel"), "{}").await;
        assert_eq!(cancelled.status, 200, "{}", cancelled.text);
        let view = loop {
            let view = stand.get(&path).await;
            if view["over"] == true {
                break view;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!((&view["phase"], &view["reason"]), (&json!("cancelled"), &json!("it was cancelled")));
        let service = stand.service().await;
        assert_eq!((&service["active"], shadows(&service)), (&json!("source"), 0));
        let (_, reason) = stand
            .call("POST", "/v1/services/web/switchover", "")
            .await
            .problem(409, "/v1/services/web/switchover");
        assert_eq!(reason.as_deref(), Some("no_shadow"), "an operator may again");
    });
}

#[test]
fn one_that_is_manual_waits_for_a_yes() {
    run(async {
        let stand = stand().await;
        let path = start(&stand, &json!({ "policy": "manual" })).await;
        let callers = Callers::of(&stand);
        let ready = until(&stand, &path, |view| view["phase"] == "ready" && view["reason"].is_string()).await;
        assert!(ready["reason"].as_str().unwrap().contains("an approval"), "{ready}");
        assert_eq!((&ready["approved"], &ready["may"]["approve"]), (&json!(false), &json!(true)));
        assert!(!ready["gates"].as_array().unwrap().is_empty());
        assert_eq!(stand.service().await["active"], "source");
        let now = format!("{path}/switchover");
        let (detail, _) = stand.call("POST", &now, r#"{"mode":"overlap"}"#).await.problem(422, &now);
        assert!(detail.contains("unknown field `mode`"), "{detail}");
        assert_eq!(stand.call("POST", &now, "").await.status, 200);
        until(&stand, &path, |view| view["phase"] == "done").await;
        callers.end();
        assert_eq!(stand.service().await["active"], "shadow");
    });
}

#[test]
fn a_wrong_request_is_refused_with_the_name_of_what_is_wrong() {
    run(async {
        let stand = stand().await;
        let path = "/v1/migrations";
        for (body, status, says, why) in [
            ("{}", 422, "missing field `service`", None),
            (r#"{"service":"web","too":{}}"#, 422, "unknown field `too`", None),
            (r#"{"service":"web","policy":"soon"}"#, 422, "policy: unknown variant `soon`", None),
            (r#"{"service":"web","watch_ms":-1}"#, 422, "watch_ms: invalid value", None),
            (r#"{"service":"nope","to":{}}"#, 404, "no service `nope`", Some("no_service")),
            (r#"{"service":"web"}"#, 422, "`to` is missing", Some("bad")),
            (r#"{"service":"web","to":[]}"#, 422, "has to be an object", Some("bad")),
            (r#"{"service":"web","to":{"provider":"slurm"}}"#, 422, "`slurm`", Some("bad")),
            (
                r#"{"service":"web","to":{"provider":"external","endpoint":[]}}"#,
                422,
                "`endpoint`",
                Some("bad"),
            ),
            (
                r#"{"service":"web","to":{"provider":"external","endpoints":["ftp://x"]}}"#,
                422,
                "ftp",
                Some("bad"),
            ),
            (
                r#"{"service":"web","to":{"provider":"external","endpoints":["http://x"],"allocation":{"cpu":1}}}"#,
                422,
                "`allocation`: missing field `memory`",
                Some("bad"),
            ),
            (
                r#"{"service":"web","to":{"provider":"process","command":["app"]}}"#,
                503,
                "`state.store`",
                Some("provider"),
            ),
        ] {
            let (detail, reason) = stand.call("POST", path, body).await.problem(status, path);
            assert!(detail.contains(says), "{body}: {detail}");
            assert_eq!(reason.as_deref(), why, "{body}");
        }
        assert_eq!(stand.get(path).await, json!({ "migrations": [] }));
        for (method, path) in [
            ("GET", "/v1/migrations/7"),
            ("GET", "/v1/migrations/7/events"),
            ("POST", "/v1/migrations/7/approve"),
            ("POST", "/v1/migrations/7/rollback"),
            ("POST", "/v1/migrations/7/cancel"),
        ] {
            let (detail, reason) = stand.call(method, path, "").await.problem(404, path);
            assert_eq!(reason.as_deref(), Some("no_migration"));
            assert!(detail.contains("no migration 7"), "{detail}");
        }
        stand.call("GET", "/v1/migrations/seven", "").await.problem(400, "/v1/migrations/seven");
    });
}

#[test]
fn a_dry_run_reports_and_changes_nothing() {
    run(async {
        let stand = stand().await;
        let path = "/v1/migrations";
        let reply = stand.call("POST", path, &request(&stand, &json!({ "dry_run": true }))).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(
            (&reply.json()["compatible"], &reply.json()["provider"]),
            (&json!(true), &json!("external"))
        );
        let empty = r#"{"service":"web","to":{"provider":"external","endpoints":[]},"dry_run":true}"#;
        let reply = stand.call("POST", path, empty).await.json();
        assert_eq!(reply["compatible"], false, "{reply}");
        assert!(reply["report"].as_array().unwrap().iter().any(|of| of["gravity"] == "fault"), "{reply}");
        assert_eq!(stand.get(path).await, json!({ "migrations": [] }));
    });
}

/// An open stream, of which nothing has been read yet.
async fn open(stand: &Stand, path: &str) -> (u16, Incoming) {
    let address = stand.api.address().unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::task::spawn_local(connection);
    let request = Request::builder().uri(format!("{path}/events")).header("host", address.to_string());
    let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    (answer.status().as_u16(), answer.into_body())
}

#[test]
fn streams_leave_room_for_others_and_end_when_the_api_does() {
    run(async {
        let Ok(stand) = Rc::try_unwrap(stand().await) else { unreachable!("nobody else has it") };
        let path = start(&stand, &json!({})).await;
        let mut streams = Vec::new();
        let refused = loop {
            match open(&stand, &path).await {
                (200, stream) => streams.push(stream),
                (status, _) => break status,
            }
        };
        assert_eq!(refused, 503);
        assert_eq!(stand.get("/readyz").await["status"], "ready", "the probes get through");
        drop(streams.pop());
        let again = async {
            while open(&stand, &path).await.0 != 200 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(super::PATIENCE, again).await.expect("a place is free again");

        let Stand { api, control, .. } = stand;
        let whole = streams.pop().unwrap();
        let (collected, ()) = tokio::join!(whole.collect(), api.stop());
        let text = collected.expect("it ends in order and is not torn").to_bytes();
        assert!(String::from_utf8_lossy(&text).contains("event: migration"));
        assert_eq!(control.migrations().await.unwrap().len(), 1);
    });
}
