//! Which process it was: a number alone is given to another process sooner or later.
//!
//! The kernel counts when each process started, in ticks since boot. Number, start and boot together are never
//! given twice, so a file that holds them can be trusted by a Segue that was not there when it was written.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// One process, for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub pid: i32,
    /// Ticks from boot to its start.
    pub start: u64,
    pub boot: String,
}

/// What the kernel says of a process, of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub pid: i32,
    state: char,
    pub parent: i32,
    pub session: i32,
    /// Of itself and of the children that it has waited for, in ticks.
    pub cpu_ticks: u64,
    start: u64,
}

// === impl Stamp ===

impl Stamp {
    /// Of a process that is there now.
    pub fn of(pid: i32) -> io::Result<Self> {
        let stat = Stat::of(pid)?;
        Ok(Self { pid, start: stat.start, boot: boot()? })
    }

    /// What the kernel says of this very process; `None` once it is gone.
    pub fn look(&self) -> Option<Stat> {
        let stat = Stat::of(self.pid).ok()?;
        (stat.start == self.start && boot().ok()? == self.boot).then_some(stat)
    }

    pub fn is_alive(&self) -> bool {
        self.look().is_some_and(|stat| !stat.is_dead())
    }

    /// The living processes of the session that it leads, itself among them. It may itself be gone: a session's
    /// number is not given away while it has members.
    pub fn session(&self) -> Vec<Stat> {
        if boot().ok().as_ref() != Some(&self.boot) {
            return Vec::new();
        }
        let ours = match Stat::of(self.pid) {
            Ok(stat) => stat.start == self.start,
            Err(_) => true,
        };
        // A process of that number which started at another time: nobody of the session was left by then.
        if !ours {
            return Vec::new();
        }
        let members = all().filter(|stat| stat.session == self.pid && !stat.is_dead());
        members.filter(|stat| stat.start >= self.start).collect()
    }
}

// === impl Stat ===

impl Stat {
    pub fn of(pid: i32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not as proc(5) says")))
    }

    /// The name, in parentheses, may hold anything, parentheses too.
    fn parse(text: &str) -> Option<Self> {
        let (pid, rest) = text.split_once(" (")?;
        let (_, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Numbered as in proc(5), where the state is field 3.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let id = |field: usize| fields.get(field - 3)?.parse::<i32>().ok();
        Some(Self {
            pid: pid.parse().ok()?,
            state: fields.first()?.chars().next()?,
            parent: id(4)?,
            session: id(6)?,
            cpu_ticks: (14..=17).filter_map(number).sum(),
            start: number(22)?,
        })
    }

    /// It has ended, whether or not its parent has taken notice.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    pub fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }
}

fn all() -> impl Iterator<Item = Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Stat::of(pid).ok())
}

fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let text = "42 (a) b (c) S 1 42 40 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 777 1 2\n";
        let stat = Stat::parse(text).unwrap();
        let expected = Stat { pid: 42, state: 'S', parent: 1, session: 40, cpu_ticks: 100, start: 777 };
        assert_eq!(stat, expected);
        for wrong in ["", "42", "42 (a", "42 (a) ", "42 (a) S 1 2", "x (a) S 1 42 40"] {
            assert_eq!(Stat::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn another_process_of_the_same_number_is_another() {
        let own = Stamp::of(std::process::id().cast_signed()).unwrap();
        assert!(own.is_alive());
        let earlier = Stamp { start: own.start - 1, ..own.clone() };
        assert!(!earlier.is_alive() && earlier.session().is_empty());
        let before_boot = Stamp { boot: "another".into(), ..own };
        assert!(!before_boot.is_alive() && before_boot.session().is_empty());
    }
}
