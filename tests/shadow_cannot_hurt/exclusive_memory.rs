//! Segue's memory while a shadow takes everything and gives nothing back, or far too much.
//!
//! The same process is measured twice under the same load: first with the tee off, which warms it up,
//! then with it on. mimalloc gives memory back late, so the highest of many readings counts in both
//! halves, and the growth can only be overstated.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use segue::config::Endpoint;
use segue::load::{Load, LoadSettings};

use crate::support::Segue;
use crate::support::client::Client;
use crate::support::tee::{Wrong, count, origin, set_percent, url};

/// Twice what is aimed at: this build is not optimised, and allocators differ.
const MOST: u64 = 16 << 20;
const CALLERS: usize = 64;
/// Rate and breaker stay out of the way; concurrency, connections and bytes held are the defaults.
const TEE: &str = "tee = { percent = 100, allow_above_5_percent = true, max_requests_per_second = 1000000, \
    max_bytes_per_second = \"4095 MiB\", breaker_after = 0 }";

fn highest(segue: &Segue, for_long: Duration) -> u64 {
    let end = Instant::now() + for_long;
    let mut highest = 0;
    while Instant::now() < end {
        highest = highest.max(segue.memory());
        std::thread::sleep(Duration::from_millis(5));
    }
    highest
}

/// Opens as many connections as the load may come to need, on both sides, so that a busy moment later
/// is not taken for the tee's doing.
fn crowd(segue: &Segue) {
    let together = Barrier::new(CALLERS);
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                let mut client = Client::new(segue.address);
                for _ in 0..5 {
                    together.wait();
                    assert_eq!(client.get("/bytes/16000").status, 200);
                }
            });
        }
    });
}

fn stays_bounded(fault: &str) {
    let (source, shadow) = (origin(&[]), Wrong::shadow(fault));
    let segue = Segue::with(&url(&source), Some(&shadow.url), TEE, "");
    set_percent(&segue, 0.0);
    let target: Endpoint = segue.url().parse().unwrap();
    crowd(&segue);
    let settings = LoadSettings { max_connections: CALLERS, ..LoadSettings::new(target, 500.0) };
    let load = Load::start(settings).unwrap();
    let before = highest(&segue, Duration::from_secs(2));
    set_percent(&segue, 100.0);
    let during = highest(&segue, Duration::from_secs(3));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(load.finish()).unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.failures);

    let service = segue.service();
    assert!(count(&service, "/tee/sampled") > 500, "{:#}", service["tee"]);
    let grown = during.saturating_sub(before);
    println!("{fault}: {before} bytes without, {grown} more with the tee");
    assert!(grown < MOST, "grew by {grown} bytes, from {before}");
}

#[test]
fn of_a_hung_shadow() {
    stays_bounded("hang");
}

#[test]
fn of_a_shadow_that_hangs_after_accept() {
    stays_bounded("hang-after-accept");
}

#[test]
fn of_an_endless_answer() {
    stays_bounded("endless-body");
}

#[test]
fn of_a_gigabyte() {
    stays_bounded("huge-body=1GiB");
}
