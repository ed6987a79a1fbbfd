//! What the shadow is sent, and how long it is waited for.

use std::io::Write as _;
use std::net::Shutdown;
use std::sync::{Arc, Barrier};

use crate::support::client::{Ask, Client, connect};
use crate::support::recorder::{Recorded, Recorder, ok};
use crate::support::tee::{EVERYTHING, count, settled, teed, verdicts};
use crate::support::{Segue, until};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn both(ask: &Ask) -> (Recorded, Recorded) {
    let (source, shadow) = (Recorder::start(), Recorder::start());
    let segue = Segue::with(&source.url(), Some(&shadow.url()), EVERYTHING, "");
    assert_eq!(Client::new(segue.address).ask(ask).status, 200);
    let service = settled(&segue, 1);
    assert_eq!(verdicts(&service, "match"), 1, "{service:#}");
    (source.take().remove(0), shadow.take().remove(0))
}

#[test]
fn is_the_callers_request_marked_as_a_copy() {
    let target = "/a%20b/c?x=%7E&y=1&&z";
    let ask = Ask::get(target)
        .with("accept-encoding", "br, gzip")
        .with("x-many", "1")
        .with("x-many", "2")
        .with("cookie", "sid=abc")
        .with("traceparent", TRACE)
        .with("tracestate", "vendor=1")
        .with("segue-tee", "noise")
        .with("Segue-Role", "source")
        .with("connection", "x-hop")
        .with("x-hop", "1")
        .with("te", "trailers");
    let (source, shadow) = both(&ask);
    for side in [&source, &shadow] {
        assert_eq!((side.method.as_str(), side.target.as_str()), ("GET", target));
        assert_eq!(side.header("host"), Some("shop.example:8080"));
        assert_eq!(side.header("accept-encoding"), Some("br, gzip"));
        assert_eq!(side.header("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(side.header("segue-role"), None, "a caller's own are removed");
        assert_eq!(side.header("x-hop"), None);
    }
    assert_eq!((source.header("segue-tee"), shadow.header("segue-tee")), (None, Some("shadow")));
    assert_eq!(source.header("traceparent"), Some(TRACE));

    // A trace of its own, which nobody records.
    let own: Vec<&str> = shadow.header("traceparent").unwrap().split('-').collect();
    assert_eq!((own[0], own[1].len(), own[2].len(), own[3]), ("00", 32, 16, "00"));
    assert_ne!(own[1], TRACE.split('-').nth(1).unwrap());
    assert_eq!(shadow.header("tracestate"), None);

    // In everything else the two are the same, in the same order.
    let rest = |side: &Recorded| {
        let own = ["segue-tee", "traceparent", "tracestate"];
        side.headers.iter().filter(|(name, _)| !own.contains(&name.as_str())).cloned().collect::<Vec<_>>()
    };
    assert_eq!(rest(&source), rest(&shadow));
}

#[test]
fn has_a_trace_of_its_own_where_the_caller_has_none() {
    let (source, shadow) = both(&Ask::get("/"));
    assert_eq!(source.header("traceparent"), None);
    assert!(shadow.header("traceparent").unwrap().ends_with("-00"));
}

#[test]
fn goes_on_when_the_caller_leaves() {
    // The source answers when the caller has gone, with more than the sockets between them hold; the
    // shadow only when that has been noticed.
    let (source_may, shadow_may) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let waits = |may: &Arc<Barrier>, answer: Vec<u8>| {
        let may = Arc::clone(may);
        move |_: &Recorded| {
            may.wait();
            Some(answer.clone())
        }
    };
    let source = Recorder::answering(waits(&source_may, ok(&"long".repeat(8 << 20))));
    let shadow = Recorder::answering(waits(&shadow_may, ok("late")));
    let deadline = EVERYTHING.replace("\"1s\"", "\"30s\"");
    let segue = Segue::with(&source.url(), Some(&shadow.url()), &deadline, "");
    let mut stream = connect(segue.address);
    stream.write_all(&Ask::get("/left").bytes()).unwrap();
    until("both instances to have the request", || (source.count() + shadow.count() == 2).then_some(()));
    stream.shutdown(Shutdown::Both).unwrap();
    drop(stream);
    source_may.wait();
    until("the caller's leaving to be noticed", || (segue.service()["in_flight"] == 0).then_some(()));
    // Time for a tee that lets go with its caller to do so; one that does not needs none.
    std::thread::sleep(std::time::Duration::from_millis(200));
    shadow_may.wait();

    let service = settled(&segue, 1);
    assert_eq!((teed(&service), verdicts(&service, "source_aborted")), (1, 1), "{service:#}");
    assert_eq!(count(&service, "/pairs/mismatched"), 0);
    let (_, pairs) = segue.call("GET", "/v1/services/web/pairs", "");
    assert!(pairs["pairs"][0]["shadow"]["last_byte_us"].is_u64(), "the shadow was heard out: {pairs:#}");
}

#[test]
fn is_sent_once_more_when_its_connection_had_been_closed() {
    // Closes a connection when its second request comes, as a server does that had just timed it out.
    let shadow = Recorder::answering(|request| (request.place == 0).then(|| ok("recorded")));
    let source = Recorder::start();
    let segue = Segue::with(&source.url(), Some(&shadow.url()), EVERYTHING, "");
    let mut client = Client::new(segue.address);
    for asked in 1..=5 {
        assert_eq!(client.get("/").status, 200);
        settled(&segue, asked);
        // Longer than a connection in use rests: only then can it have been closed meanwhile.
        std::thread::sleep(std::time::Duration::from_millis(40));
    }
    let service = settled(&segue, 5);
    assert_eq!(verdicts(&service, "match"), 5, "no false error: {service:#}");
    // The first has a new connection, and so has each retry; every other request meets an old one.
    assert_eq!(count(&service, "/tee/stale_retries"), 4);
    assert_eq!(shadow.count(), 9);
    assert_eq!(source.count(), 5);
}

#[test]
fn is_not_repeated_for_ever() {
    let shadow = Recorder::answering(|_| None);
    let source = Recorder::start();
    let segue = Segue::with(&source.url(), Some(&shadow.url()), EVERYTHING, "");
    let mut client = Client::new(segue.address);
    (0..5).for_each(|_| assert_eq!(client.get("/").status, 200));
    let service = settled(&segue, 5);
    assert_eq!(verdicts(&service, "shadow_error"), 5, "{service:#}");
    assert!(shadow.count() <= 10);
}
