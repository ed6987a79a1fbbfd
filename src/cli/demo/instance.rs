//! The demo's files, and what its instances say when they are asked directly.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use super::SERVICE;
use crate::config::InstanceName;
use crate::control::Control;

const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    #[error("the {} has no address", .0.as_str())]
    NoAddress(InstanceName),
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

/// One running copy of the sample application.
#[derive(Clone)]
pub struct Sample {
    address: SocketAddr,
}

impl Sample {
    pub async fn of(control: &Control, instance: InstanceName) -> Result<Self, SampleError> {
        let status = control.service(SERVICE).await;
        let endpoints = status.map(|status| status.endpoints).unwrap_or_default();
        let endpoint = endpoints.iter().find(|endpoint| endpoint.instance == instance);
        let address = endpoint.and_then(|endpoint| endpoint.address.parse().ok());
        address.map(|address| Self { address }).ok_or(SampleError::NoAddress(instance))
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
