//! The demo's instances: this same binary, as child processes.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::config::{Endpoint, Scheme, Target};

const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    #[error("starting a sample instance: {0}")]
    Start(#[from] io::Error),
    #[error("a sample instance did not come up; it said: {0}")]
    Silent(String),
    #[error("asking a sample instance for {what}: {error}")]
    Ask { what: &'static str, error: io::Error },
}

/// A folder for the demo's files, removed at its end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> io::Result<Self> {
        let name = format!("segue-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    /// Both instances append their writes here: they are two copies of one application with one store.
    pub fn ledger(&self) -> PathBuf {
        self.0.join("ledger")
    }

    pub fn store(&self) -> PathBuf {
        self.0.join("state")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays behind is in the system's folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One running copy of the sample application; it ends with this.
pub struct Sample {
    child: Child,
    address: SocketAddr,
}

impl Sample {
    pub fn start(name: &str, ledger: impl AsRef<Path>) -> Result<Self, SampleError> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["origin", "--listen", "127.0.0.1:0", "--workers", "1", "--name", name, "--ledger"])
            .arg(ledger.as_ref())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(stderr) = child.stderr.take() {
            let mut stderr = BufReader::new(stderr);
            stderr.read_line(&mut line)?;
            // It may say more, and must not wait for somebody to read it.
            std::thread::spawn(move || io::copy(&mut stderr, &mut io::sink()));
        }
        let said = line.trim().strip_prefix("listening on ").map(|text| text.trim_start_matches("http://"));
        let address = said.and_then(|text| text.parse().ok());
        if let Some(address) = address {
            return Ok(Self { child, address });
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(SampleError::Silent(line.trim().to_owned()))
    }

    pub fn endpoint(&self) -> Endpoint {
        let target = Target::Host { name: self.address.ip().to_string(), port: self.address.port() };
        Endpoint { scheme: Scheme::Http, target }
    }

    /// How often each key was written.
    pub fn ledger(&self) -> Result<BTreeMap<String, u64>, SampleError> {
        self.get("/ledger").map_err(|error| SampleError::Ask { what: "its ledger", error })
    }

    /// Copies it was sent that were no reads.
    pub fn writes_teed(&self) -> Result<u64, SampleError> {
        let seen: BTreeMap<String, serde_json::Value> =
            self.get("/__seen").map_err(|error| SampleError::Ask { what: "what it has seen", error })?;
        Ok(seen.get("writes_teed").and_then(serde_json::Value::as_u64).unwrap_or(u64::MAX))
    }

    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> io::Result<T> {
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // HTTP/1.0, so that the end of the connection is the end of the answer.
        write!(stream, "GET {path} HTTP/1.0\r\nhost: sample\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let split = answer.windows(4).position(|window| window == b"\r\n\r\n");
        let body = split.and_then(|at| answer.get(at + 4..)).unwrap_or_default();
        serde_json::from_slice(body).map_err(io::Error::from)
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
