//! Caddy. It has no mirror.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::Site;
use crate::Outcome;
use crate::scenario::{Downstream, Mirror};

pub fn command(program: &Path, site: &Site<'_>) -> Outcome<Command> {
    if site.mirror != Mirror::Off {
        return Err("Caddy has no mirror".into());
    }
    let Site { folder, listen, origin, workers, certificate, key, .. } = site;
    let (scheme, tls) = match site.downstream {
        Downstream::Http1 | Downstream::H2c => ("http", String::new()),
        Downstream::Tls => {
            let files = format!(
                "tls {} {} {{\n        protocols tls1.3\n    }}",
                certificate.display(),
                key.display()
            );
            ("https", files)
        }
    };
    // Two idle connections are kept for each upstream unless told otherwise, and 64 callers want more.
    let text = format!(
        "{{
    admin off
    auto_https off
    persist_config off
    log {{
        level ERROR
    }}
    servers {{
        protocols h1 h2 h2c
    }}
}}
{scheme}://:{listen} {{
    bind 127.0.0.1
    {tls}
    reverse_proxy 127.0.0.1:{origin} {{
        transport http {{
            keepalive_idle_conns 10000
            keepalive_idle_conns_per_host 10000
        }}
    }}
}}
"
    );
    let file = folder.join("Caddyfile");
    fs::write(&file, text)?;
    let mut command = Command::new(program);
    command.arg("run").arg("--adapter").arg("caddyfile").arg("--config").arg(file);
    command.env("GOMAXPROCS", workers.to_string());
    command.env("HOME", folder).env("XDG_DATA_HOME", folder).env("XDG_CONFIG_HOME", folder);
    Ok(command)
}
