//! Quantities with their unit in the type, and how they are written.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A size in bytes, written `"64 KiB"`, `"1 MB"` or a plain integer of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "WrittenSize", into = "u64")]
pub struct ByteSize(pub u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenSize {
    Bytes(u64),
    Text(String),
}

impl TryFrom<WrittenSize> for ByteSize {
    type Error = UnitError;

    fn try_from(written: WrittenSize) -> Result<Self, UnitError> {
        match written {
            WrittenSize::Bytes(bytes) => Ok(Self(bytes)),
            WrittenSize::Text(text) => text.parse(),
        }
    }
}

impl From<ByteSize> for u64 {
    fn from(size: ByteSize) -> Self {
        size.0
    }
}

/// Why a quantity could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error("{0:?} is not a size; write a whole number and a unit (B, kB, MB, GB, TB, KiB, MiB, GiB or TiB)")]
    Size(String),
    #[error("{0:?} is not a duration; write a whole number and a unit (ms, s, m or h), such as \"250ms\"")]
    Duration(String),
    #[error("{0:?} is too large a number")]
    TooLarge(String),
}

/// Binary units come first, so that a size prints as `64 KiB` rather than `65536 B`.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// In milliseconds.
const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl ByteSize {
    pub const fn kib(n: u64) -> Self {
        Self(n * 1024)
    }
    pub const fn mib(n: u64) -> Self {
        Self(n * 1024 * 1024)
    }
    pub const fn bytes(self) -> u64 {
        self.0
    }
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// The largest unit that divides the size exactly, so nothing is rounded.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, unit) = in_largest_unit(self.0, &SIZE_UNITS);
        write!(f, "{count} {unit}")
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (digits, unit) = split(text);
        if unit.is_empty() {
            return Err(UnitError::Size(text.into()));
        }
        // `KB` is too common to refuse; it means the decimal unit, as in SI.
        let unit = if unit == "KB" { "kB" } else { unit };
        let scale = scale(unit, &SIZE_UNITS).ok_or_else(|| UnitError::Size(text.into()))?;
        quantity(text, digits, scale, UnitError::Size).map(Self)
    }
}

/// Reads `"250ms"`, `"5s"`, `"2m"` or `"1h"`.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (digits, unit) = split(text);
    let scale = scale(unit, &DURATION_UNITS).ok_or_else(|| UnitError::Duration(text.into()))?;
    quantity(text, digits, scale, UnitError::Duration).map(Duration::from_millis)
}

/// Writes a duration as [`parse_duration`] reads it; what is finer than a millisecond is dropped.
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (count, unit) = in_largest_unit(millis, &DURATION_UNITS);
    format!("{count}{unit}")
}

fn in_largest_unit(value: u64, units: &[(&'static str, u64)]) -> (u64, &'static str) {
    units
        .iter()
        .find(|(_, scale)| value >= *scale && value.is_multiple_of(*scale))
        .or_else(|| units.iter().find(|(_, scale)| *scale == 1))
        .map_or((value, ""), |(unit, scale)| (value / scale, unit))
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    (digits, unit.trim_start_matches(' '))
}

fn scale(unit: &str, units: &[(&str, u64)]) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale)
}

fn quantity(text: &str, digits: &str, scale: u64, wrong: fn(String) -> UnitError) -> Result<u64, UnitError> {
    if digits.is_empty() {
        return Err(wrong(text.into()));
    }
    let count = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(scale));
    count.ok_or_else(|| UnitError::TooLarge(text.into()))
}

/// A share of requests in steps of one ten-thousandth of a per cent, so that sampling is integer
/// arithmetic and a rate such as 2.5 % is met exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u32);

impl Percent {
    pub const ZERO: Self = Self(0);
    pub const FIVE: Self = Self(50_000);
    /// How many parts make 100 %.
    pub const WHOLE: u32 = 1_000_000;

    /// `None` unless `0.0 ≤ percent ≤ 100.0`.
    pub fn new(percent: f64) -> Option<Self> {
        (0.0..=100.0).contains(&percent).then(|| Self((percent * 10_000.0).round() as u32))
    }
    pub const fn parts(self) -> u32 {
        self.0
    }
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.as_f64())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_with_decimal_and_binary_units() {
        for (text, bytes) in [
            ("64 KiB", 65_536),
            ("64KiB", 65_536),
            ("1 MB", 1_000_000),
            ("1 kB", 1_000),
            ("1 KB", 1_000),
            ("0 B", 0),
            ("2 GiB", 1 << 31),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "64", "KiB", "64K", "64 kib", "-1 B", "1.5 MB", "1 MB ", "٣ B"] {
            assert_eq!(text.parse::<ByteSize>(), Err(UnitError::Size(text.into())), "{text}");
        }
        let huge = "99999999999 TiB";
        assert_eq!(huge.parse::<ByteSize>(), Err(UnitError::TooLarge(huge.into())));
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_hours(1)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        for text in ["", "5", "s", "5 sec", "5S", "1.5s", "-1s", "1m30s"] {
            assert_eq!(parse_duration(text), Err(UnitError::Duration(text.into())), "{text}");
        }
        let huge = "18446744073709551615h";
        assert_eq!(parse_duration(huge), Err(UnitError::TooLarge(huge.into())));
    }

    #[test]
    fn sizes_print_in_the_largest_exact_unit() {
        assert_eq!(ByteSize::kib(32).to_string(), "32 KiB");
        assert_eq!(ByteSize(1_000_000).to_string(), "1 MB");
        assert_eq!(ByteSize(1_025).to_string(), "1025 B");
        assert_eq!(ByteSize(0).to_string(), "0 B");
        assert_eq!(format_duration(Duration::from_secs(90)), "90s");
    }

    proptest! {
        #[test]
        fn sizes_round_trip(count in 0..1u64 << 20, unit in 0..SIZE_UNITS.len()) {
            let size = ByteSize(count * SIZE_UNITS[unit].1);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn any_size_round_trips(size in any::<u64>().prop_map(ByteSize)) {
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn durations_round_trip(millis in any::<u64>()) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn nothing_that_is_written_makes_reading_panic(text in ".{0,20}") {
            let _ = text.parse::<ByteSize>();
            let _ = parse_duration(&text);
        }
    }
}
