//! When something may happen: `Mon-Fri 02:00-04:30`, weekly and in UTC.
//!
//! Only UTC, so that no hour comes twice or not at all; and no calendar, since a week always has the same seconds.

use std::fmt;
use std::str::FromStr;

const MINUTE: u64 = 60;
const DAY: u64 = 86_400;
const DAY_MINUTES: u16 = 24 * 60;
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
/// 1 January 1970, as an index into `DAYS`.
const FIRST_DAY: u64 = 3;

/// A stretch of time on some days of every week, in UTC. Its first minute is in it, its last one is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// On which it opens, Monday first; at least one.
    days: [bool; 7],
    /// Minute of the day on which it opens.
    from: u16,
    /// How many minutes it stays open: 1 to 1440, so it may end on the next day.
    minutes: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    #[error(
        "{0:?} is not a window; write days and times in UTC, such as \"Mon-Fri 02:00-04:30\", \
         \"Sat,Sun 22:00-02:00\" or \"daily 01:00-03:00\""
    )]
    Shape(String),
    #[error("{0:?} is not a day; write Mon, Tue, Wed, Thu, Fri, Sat, Sun, a range of them, or \"daily\"")]
    Day(String),
    #[error("{0:?} is not a time; write HH:MM from 00:00 to 23:59 (a window may end at 24:00)")]
    Time(String),
    #[error("{0:?} opens and closes at the same time; write 00:00-24:00 for a whole day")]
    Empty(String),
}

impl Window {
    /// `at` in seconds since 1970.
    pub fn is_open(&self, at: u64) -> bool {
        let today = at / DAY;
        // One that opened yesterday may still be open.
        [Some(today), today.checked_sub(1)].into_iter().flatten().any(|day| {
            self.opens_on(day) && {
                let opened = day * DAY + u64::from(self.from) * MINUTE;
                at.checked_sub(opened).is_some_and(|open| open < u64::from(self.minutes) * MINUTE)
            }
        })
    }

    /// The first second from `at` on in which it is open, both since 1970. `at` itself if it is open then.
    pub fn next_opening(&self, at: u64) -> u64 {
        if self.is_open(at) {
            return at;
        }
        let today = at / DAY;
        let opening = (today..=today.saturating_add(7))
            .filter(|day| self.opens_on(*day))
            .map(|day| day.saturating_mul(DAY).saturating_add(u64::from(self.from) * MINUTE))
            .find(|opening| *opening >= at);
        // The same day of the next week is among the eight at the latest; only the end of time is not.
        opening.unwrap_or(u64::MAX)
    }

    fn opens_on(&self, day: u64) -> bool {
        let weekday = ((day % 7) + FIRST_DAY) % 7;
        self.days.get(weekday as usize).copied().unwrap_or(false)
    }
}

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        let shape = || WindowError::Shape(text.to_owned());
        let (days, times) = text.trim().split_once(' ').ok_or_else(shape)?;
        let (from, to) = times.trim().split_once('-').ok_or_else(shape)?;
        let days = parse_days(days)?;
        let (from, to) = (minute_of_day(from)?, minute_of_day(to)?);
        if from == DAY_MINUTES {
            return Err(WindowError::Time("24:00".to_owned()));
        }
        let minutes = if to > from { to - from } else { to + DAY_MINUTES - from };
        if from == to {
            return Err(WindowError::Empty(times.trim().to_owned()));
        }
        Ok(Self { days, from, minutes })
    }
}

fn parse_days(text: &str) -> Result<[bool; 7], WindowError> {
    if text.eq_ignore_ascii_case("daily") {
        return Ok([true; 7]);
    }
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        // Sat-Mon goes over the end of the week.
        let length = (last + 7 - first) % 7;
        for step in 0..=length {
            if let Some(day) = days.get_mut((first + step) % 7) {
                *day = true;
            }
        }
    }
    Ok(days)
}

fn day(text: &str) -> Result<usize, WindowError> {
    let found = DAYS.iter().position(|day| day.eq_ignore_ascii_case(text));
    found.ok_or_else(|| WindowError::Day(text.to_owned()))
}

fn minute_of_day(text: &str) -> Result<u16, WindowError> {
    let number = |digits: &str| {
        let two = digits.len() == 2 && digits.bytes().all(|c| c.is_ascii_digit());
        two.then(|| digits.parse::<u16>().ok()).flatten()
    };
    let read = || {
        let (hours, minutes) = text.split_once(':')?;
        let (hours, minutes) = (number(hours)?, number(minutes)?);
        let minute = hours * 60 + minutes;
        (minutes < 60 && minute <= DAY_MINUTES).then_some(minute)
    };
    read().ok_or_else(|| WindowError::Time(text.to_owned()))
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days == [true; 7] {
            f.write_str("daily")?;
        } else {
            let named: Vec<_> =
                DAYS.iter().zip(self.days).filter(|(_, open)| *open).map(|(day, _)| *day).collect();
            f.write_str(&named.join(","))?;
        }
        let (from, to) = (self.from, self.from + self.minutes);
        let to = if to > DAY_MINUTES { to - DAY_MINUTES } else { to };
        write!(f, " {:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Monday, 5 January 1970.
    const MONDAY: u64 = 4 * DAY;

    fn window(text: &str) -> Window {
        text.parse().unwrap()
    }

    fn at(day: u64, hour: u64, minute: u64) -> u64 {
        MONDAY + day * DAY + hour * 3600 + minute * MINUTE
    }

    #[test]
    fn a_window_is_open_from_its_first_minute_to_before_its_last() {
        let weekdays = window("Mon-Fri 02:00-04:30");
        assert!(!weekdays.is_open(at(0, 1, 59) + 59));
        assert!(weekdays.is_open(at(0, 2, 0)));
        assert!(weekdays.is_open(at(4, 4, 29) + 59));
        assert!(!weekdays.is_open(at(4, 4, 30)));
        assert!(!weekdays.is_open(at(5, 3, 0)), "Saturday");
        // 25 December 2024, 02:30 UTC, was a Wednesday.
        assert!(weekdays.is_open(1_735_093_800));
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_opens() {
        let weekend = window("Sat,Sun 22:00-02:00");
        assert!(weekend.is_open(at(5, 23, 0)) && weekend.is_open(at(6, 1, 0)));
        assert!(weekend.is_open(at(6, 22, 0)) && weekend.is_open(at(7, 1, 59)), "into Monday");
        assert!(!weekend.is_open(at(5, 1, 0)), "Friday night");
        assert!(!weekend.is_open(at(7, 2, 0)) && !weekend.is_open(at(7, 22, 0)));
    }

    #[test]
    fn the_next_opening_may_be_a_week_away() {
        let sunday = window("Sun 00:00-24:00");
        assert_eq!(sunday.next_opening(at(0, 0, 0)), at(6, 0, 0));
        assert_eq!(sunday.next_opening(at(6, 12, 0)), at(6, 12, 0), "it is open");
        assert_eq!(sunday.next_opening(at(7, 0, 0)), at(13, 0, 0));
        assert_eq!(window("Mon 02:00-03:00").next_opening(at(0, 3, 0)), at(7, 2, 0));
    }

    #[test]
    fn what_is_written_is_read_in_any_case_and_printed_in_one() {
        for (text, printed) in [
            ("mon-FRI 02:00-04:30", "Mon,Tue,Wed,Thu,Fri 02:00-04:30"),
            ("Sat-Mon  22:00-02:00", "Mon,Sat,Sun 22:00-02:00"),
            ("Daily 00:00-24:00", "daily 00:00-24:00"),
            ("Mon-Sun 23:59-00:00", "daily 23:59-24:00"),
            ("Wed 12:00-11:59", "Wed 12:00-11:59"),
        ] {
            assert_eq!(window(text).to_string(), printed);
        }
    }

    #[test]
    fn what_is_no_window_says_why() {
        use WindowError::{Day, Empty, Shape, Time};
        for (text, expected) in
            [("", Shape as fn(String) -> WindowError), ("02:00-04:30", Shape), ("daily 02:00", Shape)]
        {
            assert_eq!(text.parse::<Window>(), Err(expected(text.to_owned())), "{text}");
        }
        for (text, expected, part) in [
            ("Mo 02:00-04:30", Day as fn(String) -> WindowError, "Mo"),
            ("Mon, Tue 02:00-04:30", Day, ""),
            ("Mon-Fri-Sun 02:00-04:30", Day, "Fri-Sun"),
            ("daily 2:00-04:30", Time, "2:00"),
            ("daily 02:00-24:01", Time, "24:01"),
            ("daily 02:60-03:00", Time, "02:60"),
            ("daily 24:00-02:00", Time, "24:00"),
            ("daily 02:00-٠٣:00", Time, "٠٣:00"),
            ("daily 02:00-02:00", Empty, "02:00-02:00"),
        ] {
            assert_eq!(text.parse::<Window>(), Err(expected(part.to_owned())), "{text}");
        }
    }

    fn any_window() -> impl Strategy<Value = Window> {
        (prop::array::uniform7(any::<bool>()), 0..DAY_MINUTES, 1..=DAY_MINUTES)
            .prop_filter("at least one day", |(days, ..)| days.contains(&true))
            .prop_map(|(days, from, minutes)| Window { days, from, minutes })
    }

    /// Minute by minute, from the text's own point of view.
    fn is_open_by_minutes(window: &Window, at: u64) -> bool {
        let minute_of_week = |at: u64| (at + 3 * DAY) / MINUTE % (7 * u64::from(DAY_MINUTES));
        (0..7u64).filter(|day| window.days[*day as usize]).any(|day| {
            let opens = day * u64::from(DAY_MINUTES) + u64::from(window.from);
            let since =
                (minute_of_week(at) + 7 * u64::from(DAY_MINUTES) - opens) % (7 * u64::from(DAY_MINUTES));
            since < u64::from(window.minutes)
        })
    }

    proptest! {
        #[test]
        fn a_printed_window_reads_back_as_itself(window in any_window()) {
            // A whole day from another time than midnight on has no text of its own.
            prop_assume!(window.minutes < DAY_MINUTES || window.from == 0);
            prop_assert_eq!(window.to_string().parse(), Ok(window));
        }

        #[test]
        fn it_is_open_at_the_minutes_that_its_text_says(window in any_window(), at in DAY..1 << 40) {
            prop_assert_eq!(window.is_open(at), is_open_by_minutes(&window, at));
        }

        #[test]
        fn the_next_opening_is_open_and_nothing_before_it_is(window in any_window(), at in 0..1u64 << 40, part in 0.0..1.0f64) {
            let next = window.next_opening(at);
            prop_assert!(next >= at && next - at < 7 * DAY);
            prop_assert!(window.is_open(next));
            let between = at + ((next - at) as f64 * part) as u64;
            prop_assert!(between == next || !window.is_open(between));
        }

        #[test]
        fn nothing_that_is_written_and_no_time_makes_it_panic(text in "([A-Za-z,-]{0,9} [0-9:-]{0,12}|.{0,20})", at in any::<u64>()) {
            if let Ok(window) = text.parse::<Window>() {
                window.is_open(at);
                window.next_opening(at);
            }
        }
    }
}
