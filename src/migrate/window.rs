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
}
