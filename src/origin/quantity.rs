//! Durations and sizes as people type them on a command line.

use std::time::Duration;

use crate::config::ByteSize;

/// `10s`, `5ms`, `1.5ms`, `200us`, `2m`; a bare `0` needs no unit.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "us" | "µs" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        "" if number == 0.0 => 0.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

/// `1GiB`, `64 KiB`, `10MB`, or plain bytes.
pub(super) fn size(text: &str) -> Option<ByteSize> {
    let (number, unit) = split(text)?;
    let factor = match unit {
        "" | "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number * factor;
    // Beyond 2^53 a float no longer counts single bytes; nobody means that.
    (bytes <= 9_007_199_254_740_992.0).then_some(ByteSize(bytes as u64))
}

/// The number and its unit; `None` unless there is a plain, non-negative number in front.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_their_unit() {
        assert_eq!(duration("10s"), Some(Duration::from_secs(10)));
        assert_eq!(duration("1.5ms"), Some(Duration::from_micros(1500)));
        assert_eq!(duration("200us"), Some(Duration::from_micros(200)));
        assert_eq!(duration("0"), Some(Duration::ZERO));
        for refused in ["", "5", "ms", "-1s", "1e3s", "1..2s", "5 parsecs"] {
            assert_eq!(duration(refused), None, "{refused}");
        }
    }

    #[test]
    fn sizes_know_both_families_of_units() {
        assert_eq!(size("1GiB"), Some(ByteSize(1 << 30)));
        assert_eq!(size("64 KiB"), Some(ByteSize::kib(64)));
        assert_eq!(size("10MB"), Some(ByteSize(10_000_000)));
        assert_eq!(size("17"), Some(ByteSize(17)));
        for refused in ["", "GiB", "-1", "1 XB", "99999999GiB"] {
            assert_eq!(size(refused), None, "{refused}");
        }
    }
}
