//! Every call, and what is wrong with a wrong one.

use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use serde_json::{Value, json};

use super::{Stand, run};

#[test]
fn probes_answer() {
    run(async {
        let stand = Stand::start().await;
        assert_eq!(stand.get("/healthz").await, json!({ "status": "ok" }));
        assert_eq!(stand.get("/readyz").await, json!({ "status": "ready" }));
        let reply = stand.call("GET", "/healthz", "").await;
        assert_eq!(
            (reply.header("cache-control"), reply.header("x-content-type-options")),
            ("no-store", "nosniff")
        );
    });
}

#[test]
fn a_process_that_is_ending_is_alive_and_not_ready() {
    run(async {
        let stand = Stand::start().await;
        stand.control.drain(Duration::ZERO).await;
        let (_, reason) = stand.call("GET", "/readyz", "").await.problem(503, "/readyz");
        assert_eq!(reason.as_deref(), Some("ending"));
        assert_eq!(stand.get("/healthz").await, json!({ "status": "ok" }));
        let path = "/v1/services/web/switchover";
        let (_, reason) = stand.call("POST", path, "").await.problem(409, path);
        assert_eq!(reason.as_deref(), Some("ending"));
    });
}

#[test]
fn services_show_what_passed() {
    run(async {
        let stand = Stand::start().await;
        stand.read(3).await;
        stand.request("POST", "/ledger/a").await;
        let service = stand.pairs(3).await;
        assert_eq!(
            service["requests"],
            json!([
                { "instance": "source", "class": "read", "code": 200, "count": 3 },
                { "instance": "source", "class": "write", "code": 200, "count": 1 },
            ])
        );
        assert_eq!((&service["active"], &service["gate"]), (&json!("source"), &json!("open")));
        assert_eq!(
            (&service["tee"]["teed"], &service["tee"]["skipped"]),
            (&json!(3), &json!({ "write": 1 }))
        );
        assert_eq!(service["tee"]["effective_percent"], 100.0);
        assert_eq!(stand.get("/v1/services").await["services"], json!([service]));
        let status = stand.get("/v1/status").await;
        assert_eq!((&status["services"], &status["tees_stopped"]), (&json!([service]), &json!(false)));
    });
}

#[test]
fn a_changed_percentage_holds_for_the_next_request() {
    run(async {
        let stand = Stand::start().await;
        let counts = |service: &Value| {
            let tee = &service["tee"];
            (tee["eligible"].as_u64().unwrap(), tee["sampled"].as_u64().unwrap())
        };
        stand.read(20).await;
        assert_eq!(counts(&stand.service().await), (20, 20));

        let tee = stand.call("PATCH", "/v1/services/web/tee", r#"{"percent": 5}"#).await.json();
        assert_eq!((&tee["configured_percent"], &tee["eligible"]), (&json!(5.0), &json!(20)));
        stand.read(40).await;
        let (eligible, sampled) = counts(&stand.service().await);
        assert_eq!(eligible, 60);
        assert!((21..=23).contains(&sampled), "2 of 40 ± 1, not {}", sampled - 20);

        // Nothing asked, nothing changed; neither is it by no body at all.
        for body in ["{}", "", " ", r#"{"percent":null}"#] {
            let tee = stand.call("PATCH", "/v1/services/web/tee", body).await.json();
            assert_eq!(tee["configured_percent"], 5.0, "{body}");
        }
        stand.call("PATCH", "/v1/services/web/tee", r#"{"percent": 0}"#).await;
        stand.read(10).await;
        let service = stand.service().await;
        assert_eq!((counts(&service), &service["tee"]["skipped"]), ((60, sampled), &json!({ "off": 10 })));
    });
}

#[test]
fn a_tee_is_not_set_to_nonsense() {
    run(async {
        let stand = Stand::start().await;
        let path = "/v1/services/web/tee";
        for (body, status, word) in [
            (r#"{"percent": 101}"#, 422, "`percent` is 101"),
            (r#"{"percent": -1}"#, 422, "`percent` is -1"),
            (r#"{"percent": 6}"#, 422, "allow_above_5_percent"),
            (r#"{"percent": "2"}"#, 422, "percent: invalid type: string"),
            (r#"{"percnt": 2}"#, 422, "unknown field `percnt`"),
            (r#"{"allow_above_5_percent": 1}"#, 422, "allow_above_5_percent: invalid type: integer"),
            ("[2.0, true]", 422, "has to be a JSON object"),
            ("2", 422, "invalid type: integer"),
            (r#"{"percent": 2"#, 400, "the body is no JSON: EOF"),
            ("percent=2", 400, "the body is no JSON: expected"),
            (r#"{"percent": 2} {}"#, 400, "the body is no JSON: trailing"),
            (r#"{"percent": 1e999}"#, 400, "the body is no JSON"),
        ] {
            let (detail, _) = stand.call("PATCH", path, body).await.problem(status, path);
            assert!(detail.contains(word), "{body}: {detail}");
            assert!(!detail.contains("Failed"), "{body}: {detail}");
        }
        assert_eq!(stand.service().await["tee"]["configured_percent"], 100.0, "nothing of it was taken");
        let body = r#"{"percent": 6, "allow_above_5_percent": true}"#;
        assert_eq!(stand.call("PATCH", path, body).await.json()["configured_percent"], 6.0);
    });
}

#[test]
fn one_switch_stops_all_tees() {
    run(async {
        let stand = Stand::start().await;
        for (body, stopped) in [
            (r#"{"stopped": true}"#, true),
            ("{}", true),
            (r#"{"stopped": false}"#, false),
            (r#"{"stopped": true}"#, true),
        ] {
            let reply = stand.call("PATCH", "/v1/tee", body).await;
            assert_eq!(reply.json(), json!({ "stopped": stopped }), "{body}");
        }
        stand.read(4).await;
        let service = stand.service().await;
        assert_eq!(service["tee"]["skipped"], json!({ "stopped": 4 }));
        assert_eq!((&service["tee"]["stopped"], &service["tee"]["eligible"]), (&json!(true), &json!(0)));
        let (detail, _) =
            stand.call("PATCH", "/v1/tee", r#"{"stopped":"yes"}"#).await.problem(422, "/v1/tee");
        assert!(detail.starts_with("stopped: invalid type"), "{detail}");
    });
}

#[test]
fn latency_is_of_both_sides_and_reads_back() {
    run(async {
        let stand = Stand::start().await;
        let path = "/v1/services/web/latency";
        let empty = stand.get(&format!("{path}?format=hdr")).await;
        let nothing = json!({ "source": null, "shadow": null });
        let expected = json!({ "service": "web", "source": null, "shadow": null, "reverse": nothing });
        assert_eq!(empty, expected);

        stand.read(5).await;
        stand.request("POST", "/ledger/a").await;
        stand.pairs(5).await;
        let view = stand.get(path).await;
        let count = |of: &Value| of["count"].as_u64().unwrap();
        assert_eq!((count(&view["source"]), count(&view["shadow"])), (6, 5));
        assert_eq!((count(&view["paired_source"]), count(&view["first_byte"]["source"])), (5, 6));
        assert_eq!(count(&view["reverse"]["source"]), 0);
        for side in ["source", "shadow"] {
            let of = |quantile: &str| view[side][quantile].as_u64().unwrap();
            assert!(of("p50") > 0 && of("p50") <= of("p99") && of("p99") <= of("max"), "{view}");
        }

        let exported = stand.get(&format!("{path}?format=hdr")).await;
        for (side, count) in [("source", 6), ("shadow", 5)] {
            let text = exported[side].as_str().unwrap();
            let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).unwrap();
            let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
            assert_eq!((histogram.len(), histogram.max()), (count, view[side]["max"].as_u64().unwrap()));
        }
        assert_eq!(exported["reverse"], nothing);

        stand.control.turn().await;
        stand.read(2).await;
        let during = stand.get(path).await;
        assert_eq!((count(&during["interval"]["source"]), count(&during["interval"]["shadow"])), (6, 5));
        assert_eq!(count(&during["source"]), 8, "the total goes on");
        stand.pairs(7).await;
        stand.control.turn().await;
        assert_eq!(count(&stand.get(path).await["interval"]["source"]), 2, "an interval holds only its own");

        let routes = stand.get(&format!("{path}?format=routes")).await;
        for side in ["source", "shadow"] {
            let [route] = routes[side].as_array().unwrap().as_slice() else { panic!("{routes}") };
            assert_eq!((&route["route"], count(&route["last_byte"])), (&json!("/item/:id"), 7));
        }

        let (detail, _) = stand.call("GET", &format!("{path}?format=xml"), "").await.problem(400, path);
        assert!(detail.contains("format: unknown variant `xml`"), "{detail}");
    });
}

#[test]
fn pairs_are_listed_newest_first_and_redacted() {
    run(async {
        let stand = Stand::start().await;
        stand.read(1).await;
        stand.pairs(1).await;
        stand.shadow.as_ref().unwrap().set_faults(&["error=500".parse().unwrap()]).unwrap();
        stand.request("GET", "/item/2?name=ada").await;
        let service = stand.pairs(2).await;
        assert_eq!(service["pairs"]["mismatched"], 1);

        let path = "/v1/services/web/pairs";
        let of = |list: &Value, key: &str| {
            let pairs = list["pairs"].as_array().unwrap().iter();
            pairs.map(|pair| pair[key].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let all = stand.get(path).await;
        assert_eq!(of(&all, "path"), ["/item/2?name=*", "/item/1"]);
        assert_eq!(of(&all, "verdict"), ["mismatch_status", "match"]);
        assert_eq!(
            all["pairs"][0]["differences"][0],
            json!({ "what": "status", "source": "200", "shadow": "500" })
        );
        assert_eq!(
            of(&stand.get(&format!("{path}?mismatched=true&limit=50")).await, "path"),
            ["/item/2?name=*"]
        );
        assert_eq!(of(&stand.get(&format!("{path}?limit=1")).await, "path"), ["/item/2?name=*"]);
        assert_eq!(of(&stand.get(&format!("{path}?limit=0")).await, "path"), [""; 0]);
        for (query, word) in [
            ("limit=-1", "limit: invalid digit"),
            ("mismatched=maybe", "mismatched: provided string was not `true` or `false`"),
            ("limits=3", "unknown field `limits`"),
        ] {
            let (detail, _) = stand.call("GET", &format!("{path}?{query}"), "").await.problem(400, path);
            assert!(detail.contains(word), "{detail}");
        }
    });
}

#[test]
fn a_switchover_answers_with_its_outcome() {
    run(async {
        let stand = Stand::start().await;
        let (over, back) = ("/v1/services/web/switchover", "/v1/services/web/rollback");
        let ended = stand.call("POST", over, "").await.json();
        assert_eq!(
            (&ended["outcome"], &ended["from"], &ended["active"]),
            (&json!("completed"), &json!("source"), &json!("shadow"))
        );
        assert!(ended["pause_ms"].as_f64().unwrap() > 0.0, "{ended}");
        stand.read(2).await;
        let service = stand.pairs(2).await;
        assert_eq!((&service["active"], &service["generation"]), (&json!("shadow"), &json!(2)));
        assert_eq!(service["requests"][0]["instance"], "shadow");
        let view = stand.get("/v1/services/web/latency").await;
        assert_eq!((&view["source"]["count"], &view["reverse"]["source"]["count"]), (&json!(0), &json!(2)));

        let body = r#"{"mode":"pause","park":"writes","park_timeout_ms":5000,"drain_timeout_ms":10000}"#;
        let ended = stand.call("POST", back, body).await.json();
        assert_eq!((&ended["outcome"], &ended["active"]), (&json!("completed"), &json!("source")));
        let (_, reason) = stand.call("POST", back, "{}").await.problem(409, back);
        assert_eq!(reason.as_deref(), Some("already_active"));
        let ended = stand.call("POST", over, r#"{"mode":"overlap"}"#).await.json();
        assert_eq!((&ended["mode"], &ended["active"]), (&json!("overlap"), &json!("shadow")));
        assert_eq!(stand.service().await["switchovers"], json!({ "completed": 3, "aborted": 0 }));
    });
}

#[test]
fn a_switchover_that_cannot_start_says_why() {
    run(async {
        let path = "/v1/services/web/switchover";
        let mut stand = Stand::start().await;
        stand.shadow.take().unwrap().kill();
        let (detail, reason) = stand.call("POST", path, "").await.problem(409, path);
        assert_eq!(reason.as_deref(), Some("not_reachable"));
        assert!(detail.starts_with("`shadow` cannot take over"), "{detail}");
        for (body, status, word) in [
            (r#"{"mode":"leap"}"#, 422, "mode: unknown variant `leap`"),
            (r#"{"park_timeout_ms":-5}"#, 422, "park_timeout_ms: invalid value"),
            (r#"{"timeout":5}"#, 422, "unknown field `timeout`"),
            ("{", 400, "EOF"),
        ] {
            let (detail, _) = stand.call("POST", path, body).await.problem(status, path);
            assert!(detail.contains(word), "{body}: {detail}");
        }
        let service = stand.service().await;
        assert_eq!((&service["active"], &service["gate"]), (&json!("source"), &json!("open")));

        let stand = Stand::with(|settings| settings.services.get_mut("web").unwrap().shadow = None).await;
        let (_, reason) = stand.call("POST", path, "").await.problem(409, path);
        assert_eq!(reason.as_deref(), Some("no_shadow"));
    });
}

#[test]
fn a_drain_that_takes_too_long_is_aborted_with_what_blocks() {
    run(async {
        let stand = Rc::new(Stand::start().await);
        let caller = Rc::clone(&stand);
        let slow = tokio::task::spawn_local(async move { caller.request("GET", "/slow/2500").await });
        while stand.service().await["in_flight"] == 0 {
            tokio::task::yield_now().await;
        }
        let path = "/v1/services/web/switchover";
        let other = Rc::clone(&stand);
        let patient = tokio::task::spawn_local(async move {
            other.call("POST", "/v1/services/web/switchover", r#"{"drain_timeout_ms":1500}"#).await.json()
        });
        while stand.service().await["gate"] == "open" {
            tokio::task::yield_now().await;
        }
        let (_, reason) = stand.call("POST", path, "").await.problem(409, path);
        assert_eq!(reason.as_deref(), Some("busy"));
        let ended = patient.await.unwrap();
        assert_eq!((&ended["outcome"], &ended["active"]), (&json!("aborted"), &json!("source")), "{ended}");
        assert_eq!(ended["blockers"][0]["path"], "/slow/2500");
        assert!(ended["reason"].as_str().unwrap().contains("still in flight"));
        assert_eq!(slow.await.unwrap().status, 200);
        assert_eq!(stand.service().await["switchovers"], json!({ "completed": 0, "aborted": 1 }));
    });
}

#[test]
fn no_switchover_holds_a_request_until_it_fails() {
    run(async {
        let settings = |settings: &mut crate::config::Settings| {
            let web = settings.services.get_mut("web").unwrap();
            web.switchover.park_timeout = Duration::from_secs(1);
        };
        let stand = Rc::new(Stand::with(settings).await);
        let ask = |path: &'static str| {
            let caller = Rc::clone(&stand);
            tokio::task::spawn_local(async move { caller.request("GET", path).await })
        };
        let slow = ask("/slow/2500");
        while stand.service().await["in_flight"] == 0 {
            tokio::task::yield_now().await;
        }
        let operator = Rc::clone(&stand);
        let switching = tokio::task::spawn_local(async move {
            let body = r#"{"park_timeout_ms":60000,"drain_timeout_ms":60000}"#;
            operator.call("POST", "/v1/services/web/switchover", body).await.json()
        });
        while stand.service().await["gate"] == "open" {
            tokio::task::yield_now().await;
        }
        assert_eq!(ask("/item/1").await.unwrap().status, 200, "it was held, and served");
        assert_eq!(switching.await.unwrap()["outcome"], "aborted");
        assert_eq!(slow.await.unwrap().status, 200);
    });
}

#[test]
fn unknown_things_are_problems_too() {
    run(async {
        let stand = Stand::start().await;
        for (method, path) in [
            ("GET", "/v1/services/nope"),
            ("PATCH", "/v1/services/nope/tee"),
            ("GET", "/v1/services/nope/latency"),
            ("GET", "/v1/services/nope/pairs"),
            ("POST", "/v1/services/nope/switchover"),
            ("POST", "/v1/services/nope/rollback"),
        ] {
            let body = if method == "PATCH" { r#"{"percent":1}"# } else { "" };
            let (detail, reason) = stand.call(method, path, body).await.problem(404, path);
            assert!(detail.contains("no service `nope`"), "{path}: {detail}");
            assert_eq!(reason.as_deref(), Some("no_service"));
        }
        let path = "/v1/services/nope/latency";
        stand.call("GET", &format!("{path}?format=hdr"), "").await.problem(404, path);
        // An empty change of nothing is no success either.
        stand.call("PATCH", "/v1/services/nope/tee", "{}").await.problem(404, "/v1/services/nope/tee");
        for path in ["/", "/v2/services", "/v1/services/", "/v1/services/web/nope"] {
            let (detail, _) = stand.call("GET", path, "").await.problem(404, path);
            assert!(detail.contains("/openapi.json"), "{detail}");
        }
        stand.call("GET", "/v1/services/%ff", "").await.problem(400, "/v1/services/%ff");
        let reply = stand.call("DELETE", "/v1/services/web/tee", "").await;
        let (detail, _) = reply.problem(405, "/v1/services/web/tee");
        assert!(detail.contains("no DELETE"), "{detail}");
        assert_eq!(reply.header("allow"), "PATCH");
    });
}

#[test]
fn bodies_are_bounded() {
    run(async {
        let stand = Stand::start().await;
        let path = "/v1/services/web/tee";
        let fits = format!("{{}}{}", " ".repeat(super::super::MAX_BODY - 2));
        assert_eq!(stand.call("PATCH", path, &fits).await.status, 200);
        let (detail, _) = stand.call("PATCH", path, &format!("{fits} ")).await.problem(413, path);
        assert!(detail.contains("65536"), "{detail}");
    });
}
