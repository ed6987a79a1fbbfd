//! AWS Signature Version 4, for the one shape of request that the Query API has: POST to `/`, no query, a form.
//!
//! What makes the scheme intricate, the canonical form of paths, queries and arbitrary headers, does not arise here;
//! what is left are four keyed hashes. Pure: the time is an argument.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{digest, hmac};

use super::credentials::Keys;

/// Every request has it, so it is signed with the rest.
const CONTENT_TYPE: &str = "application/x-www-form-urlencoded";
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What a signature is good for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub region: &'a str,
    pub service: &'a str,
}

/// The headers that make a request with this `host` and `body` one of `keys`' owner's.
pub(super) fn headers(
    keys: &Keys,
    scope: Scope<'_>,
    host: &str,
    body: &[u8],
    now: SystemTime,
) -> Vec<(&'static str, String)> {
    let stamp = Stamp::of(now);
    let mut signed = vec![
        ("content-type", CONTENT_TYPE.to_owned()),
        ("host", host.to_owned()),
        ("x-amz-date", stamp.time()),
    ];
    signed.extend(keys.token.clone().map(|token| ("x-amz-security-token", token)));
    let names: Vec<_> = signed.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: Vec<_> = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let lines = lines.concat();
    let canonical = format!("POST\n/\n\n{lines}\n{names}\n{}", hash(body));

    let within = format!("{}/{}/{}/aws4_request", stamp.day(), scope.region, scope.service);
    let to_sign = format!("{ALGORITHM}\n{}\n{within}\n{}", stamp.time(), hash(canonical.as_bytes()));
    let mut key = hmac::Key::new(hmac::HMAC_SHA256, format!("AWS4{}", keys.secret).as_bytes());
    for part in within.split('/') {
        key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
    }
    let signature = hex(hmac::sign(&key, to_sign.as_bytes()).as_ref());
    let authorization =
        format!("{ALGORITHM} Credential={}/{within}, SignedHeaders={names}, Signature={signature}", keys.id);
    signed.push(("authorization", authorization));
    signed
}

fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A moment, in UTC.
#[derive(Clone, Copy, Debug)]
struct Stamp {
    year: u64,
    month: u64,
    day: u64,
    /// Seconds of the day.
    second: u64,
}

impl Stamp {
    /// A clock that stands before 1970 stands at 1970 here; the answer will say that the request is too old.
    fn of(now: SystemTime) -> Self {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        // Years begin in March here, so that the day that comes and goes is their last; 719 468 days before 1970 one
        // such year began that is divisible by 400.
        let days = seconds / 86_400 + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: of_year - (153 * from_march + 2) / 5 + 1,
            second: seconds % 86_400,
        }
    }

    fn day(self) -> String {
        format!("{:04}{:02}{:02}", self.year, self.month, self.day)
    }

    fn time(self) -> String {
        let Self { second, .. } = self;
        format!("{}T{:02}{:02}{:02}Z", self.day(), second / 3600, second / 60 % 60, second % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 30 August 2015, 12:36:00: when AWS's examples are signed.
    const THEN: Duration = Duration::from_mins(24_015_636);

    fn keys(token: Option<&str>) -> Keys {
        Keys {
            id: "AKIDEXAMPLE".into(),
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
            token: token.map(str::to_owned),
        }
    }

    fn signature(keys: &Keys) -> String {
        let scope = Scope { region: "us-east-1", service: "service" };
        let headers = headers(keys, scope, "example.amazonaws.com", b"Param1=value1", UNIX_EPOCH + THEN);
        headers.into_iter().find(|(name, _)| *name == "authorization").unwrap().1
    }

    #[test]
    fn a_form_is_signed_as_in_awss_own_example() {
        assert_eq!(
            signature(&keys(None)),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
        );
        let with_token = signature(&keys(Some("token")));
        assert!(with_token.contains("SignedHeaders=content-type;host;x-amz-date;x-amz-security-token,"));
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (days, expected) in [
            (0, "19700101"),
            (59, "19700301"),
            (10_956, "19991231"),
            (11_016, "20000229"),
            (11_017, "20000301"),
            (16_494, "20150228"),
            (19_782, "20240229"),
            (20_089, "20250101"),
            (47_540, "21000228"),
            (47_541, "21000301"),
        ] {
            let stamp = Stamp::of(UNIX_EPOCH + Duration::from_hours(24 * days));
            assert_eq!(stamp.time(), format!("{expected}T000000Z"), "{days}");
        }
        assert_eq!(Stamp::of(UNIX_EPOCH + THEN).time(), "20150830T123600Z");
        assert_eq!(Stamp::of(UNIX_EPOCH - THEN).day(), "19700101");
    }
}
