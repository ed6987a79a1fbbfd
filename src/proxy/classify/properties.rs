//! The promises as properties: whatever comes, nothing that may write is a read, and nothing panics.

use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::tests::{classifier, defaults, opted_in, rule, ruled};
use super::*;
use crate::config::{Rule, RuleClass};

use Class::Write;

fn token() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_-]{1,8}"
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(token(), 0..5).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn headers() -> impl Strategy<Value = HeaderMap> {
    let name = prop_oneof![
        token().prop_map(|name| name.to_ascii_lowercase()),
        prop::sample::select(vec![
            "accept",
            "authorization",
            "connection",
            "content-encoding",
            "content-length",
            "content-type",
            "transfer-encoding",
            "upgrade",
            "x-http-method-override",
            "http2-settings",
            "cookie",
        ])
        .prop_map(str::to_owned),
    ];
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..24),
        prop::sample::select(vec![
            "application/json",
            "application/grpc",
            "application/graphql",
            "0",
            "digest",
            "upgrade"
        ])
        .prop_map(|value| value.as_bytes().to_vec()),
    ];
    prop::collection::vec((name, value), 0..6).prop_map(|headers| {
        headers
            .into_iter()
            .filter_map(|(name, value)| {
                Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(&value).ok()?))
            })
            .collect()
    })
}

proptest! {
    /// Promise 2 for everybody who configured nothing.
    #[test]
    fn no_unsafe_method_is_a_read_unasked(
        method in prop_oneof![
            prop::sample::select(vec!["POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "QUERY", "SEARCH", "get", "Head"])
                .prop_map(str::to_owned),
            "[A-Za-z]{1,12}",
        ],
        path in path(), query in "[a-z=&%0-9]{0,12}", headers in headers(), has_body: bool,
        // Rules and opt-ins that are about something else.
        configured: bool,
    ) {
        prop_assume!(!matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS"));
        prop_assume!(!["/graphql", "/rpc", "/p.S/Get"].contains(&path.as_str()));
        let settings = config::Classify {
            rules: vec![Rule { methods: vec!["GET".into()], ..rule(RuleClass::Read) }],
            ..opted_in()
        };
        let classifier = if configured { classifier(&settings) } else { defaults() };
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let Ok(uri) = format!("{path}?{query}").parse() else { return Ok(()) };
        let verdict = classifier.head(&Head { method: &method, uri: &uri, host: "a", headers: &headers, has_body });
        prop_assert!(matches!(verdict, Verdict::Known(Write, _)), "{:?}", verdict);
    }

    /// Even where a rule calls everything a read.
    #[test]
    fn a_path_with_an_encoding_trick_is_a_write(
        path in path(), at: prop::sample::Index,
        trick in prop::sample::select(vec![
            "//", "/./", "/../", "/..", "%2f", "%2F", "%5c", "%5C", "\\", "%00", ";", ";a=b", "%3b", "%2e", "%2E%2e/", "/%2e%2e/",
            "%61", "%7e", "%25", "%252f", "%/", "%4/", "%g0", "%c0%af", "%e0%80%af", "%c0%ae", "%ff", "\u{e9}", "\u{ff0f}", "%0a", "%7f",
            "%23", "%3f", "|", "\"",
        ]),
    ) {
        let at = 1 + at.index(path.len());
        let tricked = format!("{}{trick}{}", &path[..at], path.get(at..).unwrap_or_default());
        // `/..` is only a trick where it makes a segment of its own.
        prop_assume!(trick != "/.." || tricked.split('/').any(|segment| segment == ".."));
        let Ok(uri) = tricked.parse::<Uri>() else { return Ok(()) };
        let classifier = ruled(vec![rule(RuleClass::Read)]);
        let headers = HeaderMap::new();
        let verdict = classifier.head(&Head { method: &Method::GET, uri: &uri, host: "a", headers: &headers, has_body: false });
        prop_assert_eq!(verdict, write(Reason::NonCanonicalPath), "{}", tricked);
    }

    #[test]
    fn no_request_panics(
        method in "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,10}",
        uri in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            "/[ -~\u{e9}\u{2028}]{0,40}".prop_map(String::into_bytes),
            "/(graphql|rpc|a/_search|p.S/Get|r/info/refs)\\?[ -~]{0,40}".prop_map(String::into_bytes),
        ],
        host in "[ -~\u{e9}]{0,20}", headers in headers(), has_body: bool, body in prop::collection::vec(any::<u8>(), 0..60),
        class in prop::sample::select(vec![RuleClass::Read, RuleClass::Write]),
    ) {
        let (Ok(method), Ok(uri)) = (Method::from_bytes(method.as_bytes()), Uri::try_from(uri)) else { return Ok(()) };
        let narrow = Rule {
            host: Some("*.example".into()), header: Some(("cookie".into(), ".*".into())), query: Some(("a".into(), ".*".into())),
            ..rule(class)
        };
        for classifier in [defaults(), ruled(vec![narrow])] {
            let head = Head { method: &method, uri: &uri, host: &host, headers: &headers, has_body };
            let _ = classifier.head(&head);
            let _ = classifier.explain(&head, &body).to_string();
            for kind in [BodyKind::Graphql, BodyKind::GraphqlUrl, BodyKind::JsonRpc, BodyKind::RuleBody { rule: 0 }] {
                let _ = classifier.body(kind, &headers, &uri, &body);
            }
        }
    }
}
