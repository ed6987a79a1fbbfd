//! Who asked: the headers that tell the instance of its caller (RFC 7239 and the older `X-Forwarded-*`).
//!
//! They are the same for all requests of a connection to one host, so they are made once, and added while a head is
//! written. Only where callers' own are trusted does each request get its own.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use http::header::{FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};

use crate::upstream::Added;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What is the same for every request of one caller's connection. Thousands of connections rest, so nothing is kept here that
/// can be made again.
#[derive(Debug)]
pub struct Forwarding {
    /// `None` = over a Unix socket.
    peer: Option<IpAddr>,
    is_tls: bool,
    trust: bool,
    /// The last `Host` and what was made for it: nearly every connection has only one.
    memo: RefCell<Option<(Option<HeaderValue>, Rc<Added>)>>,
}

impl Forwarding {
    /// `trust`: what the caller says of those before it is kept.
    pub fn new(peer: Option<IpAddr>, is_tls: bool, trust: bool) -> Self {
        Self { peer, is_tls, trust, memo: RefCell::default() }
    }

    pub const fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// Takes a caller's own out, unless they are trusted. `present`: there are some.
    pub(super) fn apply(&self, headers: &mut HeaderMap, present: bool) -> Rc<Added> {
        if present && self.trust {
            self.join(headers);
            return Rc::default();
        }
        if present {
            for name in [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, FORWARDED] {
                headers.remove(name);
            }
        }
        self.made_for(headers.get(HOST))
    }

    /// Gives up what the next request can have made again.
    pub fn forget(&self) {
        *self.memo.borrow_mut() = None;
    }

    fn made_for(&self, host: Option<&HeaderValue>) -> Rc<Added> {
        if let Some((known, made)) = &*self.memo.borrow()
            && known.as_ref() == host
        {
            return Rc::clone(made);
        }
        let mut entries = vec![(FORWARDED_FOR, self.for_value()), (FORWARDED_PROTO, self.proto())];
        let host = host.map(deep_copy);
        if let Some(host) = &host {
            entries.push((FORWARDED_HOST, host.clone()));
            entries.push((FORWARDED, self.element(host)));
        }
        let made = Rc::new(Added::new(entries));
        *self.memo.borrow_mut() = Some((host, Rc::clone(&made)));
        made
    }

    fn for_value(&self) -> HeaderValue {
        let address = self.peer.and_then(|ip| HeaderValue::from_str(&ip.to_string()).ok());
        address.unwrap_or(HeaderValue::from_static("unknown"))
    }

    fn proto(&self) -> HeaderValue {
        HeaderValue::from_static(self.proto_name())
    }

    const fn proto_name(&self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }

    /// As RFC 7239 writes it: IPv6 in quotes and brackets.
    fn element(&self, host: &HeaderValue) -> HeaderValue {
        let (proto, host) = (self.proto_name(), host.to_str().unwrap_or_default());
        let caller = match self.peer {
            None => "unknown".to_owned(),
            Some(ip) if ip.is_ipv6() => format!("\"[{ip}]\""),
            Some(ip) => ip.to_string(),
        };
        HeaderValue::from_str(&format!("for={caller};host=\"{host}\";proto={proto}"))
            .unwrap_or_else(|_| HeaderValue::from_static("for=unknown"))
    }

    /// Adds to what the caller says.
    fn join(&self, headers: &mut HeaderMap) {
        append(headers, &FORWARDED_FOR, &self.for_value());
        headers.entry(FORWARDED_PROTO).or_insert_with(|| self.proto());
        if let Some(host) = headers.get(HOST).cloned() {
            let element = self.element(&host);
            headers.entry(FORWARDED_HOST).or_insert(host);
            append(headers, &FORWARDED, &element);
        }
    }
}

/// A header value shares the buffer that its head was read into; one that is kept must not pin it.
fn deep_copy(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Adds `value` to the end of the list that `name` holds.
fn append(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    let mut joined = Vec::new();
    for old in headers.get_all(name) {
        joined.extend_from_slice(old.as_bytes());
        joined.extend_from_slice(b", ");
    }
    joined.extend_from_slice(value.as_bytes());
    let joined = HeaderValue::from_bytes(&joined).unwrap_or_else(|_| value.clone());
    headers.insert(name, joined);
}
