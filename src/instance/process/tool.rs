//! The commands of the system that make networks and volumes.

use std::ffi::OsStr;
use std::io;
use std::process::{Command, Stdio};

pub fn is_there(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).exists())
}

/// An error repeats the command and what it complained of.
pub fn run<A: AsRef<OsStr>>(tool: &str, arguments: &[A]) -> io::Result<()> {
    said(tool, arguments).map(drop)
}

/// What it printed.
pub fn said<A: AsRef<OsStr>>(tool: &str, arguments: &[A]) -> io::Result<String> {
    let output = Command::new(tool).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| io::Error::new(error.kind(), format!("`{tool}`: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words: Vec<_> = arguments.iter().map(|word| word.as_ref().to_string_lossy()).collect();
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("`{tool} {}`: {}", words.join(" "), complaint.trim())))
}
