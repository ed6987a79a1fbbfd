//! The policy as a whole: each line of the module comment as a table.

use http::{HeaderName, HeaderValue, Request};

use super::*;
use crate::config::{Rule, RuleClass};

use Class::{Read, Write};

pub fn classifier(settings: &config::Classify) -> Classifier {
    Classifier::new(settings, None).unwrap()
}

pub fn defaults() -> Classifier {
    classifier(&config::Classify::default())
}

pub fn opted_in() -> config::Classify {
    config::Classify {
        graphql_paths: vec!["/graphql".into()],
        grpc_methods: vec!["p.S/Get".into()],
        jsonrpc_paths: vec!["/rpc".into()],
        jsonrpc_methods: vec!["get".into()],
        search_paths: vec!["/_search".into()],
        git: true,
        ..config::Classify::default()
    }
}

/// `GET /path` followed by `Name: value` lines.
fn request(text: &str) -> Request<()> {
    let mut lines = text.lines().map(str::trim);
    let (method, uri) = lines.next().unwrap().split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(uri).body(()).unwrap();
    for (name, value) in lines.map(|line| line.split_once(": ").unwrap()) {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
    }
    request
}

fn head(request: &Request<()>) -> Head<'_> {
    Head {
        method: request.method(),
        uri: request.uri(),
        host: "shop.example.org:8080",
        headers: request.headers(),
        has_body: false,
    }
}

fn verdict(classifier: &Classifier, text: &str) -> Verdict {
    classifier.head(&head(&request(text)))
}

pub fn rule(class: RuleClass) -> Rule {
    Rule { methods: vec![], host: None, path: None, header: None, query: None, class }
}

pub fn ruled(rules: Vec<Rule>) -> Classifier {
    classifier(&config::Classify { rules, ..opted_in() })
}

#[test]
fn plain_safe_requests_are_reads() {
    for text in [
        "GET /",
        "HEAD /items/42",
        "OPTIONS /items\nOrigin: https://a.example\nAccess-Control-Request-Method: POST",
        "GET /items?page=2&q=logout",
        "GET /video.mp4\nRange: bytes=0-99",
        "GET /a\nIf-None-Match: \"x\"",
        "GET /a\nIf-Match: \"x\"",
        "GET /a\nContent-Length: 0",
        "GET /a\nConnection: keep-alive",
        "GET /a\nAuthorization: Bearer x",
        "GET /a\nAuthorization: Basic x",
        "GET /a\nAccept: text/html, */*",
        "GET http://shop.example.org/a",
    ] {
        assert_eq!(verdict(&defaults(), text), Verdict::Known(Read, Reason::SafeMethod), "{text}");
    }
}

#[test]
fn everything_else_is_a_write_by_default() {
    for (text, reason) in [
        ("POST /", Reason::UnsafeMethod),
        ("PUT /", Reason::UnsafeMethod),
        ("PATCH /", Reason::UnsafeMethod),
        ("DELETE /", Reason::UnsafeMethod),
        ("PROPFIND /", Reason::UnsafeMethod),
        ("QUERY /", Reason::UnsafeMethod),
        ("get /", Reason::UnsafeMethod),
        ("POST /graphql\nContent-Type: application/json", Reason::UnsafeMethod),
        ("POST /p.S/Get\nContent-Type: application/grpc", Reason::UnsafeMethod),
        ("POST /a/_search\nContent-Type: application/json", Reason::UnsafeMethod),
        (
            "POST /r/git-upload-pack\nContent-Type: application/x-git-upload-pack-request",
            Reason::UnsafeMethod,
        ),
        ("TRACE /", Reason::Trace),
        ("CONNECT shop.example.org:443", Reason::Connect),
        ("CONNECT /chat", Reason::Connect),
        ("GET /chat\nUpgrade: websocket\nConnection: Upgrade", Reason::Upgrade),
        ("GET /chat\nUpgrade: h2c", Reason::Upgrade),
        ("GET /\nConnection: keep-alive, UPGRADE", Reason::Upgrade),
        ("GET /\nHTTP2-Settings: AAMAAABk", Reason::Upgrade),
        ("GET /\nX-HTTP-Method-Override: DELETE", Reason::MethodOverride),
        ("GET /\nX-HTTP-Method: DELETE", Reason::MethodOverride),
        ("GET /\nX-Method-Override: DELETE", Reason::MethodOverride),
        ("GET /\nX_HTTP_Method-Override: DELETE", Reason::MethodOverride),
        ("GET /?_method=DELETE", Reason::MethodOverride),
        ("GET /?a=1&%5Fmethod=DELETE", Reason::MethodOverride),
        ("GET /\nAuthorization: Digest username=\"a\"", Reason::OneUseCredentials),
        ("GET /\nAuthorization: NTLM TlRM", Reason::OneUseCredentials),
        ("GET /\nAuthorization: negotiate YII", Reason::OneUseCredentials),
        ("GET /\nAuthorization: SCRAM-SHA-256 data=x", Reason::OneUseCredentials),
        ("GET /\nAuthorization: Bearer x\nAuthorization: Digest x", Reason::OneUseCredentials),
        ("GET /events\nAccept: text/html, Text/Event-Stream;q=0.5", Reason::EventStream),
        ("GET /events\nAccept: */*\nAccept: text/event-stream", Reason::EventStream),
        ("GET /\nContent-Length: 1", Reason::BodyOnSafeMethod),
        ("GET /\nContent-Length: x", Reason::BodyOnSafeMethod),
        ("HEAD /\nTransfer-Encoding: chunked", Reason::BodyOnSafeMethod),
        ("GET /logout", Reason::SuspiciousPath),
        ("GET /callback?code=x&state=y", Reason::ConsumedQueryKey),
        ("GET /?action=delete", Reason::SuspiciousQuery),
        ("GET /?%zz=1", Reason::MalformedQuery),
        ("GET /a//b", Reason::NonCanonicalPath),
        ("GET /a/../b", Reason::NonCanonicalPath),
        ("GET /a;b", Reason::NonCanonicalPath),
        ("GET /a%2Fb", Reason::NonCanonicalPath),
        ("OPTIONS *", Reason::NonCanonicalPath),
        ("GET /graphql?query=mutation%7Ba%7D", Reason::SuspiciousQuery),
        ("GET /r/info/refs?service=git-receive-pack", Reason::GitPush),
    ] {
        assert_eq!(verdict(&defaults(), text), Verdict::Known(Write, reason), "{text}");
    }
    let unannounced = request("GET /");
    let unannounced = Head { has_body: true, ..head(&unannounced) };
    assert_eq!(defaults().head(&unannounced), Verdict::Known(Write, Reason::BodyOnSafeMethod));
}

#[test]
fn opted_in_requests_are_claimed() {
    let classifier = classifier(&opted_in());
    for (text, expected) in [
        ("POST /graphql\nContent-Type: application/json", Verdict::NeedsBody(BodyKind::Graphql)),
        (
            "POST /graphql?op=Get\nContent-Type: application/json; charset=UTF-8",
            Verdict::NeedsBody(BodyKind::Graphql),
        ),
        ("POST /graphql\nContent-Type: application/graphql", Verdict::NeedsBody(BodyKind::Graphql)),
        ("POST /graphql\nContent-Type: text/plain", write(Reason::BodyType)),
        ("POST /graphql", write(Reason::BodyType)),
        ("POST /graphql\nContent-Type: application/json\nContent-Type: text/plain", write(Reason::BodyType)),
        ("POST /graphql\nContent-Type: text/plain\nContent-Type: application/json", write(Reason::BodyType)),
        ("POST /graphql?query={a}\nContent-Type: application/json", write(Reason::GraphqlMalformed)),
        ("POST /graphql/x\nContent-Type: application/json", write(Reason::UnsafeMethod)),
        ("PUT /graphql\nContent-Type: application/json", write(Reason::UnsafeMethod)),
        ("GET /graphql?query=%7Ba%7D", Verdict::NeedsBody(BodyKind::GraphqlUrl)),
        ("GET /graphql?id=1", Verdict::NeedsBody(BodyKind::GraphqlUrl)),
        ("GET /graphql?query=%7Ba%7D\nContent-Length: 2", write(Reason::BodyOnSafeMethod)),
        ("GET /graphql", Verdict::Known(Read, Reason::SafeMethod)),
        ("GET /graphql\nAccept: text/event-stream", write(Reason::EventStream)),
        ("POST /p.S/Get\nContent-Type: application/grpc", Verdict::Known(Read, Reason::GrpcListed)),
        ("POST /p.S/Get\nContent-Type: application/grpc+proto", Verdict::Known(Read, Reason::GrpcListed)),
        ("POST /p.S/Put\nContent-Type: application/grpc", write(Reason::GrpcUnlisted)),
        ("POST /p.S/get\nContent-Type: application/grpc", write(Reason::GrpcUnlisted)),
        ("POST /p.S/Get?x\nContent-Type: application/grpc", write(Reason::GrpcUnlisted)),
        ("POST /p.S/Get\nContent-Type: application/grpc-web", write(Reason::UnsafeMethod)),
        ("POST /p.S/Get\nContent-Type: application/json", write(Reason::UnsafeMethod)),
        ("PUT /p.S/Get\nContent-Type: application/grpc", write(Reason::UnsafeMethod)),
        ("POST /rpc\nContent-Type: application/json", Verdict::NeedsBody(BodyKind::JsonRpc)),
        ("POST /rpc\nContent-Type: text/plain", write(Reason::BodyType)),
        ("GET /rpc?method=set&params=1", write(Reason::JsonRpcMalformed)),
        ("POST /rpc?Method=set\nContent-Type: application/json", write(Reason::JsonRpcMalformed)),
        ("POST /a/_search\nContent-Type: application/json", Verdict::Known(Read, Reason::SearchPath)),
        (
            "GET /a/_search\nContent-Type: application/json\nContent-Length: 9",
            Verdict::Known(Read, Reason::SearchPath),
        ),
        ("GET /a/_search?q=x", Verdict::Known(Read, Reason::SafeMethod)),
        ("POST /a/_search", Verdict::Known(Read, Reason::SearchPath)),
        ("POST /a/_search?scroll=1m\nContent-Type: application/json", write(Reason::ConsumedQueryKey)),
        ("POST /logout/_search\nContent-Type: application/json", write(Reason::SuspiciousPath)),
        (
            "POST /a/_search\nContent-Type: application/x-www-form-urlencoded\nContent-Length: 9",
            write(Reason::BodyType),
        ),
        ("POST /a/_async_search\nContent-Type: application/json", write(Reason::UnsafeMethod)),
        ("DELETE /a/_search\nContent-Type: application/json", write(Reason::UnsafeMethod)),
        (
            "POST /r.git/git-upload-pack\nContent-Type: application/x-git-upload-pack-request",
            Verdict::Known(Read, Reason::GitFetch),
        ),
        ("POST /r.git/git-upload-pack\nContent-Type: text/plain", write(Reason::UnsafeMethod)),
        (
            "POST /r.git/git-receive-pack\nContent-Type: application/x-git-receive-pack-request",
            write(Reason::UnsafeMethod),
        ),
        ("GET /r.git/info/refs?service=git-upload-pack", Verdict::Known(Read, Reason::GitFetch)),
        ("GET /r.git/info/refs?service=git-receive-pack", write(Reason::GitPush)),
        ("GET /r.git/info/refs?service=git-upload-pack&service=git-receive-pack", write(Reason::GitPush)),
    ] {
        assert_eq!(verdict(&classifier, text), expected, "{text}");
    }
}

#[test]
fn bodies_that_cannot_be_read_plainly_are_writes() {
    let classifier = classifier(&opted_in());
    let uri = Uri::from_static("/graphql");
    let headers = |encoding: Option<&'static str>| {
        let mut headers = HeaderMap::from_iter([(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        )]);
        headers.extend(encoding.map(|e| (http::header::CONTENT_ENCODING, HeaderValue::from_static(e))));
        headers
    };
    let body = |encoding, body: &[u8]| classifier.body(BodyKind::Graphql, &headers(encoding), &uri, body);
    let query = br#"{"query":"{a}"}"#;
    assert_eq!(body(None, query), (Read, Reason::GraphqlQuery));
    assert_eq!(body(Some("identity"), query), (Read, Reason::GraphqlQuery));
    assert_eq!(body(Some("gzip"), query), (Write, Reason::BodyEncoded));
    assert_eq!(body(None, &vec![b' '; MAX_PARSED_BYTES + 1]), (Write, Reason::BodyTooLarge));
    let calls = br#"{"id":1,"method":"get"}"#;
    assert_eq!(
        classifier.body(BodyKind::JsonRpc, &headers(None), &uri, calls),
        (Read, Reason::JsonRpcListed)
    );
    let uri = Uri::from_static("/graphql?query=%7Ba%7D");
    assert_eq!(
        classifier.body(BodyKind::GraphqlUrl, &HeaderMap::new(), &uri, b""),
        (Read, Reason::GraphqlQuery)
    );
    assert_eq!(
        classifier.body(BodyKind::GraphqlUrl, &HeaderMap::new(), &uri, b"x"),
        (Write, Reason::BodyOnSafeMethod)
    );
}

#[test]
fn the_first_rule_that_matches_decides_and_precedes_the_defaults() {
    let classifier = ruled(vec![
        Rule { path: Some("/reports/.*".into()), ..rule(RuleClass::Write) },
        Rule { methods: vec!["get".into()], path: Some("/logout".into()), ..rule(RuleClass::Read) },
        Rule {
            methods: vec!["POST".into()],
            path: Some("/(lookup|lookups)".into()),
            ..rule(RuleClass::Read)
        },
        Rule { path: Some("/graphql".into()), ..rule(RuleClass::Write) },
        Rule { path: Some("/(events|rpc|p.S/Put)".into()), ..rule(RuleClass::Read) },
    ]);
    for (text, expected) in [
        ("GET /reports/1", write(Reason::Rule(0))),
        ("GET /reports", Verdict::Known(Read, Reason::SafeMethod)),
        ("GET /logout", Verdict::Known(Read, Reason::Rule(1))),
        ("GET /logout/all", write(Reason::SuspiciousPath)),
        ("POST /logout", write(Reason::UnsafeMethod)),
        ("POST /lookups", Verdict::Known(Read, Reason::Rule(2))),
        ("POST /lookup/", write(Reason::UnsafeMethod)),
        ("POST /graphql\nContent-Type: application/json", write(Reason::Rule(3))),
        ("POST /rpc\nContent-Type: application/json", Verdict::NeedsBody(BodyKind::JsonRpc)),
        ("POST /p.S/Put\nContent-Type: application/grpc", Verdict::Known(Read, Reason::Rule(4))),
        ("GET /events?token=x\nAccept: text/event-stream", Verdict::Known(Read, Reason::Rule(4))),
    ] {
        assert_eq!(verdict(&classifier, text), expected, "{text}");
    }
}

#[test]
fn no_rule_overrides_a_hard_guard() {
    let classifier = ruled(vec![rule(RuleClass::Read)]);
    for (text, reason) in [
        ("TRACE /", Reason::Trace),
        ("CONNECT /chat", Reason::Connect),
        ("GET /\nUpgrade: websocket", Reason::Upgrade),
        ("GET /\nX-HTTP-Method-Override: DELETE", Reason::MethodOverride),
        ("GET /?_method=DELETE", Reason::MethodOverride),
        ("GET /\nAuthorization: Digest x", Reason::OneUseCredentials),
        ("GET /a/../b", Reason::NonCanonicalPath),
    ] {
        assert_eq!(verdict(&classifier, text), write(reason), "{text}");
    }
    assert_eq!(verdict(&classifier, "DELETE /"), Verdict::Known(Read, Reason::Rule(0)));
}

#[test]
fn a_body_that_a_rule_calls_a_read_may_not_carry_an_override() {
    let classifier = ruled(vec![rule(RuleClass::Read)]);
    let kind = BodyKind::RuleBody { rule: 0 };
    for (content_type, body, expected) in [
        ("Content-Type: application/x-www-form-urlencoded", "q=1&_method=x", Reason::MethodOverride),
        ("Content-Type: application/x-www-form-urlencoded", "q=1&%5fmethod=x", Reason::MethodOverride),
        (
            "Content-Type: application/x-www-form-urlencoded; charset=utf-16",
            "q=_method",
            Reason::MethodOverride,
        ),
        ("Content-Type: application/x-www-form-urlencoded", "q=_method", Reason::Rule(0)),
        ("Content-Type: multipart/form-data; boundary=x", "--x\r\nname=\"_method\"", Reason::MethodOverride),
        ("Content-Type: application/json", r#"{"_method":"PUT"}"#, Reason::MethodOverride),
        ("Content-Type: application/json", r#"{"\u005Fmethod":"PUT"}"#, Reason::MethodOverride),
        ("Content-Type: application/json", r#"{"q":1}"#, Reason::Rule(0)),
        ("Accept: */*", "_method=PUT", Reason::MethodOverride),
    ] {
        let request = request(&format!("POST /x\n{content_type}\nContent-Length: {}", body.len()));
        assert_eq!(classifier.head(&head(&request)), Verdict::NeedsBody(kind), "{content_type}");
        let class = if expected == Reason::Rule(0) { Read } else { Write };
        let verdict = classifier.body(kind, request.headers(), request.uri(), body.as_bytes());
        assert_eq!(verdict, (class, expected), "{content_type} {body}");
    }
    assert_eq!(
        verdict(&classifier, "POST /x\nContent-Type: application/octet-stream\nContent-Length: 1"),
        Verdict::Known(Read, Reason::Rule(0))
    );
}

#[test]
fn doubt_about_a_condition_is_resolved_towards_write() {
    let on = |class| {
        ruled(vec![
            Rule { header: Some(("X-Mode".into(), "a+".into())), path: Some("/h".into()), ..rule(class) },
            Rule { query: Some(("m".into(), "a.*".into())), path: Some("/q".into()), ..rule(class) },
        ])
    };
    let (reads, writes) = (on(RuleClass::Read), on(RuleClass::Write));
    for (text, read_holds, write_holds) in [
        ("POST /h\nX-Mode: aa", true, true),
        ("POST /h\nX-Mode: ab", false, false),
        ("POST /h", false, false),
        ("POST /h\nX-Mode: a\nX-Mode: b", false, true),
        ("POST /q?m=ab", true, true),
        ("POST /q?m=%61b", true, true),
        ("POST /q?m=a%0Ab", true, true),
        ("POST /q?n=a", false, false),
        ("POST /q?m=a&M=b", false, true),
        ("POST /q?m=a&m[]=b", false, true),
        ("POST /q?m=a;m=b", false, true),
        ("POST /q?m=a%zz", false, true),
    ] {
        assert_eq!(matches!(verdict(&reads, text), Verdict::Known(Read, _)), read_holds, "{text}");
        let held = matches!(verdict(&writes, text), Verdict::Known(Write, Reason::Rule(_)));
        assert_eq!(held, write_holds, "{text}");
    }
}

#[test]
fn rules_tell_hosts_apart() {
    let matches = |pattern: &str, host: &str| {
        let classifier = ruled(vec![Rule { host: Some(pattern.into()), ..rule(RuleClass::Write) }]);
        let request = request("GET /");
        classifier.head(&Head { host, ..head(&request) }) == write(Reason::Rule(0))
    };
    for (pattern, host) in [
        ("a.example", "a.example"),
        ("A.example", "a.Example.:80"),
        ("*.example", "a.b.example"),
        ("[::1]", "[::1]:80"),
    ] {
        assert!(matches(pattern, host), "{pattern} {host}");
    }
    for (pattern, host) in [
        ("a.example", "b.a.example"),
        ("*.example", "example"),
        ("*.example", ".example"),
        ("a", ""),
        ("[::1]", "[::2]"),
    ] {
        assert!(!matches(pattern, host), "{pattern} {host}");
    }
}

#[test]
fn mistakes_in_settings_are_errors_that_name_their_place() {
    let message = |settings: config::Classify| Classifier::new(&settings, None).unwrap_err().to_string();
    let with = |rule: Rule| {
        message(config::Classify {
            rules: vec![self::rule(RuleClass::Read), rule],
            ..config::Classify::default()
        })
    };
    for pattern in ["(", "a)|(b", r"(a)\1", "(?x)a # b"] {
        let error = with(Rule { path: Some(pattern.into()), ..rule(RuleClass::Read) });
        assert!(error.starts_with("rule 1: path is not a valid regex"), "{error}");
    }
    for (rule, start) in [
        (Rule { methods: vec!["G T".into()], ..rule(RuleClass::Read) }, "rule 1: `G T`"),
        (Rule { header: Some(("a b".into(), String::new())), ..rule(RuleClass::Read) }, "rule 1: `a b`"),
        (Rule { host: Some("a:80".into()), ..rule(RuleClass::Read) }, "rule 1: `a:80`"),
        (Rule { host: Some("*a".into()), ..rule(RuleClass::Read) }, "rule 1: `*a`"),
    ] {
        let error = with(rule);
        assert!(error.starts_with(start), "{error}");
    }
    let error =
        message(config::Classify { search_paths: vec!["_search".into()], ..config::Classify::default() });
    assert!(error.starts_with("search_paths: `_search`"), "{error}");
    let error =
        message(config::Classify { grpc_descriptor_set: Some("x".into()), ..config::Classify::default() });
    assert!(error.starts_with("grpc_descriptor_set"), "{error}");
}

#[test]
fn explanations_say_what_why_and_what_would_change_it() {
    let classifier = ruled(vec![Rule { path: Some("/x".into()), ..rule(RuleClass::Read) }]);
    let explain = |text: &str, body: &str| classifier.explain(&head(&request(text)), body.as_bytes());
    for (text, body, expected) in [
        (
            "GET /items",
            "",
            "read: the method is safe and nothing suggests an effect [safe_method]
  to change it: a rule with class = \"write\"",
        ),
        (
            "GET /user/logOut",
            "",
            "write: the path names an action (`logOut`) [suspicious_path]
  to change it: a rule with class = \"read\", if it is certain to have no effect",
        ),
        (
            "GET /cb?a=1&code=2",
            "",
            "write: a query key is one that is used up by its first use (`code`) [consumed_query_key]
  to change it: a rule with class = \"read\", if it is certain to have no effect",
        ),
        (
            "GET /a%2fb",
            "",
            "write: an instance may resolve the path differently from how it is written (it encodes a delimiter) [non_canonical_path]
  nothing changes it: no rule overrides this",
        ),
        (
            "GET /x",
            "",
            "read: rule 0 matches [rule]
  to change it: change this rule, or put another one before it",
        ),
        (
            "DELETE /items/1",
            "",
            "write: the method is not a safe one (`DELETE`) [unsafe_method]
  to change it: a rule with class = \"read\", or an opt-in such as graphql_paths, grpc_methods or search_paths",
        ),
        (
            "POST /graphql\nContent-Type: application/json",
            r#"{"query":"mutation{a}"}"#,
            "write: the GraphQL document holds a mutation [graphql_mutation]
  decided from the body, after the request was forwarded
  to change it: another request: what is parsed is read as strictly as this",
        ),
    ] {
        assert_eq!(explain(text, body).to_string(), expected);
    }
    assert_eq!(explain("GET /x", "").rule(), Some(0));
}
