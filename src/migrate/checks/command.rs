//! A command that answers by its exit code.
//!
//! It is the leader of a process group of its own, and the whole group ends with the timeout, or when whoever asked
//! no longer waits: a check that hangs must not leave processes behind, one for each run. What a command that
//! came to its end has started stays; it may have been asked to start it.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

/// Of its output the end is kept, for its last line.
const KEPT: usize = 4 << 10;
/// Characters of the last line.
const LINE: usize = 300;
/// What it wrote is in the pipe when it ends; whoever it left behind may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub(in crate::migrate) enum CommandError {
    #[error("the command is empty")]
    Empty,
    #[error("`{program}` cannot be started: {error}")]
    Start { program: String, error: io::Error },
    #[error("`{program}` ended with {status}{}", last(line))]
    Status { program: String, status: ExitStatus, line: String },
    #[error("`{program}` took longer than {after:?} and was ended{}", last(line))]
    Timeout { program: String, after: Duration, line: String },
}

/// How a message goes on about the last line of what was written.
pub(in crate::migrate) fn last(line: &str) -> String {
    if line.is_empty() { " without a word".to_owned() } else { format!("; its last line: {line}") }
}

/// Runs `command` in this process's environment and `variables`; exit code 0 is success. Gives the last line that it
/// wrote.
pub(in crate::migrate) async fn run(
    command: &[String],
    variables: &[(&str, String)],
    timeout: Duration,
) -> Result<String, CommandError> {
    let (program, arguments) = command.split_first().ok_or(CommandError::Empty)?;
    let failed = |error| CommandError::Start { program: program.clone(), error };
    let (mut child, output) = start(program, arguments, variables).map_err(failed)?;
    let mut tail = Tail::default();
    // Ends the group however this is left.
    let mut group = Group(Some(&mut child));
    let finished = tokio::time::timeout(timeout, group.finish(output, &mut tail)).await;
    drop(group);
    let program = program.clone();
    match finished {
        Ok(Ok(status)) if status.success() => Ok(tail.last_line()),
        Ok(Ok(status)) => Err(CommandError::Status { program, status, line: tail.last_line() }),
        Ok(Err(error)) => Err(CommandError::Start { program, error }),
        Err(_) => Err(CommandError::Timeout { program, after: timeout, line: tail.last_line() }),
    }
}

/// Both its outputs go into one pipe, so that the last line is the one that was written last.
fn start(
    program: &str,
    arguments: &[String],
    variables: &[(&str, String)],
) -> io::Result<(Child, pipe::Receiver)> {
    let (reader, writer) = io::pipe()?;
    let output = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let child = Command::new(program)
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()?;
    Ok((child, output))
}

/// A command and all that it started, until it has ended by itself.
struct Group<'a>(Option<&'a mut Child>);

impl Group<'_> {
    async fn finish(&mut self, mut output: pipe::Receiver, tail: &mut Tail) -> io::Result<ExitStatus> {
        let Some(child) = &mut self.0 else { return Err(io::ErrorKind::NotFound.into()) };
        let status = tokio::select! {
            status = child.wait() => status?,
            // A command may close its outputs and go on.
            () = tail.read(&mut output) => child.wait().await?,
        };
        let _ = tokio::time::timeout(LAST_WORDS, tail.read(&mut output)).await;
        Ok(status)
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        // It has an id until it was waited for, so this cannot be somebody else's.
        let id = self.0.as_ref().and_then(|child| child.id());
        if let Some(group) = id.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The end of what was written.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    async fn read(&mut self, output: &mut pipe::Receiver) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut buffer).await {
            self.0.extend_from_slice(buffer.get(..count).unwrap_or_default());
            let surplus = self.0.len().saturating_sub(KEPT);
            self.0.drain(..surplus);
        }
    }

    fn last_line(&self) -> String {
        last_line(&self.0)
    }
}

/// The last line that says anything, shortened, and without what would move a terminal's cursor.
pub(in crate::migrate) fn last_line(output: &[u8]) -> String {
    let end = output.get(output.len().saturating_sub(KEPT)..).unwrap_or_default();
    let text = String::from_utf8_lossy(end);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(LINE).collect()
}
