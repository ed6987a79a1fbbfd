//! What the promise tests share: a real Segue process, real instances, and small clients that say
//! exactly which bytes went and came.

#![allow(dead_code, clippy::missing_panics_doc, clippy::unwrap_used)] // each promise uses its own part of it

pub mod certificates;
pub mod client;
pub mod frames;
pub mod raw;
pub mod recorder;
pub mod tee;
pub mod tools;

use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than anything here takes on a busy machine; reaching it is a failure, never a measurement.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a condition, by looking again and again.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    until_seen(what, || look().ok_or(""))
}

/// The same; what was seen instead at the last look is said when it does not come.
pub fn until_seen<T, S: Display>(what: &str, mut look: impl FnMut() -> Result<T, S>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < deadline, "timed out waiting for: {what} {seen}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port that nothing listens on, and that no other call gets while this process runs: not here, nor in a test
/// beside it.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let folder =
        std::env::temp_dir().join(format!("segue-test-ports-{}", rustix::process::getuid().as_raw()));
    std::fs::create_dir_all(&folder).unwrap();
    // Not of those that the kernel gives to connections going out, nor of those that Segue gives to instances: either
    // could take it before it is listened on.
    until("a free port", || {
        let port = fastrand::u16(10_000..20_000);
        let claim = File::create(folder.join(port.to_string())).unwrap();
        claim.try_lock().ok()?;
        std::net::TcpListener::bind(("127.0.0.1", port)).ok()?;
        TAKEN.lock().unwrap().push(claim);
        Some(port)
    })
}

/// A Segue process; killed when dropped.
pub struct Segue {
    child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub folder: tempfile::TempDir,
    pub config: PathBuf,
    log: Arc<Mutex<String>>,
}

impl Segue {
    /// One listener in clear, one service `web` with these instances, and the rest of `[services.web]`
    /// and of the file as given.
    pub fn with(source: &str, shadow: Option<&str>, service: &str, rest: &str) -> Self {
        let mut web = format!("[services.web]\nsource = {{ endpoints = [\"{source}\"] }}\n");
        if let Some(shadow) = shadow {
            writeln!(web, "shadow = {{ endpoints = [\"{shadow}\"] }}").unwrap();
        }
        Self::from_text(&format!("{rest}\n{web}{service}\n"))
    }

    /// A configuration without `[admin]`, `[state]` and the first listener, which are added.
    pub fn from_text(text: &str) -> Self {
        Self::from_text_in(text, &[], None)
    }

    /// The same with further environment variables, and its state in a folder of the caller's.
    pub fn from_text_in(text: &str, environment: &[(&str, &str)], state: Option<&Path>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if let Some(state) = state {
            std::os::unix::fs::symlink(state, folder.path().join("state")).unwrap();
        }
        let (port, admin) = (free_port(), free_port());
        let text = format!(
            "{text}\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n[state]\nstore = \"{}\"\n\
             [[listeners]]\naddress = \"127.0.0.1:{port}\"\n",
            folder.path().join("state").display()
        );
        let config = folder.path().join("segue.toml");
        std::fs::write(&config, text).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let admin = SocketAddr::from(([127, 0, 0, 1], admin));
        let (child, log) = Self::spawn_in(&config, &[], environment);
        let mut segue = Self { child, address, admin, folder, config, log };
        segue.await_ready();
        segue
    }

    fn spawn(config: &Path, arguments: &[&str]) -> (Child, Arc<Mutex<String>>) {
        Self::spawn_in(config, arguments, &[])
    }

    fn spawn_in(
        config: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> (Child, Arc<Mutex<String>>) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_segue"))
            .args(["run", "--config"])
            .arg(config)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().unwrap();
        let into = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = into.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        (child, log)
    }

    pub fn await_ready(&mut self) {
        let admin = self.admin;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(answer) =
                try_request(admin, "GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                && answer.status == 200
            {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "segue is not ready ({ended:?}):\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it has written to its log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        let done =
            Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status().unwrap();
        assert!(done.success());
    }

    pub fn wait(&mut self) -> ExitStatus {
        until("segue to end", || self.child.try_wait().unwrap())
    }

    /// `kill -9`, then the same configuration again.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The same configuration again, once it has ended.
    pub fn restart(&mut self) {
        let (child, log) = Self::spawn(&self.config, &[]);
        (self.child, self.log) = (child, log);
        self.await_ready();
    }

    /// Another process on the same store; it is not waited for.
    pub fn beside(config: &Path, arguments: &[&str]) -> Process {
        let (child, log) = Self::spawn(config, arguments);
        Process { child, log }
    }

    /// Lets a successor take over, and gives the predecessor.
    pub fn upgrade(&mut self) -> Process {
        let before = self.exchange(Self::beside(&self.config, &["--upgrade"]));
        until("the successor to take over", || {
            assert!(self.child.try_wait().unwrap().is_none(), "the successor ended:\n{}", self.log());
            self.log().contains("took over").then_some(())
        });
        self.await_ready();
        before
    }

    /// Goes on with this process in the place of the one that has ended.
    pub fn adopt(&mut self, process: Process) {
        let _old = self.exchange(process);
        self.await_ready();
    }

    fn exchange(&mut self, mut process: Process) -> Process {
        std::mem::swap(&mut self.child, &mut process.child);
        std::mem::swap(&mut self.log, &mut process.log);
        process
    }

    /// A call of the admin API; the status and the JSON.
    pub fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = try_request(self.admin, &request).unwrap();
        (answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
    }

    pub fn service(&self) -> Value {
        let (status, service) = self.call("GET", "/v1/services/web", "");
        assert_eq!(status, 200, "{service}");
        service
    }

    pub fn switchover(&self, request: &str) -> Value {
        let (status, ended) = self.call("POST", "/v1/services/web/switchover", request);
        assert_eq!(status, 200, "{ended}");
        ended
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Segue {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- segue's log ---\n{}", self.log());
        }
    }
}

/// A process beside the one that serves; killed when dropped.
pub struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Process {
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn wait(&mut self) -> ExitStatus {
        until("a process to end", || self.child.try_wait().unwrap())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of a process beside it ---\n{}", self.log());
        }
    }
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends exactly these bytes on a new connection and reads one answer to its end.
pub fn try_request(address: SocketAddr, bytes: impl AsRef<[u8]>) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(bytes.as_ref())?;
    read_answer(&mut stream)
}

pub fn request(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Answer {
    try_request(address, bytes).unwrap()
}

/// `GET path` on a new connection.
pub fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"))
}

/// Reads one answer from a connection, by its length, its chunks or its end. Not for answers to HEAD.
pub fn read_answer(stream: &mut impl Read) -> std::io::Result<Answer> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        read_some(stream, &mut bytes)?;
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut body = bytes.split_off(end);
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("no HTTP answer: {head}")))?;
    let mut answer = Answer { status, head, body: Vec::new() };
    if let Some(length) = answer.header("content-length") {
        let length: usize = length.parse().map_err(std::io::Error::other)?;
        while body.len() < length {
            read_some(stream, &mut body)?;
        }
        body.truncate(length);
        answer.body = body;
    } else if answer.header("transfer-encoding").is_some() {
        while !body.ends_with(b"0\r\n\r\n") {
            read_some(stream, &mut body)?;
        }
        answer.body = dechunked(&body);
    } else if !matches!(status, 100..200 | 204 | 304) {
        stream.read_to_end(&mut body)?;
        answer.body = body;
    }
    Ok(answer)
}

fn read_some(stream: &mut impl Read, into: &mut Vec<u8>) -> std::io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    let read = stream.read(&mut buffer)?;
    if read == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    into.extend_from_slice(&buffer[..read]);
    Ok(())
}

pub fn dechunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(at) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = String::from_utf8_lossy(&bytes[..at]);
        let size = usize::from_str_radix(size.split(';').next().unwrap().trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        body.extend_from_slice(&bytes[at + 2..at + 2 + size]);
        bytes = &bytes[at + 2 + size + 2..];
    }
    body
}
