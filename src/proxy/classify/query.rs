//! Query strings: keys that are used up by their first use, keys that name an action, and keys that change the method.
//!
//! A one-time code or token is spent by whoever presents it first. Where both instances share the store of such
//! codes, a copy could spend it before the caller does, so these are writes even for GET.
//!
//! Servers disagree about keys more than about anything else in a URL. Keys are therefore compared decoded, without
//! regard to case, split at `&` and at `;`, with `name[…]` taken for `name`; separators inside a key are ignored.

use std::borrow::Cow;

use super::{Reason, path::hex_pair, words};

/// One key of a query string or form.
#[derive(Clone, Debug)]
pub struct Key<'a> {
    /// Form-decoded; empty when that is not possible.
    decoded: Cow<'a, [u8]>,
    malformed: bool,
    value: &'a [u8],
}

/// Form-decodes. `None` when a percent-encoding is invalid, for then servers decode each in their way.
fn decode(raw: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !raw.iter().any(|&b| matches!(b, b'%' | b'+')) {
        return Some(Cow::Borrowed(raw));
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => hex_pair(&mut bytes)?,
            byte => byte,
        });
    }
    Some(Cow::Owned(decoded))
}

/// The keys of a query string, in order.
pub fn keys(query: Option<&str>) -> impl Iterator<Item = Key<'_>> {
    pieces(query.unwrap_or_default().as_bytes())
}

/// The keys of a form or a query string, in order.
pub fn pieces(form: &[u8]) -> impl Iterator<Item = Key<'_>> {
    form.split(|&b| b == b'&' || b == b';').filter(|piece| !piece.is_empty()).map(Key::new)
}

impl<'a> Key<'a> {
    fn new(piece: &'a [u8]) -> Self {
        let mut halves = piece.splitn(2, |&b| b == b'=');
        let raw = halves.next().unwrap_or_default();
        let value = halves.next().unwrap_or_default();
        // A control character, or another encoding below the first, has no business in a key.
        let decoded = decode(raw).filter(|key| !key.iter().any(|&b| b == b'%' || b.is_ascii_control()));
        Self { malformed: decoded.is_none(), decoded: decoded.unwrap_or_default(), value }
    }

    /// The key as the application will see it, without `[…]`.
    pub fn name(&self) -> &[u8] {
        let name = self.decoded.trim_ascii_start();
        match name.iter().position(|&b| b == b'[') {
            Some(open) if name.contains(&b']') => name.get(..open).unwrap_or_default(),
            _ => name,
        }
    }

    /// The same key, whatever its case.
    pub fn is(&self, name: &str) -> bool {
        !self.malformed && self.name().eq_ignore_ascii_case(name.as_bytes())
    }

    /// `_method`, which Rack, Symfony, Express and others obey. PHP takes a `.`, a space or a lone `[` for a `_`.
    pub fn overrides_method(&self) -> bool {
        let name = self.name();
        let underscored = name.len() == 7 && matches!(name.first(), Some(b'_' | b'.' | b' ' | b'['));
        if underscored && name.get(1..).is_some_and(|tail| tail.eq_ignore_ascii_case(b"method")) {
            return true;
        }
        if !matches!(name.first(), Some(b'x' | b'X')) {
            return false;
        }
        matches!(self.normal().as_slice(), b"xhttpmethodoverride" | b"xhttpmethod" | b"xmethodoverride")
    }

    /// The start of the key without separators, in lower case.
    fn normal(&self) -> Normal {
        let mut normal = Normal { bytes: [0; Normal::CAPACITY], length: 0 };
        let letters = self.name().iter().filter(|byte| byte.is_ascii_alphanumeric() || !byte.is_ascii());
        for (slot, byte) in normal.bytes.iter_mut().zip(letters) {
            *slot = byte.to_ascii_lowercase();
            normal.length += 1;
        }
        normal
    }

    /// `token`, alone or after another word.
    fn ends_with_token(&self) -> bool {
        let letters = self.name().iter().rev().filter(|byte| byte.is_ascii_alphanumeric());
        letters.take(5).map(u8::to_ascii_lowercase).eq(*b"nekot")
    }

    /// The value, form-decoded; `None` when it is not validly encoded.
    pub fn decoded_value(&self) -> Option<Cow<'a, [u8]>> {
        decode(self.value)
    }

    fn objection(&self) -> Option<Reason> {
        if self.malformed {
            return Some(Reason::MalformedQuery);
        }
        let normal = self.normal();
        if is_consumed(normal.as_slice()) || (self.ends_with_token() && !is_lasting(normal.as_slice())) {
            return Some(Reason::ConsumedQueryKey);
        }
        let names_action = words::action_in(self.name()).is_some()
            || match normal.as_slice() {
                b"action" | b"act" | b"do" | b"op" | b"cmd" | b"command" | b"task" | b"operation"
                | b"method" => {
                    self.decoded_value().is_none_or(|value| words::action_in_decoded(&value).is_some())
                }
                // GraphQL on a path that was not opted in, by a server that lets GET mutate.
                b"query" => self.decoded_value().is_none_or(|text| names_operation(&text)),
                _ => false,
            };
        names_action.then_some(Reason::SuspiciousQuery)
    }
}

/// Room for every key of interest; a longer key equals none of them.
struct Normal {
    bytes: [u8; Self::CAPACITY],
    length: usize,
}

impl Normal {
    const CAPACITY: usize = 24;

    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// The first thing in a query string that makes a safe method a write.
pub fn objection(query: Option<&str>) -> Option<(Reason, Key<'_>)> {
    keys(query).find_map(|key| key.objection().map(|reason| (reason, key)))
}

/// Keys whose value is spent by use, normalised.
///
/// OAuth and its kin (`code`, `state`, `nonce`, `oauth_*`), CAS (`ticket`), SAML, links sent by mail (`*token`, `otp`,
/// `oobCode`, `signature`). Tokens that say where a listing goes on, or that stand for a login, last. Signatures of object
/// stores (`X-Amz-Signature`, `X-Goog-Signature`) hold for a method and a time, and are not spent either.
#[rustfmt::skip]
fn is_consumed(key: &[u8]) -> bool {
    matches!(
        key,
        b"code" | b"state" | b"sessionstate" | b"nonce" | b"otp" | b"totp" | b"passcode" | b"ticket" | b"jwt"
        | b"signature" | b"sig" | b"samlrequest" | b"samlresponse" | b"samlart" | b"relaystate" | b"oauthverifier"
        | b"openidresponsenonce" | b"openidmode" | b"authcode" | b"authorizationcode" | b"verificationcode"
        | b"confirmationcode" | b"activationcode" | b"invitecode" | b"resetcode" | b"oobcode" | b"onetimecode"
        | b"magic" | b"magiclink" | b"assertion" | b"resetkey" | b"activationkey" | b"confirmationkey"
    )
}

fn is_lasting(key: &[u8]) -> bool {
    matches!(
        key,
        b"pagetoken"
            | b"nextpagetoken"
            | b"nexttoken"
            | b"continuationtoken"
            | b"continuetoken"
            | b"startingtoken"
            | b"cursortoken"
            | b"synctoken"
            | b"skiptoken"
            | b"accesstoken"
    )
}

fn names_operation(document: &[u8]) -> bool {
    let has = |word: &[u8]| document.windows(word.len()).any(|window| window == word);
    has(b"mutation") || has(b"subscription")
}

#[cfg(test)]
mod tests {
    use super::{keys, objection};
    use crate::proxy::classify::Reason;

    fn reason(query: &str) -> Option<Reason> {
        objection(Some(query)).map(|(reason, _)| reason)
    }

    #[test]
    fn keys_that_are_used_up_are_found_however_they_are_written() {
        for query in [
            "code=1",
            "state=x",
            "token=x",
            "ticket=ST-1",
            "otp=1",
            "nonce=1",
            "SAMLRequest=x",
            "SAMLResponse=x",
            "SAMLart=x",
            "RelayState=x",
            "a=1&code=2",
            "a=1;code=2",
            "CODE=1",
            "%63ode=1",
            "%43%4f%44%45",
            "code",
            "code[]=1",
            "code[a]=1",
            "code%5B%5D=1",
            "token[",
            "confirmation_token=x",
            "resetPasswordToken=x",
            "oauth-verifier=x",
            "+token=x",
            "signature=x&expires=1",
            "oobCode=x",
            "openid.mode=id_res",
        ] {
            assert_eq!(reason(query), Some(Reason::ConsumedQueryKey), "{query}");
        }
    }

    #[test]
    fn actions_are_found_in_keys_and_in_values_of_action_keys() {
        for query in [
            "logout",
            "logout=1",
            "add-to-cart=12",
            "delete=3",
            "action=delete",
            "do=log%6fut",
            "Action=Log+Out",
            "cmd=%zz",
            "cmd=50%25delete",
            "query=mutation{a}",
            "query=%6dutation%7Ba%7D",
        ] {
            assert_eq!(reason(query), Some(Reason::SuspiciousQuery), "{query}");
        }
    }

    #[test]
    fn keys_that_cannot_be_decoded_are_refused() {
        for query in ["%=1", "%zz=1", "a%00b=1", "%2563ode=1", "a%0a=1"] {
            assert_eq!(reason(query), Some(Reason::MalformedQuery), "{query}");
        }
    }

    #[test]
    fn ordinary_queries_pass() {
        for query in [
            "",
            "&&",
            "page=2&limit=50",
            "q=100%",
            "q=logout",
            "country_code=de",
            "pageToken=x",
            "next_token=x",
            "access_token=x",
            "filter[name]=x",
            "sort=-date",
            "query=cats",
            "action=view",
            "X-Amz-Signature=x",
            "%C3%A9=1",
        ] {
            assert_eq!(reason(query), None, "{query}");
        }
    }

    #[test]
    fn method_overrides_are_found_the_way_frameworks_find_them() {
        let overrides = |query| keys(Some(query)).any(|key| key.overrides_method());
        for query in [
            "_method=PUT",
            "a&_METHOD=x",
            "a;_method",
            "%5fmethod",
            "_method[]",
            ".method=x",
            "[method=x",
            "X-HTTP-Method-Override=PUT",
        ] {
            assert!(overrides(query), "{query}");
        }
        assert!(!overrides("method=x&a_method=x&payment_method=y&x=_method"));
    }
}
