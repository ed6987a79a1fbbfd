//! A new instance is warmed before it is judged, and what warms it is no evidence.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::bypass::events;
use crate::stage::Stage;
use crate::support::{get, until};

/// An instance that somebody else runs: answers everything alike, and remembers what it was asked.
struct App {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl App {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let known = Arc::clone(&heads);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let known = Arc::clone(&known);
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    loop {
                        let mut head = String::new();
                        while !head.ends_with("\r\n\r\n") {
                            if stream.read_line(&mut head).unwrap_or(0) == 0 {
                                return;
                            }
                        }
                        let status = if head.contains("/gone") { "404 Not Found" } else { "200 OK" };
                        known.lock().unwrap().push(head.to_lowercase());
                        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok");
                        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, heads }
    }

    fn asked(&self, what: &str) -> Vec<String> {
        self.heads.lock().unwrap().iter().filter(|head| head.contains(what)).cloned().collect()
    }
}

fn external(stage: &Stage, app: &App, isolated: bool) -> Value {
    let mut request = stage.request(&[]);
    let endpoints = json!([format!("http://{}", app.address)]);
    request["to"] = json!({ "provider": "external", "endpoints": endpoints, "isolated": isolated });
    request
}

const WARM: &str = "[services.web.migration]\n\
    warm = { requests = [\"/warm/1\", \"/warm/2?key=hunter2\", \"/gone?key=hunter2\"], recent = 50, per_second = 500 }\n";

#[test]
fn it_is_asked_for_what_the_settings_say_and_for_what_was_teed_and_none_of_it_is_evidence() {
    let stage = Stage::with(&[], WARM, &[]);
    let app = App::start();
    let id = stage.start(&external(&stage, &app, true));
    stage.until_phase(id, "shadowing");
    // All of them are teed, each of them several times, until there are pairs enough to go on.
    until("the instance to be warmed", || {
        for n in 0..4 {
            get(stage.segue.address, &format!("/item/{n}"));
        }
        (!stage.migration(id)["warmed"].is_null()).then_some(())
    });
    let view = stage.migration(id);
    let warmed = &view["warmed"];
    assert_eq!(
        (&warmed["sent"], &warmed["failed"], &warmed["left_out"]),
        (&json!(7), &json!(1), &json!(0)),
        "{view:#}"
    );
    let failure = warmed["failure"].as_str().unwrap();
    assert!(
        failure.starts_with("GET /gone?key=* of") && failure.ends_with("answered 404 Not Found"),
        "{failure}"
    );
    assert!(!stage.segue.log().contains("hunter2"), "{}", stage.segue.log());

    let one = app.asked("/warm/2?key=hunter2");
    assert_eq!(one.len(), 1, "once: {one:?}");
    assert!(one[0].contains("segue-tee: shadow") && one[0].contains("user-agent: segue-warm"), "{one:?}");
    for n in 0..4 {
        let again = app.asked(&format!("get /item/{n} "));
        let warming = again.iter().filter(|head| head.contains("user-agent: segue-warm")).count();
        assert_eq!(warming, 1, "{again:?}");
    }
    let (_, pairs) = stage.segue.call("GET", "/v1/services/web/pairs?limit=500", "");
    let targets = pairs["pairs"].as_array().unwrap();
    assert!(!targets.is_empty());
    assert!(targets.iter().all(|pair| pair["path"].as_str().unwrap().starts_with("/item/")), "{pairs:#}");

    assert_eq!(stage.ask(id, "cancel").0, 200);
    stage.until_phase(id, "cancelled");
    let order: Vec<_> = events(&stage, id).iter().filter(|of| of["phase"] == "intent").cloned().collect();
    let place = |step: &str| order.iter().position(|of| of["step"] == step);
    assert!(place("resize") < place("warm") && place("warm") < place("forget"), "{order:#?}");
    stage.assert_one_instance_is_left("source");
}

#[test]
fn one_that_is_not_isolated_is_sent_nothing_but_what_is_teed() {
    let stage = Stage::with(&[], WARM, &[]);
    let app = App::start();
    let id = stage.start(&external(&stage, &app, false));
    until("the step to be over", || {
        get(stage.segue.address, "/item/1");
        (!stage.migration(id)["warmed"].is_null()).then_some(())
    });
    let warmed = &stage.migration(id)["warmed"];
    assert_eq!(warmed["sent"], 0, "{warmed}");
    assert!(warmed["failure"].as_str().unwrap().contains("`isolated`"), "{warmed}");
    assert_eq!(app.asked("segue-warm"), [""; 0]);
    assert_eq!(stage.ask(id, "cancel").0, 200);
    stage.until_phase(id, "cancelled");
}

#[test]
fn warming_can_be_cancelled() {
    let requests: Vec<_> = (0..900).map(|n| format!("\"/item/{n}\"")).collect();
    let settings = format!(
        "[services.web.migration]\nwarm = {{ requests = [{}], per_second = 1, concurrency = 1 }}\n",
        requests.join(", ")
    );
    let stage = Stage::with(&[], &settings, &[]);
    let load = stage.load(300.0);
    let id = stage.start(&stage.request(&[]));
    until("it to be warmed", || {
        let view = stage.migration(id);
        view["reason"].as_str().is_some_and(|reason| reason.contains("to be warmed")).then_some(())
    });
    assert_eq!(stage.ask(id, "cancel").0, 200);
    stage.until_phase(id, "cancelled");
    stage.assert_one_instance_is_left("source");
    assert_eq!(stage.finish(load).failed, 0);
}
