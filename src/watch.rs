//! Notices that the configuration file was saved.
//!
//! The folder is watched, not the file: editors and configuration managers write beside it and rename,
//! and Kubernetes swaps a symbolic link two levels up.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// A save is often several events; this long after the last of them it is over.
const SETTLE: Duration = Duration::from_millis(200);

/// One message for each save of `file`. When watching is not possible (no inotify watches left), that
/// is logged and SIGHUP remains.
pub fn file(file: &Path) -> mpsc::Receiver<()> {
    let (changed, changes) = mpsc::channel(1);
    let (raw, events) = mpsc::unbounded_channel();
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // The receiver goes with the process.
            let _ = raw.send(());
        }
    });
    let started = watcher.and_then(|mut watcher| {
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    match started {
        Ok(watcher) => {
            tokio::spawn(settle(watcher, file.to_owned(), events, changed));
        }
        Err(error) => tracing::warn!(%error, "the configuration is not watched; send SIGHUP to reload it"),
    }
    changes
}

async fn settle(
    watcher: notify::RecommendedWatcher,
    file: PathBuf,
    mut events: mpsc::UnboundedReceiver<()>,
    changed: mpsc::Sender<()>,
) {
    let _watcher = watcher;
    let mut known = std::fs::read(&file).ok();
    while events.recv().await.is_some() {
        while let Ok(Some(())) = tokio::time::timeout(SETTLE, events.recv()).await {}
        // The folder holds other files too.
        let now = std::fs::read(&file).ok();
        if now == known || now.is_none() {
            continue;
        }
        known = now;
        if changed.send(()).await.is_err() {
            return;
        }
    }
}
