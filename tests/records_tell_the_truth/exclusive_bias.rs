//! A/A: source and shadow are the same instance, so whatever difference their pairs show is the
//! measuring's own. Taken at about half and at nine tenths of what this machine does with everything on
//! it: load, proxy and instance.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use segue::config::Endpoint;
use segue::load::{Load, LoadSettings};
use segue::origin::{Origin, OriginSettings, Running};
use serde_json::Value;

use crate::support::Segue;
use crate::support::client::Client;
use crate::support::tee::{set_percent, url};

/// Of computing for each request, as a light application does.
const WORK: Duration = Duration::from_micros(300);
const PERCENT: f64 = 5.0;
const CALLERS: usize = 8;

/// Both legs are sent by code of the same kind, started together. What is left is who of the two is
/// woken first: a fraction of a request's own time, and never that of a second connect or of a queue.
const MOST_AT_HALF: f64 = 0.5;
const MOST_AT_NINE_TENTHS: f64 = 1.0;

fn capacity(segue: &Segue) -> f64 {
    let lasting = Duration::from_secs(2);
    let start = Instant::now();
    let asked: u64 = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Client::new(segue.address);
                    let mut asked = 0;
                    while start.elapsed() < lasting {
                        client.get("/item/1");
                        asked += 1;
                    }
                    asked
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).sum()
    });
    asked as f64 / start.elapsed().as_secs_f64()
}

/// First bytes of both sides, by pair, in µs.
fn pairs_at(segue: &Segue, rate: f64) -> Vec<(f64, f64)> {
    let newest = || {
        let (_, pairs) = segue.call("GET", "/v1/services/web/pairs?limit=256", "");
        pairs["pairs"].as_array().unwrap().clone()
    };
    let start = newest().first().and_then(|pair| pair["id"].as_u64()).unwrap_or(0);
    let target: Endpoint = segue.url().parse().unwrap();
    let settings = LoadSettings {
        write_share: 0.0,
        max_connections: 64,
        duration: Some(Duration::from_secs(8)),
        ..LoadSettings::new(target, rate)
    };
    let load = Load::start(settings).unwrap();
    let mut found = BTreeMap::<u64, (f64, f64)>::new();
    let end = Instant::now() + Duration::from_secs(8);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(500));
        let first_byte = |pair: &Value, side: &str| pair[side]["first_byte_us"].as_f64();
        for pair in newest() {
            let id = pair["id"].as_u64().unwrap();
            if let (Some(source), Some(shadow)) = (first_byte(&pair, "source"), first_byte(&pair, "shadow"))
                && id > start
            {
                found.insert(id, (source, shadow));
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(load.finish()).unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    found.into_values().collect()
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

fn same_instance() -> Running {
    Origin::start(OriginSettings { cpu: WORK, ..OriginSettings::on_loopback() }).unwrap()
}

#[test]
fn the_same_instance_on_both_sides_shows_no_difference_of_weight() {
    let instance = same_instance();
    let tee = "tee = { percent = 5, max_concurrency = 1000, max_requests_per_second = 100000 }";
    let segue = Segue::with(&url(&instance), Some(&url(&instance)), tee, "");
    set_percent(&segue, 0.0);
    let capacity = capacity(&segue);
    set_percent(&segue, PERCENT);
    for (share, most) in [(0.5, MOST_AT_HALF), (0.9, MOST_AT_NINE_TENTHS)] {
        // The tee is a part of the load.
        let pairs = pairs_at(&segue, capacity * share / (1.0 + PERCENT / 100.0));
        assert!(pairs.len() > 50, "only {} pairs", pairs.len());
        let source = median(pairs.iter().map(|pair| pair.0).collect());
        let difference = median(pairs.iter().map(|pair| pair.1 - pair.0).collect());
        let ratio = difference / source;
        println!(
            "A/A at {:.0} % of {capacity:.0}/s: {} pairs, source's median first byte {source:.0} µs, \
             median difference {difference:+.0} µs, {:+.1} %",
            share * 100.0,
            pairs.len(),
            ratio * 100.0
        );
        assert!(ratio.abs() <= most, "the shadow looks {:.0} % slower than itself", ratio * 100.0);
    }
}
