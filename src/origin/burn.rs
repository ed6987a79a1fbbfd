//! A fixed amount of computing per request.
//!
//! It is counted in rounds of arithmetic, not in time: a request then costs the same work when the
//! instance is throttled or shares its core, and only takes longer, as real requests do.

use std::hint::black_box;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Long enough that reading the clock does not count, short enough not to be noticed at start.
const TRIAL_ROUNDS: u64 = 1_000_000;
const TRIALS: usize = 5;

#[derive(Clone, Copy, Debug)]
pub(super) struct Burn {
    rounds: u64,
}

impl Burn {
    /// As much work as a core of this machine does in `cpu`. Trials are timed by the clock of the thread's own CPU time, as
    /// the core may be shared; the fastest of them is the least disturbed one. `None` for no work at all.
    pub fn of(cpu: Duration) -> Option<Self> {
        if cpu.is_zero() {
            return None;
        }
        let fastest = (0..TRIALS).map(|_| {
            let start = cpu_time();
            work(TRIAL_ROUNDS);
            cpu_time().saturating_sub(start)
        });
        let fastest = fastest.min().unwrap_or_default().max(Duration::from_nanos(1));
        let rounds = TRIAL_ROUNDS as f64 * cpu.as_secs_f64() / fastest.as_secs_f64();
        Some(Self { rounds: rounds as u64 })
    }

    pub fn run(self) {
        work(self.rounds);
    }
}

/// What this thread has computed so far.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

fn work(rounds: u64) {
    let mut state = black_box(0x9e37_79b9_7f4a_7c15_u64);
    for _ in 0..rounds {
        state = (state ^ (state >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    black_box(state);
}
