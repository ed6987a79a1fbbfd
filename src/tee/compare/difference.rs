//! What differed, for people: short, and without callers' secrets.

use serde::Serialize;

use super::digest::Digest;
use super::outcome::{Noted, Outcome};

/// One thing in which the two answers differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub what: &'static str,
    pub source: String,
    pub shadow: String,
}

/// Longest value shown, in bytes: enough for any validator and a normal URL, small enough to keep
/// hundreds of pairs.
const SHOWN: usize = 160;

impl Difference {
    pub(super) fn new(what: &'static str, source: &str, shadow: &str) -> Self {
        Self { what, source: shorten(source.to_owned()), shadow: shorten(shadow.to_owned()) }
    }

    pub(super) fn of_headers(name: Noted, source: Option<&str>, shadow: Option<&str>) -> Self {
        let show = |value: Option<&str>| match (name, value) {
            (_, None) => "absent".to_owned(),
            (Noted::Location, Some(location)) => redact_target(location),
            (_, Some(value)) => value.to_owned(),
        };
        Self::new(name.as_str(), &show(source), &show(shadow))
    }

    pub(super) fn of_bodies(source: Option<&Digest>, shadow: Option<&Digest>) -> Self {
        let show = |digest: Option<&Digest>| match digest {
            None => "no body".to_owned(),
            // Enough of it to tell a few bodies apart; it is another one in the next process.
            Some(Digest { hash, length }) => format!("{length} bytes, digest {:08x}…", hash >> 96),
        };
        Self::new("body", &show(source), &show(shadow))
    }

    pub(super) fn of_ends(source: &Outcome, shadow: &Outcome) -> Self {
        let show = |side: &Outcome| match &side.head {
            Some(head) => format!("{} {}", head.status.as_str(), side.end.as_str()),
            None => side.end.as_str().to_owned(),
        };
        Self::new("end", &show(source), &show(shadow))
    }
}

/// Cuts on a character's boundary.
pub(super) fn shorten(mut text: String) -> String {
    if text.len() > SHOWN {
        text.truncate(text.floor_char_boundary(SHOWN));
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

/// A request target or URL with the values of its query replaced: they may be tokens or names. A piece
/// without `=` may be one as well. User information is removed, and so is the fragment.
pub fn redact_target(target: &str) -> String {
    if is_bare_path(target) {
        return target.to_owned();
    }
    let target = target.split('#').next().unwrap_or_default();
    let (address, query) = target.split_once('?').map_or((target, None), |(a, q)| (a, Some(q)));
    let mut redacted = String::with_capacity(target.len());
    match address.split_once("//") {
        // Only an authority follows `//`; in a path it is just two slashes.
        Some((scheme, rest)) if scheme.is_empty() || scheme.ends_with(':') => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            redacted.push_str(scheme);
            redacted.push_str("//");
            redacted.push_str(authority.rsplit('@').next().unwrap_or_default());
            redacted.push_str(path);
        }
        _ => redacted.push_str(address),
    }
    for (at, piece) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
        redacted.push(if at == 0 { '?' } else { '&' });
        if let Some((key, _)) = piece.split_once('=') {
            redacted.push_str(key);
            redacted.push('=');
        }
        if !piece.is_empty() {
            redacted.push('*');
        }
    }
    redacted
}

/// Nothing to redact: most targets are only a path, and each pair's is looked at.
fn is_bare_path(target: &str) -> bool {
    let mut before = b' ';
    target.bytes().all(|byte| {
        let two_slashes = byte == b'/' && before == b'/';
        before = byte;
        !two_slashes && byte != b'?' && byte != b'#'
    })
}
