//! Read-only or not: the one place that promises that nothing that may write is ever teed.
//!
//! Everything here is a pure decision over bytes that have already arrived: no I/O, no clock, no lock. Unknown
//! means write, and the order below is the whole policy:
//!
//! 1. **Hard guards** (`headers`, `path`, `_method` in `query`): the request is not what its method says,
//!    cannot be replayed, or could be routed differently by the instance than by Segue. Nothing overrides them.
//! 2. **Rules** of the operator (`rules`), first match. A rule that says *read* does not vouch for a body that an
//!    opt-in parses: a broad `POST /api/.*` must not turn a mutation into a read.
//! 3. **Opt-ins**: `graphql`, `grpc`, `jsonrpc`, `git`, search. Each claims its own requests entirely, so
//!    that what it does not recognise is a write rather than a matter for the defaults.
//! 4. **Defaults**: safe methods of RFC 9110 that carry no body, open no event stream, and neither use up a
//!    one-time query key nor name an action in their path (`words`).
//!
//! A rule that says *read* and an opt-in apply to requests with bodies too. [`Verdict::Known`] with
//! [`Class::Read`] for a request that has a body means: buffer a copy and tee it whole, or not at all.

mod explain;
mod git;
mod graphql;
mod grpc;
mod headers;
mod json;
mod jsonrpc;
mod path;
mod query;
mod reason;
mod rules;
mod suspect;
mod words;

use http::{HeaderMap, Method, Uri};

use crate::config;
use headers::Signs;

pub use explain::Explanation;
pub use reason::Reason;
pub use suspect::{Suspicion, suspect};

/// Whether a request may be teed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    Read,
    Write,
}

impl Class {
    /// The label in metrics and access logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// What the head of a request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Known(Class, Reason),
    /// Forwarded at once; [`Classifier::body`] decides from the buffered copy, on the lane.
    NeedsBody(BodyKind),
}

/// How the rest of a request is read to decide its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BodyKind {
    /// A GraphQL request, or a batch of them, in the body.
    Graphql,
    /// A GraphQL document in the query string. The body is empty; parsing is left to the lane because it costs
    /// more than a caller's path may.
    GraphqlUrl,
    JsonRpc,
    /// A body that this rule calls a read: still a write if it carries `_method`, which frameworks obey.
    RuleBody {
        rule: u16,
    },
}

impl BodyKind {
    /// The label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Graphql => "graphql",
            Self::GraphqlUrl => "graphql_url",
            Self::JsonRpc => "jsonrpc",
            Self::RuleBody { .. } => "rule_body",
        }
    }
}

/// A request as it arrived: before hop-by-hop headers are removed and before anything is added.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    /// Name that the request was routed by, with or without a port.
    pub host: &'a str,
    pub headers: &'a HeaderMap,
    /// The message carries content. HTTP/2 need not announce that in a header, so the connection has to say it.
    pub has_body: bool,
}

/// The settings of one service, compiled.
///
/// A clone shares the programs of its regexes but owns their scratch space: give each worker its own, and
/// classification takes no lock and writes no shared cache line.
#[derive(Clone, Debug)]
pub struct Classifier {
    rules: Vec<rules::Rule>,
    graphql: graphql::Endpoints,
    grpc: grpc::Methods,
    jsonrpc: jsonrpc::Endpoints,
    search_paths: Vec<String>,
    git: bool,
}

/// Why settings cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum ClassifyError {
    #[error("rule {rule}: {field} is not a valid regex, correct the pattern: {source}")]
    Regex { rule: usize, field: &'static str, source: Box<regex::Error> },
    #[error("rule {rule}: `{method}` is not an HTTP method, use a token such as GET")]
    Method { rule: usize, method: String },
    #[error("rule {rule}: `{name}` is not a header name, use letters, digits and dashes")]
    HeaderName { rule: usize, name: String },
    #[error("rule {rule}: `{host}` is not a host pattern, use a name or *.suffix, without a port")]
    Host { rule: usize, host: String },
    #[error("rule {rule}: there are more rules than can be numbered, keep at most {}", u16::MAX)]
    TooManyRules { rule: usize },
    #[error("{setting}: `{path}` cannot match any path, start it with /")]
    Path { setting: &'static str, path: String },
    #[error("grpc_methods: `{method}` is not a method, write it as package.Service/Method")]
    GrpcMethod { method: String },
    #[error("grpc_methods: `{method}` is streaming, and only unary calls can be copied whole; remove it")]
    GrpcStreaming { method: String },
    #[error("grpc_descriptor_set: not read, pass its bytes")]
    DescriptorSetMissing,
    #[error(
        "grpc_descriptor_set: not a descriptor set, make it with `protoc --include_imports -o`: {source}"
    )]
    DescriptorSet { source: Box<prost_reflect::DescriptorError> },
}

/// Content beyond this is not parsed, whatever the tee's own cap is set to. Parsing GraphQL costs up to half a
/// microsecond a byte, so one hostile request can cost the lane some 30 ms.
const MAX_PARSED_BYTES: usize = 64 * 1024;

type Decided = (Class, Reason);

const fn write(reason: Reason) -> Verdict {
    Verdict::Known(Class::Write, reason)
}

impl Classifier {
    /// `descriptor_set` holds the bytes of the file that `settings.grpc_descriptor_set` names.
    pub fn new(settings: &config::Classify, descriptor_set: Option<&[u8]>) -> Result<Self, ClassifyError> {
        if settings.grpc_descriptor_set.is_some() && descriptor_set.is_none() {
            return Err(ClassifyError::DescriptorSetMissing);
        }
        let rooted = |setting, paths: &[String]| match paths.iter().find(|path| !path.starts_with('/')) {
            Some(path) => Err(ClassifyError::Path { setting, path: path.clone() }),
            None => Ok(()),
        };
        rooted("graphql_paths", &settings.graphql_paths)?;
        rooted("jsonrpc_paths", &settings.jsonrpc_paths)?;
        rooted("search_paths", &settings.search_paths)?;
        Ok(Self {
            rules: rules::compile(&settings.rules)?,
            graphql: graphql::Endpoints::new(&settings.graphql_paths),
            grpc: grpc::Methods::new(&settings.grpc_methods, descriptor_set)?,
            jsonrpc: jsonrpc::Endpoints::new(&settings.jsonrpc_paths, &settings.jsonrpc_methods),
            search_paths: settings.search_paths.clone(),
            git: settings.git,
        })
    }

    /// Decides from the head alone. A plain GET costs a fraction of a microsecond and allocates nothing.
    pub fn head(&self, head: &Head<'_>) -> Verdict {
        let signs = Signs::read(head);
        if let Some(reason) = hard_guard(head, &signs) {
            return write(reason);
        }
        for (index, rule) in (0..).zip(&self.rules) {
            if rule.matches(head) {
                return match (rule.class(), self.opt_in(head, &signs)) {
                    (Class::Write, _) => write(Reason::Rule(index)),
                    (Class::Read, Some(parsed @ Verdict::NeedsBody(_))) => parsed,
                    (Class::Read, _) => rules::admit(&signs, index),
                };
            }
        }
        self.opt_in(head, &signs).unwrap_or_else(|| default(head, &signs))
    }

    /// Decides from the whole buffered body, for a request that [`Self::head`] answered with
    /// [`Verdict::NeedsBody`]. Costs microseconds for real queries and milliseconds for hostile ones, so
    /// it belongs to the lane.
    pub fn body(&self, kind: BodyKind, headers: &HeaderMap, uri: &Uri, body: &[u8]) -> (Class, Reason) {
        let query = uri.query().unwrap_or_default();
        let parsed = if body.len() > MAX_PARSED_BYTES || query.len() > MAX_PARSED_BYTES {
            Err(Reason::BodyTooLarge)
        } else if headers::is_encoded(headers) {
            Err(Reason::BodyEncoded)
        } else {
            match kind {
                BodyKind::Graphql => graphql::classify_body(headers, body),
                BodyKind::GraphqlUrl if body.is_empty() => graphql::classify_url(query),
                BodyKind::GraphqlUrl => Err(Reason::BodyOnSafeMethod),
                BodyKind::JsonRpc => self.jsonrpc.classify(headers, body),
                BodyKind::RuleBody { rule } => rules::classify_body(rule, headers, body),
            }
        };
        match parsed {
            Ok(reason) => (Class::Read, reason),
            Err(reason) => (Class::Write, reason),
        }
    }

    /// What an opt-in says; `None` when none of them claims the request.
    fn opt_in(&self, head: &Head<'_>, signs: &Signs<'_>) -> Option<Verdict> {
        if let Some(verdict) = self.graphql.claim(head, signs) {
            return Some(verdict);
        }
        if let Some(verdict) = self.jsonrpc.claim(head, signs) {
            return Some(verdict);
        }
        if let Some((class, reason)) = self.grpc.claim(head, signs) {
            return Some(Verdict::Known(class, reason));
        }
        if let Some((class, reason)) = git::claim(head, signs, self.git) {
            return Some(Verdict::Known(class, reason));
        }
        self.search(head, signs)
    }

    /// Searches whose criteria travel in a body: a POST, or the GET with content that some engines accept.
    ///
    /// The suffix says little about what stands before it, so the defaults for path and query hold here too. Only
    /// JSON is a search body: a form may carry `_method`. A `scroll` key opens a cursor on the server.
    fn search(&self, head: &Head<'_>, signs: &Signs<'_>) -> Option<Verdict> {
        let searches = *head.method == Method::POST || (signs.has_body && *head.method == Method::GET);
        if !searches || !self.search_paths.iter().any(|suffix| head.uri.path().ends_with(suffix.as_str())) {
            return None;
        }
        let refusal = if signs.has_body && !signs.is_json_like() {
            Some(Reason::BodyType)
        } else if query::keys(head.uri.query()).any(|key| key.is("scroll")) {
            Some(Reason::ConsumedQueryKey)
        } else {
            soft_guard(head, signs)
        };
        Some(refusal.map_or(Verdict::Known(Class::Read, Reason::SearchPath), write))
    }
}

/// What neither a rule nor an opt-in may call a read.
fn hard_guard(head: &Head<'_>, signs: &Signs<'_>) -> Option<Reason> {
    if *head.method == Method::CONNECT {
        Some(Reason::Connect)
    } else if *head.method == Method::TRACE {
        Some(Reason::Trace)
    } else if path::quirk(head.uri.path()).is_some() {
        Some(Reason::NonCanonicalPath)
    } else if let Some(reason) = signs.hard {
        Some(reason)
    } else if query::keys(head.uri.query()).any(|key| key.overrides_method()) {
        Some(Reason::MethodOverride)
    } else {
        None
    }
}

/// What makes a safe method a write unless a rule says otherwise.
fn soft_guard(head: &Head<'_>, signs: &Signs<'_>) -> Option<Reason> {
    if signs.event_stream {
        return Some(Reason::EventStream);
    }
    query::objection(head.uri.query())
        .map(|(reason, _)| reason)
        .or_else(|| words::action_in(head.uri.path().as_bytes()).map(|_| Reason::SuspiciousPath))
}

/// Without a rule and without an opt-in.
fn default(head: &Head<'_>, signs: &Signs<'_>) -> Verdict {
    if !matches!(*head.method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return write(Reason::UnsafeMethod);
    }
    if signs.has_body {
        return write(Reason::BodyOnSafeMethod);
    }
    soft_guard(head, signs).map_or(Verdict::Known(Class::Read, Reason::SafeMethod), write)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
