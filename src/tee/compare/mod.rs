//! Compares the two answers of a pair: status, headers that matter, body digest.
//!
//! Two right answers may differ for reasons that are not the shadow's fault: its validators are its
//! own, it has not seen the session begin, a caller left. Such pairs are told apart here so that they
//! can neither accuse the shadow nor speak for it.

mod difference;
mod digest;
mod outcome;
mod pair;

pub use difference::{Difference, redact_target};
pub use digest::{Digest, Digester};
pub use outcome::{End, Head, Noted, NotedHeaders, Outcome};
pub use pair::{Pair, Parties, RecentPairs, Times};

use http::{Method, StatusCode};
use serde::{Serialize, Serializer};

/// What about a request decides how its answers may differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: Method,
    /// `If-None-Match`, `If-Modified-Since`, `If-Match` or `If-Unmodified-Since`.
    pub conditional: bool,
    /// `Range`.
    pub ranged: bool,
    /// A cookie or `Authorization`: the answer may depend on a session.
    pub credentials: bool,
}

/// How a pair compares; its label is part of the interface (`segue_pairs_total{verdict}`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Match,
    MismatchStatus,
    MismatchHeaders,
    MismatchBody,
    /// The answers to a HEAD agree as far as they go.
    HeadOnly,
    /// `ETag` or `Last-Modified` are each instance's own; a 304 against a 200 comes from that.
    ValidatorsDiffer,
    /// A part against the whole, or parts cut differently.
    RangeDiffers,
    /// The shadow asks to log in where the source knew the caller.
    SessionMissing,
    /// Coded differently, so the digests say nothing about the content.
    EncodingDiffers,
    /// The caller left, or the source broke off: there is nothing to compare with.
    SourceAborted,
    /// The source gave no answer at all.
    SourceError,
    /// The shadow broke off in the middle of its answer.
    ShadowAborted,
    /// The shadow gave no answer: connect error, time-out, malformed head.
    ShadowError,
    /// The shadow's answer was cut at the tee's own limit, and the source's is at least as long.
    AnswerTooLarge,
}

/// What a verdict says about the shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// It answered as the source did.
    Agrees,
    /// It answered differently.
    Differs,
    /// It failed to answer.
    Fails,
    /// Nothing: the answers are not comparable.
    Silent,
}

impl Verdict {
    pub const ALL: [Self; 14] = [
        Self::Match,
        Self::MismatchStatus,
        Self::MismatchHeaders,
        Self::MismatchBody,
        Self::HeadOnly,
        Self::ValidatorsDiffer,
        Self::RangeDiffers,
        Self::SessionMissing,
        Self::EncodingDiffers,
        Self::SourceAborted,
        Self::SourceError,
        Self::ShadowAborted,
        Self::ShadowError,
        Self::AnswerTooLarge,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Match => "match",
            Self::MismatchStatus => "mismatch_status",
            Self::MismatchHeaders => "mismatch_headers",
            Self::MismatchBody => "mismatch_body",
            Self::HeadOnly => "head_only",
            Self::ValidatorsDiffer => "validators_differ",
            Self::RangeDiffers => "range_differs",
            Self::SessionMissing => "session_missing",
            Self::EncodingDiffers => "encoding_differs",
            Self::SourceAborted => "source_aborted",
            Self::SourceError => "source_error",
            Self::ShadowAborted => "shadow_aborted",
            Self::ShadowError => "shadow_error",
            Self::AnswerTooLarge => "answer_too_large",
        }
    }

    pub const fn weight(self) -> Weight {
        match self {
            Self::Match | Self::HeadOnly => Weight::Agrees,
            Self::MismatchStatus | Self::MismatchHeaders | Self::MismatchBody => Weight::Differs,
            Self::ShadowAborted | Self::ShadowError => Weight::Fails,
            Self::ValidatorsDiffer
            | Self::RangeDiffers
            | Self::SessionMissing
            | Self::EncodingDiffers
            | Self::SourceAborted
            | Self::SourceError
            | Self::AnswerTooLarge => Weight::Silent,
        }
    }

    pub const fn is_mismatch(self) -> bool {
        matches!(self.weight(), Weight::Differs)
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A verdict and what led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    pub verdict: Verdict,
    pub differences: Vec<Difference>,
}

/// Compares a pair's answers. `source` is the side that answered the caller.
pub fn compare(asked: &Asked, source: &Outcome, shadow: &Outcome) -> Comparison {
    if let Some(verdict) = incomplete(source, shadow) {
        return Comparison { verdict, differences: vec![Difference::of_ends(source, shadow)] };
    }
    let (Some(ours), Some(theirs)) = (&source.head, &shadow.head) else {
        // Complete without a head cannot be; blame the side that says so.
        let verdict = if source.head.is_none() { Verdict::SourceError } else { Verdict::ShadowError };
        return Comparison { verdict, differences: vec![Difference::of_ends(source, shadow)] };
    };

    let mut differences = Vec::new();
    if ours.status != theirs.status {
        differences.push(Difference::new("status", ours.status.as_str(), theirs.status.as_str()));
    }
    let headers = HeaderDifferences::find(&ours.noted, &theirs.noted, &mut differences);
    let body = source.body != shadow.body;
    if body {
        differences.push(Difference::of_bodies(source.body.as_ref(), shadow.body.as_ref()));
    }

    let verdict = if ours.status == theirs.status {
        same_status(asked, ours.status, headers, body)
    } else {
        other_status(asked, ours, theirs)
    };
    Comparison { verdict, differences }
}

/// The source comes first: when it gave the caller no whole answer, the shadow's cannot be held against
/// it.
fn incomplete(source: &Outcome, shadow: &Outcome) -> Option<Verdict> {
    let answered = |side: &Outcome| side.head.is_some();
    let length = |side: &Outcome| side.body.map_or(0, |digest| digest.length);
    Some(match (source.end, shadow.end) {
        (End::Complete, End::Complete) => return None,
        // Cut, but longer than the source's already: that much can be compared.
        (End::Complete, End::TooLarge) if length(shadow) > length(source) => return None,
        (End::Complete, End::TooLarge) => Verdict::AnswerTooLarge,
        (End::Complete, _) if answered(shadow) => Verdict::ShadowAborted,
        (End::Complete, _) => Verdict::ShadowError,
        (End::CallerLeft | End::TooLarge, _) => Verdict::SourceAborted,
        _ if answered(source) => Verdict::SourceAborted,
        _ => Verdict::SourceError,
    })
}

fn same_status(asked: &Asked, status: StatusCode, headers: HeaderDifferences, body: bool) -> Verdict {
    let partial = status == StatusCode::PARTIAL_CONTENT;
    if headers.encoding {
        Verdict::EncodingDiffers
    } else if partial && headers.multipart {
        // Each server makes up its own boundary between the parts.
        Verdict::RangeDiffers
    } else if headers.decisive {
        Verdict::MismatchHeaders
    } else if body {
        Verdict::MismatchBody
    } else if headers.validators {
        Verdict::ValidatorsDiffer
    } else if asked.method == Method::HEAD {
        Verdict::HeadOnly
    } else {
        Verdict::Match
    }
}

fn other_status(asked: &Asked, source: &Head, shadow: &Head) -> Verdict {
    let either = |is: fn(StatusCode) -> bool, other: fn(StatusCode) -> bool| {
        (is(source.status) && other(shadow.status)) || (is(shadow.status) && other(source.status))
    };
    let not_sent = |s| matches!(s, StatusCode::NOT_MODIFIED | StatusCode::PRECONDITION_FAILED);
    let sent = |s| matches!(s, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    if asked.conditional && either(not_sent, sent) {
        Verdict::ValidatorsDiffer
    } else if asked.ranged && either(|s| s == StatusCode::PARTIAL_CONTENT, |s| s == StatusCode::OK) {
        Verdict::RangeDiffers
    } else if asked.credentials && source.status.is_success() && asks_to_log_in(shadow) {
        // Not the other way round: a shadow that answers what the source refuses is a fault.
        Verdict::SessionMissing
    } else {
        Verdict::MismatchStatus
    }
}

fn asks_to_log_in(shadow: &Head) -> bool {
    match shadow.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => true,
        StatusCode::FOUND | StatusCode::SEE_OTHER | StatusCode::TEMPORARY_REDIRECT => {
            shadow.noted.get(Noted::Location).is_some_and(leads_to_login)
        }
        _ => false,
    }
}

/// Words that a login page's path has as a segment of its own, or as a part of one set off by `-`, `_`
/// or `.`: `/users/sign_in`, `/wp-login.php`, `/oauth2/authorize`.
fn leads_to_login(location: &str) -> bool {
    const WORDS: [&str; 12] = [
        "login",
        "logon",
        "signin",
        "sign",
        "auth",
        "authenticate",
        "authorize",
        "oauth",
        "oauth2",
        "sso",
        "saml",
        "session",
    ];
    let path = location.split(['?', '#']).next().unwrap_or_default();
    path.split(['/', '-', '_', '.', ':']).any(|word| WORDS.iter().any(|w| word.eq_ignore_ascii_case(w)))
}

/// Which kinds of header differ.
#[derive(Clone, Copy, Debug, Default)]
struct HeaderDifferences {
    validators: bool,
    encoding: bool,
    /// Both are `multipart/byteranges`.
    multipart: bool,
    decisive: bool,
}

impl HeaderDifferences {
    fn find(source: &NotedHeaders, shadow: &NotedHeaders, out: &mut Vec<Difference>) -> Self {
        let mut found = Self::default();
        for name in Noted::ALL {
            let (ours, theirs) = (source.get(name), shadow.get(name));
            if name == Noted::ContentType {
                found.multipart = [ours, theirs].iter().all(|value| value.is_some_and(is_byteranges));
                if found.multipart {
                    continue;
                }
            }
            if same_value(name, ours, theirs) {
                continue;
            }
            out.push(Difference::of_headers(name, ours, theirs));
            match name {
                Noted::ETag | Noted::LastModified => found.validators = true,
                Noted::ContentEncoding => found.encoding = true,
                Noted::Location | Noted::ContentType | Noted::ContentRange => found.decisive = true,
            }
        }
        found
    }
}

fn same_value(name: Noted, ours: Option<&str>, theirs: Option<&str>) -> bool {
    if ours == theirs {
        return true;
    }
    match (ours, theirs) {
        // `text/html; charset=utf-8` and `text/html;charset=UTF-8` are one type.
        (Some(ours), Some(theirs)) if name == Noted::ContentType => plain(ours).eq(plain(theirs)),
        (Some(ours), Some(theirs)) if name == Noted::ContentEncoding => ours.eq_ignore_ascii_case(theirs),
        _ => false,
    }
}

fn plain(value: &str) -> impl Iterator<Item = u8> {
    value.bytes().filter(|byte| *byte != b' ').map(|byte| byte.to_ascii_lowercase())
}

fn is_byteranges(content_type: &str) -> bool {
    let essence = content_type.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"multipart/byteranges")
}

#[cfg(test)]
mod tests;
