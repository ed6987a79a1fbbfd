//! The description is the API: the same calls, and answers of the described shapes.

use serde_json::{Value, json};

use super::{Stand, run};
use crate::admin::routes::ROUTES;

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

pub(super) fn described() -> Value {
    serde_json::from_str(include_str!("../openapi.json")).unwrap()
}

#[test]
fn every_call_is_described_and_every_description_is_a_call() {
    run(async {
        let stand = Stand::start().await;
        let paths = described()["paths"].as_object().unwrap().clone();
        let mut routed: Vec<_> = ROUTES.iter().map(|(path, _)| (*path).to_owned()).collect();
        routed.sort();
        assert_eq!(routed, paths.keys().cloned().collect::<Vec<_>>());
        for (path, description) in &paths {
            for method in METHODS {
                // Nothing that exists is touched.
                let asked = path.replace("{service}", "nope").replace("{id}", "0");
                let is_routed = stand.call(method, &asked, "{}").await.status != 405;
                let is_described = !description[method.to_lowercase()].is_null();
                assert_eq!(is_routed, is_described, "{method} {path}");
            }
            assert_eq!(path.contains('{'), !description["parameters"].is_null(), "{path}");
        }
        assert_eq!(stand.get("/openapi.json").await, described());
    });
}

#[test]
fn answers_have_the_described_shapes() {
    run(async {
        let stand = Stand::start().await;
        stand.read(2).await;
        stand.request("POST", "/ledger/a").await;
        stand.shadow.as_ref().unwrap().set_faults(&["error=500".parse().unwrap()]).unwrap();
        stand.read(1).await;
        stand.pairs(3).await;
        let document = described();
        for (method, path, body, schema) in [
            ("GET", "/healthz", "", "Alive"),
            ("GET", "/readyz", "", "Alive"),
            ("GET", "/v1/status", "", "Process"),
            ("GET", "/v1/services", "", "Services"),
            ("GET", "/v1/services/web", "", "Service"),
            ("GET", "/v1/services/web/latency", "", "Latency"),
            ("GET", "/v1/services/web/latency?format=hdr", "", "Histograms"),
            ("GET", "/v1/services/web/pairs", "", "Pairs"),
            ("PATCH", "/v1/services/web/tee", r#"{"percent":1.0}"#, "Tee"),
            ("PATCH", "/v1/services/web/tee", r#"{"percent":"x"}"#, "Problem"),
            ("PATCH", "/v1/tee", r#"{"stopped":true}"#, "SwitchState"),
            ("GET", "/v1/migrations", "", "Migrations"),
            ("GET", "/v1/migrations/1", "", "Problem"),
            ("POST", "/v1/migrations", r#"{"service":"web","dry_run":true}"#, "DryRun"),
            ("POST", "/v1/migrations", r#"{"service":"web","too":{}}"#, "Problem"),
            ("POST", "/v1/migrations/1/cancel", "", "Problem"),
            ("POST", "/v1/services/web/rollback", "", "Problem"),
            ("POST", "/v1/services/web/switchover", "", "Ended"),
            ("GET", "/nothing", "", "Problem"),
            ("DELETE", "/metrics", "", "Problem"),
        ] {
            let reply = stand.call(method, path, body).await;
            assert_shape(&document, schema, &reply.json(), &format!("{method} {path}"));
        }
    });
}

#[track_caller]
pub(super) fn assert_shape(document: &Value, schema: &str, value: &Value, what: &str) {
    let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
    assert_eq!(faults(document, &schema, value, "$"), [""; 0], "{what}: {value}");
}

#[test]
fn the_check_of_shapes_finds_what_is_wrong() {
    let document = json!({ "n": { "type": ["integer", "null"] } });
    let schema = json!({
        "type": "object", "required": ["a"], "additionalProperties": false,
        "properties": { "a": { "$ref": "#/n" }, "b": { "type": "array", "items": { "enum": ["x"] } } },
    });
    for (value, found) in [
        (json!({ "a": 1, "b": ["x"] }), 0),
        (json!({ "a": null }), 0),
        (json!({}), 1),
        (json!({ "a": "1" }), 1),
        (json!({ "a": 1.5 }), 1),
        (json!({ "a": 1, "c": 2 }), 1),
        (json!({ "a": 1, "b": ["x", "y"] }), 1),
        (json!([]), 1),
    ] {
        assert_eq!(faults(&document, &schema, &value, "$").len(), found, "{value}");
    }
}

/// What the description uses of JSON Schema in answers: references, types, required and further properties, items,
/// enumerations.
fn faults(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#')).expect(reference);
        return faults(document, target, value, at);
    }
    if let Some(known) = schema["enum"].as_array() {
        return if known.contains(value) { Vec::new() } else { vec![format!("{at} is {value}")] };
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect::<Vec<_>>(),
    };
    let fits = |kind: &&str| match *kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        unknown => panic!("{unknown} is no type"),
    };
    if !types.iter().any(fits) {
        return vec![format!("{at} is {value}, not {types:?}")];
    }
    let mut found = Vec::new();
    if let Some(object) = value.as_object() {
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(required) {
                found.push(format!("{at} lacks {required}"));
            }
        }
        for (key, value) in object {
            match (&schema["properties"][key], &schema["additionalProperties"]) {
                (Value::Null, Value::Bool(false)) => found.push(format!("{at} has {key}")),
                (Value::Null, Value::Null | Value::Bool(_)) => {}
                (Value::Null, other) => found.extend(faults(document, other, value, &format!("{at}.{key}"))),
                (property, _) => found.extend(faults(document, property, value, &format!("{at}.{key}"))),
            }
        }
    }
    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
        found.extend(faults(document, &schema["items"], item, &format!("{at}[{n}]")));
    }
    found
}
