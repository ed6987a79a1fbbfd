//! A verdict for people: what, why, because of which part of the request, and what would change it.

use std::fmt;

use super::{Class, Classifier, Head, Reason, Verdict, path, query, words};

/// How a request would be classed. Its `Display` is what `segue check --explain` prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub class: Class,
    pub reason: Reason,
    /// The class came from the body; without one, from the lack of it.
    pub from_body: bool,
    /// The part of the request that tipped the scales, if there is one to show.
    pub because: Option<String>,
}

impl Explanation {
    /// Index of the rule that decided.
    pub const fn rule(&self) -> Option<u16> {
        match self.reason {
            Reason::Rule(index) => Some(index),
            _ => None,
        }
    }
}

impl Classifier {
    /// Classes a request the way it would be classed on its way, and says why.
    pub fn explain(&self, head: &Head<'_>, body: &[u8]) -> Explanation {
        let head = &Head { has_body: head.has_body || !body.is_empty(), ..*head };
        let (class, reason, from_body) = match self.head(head) {
            Verdict::Known(class, reason) => (class, reason, false),
            Verdict::NeedsBody(kind) => {
                let (class, reason) = self.body(kind, head.headers, head.uri, body);
                (class, reason, true)
            }
        };
        Explanation { class, reason, from_body, because: because(reason, head) }
    }
}

fn because(reason: Reason, head: &Head<'_>) -> Option<String> {
    let quoted = |bytes: &[u8]| format!("`{}`", String::from_utf8_lossy(bytes));
    match reason {
        Reason::NonCanonicalPath => path::quirk(head.uri.path()).map(str::to_owned),
        Reason::SuspiciousPath => words::action_in(head.uri.path().as_bytes()).map(quoted),
        Reason::SuspiciousQuery | Reason::ConsumedQueryKey => {
            query::objection(head.uri.query()).map(|(_, key)| quoted(key.name()))
        }
        Reason::UnsafeMethod => Some(quoted(head.method.as_str().as_bytes())),
        _ => None,
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class.as_str(), self.reason)?;
        if let Some(because) = &self.because {
            write!(f, " ({because})")?;
        }
        writeln!(f, " [{}]", self.reason.as_str())?;
        if self.from_body {
            writeln!(f, "  decided from the body, after the request was forwarded")?;
        }
        match self.reason.remedy() {
            Some(remedy) => write!(f, "  to change it: {remedy}"),
            None => write!(f, "  nothing changes it: no rule overrides this"),
        }
    }
}
