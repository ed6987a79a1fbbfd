//! Several endpoints of one instance: the load is spread, and a dead one fails nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::raw::{RawOrigin, Reply, Wire};
use crate::support::{Segue, free_port, get, until};

fn behind(endpoints: &[String], more: &str) -> Segue {
    let list = endpoints.iter().map(|url| format!("\"{url}\"")).collect::<Vec<_>>().join(", ");
    Segue::from_text(&format!("[services.web]\nsource = {{ endpoints = [{list}] }}\n{more}\n"))
}

#[test]
fn the_load_is_spread_and_the_slow_one_gets_less() {
    let fast: Vec<RawOrigin> = (0..2).map(|_| RawOrigin::start()).collect();
    let slow = RawOrigin::answering(|_| {
        std::thread::sleep(Duration::from_millis(100));
        Reply::ok("late")
    });
    let segue = behind(&[fast[0].url(), slow.url(), fast[1].url()], "");
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let mut wire = Wire::open(segue.address);
                for _ in 0..40 {
                    assert_eq!(wire.get("/").status, 200);
                }
            });
        }
    });
    let heard = [fast[0].heard().len(), fast[1].heard().len(), slow.heard().len()];
    assert_eq!(heard.iter().sum::<usize>(), 480);
    assert!(heard[0] > 80 && heard[1] > 80, "both take their share: {heard:?}");
    assert!(heard[2] < heard[0].min(heard[1]), "the slow one is asked less often: {heard:?}");
}

#[test]
fn a_dead_endpoint_fails_nobody() {
    let alive = RawOrigin::start();
    let dead = format!("http://127.0.0.1:{}", free_port());
    let segue = behind(&[dead, alive.url()], "");
    for n in 0..200 {
        let answer = if n % 2 == 0 {
            get(segue.address, "/")
        } else {
            crate::support::request(
                segue.address,
                "POST / HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 2\r\n\r\nab",
            )
        };
        assert_eq!(answer.status, 200, "request {n}: {}", answer.text());
    }
    assert_eq!(alive.heard().len(), 200);
}

#[test]
fn an_endpoint_that_keeps_failing_is_ejected_and_tried_again() {
    let fails = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&fails);
    let failing = RawOrigin::answering(move |_| {
        if told.load(Ordering::Relaxed) {
            Reply::Send(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_vec())
        } else {
            Reply::ok("well again")
        }
    });
    let good = RawOrigin::start();
    let segue = behind(&[failing.url(), good.url()], "upstream = { eject_after = 3, eject_for = \"1s\" }\n");
    until("the endpoint to fail often enough", || {
        get(segue.address, "/");
        (failing.heard().len() >= 3).then_some(())
    });
    let before = failing.heard().len();
    for _ in 0..30 {
        assert_eq!(get(segue.address, "/").status, 200, "it is left alone");
    }
    assert!(failing.heard().len() <= before, "it was ejected");
    fails.store(false, Ordering::Relaxed);
    until("it to be tried again", || (get(segue.address, "/").text() == "well again").then_some(()));
}

#[test]
fn health_checks_take_an_endpoint_out_and_back() {
    let sick = Arc::new(AtomicBool::new(false));
    let checks = Arc::new(AtomicUsize::new(0));
    let (told, counted) = (Arc::clone(&sick), Arc::clone(&checks));
    let patient = RawOrigin::answering(move |heard| {
        if heard.line().contains("/healthz") {
            counted.fetch_add(1, Ordering::Relaxed);
            if told.load(Ordering::Relaxed) {
                return Reply::Send(b"HTTP/1.1 500 Ill\r\ncontent-length: 0\r\n\r\n".to_vec());
            }
        }
        Reply::ok("patient")
    });
    let other = RawOrigin::answering(|_| Reply::ok("other"));
    let segue = behind(
        &[patient.url(), other.url()],
        "upstream = { health = { path = \"/healthz\", interval = \"50ms\", timeout = \"2s\", healthy_after = 2, unhealthy_after = 2 } }\n",
    );
    let healthy = |segue: &Segue| {
        let endpoints = segue.service()["endpoints"].as_array().unwrap().clone();
        endpoints.iter().filter(|endpoint| endpoint["healthy"] == true).count()
    };
    until("both to be checked", || (checks.load(Ordering::Relaxed) > 2).then_some(()));
    assert_eq!(healthy(&segue), 2);
    sick.store(true, Ordering::Relaxed);
    until("it to be out", || (healthy(&segue) == 1).then_some(()));
    for _ in 0..30 {
        assert_eq!(get(segue.address, "/").text(), "other");
    }
    sick.store(false, Ordering::Relaxed);
    until("it to be back", || (healthy(&segue) == 2).then_some(()));
    until("it to be used", || (get(segue.address, "/").text() == "patient").then_some(()));
}
