//! What each decision of the hot path costs by itself, in nanoseconds.
//!
//! Good for comparing two versions of one function; what a request costs in all is measured by `peers`, mostly in
//! the kernel, and counted by `scripts/count-instructions`.

use std::hint::black_box;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use futures_util::FutureExt as _;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use segue::config::{Classify, InstanceName, Percent, Tee};
use segue::http1::{self, Headers};
use segue::proxy::classify::{Class, Classifier, Head};
use segue::proxy::forward::{Forwarding, Scan, edit_answer, edit_request};
use segue::proxy::gate::Gate;
use segue::proxy::gate::local::ParkLimits;
use segue::proxy::route::Router;
use segue::record::{Direction, Exchange, Recorder, Side};
use segue::tee::sample::{Sampler, Selection};

criterion_group!(hot_path, route, classify, sample, admit, edit, record);
criterion_main!(hot_path);

const PATH: &str = "/catalogue/items/4711/reviews";

/// What a browser sends.
fn headers() -> HeaderMap {
    map([
        ("host", "www.example.com"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("accept-language", "en-GB,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br"),
        ("cookie", "sid=0123456789abcdef; theme=dark"),
        ("cache-control", "no-cache"),
    ])
}

/// What an application server answers.
fn answer_headers() -> HeaderMap {
    map([
        ("content-type", "text/html; charset=utf-8"),
        ("content-length", "18211"),
        ("date", "Mon, 03 Mar 2025 10:11:12 GMT"),
        ("etag", "\"5e8c-62f1\""),
        ("cache-control", "private, max-age=60"),
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
    ])
}

fn map<const N: usize>(lines: [(&'static str, &'static str); N]) -> HeaderMap {
    lines
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .into_iter()
        .collect()
}

/// Ten thousand services must cost what one costs.
fn route(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for services in [1, 10_000] {
        let named: Vec<(Vec<String>, Vec<String>)> = (0..services)
            .map(|n| (vec![format!("h{}.example.com", n / 10)], vec![format!("/catalogue/{}", n % 10)]))
            .collect();
        let router = Router::new(named.iter().map(|(hosts, paths)| (hosts.as_slice(), paths.as_slice())));
        group.bench_function(format!("{services} services"), |bencher| {
            bencher.iter(|| router.find(black_box("h0.example.com"), black_box("/catalogue/0/4711/reviews")));
        });
    }
    group.finish();
}

fn classify(criterion: &mut Criterion) {
    let Ok(classifier) = Classifier::new(&Classify::default(), None) else { return };
    let mut group = criterion.benchmark_group("classify");
    let headers = headers();
    for (name, method, target, has_body) in [
        ("GET", Method::GET, PATH, false),
        ("GET with a query", Method::GET, "/search?q=red+shoes&page=2&sort=price", false),
        ("POST", Method::POST, "/orders", true),
    ] {
        let uri = Uri::from_static(target);
        let head = Head { method: &method, uri: &uri, host: "www.example.com", headers: &headers, has_body };
        group.bench_function(name, |bencher| bencher.iter(|| classifier.head(black_box(&head))));
    }
    group.finish();
}

fn sample(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sample");
    let sampler = Sampler::new(Percent::FIVE, 1);
    group.bench_function("request", |bencher| bencher.iter(|| black_box(&sampler).pick()));
    let tee = Tee {
        sampling: segue::config::Sampling::Session(segue::config::SessionKey::Cookie("sid".into())),
        ..Tee::default()
    };
    if let Ok(selection) = Selection::new(&tee, 1) {
        let (headers, client) = (headers(), IpAddr::from([127, 0, 0, 1]));
        group.bench_function("session by cookie", |bencher| {
            bencher.iter(|| selection.choose(black_box(&headers), Some(client)));
        });
    }
    group.finish();
}

/// In and out again, alone and among a thousand others.
fn admit(criterion: &mut Criterion) {
    let limits =
        ParkLimits { timeout: Duration::from_secs(5), max_parked: 10_000, release_per_second: 20_000 };
    let mut group = criterion.benchmark_group("admit and leave");
    for others in [0, 1_000] {
        let nobody = Arc::new(AtomicUsize::new(0));
        let gate = Gate::new(1, InstanceName::Source, limits, nobody, Box::new(|_| {}));
        let (path, now) = (PathAndQuery::from_static(PATH), Instant::now());
        let enter = |gate: &Rc<Gate>| gate.admit(Class::Read, Some(&path), now, || ()).now_or_never();
        let in_flight: Vec<_> = (0..others).map(|_| enter(&gate)).collect();
        group.bench_function(format!("{others} in flight"), |bencher| {
            // Dropping what comes back is the leaving.
            bencher.iter(|| black_box(enter(black_box(&gate))).is_some());
        });
        drop(in_flight);
    }
    group.finish();
}

/// Each time a new map: an edited one has nothing left to edit. Making and dropping it is not measured.
fn edit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("headers");
    let (request, answer) = (headers(), answer_headers());
    group.bench_function("scan a request", |bencher| bencher.iter(|| Scan::of(black_box(&request))));
    let scan = Scan::of(&request);
    let forwarding = Forwarding::new(Some(IpAddr::from([127, 0, 0, 1])), false, false);
    let run = |mut headers: HeaderMap| (edit_request(&mut headers, &scan, &forwarding, false), headers);
    group.bench_function("edit a request", |bencher| {
        bencher.iter_batched(|| request.clone(), run, BatchSize::SmallInput);
    });
    let run = |mut headers: Headers| {
        edit_answer(StatusCode::OK, &mut headers);
        headers
    };
    group.bench_function("edit an answer", |bencher| {
        bencher.iter_batched(|| Headers::Map(Box::new(answer.clone())), run, BatchSize::SmallInput);
    });
    let mut wire = BytesMut::from(&b"GET /catalogue/items/4711/reviews HTTP/1.1\r\n"[..]);
    for (name, value) in &request {
        http1::head::write_header(&mut wire, name.as_str(), value.as_bytes());
    }
    wire.extend_from_slice(b"\r\n");
    let run = |(mut wire, mut request): (BytesMut, Request<()>)| {
        let parsed =
            http1::head::parse_request(&mut wire, &mut http1::head::Progress::default(), &mut request);
        (parsed, request)
    };
    group.bench_function("parse a request", |bencher| {
        let room = || {
            let mut request = Request::new(());
            request.headers_mut().reserve(12);
            (wire.clone(), request)
        };
        bencher.iter_batched(room, run, BatchSize::SmallInput);
    });
    group.finish();
}

fn record(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    let exchange = Exchange {
        side: Side::Source,
        direction: Direction::Forward,
        status: Some(StatusCode::OK),
        first_byte: Some(Duration::from_micros(830)),
        last_byte: Some(Duration::from_micros(910)),
    };
    let mut recorder = Recorder::default();
    group.bench_function("exchange", |bencher| bencher.iter(|| recorder.record(black_box(&exchange))));
    group.bench_function("route", |bencher| {
        bencher.iter(|| recorder.record_route(black_box(PATH), Some(StatusCode::OK), black_box(&[exchange])));
    });
    group.finish();
}
