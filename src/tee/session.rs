//! Whole-session sampling: all reads of a session are teed, or none of them.
//!
//! A shadow with session state of its own can only answer a session that it has seen from the start.
//! The choice is a keyed hash of the session's key compared with a threshold: it needs no memory, is
//! the same on every worker and after a restart, and a higher percentage keeps the sessions it had.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{COOKIE, HeaderName};
use thiserror::Error;

use crate::config::{Percent, SessionKey};

#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{0}` cannot be a header's name; use letters, digits and hyphens")]
pub struct InvalidKeyName(String);

/// Where a session's key is found, made ready for use on every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionKeySource {
    Cookie(Box<str>),
    Header(HeaderName),
    ClientAddress,
}

/// A session's key, borrowed from the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionKeyRef<'a> {
    Text(&'a [u8]),
    V4([u8; 4]),
    V6Network([u8; 8]),
}

impl SessionKeyRef<'_> {
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text,
            Self::V4(address) => address,
            Self::V6Network(network) => network,
        }
    }
}

impl SessionKeySource {
    pub fn new(key: &SessionKey) -> Result<Self, InvalidKeyName> {
        Ok(match key {
            SessionKey::Cookie(name) => Self::Cookie(name.as_str().into()),
            SessionKey::Header(name) => Self::Header(name.parse().map_err(|_| InvalidKeyName(name.clone()))?),
            SessionKey::ClientAddress => Self::ClientAddress,
        })
    }

    /// The key of the session that this request belongs to, without allocating. An empty value is no
    /// key: it would make one session of everybody who is logged out.
    pub fn key<'a>(&self, headers: &'a HeaderMap, client: Option<IpAddr>) -> Option<SessionKeyRef<'a>> {
        let text = match self {
            Self::Cookie(name) => cookie(headers, name.as_bytes()),
            Self::Header(name) => headers.get(name).map(|value| value.as_bytes().trim_ascii()),
            Self::ClientAddress => return client.map(address),
        };
        text.filter(|text| !text.is_empty()).map(SessionKeyRef::Text)
    }
}

/// The /64 stands for an IPv6 caller: hosts change the lower half at will, in mid-session too.
fn address(client: IpAddr) -> SessionKeyRef<'static> {
    match client.to_canonical() {
        IpAddr::V4(v4) => SessionKeyRef::V4(v4.octets()),
        IpAddr::V6(v6) => SessionKeyRef::V6Network(((v6.to_bits() >> 64) as u64).to_be_bytes()),
    }
}

/// The first cookie of that name; HTTP/2 callers may send each cookie as a header of its own.
fn cookie<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|b| *b == b';')).find_map(|pair| {
        let at = pair.iter().position(|b| *b == b'=')?;
        let (key, value) = pair.split_at(at);
        (key.trim_ascii() == name).then(|| value.get(1..).unwrap_or_default().trim_ascii())
    })
}

/// Decides for whole sessions.
#[derive(Clone, Debug)]
pub struct SessionSampler {
    parts: u32,
    /// The hash is keyed so that callers cannot make up session keys that are always teed.
    key: [u8; 32],
}

impl SessionSampler {
    /// Samplers of the same secret agree, also across processes and versions.
    pub fn new(percent: Percent, secret: &[u8]) -> Self {
        Self { parts: percent.parts(), key: blake3::derive_key("segue session sampling v1", secret) }
    }

    pub fn pick(&self, session: &[u8]) -> bool {
        if self.parts == 0 {
            return false;
        }
        let hash = blake3::keyed_hash(&self.key, session);
        let place = hash.as_bytes().first_chunk().map_or(0, |first| u128::from(u64::from_le_bytes(*first)));
        // The session's place in 0..WHOLE, rounded down: below `parts` for exactly that share.
        ((place * u128::from(Percent::WHOLE)) >> 64) < u128::from(self.parts)
    }

    pub fn is_off(&self) -> bool {
        self.parts == 0
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn sampler(percent: f64) -> SessionSampler {
        SessionSampler::new(Percent::new(percent).unwrap(), b"secret")
    }

    fn source(key: &SessionKey) -> SessionKeySource {
        SessionKeySource::new(key).unwrap()
    }

    fn cookies(lines: &[&'static str]) -> HeaderMap {
        lines.iter().map(|line| (COOKIE, HeaderValue::from_static(line))).collect()
    }

    proptest! {
        #[test]
        fn a_higher_percentage_keeps_the_sessions_it_had(key: Vec<u8>, low in 0.0_f64..100.0, more in 0.0_f64..100.0) {
            let high = (low + more).min(100.0);
            prop_assert!(!sampler(low).pick(&key) || sampler(high).pick(&key));
            prop_assert!(sampler(100.0).pick(&key));
            prop_assert!(!sampler(0.0).pick(&key));
        }

        #[test]
        fn any_cookie_header_is_survived(value: Vec<u8>) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let headers = HeaderMap::from_iter([(COOKIE, value)]);
                source(&SessionKey::Cookie("sid".into())).key(&headers, None);
            }
        }
    }

    #[test]
    fn the_share_of_sessions_is_the_percentage() {
        let sampler = sampler(5.0);
        let picked = (0..20_000_u32).filter(|id| sampler.pick(&id.to_le_bytes())).count();
        // Binomial(20 000, 5 %): mean 1 000, σ 30.8; six of them.
        assert!((815..=1_185).contains(&picked), "{picked}");
    }

    #[test]
    fn another_secret_picks_other_sessions() {
        let other = SessionSampler::new(Percent::new(50.0).unwrap(), b"other");
        let same = (0..1_000_u32)
            .filter(|id| sampler(50.0).pick(&id.to_le_bytes()) == other.pick(&id.to_le_bytes()));
        assert!((400..600).contains(&same.count()));
    }

    #[test]
    fn the_choice_survives_a_new_version() {
        // Fixed for good: a session must not change sides because Segue was upgraded.
        let picked: Vec<u8> = (0..40).filter(|id| sampler(20.0).pick(&[*id])).collect();
        assert_eq!(picked, [2, 4, 8, 15, 18, 20, 23, 24, 29, 30]);
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let sid = source(&SessionKey::Cookie("sid".into()));
        let found = |lines| {
            let headers = cookies(lines);
            sid.key(&headers, None).map(|key| String::from_utf8(key.as_bytes().to_vec()).unwrap())
        };
        assert_eq!(found(&["sid=abc"]).as_deref(), Some("abc"));
        assert_eq!(found(&["a=1; sid=abc==; b=2"]).as_deref(), Some("abc=="));
        assert_eq!(found(&["a=1", "xsid=no; sid=yes"]).as_deref(), Some("yes"));
        assert_eq!(found(&["sidx=1; x=sid=2"]), None);
        assert_eq!(found(&["sid"]), None);
        assert_eq!(found(&["sid="]), None);
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn headers_and_addresses_are_keys_too() {
        let user = source(&SessionKey::Header("X-User".into()));
        let headers =
            HeaderMap::from_iter([(HeaderName::from_static("x-user"), HeaderValue::from_static(" 7 "))]);
        assert_eq!(user.key(&headers, None), Some(SessionKeyRef::Text(b"7")));
        assert_eq!(user.key(&HeaderMap::new(), None), None);

        let client = source(&SessionKey::ClientAddress);
        let key = |address: &str| client.key(&headers, Some(address.parse().unwrap()));
        assert_eq!(client.key(&headers, None), None);
        assert_eq!(key("10.0.0.1"), key("::ffff:10.0.0.1"));
        assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
        assert_eq!(key("2001:db8:0:1::1"), key("2001:db8:0:1:ffff::2"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
    }

    #[test]
    fn a_name_that_no_header_has_is_refused() {
        let refused = SessionKeySource::new(&SessionKey::Header("two words".into()));
        assert_eq!(refused, Err(InvalidKeyName("two words".into())));
    }
}
