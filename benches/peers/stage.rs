//! What a proxy is put between: the origin, the shadow, a certificate, ports, a folder.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::Outcome;
use crate::machine::Placing;
use crate::peer::Site;
use crate::process::Process;
use crate::scenario::{Case, Mirror};

/// Below what Linux gives to outgoing connections, of which there are thousands.
const FIRST_PORT: u16 = 20_000;
const LAST_PORT: u16 = 32_000;

/// The program that origin, shadow and Segue run: this build's, or another one to compare it with.
pub fn segue() -> PathBuf {
    std::env::var_os("SEGUE_BIN").map_or_else(|| env!("CARGO_BIN_EXE_segue").into(), PathBuf::from)
}

/// A self-signed certificate with a P-256 key.
pub struct Certificate {
    folder: TempDir,
}

impl Certificate {
    pub fn new() -> Outcome<Self> {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        let certificate = Self { folder: tempfile::tempdir()? };
        let (cert, key) = (cert.pem(), signing_key.serialize_pem());
        fs::write(certificate.chain(), &cert)?;
        fs::write(certificate.key(), &key)?;
        fs::write(certificate.both(), cert + &key)?;
        Ok(certificate)
    }

    pub fn chain(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    fn both(&self) -> PathBuf {
        self.folder.path().join("both.pem")
    }
}

/// Everything that runs during one measurement but the load. All of it is new each time.
pub struct Stage {
    // Fields are dropped in this order: the proxy before what it talks to, the folder last.
    /// `None`: callers ask the origin itself.
    pub proxy: Option<Process>,
    shadow: Option<Process>,
    _origin: Process,
    pub port: u16,
    origin_port: u16,
    shadow_port: u16,
    pub folder: TempDir,
}

impl Stage {
    pub fn set(case: &Case, certificate: &Certificate, placing: &Placing) -> Outcome<Self> {
        let folder = tempfile::Builder::new().prefix("segue-bench-").tempdir()?;
        let [port, origin_port, shadow_port] = [free_port()?, free_port()?, free_port()?];
        let origin = origin(origin_port, None, placing, &folder)?;
        let fault = match case.contender.mirror {
            Mirror::Off | Mirror::Dead => None,
            Mirror::Live => Some(None),
            Mirror::Hung => Some(Some("hang")),
            Mirror::Slow => Some(Some("slow=10s")),
        };
        let shadow =
            fault.map(|fault| crate::stage::origin(shadow_port, fault, placing, &folder)).transpose()?;
        let site_folder = folder.path().join("proxy");
        fs::create_dir(&site_folder)?;
        let site = Site {
            folder: &site_folder,
            listen: port,
            origin: origin_port,
            shadow: shadow_port,
            workers: case.workers,
            downstream: case.downstream,
            mirror: case.contender.mirror,
            routes: case.routes,
            tee_percent: case.tee_percent,
            certificate: &certificate.chain(),
            key: &certificate.key(),
            certificate_and_key: &certificate.both(),
        };
        let start = |command| -> Outcome<Process> {
            let mut proxy =
                Process::start(&command, &placing.proxy, placing.real_time, folder.path().join("proxy.log"))?;
            proxy.wait_for(port)?;
            Ok(proxy)
        };
        let proxy = case.contender.peer.command(&site)?.map(start).transpose()?;
        let port = if proxy.is_some() { port } else { origin_port };
        Ok(Self { proxy, shadow, _origin: origin, port, origin_port, shadow_port, folder })
    }

    /// Requests that the origin has been asked.
    pub fn answered(&self) -> Outcome<u64> {
        seen(self.origin_port)
    }

    /// Requests that the shadow has been asked; none where there is none.
    pub fn mirrored(&self) -> Outcome<u64> {
        if self.shadow.is_some() { seen(self.shadow_port) } else { Ok(0) }
    }
}

fn origin(port: u16, fault: Option<&str>, placing: &Placing, folder: &TempDir) -> Outcome<Process> {
    let mut command = Command::new(segue());
    command.args([
        "origin",
        "--listen",
        &format!("127.0.0.1:{port}"),
        "--workers",
        &placing.load.len().to_string(),
    ]);
    // What a hung one still holds at the end is of no interest.
    command.args(["--grace", "10ms"]);
    if let Some(fault) = fault {
        command.args(["--fault", fault]);
    }
    let log = folder.path().join(format!("origin-{port}.log"));
    let mut process = Process::start(&command, &placing.load, placing.real_time, log)?;
    process.wait_for(port)?;
    Ok(process)
}

fn seen(port: u16) -> Outcome<u64> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /__seen HTTP/1.1\r\nHost: origin\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let seen: serde_json::Value = serde_json::from_str(body)?;
    seen.get("total").and_then(serde_json::Value::as_u64).ok_or_else(|| "the origin does not count".into())
}

fn free_port() -> Outcome<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(FIRST_PORT);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if port > LAST_PORT {
            return Err("no port is free".into());
        }
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
}
