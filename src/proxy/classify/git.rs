//! Git over HTTP: a fetch or clone POSTs its wishes to `git-upload-pack`, and only reads.

use http::Method;

use super::headers::Signs;
use super::{Class, Decided, Head, Reason, query};

/// Fetches are claimed where they are opted in. The first half of a push is a write everywhere, although it is a GET:
/// what follows it is bound to what it answered.
pub fn claim(head: &Head<'_>, signs: &Signs<'_>, opted_in: bool) -> Option<Decided> {
    let path = head.uri.path();
    if *head.method == Method::POST {
        let fetches = opted_in
            && path.ends_with("/git-upload-pack")
            && head.uri.query().is_none()
            && signs.is_type("application/x-git-upload-pack-request");
        return fetches.then_some((Class::Read, Reason::GitFetch));
    }
    if !path.ends_with("/info/refs") {
        return None;
    }
    if query::keys(head.uri.query()).any(|key| {
        key.is("service") && key.decoded_value().is_some_and(|value| *value == *b"git-receive-pack")
    }) {
        return Some((Class::Write, Reason::GitPush));
    }
    let lists = opted_in
        && *head.method == Method::GET
        && !signs.has_body
        && head.uri.query() == Some("service=git-upload-pack");
    lists.then_some((Class::Read, Reason::GitFetch))
}
