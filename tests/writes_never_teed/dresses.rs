//! Requests of which it is known from the outset whether they write: made as one or the other, never
//! asked of the classifier. `CLASSIFY` is the configuration that they are made for.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;

use crate::support::client::Ask;

pub const CLASSIFY: &str = r#"
[services.web.classify]
graphql = ["/graphql"]
jsonrpc = { paths = ["/rpc"], methods = ["shelf.get", "shelf.list"] }
search = ["/_search"]
rules = [
    { path = "/legacy/.*", class = "write" },
    { query = { key = "action", matches = ".+" }, class = "write" },
    { header = { name = "x-intent", matches = "change" }, class = "write" },
    { methods = ["POST"], path = "/lookup", class = "read" },
    { methods = ["POST"], header = { name = "x-dry-run", matches = "true" }, path = "/shelf/.*", class = "read" },
    { methods = ["GET"], path = "/reports/[0-9]+/delete", class = "read" },
    { methods = ["GET"], path = "/guest/ticket", query = { key = "ticket", matches = "[0-9]+" }, class = "read" },
]
"#;

type Asks = BoxedStrategy<Ask>;

/// A path that says nothing about what it does.
fn path() -> impl Strategy<Value = String> {
    let segment =
        prop_oneof![select(vec!["shelf", "books", "albums", "v1", "Größe"]).prop_map(encoded), "[0-9]{1,6}"];
    prop::collection::vec(segment, 1..4).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn encoded(word: &str) -> String {
    word.bytes().map(|b| if b.is_ascii() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn query() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "\\?(page|q|size)=[a-z0-9%20]{0,3}", "\\?q=[0-9]{0,4}&page=[0-9]{1,2}"]
        .prop_map(|query| query.replace('%', ""))
}

fn target() -> impl Strategy<Value = String> {
    (path(), query()).prop_map(|(path, query)| path + &query)
}

/// A word in some mixture of capitals.
fn dressed(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    (select(words), 0_u8..3).prop_map(|(word, how)| match how {
        0 => word.to_owned(),
        1 => word.to_ascii_uppercase(),
        _ => word[..1].to_ascii_uppercase() + &word[1..],
    })
}

fn json(body: String) -> impl Fn(&str) -> Ask {
    move |target| Ask::new("POST", target).carrying("application/json", body.clone())
}

// === reads ===

pub fn read() -> Asks {
    Union::new([plain_read(), graphql_read(), rpc_read(), search_read(), ruled_read()]).boxed()
}

fn plain_read() -> Asks {
    (select(vec!["GET", "HEAD", "OPTIONS"]), target(), any::<bool>())
        .prop_map(|(method, target, session)| {
            let ask = Ask::new(method, &target);
            if session { ask.with("cookie", "sid=7").with("authorization", "Bearer abc") } else { ask }
        })
        .boxed()
}

const QUERIES: [&str; 7] = [
    "{ shelf { id } }",
    "query { shelf(id: 3) { title } }",
    "query Q($id: ID!) { shelf(id: $id) { ...F } } fragment F on Shelf { id }",
    "query A { a } query B { b }",
    "{ mutation }",
    "{ find(text: \"mutation { drop }\") { id } }",
    "# mutation { drop }\nquery { a }",
];

fn graphql_read() -> Asks {
    (select(&QUERIES[..]), 0_u8..4)
        .prop_map(|(document, how)| {
            let quoted = serde_json::Value::from(document);
            match how {
                0 => json(format!("{{\"query\":{quoted},\"variables\":{{\"id\":1}}}}"))("/graphql"),
                1 => json(format!("[{{\"query\":{quoted}}},{{\"query\":\"{{ a }}\"}}]"))("/graphql"),
                2 => Ask::new("POST", "/graphql").carrying("application/graphql", document),
                _ => Ask::get(&format!("/graphql?query={}", percent(document))),
            }
        })
        .boxed()
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

fn rpc_read() -> Asks {
    prop::collection::vec((select(vec!["shelf.get", "shelf.list"]), 0_u32..99), 1..4)
        .prop_map(|calls| {
            let call = |(method, id): &(&str, u32)| {
                format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{method}\",\"params\":[{id}],\"id\":{id}}}")
            };
            let all: Vec<String> = calls.iter().map(call).collect();
            json(if all.len() == 1 { all[0].clone() } else { format!("[{}]", all.join(",")) })("/rpc")
        })
        .boxed()
}

fn search_read() -> Asks {
    (path(), 0_usize..60_000)
        .prop_map(|(path, size)| {
            let body = format!("{{\"query\":\"{}\"}}", "search".repeat(size / 6));
            json(body)(&format!("{path}/_search"))
        })
        .boxed()
}

fn ruled_read() -> Asks {
    let lookup = "[ -~]{0,200}".prop_map(|text| Ask::new("POST", "/lookup").carrying("text/plain", text));
    let dry = "[a-z]{0,50}".prop_map(|text| {
        Ask::new("POST", "/shelf/9").with("x-dry-run", "true").carrying("application/octet-stream", text)
    });
    let report = (1_u32..999).prop_map(|id| Ask::get(&format!("/reports/{id}/delete")));
    let ticket = (1_u32..999).prop_map(|id| Ask::get(&format!("/guest/ticket?ticket={id}")));
    Union::new([lookup.boxed(), dry.boxed(), report.boxed(), ticket.boxed()]).boxed()
}

// === writes ===

pub fn write() -> Asks {
    Union::new([
        unsafe_method(),
        suspicious_path(),
        consumed_key(),
        overridden(),
        no_plain_exchange(),
        odd_path(),
        body_on_a_safe_method(),
        ruled_write(),
        graphql_write(),
        rpc_write(),
        search_write(),
    ])
    .boxed()
}

fn unsafe_method() -> Asks {
    let methods = [
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "PURGE",
        "PROPFIND",
        "MKCOL",
        "LOCK",
        "LINK",
        "TRACE",
        "get",
        "Get",
        "GETS",
        "QUERY",
        "REPORT",
        "BASELINE-CONTROL",
    ];
    (select(methods.to_vec()), target(), prop::option::of("[a-z]{0,40}"))
        .prop_map(|(method, target, body)| match body {
            Some(body) if method != "TRACE" => Ask::new(method, &target).carrying("text/plain", body),
            _ => Ask::new(method, &target),
        })
        .boxed()
}

fn suspicious_path() -> Asks {
    const WORDS: [&str; 12] = [
        "logout",
        "unsubscribe",
        "delete",
        "checkout",
        "confirm",
        "remove",
        "activate",
        "reset",
        "approve",
        "purge",
        "resend",
        "vote",
    ];
    (
        path(),
        dressed(&WORDS),
        select(vec!["", "/7", ".php", "-now", "_all", "2"]),
        select(vec!["GET", "HEAD"]),
    )
        .prop_map(|(path, word, tail, method)| Ask::new(method, &format!("{path}/{word}{tail}")))
        .boxed()
}

fn consumed_key() -> Asks {
    let keys = [
        "code",
        "state",
        "token",
        "ticket",
        "otp",
        "nonce",
        "SAMLResponse",
        "SAMLRequest",
        "%74oken",
        "Token",
        "CODE",
        "t%6Fken",
        "%6eonce",
    ];
    (path(), select(keys.to_vec()), "[a-zA-Z0-9]{0,12}", any::<bool>())
        .prop_map(|(path, key, value, first)| {
            Ask::get(&if first {
                format!("{path}?{key}={value}&q=1")
            } else {
                format!("{path}?q=1&{key}={value}")
            })
        })
        .boxed()
}

fn overridden() -> Asks {
    let names = ["X-HTTP-Method-Override", "x-http-method", "X-Method-Override", "x_http_method_override"];
    let by_header = (target(), select(names.to_vec()), select(vec!["DELETE", "put", "GET"]))
        .prop_map(|(target, name, method)| Ask::get(&target).with(name, method));
    let keys = ["_method", "%5Fmethod", "_Method", "x-http-method-override", "_method[]"];
    let by_query = (path(), select(keys.to_vec()), select(vec!["DELETE", "patch"]))
        .prop_map(|(path, key, method)| Ask::get(&format!("{path}?{key}={method}")));
    let by_form = select(vec!["_method=DELETE", "a=1&_method=put", "%5fmethod=DELETE"])
        .prop_map(|form| Ask::new("POST", "/lookup").carrying("application/x-www-form-urlencoded", form));
    let by_json = select(vec!["{\"_method\":\"DELETE\"}", "{\"a\":1,\"\\u005fmethod\":\"PUT\"}"])
        .prop_map(|body| json(body.to_owned())("/lookup"));
    Union::new([by_header.boxed(), by_query.boxed(), by_form.boxed(), by_json.boxed()]).boxed()
}

/// What is no request with one answer, or is bound to its connection.
fn no_plain_exchange() -> Asks {
    let more = [
        vec![("connection", "Upgrade"), ("upgrade", "websocket")],
        vec![
            ("connection", "keep-alive, upgrade"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAARAAAAA"),
        ],
        vec![("accept", "text/event-stream")],
        vec![("accept", "application/json, Text/Event-Stream;q=0.9")],
        vec![("authorization", "Digest username=\"a\", nonce=\"b\"")],
        vec![("authorization", "NTLM TlRMTVNTUAABAAAA")],
        vec![("authorization", "negotiate YII=")],
    ];
    (target(), select(more.to_vec()))
        .prop_map(|(target, headers)| headers.iter().fold(Ask::get(&target), |ask, (n, v)| ask.with(n, v)))
        .boxed()
}

fn odd_path() -> Asks {
    let odd = [
        "/../shelf",
        "/./shelf",
        "//shelf",
        "/shelf%2f..%2fadmin",
        "/shelf;jsessionid=1",
        "/%2e%2e/shelf",
        "/shelf%5cx",
        "/shelf%00",
        "/%73helf",
        "/shelf%c0%af",
        "/shelf%zz",
        "/shelf|x",
    ];
    let odd = (path(), select(odd.to_vec()), select(vec!["GET", "HEAD", "OPTIONS"]))
        .prop_map(|(path, odd, method)| Ask::new(method, &format!("{path}{odd}")));
    Union::new([odd.boxed(), Just(Ask::new("OPTIONS", "*")).boxed()]).boxed()
}

fn body_on_a_safe_method() -> Asks {
    (select(vec!["GET", "HEAD", "OPTIONS"]), target(), "[a-z]{1,40}")
        .prop_map(|(method, target, body)| Ask::new(method, &target).carrying("text/plain", body))
        .boxed()
}

fn ruled_write() -> Asks {
    let legacy = "[a-z]{1,8}".prop_map(|name| Ask::get(&format!("/legacy/{name}")));
    let action = path().prop_map(|path| Ask::get(&format!("{path}?q=1&action=x")));
    let header = target().prop_map(|target| Ask::get(&target).with("x-intent", "change"));
    // Close to what a rule calls a read, and not it.
    let near = select(vec![
        Ask::new("POST", "/lookup/more").carrying("text/plain", "x"),
        Ask::new("POST", "/shelf/1").with("x-dry-run", "truely").carrying("text/plain", "x"),
        Ask::new("POST", "/shelf/1")
            .with("x-dry-run", "true")
            .with("x-dry-run", "false")
            .carrying("text/plain", "x"),
        Ask::new("POST", "/other/1").with("x-dry-run", "true").carrying("text/plain", "x"),
        Ask::get("/reports/x/delete"),
        Ask::get("/guest/ticket?ticket=12x"),
        Ask::get("/guest/ticket?ticket=1&ticket=x"),
    ]);
    Union::new([legacy.boxed(), action.boxed(), header.boxed(), near.boxed()]).boxed()
}

const MUTATIONS: [&str; 9] = [
    "mutation { drop }",
    "mutation M($id: ID!) { drop(id: $id) { id } }",
    "query A { a } mutation B { drop }",
    "fragment F on Shelf { id } mutation { drop { ...F } }",
    "# query { a }\nmutation { drop }",
    "\u{feff}mutation { drop }",
    ",,, mutation@x{drop}",
    "subscription { added }",
    "{ a } subscription S { added }",
];

fn graphql_write() -> Asks {
    let dressed = (select(&MUTATIONS[..]), 0_u8..10).prop_map(|(document, how)| {
        let quoted = serde_json::Value::from(document).to_string();
        let units = document.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
        let escaped = units.collect::<Vec<_>>().concat();
        let one = format!("{{\"query\":{quoted}}}");
        match how {
            0 => json(one)("/graphql"),
            1 => json(format!("{{\"operationName\":\"A\",\"query\":{quoted}}}"))("/graphql"),
            2 => json(format!("{{\"query\":\"{escaped}\"}}"))("/graphql"),
            3 => json(format!("[{{\"query\":\"{{ a }}\"}},{one}]"))("/graphql"),
            4 => json(format!("{{\"query\":\"{{ a }}\",\"query\":{quoted}}}"))("/graphql"),
            5 => json(format!("{{\"query\":\"{{ a }}\",\"Query\":{quoted}}}"))("/graphql"),
            6 => Ask::new("POST", "/graphql").carrying("application/graphql", document),
            7 => Ask::get(&format!("/graphql?query={}", percent(document))),
            8 => Ask::get(&format!("/graphql?query=%7Ba%7D&query={}", percent(document))),
            _ => json("{\"query\":\"{ a }\"}".into())(&format!("/graphql?query={}", percent(document))),
        }
    });
    let hidden = select(vec![
        json("{\"id\":\"deadbeef\"}".into())("/graphql"),
        json("{\"extensions\":{\"persistedQuery\":{\"version\":1,\"sha256Hash\":\"ab\"}}}".into())(
            "/graphql",
        ),
        Ask::get("/graphql?extensions=%7B%22persistedQuery%22%3A%7B%7D%7D"),
        Ask::get("/graphql?id=7"),
        Ask::new("POST", "/graphql")
            .with("content-encoding", "gzip")
            .carrying("application/json", *b"\x1f\x8b\x08\x00"),
        Ask::new("POST", "/graphql").carrying("application/x-www-form-urlencoded", "query=%7Ba%7D"),
        Ask::new("POST", "/graphql").carrying("text/plain", "{\"query\":\"{ a }\"}"),
        Ask::new("POST", "/graphql").carrying("multipart/form-data; boundary=x", "--x--"),
        json("not json".into())("/graphql"),
        json("{\"query\":\"{ a \"}".into())("/graphql"),
        json(String::new())("/graphql"),
        json("[]".into())("/graphql"),
        // Longer than what is looked into.
        json(format!("{{\"query\":\"{{ a }}{}\"}}", " ".repeat(70_000)))("/graphql"),
    ]);
    Union::new([dressed.boxed(), hidden.boxed()]).boxed()
}

fn rpc_write() -> Asks {
    let get = "{\"jsonrpc\":\"2.0\",\"method\":\"shelf.get\",\"id\":1}";
    select(vec![
        json("{\"jsonrpc\":\"2.0\",\"method\":\"shelf.drop\",\"id\":1}".into())("/rpc"),
        json("{\"jsonrpc\":\"2.0\",\"method\":\"shelf.get\"}".into())("/rpc"),
        json("{\"jsonrpc\":\"2.0\",\"method\":\"shelf.get\",\"method\":\"shelf.drop\",\"id\":1}".into())(
            "/rpc",
        ),
        json("{\"jsonrpc\":\"2.0\",\"method\":\"shelf.get\",\"Method\":\"shelf.drop\",\"id\":1}".into())(
            "/rpc",
        ),
        json(format!("[{get},{{\"jsonrpc\":\"2.0\",\"method\":\"shelf.drop\",\"id\":2}}]"))("/rpc"),
        json(format!("{get}{get}"))("/rpc"),
        json(get.into())("/rpc?method=shelf.drop"),
        Ask::new("POST", "/rpc").carrying("text/plain", get),
    ])
    .boxed()
}

fn search_write() -> Asks {
    let body = "{\"query\":{}}".to_owned();
    select(vec![
        json(body.clone())("/shelf/_search?scroll=1m"),
        json(body.clone())("/shelf/_search/delete"),
        json(body.clone())("/shelf/delete/_search"),
        json(body.clone())("/shelf/_search?token=1"),
        json(body)("/shelf/../_search"),
        Ask::new("POST", "/shelf/_search").carrying("application/x-www-form-urlencoded", "_method=DELETE"),
        Ask::new("PUT", "/shelf/_search").carrying("application/json", "{}"),
        Ask::new("DELETE", "/shelf/_search"),
    ])
    .boxed()
}
