//! nginx: `mirror` with `split_clients`, the way its documentation mirrors a part of the traffic.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::Site;
use crate::Outcome;
use crate::scenario::{Downstream, Mirror};

pub fn command(program: &Path, site: &Site<'_>) -> Outcome<Command> {
    let Site { folder, listen, origin, shadow, workers, certificate, key, .. } = site;
    let folder = folder.display();
    let options = match site.downstream {
        Downstream::Http1 => "",
        Downstream::Tls => " ssl",
        Downstream::H2c => " http2",
    };
    let tls = match site.downstream {
        Downstream::Tls => format!(
            "ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.3;",
            certificate.display(),
            key.display()
        ),
        Downstream::Http1 | Downstream::H2c => String::new(),
    };
    let (mirror, copies) = match site.mirror {
        Mirror::Off => ("", String::new()),
        _ => (
            "mirror /copy; mirror_request_body off;",
            format!(
                r#"location = /copy {{
                    internal;
                    if ($copied = 0) {{ return 204; }}
                    proxy_pass http://shadow$request_uri;
                    proxy_set_header Content-Length "";
                    proxy_pass_request_body off;
                    {HEADERS}
                }}"#
            ),
        ),
    };
    // As root its workers would become nobody, who may not enter the folder.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let text = format!(
        r"{user}
        daemon off;
        worker_processes {workers};
        worker_rlimit_nofile 20000;
        error_log {folder}/error.log;
        pid {folder}/nginx.pid;
        events {{ worker_connections 19900; }}
        http {{
            access_log off;
            client_body_temp_path {folder}/client;
            proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi;
            scgi_temp_path {folder}/scgi;
            keepalive_requests 1000000000;
            client_max_body_size 0;
            # Bodies are streamed, as by the others, not written to files.
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
            split_clients $request_id $copied {{ 5% 1; * 0; }}
            upstream origin {{ server 127.0.0.1:{origin}; keepalive 10000; keepalive_requests 1000000000; }}
            upstream shadow {{ server 127.0.0.1:{shadow}; keepalive 64; keepalive_requests 1000000000; }}
            server {{
                listen 127.0.0.1:{listen}{options} backlog=4096;
                {tls}
                location / {{
                    proxy_pass http://origin;
                    {HEADERS}
                    {mirror}
                }}
                {copies}
            }}
        }}
        "
    );
    let file = site.folder.join("nginx.conf");
    fs::write(&file, text)?;
    let mut command = Command::new(program);
    command.arg("-p").arg(site.folder).arg("-c").arg(file).arg("-e").arg(site.folder.join("error.log"));
    Ok(command)
}

const HEADERS: &str = r#"proxy_http_version 1.1;
                    proxy_set_header Connection "";
                    proxy_set_header Host $http_host;
                    proxy_set_header X-Forwarded-For $remote_addr;
                    proxy_set_header X-Forwarded-Proto $scheme;"#;
