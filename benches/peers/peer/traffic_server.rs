//! Apache Traffic Server with its `multiplexer` plugin, without its cache.
//!
//! It keeps its paths in a run root of its own, so it needs neither root nor a service manager.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::Site;
use crate::Outcome;
use crate::scenario::{Downstream, Mirror};

/// Where Debian has its plugins and libraries.
const LIBRARIES: &str = "/usr/lib/trafficserver";

pub fn command(program: &Path, site: &Site<'_>) -> Outcome<Command> {
    let Site { folder, listen, origin, shadow, workers, certificate, key, .. } = site;
    let tls = match site.downstream {
        Downstream::Http1 => "",
        Downstream::Tls => ":ssl",
        Downstream::H2c => return Err("HTTP/2 only over TLS".into()),
    };
    for name in ["etc", "cache", "log", "run"] {
        fs::create_dir_all(folder.join(name))?;
    }
    let root = folder.display();
    let programs = program.parent().unwrap_or(Path::new("/usr/bin")).display();
    let run_root = format!(
        "prefix: {root}
exec_prefix: {root}
bindir: {programs}
sbindir: {programs}
sysconfdir: {root}/etc
datadir: {root}/cache
includedir: /usr/include
libdir: {LIBRARIES}
libexecdir: {LIBRARIES}/modules
localstatedir: {root}/run
runtimedir: {root}/run
logdir: {root}/log
cachedir: {root}/cache
"
    );
    let records = format!(
        "CONFIG proxy.config.http.server_ports STRING {listen}:ip-in=127.0.0.1{tls}
CONFIG proxy.config.admin.user_id STRING #-1
CONFIG proxy.config.exec_thread.autoconfig INT 0
CONFIG proxy.config.exec_thread.limit INT {workers}
CONFIG proxy.config.accept_threads INT 0
CONFIG proxy.config.task_threads INT 1
CONFIG proxy.config.http.cache.http INT 0
CONFIG proxy.config.log.logging_enabled INT 0
CONFIG proxy.config.url_remap.remap_required INT 1
CONFIG proxy.config.url_remap.pristine_host_hdr INT 1
CONFIG proxy.config.http.insert_squid_x_forwarded_for INT 1
CONFIG proxy.config.net.connections_throttle INT 19500
CONFIG proxy.config.ssl.TLSv1_2 INT 0
"
    );
    let plugin = match site.mirror {
        Mirror::Off => "",
        _ => " @plugin=multiplexer.so @pparam=shadow.test",
    };
    let remap = format!(
        "map http://shadow.test/ http://127.0.0.1:{shadow}/
map / http://127.0.0.1:{origin}/{plugin}
"
    );
    let multicert =
        format!("dest_ip=* ssl_cert_name={} ssl_key_name={}\n", certificate.display(), key.display());
    let run_root_file = folder.join("runroot.yaml");
    fs::write(&run_root_file, run_root)?;
    for (name, text) in [
        ("records.config", records.as_str()),
        ("remap.config", &remap),
        ("ssl_multicert.config", &multicert),
        ("storage.config", &format!("{root}/cache 16M\n")),
        ("plugin.config", ""),
        (
            "ip_allow.yaml",
            "ip_allow:\n  - apply: in\n    ip_addrs: 127.0.0.1\n    action: allow\n    methods: ALL\n",
        ),
    ] {
        fs::write(folder.join("etc").join(name), text)?;
    }
    let mut command = Command::new(program);
    command.env("TS_RUNROOT", run_root_file);
    Ok(command)
}
