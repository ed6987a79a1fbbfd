//! Each verdict from the answers that lead to it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::config::InstanceName;
use crate::http1::Headers;

fn asked(method: Method) -> Asked {
    Asked { method, conditional: false, ranged: false, credentials: false }
}

fn get() -> Asked {
    asked(Method::GET)
}

fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Outcome {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
        .collect();
    let mut digester = Digester::default();
    digester.update(body.as_bytes(), true);
    Outcome {
        head: Some(Head::of(StatusCode::from_u16(status).unwrap(), &Headers::Map(Box::new(headers)))),
        body: digester.finish(),
        end: End::Complete,
        first_byte: Some(Duration::from_micros(150)),
        last_byte: Some(Duration::from_micros(200)),
        caller_slow: false,
    }
}

fn silent(end: End) -> Outcome {
    Outcome { head: None, body: None, end, first_byte: None, last_byte: None, caller_slow: false }
}

fn ended(end: End) -> Outcome {
    Outcome { end, ..answer(200, &[], "hel") }
}

fn verdict(asked: &Asked, source: &Outcome, shadow: &Outcome) -> Verdict {
    compare(asked, source, shadow).verdict
}

#[test]
fn equal_answers_match() {
    let page = answer(200, &[("content-type", "text/html; charset=utf-8"), ("etag", "\"a\"")], "hello");
    let comparison = compare(&get(), &page, &page);
    assert_eq!(comparison, Comparison { verdict: Verdict::Match, differences: vec![] });
    let other = answer(200, &[("content-type", "text/html;charset=UTF-8"), ("etag", "\"a\"")], "hello");
    assert_eq!(verdict(&get(), &page, &other), Verdict::Match);
    assert_eq!(verdict(&get(), &answer(304, &[], ""), &answer(304, &[], "")), Verdict::Match);
    // Both failing alike is agreement.
    assert_eq!(verdict(&get(), &answer(500, &[], "no"), &answer(500, &[], "no")), Verdict::Match);
}

#[test]
fn no_body_and_an_empty_one_are_the_same() {
    let empty = Outcome { body: Digester::default().finish(), ..answer(204, &[], "") };
    assert_eq!(verdict(&get(), &answer(204, &[], ""), &empty), Verdict::Match);
    assert_eq!(verdict(&get(), &answer(200, &[], ""), &answer(200, &[], "x")), Verdict::MismatchBody);
}

#[test]
fn mismatches_say_what_differed() {
    let source = answer(200, &[], "hello");
    let comparison = compare(&get(), &source, &answer(500, &[], "oops"));
    assert_eq!(comparison.verdict, Verdict::MismatchStatus);
    let what: Vec<_> = comparison.differences.iter().map(|d| d.what).collect();
    assert_eq!(what, ["status", "body"]);
    assert_eq!((&*comparison.differences[0].source, &*comparison.differences[0].shadow), ("200", "500"));

    let comparison = compare(&get(), &source, &answer(200, &[], "Hello"));
    assert_eq!(comparison.verdict, Verdict::MismatchBody);
    assert!(comparison.differences[0].source.starts_with("5 bytes, digest "), "{comparison:?}");
}

#[test]
fn headers_that_change_the_meaning_mismatch() {
    let with = |name, value| answer(200, &[(name, value)], "x");
    for (name, ours, theirs) in [
        ("content-type", "text/html", "text/plain"),
        ("location", "/a", "/b"),
        ("content-range", "bytes 0-9/100", "bytes 0-9/101"),
    ] {
        assert_eq!(verdict(&get(), &with(name, ours), &with(name, theirs)), Verdict::MismatchHeaders);
        assert_eq!(verdict(&get(), &with(name, ours), &answer(200, &[], "x")), Verdict::MismatchHeaders);
    }
    assert_eq!(verdict(&get(), &with("date", "yesterday"), &with("date", "today")), Verdict::Match);
}

#[test]
fn a_head_compares_heads() {
    let head = asked(Method::HEAD);
    let (html, text) = ([("content-type", "text/html")], [("content-type", "text/plain")]);
    assert_eq!(verdict(&head, &answer(200, &html, ""), &answer(200, &html, "")), Verdict::HeadOnly);
    assert_eq!(verdict(&head, &answer(200, &html, ""), &answer(200, &text, "")), Verdict::MismatchHeaders);
    assert_eq!(verdict(&head, &answer(200, &html, ""), &answer(404, &html, "")), Verdict::MismatchStatus);
}

#[test]
fn validators_are_each_instances_own() {
    let conditional = Asked { conditional: true, ..get() };
    let (new, same) = (answer(200, &[("etag", "\"b\"")], "x"), answer(304, &[("etag", "\"a\"")], ""));
    assert_eq!(verdict(&conditional, &same, &new), Verdict::ValidatorsDiffer);
    assert_eq!(verdict(&conditional, &new, &same), Verdict::ValidatorsDiffer);
    assert_eq!(verdict(&conditional, &answer(412, &[], ""), &new), Verdict::ValidatorsDiffer);
    assert_eq!(verdict(&conditional, &same, &answer(500, &[], "")), Verdict::MismatchStatus);
    // Nobody asked for a 304.
    assert_eq!(verdict(&get(), &new, &same), Verdict::MismatchStatus);

    let other = answer(200, &[("etag", "\"c\"")], "x");
    assert_eq!(verdict(&get(), &new, &other), Verdict::ValidatorsDiffer);
    assert_eq!(verdict(&get(), &new, &answer(200, &[("etag", "\"c\"")], "y")), Verdict::MismatchBody);
}

#[test]
fn parts_against_the_whole_are_no_mismatch_when_asked_for() {
    let ranged = Asked { ranged: true, ..get() };
    let (part, whole) = (answer(206, &[("content-range", "bytes 0-0/5")], "h"), answer(200, &[], "hello"));
    assert_eq!(verdict(&ranged, &part, &whole), Verdict::RangeDiffers);
    assert_eq!(verdict(&ranged, &whole, &part), Verdict::RangeDiffers);
    assert_eq!(verdict(&get(), &whole, &part), Verdict::MismatchStatus);
    assert_eq!(verdict(&ranged, &part, &answer(416, &[], "")), Verdict::MismatchStatus);

    let parts = |boundary| {
        let kind = format!("multipart/byteranges; boundary={boundary}");
        answer(206, &[("content-type", &kind)], boundary)
    };
    assert_eq!(verdict(&ranged, &parts("a"), &parts("b")), Verdict::RangeDiffers);
    assert_eq!(verdict(&ranged, &parts("a"), &answer(206, &[], "a")), Verdict::MismatchHeaders);
}

#[test]
fn a_login_where_the_source_knew_the_caller_is_a_missing_session() {
    let known = Asked { credentials: true, ..get() };
    let page = answer(200, &[], "mine");
    let redirect = |to| answer(302, &[("location", to)], "");
    for login in ["/login?next=%2F", "https://sso.example.org/auth", "/users/sign_in", "/wp-login.php"] {
        assert_eq!(verdict(&known, &page, &redirect(login)), Verdict::SessionMissing, "{login}");
    }
    assert_eq!(verdict(&known, &page, &answer(401, &[], "")), Verdict::SessionMissing);
    assert_eq!(verdict(&known, &page, &answer(403, &[], "")), Verdict::SessionMissing);

    assert_eq!(verdict(&known, &page, &redirect("/blog/catalogins?to=/login")), Verdict::MismatchStatus);
    assert_eq!(verdict(&get(), &page, &answer(401, &[], "")), Verdict::MismatchStatus);
    // A shadow that lets somebody in whom the source refuses is a fault.
    assert_eq!(verdict(&known, &answer(401, &[], ""), &page), Verdict::MismatchStatus);
    assert_eq!(verdict(&known, &redirect("/login"), &page), Verdict::MismatchStatus);
    assert_eq!(verdict(&known, &answer(404, &[], ""), &answer(401, &[], "")), Verdict::MismatchStatus);
}

#[test]
fn bodies_in_different_codings_are_not_compared() {
    let coded = |coding| answer(200, &[("content-encoding", coding)], coding);
    assert_eq!(verdict(&get(), &coded("gzip"), &coded("br")), Verdict::EncodingDiffers);
    assert_eq!(verdict(&get(), &coded("gzip"), &answer(200, &[], "plain")), Verdict::EncodingDiffers);
    assert_eq!(verdict(&get(), &coded("gzip"), &answer(500, &[], "")), Verdict::MismatchStatus);
}

#[test]
fn what_did_not_end_is_nobodys_mismatch() {
    use End::*;
    let whole = answer(200, &[], "hello");
    for (source, shadow, expected) in [
        (whole.clone(), silent(ConnectFailed), Verdict::ShadowError),
        (whole.clone(), silent(TimedOut), Verdict::ShadowError),
        (whole.clone(), silent(Malformed), Verdict::ShadowError),
        (whole.clone(), ended(BrokeOff), Verdict::ShadowAborted),
        (whole.clone(), ended(TimedOut), Verdict::ShadowAborted),
        (whole.clone(), ended(TooLarge), Verdict::AnswerTooLarge),
        (ended(CallerLeft), whole.clone(), Verdict::SourceAborted),
        (ended(BrokeOff), whole.clone(), Verdict::SourceAborted),
        (silent(CallerLeft), silent(TimedOut), Verdict::SourceAborted),
        (silent(ConnectFailed), whole.clone(), Verdict::SourceError),
        (silent(TimedOut), silent(TimedOut), Verdict::SourceError),
    ] {
        let comparison = compare(&get(), &source, &shadow);
        assert_eq!(comparison.verdict, expected, "{:?} {:?}", source.end, shadow.end);
        assert_eq!(comparison.differences.len(), 1);
        assert!(!expected.is_mismatch());
    }
}

#[test]
fn an_endless_answer_is_a_mismatch_though_it_was_cut() {
    let endless = Outcome { end: End::TooLarge, ..answer(200, &[], "hello hello hello") };
    assert_eq!(verdict(&get(), &answer(200, &[], "hello"), &endless), Verdict::MismatchBody);
    assert_eq!(
        verdict(&get(), &answer(200, &[], "hello hello hello hello"), &endless),
        Verdict::AnswerTooLarge
    );
}

#[test]
fn labels_are_distinct_and_only_three_verdicts_are_mismatches() {
    let mut labels: Vec<_> = Verdict::ALL.iter().map(|v| v.as_str()).collect();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), Verdict::ALL.len());
    for verdict in Verdict::ALL {
        assert_eq!(verdict.is_mismatch(), verdict.as_str().starts_with("mismatch_"), "{verdict:?}");
    }
}

#[test]
fn secrets_are_not_shown() {
    for (target, shown) in [
        ("/a/b", "/a/b"),
        ("/a?token=s3cret&page=2&s3cret&&x=", "/a?token=*&page=*&*&&x=*"),
        ("/a?b=c=d#s3cret", "/a?b=*"),
        ("/a#s3cret", "/a"),
        ("https://me:s3cret@host/x?code=1", "https://host/x?code=*"),
        ("//s3cret@host", "//host"),
        ("/a//b@c", "/a//b@c"),
        ("http://me:s3cret@host/x", "http://host/x"),
        ("/?", "/?"),
        ("", ""),
    ] {
        assert_eq!(redact_target(target), shown);
    }
    let to = |code| answer(302, &[("location", code)], "");
    let comparison = compare(&get(), &to("/cb?code=s3cret"), &to("/cb?code=other"));
    assert_eq!(comparison.verdict, Verdict::MismatchHeaders);
    assert_eq!(comparison.differences[0].source, "/cb?code=*");
}

proptest! {
    #[test]
    fn whatever_is_shown_is_short(target: String, value in "\\PC{0,600}") {
        prop_assert!(redact_target(&target).len() <= target.len() + target.matches(['&', '?']).count() + 1);
        let difference = Difference::new("x", &value, &target);
        prop_assert!(difference.source.len() <= 163 && difference.shadow.len() <= 163);
    }
}

fn pair(verdict: Verdict) -> Pair {
    let parties = Parties {
        service: Arc::from("web"),
        generation: 3,
        source_instance: InstanceName::Source,
        shadow_instance: InstanceName::Shadow,
    };
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234);
    let (source, shadow) = (answer(200, &[], "x"), silent(End::TimedOut));
    let comparison = Comparison { verdict, ..compare(&get(), &source, &shadow) };
    Pair::new(at, parties, &get(), "/item/7?user=ann", &source, &shadow, comparison)
}

#[test]
fn a_pair_is_written_with_its_instances_and_without_secrets() {
    let expected = serde_json::json!({
        "id": 0, "at_unix_ms": 1_234, "service": "web", "method": "GET", "path": "/item/7?user=*",
        "generation": 3, "source_instance": "source", "shadow_instance": "shadow", "verdict": "shadow_error",
        "differences": [{"what": "end", "source": "200 complete", "shadow": "timed out"}],
        "source": {"first_byte_us": 150, "last_byte_us": 200},
        "shadow": {"first_byte_us": null, "last_byte_us": null},
        "caller_slow": false,
    });
    assert_eq!(serde_json::to_value(pair(Verdict::ShadowError)).unwrap(), expected);
}

#[test]
fn good_pairs_do_not_push_out_a_mismatch() {
    let mut recent = RecentPairs::new(3);
    recent.push(pair(Verdict::MismatchBody));
    (0..10).for_each(|_| recent.push(pair(Verdict::Match)));
    let ids = |mismatched, limit| recent.latest(mismatched, limit).iter().map(|p| p.id).collect::<Vec<_>>();
    assert_eq!(ids(false, 50), [11, 10, 9, 1]);
    assert_eq!(ids(false, 2), [11, 10]);
    assert_eq!(ids(true, 50), [1]);
    let mut none = RecentPairs::new(0);
    none.push(pair(Verdict::Match));
    assert!(none.latest(false, 1).is_empty());
}
