//! What the deterministic endpoints answer, as pure functions, so that whoever asked can tell
//! whether the bytes that came back are the right ones.

use bytes::Bytes;

/// Answer of `GET /`.
pub const HELLO: &[u8] = b"hello from the sample application\n";
/// Answer of `GET /etag`, and its validator.
pub const TAGGED: &[u8] = b"this page has a validator\n";
pub const TAG: &str = "\"segue-1\"";

/// After this many bytes `/bytes/{n}` repeats itself: long enough that a lost, doubled or moved
/// chunk of any usual size shows, short enough to live in the binary.
const PERIOD: u64 = 1 << 16;

static PATTERN: [u8; PERIOD as usize] = pattern();

#[allow(clippy::large_stack_arrays, reason = "evaluated by the compiler alone")]
const fn pattern() -> [u8; PERIOD as usize] {
    let mut pattern = [b'\n'; PERIOD as usize];
    let mut state: u32 = 1;
    let mut at = 0;
    while at < pattern.len() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Lines of 63 letters, so that a terminal can show it.
        if at % 64 != 63 {
            pattern[at] = b'a' + ((state >> 24) % 26) as u8;
        }
        at += 1;
    }
    pattern
}

/// The bytes of `/bytes/{n}` from `at` to `end`, or as many of them as can be had without copying;
/// empty only if `at ≥ end`.
pub fn pattern_from(at: u64, end: u64) -> Bytes {
    let start = at % PERIOD;
    let stop = (start + end.saturating_sub(at)).min(PERIOD);
    Bytes::from_static(PATTERN.get(start as usize..stop as usize).unwrap_or_default())
}

/// The first `n` bytes of the pattern in one piece.
pub fn bytes(n: u64) -> Bytes {
    let mut whole = Vec::new();
    while (whole.len() as u64) < n {
        whole.extend_from_slice(&pattern_from(whole.len() as u64, n));
    }
    whole.into()
}

/// Answer of `GET /item/{id}`: JSON that is the same whenever and whomever one asks.
pub fn item(id: &str) -> String {
    // FNV-1a: stable over versions and machines, which the standard hasher does not promise.
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let quoted = serde_json::Value::from(id);
    let (price, stock) = (hash % 100_000, (hash >> 32) % 1000);
    format!("{{\"id\":{quoted},\"name\":\"item {hash:016x}\",\"price_cents\":{price},\"stock\":{stock}}}")
}

/// What a `Range` header asks of a body of `length` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// No range, several, or one that is not understood: all of it.
    Whole,
    /// From the first to before the second.
    Part(u64, u64),
    Unsatisfiable,
}

pub(super) fn range(header: Option<&str>, length: u64) -> Range {
    let parse = || {
        let (from, to) = header?.trim().strip_prefix("bytes=")?.split_once('-')?;
        Some(match (from.trim(), to.trim()) {
            ("", suffix) => (length.saturating_sub(suffix.parse().ok()?), length),
            (from, "") => (from.parse().ok()?, length),
            (from, to) => {
                let (from, to): (u64, u64) = (from.parse().ok()?, to.parse().ok()?);
                (from <= to).then_some((from, to.saturating_add(1).min(length)))?
            }
        })
    };
    match parse() {
        None => Range::Whole,
        Some((from, to)) if from < to => Range::Part(from, to),
        Some(_) => Range::Unsatisfiable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_pattern_is_that_part_of_the_whole() {
        let whole = bytes(200_000);
        assert_eq!(whole.len(), 200_000);
        let mut pieces = Vec::new();
        while pieces.len() < 150_000 {
            pieces.extend_from_slice(&pattern_from(50_000 + pieces.len() as u64, 200_000));
        }
        assert!(pieces == whole[50_000..]);
        assert!(pattern_from(5, 5).is_empty());
        // A chunk that went missing shows.
        assert!(whole[..8192] != whole[8192..16384]);
    }

    #[test]
    fn items_differ_by_id_and_are_json() {
        assert_eq!(item("1"), item("1"));
        assert_ne!(item("1"), item("2"));
        let odd: serde_json::Value = serde_json::from_str(&item("a\"b")).unwrap();
        assert_eq!(odd["id"], "a\"b");
    }

    #[test]
    fn ranges_follow_the_book() {
        assert_eq!(range(None, 10), Range::Whole);
        assert_eq!(range(Some("bytes=0-3"), 10), Range::Part(0, 4));
        assert_eq!(range(Some("bytes=7-"), 10), Range::Part(7, 10));
        assert_eq!(range(Some("bytes=-3"), 10), Range::Part(7, 10));
        assert_eq!(range(Some("bytes=5-999"), 10), Range::Part(5, 10));
        assert_eq!(range(Some("bytes=10-"), 10), Range::Unsatisfiable);
        assert_eq!(range(Some("bytes=-0"), 10), Range::Unsatisfiable);
        assert_eq!(range(Some("bytes=3-1"), 10), Range::Whole);
        assert_eq!(range(Some("bytes=0-1,3-4"), 10), Range::Whole);
        assert_eq!(range(Some("lines=1-2"), 10), Range::Whole);
    }
}
