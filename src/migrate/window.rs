//! Whether a switchover may begin now, by the maintenance windows of its service. Pure.

use crate::config::Window;

/// Whether one of `windows` is open at `at`, in seconds since 1970. None at all means always.
pub fn is_open(windows: &[Window], at: u64) -> bool {
    windows.is_empty() || windows.iter().any(|window| window.is_open(at))
}

/// The first second from `at` on in which one of `windows` is open, both since 1970.
pub fn next_opening(windows: &[Window], at: u64) -> u64 {
    windows.iter().map(|window| window.next_opening(at)).min().unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_windows_it_is_always_time_and_with_several_the_first_counts() {
        assert!(is_open(&[], 7));
        assert_eq!(next_opening(&[], 7), 7);
        // 1 January 1970 was a Thursday.
        let windows: Vec<Window> =
            ["Fri 10:00-11:00", "Thu 20:00-21:00"].iter().map(|text| text.parse().unwrap()).collect();
        assert!(!is_open(&windows, 0));
        assert_eq!(next_opening(&windows, 0), 20 * 3600);
        assert!(is_open(&windows, 20 * 3600) && is_open(&windows, 34 * 3600));
        assert_eq!(next_opening(&windows, 21 * 3600), 34 * 3600);
    }

    #[test]
    fn a_clock_that_is_set_only_changes_when_the_next_opening_is() {
        let windows: Vec<Window> =
            ["Mon-Fri 02:00-04:30", "Sat 22:00-02:00"].iter().map(|text| text.parse().unwrap()).collect();
        // A Tuesday at 3 in 2026, an hour off, 1970, 2100 and no time at all.
        let now = 20_598 * 86_400 + 3 * 3600;
        for at in [now, now - 3600, now + 3600, 0, 4_102_444_800] {
            let opening = next_opening(&windows, at);
            assert!(opening >= at && opening - at < 3 * 86_400, "{at}");
            assert!(is_open(&windows, opening), "{at}");
            assert_eq!(is_open(&windows, at), opening == at);
        }
        assert!(is_open(&windows, now) && is_open(&windows, now + 3600) && is_open(&windows, now - 3600));
        assert!(next_opening(&windows, u64::MAX) >= u64::MAX - 3 * 86_400);
    }
}
