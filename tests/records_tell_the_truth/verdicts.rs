//! Each kind of pair gets the verdict that it deserves.

use serde_json::Value;

use crate::support::Segue;
use crate::support::client::{Ask, Client};
use crate::support::recorder::{Recorded, Recorder, answer, bare, ok};
use crate::support::tee::{EVERYTHING, count, origin, settled, url, verdicts};

/// What the service says after one pair of these two answers.
fn pair(ask: &Ask, source: Vec<u8>, shadow: Vec<u8>) -> (Value, Value) {
    let says = |answer: Vec<u8>| move |_: &Recorded| Some(answer.clone());
    let (source, shadow) = (Recorder::answering(says(source)), Recorder::answering(says(shadow)));
    let segue = Segue::with(&source.url(), Some(&shadow.url()), EVERYTHING, "");
    Client::new(segue.address).ask(ask);
    let service = settled(&segue, 1);
    let (status, pairs) = segue.call("GET", "/v1/services/web/pairs", "");
    assert_eq!(status, 200);
    (service, pairs)
}

fn is_judged(ask: &Ask, source: Vec<u8>, shadow: Vec<u8>, verdict: &str) {
    let (service, pairs) = pair(ask, source, shadow);
    assert_eq!(verdicts(&service, verdict), 1, "{:#} {pairs:#}", service["pairs"]);
    let mismatched = u64::from(verdict.starts_with("mismatch"));
    assert_eq!(count(&service, "/pairs/mismatched"), mismatched);
    assert_eq!(pairs["pairs"][0]["verdict"], verdict);
}

#[test]
fn what_agrees() {
    is_judged(&Ask::get("/"), ok("same"), ok("same"), "match");
    let head = Ask::new("HEAD", "/");
    is_judged(
        &head,
        bare("200 OK", "content-length: 70\r\n"),
        bare("200 OK", "content-length: 70\r\n"),
        "head_only",
    );
    is_judged(&Ask::get("/"), answer("404 Not Found", "", "no"), answer("404 Not Found", "", "no"), "match");
}

#[test]
fn what_differs() {
    is_judged(&Ask::get("/"), ok("ours"), ok("their"), "mismatch_body");
    is_judged(&Ask::get("/"), ok("ours"), ok("theirs, and longer"), "mismatch_body");
    is_judged(&Ask::get("/"), ok("x"), answer("500 Internal Server Error", "", "x"), "mismatch_status");
    is_judged(
        &Ask::get("/"),
        ok("x"),
        answer("200 OK", "content-type: text/html\r\n", "x"),
        "mismatch_headers",
    );
    // Without a session there is none to be missing.
    is_judged(&Ask::get("/"), ok("x"), answer("401 Unauthorized", "", ""), "mismatch_status");
    // Nobody asked on a condition.
    is_judged(&Ask::get("/"), ok("x"), bare("304 Not Modified", ""), "mismatch_status");
    // A shadow that answers what the source refuses is a fault.
    let known = Ask::get("/me").with("cookie", "sid=1");
    is_judged(&known, answer("401 Unauthorized", "", ""), ok("x"), "mismatch_status");
}

#[test]
fn what_each_instance_has_of_its_own() {
    let (ours, theirs) = ("etag: \"a\"\r\n", "etag: \"b\"\r\n");
    let conditional = Ask::get("/").with("if-none-match", "\"a\"");
    is_judged(
        &conditional,
        bare("304 Not Modified", ours),
        answer("200 OK", theirs, "x"),
        "validators_differ",
    );
    is_judged(
        &conditional,
        answer("200 OK", ours, "x"),
        bare("304 Not Modified", theirs),
        "validators_differ",
    );
    is_judged(
        &Ask::get("/"),
        answer("200 OK", ours, "x"),
        answer("200 OK", theirs, "x"),
        "validators_differ",
    );
}

#[test]
fn a_part_against_the_whole() {
    let ranged = Ask::get("/").with("range", "bytes=0-1");
    let part = answer("206 Partial Content", "content-range: bytes 0-1/5\r\n", "he");
    is_judged(&ranged, part.clone(), answer("200 OK", "", "hello"), "range_differs");
    is_judged(&ranged, part.clone(), part, "match");
}

#[test]
fn a_session_that_the_shadow_does_not_know() {
    let page = || answer("200 OK", "content-type: text/html\r\n", "hello, you");
    let login = answer("302 Found", "location: /users/sign_in?back=%2Fme\r\n", "");
    let elsewhere = answer("302 Found", "location: /shop/new\r\n", "");
    let with_cookie = Ask::get("/me").with("cookie", "sid=1");
    is_judged(&with_cookie, page(), login, "session_missing");
    is_judged(&with_cookie, page(), answer("401 Unauthorized", "", ""), "session_missing");
    let with_token = Ask::get("/me").with("authorization", "Bearer x");
    is_judged(&with_token, page(), answer("403 Forbidden", "", ""), "session_missing");
    is_judged(&with_cookie, page(), elsewhere, "mismatch_status");
}

#[test]
fn another_coding_says_nothing_about_the_content() {
    let ask = Ask::get("/").with("accept-encoding", "gzip, br");
    let coded = |coding: &str, body: &str| answer("200 OK", &format!("content-encoding: {coding}\r\n"), body);
    is_judged(&ask, coded("gzip", "abc"), coded("br", "xyz"), "encoding_differs");
}

#[test]
fn what_differed_is_told_without_secrets() {
    let ask = Ask::get("/find?token2=s3cret&page=2").with("cookie", "sid=s3cret");
    let (_, pairs) = pair(&ask, ok("ours"), ok("theirs"));
    let text = pairs.to_string();
    assert!(text.contains("/find?token2=*&page=*") && !text.contains("s3cret"), "{text}");
    assert!(text.contains("4 bytes") && text.contains("6 bytes"), "{text}");
}

#[test]
fn one_wrong_body_in_ten_is_reported_as_that() {
    let (source, shadow) = (origin(&[]), origin(&["wrong-body@10"]));
    let segue = Segue::with(&url(&source), Some(&url(&shadow)), EVERYTHING, "");
    let mut client = Client::new(segue.address);
    (0..300).for_each(|id| assert_eq!(client.get(&format!("/item/{id}")).status, 200));
    let service = settled(&segue, 300);
    let (wrong, right) = (verdicts(&service, "mismatch_body"), verdicts(&service, "match"));
    // Exact at the shadow; a retry of a stale connection may move it by one.
    assert!(wrong.abs_diff(30) <= 1 && wrong + right == 300, "{:#}", service["pairs"]);
    let (_, pairs) = segue.call("GET", "/v1/services/web/pairs?mismatched=true&limit=100", "");
    let listed = pairs["pairs"].as_array().unwrap();
    assert_eq!(listed.len() as u64, wrong);
    assert!(listed.iter().all(|pair| pair["differences"][0]["what"] == "body"), "{pairs:#}");
}
