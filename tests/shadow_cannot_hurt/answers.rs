//! Callers' bytes and status, whatever the shadow does.

use crate::support::client::{Ask, Client};
use crate::support::tee::{EVERYTHING, Wrong, eligible, origin, set_percent, settled, url};
use crate::support::{Answer, Segue};

/// Answers of every kind; the same request has the same answer each time.
fn asks() -> Vec<Ask> {
    let search = |body: &str| Ask::new("POST", "/echo").carrying("application/json", body);
    vec![
        Ask::get("/"),
        Ask::get("/bytes/100000"),
        Ask::get("/bytes/3000000"),
        Ask::get("/bytes/0"),
        Ask::get("/bytes/5000").with("range", "bytes=10-99"),
        Ask::get("/item/7?size=large&q=%C3%A9"),
        Ask::new("HEAD", "/bytes/1000"),
        Ask::new("OPTIONS", "/echo"),
        Ask::get("/etag"),
        Ask::get("/etag").with("if-none-match", "\"segue-1\""),
        Ask::get("/status/404"),
        Ask::get("/status/500"),
        Ask::get("/stream/5/1"),
        // Read from their bodies, and so copied on the way.
        search("{\"query\":{\"match_all\":{}}}"),
        search(&format!("{{\"query\":\"{}\"}}", "x".repeat(30_000))),
        // Writes, which stay away from the shadow.
        Ask::new("POST", "/upload").carrying("application/octet-stream", vec![7; 200_000]),
        Ask::new("PUT", "/upload").carrying("text/plain", "small"),
        // What the instance itself is told.
        Ask::get("/headers").with("x-mine", "1").with("cookie", "sid=1"),
    ]
}

const SEARCH: &str = "classify = { search = [\"/echo\"] }";

/// Everything but the time of day.
fn plain(answer: &Answer) -> (u16, Vec<String>, Vec<u8>) {
    let head = answer.head.lines().skip(1).filter(|line| !line.starts_with("date:"));
    (answer.status, head.map(str::to_owned).collect(), answer.body.clone())
}

fn ask_all(segue: &Segue, asks: &[Ask]) -> Vec<Answer> {
    let mut client = Client::new(segue.address);
    asks.iter().map(|ask| client.ask(ask)).collect()
}

fn same(expected: &[Answer], got: &[Answer], asks: &[Ask]) {
    for ((expected, got), ask) in expected.iter().zip(got).zip(asks) {
        let (expected, got) = (plain(expected), plain(got));
        assert_eq!((expected.0, &expected.1), (got.0, &got.1), "{} {}", ask.method, ask.target);
        assert!(expected.2 == got.2, "the body of {} {} is another one", ask.method, ask.target);
    }
}

const CALLERS: u64 = 3;
const ROUNDS: u64 = 3;

fn callers_notice_nothing(fault: &str) {
    let (source, shadow) = (origin(&[]), Wrong::shadow(fault));
    let segue = Segue::with(&url(&source), Some(&shadow.url), &format!("{EVERYTHING}\n{SEARCH}"), "");
    let asks = asks();
    set_percent(&segue, 0.0);
    let without = ask_all(&segue, &asks);
    // Segue itself changes neither status nor body; the last one shows what Segue adds to a request.
    let mut direct = Client::new(source.addr().unwrap());
    for (ask, through) in asks.iter().zip(&without).rev().skip(1) {
        let answer = direct.ask(ask);
        assert!((answer.status, &answer.body) == (through.status, &through.body), "{}", ask.target);
    }

    set_percent(&segue, 100.0);
    let before = source.seen().total;
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    same(&without, &ask_all(&segue, &asks), &asks);
                }
            });
        }
    });
    let asked = asks.len() as u64;
    assert_eq!(source.seen().total - before, CALLERS * ROUNDS * asked, "each request once");
    let service = settled(&segue, (CALLERS * ROUNDS + 1) * asked);
    // All but the two writes, and nothing was left out by the sampling.
    assert_eq!(eligible(&service), CALLERS * ROUNDS * (asked - 2), "{:#}", service["tee"]);
    assert_eq!(service["caller_left"], 0);
    if let Some(shadow) = &shadow.instance {
        // Reads that POST are meant to come; a PUT is not.
        assert_eq!(shadow.seen().by_method.get("PUT"), None);
    }
}

/// The same at the rate and the limits that one gets without asking.
fn callers_notice_nothing_by_default(fault: &str) {
    let (source, shadow) = (origin(&[]), Wrong::shadow(fault));
    let segue = Segue::with(&url(&source), Some(&shadow.url), "tee = { deadline = \"1s\" }", "");
    let asks = asks();
    let first = ask_all(&segue, &asks);
    let rounds = 12;
    for _ in 0..rounds {
        same(&first, &ask_all(&segue, &asks), &asks);
    }
    let asked = (rounds + 1) * asks.len() as u64;
    assert_eq!(source.seen().total, asked, "each request once");
    let service = settled(&segue, asked);
    let (eligible, sampled) = (eligible(&service), service["tee"]["sampled"].as_u64().unwrap());
    assert!(sampled.abs_diff(eligible * 2 / 100) <= 1, "{sampled} of {eligible}");
}

macro_rules! whatever_it_does {
    ($($name:ident: $fault:literal,)*) => {$(
        mod $name {
            #[test]
            fn at_a_hundred_percent() {
                super::callers_notice_nothing($fault);
            }

            #[test]
            fn by_default() {
                super::callers_notice_nothing_by_default($fault);
            }
        }
    )*};
}

whatever_it_does! {
    dead: "dead",
    refusing: "refuse",
    hung_after_accept: "hang-after-accept",
    hung: "hang",
    hung_after_header: "hang-after-header",
    slow: "slow=10s",
    endless: "endless-body",
    huge: "huge-body=1GiB",
    malformed: "malformed",
    reset: "reset",
    truncated: "truncate",
    failing: "error=503",
    lying: "wrong-body",
}
