//! Envoy: `request_mirror_policies` at 5 %.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::Site;
use crate::Outcome;
use crate::scenario::{Downstream, Mirror};

const MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";

pub fn command(program: &Path, site: &Site<'_>) -> Outcome<Command> {
    let mut route = json!({ "cluster": "origin", "timeout": "60s" });
    if site.mirror != Mirror::Off {
        route["request_mirror_policies"] = json!([{
            "cluster": "shadow",
            "runtime_fraction": { "default_value": { "numerator": 5, "denominator": "HUNDRED" } },
        }]);
    }
    let manager = json!({
        "@type": MANAGER,
        "stat_prefix": "callers",
        "codec_type": "AUTO",
        "use_remote_address": true,
        "generate_request_id": false,
        "route_config": { "virtual_hosts": [
            { "name": "all", "domains": ["*"], "routes": [{ "match": { "prefix": "/" }, "route": route }] },
        ] },
        "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": { "@type": ROUTER } }],
    });
    let filter = json!({ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager });
    let mut chain = json!({ "filters": [filter] });
    if site.downstream == Downstream::Tls {
        chain["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": { "@type": TLS, "common_tls_context": {
                "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
                "tls_certificates": [
                    { "certificate_chain": { "filename": site.certificate }, "private_key": { "filename": site.key } },
                ],
            } },
        });
    }
    let listener = json!({ "name": "callers", "address": address(site.listen), "filter_chains": [chain] });
    let config = json!({ "static_resources": {
        "listeners": [listener],
        "clusters": [cluster("origin", site.origin), cluster("shadow", site.shadow)],
    } });
    let file = site.folder.join("envoy.json");
    fs::write(&file, serde_json::to_vec_pretty(&config)?)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(file).arg("--concurrency").arg(site.workers.to_string());
    command.args(["--disable-hot-restart", "--log-level", "error"]);
    Ok(command)
}

fn cluster(name: &str, port: u16) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "circuit_breakers": { "thresholds": [
            // Their defaults of 1,024 would refuse what the scenarios with many connections ask for.
            { "max_connections": 20_000, "max_pending_requests": 20_000, "max_requests": 20_000 },
        ] },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(port) } }] }],
        },
    })
}

fn address(port: u16) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}
