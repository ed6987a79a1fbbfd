//! Answers that give a read away.
//!
//! A request that was classed as a read and is answered like a write was probably misclassified. It is too late for
//! this one, so it is reported, and the operator adds a rule.

use http::StatusCode;

use crate::http1::Headers;

/// What an answer to a read suggests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suspicion {
    /// 201: something was created.
    Created,
    /// 202 or 205: something was set in motion or reset.
    Accepted,
    /// 303, or `Location` without a redirect: the answer points at the result of an action.
    SeeOther,
    /// A cookie was expired or stored data cleared, as a logout does.
    SessionEnded,
    /// A caller that already had cookies got a new one: the session may have changed.
    CookieSet,
}

impl Suspicion {
    /// The label in metrics; stable.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Accepted => "accepted",
            Self::SeeOther => "see_other",
            Self::SessionEnded => "session_ended",
            Self::CookieSet => "cookie_set",
        }
    }
}

/// A read whose answer suggests that it had a side effect after all; the strongest sign wins.
///
/// A first cookie for a caller without any is what every site does, and says nothing.
pub fn suspect(status: StatusCode, request_had_cookie: bool, answer: &Headers) -> Option<Suspicion> {
    let (mut points, mut clears, mut sets, mut expires) = (false, false, false, false);
    answer.for_each(|name, value| match name.len() {
        8 => points |= name.eq_ignore_ascii_case(b"location"),
        10 if name.eq_ignore_ascii_case(b"set-cookie") => {
            sets = true;
            expires |= expires_at_once(value);
        }
        15 => clears |= name.eq_ignore_ascii_case(b"clear-site-data"),
        _ => {}
    });
    match status {
        StatusCode::CREATED => Some(Suspicion::Created),
        StatusCode::ACCEPTED | StatusCode::RESET_CONTENT => Some(Suspicion::Accepted),
        StatusCode::SEE_OTHER => Some(Suspicion::SeeOther),
        _ if status.is_success() && points => Some(Suspicion::SeeOther),
        _ if clears => Some(Suspicion::SessionEnded),
        _ if !request_had_cookie => None,
        _ if expires => Some(Suspicion::SessionEnded),
        _ => sets.then_some(Suspicion::CookieSet),
    }
}

/// `Max-Age` of zero or less, or an expiry at the epoch: the usual two ways to delete a cookie.
fn expires_at_once(cookie: &[u8]) -> bool {
    cookie.split(|&b| b == b';').skip(1).any(|attribute| {
        let mut halves = attribute.splitn(2, |&b| b == b'=');
        let name = halves.next().unwrap_or_default().trim_ascii();
        let value = halves.next().unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"max-age") {
            value == b"0" || value.starts_with(b"-")
        } else {
            name.eq_ignore_ascii_case(b"expires")
                && value.windows(6).any(|year| year == b" 1970 " || year == b"-1970 ")
        }
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const LOCATION: &str = "Location";
    const SET_COOKIE: &str = "set-cookie";

    fn judged(status: u16, had_cookie: bool, headers: &[(&'static str, &'static str)]) -> Option<Suspicion> {
        let entry = |&(name, value): &(&'static str, &'static str)| {
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_static(value))
        };
        let answer = Headers::Map(Box::new(headers.iter().map(entry).collect()));
        suspect(StatusCode::from_u16(status).unwrap(), had_cookie, &answer)
    }

    #[test]
    fn answers_of_writes_are_recognised() {
        let clear = "Clear-Site-Data";
        let expired = "s=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT";
        for (status, had_cookie, headers, expected) in [
            (201, false, vec![], Suspicion::Created),
            (202, false, vec![], Suspicion::Accepted),
            (205, false, vec![], Suspicion::Accepted),
            (303, false, vec![(LOCATION, "/x")], Suspicion::SeeOther),
            (200, false, vec![(LOCATION, "/x")], Suspicion::SeeOther),
            (200, false, vec![(clear, "*")], Suspicion::SessionEnded),
            (302, true, vec![(SET_COOKIE, "a=1"), (SET_COOKIE, "s=; max-age=0")], Suspicion::SessionEnded),
            (200, true, vec![(SET_COOKIE, expired)], Suspicion::SessionEnded),
            (200, true, vec![(SET_COOKIE, "s=abc; Max-Age=60")], Suspicion::CookieSet),
        ] {
            assert_eq!(judged(status, had_cookie, &headers), Some(expected), "{status} {headers:?}");
        }
    }

    #[test]
    fn answers_of_reads_are_not() {
        assert_eq!(judged(200, false, &[]), None);
        assert_eq!(judged(200, true, &[]), None);
        assert_eq!(judged(200, false, &[(SET_COOKIE, "s=abc")]), None, "a first visit");
        assert_eq!(judged(302, true, &[(LOCATION, "/login")]), None);
        assert_eq!(judged(304, true, &[]), None);
    }
}
