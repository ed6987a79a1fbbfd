//! The share that is teed is the share that was asked for, to the request, however many workers share
//! the load and whatever rhythm the traffic has.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::Segue;
use crate::support::client::Client;
use crate::support::recorder::Recorder;
use crate::support::tee::{EVERYTHING, count, eligible, origin, set_percent, settled, teed, url};

const REQUESTS: u64 = 5_000;
const CALLERS: u64 = 4;

/// Asks in a rhythm: every `period`-th request is a special one.
fn ask(segue: &Segue, period: u64) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                let mut client = Client::new(segue.address);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= REQUESTS {
                        return;
                    }
                    let target = if number.is_multiple_of(period) { "/item/special" } else { "/item/plain" };
                    assert_eq!(client.get(target).status, 200);
                }
            });
        }
    });
}

fn is_exact(workers: u64) {
    let (source, shadow) = (origin(&[]), Recorder::start());
    let segue =
        Segue::with(&url(&source), Some(&shadow.url()), EVERYTHING, &format!("workers = {workers}\n"));
    let mut before = (0, 0);
    for (round, percent) in [(1, 1.0), (2, 2.0), (3, 5.0), (4, 33.0)] {
        set_percent(&segue, percent);
        shadow.take();
        // As long as a stratum, so that a sampler that counts would take all of them or none.
        let period = (100.0_f64 / percent).round() as u64;
        ask(&segue, period);
        let service = settled(&segue, round * REQUESTS);
        let now = (eligible(&service), teed(&service));
        assert_eq!(now.0 - before.0, REQUESTS);
        let due = REQUESTS as f64 * percent / 100.0;
        let teed = now.1 - before.1;
        assert!((teed as f64 - due).abs() <= 1.0, "{teed} of {REQUESTS} at {percent} %");
        assert_eq!(shadow.count() as u64, teed, "what is counted is what was sent");
        before = now;

        let special = shadow.take().iter().filter(|seen| seen.target == "/item/special").count() as f64;
        // On average the same share of them; the binomial's deviation, six times.
        let expected = due / period as f64;
        let off = 6.0 * (expected * (1.0 - percent / 100.0)).sqrt() + 1.0;
        assert!(
            (special - expected).abs() <= off,
            "{special} special ones at {percent} %, {expected} expected"
        );
    }
    assert_eq!(count(&segue.service(), "/tee/skipped/queue_full"), 0);
}

#[test]
fn with_one_worker() {
    is_exact(1);
}

#[test]
fn with_two_workers() {
    is_exact(2);
}

#[test]
fn at_zero_nothing_is_teed() {
    let (source, shadow) = (origin(&[]), Recorder::start());
    let segue = Segue::with(&url(&source), Some(&shadow.url()), "tee = { percent = 0 }", "");
    let mut client = Client::new(segue.address);
    (0..200).for_each(|_| assert_eq!(client.get("/").status, 200));
    let service = settled(&segue, 200);
    assert_eq!((count(&service, "/tee/skipped/off"), shadow.count()), (200, 0));
}
