//! `segue check`: validates a configuration without touching anything, and explains classifications.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use http::header::{HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Uri};
use rustls_pki_types::UnixTime;

use super::refused;
use crate::config::{self, Service, Settings};
use crate::proxy::classify::{Classifier, Head};
use crate::proxy::listener::tls;
use crate::proxy::route::Router;
use crate::upstream::tls::ClientTls;

#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The configuration; without it, --explain uses the defaults
    #[arg(long, short, value_name = "FILE", required_unless_present = "explain")]
    config: Option<PathBuf>,
    /// Say how a request would be classed and why: 'GET /path' or `POST <url>`
    #[arg(long, value_name = "REQUEST")]
    explain: Option<String>,
    /// A header of the request to explain: 'Name: value'; may be given several times
    #[arg(long, short = 'H', value_name = "HEADER", requires = "explain")]
    header: Vec<String>,
    /// Its body
    #[arg(long, value_name = "TEXT", requires = "explain", default_value = "")]
    body: String,
}

/// One fault a line, exit 2; or what would happen, exit 0.
pub fn run(args: &CheckArgs) -> ExitCode {
    let settings = match &args.config {
        None => None,
        Some(path) => match validate(path) {
            Ok(settings) => Some(settings),
            Err(faults) => return refused(&faults),
        },
    };
    match (&args.explain, &settings) {
        (Some(request), settings) => match explain(request, &args.header, &args.body, settings.as_ref()) {
            Ok(text) => println!("{text}"),
            Err(fault) => return refused(&format!("--explain: {fault}")),
        },
        (None, Some(settings)) => println!("{}", summary(settings)),
        (None, None) => {}
    }
    ExitCode::SUCCESS
}

/// Everything that `segue run` would need, short of the network: also what only building finds out.
fn validate(path: &Path) -> Result<Settings, String> {
    let settings = config::load(path).map_err(|faults| faults.to_string())?;
    let mut faults = Vec::new();
    for listener in &settings.listeners {
        if let Some(tls) = &listener.tls {
            match tls::prepare(tls, UnixTime::now()) {
                Ok(prepared) => {
                    prepared.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
                }
                Err(error) => faults.push(format!("listener {}: {error}", listener.address)),
            }
        }
    }
    for (name, service) in &settings.services {
        if let Err(error) = ClientTls::new(&service.upstream.tls, UnixTime::now()) {
            faults.push(format!("service `{name}`: {error}"));
        }
        if let Err(error) = classifier(service) {
            faults.push(format!("service `{name}`: {error}"));
        }
    }
    let named = |fault: String| format!("{}: {fault}", path.display());
    if faults.is_empty() {
        Ok(settings)
    } else {
        Err(faults.into_iter().map(named).collect::<Vec<_>>().join("\n"))
    }
}

fn classifier(service: &Service) -> Result<Classifier, String> {
    let descriptors = match &service.classify.grpc_descriptor_set {
        None => None,
        Some(path) => Some(std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?),
    };
    Classifier::new(&service.classify, descriptors.as_deref()).map_err(|error| error.to_string())
}

fn summary(settings: &Settings) -> String {
    let mut lines =
        vec![format!("valid: {} listeners, {} services", settings.listeners.len(), settings.services.len())];
    for (name, service) in &settings.services {
        let shadow = match &service.shadow {
            Some(_) => format!("tee {} to its shadow", service.tee.percent),
            None => "no shadow, so nothing is teed".to_owned(),
        };
        lines.push(format!("  {name}: {shadow}; a switchover cannot fence the old instance, so only requests through Segue are held back"));
    }
    lines.join("\n")
}

fn explain(
    request: &str,
    headers: &[String],
    body: &str,
    settings: Option<&Settings>,
) -> Result<String, String> {
    let (method, target) =
        request.split_once(' ').ok_or_else(|| format!("`{request}` is no request; write 'GET /path'"))?;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is no method"))?;
    let uri: Uri = target.trim().parse().map_err(|error| format!("`{target}` is no target: {error}"))?;
    let mut map = HeaderMap::new();
    for header in headers {
        let parsed = header.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        let (name, value) = parsed.ok_or_else(|| format!("`{header}` is no header; write 'Name: value'"))?;
        map.append(name, value);
    }
    let host = uri.host().map(str::to_owned);
    let host = host.or_else(|| map.get(HOST).and_then(|host| host.to_str().ok()).map(str::to_owned));
    let host = host.unwrap_or_default();
    let (name, service) = match settings {
        None => (None, None),
        Some(settings) => {
            let all: Vec<(&String, &Service)> = settings.services.iter().collect();
            let router = Router::new(all.iter().map(|(_, of)| (of.hosts.as_slice(), of.paths.as_slice())));
            let found = router.find(&host, uri.path()).and_then(|index| all.get(index));
            let (name, service) =
                found.ok_or_else(|| format!("no service matches host `{host}` and path `{}`", uri.path()))?;
            (Some(*name), Some(*service))
        }
    };
    let classifier = match service {
        Some(service) => classifier(service)?,
        None => Classifier::new(&config::Classify::default(), None).map_err(|error| error.to_string())?,
    };
    let head = Head { method: &method, uri: &uri, host: &host, headers: &map, has_body: !body.is_empty() };
    let explanation = classifier.explain(&head, body.as_bytes());
    Ok(match name {
        Some(name) => format!("service `{name}`: {explanation}"),
        None => explanation.to_string(),
    })
}
