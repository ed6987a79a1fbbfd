//! Every answer is counted once, however many workers recorded it and however often anybody looked.

use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use serde_json::Value;

use crate::support::Segue;
use crate::support::client::Client;
use crate::support::tee::{EVERYTHING, count, origin, settled, url};

const CALLERS: u64 = 6;
const EACH: u64 = 400;
const ALL: u64 = CALLERS * EACH;

fn latency(segue: &Segue) -> Value {
    let (status, latency) = segue.call("GET", "/v1/services/web/latency", "");
    assert_eq!(status, 200);
    latency
}

#[test]
fn looking_neither_loses_nor_doubles_anything() {
    let (source, shadow) = (origin(&[]), origin(&[]));
    let segue = Segue::with(&url(&source), Some(&url(&shadow)), EVERYTHING, "workers = 2\n");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let (mut looks, mut last) = (0_u64, 0);
            while !over.load(Ordering::Relaxed) {
                // Every look takes what the workers have gathered.
                let now = count(&latency(&segue), "/source/count");
                assert!(now >= last && now <= ALL, "{now} after {last}");
                last = now;
                segue.service();
                assert_eq!(segue.call("GET", "/metrics", "").0, 200);
                looks += 1;
            }
            looks
        });
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let segue = &segue;
                scope.spawn(move || {
                    let mut client = Client::new(segue.address);
                    for n in 0..EACH {
                        let status = if n % 8 == 0 { 404 } else { 200 };
                        assert_eq!(client.get(&format!("/status/{status}?{caller}")).status, status);
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
        over.store(true, Ordering::Relaxed);
        assert!(looking.join().unwrap() > 5);
    });
    let service = settled(&segue, ALL);
    let requests = service["requests"].as_array().unwrap();
    let of = |code: u64| {
        let of_code = requests.iter().filter(|one| one["code"] == code);
        of_code.map(|one| one["count"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!((of(200), of(404)), (ALL * 7 / 8, ALL / 8));

    let view = latency(&segue);
    assert_eq!(count(&view, "/source/count"), ALL);
    assert_eq!(count(&view, "/first_byte/source/count"), ALL);
    let answered = count(&service, "/pairs/verdicts/match");
    assert_eq!(count(&view, "/shadow/count"), answered);
    assert_eq!(shadow.seen().total - count(&service, "/tee/stale_retries"), count(&service, "/tee/teed"));
    assert_eq!((count(&view, "/reverse/source/count"), count(&view, "/reverse/shadow/count")), (0, 0));

    // The export is the same histogram, to the last count.
    let (status, exported) = segue.call("GET", "/v1/services/web/latency?format=hdr", "");
    assert_eq!(status, 200);
    for side in ["source", "shadow"] {
        let text = exported[side].as_str().unwrap();
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
        let decoded: Histogram<u64> = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
        assert_eq!(decoded.len(), count(&view, &format!("/{side}/count")), "{side}");
        for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)] {
            let shown = count(&view, &format!("/{side}/{name}"));
            assert_eq!(decoded.value_at_quantile(quantile), shown, "{name} of the {side}");
        }
        assert_eq!(decoded.max(), count(&view, &format!("/{side}/max")));
    }
}
