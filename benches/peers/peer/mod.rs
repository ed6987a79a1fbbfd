//! The proxies that are compared: one file each says how it is started.
//!
//! They are set up as somebody would who wants each to look its best at this: no access log, no cache, one
//! worker, enough pooled connections, the forwarding headers that Segue sets too. What is left at its default
//! is left so on purpose.

mod caddy;
mod envoy;
mod haproxy;
mod nginx;
mod segue;
mod traffic_server;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;

use crate::Outcome;
use crate::process::{find, is_program};
use crate::scenario::{Downstream, Mirror};

/// Where `scripts/prepare-bench` puts what is not a Debian package.
const FETCHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers");

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// The origin alone: what the load, the origin and the machine take by themselves.
    NoProxy,
    /// Copies bytes and knows nothing of HTTP: the floor.
    HaproxyTcp,
    Nginx,
    Haproxy,
    TrafficServer,
    Caddy,
    Envoy,
    Segue,
}

/// What a proxy is told.
pub struct Site<'a> {
    /// Its own, empty.
    pub folder: &'a Path,
    pub listen: u16,
    pub origin: u16,
    pub shadow: u16,
    pub workers: usize,
    pub downstream: Downstream,
    pub mirror: Mirror,
    pub routes: Option<usize>,
    pub tee_percent: u8,
    /// PEM files: chain, key, and both in one.
    pub certificate: &'a Path,
    pub key: &'a Path,
    pub certificate_and_key: &'a Path,
}

impl Peer {
    pub const ALL: [Self; 8] = [
        Self::NoProxy,
        Self::HaproxyTcp,
        Self::Nginx,
        Self::Haproxy,
        Self::TrafficServer,
        Self::Caddy,
        Self::Envoy,
        Self::Segue,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::NoProxy => "no proxy",
            Self::HaproxyTcp => "HAProxy TCP",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::TrafficServer => "Traffic Server",
            Self::Caddy => "Caddy",
            Self::Envoy => "Envoy",
            Self::Segue => "Segue",
        }
    }

    /// `None` = not installed.
    pub fn program(self) -> Option<PathBuf> {
        let fetched = |name| Some(Path::new(FETCHED).join(name)).filter(|file| is_program(file));
        match self {
            Self::HaproxyTcp | Self::Haproxy => find(&["haproxy"]),
            Self::Nginx => find(&["nginx"]),
            Self::TrafficServer => find(&["traffic_server"]),
            Self::Caddy => fetched("caddy").or_else(|| find(&["caddy"])),
            Self::Envoy => fetched("envoy").or_else(|| find(&["envoy"])),
            Self::NoProxy | Self::Segue => Some(crate::stage::segue()).filter(|file| is_program(file)),
        }
    }

    /// The first line that tells a version.
    pub fn version(self) -> String {
        let Some(program) = self.program() else { return String::new() };
        let flag = match self {
            Self::HaproxyTcp | Self::Haproxy | Self::Nginx => "-v",
            Self::Caddy => "version",
            Self::NoProxy | Self::TrafficServer | Self::Envoy | Self::Segue => "--version",
        };
        let output = Command::new(&program).arg(flag).stdin(Stdio::null()).output();
        let Ok(output) = output else { return String::new() };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        // Some name their own path, which is the machine's business.
        let text = text.replace(&program.display().to_string(), "");
        text.lines().find(|line| line.contains('.')).unwrap_or_default().trim().to_owned()
    }

    /// Writes its configuration, and says how it is started with it; `None`: nothing is to be started.
    pub fn command(self, site: &Site<'_>) -> Outcome<Option<Command>> {
        let program = self.program().ok_or("not installed")?;
        let command = match self {
            Self::NoProxy => return Ok(None),
            Self::HaproxyTcp => haproxy::command(&program, site, haproxy::Mode::Tcp),
            Self::Haproxy => haproxy::command(&program, site, haproxy::Mode::Http),
            Self::Nginx => nginx::command(&program, site),
            Self::TrafficServer => traffic_server::command(&program, site),
            Self::Caddy => caddy::command(&program, site),
            Self::Envoy => envoy::command(&program, site),
            Self::Segue => segue::command(&program, site),
        };
        command.map(Some)
    }
}
