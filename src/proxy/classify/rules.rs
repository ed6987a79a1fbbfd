//! The operator's rules, tried before the defaults; the first whose conditions all hold decides.
//!
//! Regexes run in linear time and match the whole value: `/search` matches that path and no other, `/search/.*` what
//! lies below it. Where a request says a thing twice, the doubt is resolved towards write: a *read* rule needs every
//! value of its header or query key to match, a *write* rule is content with one.

use http::{HeaderMap, HeaderName, Method};
use regex::bytes::{Regex, RegexBuilder};

use super::headers::{self, Media, Signs};
use super::{BodyKind, Class, ClassifyError, Head, Reason, Verdict, query};
use crate::config;

#[derive(Clone, Debug)]
pub struct Rule {
    /// Empty = any.
    methods: Vec<Method>,
    host: Option<HostPattern>,
    path: Option<Regex>,
    header: Option<(HeaderName, Regex)>,
    query: Option<(String, Regex)>,
    class: Class,
}

#[derive(Clone, Debug)]
enum HostPattern {
    Exact(String),
    /// With its leading dot.
    Suffix(String),
}

pub fn compile(rules: &[config::Rule]) -> Result<Vec<Rule>, ClassifyError> {
    rules.iter().enumerate().map(|(index, rule)| Rule::new(index, rule)).collect()
}

/// What a rule that says *read* comes to for this request.
///
/// A body may carry `_method` where frameworks look for it; that is an override like the header, and a rule does not
/// undo it. So these bodies are looked into first.
pub fn admit(signs: &Signs<'_>, rule: u16) -> Verdict {
    if !signs.has_body {
        return Verdict::Known(Class::Read, Reason::Rule(rule));
    }
    match signs.media() {
        Media::Other if !signs.is_form_like() && !signs.is_json_like() => {
            Verdict::Known(Class::Read, Reason::Rule(rule))
        }
        _ => Verdict::NeedsBody(BodyKind::RuleBody { rule }),
    }
}

/// Decides a body that a rule calls a read.
pub fn classify_body(rule: u16, headers: &HeaderMap, body: &[u8]) -> Result<Reason, Reason> {
    let overridden = match headers::media_of(headers) {
        Media::UrlEncoded | Media::Absent => query::pieces(body).any(|key| key.overrides_method()),
        // Parts, members and exotic charsets: no need to know which one it is.
        _ => [b"_method".as_slice(), b"\\u005f"]
            .iter()
            .any(|sign| body.windows(sign.len()).any(|window| window.eq_ignore_ascii_case(sign))),
    };
    if overridden { Err(Reason::MethodOverride) } else { Ok(Reason::Rule(rule)) }
}

impl Rule {
    fn new(index: usize, rule: &config::Rule) -> Result<Self, ClassifyError> {
        if u16::try_from(index).is_err() {
            return Err(ClassifyError::TooManyRules { rule: index });
        }
        let regex = |field, pattern: &str| {
            whole(pattern).map_err(|source| ClassifyError::Regex {
                rule: index,
                field,
                source: Box::new(source),
            })
        };
        let methods = rule
            .methods
            .iter()
            .map(|method| {
                Method::from_bytes(method.to_ascii_uppercase().as_bytes())
                    .map_err(|_| ClassifyError::Method { rule: index, method: method.clone() })
            })
            .collect::<Result<_, _>>()?;
        let host = rule.host.as_deref().map(|host| {
            HostPattern::new(host).ok_or_else(|| ClassifyError::Host { rule: index, host: host.to_owned() })
        });
        let header = rule.header.as_ref().map(|(name, pattern)| {
            let parsed = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| ClassifyError::HeaderName { rule: index, name: name.clone() })?;
            Ok::<_, ClassifyError>((parsed, regex("header", pattern)?))
        });
        let query = rule
            .query
            .as_ref()
            .map(|(key, pattern)| Ok::<_, ClassifyError>((key.clone(), regex("query", pattern)?)));
        Ok(Self {
            methods,
            host: host.transpose()?,
            path: rule.path.as_deref().map(|pattern| regex("path", pattern)).transpose()?,
            header: header.transpose()?,
            query: query.transpose()?,
            class: match rule.class {
                config::RuleClass::Read => Class::Read,
                config::RuleClass::Write => Class::Write,
            },
        })
    }

    pub const fn class(&self) -> Class {
        self.class
    }

    pub fn matches(&self, head: &Head<'_>) -> bool {
        (self.methods.is_empty() || self.methods.contains(head.method))
            && self.host.as_ref().is_none_or(|host| host.matches(head.host))
            && self.path.as_ref().is_none_or(|path| path.is_match(head.uri.path().as_bytes()))
            && self.header.as_ref().is_none_or(|(name, regex)| {
                self.holds(head.headers.get_all(name).iter().map(|value| regex.is_match(value.as_bytes())))
            })
            && self.query.as_ref().is_none_or(|(name, regex)| {
                self.holds(query::keys(head.uri.query()).filter(|key| key.is(name)).map(|key| {
                    match key.decoded_value() {
                        Some(value) => regex.is_match(&value),
                        None => self.class == Class::Write,
                    }
                }))
            })
    }

    /// Whether a condition holds, given what each of its values says.
    fn holds(&self, mut values: impl Iterator<Item = bool>) -> bool {
        match self.class {
            Class::Read => values.next().is_some_and(|first| first && values.all(|matched| matched)),
            Class::Write => values.any(|matched| matched),
        }
    }
}

/// Compiles a pattern that has to match a value from its first to its last byte, line feeds included.
fn whole(pattern: &str) -> Result<Regex, regex::Error> {
    // On its own first, so that `a)|(b` cannot break out of the group below.
    let build = |pattern: &str| RegexBuilder::new(pattern).dot_matches_new_line(true).build();
    build(pattern)?;
    build(&format!(r"\A(?:{pattern})\z"))
}

impl HostPattern {
    fn new(pattern: &str) -> Option<Self> {
        let pattern = pattern.to_ascii_lowercase();
        let (name, suffix) = match pattern.strip_prefix('*') {
            Some(suffix) => (suffix.strip_prefix('.')?, true),
            None => (pattern.as_str(), false),
        };
        let bracketed = name.starts_with('[') && name.ends_with(']');
        if name.is_empty() || name.contains(['*', '/']) || (name.contains(':') && !bracketed) {
            return None;
        }
        Some(if suffix { Self::Suffix(format!(".{name}")) } else { Self::Exact(pattern) })
    }

    fn matches(&self, host: &str) -> bool {
        let host = name_of(host).as_bytes();
        match self {
            Self::Exact(name) => host.eq_ignore_ascii_case(name.as_bytes()),
            Self::Suffix(suffix) => {
                host.len() > suffix.len()
                    && host
                        .get(host.len() - suffix.len()..)
                        .is_some_and(|tail| tail.eq_ignore_ascii_case(suffix.as_bytes()))
            }
        }
    }
}

/// A host without its port and without the dot that ends a fully qualified name.
fn name_of(host: &str) -> &str {
    let name = match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => host.get(..colon).unwrap_or(host),
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}
