//! Host and path → service, as a pure table.
//!
//! The most specific host wins (exact, then the longest `*.suffix`, then any), and within it the
//! longest path prefix on a segment boundary. A host that matches but has no matching path falls
//! through to the next less specific one. Each look-up hashes at most once per segment of the path,
//! so ten thousand routes cost what one costs.

use std::borrow::Cow;
use std::collections::HashMap;

/// Index of a service in the table that the router was built from.
pub type ServiceIndex = usize;

#[derive(Debug, Default)]
pub struct Router {
    exact: HashMap<Box<str>, Paths>,
    /// Keyed by what follows `*.`.
    wildcard: HashMap<Box<str>, Paths>,
    any: Paths,
}

#[derive(Debug, Default)]
struct Paths {
    prefixes: HashMap<Box<str>, ServiceIndex>,
    longest: usize,
    rest: Option<ServiceIndex>,
}

impl Router {
    /// `services` yields hosts and path prefixes; an empty list means all.
    pub fn new<'a>(services: impl Iterator<Item = (&'a [String], &'a [String])>) -> Self {
        let mut router = Self::default();
        for (index, (hosts, paths)) in services.enumerate() {
            if hosts.is_empty() {
                router.any.add(paths, index);
            }
            for host in hosts {
                let host = host.to_ascii_lowercase();
                let of_host = match host.strip_prefix("*.") {
                    Some(suffix) => router.wildcard.entry(suffix.into()).or_default(),
                    None => router.exact.entry(host.into()).or_default(),
                };
                of_host.add(paths, index);
            }
        }
        router
    }

    /// `host` is the name alone, without a port.
    pub fn find(&self, host: &str, path: &str) -> Option<ServiceIndex> {
        if self.exact.is_empty() && self.wildcard.is_empty() {
            return self.any.find(path);
        }
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        let host = host.strip_suffix('.').unwrap_or(&host);
        if let Some(found) = self.exact.get(host).and_then(|paths| paths.find(path)) {
            return Some(found);
        }
        if !self.wildcard.is_empty() {
            let suffixes = host.match_indices('.').map(|(dot, _)| &host[dot + 1..]);
            for suffix in suffixes {
                if let Some(found) = self.wildcard.get(suffix).and_then(|paths| paths.find(path)) {
                    return Some(found);
                }
            }
        }
        self.any.find(path)
    }
}

impl Paths {
    fn add(&mut self, paths: &[String], index: ServiceIndex) {
        if paths.is_empty() {
            self.rest.get_or_insert(index);
        }
        for path in paths {
            match path.trim_end_matches('/') {
                "" => {
                    self.rest.get_or_insert(index);
                }
                prefix => {
                    self.longest = self.longest.max(prefix.len());
                    self.prefixes.entry(prefix.into()).or_insert(index);
                }
            }
        }
    }

    fn find(&self, path: &str) -> Option<ServiceIndex> {
        if self.prefixes.is_empty() {
            return self.rest;
        }
        let mut end = path.len();
        loop {
            let prefix = &path[..end];
            if end <= self.longest
                && let Some(&found) = self.prefixes.get(prefix)
            {
                return Some(found);
            }
            match prefix.rfind('/') {
                Some(slash) if slash > 0 => end = slash,
                _ => return self.rest,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(services: &[(&[&str], &[&str])]) -> Router {
        let owned: Vec<(Vec<String>, Vec<String>)> = services
            .iter()
            .map(|(hosts, paths)| {
                (
                    hosts.iter().map(ToString::to_string).collect(),
                    paths.iter().map(ToString::to_string).collect(),
                )
            })
            .collect();
        Router::new(owned.iter().map(|(hosts, paths)| (hosts.as_slice(), paths.as_slice())))
    }

    #[test]
    fn the_most_specific_host_and_the_longest_path_win() {
        let router = router(&[
            (&[], &[]),
            (&["a.example"], &[]),
            (&["*.example"], &["/api"]),
            (&["a.example"], &["/api", "/api/v2/"]),
            (&["*.b.example"], &[]),
        ]);
        assert_eq!(router.find("a.example", "/"), Some(1));
        assert_eq!(router.find("A.Example.", "/api/x"), Some(3));
        assert_eq!(router.find("a.example", "/api/v2/x"), Some(3));
        assert_eq!(router.find("c.example", "/api"), Some(2));
        assert_eq!(router.find("c.example", "/apis"), Some(0), "a prefix ends on a segment boundary");
        assert_eq!(router.find("x.b.example", "/"), Some(4));
        assert_eq!(router.find("x.y.b.example", "/"), Some(4));
        assert_eq!(router.find("other", "/api"), Some(0));
    }

    #[test]
    fn nothing_matches_where_nothing_is_configured() {
        assert_eq!(router(&[(&["a"], &["/x"])]).find("a", "/y"), None);
        assert_eq!(router(&[(&["a"], &[])]).find("b", "/"), None);
    }
}
