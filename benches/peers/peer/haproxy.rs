//! `HAProxy`, as an HTTP proxy and as a copier of bytes.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::Site;
use crate::Outcome;
use crate::scenario::{Downstream, Mirror};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Tcp,
    Http,
}

pub fn command(program: &Path, site: &Site<'_>, mode: Mode) -> Outcome<Command> {
    if site.mirror != Mirror::Off {
        return Err("HAProxy mirrors only through an agent beside it".into());
    }
    if mode == Mode::Tcp && site.downstream != Downstream::Http1 {
        return Err("TCP mode passes on what it gets, in clear".into());
    }
    let Site { listen, origin, workers, certificate_and_key, .. } = site;
    let bind = match site.downstream {
        Downstream::Http1 => String::new(),
        Downstream::Tls => format!(" ssl crt {} ssl-min-ver TLSv1.3", certificate_and_key.display()),
        Downstream::H2c => " proto h2".to_owned(),
    };
    let mode = match mode {
        Mode::Tcp => "mode tcp",
        Mode::Http => "mode http\n    option forwardfor\n    http-reuse always",
    };
    // Two descriptors a connection have to fit below the usual limit of 20,000.
    let text = format!(
        "global
    nbthread {workers}
    maxconn 9900
defaults
    {mode}
    timeout connect 5s
    timeout client 75s
    timeout server 75s
    timeout http-keep-alive 75s
frontend callers
    bind 127.0.0.1:{listen} backlog 4096{bind}
    default_backend origin
backend origin
    server origin 127.0.0.1:{origin}
"
    );
    let file = site.folder.join("haproxy.cfg");
    fs::write(&file, text)?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-q").arg("-f").arg(file);
    Ok(command)
}
