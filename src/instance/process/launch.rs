//! From Segue to the application: how one process starts another that belongs to nobody but its folder.
//!
//! ```text
//!  Segue                                    the launcher, a Segue of its own
//!  takes the lock
//!  starts the launcher ───────────────────► leads a session of its own
//!    0: the lock  1: a pipe  2: the log     keeps the lock open for whatever it becomes
//!  lets go of its copies                    joins the cgroups and the network
//!  reads the pipe ◄── what went wrong ───── writes down who it is
//!                 ◄── closed by exec ────── becomes the application
//! ```
//!
//! The lock passes from hand to hand, so at no instant can somebody who finds it free be wrong: a Segue that is killed
//! anywhere in this picture leaves either an instance that the next one finds, or nothing. The work between fork and
//! exec is done by a program of its own, because it allocates, and a process of many threads may not do that there.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, WaitId, WaitIdOptions, setsid, waitid};

use super::folder::{Ended, Folder, Run};
use super::stamp::Stamp;
use crate::instance::stand_in::StandIns;
use crate::instance::{Process, Spec, Workload};

/// The verb of the command line that leads to [`become_application`].
pub const VERB: &str = "launch";

/// What a shell says of a command that it could not run.
pub const NOT_STARTED: u8 = 127;

/// What service managers tell Segue and mean for Segue alone. A child that found them would announce itself in its
/// place, or take its sockets or secrets.
const SEGUES_OWN: [&str; 15] = [
    "CREDENTIALS_DIRECTORY",
    "FDSTORE",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "MAINPID",
    "MANAGERPID",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "NOTIFY_SOCKET",
    "SYSTEMD_EXEC_PID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];
/// Of Segue's own settings, a token among them.
const SEGUES_PREFIX: &str = "SEGUE_";

/// Starts it, and returns the end of the pipe that tells when it has become the application. `lock` is the one of
/// the folder.
pub fn spawn(launcher: &Path, folder: &Folder, lock: File) -> io::Result<PipeReader> {
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(folder.log())?;
    let (report, into) = io::pipe()?;
    let child = Command::new(launcher)
        .arg0("segue")
        .args([VERB, "--folder"])
        .arg(folder.path())
        .stdin(Stdio::from(lock))
        .stdout(Stdio::from(into))
        .stderr(Stdio::from(log))
        .spawn()?;
    reap(child, folder.clone());
    Ok(report)
}

/// What went wrong before it became the application; empty: nothing.
pub fn outcome(mut report: PipeReader) -> io::Result<String> {
    let mut said = String::new();
    report.read_to_string(&mut said)?;
    Ok(said)
}

/// Waits for it on a thread of its own, as no runtime outlives every instance that was started in it. How it ended
/// is written down before the kernel may forget it: whoever finds it gone then finds the code too.
fn reap(mut child: Child, folder: Folder) {
    let pid = child.id().cast_signed();
    let wait = move || {
        let stamp = Stamp::of(pid);
        let code = await_end(pid);
        if let (Ok(stamp), Some(code)) = (stamp, code) {
            // A folder that is gone needs no code.
            let _ = folder.write_ended(&Ended { stamp, code });
        }
        let _ = child.wait();
    };
    let thread = std::thread::Builder::new().name("reaper".into()).stack_size(REAPER_STACK);
    if let Err(error) = thread.spawn(wait) {
        tracing::warn!(%error, pid, "no thread can be had to wait for an instance; its end will go unseen");
    }
}

/// It reads one file and writes another.
const REAPER_STACK: usize = 128 * 1024;

/// How a child ended, as a shell would say it. It stays to be waited for.
fn await_end(pid: i32) -> Option<i32> {
    let pid = Pid::from_raw(pid)?;
    loop {
        match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Err(rustix::io::Errno::INTR) => {}
            Err(_) | Ok(None) => return None,
            Ok(Some(status)) => {
                let signal = || status.terminating_signal().map(|signal| 128 + signal);
                return status.exit_status().or_else(signal);
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("`segue {VERB}` is for Segue itself, which holds the lock of {folder:?}")]
    ByHand { folder: std::path::PathBuf },
    #[error("{folder:?} holds no instance of a process")]
    NoInstance { folder: std::path::PathBuf },
    #[error("cannot {what}: {error}")]
    Io { what: &'static str, error: io::Error },
    #[error("cannot run {program:?} in {directory:?}: {error}")]
    Exec { program: String, directory: std::path::PathBuf, error: io::Error },
}

/// The launcher's part. It returns only if it fails, and has then said why in the pipe too.
pub fn become_application(folder: &Path) -> Result<Infallible, LaunchError> {
    let folder = Folder::at(folder);
    let lock = own_lock(&folder)?;
    // Closed by exec, unlike the pipe's present number, which the application gets as its output.
    let report = io::stdout().as_fd().try_clone_to_owned().map_err(failed("keep the pipe"))?;
    let error = match prepare(&folder) {
        Ok((spec, process, port)) => exec(&folder, &spec, &process, port),
        Err(error) => error,
    };
    drop(lock);
    // Nobody may be left to read it.
    let _ = File::from(report).write_all(error.to_string().as_bytes());
    Err(error)
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> LaunchError {
    move |error| LaunchError::Io { what, error }
}

/// A copy of the lock that stays open across exec, in this process and in whatever it starts.
fn own_lock(folder: &Folder) -> Result<rustix::fd::OwnedFd, LaunchError> {
    let by_hand = || LaunchError::ByHand { folder: folder.path().to_owned() };
    let given = io::stdin().as_fd().try_clone_to_owned().map_err(failed("keep the lock"))?;
    let given = File::from(given).metadata().map_err(failed("look at the lock"))?;
    let lock = std::fs::metadata(folder.lock()).map_err(|_| by_hand())?;
    if (given.dev(), given.ino()) != (lock.dev(), lock.ino()) {
        return Err(by_hand());
    }
    rustix::io::dup(io::stdin()).map_err(|error| failed("keep the lock")(error.into()))
}

fn prepare(folder: &Folder) -> Result<(Spec, Process, u16), LaunchError> {
    let nothing = || LaunchError::NoInstance { folder: folder.path().to_owned() };
    let spec = folder.spec().map_err(failed("read what to run"))?.ok_or_else(nothing)?;
    let Workload::Process(process) = spec.workload.clone() else { return Err(nothing()) };
    let port = folder.port().map_err(failed("read its port"))?.ok_or_else(nothing)?;
    let groups = folder.groups().map_err(failed("read its cgroups"))?.unwrap_or_default();
    setsid().map_err(|error| failed("begin a session")(error.into()))?;
    if let Some(network) = folder.network().map_err(failed("read its network"))? {
        network.enter().map_err(failed("enter its network"))?;
    }
    let pid = std::process::id();
    groups.join(pid).map_err(failed("join its cgroups"))?;
    let stamp = Stamp::of(pid.cast_signed()).map_err(failed("find out who it is"))?;
    let run = Run { stamp, oom_kills: groups.oom_kills().unwrap_or(0) };
    folder.write_run(&run).map_err(failed("write down who it is"))?;
    Ok((spec, process, port))
}

fn exec(folder: &Folder, spec: &Spec, process: &Process, port: u16) -> LaunchError {
    let data = folder.data();
    let place = data.to_string_lossy();
    let stand_ins = StandIns { port, data: Some(&place), role: spec.role };
    let mut words = process.command.iter().map(|word| stand_ins.apply(word));
    let program = words.next().unwrap_or_default();
    let directory = process.directory.clone().unwrap_or_else(|| data.clone());
    let output = match io::stderr().as_fd().try_clone_to_owned() {
        Ok(log) => Stdio::from(log),
        Err(error) => return failed("share its log")(error),
    };
    let mut command = Command::new(&program);
    command.args(words).current_dir(&directory).stdin(Stdio::null()).stdout(output);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with(SEGUES_PREFIX) || SEGUES_OWN.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
    command.env("PORT", port.to_string()).env("SEGUE_DATA", &data).env("SEGUE_ROLE", spec.role.as_str());
    command.envs(process.environment.iter().map(|(name, value)| (name, stand_ins.apply(value))));
    let error = command.exec();
    LaunchError::Exec { program, directory, error }
}
