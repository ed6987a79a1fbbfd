//! The source's own count of requests gives away those that did not pass Segue, however short their connections were.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::bypass::{events, source};
use crate::stage::Stage;
use crate::support::{get, until};

/// A page of metrics about the sample application, which counts and has none itself.
struct Exporter {
    address: SocketAddr,
    of: Arc<Mutex<Option<SocketAddr>>>,
}

impl Exporter {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let of = Arc::new(Mutex::new(None));
        let about = Arc::clone(&of);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let about: Option<SocketAddr> = *about.lock().unwrap();
                let total = about.map(|of| {
                    let seen: serde_json::Value = serde_json::from_slice(&get(of, "/__seen").body).unwrap();
                    seen["total"].as_u64().unwrap()
                });
                let page = total.map_or(String::new(), |total| {
                    format!("# TYPE hits_total counter\nhits_total{{app=\"web\"}} {total}\nhits_total{{app=\"x\"}} 7\n")
                });
                let head =
                    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", page.len());
                let _ = stream.write_all((head + &page).as_bytes());
            }
        });
        Self { address, of }
    }
}

/// In ten seconds Segue's own tolerance is twenty of these, and a look that takes half a second is unsure of fifty.
const CALLERS_PER_SECOND: f64 = 100.0;

/// Requests straight to the source: so many that neither can hide them.
fn past_segue(source: SocketAddr) -> u64 {
    const AT_ONCE: u64 = 16;
    const EACH: u64 = 20;
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| (0..EACH).for_each(|_| drop(get(source, "/"))));
        }
    });
    AT_ONCE * EACH
}

#[test]
fn requests_that_bypass_segue_are_counted_and_those_of_segue_are_not() {
    let exporter = Exporter::start();
    let settings = format!(
        "[services.web.migration]\n\
         bypass = {{ metrics = \"http://{}/metrics\", counter = \"hits_total\", labels = {{ app = \"web\" }} }}\n",
        exporter.address
    );
    let stage = Stage::with(&[], &settings, &crate::stage::SLOW_SOURCE);
    let load = stage.load(CALLERS_PER_SECOND);
    let mut request = stage.request(&[]);
    request["policy"] = json!("manual");
    let id = stage.start(&request);
    stage.until_phase(id, "ready");
    // What cannot be read is said, and is no warning.
    until("the trouble to be told", || {
        let view = stage.migration(id);
        let report = view["report"].as_array().unwrap().clone();
        let of = report.into_iter().find(|of| of["subject"] == "bypass")?;
        assert_eq!(of["gravity"], "not_known", "{view:#}");
        of["message"].as_str().unwrap().contains("has no `hits_total`").then_some(())
    });
    let address = source(&stage);
    *exporter.of.lock().unwrap() = Some(address.parse().unwrap());
    let counted = |view: &serde_json::Value, wanted: fn(u64) -> bool| {
        view["bypass_requests"].as_u64().is_some_and(wanted)
    };
    let look = |wanted: fn(u64) -> bool| {
        until("the requests to be counted", || {
            let view = stage.migration(id);
            counted(&view, wanted).then_some(view)
        })
    };
    // Callers are served all the while, by the same source.
    let quiet = look(|found| found == 0);
    assert!(quiet["report"].as_array().unwrap().iter().all(|of| of["subject"] != "bypass"), "{quiet:#}");

    // Sent all at once they are counted within two looks, as a rule; they are forgotten after ten seconds.
    let address: SocketAddr = address.parse().unwrap();
    let (mut sent, mut again) = (0, Instant::now());
    let seen = until("the requests to be counted", || {
        if again <= Instant::now() {
            sent += past_segue(address);
            again = Instant::now() + Duration::from_secs(12);
        }
        let view = stage.migration(id);
        counted(&view, |found| found > 0).then_some(view)
    });
    let found = seen["bypass_requests"].as_u64().unwrap();
    assert!((11..=sent).contains(&found), "{seen:#}");
    let report = seen["report"].as_array().unwrap();
    let warning = report.iter().find(|of| of["subject"] == "bypass").unwrap();
    assert_eq!(warning["gravity"], "warning");
    assert!(
        warning["message"].as_str().unwrap().contains("requests more than it was sent in 10 s"),
        "{warning}"
    );
    look(|found| found == 0);

    assert_eq!(stage.ask(id, "approve").0, 200);
    stage.until_phase(id, "done");
    let events = events(&stage, id);
    let noted: Vec<_> = events.iter().filter(|of| of["step"] == "bypass_seen").collect();
    // A busy moment may have shown one of the short connections too.
    let requests: Vec<_> = noted.iter().filter_map(|of| of["detail"]["requests"].as_u64()).collect();
    assert_eq!(requests.iter().filter(|count| **count > 0).count(), 1, "{noted:#?}");
    stage.assert_one_instance_is_left("shadow");
    let report = stage.finish(load);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
}
