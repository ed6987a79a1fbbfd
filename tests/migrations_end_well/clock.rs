//! The machine's clock is set while a migration is under way, forth and back: it is a number in the journal, and nothing
//! waits for it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::stage::{SLOW_SOURCE, Stage};
use crate::support::{tools, until};

/// 1 January 2100, in seconds since 1970.
const FAR: i64 = 4_102_444_800;

const WATCH: Duration = Duration::from_millis(1500);
const GRACE: Duration = Duration::from_millis(1500);

/// The clock of a process that was started with its environment.
struct Clock {
    folder: tempfile::TempDir,
    library: String,
    set: usize,
}

impl Clock {
    /// `None`, having said so, where it cannot be had.
    fn new() -> Option<Self> {
        if !tools::has("faketime") {
            return None;
        }
        // Where the linker looks depends on the machine; the command says it.
        let told = std::process::Command::new("faketime").args(["now", "printenv", "LD_PRELOAD"]).output();
        let told = String::from_utf8(told.unwrap().stdout).unwrap();
        // The one for processes with threads.
        let library = told.trim().replace("libfaketime.so", "libfaketimeMT.so");
        let clock = Self { folder: tempfile::tempdir().unwrap(), library, set: 0 };
        clock.write("+0");
        Some(clock)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("clock")
    }

    /// Whole at any time.
    fn write(&self, offset: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, offset).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    /// To the next of the times that it could be.
    fn set(&mut self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
        let offsets = [3600, 0, -3600, FAR - now, -now, 0];
        self.write(&format!("{:+}", offsets[self.set % offsets.len()]));
        self.set += 1;
    }
}

#[test]
fn a_migration_is_not_disturbed_by_a_clock_that_is_set() {
    let Some(mut clock) = Clock::new() else { return };
    let file = clock.file();
    let environment = [
        ("LD_PRELOAD", clock.library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        // Only the clock that can be set.
        ("DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ];
    let always = "migration.windows = [\"daily 00:00-24:00\"]";
    let stage = Stage::with(&environment, always, &SLOW_SOURCE);
    let load = stage.load(300.0);
    let mut request = stage.request(&[]);
    request["watch_ms"] = json!(WATCH.as_millis());
    request["grace_ms"] = json!(GRACE.as_millis());
    // Less than any step of the clock, and more than this takes.
    request["deadline_ms"] = json!(300_000);
    let id = stage.start(&request);
    let (mut watched, mut years) = (None, BTreeSet::new());
    let view = until("the migration to be over", || {
        clock.set();
        let view = stage.migration(id);
        years.insert(1970 + view["since"].as_u64().unwrap() / 31_556_952_000);
        if view["phase"] == "watching" && watched.is_none() {
            watched = Some(Instant::now());
        }
        (view["over"] == true).then_some(view)
    });
    assert_eq!(view["phase"], "done", "{view:#}");
    // The first look at it may have been a little late.
    let took = watched.unwrap().elapsed();
    assert!(took > (WATCH + GRACE).mul_f64(0.9), "{took:?}: a step of the clock is not time");
    let spent = view["spent_ms"].as_u64().unwrap();
    assert!(spent < 300_000, "{spent}");

    assert!(years.len() >= 2, "the test can tell: {years:?}");
    stage.assert_one_instance_is_left("shadow");
    let report = stage.finish(load);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert_eq!(stage.writers(), ["active", "shadow"]);
    let pid = stage.segue.pid();
    drop(stage);
    // What the library shares with children, which a killed process leaves behind.
    for name in ["faketime_shm", "sem.faketime_sem"] {
        let _ = std::fs::remove_file(format!("/dev/shm/{name}_{pid}"));
    }
}
