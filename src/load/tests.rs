//! Loads against the sample application.

use super::*;
use crate::config::{Address, Target};
use crate::origin::{Fault, Origin, OriginSettings, Running};

fn origin(faults: &[&str]) -> Running {
    let mut settings = OriginSettings::on_loopback();
    settings.faults = faults.iter().map(|text| text.parse::<Fault>().unwrap()).collect();
    settings.grace = Duration::ZERO;
    Origin::start(settings).unwrap()
}

fn endpoint(origin: &Running, scheme: Scheme) -> Endpoint {
    let target = match origin.address() {
        Address::Tcp(address) => Target::Host { name: address.ip().to_string(), port: address.port() },
        Address::Unix(path) => Target::Unix(path.clone()),
    };
    Endpoint { scheme, target }
}

fn settings(origin: &Running) -> LoadSettings {
    let mut settings = LoadSettings::new(endpoint(origin, Scheme::Http), 1000.0);
    settings.duration = Some(Duration::from_millis(500));
    settings.write_share = 0.3;
    settings
}

#[tokio::test]
async fn counts_are_those_of_the_application() {
    let origin = origin(&[]);
    let report = Load::run(settings(&origin)).await.unwrap();
    let due = Arrivals::new(1, 1000.0, 0.3).take_while(|arrival| arrival.due < Duration::from_millis(500));
    assert_eq!(report.sent, due.count() as u64);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    let seen = origin.seen();
    assert_eq!((report.reads, report.writes), (seen.by_method["GET"], seen.by_method["POST"]));
    assert_eq!(report.sent, seen.total);
    assert_eq!(report.acknowledged.len() as u64, report.writes);
    assert_eq!(report.latency.len(), report.sent);
    assert_eq!(audit(&report, &origin.ledger().unwrap()), Audit::default());
}

#[tokio::test]
async fn http2_and_unix_sockets_carry_it_too() {
    let http2 = origin(&[]);
    let mut settings_http2 = settings(&http2);
    settings_http2.target.scheme = Scheme::H2c;
    settings_http2.max_connections = 2;
    let report = Load::run(settings_http2).await.unwrap();
    assert_eq!((report.failed, report.sent), (0, http2.seen().total), "{:?}", report.failures);

    let folder = tempfile::tempdir().unwrap();
    let unix = Origin::start(OriginSettings::new(Address::Unix(folder.path().join("app.sock")))).unwrap();
    let report = Load::run(settings(&unix)).await.unwrap();
    assert_eq!((report.failed, report.sent), (0, unix.seen().total), "{:?}", report.failures);
}

#[tokio::test]
async fn every_kind_of_failure_counts_once_and_says_why() {
    for (fault, reason) in [
        ("error=503@10", "503"),
        ("reset@10", "broke off"),
        ("truncate@10", "broke off"),
        ("malformed@10", "no answer"),
        ("wrong-body@10", "not what was asked for"),
    ] {
        let origin = origin(&[fault]);
        let mut settings = settings(&origin);
        settings.write_share = 0.0;
        let report = Load::run(settings).await.unwrap();
        assert_eq!(report.failed, origin.seen().total / 10, "{fault}");
        assert_eq!(report.sent, origin.seen().total, "{fault}");
        assert!(report.failures[0].reason.contains(reason), "{:?}", report.failures[0]);
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_fails_every_request() {
    let origin = origin(&["refuse"]);
    let report = Load::run(settings(&origin)).await.unwrap();
    assert!(report.sent > 0);
    assert_eq!(report.failed, report.sent);
    assert!(report.failures[0].reason.contains("cannot connect"));
}

/// The application closes connections at its leisure; whoever uses one again must not fail for it.
#[tokio::test]
async fn connections_that_end_in_order_fail_nothing() {
    let mut with_closing = OriginSettings::on_loopback();
    with_closing.keep_alive_requests = NonZeroU64::new(3);
    let origin = Origin::start(with_closing).unwrap();
    let report = Load::run(settings(&origin)).await.unwrap();
    assert_eq!((report.failed, report.sent), (0, origin.seen().total), "{:?}", report.failures);
}

#[tokio::test]
async fn the_audit_finds_what_was_lost_and_what_was_doubled() {
    // A third of the answers to writes never arrive, though the writes are taken.
    let origin = origin(&["reset@33"]);
    let mut settings = settings(&origin);
    settings.write_share = 1.0;
    let report = Load::run(settings).await.unwrap();
    let mut ledger = origin.ledger().unwrap();
    let honest = audit(&report, &ledger);
    assert!(honest.is_exact());
    assert_eq!(honest.unacknowledged_present.len(), report.uncertain.len());
    assert_eq!(report.uncertain.len() as u64, report.failed);

    let (lost, doubled) = (report.key(report.acknowledged[0]), report.key(report.acknowledged[1]));
    ledger.remove(&lost);
    ledger.insert(doubled.clone(), 2);
    ledger.insert("of another run".into(), 5);
    let found = audit(&report, &ledger);
    assert!(!found.is_exact());
    assert_eq!((found.lost, found.doubled), (vec![lost], vec![doubled]));
    // An unacknowledged write that was taken twice is no less wrong.
    let uncertain = report.key(report.uncertain[0]);
    ledger.insert(uncertain.clone(), 2);
    assert!(audit(&report, &ledger).doubled.contains(&uncertain));
}

/// The property that makes it an open loop: a stall is met by all who come due during it, each for
/// as long as is left of it. A closed loop would report it once per connection.
#[tokio::test]
async fn a_stall_shows_in_the_latency_of_all_who_came_due() {
    let stall = Duration::from_millis(300);
    let origin = origin(&[]);
    let mut settings = settings(&origin);
    settings.duration = None;
    settings.max_connections = 4;
    let mut load = Load::start(settings).unwrap();
    let live = Arc::clone(load.live());
    let until = |done: u64| {
        while live.done() < done {
            let sent = live.sent();
            assert!(sent.saturating_sub(live.done()) <= 4, "more exchanges at once than connections");
            std::thread::yield_now();
        }
    };
    until(100);
    live.take_interval();
    origin.set_faults(&["slow=300ms".parse().unwrap()]).unwrap();
    // At most four were under way, one to a connection; by eight more each connection has met the
    // stall, and who came due meanwhile had to wait for one.
    until(live.done() + 8);
    origin.set_faults(&[]).unwrap();
    until(live.done() + 600);
    load.stop();
    let report = load.finish().await.unwrap();
    assert_eq!(report.failed, 0);
    let stall = stall.as_micros() as f64;
    let slow = report.sent - report.latency.count_between(0, stall as u64 / 2);
    assert!(slow > 40, "only {slow} of {} requests met the stall", report.sent);
    assert!(report.latency.value_at_quantile(0.99) as f64 > 0.7 * stall);
    assert!(report.slowest.unwrap().latency.as_micros() as f64 >= stall);
}

#[tokio::test]
async fn stopping_ends_the_sending_and_not_the_exchanges() {
    let origin = origin(&["slow=100ms"]);
    let mut settings = settings(&origin);
    settings.duration = None;
    let load = Load::start(settings).unwrap();
    while load.live().sent() < 10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(load.live().done(), 0);
    let report = load.finish().await.unwrap();
    assert_eq!((report.failed, report.sent), (0, origin.seen().total));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let target = Endpoint { scheme: Scheme::Http, target: Target::Host { name: "::1".into(), port: 1 } };
    let refused = |change: fn(&mut LoadSettings)| {
        let mut settings = LoadSettings::new(target.clone(), 10.0);
        change(&mut settings);
        Load::start(settings).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(refused(|settings| settings.rate_per_second = 0.0).contains("above 0"));
    assert!(refused(|settings| settings.write_share = 1.5).contains("0 to 1"));
    assert!(refused(|settings| settings.target.scheme = Scheme::Https).contains("https"));
    assert!(refused(|settings| settings.reads = Reads::Paths(vec![])).contains("at least one"));
}
