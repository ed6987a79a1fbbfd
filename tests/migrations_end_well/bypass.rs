//! Traffic that reaches the source without passing Segue is said, and stops nothing.

use std::net::TcpStream;

use serde_json::json;

use crate::stage::Stage;
use crate::support::until;

#[test]
fn a_connection_that_bypasses_segue_is_in_the_view_and_those_of_segue_are_not() {
    let stage = Stage::new();
    let load = stage.load(200.0);
    let mut request = stage.request(&[]);
    request["policy"] = json!("manual");
    let id = stage.start(&request);
    let ready = stage.until_phase(id, "ready");
    let look = |bypass: u64| {
        until(&format!("{bypass} connections to be seen"), || {
            Some(stage.migration(id)).filter(|view| view["bypass"] == bypass)
        })
    };
    // Callers are served all the while, over connections to the same source.
    let quiet = look(0);
    assert!(quiet["report"].as_array().unwrap().iter().all(|of| of["subject"] != "bypass"), "{quiet:#}");
    assert_eq!(ready["bypass"], 0, "at no time before");

    let source = source(&stage);
    let direct = TcpStream::connect(&source).unwrap();
    let seen = look(1);
    let report = seen["report"].as_array().unwrap();
    let found = report.iter().find(|of| of["subject"] == "bypass").unwrap();
    assert_eq!(found["gravity"], "warning");
    assert!(found["message"].as_str().unwrap().starts_with("1 connection reaches the source"), "{found}");
    assert!(stage.segue.log().contains("1 connection reaches the source"), "{}", stage.segue.log());
    drop(direct);
    look(0);
    let _held = TcpStream::connect(&source).unwrap();
    look(1);
    assert_eq!(stage.segue.log().matches("reaches the source without").count(), 1, "it is said once");

    assert_eq!(stage.ask(id, "approve").0, 200);
    let done = stage.until_phase(id, "done");
    let events = events(&stage, id);
    let seen: Vec<_> = events.iter().filter(|of| of["step"] == "bypass_seen").collect();
    assert_eq!(seen.len(), 1, "it is in the journal once: {events:#?}");
    assert_eq!((&seen[0]["detail"]["connections"], &seen[0]["detail"]["requests"]), (&json!(1), &json!(0)));
    let report = done["report"].as_array().unwrap();
    let found = report.iter().find(|of| of["subject"] == "bypass").unwrap();
    assert!(found["message"].as_str().unwrap().contains("when it was seen first, 1 connection"), "{found}");
    assert!(done["bypass"].is_null(), "{done:#}");
    stage.assert_one_instance_is_left("shadow");
    let report = stage.finish(load);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
}

/// The steps of a migration that is over, as they are streamed.
pub fn events(stage: &Stage, id: u64) -> Vec<serde_json::Value> {
    let request = format!(
        "GET /v1/migrations/{id}/events HTTP/1.0\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n"
    );
    let answer = crate::support::try_request(stage.segue.admin, request).unwrap();
    let text = answer.text();
    let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
    let all = data.filter_map(|data| serde_json::from_str::<serde_json::Value>(data.trim()).ok());
    all.filter(|of| !of["step"].is_null() && !of["at"].is_null()).collect()
}

pub fn source(stage: &Stage) -> String {
    let service = stage.segue.service();
    let endpoints = service["endpoints"].as_array().unwrap();
    let of = endpoints.iter().find(|of| of["instance"] == "source").unwrap_or_else(|| panic!("{service:#}"));
    of["address"].as_str().unwrap().to_owned()
}
