//! The access log: one JSON line for each answered request, optional, written by a thread of its own.
//!
//! A worker formats lines into a buffer and hands it over when it is full or a sweep comes by, so a
//! request costs neither a system call nor a wake-up. When the disk cannot keep up, whole buffers are
//! dropped and counted: a log must not hold requests.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::Method;
use serde::Serialize;

/// Lines are handed over in pieces of about this size.
const PIECE: usize = 32 * 1024;
/// Pieces that may wait for the disk: 8 MiB.
const WAITING: usize = 256;

/// The running log's end for workers; cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLog {
    pieces: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Lines(Vec<u8>),
    /// The file was rotated away.
    Reopen,
}

#[derive(Debug, thiserror::Error)]
#[error("opening the access log {}: {error}", path.display())]
pub struct AccessLogError {
    path: PathBuf,
    error: io::Error,
}

impl AccessLog {
    /// Opens `path` for appending and starts the writer.
    pub fn start(path: &Path) -> Result<Self, AccessLogError> {
        let failed = |error| AccessLogError { path: path.to_owned(), error };
        let file = open(path).map_err(failed)?;
        let (pieces, waiting) = mpsc::sync_channel(WAITING);
        let path = path.to_owned();
        let writer = std::thread::Builder::new().name("access-log".into());
        let of = path.clone();
        writer.spawn(move || write(file, &of, &waiting)).map_err(failed)?;
        Ok(Self { pieces, dropped: Arc::default() })
    }

    /// After the file was rotated.
    pub fn reopen(&self) {
        // A writer that is behind sees the new file with the next reopen.
        let _ = self.pieces.try_send(Message::Reopen);
    }

    /// Pieces lost because the disk was too slow.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn write(mut file: File, path: &Path, waiting: &Receiver<Message>) {
    for message in waiting {
        match message {
            Message::Lines(lines) => {
                if let Err(error) = file.write_all(&lines) {
                    tracing::warn!(%error, path = %path.display(), "access log lines were lost");
                }
            }
            Message::Reopen => match open(path) {
                Ok(reopened) => file = reopened,
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "the access log stays as it was");
                }
            },
        }
    }
}

/// A worker's lines that are not handed over yet.
#[derive(Debug, Default)]
pub struct Lines(RefCell<Vec<u8>>);

/// What is known when a request arrives; the rest comes with its end.
#[derive(Debug)]
pub struct Entry {
    log: AccessLog,
    started: Instant,
    method: Method,
    /// Without its query, which may hold secrets.
    path: Box<str>,
    peer: Option<std::net::IpAddr>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'a> {
    pub service: Option<&'a str>,
    pub instance: Option<&'static str>,
    pub class: Option<&'static str>,
    pub status: u16,
    pub bytes: u64,
    pub outcome: &'static str,
}

#[derive(Serialize)]
struct Line<'a> {
    at_unix_ms: u64,
    peer: Option<std::net::IpAddr>,
    method: &'a str,
    path: &'a str,
    service: Option<&'a str>,
    instance: Option<&'a str>,
    class: Option<&'a str>,
    status: u16,
    bytes: u64,
    took_us: u64,
    outcome: &'a str,
}

impl Entry {
    pub fn new(
        log: &AccessLog,
        method: &Method,
        path: &str,
        peer: Option<std::net::IpAddr>,
        now: Instant,
    ) -> Box<Self> {
        Box::new(Self { log: log.clone(), started: now, method: method.clone(), path: path.into(), peer })
    }

    /// Adds the line to `lines`, and hands them over if there are enough.
    pub fn end(self, ending: &Ending<'_>, lines: &Lines, now: Instant) {
        let line = Line {
            at_unix_ms: millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
            peer: self.peer,
            method: self.method.as_str(),
            path: &self.path,
            service: ending.service,
            instance: ending.instance,
            class: ending.class,
            status: ending.status,
            bytes: ending.bytes,
            took_us: u64::try_from(now.saturating_duration_since(self.started).as_micros())
                .unwrap_or(u64::MAX),
            outcome: ending.outcome,
        };
        let mut buffer = lines.0.borrow_mut();
        // Writing to memory cannot fail, and every field serialises.
        if serde_json::to_writer(&mut *buffer, &line).is_ok() {
            buffer.push(b'\n');
        }
        if buffer.len() >= PIECE {
            self.log.hand_over(&mut buffer);
        }
    }
}

impl AccessLog {
    /// Hands over what has gathered.
    pub fn flush(&self, lines: &Lines) {
        let mut buffer = lines.0.borrow_mut();
        if !buffer.is_empty() {
            self.hand_over(&mut buffer);
        }
    }

    fn hand_over(&self, buffer: &mut Vec<u8>) {
        let lines = std::mem::replace(buffer, Vec::with_capacity(PIECE));
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.pieces.try_send(Message::Lines(lines))
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn millis(since: Duration) -> u64 {
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
