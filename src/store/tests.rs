//! The store as its users see it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;
use crate::config::InstanceName;

const DIR: &str = "SEGUE_STORE_TEST_DIR";

fn record(instance: InstanceName, generation: u64) -> ActiveRecord {
    ActiveRecord { instance, generation, fingerprint: Fingerprint::of(&[]), changed_at: 1_700_000_000_000 }
}

fn entry(step: &str) -> NewEntry {
    NewEntry {
        kind: "switchover".to_owned(),
        step: step.to_owned(),
        phase: Phase::Intent,
        detail: serde_json::json!({ "why": "because" }),
        at: 1,
    }
}

#[tokio::test]
async fn the_active_instance_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("new/deep");
    let store = Store::open(&place).unwrap();
    assert_eq!(store.active("web").await.unwrap(), None);
    store.set_active("web", record(InstanceName::Source, 1), None).await.unwrap();
    store.set_active("web", record(InstanceName::Shadow, 2), Some(1)).await.unwrap();
    store.set_active("api", record(InstanceName::Source, 5), None).await.unwrap();
    store.close().await.unwrap();

    let store = Store::open(&place).unwrap();
    assert_eq!(store.active("web").await.unwrap(), Some(record(InstanceName::Shadow, 2)));
    let all = store.all_active().await.unwrap();
    assert_eq!(
        all,
        [
            ("api".to_owned(), record(InstanceName::Source, 5)),
            ("web".to_owned(), record(InstanceName::Shadow, 2))
        ]
    );
}

#[tokio::test]
async fn a_change_that_expects_another_generation_is_refused() {
    let store = Store::in_memory().unwrap();
    store.set_active("web", record(InstanceName::Source, 3), None).await.unwrap();
    for expected in [None, Some(2), Some(4)] {
        let refused = store.set_active("web", record(InstanceName::Shadow, 9), expected).await.unwrap_err();
        assert!(matches!(refused, StoreError::Conflict { found: Some(3), .. }), "{expected:?}: {refused}");
    }
    let refused = store.set_active("other", record(InstanceName::Shadow, 9), Some(1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { found: None, .. }), "{refused}");
    let refused = store.set_active("web", record(InstanceName::Shadow, 3), Some(3)).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotNewer { current: 3, next: 3, .. }), "{refused}");
    let refused = store.set_active("web", record(InstanceName::Shadow, u64::MAX), Some(3)).await.unwrap_err();
    assert!(matches!(refused, StoreError::OutOfRange { .. }), "{refused}");
    assert_eq!(store.active("web").await.unwrap(), Some(record(InstanceName::Source, 3)));
}

#[tokio::test]
async fn of_many_who_swap_at_once_one_wins() {
    let store = Store::in_memory().unwrap();
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                store.set_active("web", record(InstanceName::Shadow, 1), None).await.is_ok()
            })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        won += u32::from(task.await.unwrap());
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn the_journal_keeps_order_and_gives_the_newest() {
    let store = Store::in_memory().unwrap();
    for step in ["park", "drain", "swap"] {
        store.journal_append("web", entry(step)).await.unwrap();
    }
    store.journal_append("api", entry("park")).await.unwrap();
    let newest = store.journal("web", 2).await.unwrap();
    let steps: Vec<_> = newest.iter().map(|found| found.entry.step.as_str()).collect();
    assert_eq!(steps, ["drain", "swap"]);
    assert!(newest[0].id < newest[1].id);
    assert_eq!(newest[1].entry, entry("swap"));
}

#[tokio::test]
async fn a_second_opener_is_refused_and_told_who_holds_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let first = Store::open(dir.path()).unwrap();
    let refused = Store::open(dir.path()).err().unwrap();
    assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");

    first.close().await.unwrap();
    let second = Store::open(dir.path()).unwrap();
    assert!(matches!(first.active("web").await, Err(StoreError::Closed)));
    // Handles that are merely dropped let go as well.
    drop(second);
    Store::open(dir.path()).unwrap();
}

#[tokio::test]
async fn closing_carries_out_what_was_asked_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (set, closed) = tokio::join!(store.set_active("web", record(InstanceName::Source, 1), None), async {
        store.close().await
    });
    set.unwrap();
    closed.unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert!(store.active("web").await.unwrap().is_some());
}

#[test]
fn a_damaged_file_is_an_error_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(DATABASE);
    std::fs::write(&path, b"once upon a time there was no database here").unwrap();
    let refused = Store::open(dir.path()).err().unwrap();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
    assert!(refused.to_string().contains("segue.db") && refused.to_string().contains("backup"), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), b"once upon a time there was no database here");
}

#[tokio::test]
async fn damage_within_a_file_is_found_when_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for step in 0..200 {
        store.journal_append("web", entry(&format!("{step:0500}"))).await.unwrap();
    }
    store.close().await.unwrap();
    let path = dir.path().join(DATABASE);
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() > 64 * 1024, "the file was not written back: {}", bytes.len());
    bytes[16 * 1024..48 * 1024].fill(0xA5);
    std::fs::write(&path, bytes).unwrap();
    let refused = Store::open(dir.path()).err().unwrap();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
}

#[test]
fn a_directory_that_cannot_be_made_or_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for place in [file.join("below"), file, PathBuf::from("/proc/segue-store")] {
        let refused = Store::open(&place).err().unwrap();
        assert!(matches!(refused, StoreError::Directory { .. }), "{refused}");
        assert!(refused.to_string().contains(place.to_str().unwrap()), "{refused}");
    }
}

#[tokio::test]
async fn a_full_disk_is_said_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    // SQLite reports its own page limit as it reports a full disk.
    store.call(|connection| Ok(connection.pragma_update(None, "max_page_count", 40)?)).await.unwrap();
    let mut written = 0;
    let refused = loop {
        match store.journal_append("web", entry(&"x".repeat(4096))).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    assert!(written > 0);
    assert_eq!(store.journal("web", 1000).await.unwrap().len(), written);
}

#[tokio::test]
async fn a_read_only_file_is_said() {
    let store = Store::in_memory().unwrap();
    store.call(|connection| Ok(connection.pragma_update(None, "query_only", true)?)).await.unwrap();
    let refused = store.set_active("web", record(InstanceName::Source, 1), None).await.unwrap_err();
    assert!(matches!(refused, StoreError::ReadOnly { .. }), "{refused}");
}

/// The other half of the next test: runs in a process of its own until it is killed.
#[test]
fn child_that_swaps_until_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(Path::new(&dir)).unwrap();
        let mut current = None;
        loop {
            let next = current.map_or(1, |generation| generation + 1);
            store.set_active("web", record(InstanceName::Shadow, next), current).await.unwrap();
            writeln!(std::io::stdout(), "\nacknowledged {next}").unwrap();
            current = Some(next);
        }
    });
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::child_that_swaps_until_killed", "--nocapture"])
        .env(DIR, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let acknowledged =
        |line: String| line.strip_prefix("acknowledged ").and_then(|number| number.parse::<u64>().ok());
    let mut last = lines.by_ref().filter_map(acknowledged).find(|&generation| generation >= 20).unwrap();
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    last = lines.filter_map(acknowledged).last().unwrap_or(last);

    let store = Store::open(dir.path()).expect("the lock outlived its holder");
    let found = store.active("web").await.unwrap().unwrap().generation;
    // The last swap may have been made without its line having been written.
    assert!(found == last || found == last + 1, "acknowledged {last}, found {found}");
}
