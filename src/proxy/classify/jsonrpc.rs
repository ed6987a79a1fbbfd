//! JSON-RPC: the method is in the body, and a list says which methods are reads.

use std::collections::BTreeSet;

use http::{HeaderMap, Method};

use super::headers::{self, Media, Signs};
use super::json::Json;
use super::{BodyKind, Head, Reason, Verdict, query, write};

#[derive(Clone, Debug)]
pub struct Endpoints {
    paths: Vec<String>,
    methods: BTreeSet<String>,
}

impl Endpoints {
    pub fn new(paths: &[String], methods: &[String]) -> Self {
        Self { paths: paths.to_vec(), methods: methods.iter().cloned().collect() }
    }

    /// Claims every call to an endpoint. Some servers also take calls from the query string; those are not opted in.
    pub fn claim(&self, head: &Head<'_>, signs: &Signs<'_>) -> Option<Verdict> {
        if !self.paths.iter().any(|path| path == head.uri.path()) {
            return None;
        }
        if query::keys(head.uri.query()).any(|key| key.is("method") || key.is("jsonrpc")) {
            return Some(write(Reason::JsonRpcMalformed));
        }
        if *head.method != Method::POST {
            return None;
        }
        Some(match signs.media() {
            Media::Json => Verdict::NeedsBody(BodyKind::JsonRpc),
            _ => write(Reason::BodyType),
        })
    }

    /// A read only if each call of the batch is: a request (not a notification) of a listed method, with no member
    /// that the specification does not know. Another server may take `Method` for `method`.
    pub fn classify(&self, headers: &HeaderMap, body: &[u8]) -> Result<Reason, Reason> {
        if headers::media_of(headers) != Media::Json {
            return Err(Reason::BodyType);
        }
        let json = Json::parse(body).ok_or(Reason::BodyMalformed)?;
        for call in json.requests().ok_or(Reason::JsonRpcMalformed)? {
            let members = call.as_object().ok_or(Reason::JsonRpcMalformed)?;
            if members.keys().any(|name| !matches!(name.as_ref(), "jsonrpc" | "id" | "method" | "params")) {
                return Err(Reason::JsonRpcMalformed);
            }
            let method = members.get("method").and_then(Json::as_text).ok_or(Reason::JsonRpcMalformed)?;
            if !self.methods.contains(method) {
                return Err(Reason::JsonRpcUnlisted);
            }
            match members.get("id") {
                Some(Json::Text(_) | Json::Scalar) => {}
                None | Some(Json::Null) => return Err(Reason::JsonRpcNotification),
                Some(_) => return Err(Reason::JsonRpcMalformed),
            }
        }
        Ok(Reason::JsonRpcListed)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::CONTENT_TYPE;

    use super::*;

    fn classify(body: &str) -> Result<Reason, Reason> {
        let endpoints = Endpoints::new(&["/rpc".into()], &["get".into(), "list".into()]);
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        endpoints.classify(&headers, body.as_bytes())
    }

    #[test]
    fn listed_methods_are_reads() {
        for body in [
            r#"{"jsonrpc":"2.0","id":1,"method":"get"}"#,
            r#"{"id":"x","method":"list","params":{"method":"set"}}"#,
            r#"[{"id":1,"method":"get"},{"id":2,"method":"list"}]"#,
        ] {
            assert_eq!(classify(body), Ok(Reason::JsonRpcListed), "{body}");
        }
    }

    #[test]
    fn everything_else_is_a_write() {
        for (body, expected) in [
            (r#"{"id":1,"method":"set"}"#, Reason::JsonRpcUnlisted),
            (r#"{"id":1,"method":"GET"}"#, Reason::JsonRpcUnlisted),
            (r#"{"id":1,"method":"get "}"#, Reason::JsonRpcUnlisted),
            (r#"[{"id":1,"method":"get"},{"id":2,"method":"set"}]"#, Reason::JsonRpcUnlisted),
            (r#"{"method":"get"}"#, Reason::JsonRpcNotification),
            (r#"{"id":null,"method":"get"}"#, Reason::JsonRpcNotification),
            (r#"[{"id":1,"method":"get"},{"method":"get"}]"#, Reason::JsonRpcNotification),
            (r#"{"id":1,"method":"get","method":"set"}"#, Reason::BodyMalformed),
            (r#"{"id":1,"method":"get","\u006dethod":"set"}"#, Reason::BodyMalformed),
            (r#"{"id":1,"method":"get","Method":"set"}"#, Reason::JsonRpcMalformed),
            (r#"{"id":1,"method":["get"]}"#, Reason::JsonRpcMalformed),
            (r#"{"id":[1],"method":"get"}"#, Reason::JsonRpcMalformed),
            (r#"{"id":1,"result":1}"#, Reason::JsonRpcMalformed),
            ("[]", Reason::JsonRpcMalformed),
            ("[[]]", Reason::JsonRpcMalformed),
            ("1", Reason::JsonRpcMalformed),
            ("", Reason::BodyMalformed),
        ] {
            assert_eq!(classify(body), Err(expected), "{body}");
        }
    }
}
