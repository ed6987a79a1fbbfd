//! The date of answers, made once a second.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Debug, Default)]
pub struct Date {
    second: Duration,
    text: String,
}

impl Date {
    /// In the form of RFC 9110 §5.6.7.
    pub fn now(&mut self) -> &str {
        let now = SystemTime::now();
        let second = now
            .duration_since(UNIX_EPOCH)
            .map_or(Duration::ZERO, |since| Duration::from_secs(since.as_secs()));
        if self.text.is_empty() || second != self.second {
            self.second = second;
            self.text = httpdate::fmt_http_date(now);
        }
        &self.text
    }
}
