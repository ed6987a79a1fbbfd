//! GraphQL: a request is a read if every operation in its document is a query.
//!
//! Which operation runs is chosen by `operationName`, by rules that servers bend; so a mutation or subscription
//! anywhere in the document makes it a write. What has no document in sight (persisted and stored queries) is unknown,
//! hence a write. So is a member that the protocol does not have: `Query` means `query` to some servers.
//!
//! The parser is `graphql-parser`, which gives up at 50 open brackets: that takes 256 KiB of stack, 1.5 MiB in a
//! debug build. `readable` keeps from it what it would read differently from others, and the one input that makes
//! it panic.

use graphql_parser::query::{Definition, OperationDefinition, parse_query};
use http::{HeaderMap, Method};

use super::headers::{self, Media, Signs};
use super::json::Json;
use super::{BodyKind, Head, Reason, Verdict, query, write};

#[derive(Clone, Debug)]
pub struct Endpoints {
    paths: Vec<String>,
}

impl Endpoints {
    pub fn new(paths: &[String]) -> Self {
        Self { paths: paths.to_vec() }
    }

    /// Claims every request that may carry a document to an endpoint. What is left, such as a GET without a query
    /// string, serves the endpoint's own page and is a matter for the defaults.
    pub fn claim(&self, head: &Head<'_>, signs: &Signs<'_>) -> Option<Verdict> {
        if !self.paths.iter().any(|path| path == head.uri.path()) {
            return None;
        }
        match *head.method {
            Method::POST => Some(match signs.media() {
                // Some servers prefer a document in the URL over the one in the body.
                _ if query::keys(head.uri.query()).any(|key| is_member(&key)) => {
                    write(Reason::GraphqlMalformed)
                }
                Media::Json | Media::Graphql => Verdict::NeedsBody(BodyKind::Graphql),
                _ => write(Reason::BodyType),
            }),
            Method::GET | Method::HEAD if signs.has_body => Some(write(Reason::BodyOnSafeMethod)),
            Method::GET | Method::HEAD if head.uri.query().is_some_and(|query| !query.is_empty()) => {
                Some(Verdict::NeedsBody(BodyKind::GraphqlUrl))
            }
            _ => None,
        }
    }
}

/// Names under which servers look for a document or a reference to one.
fn is_member(key: &query::Key<'_>) -> bool {
    ["query", "variables", "operationName", "extensions", "id", "documentId", "doc_id", "queryId", "hash"]
        .iter()
        .any(|member| key.is(member))
}

pub fn classify_body(headers: &HeaderMap, body: &[u8]) -> Result<Reason, Reason> {
    match headers::media_of(headers) {
        Media::Graphql => document(std::str::from_utf8(body).map_err(|_| Reason::GraphqlMalformed)?),
        Media::Json => {
            let json = Json::parse(body).ok_or(Reason::BodyMalformed)?;
            for request in json.requests().ok_or(Reason::GraphqlMalformed)? {
                classify_request(request)?;
            }
            Ok(Reason::GraphqlQuery)
        }
        _ => Err(Reason::BodyType),
    }
}

fn classify_request(request: &Json<'_>) -> Result<Reason, Reason> {
    let members = request.as_object().ok_or(Reason::GraphqlMalformed)?;
    let mut text = None;
    for (name, value) in members {
        match (name.as_ref(), value) {
            ("query", Json::Text(document)) => text = Some(document),
            ("query" | "extensions", Json::Null) | ("variables" | "operationName", _) => {}
            ("extensions", Json::Object(extensions)) if !extensions.keys().any(|name| refers(name)) => {}
            ("extensions" | "id" | "documentId" | "doc_id" | "queryId" | "hash", _) => {
                return Err(Reason::GraphqlStored);
            }
            _ => return Err(Reason::GraphqlMalformed),
        }
    }
    document(text.ok_or(Reason::GraphqlStored)?)
}

/// Whether an extension may name a stored document instead of the one that was sent.
fn refers(extension: &str) -> bool {
    !extension.is_ascii() || extension.to_ascii_lowercase().contains("persisted")
}

/// A document in the query string, once, beside members of the protocol only.
pub fn classify_url(form: &str) -> Result<Reason, Reason> {
    let mut text = None;
    for key in query::pieces(form.as_bytes()) {
        let value = key.decoded_value().ok_or(Reason::GraphqlMalformed)?;
        match key.name() {
            // A repeated key, or a `;` that others would take for a part of the document.
            b"query" if text.is_some() || form.contains(';') => return Err(Reason::GraphqlMalformed),
            b"query" => {
                text = Some(String::from_utf8(value.into_owned()).map_err(|_| Reason::GraphqlMalformed)?);
            }
            b"variables" | b"operationName" => {}
            b"extensions" => {
                let extensions = Json::parse(&value).ok_or(Reason::BodyMalformed)?;
                let extensions = extensions.as_object().ok_or(Reason::GraphqlMalformed)?;
                if extensions.keys().any(|name| refers(name)) {
                    return Err(Reason::GraphqlStored);
                }
            }
            _ => return Err(Reason::GraphqlStored),
        }
    }
    document(&text.ok_or(Reason::GraphqlStored)?)
}

fn document(text: &str) -> Result<Reason, Reason> {
    if !readable(text) {
        return Err(Reason::GraphqlMalformed);
    }
    let document = parse_query::<&str>(text).map_err(|_| Reason::GraphqlMalformed)?;
    let mut queries = 0;
    for definition in &document.definitions {
        match definition {
            Definition::Operation(OperationDefinition::Query(_) | OperationDefinition::SelectionSet(_)) => {
                queries += 1;
            }
            Definition::Operation(OperationDefinition::Mutation(_)) => return Err(Reason::GraphqlMutation),
            Definition::Operation(OperationDefinition::Subscription(_)) => {
                return Err(Reason::GraphqlSubscription);
            }
            Definition::Fragment(_) => {}
        }
    }
    if queries == 0 { Err(Reason::GraphqlMalformed) } else { Ok(Reason::GraphqlQuery) }
}

/// Whether every parser reads the text alike.
///
/// Refused are control characters, and line separators that end a comment for some lexers and not for others. Beside
/// a block string any other white space outside ASCII is refused too: the parser strips indentation by bytes and
/// panics when that splits a character.
fn readable(text: &str) -> bool {
    let block_string = text.contains("\"\"\"");
    text.chars().all(|c| match c {
        '\t' | '\n' | '\r' => true,
        '\u{2028}' | '\u{2029}' => false,
        c if c.is_control() => false,
        c => c.is_ascii() || !(block_string && c.is_whitespace()),
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::CONTENT_TYPE;
    use proptest::prelude::*;

    use super::*;

    const QUERY: Result<Reason, Reason> = Ok(Reason::GraphqlQuery);

    fn body(content_type: &'static str, body: &str) -> Result<Reason, Reason> {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
        classify_body(&headers, body.as_bytes())
    }

    fn json(text: &str) -> Result<Reason, Reason> {
        body("application/json", text)
    }

    #[test]
    fn documents_of_queries_are_reads() {
        for text in [
            "{a}",
            "query{a}",
            "query Mutation { mutation subscription(mutation: \"mutation {a}\") }",
            "# mutation {a}\n{ a }",
            "query Q($a: [Int!]! = [1]) @d(x: {y: $a}) { b: a(x: ENUM) { ...F ... on T { c } } } fragment F on T { d }",
            "{ a(s: \"\"\"\n  mutation { a }\n  \\\"\"\" mutation\n\"\"\") }",
            "query A{a} query B{b}",
            "\u{feff}{a}",
        ] {
            assert_eq!(document(text), QUERY, "{text}");
        }
    }

    #[test]
    fn a_mutation_or_subscription_anywhere_is_a_write() {
        for (text, expected) in [
            ("mutation{a}", Reason::GraphqlMutation),
            ("query A{a} mutation B{b}", Reason::GraphqlMutation),
            ("mutation B{b} query A{a}", Reason::GraphqlMutation),
            ("# {\rmutation{a}", Reason::GraphqlMutation),
            ("#\nmutation\n#\n{a}", Reason::GraphqlMutation),
            (",,\u{feff}mutation,{a}", Reason::GraphqlMutation),
            ("{a(x:\"\\\"\")} mutation{b}", Reason::GraphqlMutation),
            ("{a(x:\"\"\"\"\"\")} mutation{b} #\"\"\"", Reason::GraphqlMutation),
            ("{a(x:\"\"\"\\\\\\\"\"\"\"\"\")} mutation{b}", Reason::GraphqlMutation),
            ("fragment F on T{a} subscription{...F}", Reason::GraphqlSubscription),
        ] {
            assert_eq!(document(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn what_does_not_parse_is_a_write() {
        for text in [
            "",
            " ",
            "{",
            "{}",
            "{a",
            "a",
            "query",
            "fragment F on T{a}",
            "type T{a:Int}",
            "schema{query:Q}",
            "{a}}",
            "MUTATION{a}",
            "{a(x:99999999999999999999999)}",
            "{a(x:\"\n\")}",
            "#\u{2028}mutation{a}\n{a}",
            "#\u{b}mutation{a}\n{a}",
            "{a}\0",
            "{a(x:\"\"\"\n a\n\u{2003}b\n\"\"\")}",
        ] {
            assert_eq!(document(text), Err(Reason::GraphqlMalformed), "{text:?}");
        }
    }

    /// On the stack that a thread has unless told otherwise; an overflow would kill the test.
    #[test]
    fn depth_cannot_overflow_the_stack() {
        let hostile = [
            "{a".repeat(100_000),
            format!("{}{}", "{a".repeat(49), "}".repeat(49)),
            format!("{{a(x:{}1{})}}", "[".repeat(47), "]".repeat(47)),
            format!("{{a(x:{}", "[".repeat(100_000)),
            format!("{{a(x:{}", "{b:".repeat(100_000)),
            format!("query($a:{}", "[".repeat(100_000)),
            "{a}".repeat(1000) + &"{a".repeat(100_000),
            format!("{{a(x:\"{}\"){}", "}".repeat(1000), "{a".repeat(100_000)),
        ];
        let classify = move || hostile.iter().map(|text| document(text).is_ok()).collect::<Vec<_>>();
        let read =
            std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(classify).unwrap().join().unwrap();
        assert_eq!(read, [false, true, true, false, false, false, false, false]);
    }

    #[test]
    fn envelopes_are_taken_literally() {
        assert_eq!(json(r#"{"query":"{a}"}"#), QUERY);
        assert_eq!(
            json(r#"{"query":"query A{a}","operationName":"A","variables":{"query":"mutation{a}"}}"#),
            QUERY
        );
        assert_eq!(json(r#"{"query":"{a}","extensions":{"clientLibrary":{"name":"x"}}}"#), QUERY);
        assert_eq!(json(r#"[{"query":"{a}"},{"query":"{b}"}]"#), QUERY);
        assert_eq!(body("application/graphql", "{a}"), QUERY);
        for (text, expected) in [
            (r#"{"query":"query A{a} mutation B{b}","operationName":"A"}"#, Reason::GraphqlMutation),
            (r#"{"query":"\u006dutation{a}"}"#, Reason::GraphqlMutation),
            (r#"[{"query":"{a}"},{"query":"mutation{b}"}]"#, Reason::GraphqlMutation),
            (r#"{"query":"{a}","query":"mutation{a}"}"#, Reason::BodyMalformed),
            (r#"{"query":"{a}","Query":"mutation{a}"}"#, Reason::GraphqlMalformed),
            (r#"{"query":["{a}"]}"#, Reason::GraphqlMalformed),
            (r#"{"operationName":"A"}"#, Reason::GraphqlStored),
            (r#"{"query":null,"extensions":{"persistedQuery":{"version":1}}}"#, Reason::GraphqlStored),
            (r#"{"query":"{a}","extensions":{"persistedQuery":{"version":1}}}"#, Reason::GraphqlStored),
            (r#"{"query":"{a}","extensions":{"per\u017fistedQuery":1}}"#, Reason::GraphqlStored),
            (r#"{"query":"{a}","doc_id":"1"}"#, Reason::GraphqlStored),
            ("[]", Reason::GraphqlMalformed),
            ("[[{\"query\":\"{a}\"}]]", Reason::GraphqlMalformed),
            ("\"{a}\"", Reason::GraphqlMalformed),
            ("", Reason::BodyMalformed),
        ] {
            assert_eq!(json(text), Err(expected), "{text}");
        }
        for content_type in [
            "text/plain",
            "application/json; charset=utf-7",
            "application/json;charset=utf-16le",
            "multipart/form-data",
        ] {
            assert_eq!(body(content_type, r#"{"query":"{a}"}"#), Err(Reason::BodyType), "{content_type}");
        }
    }

    #[test]
    fn documents_in_the_url_are_parsed_too() {
        for form in [
            "query=%7Ba%7D",
            "query={a}&variables={}&operationName=",
            "query=query+A%7Ba%7D&extensions=%7B%7D",
        ] {
            assert_eq!(classify_url(form), QUERY, "{form}");
        }
        for form in [
            "query=mutation%7Ba%7D",
            "query=%6dutation{a}",
            "query={a}&query=mutation{a}",
            "query=mutation{a}&query={a}",
            "query={a}&%71uery=mutation{a}",
            "query={a};query=mutation{a}",
            "query={a(x:\"%u0022\")}",
            "query={a}&id=1",
            "query={a}&Query=x",
            "id=1",
            "query=",
            "",
            "query={a}&extensions={\"persistedQuery\":{}}",
            "query=%ff",
        ] {
            assert!(classify_url(form).is_err(), "{form}");
        }
    }

    /// White space, commas, comments: what may stand between two tokens.
    fn ignored() -> impl Strategy<Value = String> {
        let one = prop_oneof![
            Just(" "),
            Just("\n"),
            Just("\r\n"),
            Just("\r"),
            Just("\t"),
            Just(","),
            Just("# query {a} \" \"\"\" {\n"),
            Just("#\r"),
        ];
        prop::collection::vec(one, 1..4).prop_map(|parts| parts.concat())
    }

    fn value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("1".to_owned()),
            Just("-1.5e3".into()),
            Just("$v".into()),
            Just("mutation".into()),
            Just("null".into()),
            Just(r#""mutation { a } \" \\""#.into()),
            Just("\"\"".into()),
            Just("\"\"\"\"\"\"".into()),
            Just(r#"""" mutation {a} " "" \""" \\""" """"#.into()),
            "[ -~&&[^\"\\\\]]{0,12}".prop_map(|text| format!("\"{text}\"")),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(" "))),
                inner.prop_map(|value| format!("{{query: {value}}}")),
            ]
        })
    }

    fn selection_set() -> impl Strategy<Value = Vec<String>> {
        let name = prop_oneof![
            Just("a"),
            Just("mutation"),
            Just("subscription"),
            Just("query"),
            Just("fragment"),
            Just("on_")
        ];
        let leaf = (name, prop::option::of(value()))
            .prop_map(|(name, argument)| {
                let mut tokens = vec![name.to_owned()];
                if let Some(value) = argument {
                    tokens.extend(["(".into(), "x".into(), ":".into(), value, ")".into()]);
                }
                tokens
            })
            .boxed();
        let field = leaf.clone().prop_recursive(3, 8, 2, move |inner| {
            (leaf.clone(), prop::collection::vec(inner, 1..3))
                .prop_map(|(head, inner)| [head, vec!["{".into()], inner.concat(), vec!["}".into()]].concat())
        });
        field.prop_map(|field| [vec!["{".into()], field, vec!["}".into()]].concat())
    }

    fn definition(keyword: &'static str) -> impl Strategy<Value = Vec<String>> {
        let name = prop_oneof![Just(None), Just(Some("query")), Just(Some("mutation")), Just(Some("Q"))];
        (name, selection_set()).prop_map(move |(name, selection)| {
            let mut tokens = vec![keyword.to_owned()];
            tokens.extend(name.map(str::to_owned));
            [tokens, selection].concat()
        })
    }

    fn fragment() -> impl Strategy<Value = Vec<String>> {
        selection_set().prop_map(|selection| {
            let head = ["fragment", "mutation", "on", "subscription"].map(str::to_owned).to_vec();
            [head, selection].concat()
        })
    }

    fn rendered(reads: Vec<Vec<String>>, gaps: &[String]) -> String {
        let mut gaps = gaps.iter().cycle();
        let mut text = String::new();
        for token in reads.into_iter().flatten() {
            text.push_str(gaps.next().map_or(" ", String::as_str));
            text.push_str(&token);
        }
        text
    }

    fn reads() -> impl Strategy<Value = Vec<Vec<String>>> {
        prop::collection::vec(prop_oneof![definition("query"), selection_set(), fragment()], 0..4)
    }

    proptest! {
        #[test]
        fn generated_queries_are_reads(reads in reads(), query in definition("query"), gaps in prop::collection::vec(ignored(), 1..8)) {
            let text = rendered([reads, vec![query]].concat(), &gaps);
            prop_assert_eq!(document(&text), QUERY, "{}", text);
        }

        #[test]
        fn generated_writes_are_writes(
            before in reads(), after in reads(), gaps in prop::collection::vec(ignored(), 1..8),
            write in prop_oneof![definition("mutation"), definition("subscription")], chosen in "[A-Za-z]{0,3}",
        ) {
            let text = rendered([before, vec![write], after].concat(), &gaps);
            let verdict = document(&text);
            prop_assert!(matches!(verdict, Err(Reason::GraphqlMutation | Reason::GraphqlSubscription)), "{verdict:?}: {text}");
            let envelope = serde_json::json!({ "query": text, "operationName": chosen }).to_string();
            prop_assert_eq!(json(&envelope), verdict);
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[ \t\n\r\u{2003}\u{a0}{}()\\[\\]\"\\\\#:,.!$@=|&a-c0-9eE+\\-\u{e9}]{0,60}") {
            let _ = document(&text);
            let _ = document(&format!("{{a(x:\"\"\"{text}\"\"\")}}"));
            let _ = document(&format!("{{a(x:\"{text}\")}}"));
            let _ = document(&format!("{{a(x:{text})}}"));
        }
    }
}
