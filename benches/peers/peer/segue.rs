//! Segue: everything that it promises is on. Only ceilings that would keep load or tee from being what the
//! scenario says are raised.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::Site;
use crate::Outcome;
use crate::scenario::{Downstream, Mirror, TEE_PERCENT};

pub fn command(program: &Path, site: &Site<'_>) -> Outcome<Command> {
    let Site { listen, origin, shadow, workers, certificate, key, tee_percent, .. } = site;
    let tls = match site.downstream {
        Downstream::Http1 | Downstream::H2c => String::new(),
        Downstream::Tls => format!(
            "tls = {{ cert = \"{}\", key = \"{}\", only_tls13 = true }}",
            certificate.display(),
            key.display()
        ),
    };
    let mut text = format!(
        r#"workers = {workers}
[admin]
listen = "off"
[log]
filter = "warn"
[callers]
max_connections = 10000
max_idle_http2 = 10000
[[listeners]]
address = "127.0.0.1:{listen}"
{tls}
"#
    );
    let paths = if let Some(routes) = site.routes {
        for n in 1..routes {
            writeln!(
                text,
                "[services.other-{n}]\npaths = [\"/other/{n}\"]\n\
                 source = {{ endpoints = [\"http://127.0.0.1:{origin}\"] }}"
            )?;
        }
        r#"paths = ["/bytes"]"#
    } else {
        ""
    };
    write!(
        text,
        r#"[services.web]
{paths}
source = {{ endpoints = ["http://127.0.0.1:{origin}"] }}
upstream = {{ max_connections = 10000 }}
"#
    )?;
    if site.mirror != Mirror::Off {
        write!(
            text,
            r#"shadow = {{ endpoints = ["http://127.0.0.1:{shadow}"] }}
[services.web.tee]
percent = {tee_percent}.0
allow_above_5_percent = {}
max_requests_per_second = 100000
max_bytes_per_second = "1 GiB"
"#,
            *tee_percent > TEE_PERCENT
        )?;
    }
    let file = site.folder.join("segue.toml");
    fs::write(&file, text)?;
    let mut command = Command::new(program);
    command.arg("run").arg("--config").arg(file);
    Ok(command)
}
