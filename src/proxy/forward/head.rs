//! A request's head: what it says (one pass over its headers), whether it may be forwarded at all,
//! and the edits that make it the instance's. Edits are in place; nothing is rebuilt.

use std::rc::Rc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri, Version};

use super::forwarding::Forwarding;
use crate::config::Callers;
use crate::http1::Headers;
use crate::proxy::respond::Reject;
use crate::upstream::Added;

const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// What one pass over the headers found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    hosts: u8,
    has_bad_host: bool,
    has_content_length: bool,
    pub content_length: Option<u64>,
    /// A cookie or `Authorization`: the answer may depend on a session.
    pub has_credentials: bool,
    has_transfer_encoding: bool,
    /// Anything but one `chunked`: what else was done to the body would be lost with the header.
    has_other_coding: bool,
    has_connection: bool,
    /// `Connection` names `upgrade`.
    names_upgrade: bool,
    /// `Upgrade` asks for another HTTP, which would pass unseen inside a tunnel.
    upgrades_http: bool,
    has_keep_alive: bool,
    has_proxy: bool,
    has_te: bool,
    te_trailers: bool,
    has_segue: bool,
    has_forwarded: bool,
    pub expects_continue: bool,
    has_upgrade: bool,
    bytes: usize,
}

impl Scan {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut scan = Self::default();
        for (name, value) in headers {
            let name = name.as_str();
            scan.bytes += name.len() + value.len() + 4;
            match name {
                "host" => {
                    scan.hosts = scan.hosts.saturating_add(1);
                    scan.has_bad_host |= !is_host(value.as_bytes());
                }
                "content-length" => {
                    scan.has_content_length = true;
                    scan.content_length = crate::http1::head::number(value.as_bytes());
                }
                "transfer-encoding" => {
                    let is_chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
                    scan.has_other_coding |= scan.has_transfer_encoding || !is_chunked;
                    scan.has_transfer_encoding = true;
                }
                "connection" => {
                    scan.has_connection = true;
                    scan.names_upgrade |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
                }
                "keep-alive" => scan.has_keep_alive = true,
                "proxy-connection" | "proxy-authenticate" | "proxy-authorization" => scan.has_proxy = true,
                "te" => {
                    scan.has_te = true;
                    scan.te_trailers |= value.as_bytes().eq_ignore_ascii_case(b"trailers");
                }
                "upgrade" => {
                    scan.has_upgrade = true;
                    scan.upgrades_http |= tokens(value).any(is_http);
                }
                "cookie" | "authorization" => scan.has_credentials = true,
                "forwarded" | "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" => {
                    scan.has_forwarded = true;
                }
                "expect" => scan.expects_continue |= value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
                _ => scan.has_segue |= name.starts_with("segue-"),
            }
        }
        scan
    }

    /// An upgrade that may become a tunnel. HTTP/2 cannot carry one.
    pub const fn wants_upgrade(&self) -> bool {
        self.has_upgrade && self.names_upgrade && !self.upgrades_http
    }
}

fn tokens(list: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    list.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

fn is_http(protocol: &[u8]) -> bool {
    let begins = |with: &[u8]| protocol.get(..with.len()).is_some_and(|of| of.eq_ignore_ascii_case(with));
    begins(b"h2") || begins(b"http/") || begins(b"tls/")
}

const NO_HOST: &str = "a Host header, or an authority, that is no host";

/// Refuses what must not be forwarded, and brings the target to origin form with exactly one `Host`.
///
/// To a server several of these (a length beside a transfer coding, any number of hosts) are harmless;
/// in front of another server they are how requests are smuggled.
pub fn normalise<B>(head: &mut Request<B>, scan: &Scan, limits: &Callers) -> Result<(), Reject> {
    if head.method() == Method::CONNECT {
        return Err(Reject::ConnectRefused);
    }
    if head.headers().len() > limits.max_header_count || scan.bytes > limits.max_header_bytes.as_usize() {
        return Err(Reject::HeadersTooLarge);
    }
    let target = head.uri().path_and_query();
    if target.is_some_and(|target| target.as_str().len() > limits.max_uri_bytes.as_usize()) {
        return Err(Reject::UriTooLong);
    }
    if scan.has_content_length && scan.has_transfer_encoding {
        return Err(Reject::AmbiguousLength);
    }
    if scan.has_other_coding {
        return Err(Reject::TransferCoding);
    }
    if head.uri().scheme().is_none() && head.uri().authority().is_some() {
        return Err(Reject::BadTarget("an authority is a target for CONNECT alone"));
    }
    if head.uri().path() == "*" && head.method() != Method::OPTIONS {
        return Err(Reject::BadTarget("`*` is a target for OPTIONS alone"));
    }
    if scan.hosts > 1 {
        return Err(Reject::BadHost("more than one Host header"));
    }
    if let Some(authority) = head.uri().authority() {
        // Userinfo in an authority is a way to make two parsers see two hosts.
        if authority.as_str().contains('@') {
            return Err(Reject::BadHost("userinfo in the request target"));
        }
        let named = head.headers().get(header::HOST);
        if named.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())) {
            return Err(Reject::BadHost("the Host header contradicts the request target"));
        }
        if named.is_none() {
            if head.version() == Version::HTTP_11 {
                return Err(Reject::BadHost("no Host header"));
            }
            if !is_host(authority.as_str().as_bytes()) {
                return Err(Reject::BadHost(NO_HOST));
            }
            let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Reject::BadHost(NO_HOST))?;
            head.headers_mut().insert(header::HOST, host);
        }
    } else if scan.hosts == 0 && head.version() != Version::HTTP_10 {
        return Err(Reject::BadHost("no Host header"));
    }
    if scan.has_bad_host {
        return Err(Reject::BadHost(NO_HOST));
    }
    if head.uri().scheme().is_some() || head.uri().authority().is_some() {
        let target = head.uri().path_and_query().cloned();
        *head.uri_mut() = target.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    Ok(())
}

/// RFC 3986's `host [":" port]`, but for what is wrong inside brackets or after a `%`; an empty Host is legal.
fn is_host(host: &[u8]) -> bool {
    let in_name = |byte: &u8| NAME_BYTES.get(usize::from(*byte)) == Some(&true);
    let (is_name, port) = if let [b'[', literal @ ..] = host {
        let end = literal.iter().position(|&byte| byte == b']').unwrap_or(literal.len());
        let (literal, rest) = literal.split_at(end);
        let is_literal = literal.iter().all(|byte| *byte == b':' || in_name(byte));
        (is_literal && !rest.is_empty(), rest.get(1..).unwrap_or_default())
    } else {
        let end = host.iter().position(|byte| !in_name(byte)).unwrap_or(host.len());
        (true, host.get(end..).unwrap_or_default())
    };
    let is_port = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    is_name && is_port
}

/// Of a registered name.
const NAME_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let allowed = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._~!$&'()*+,;=%";
    let mut at = 0;
    while at < allowed.len() {
        table[allowed[at] as usize] = true;
        at += 1;
    }
    table
};

/// The name without its port.
pub fn host_name(headers: &HeaderMap) -> &str {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // From the end: a port is short, and a bracket before it is an IPv6 address's own.
    match host.bytes().rposition(|byte| byte == b':' || byte == b']') {
        Some(at) if host.as_bytes().get(at) == Some(&b':') => host.get(..at).unwrap_or(host),
        _ => host,
    }
}

/// Makes a caller's headers the instance's: hop-by-hop headers (RFC 9110 §7.6.1) and a caller's own
/// `Segue-*` go, forwarding headers come, in place or as what is to be added on the way. `upgrade` keeps the two that
/// an upgrade needs.
pub fn edit_request(
    headers: &mut HeaderMap,
    scan: &Scan,
    forwarding: &Forwarding,
    upgrade: bool,
) -> Rc<Added> {
    let upgrade_to = if upgrade { headers.get(header::UPGRADE).cloned() } else { None };
    if scan.has_connection {
        remove_connection(headers);
    }
    remove_hop_by_hop(headers, scan);
    if scan.te_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade_to {
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if scan.has_segue {
        remove_segue(headers);
    }
    forwarding.apply(headers, scan.has_forwarded)
}

/// Removes `Connection` and every header that it names.
fn remove_connection(headers: &mut HeaderMap) {
    let mut named = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        for token in value.as_bytes().split(|&byte| byte == b',') {
            let token = token.trim_ascii();
            // The usual two name no header; and these may not be taken away by naming them.
            let keeps = [&b"keep-alive"[..], b"close", b"host", b"content-length", b"upgrade", b"te"];
            if !keeps.iter().any(|keep| token.eq_ignore_ascii_case(keep))
                && let Ok(name) = HeaderName::from_bytes(token)
            {
                named.push(name);
            }
        }
    }
    headers.remove(header::CONNECTION);
    for name in named {
        headers.remove(name);
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap, scan: &Scan) {
    if scan.has_keep_alive {
        headers.remove(KEEP_ALIVE);
    }
    if scan.has_transfer_encoding {
        headers.remove(header::TRANSFER_ENCODING);
    }
    if scan.has_te {
        headers.remove(header::TE);
    }
    if scan.has_upgrade {
        headers.remove(header::UPGRADE);
    }
    if scan.has_proxy {
        headers.remove(PROXY_CONNECTION);
        headers.remove(header::PROXY_AUTHENTICATE);
        headers.remove(header::PROXY_AUTHORIZATION);
    }
}

fn remove_segue(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("segue-")).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Makes an instance's answer the caller's.
pub fn edit_answer(status: StatusCode, headers: &mut Headers) {
    // Of lines, those that end here are gone.
    let Headers::Map(headers) = headers else { return };
    let scan = Scan::of(headers);
    let upgrade =
        if status == StatusCode::SWITCHING_PROTOCOLS { headers.get(header::UPGRADE).cloned() } else { None };
    if scan.has_connection {
        remove_connection(headers);
    }
    remove_hop_by_hop(headers, &scan);
    if let Some(protocol) = upgrade {
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}
