//! How an instance ends, freezes and thaws.

use std::io;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::folder::Folder;
use super::group::Groups;
use super::members::Members;

/// Between two looks at whether it has happened: at first and at most.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_millis(50);

/// What the kernel needs to end what was killed, or to freeze what runs: only a process that waits for a disk that
/// does not answer takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ends everything that runs of it, and lets it count as stopped. One that is fenced is not asked: it would have to
/// be let go for that, and might write once more.
pub async fn end(folder: &Folder, grace: Duration) -> io::Result<()> {
    let members = Members::of(folder)?;
    if !members.are_gone()? {
        let asked = !grace.is_zero() && !members.are_fenced();
        if asked {
            members.signal(Signal::TERM)?;
        }
        let went = asked && until(grace, || members.are_gone()).await?;
        if !went && !until(PATIENCE, || kill(folder)).await? {
            let left: Vec<String> = members.pids().iter().map(ToString::to_string).collect();
            let who =
                if left.is_empty() { "one that cannot be seen from here".into() } else { left.join(", ") };
            return Err(io::Error::other(format!("its processes do not end, although killed: {who}")));
        }
        members.groups.freeze(false)?;
    }
    folder.forget_run()
}

/// Waits for one that has said why it will not be the application; it takes itself away.
pub async fn await_end(folder: &Folder) -> io::Result<()> {
    let run = folder.run()?;
    until(PATIENCE, || Ok(!run.as_ref().is_some_and(|run| run.stamp.is_alive()))).await.map(drop)
}

/// Kills whatever is there by now, and says whether nothing was.
fn kill(folder: &Folder) -> io::Result<bool> {
    // Read again: one that was being started may have written down who it is since.
    let members = Members::of(folder)?;
    if members.are_gone()? {
        return Ok(true);
    }
    if !members.groups.kill() {
        // Frozen, none of them can start another one between two signals. A signal that kills is seen by a v1 group
        // once it thaws, before anything of the application runs.
        members.groups.freeze(true)?;
        members.signal(Signal::KILL)?;
        members.groups.freeze(false)?;
    } else if members.groups.processes().is_none_or(|grouped| grouped.is_empty()) {
        // What has the lock without having joined.
        members.signal(Signal::KILL)?;
    }
    Ok(false)
}

/// Freezes it, and waits until it is. One that does not run writes nothing as it is.
pub async fn fence(folder: &Folder) -> io::Result<()> {
    let members = Members::of(folder)?;
    if members.are_gone()? {
        return Ok(());
    }
    let fenced = until(PATIENCE, || {
        if !members.groups.freeze(true)? {
            members.signal(Signal::STOP)?;
        }
        Ok(members.are_fenced())
    });
    if fenced.await? { Ok(()) } else { Err(io::Error::other("it does not freeze; see its disks")) }
}

pub async fn unfence(folder: &Folder) -> io::Result<()> {
    let members = Members::of(folder)?;
    let thawed = until(PATIENCE, || {
        if !members.groups.freeze(false)? {
            members.signal(Signal::CONT)?;
        }
        Ok(!members.are_fenced())
    });
    if thawed.await? { Ok(()) } else { Err(io::Error::other("it stays frozen; somebody else froze it too")) }
}

/// Looks again and again; `false`: it did not happen in time.
async fn until(patience: Duration, mut look: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    let mut pause = FIRST_LOOK;
    loop {
        if look()? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_LOOK);
    }
}

/// Removes the groups of an instance that has ended; the kernel lets go of a process a moment after it is gone.
pub async fn remove(groups: &Groups) -> io::Result<()> {
    let mut refused = Ok(());
    let removed = until(PATIENCE, || {
        refused = groups.remove();
        Ok(refused.is_ok())
    });
    removed.await?;
    refused
}
