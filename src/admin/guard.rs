//! Who may call. With a token: whoever has it. Without one the API listens only where this host alone
//! reaches it, and what is left to fend off is a browser on it that runs somebody else's page: one whose
//! name was pointed at loopback (DNS rebinding) or that simply posts here (request forgery).

use std::net::{IpAddr, SocketAddr};

use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};

use super::AdminError;
use super::problem::Problem;

/// Open to everybody: a prober carries no token and names the host as it likes.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

#[derive(Debug)]
pub(super) enum Guard {
    /// The token's digest. Digests are compared in constant time, whatever the lengths.
    Token(blake3::Hash),
    Loopback,
    /// The file's permissions decide, and no browser speaks over it.
    Unix,
}

impl Guard {
    /// `bound` is `None` for a Unix socket.
    pub fn new(token: Option<&str>, bound: Option<SocketAddr>) -> Result<Self, AdminError> {
        match (token, bound) {
            (Some(token), _) => Ok(Self::Token(blake3::hash(token.as_bytes()))),
            (None, None) => Ok(Self::Unix),
            (None, Some(bound)) if bound.ip().to_canonical().is_loopback() => Ok(Self::Loopback),
            (None, Some(bound)) => Err(AdminError::Exposed(bound)),
        }
    }

    pub fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        if OPEN.contains(&uri.path()) {
            return Ok(());
        }
        match self {
            Self::Unix => Ok(()),
            Self::Token(token) => check_token(token, headers),
            Self::Loopback => {
                let host = check_host(uri, headers)?;
                check_origin(host, headers)
            }
        }
    }
}

fn check_token(token: &blake3::Hash, headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let given = given.and_then(|value| value.split_at_checked("Bearer ".len()));
    match given {
        Some((scheme, given))
            if scheme.eq_ignore_ascii_case(b"Bearer ") && blake3::hash(given.trim_ascii()) == *token =>
        {
            Ok(())
        }
        Some(_) => Err(Problem::new(StatusCode::UNAUTHORIZED, "the token is not the one in the settings")),
        None => Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "this call needs the token of the settings: `Authorization: Bearer TOKEN`",
        )),
    }
}

/// The host that was asked for, which has to be this one.
fn check_host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<&'a str, Problem> {
    let mut hosts = headers.get_all(HOST).into_iter().map(|value| value.to_str().ok());
    let (Some(Some(host)), None) = (hosts.next(), hosts.next()) else {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "a request needs exactly one `Host` header"));
    };
    // The absolute form of a target outranks the header.
    let also = uri.authority().map(Authority::as_str);
    if let Some(foreign) = std::iter::once(host).chain(also).find(|host| !is_local(host)) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            format!("`Host: {foreign}` is not this machine; ask for 127.0.0.1 or localhost, or set a token"),
        )
        .because("foreign_host"));
    }
    Ok(host)
}

fn check_origin(host: &str, headers: &HeaderMap) -> Result<(), Problem> {
    let is_own = |origin: &str| {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    };
    let mut origins = headers.get_all(ORIGIN).into_iter().map(|value| value.to_str().unwrap_or("?"));
    match origins.find(|origin| !is_own(origin)) {
        None => Ok(()),
        Some(foreign) => {
            let detail = format!("a page of `{foreign}` may not call this API");
            Err(Problem::new(StatusCode::FORBIDDEN, detail).because("foreign_origin"))
        }
    }
}

/// Whether `host`, with or without a port, can mean nothing but loopback.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guard: &Guard, target: &str, headers: &[(&'static str, &str)]) -> u16 {
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let checked = guard.check(&target.parse().unwrap(), &headers);
        checked.err().map_or(200, |problem| problem.status.as_u16())
    }

    #[test]
    fn only_the_token_opens() {
        let guard = Guard::new(Some("secret"), None).unwrap();
        for (given, status) in [
            ("Bearer secret", 200),
            ("bearer secret", 200),
            ("Bearer secrets", 401),
            ("Bearer secre", 401),
            ("Bearer ", 401),
            ("Basic secret", 401),
            ("secret", 401),
            ("", 401),
        ] {
            assert_eq!(check(&guard, "/metrics", &[("authorization", given)]), status, "{given}");
        }
        assert_eq!(check(&guard, "/v1/services", &[]), 401);
        // A foreign page has no token, so it needs no other fence.
        let headers = [("authorization", "Bearer secret"), ("host", "segue.example")];
        assert_eq!(check(&guard, "/metrics", &headers), 200);
        assert_eq!((check(&guard, "/healthz", &[]), check(&guard, "/readyz", &[])), (200, 200));
    }

    #[test]
    fn without_a_token_only_this_machine_is_answered() {
        let guard = Guard::new(None, Some(SocketAddr::from(([127, 0, 0, 1], 9900)))).unwrap();
        for (host, status) in [
            ("localhost", 200),
            ("LOCALHOST:9900", 200),
            ("127.0.0.1:9900", 200),
            ("127.9.9.9", 200),
            ("[::1]:9900", 200),
            ("[::ffff:127.0.0.1]", 200),
            ("evil.example", 403),
            ("localhost.evil.example:9900", 403),
            ("127.0.0.1.evil.example", 403),
            ("10.0.0.1:9900", 403),
            ("0.0.0.0", 403),
            ("", 403),
        ] {
            assert_eq!(check(&guard, "/metrics", &[("host", host)]), status, "{host}");
        }
        assert_eq!(check(&guard, "/metrics", &[]), 400);
        assert_eq!(check(&guard, "/metrics", &[("host", "localhost"), ("host", "localhost")]), 400);
        assert_eq!(check(&guard, "http://evil.example/metrics", &[("host", "localhost")]), 403);
        assert_eq!(check(&guard, "/healthz", &[("host", "10.0.0.1")]), 200);
    }

    #[test]
    fn a_foreign_page_is_refused() {
        let guard = Guard::new(None, Some(SocketAddr::from(([127, 0, 0, 1], 9900)))).unwrap();
        for (origin, status) in [
            ("http://localhost:9900", 200),
            ("http://localhost:3000", 403),
            ("http://localhost", 403),
            ("https://evil.example", 403),
            ("null", 403),
            ("", 403),
        ] {
            let headers = [("host", "localhost:9900"), ("origin", origin)];
            assert_eq!(check(&guard, "/v1/tee", &headers), status, "{origin}");
        }
    }

    #[test]
    fn without_a_token_nobody_else_may_reach_it() {
        assert!(Guard::new(None, Some(SocketAddr::from(([0, 0, 0, 0], 9900)))).is_err());
        assert!(Guard::new(Some("t"), Some(SocketAddr::from(([0, 0, 0, 0], 9900)))).is_ok());
        assert_eq!(check(&Guard::new(None, None).unwrap(), "/metrics", &[("host", "any")]), 200);
    }
}
