//! The metrics page: every line reads, and every count is what was sent.

#![allow(clippy::float_cmp, reason = "counts are whole numbers, and read as they were written")]

use std::collections::BTreeMap;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Stand, run, send};

/// Samples by name and labels as they are written.
struct Page {
    samples: BTreeMap<String, f64>,
    kinds: BTreeMap<String, String>,
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.as_bytes()[0].is_ascii_digit()
}

/// The order of labels says nothing.
fn sorted(series: &str) -> String {
    let Some((name, labels)) = series.split_once('{') else { return series.to_owned() };
    let mut labels: Vec<_> = labels.trim_end_matches('}').split(',').collect();
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}

/// Reads what is within braces, and fails on anything that is not `name="value"`.
fn check_labels(labels: &str) {
    let mut rest = labels;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").expect(labels);
        assert!(is_name(name), "{labels}");
        let end = after.find('"').expect(labels);
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

impl Page {
    fn parse(text: &str, suffixed_families: bool) -> Self {
        let mut page = Self { samples: BTreeMap::new(), kinds: BTreeMap::new() };
        let mut family = (String::new(), String::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                assert!(
                    rest.split_once(' ').is_some_and(|(name, help)| is_name(name) && help.ends_with('.')),
                    "{line}"
                );
                continue;
            }
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect(line);
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                family = (name.to_owned(), kind.to_owned());
                assert!(page.kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} comes twice");
                continue;
            }
            if line == "# EOF" && !suffixed_families {
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect(line);
            let value: f64 = value.parse().expect(line);
            assert!(!series.contains("{}"), "{line}");
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix('}').expect(line)),
                None => (series, ""),
            };
            assert!(is_name(name), "{line}");
            check_labels(labels);
            let suffixes: &[&str] = match (&*family.1, suffixed_families) {
                ("counter", false) => &["_total"],
                ("histogram", _) => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(
                suffixes.iter().any(|suffix| name == format!("{}{suffix}", family.0)),
                "{line} in {family:?}"
            );
            assert!(page.samples.insert(sorted(series), value).is_none(), "{series} comes twice");
        }
        page
    }

    #[track_caller]
    fn at(&self, series: &str) -> f64 {
        *self
            .samples
            .get(&sorted(series))
            .unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples.keys()))
    }
}

async fn scrape(stand: &Stand) -> Page {
    let reply = stand.call("GET", "/metrics", "").await;
    assert_eq!(reply.status, 200);
    assert!(reply.header("content-type").starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(reply.text.ends_with("\n# EOF\n"));
    Page::parse(&reply.text, false)
}

#[test]
fn counters_are_what_was_sent() {
    run(async {
        let stand = Stand::start().await;
        stand.read(7).await;
        stand.request("GET", "/status/404").await;
        for _ in 0..3 {
            stand.request("POST", "/ledger/a").await;
        }
        stand.pairs(8).await;
        stand.shadow.as_ref().unwrap().set_faults(&["error=500".parse().unwrap()]).unwrap();
        stand.read(2).await;
        stand.pairs(10).await;
        let page = scrape(&stand).await;
        for (series, value) in [
            (r#"segue_requests_total{service="web",instance="source",class="read",code="200"}"#, 9.0),
            (r#"segue_requests_total{service="web",instance="source",class="read",code="404"}"#, 1.0),
            (r#"segue_requests_total{service="web",instance="source",class="write",code="200"}"#, 3.0),
            (r#"segue_tee_total{service="web",outcome="eligible"}"#, 10.0),
            (r#"segue_tee_total{service="web",outcome="sampled"}"#, 10.0),
            (r#"segue_tee_total{service="web",outcome="teed"}"#, 10.0),
            (r#"segue_tee_skipped_total{service="web",reason="write"}"#, 3.0),
            (r#"segue_tee_skipped_total{service="web",reason="off"}"#, 0.0),
            (r#"segue_pairs_total{service="web",verdict="match"}"#, 8.0),
            (r#"segue_pairs_total{service="web",verdict="mismatch_status"}"#, 2.0),
            (r#"segue_in_flight{service="web"}"#, 0.0),
            (r#"segue_parked{service="web"}"#, 0.0),
            (r#"segue_active{service="web",instance="source"}"#, 1.0),
            (r#"segue_active{service="web",instance="shadow"}"#, 0.0),
            (r#"segue_request_duration_seconds_count{service="web",side="source"}"#, 13.0),
            (r#"segue_request_duration_seconds_count{service="web",side="shadow"}"#, 10.0),
            (r#"segue_request_duration_seconds_bucket{service="web",side="source",le="+Inf"}"#, 13.0),
            (r#"segue_pair_duration_seconds_count{service="web",side="source"}"#, 10.0),
            ("segue_switchover_pause_seconds_count", 0.0),
            ("segue_tees_stopped", 0.0),
        ] {
            assert_eq!(page.at(series), value, "{series}");
        }
    });
}

#[test]
fn histograms_are_cumulative_and_agree_with_the_api() {
    run(async {
        let stand = Stand::start().await;
        for _ in 0..3 {
            stand.request("GET", "/slow/30").await;
        }
        stand.read(4).await;
        stand.pairs(7).await;
        let page = scrape(&stand).await;
        let series = |le: &str| {
            format!("segue_request_duration_seconds_bucket{{service=\"web\",side=\"source\",le=\"{le}\"}}")
        };
        let le = [
            "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5",
            "1.0", "2.5", "5.0", "10.0", "+Inf",
        ];
        let counts: Vec<f64> = le.iter().map(|le| page.at(&series(le))).collect();
        assert!(counts.is_sorted(), "{counts:?}");
        assert!(counts[6] <= 4.0, "none of the slow ones took less than 25 ms: {counts:?}");
        assert_eq!(counts[15], 7.0);
        let view = stand.get("/v1/services/web/latency").await;
        let mean = page.at(r#"segue_request_duration_seconds_sum{service="web",side="source"}"#) / 7.0;
        let shown = view["source"]["mean"].as_f64().unwrap() / 1e6;
        assert!((mean / shown - 1.0).abs() < 0.001, "{mean} and {shown}");
    });
}

#[test]
fn switchovers_are_counted_with_their_pause() {
    run(async {
        let stand = Stand::start().await;
        let before = scrape(&stand).await;
        assert_eq!(before.at(r#"segue_switchovers_total{service="web",outcome="completed"}"#), 0.0);
        let mut paused = 0.0;
        for path in
            ["/v1/services/web/switchover", "/v1/services/web/rollback", "/v1/services/web/switchover"]
        {
            paused += stand.call("POST", path, "").await.json()["pause_ms"].as_f64().unwrap() / 1000.0;
            stand.read(1).await;
        }
        stand.pairs(3).await;
        let page = scrape(&stand).await;
        assert_eq!(page.at("segue_switchover_pause_seconds_count"), 3.0);
        assert!((page.at("segue_switchover_pause_seconds_sum") - paused).abs() < 1e-5);
        assert_eq!(page.at(r#"segue_switchovers_total{service="web",outcome="completed"}"#), 3.0);
        assert_eq!(page.at(r#"segue_active{service="web",instance="shadow"}"#), 1.0);
        assert_eq!(page.at(r#"segue_generation{service="web"}"#), 4.0);
        // Either way round, whoever answers callers is the source.
        assert_eq!(page.at(r#"segue_request_duration_seconds_count{service="web",side="source"}"#), 3.0);
        assert_eq!(page.at(r#"segue_request_duration_seconds_count{service="web",side="shadow"}"#), 3.0);
        assert_eq!(
            page.at(r#"segue_requests_total{service="web",instance="shadow",class="read",code="200"}"#),
            2.0
        );
    });
}

#[test]
fn the_older_format_has_the_same_samples() {
    run(async {
        let stand = Stand::start().await;
        stand.read(3).await;
        stand.pairs(3).await;
        let to = stand.api.address().unwrap();
        let headers = [("host", "localhost"), ("accept", "text/plain;version=0.0.4")];
        let reply = send(to, "GET", "/metrics", &headers, "").await;
        assert_eq!(reply.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
        let older = Page::parse(&reply.text, true);
        let newer = scrape(&stand).await;
        assert!(older.samples.keys().eq(newer.samples.keys()));
        assert_eq!(older.kinds.get("segue_requests_total").map(String::as_str), Some("counter"));
        assert_eq!(newer.kinds.get("segue_requests").map(String::as_str), Some("counter"));
        assert_eq!(older.kinds.len(), newer.kinds.len());
    });
}

#[test]
fn a_scrape_whose_client_leaves_loses_nothing() {
    run(async {
        let stand = Stand::start().await;
        for _ in 0..30 {
            stand.read(1).await;
            let mut leaving = TcpStream::connect(stand.api.address().unwrap()).await.unwrap();
            leaving.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            drop(leaving);
        }
        stand.pairs(30).await;
        let page = scrape(&stand).await;
        assert_eq!(page.at(r#"segue_request_duration_seconds_count{service="web",side="source"}"#), 30.0);
    });
}
