//! A whole file: admin, listeners and the other groups, then what must hold between them.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use toml::de::DeTable;
use tracing_subscriber::EnvFilter;

use super::fault::{Faults, Place};
use super::reader::{Item, Open, Sheet, Table};
use super::run::ec2_access;
use super::service::{Routed, report_overlaps, service};
use super::{
    Address, Admin, ByteSize, Callers, Certificate, ClientAuth, Lane, Listener, ListenerTls, Log, LogFormat,
    Settings, State, forms,
};

/// More threads than any machine has cores is a slip of the keyboard.
pub(super) const MAX_THREADS: usize = 1024;
/// Counts of connections, exchanges and queue entries: beyond this memory ends before the limit does.
pub(super) const MAX_COUNT: usize = 10_000_000;
/// Sizes of bodies and budgets: beyond this a limit is no limit.
pub(super) const MAX_SIZE: ByteSize = ByteSize::mib(1 << 20);
const BYTE: ByteSize = ByteSize(1);

/// Reads a file and what it names; every fault found is reported at once.
pub fn load(path: &Path) -> Result<Settings, Faults> {
    let file = path.display().to_string();
    let at = |text: &str, place, message| Faults::locate(&file, text, vec![(place, message)]);
    let bytes = fs::read(path).map_err(|error| at("", Place::START, format!("cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes());
        at(&text, Place(valid), "is not UTF-8 from here on; save the file as UTF-8".into())
    })?;
    read(&text, &file, path.parent(), Some(&|path| fs::read(path)))
}

/// Reads a text without opening the files that it names: they need not exist, and a token that
/// stands in one stays unset. `file` stands in messages, and its folder is where relative paths start.
pub fn parse(text: &str, file: &str) -> Result<Settings, Faults> {
    read(text, file, Path::new(file).parent(), None)
}

fn read(text: &str, file: &str, folder: Option<&Path>, open: Option<Open<'_>>) -> Result<Settings, Faults> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let mut found: Vec<_> = errors
            .into_iter()
            .map(|error| (Place(error.span().map_or(0, |span| span.start)), error.message().to_owned()))
            .collect();
        // What follows on the same line is mostly an echo of the first.
        found.sort_by_key(|(place, _)| *place);
        found.dedup_by_key(|(place, _)| text.get(..place.0).map(|before| before.matches('\n').count()));
        return Err(Faults::locate(file, text, found));
    }
    let sheet = Sheet::new(folder.unwrap_or(Path::new("")), open);
    let settings = sheet.root(document.get_ref(), settings);
    let faults = sheet.into_faults();
    if faults.is_empty() { Ok(settings) } else { Err(Faults::locate(file, text, faults)) }
}

pub(super) fn settings(t: &mut Table<'_>) -> Settings {
    let listeners = listeners(t);
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.address.clone()).collect();
    let admin = t.group("admin", |t| admin(t, &addresses));
    let services = services(t, &addresses);
    report_overlaps(t, &services);
    Settings {
        workers: threads(t, "workers", Settings::default_workers()),
        admin,
        state: t.group("state", |t| State { store: t.take("store").and_then(|item| item.path()) }),
        ec2: t.take("ec2").and_then(ec2_access),
        log: t.group("log", log),
        listeners,
        callers: t.group("callers", callers),
        lane: t.group("lane", lane),
        shutdown_grace: t.duration("shutdown_grace", Settings::DEFAULT_SHUTDOWN_GRACE),
        services: services.into_iter().map(|routed| (routed.name.to_owned(), routed.service)).collect(),
    }
}

fn threads(t: &mut Table<'_>, key: &'static str, default: NonZeroUsize) -> NonZeroUsize {
    NonZeroUsize::new(t.number(key, default.get(), 1..=MAX_THREADS)).unwrap_or(default)
}

fn admin(t: &mut Table<'_>, listeners: &[Address]) -> Admin {
    let default = Admin::default();
    let listen = t.take("listen");
    let token = t.take("token");
    let token_file = t.take("token_file");
    if let (Some(_), Some(file)) = (&token, &token_file) {
        file.fault("and `admin.token` exclude each other; keep one");
    }
    let guarded = token.is_some() || token_file.is_some();
    let address = match &listen {
        None => default.listen,
        Some(item) if item.is("off") => None,
        Some(item) => item.parsed::<Address>(),
    };
    if let (Some(item), Some(address)) = (&listen, &address) {
        if !address.is_local() && !guarded {
            item.fault(format!(
                "is {address}, which others can reach; set `admin.token` or `admin.token_file`, or listen on loopback or unix:/PATH"
            ));
        }
        if let Some(listener) = listeners.iter().find(|listener| address.collides_with(listener)) {
            item.fault(format!("is {address}, but a listener already has {listener}; use another port"));
        }
    }
    let from_file = token_file.as_ref().and_then(token_from_file);
    Admin { listen: address, token: token.and_then(|item| item.text_as(forms::token)).or(from_file) }
}

fn token_from_file(item: &Item<'_>) -> Option<String> {
    let path = item.path()?;
    let bytes = item.bytes_of(&path)?;
    let token = str::from_utf8(&bytes).map_err(|_| "it is not text".to_owned());
    match token.and_then(|text| forms::token(text.trim())) {
        Ok(token) => Some(token),
        Err(reason) => {
            item.fault(format!("names {}, which holds no token: {reason}", path.display()));
            None
        }
    }
}

fn log(t: &mut Table<'_>) -> Log {
    let d = Log::default();
    Log {
        format: t.choice("format", d.format, &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
        filter: t.take("filter").and_then(|item| item.text_as(log_filter)).unwrap_or(d.filter),
        access: t.take("access").and_then(|item| item.path()),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| {
        format!("{text:?} is not a log filter, such as \"info\" or \"segue=debug\": {error}")
    })
}

fn listeners(t: &mut Table<'_>) -> Vec<Listener> {
    const WHY: &str = "add [[listeners]] with an `address` where callers connect";
    let Some(item) = t.require("listeners", WHY) else { return Vec::new() };
    let placed: Vec<(Listener, Place)> = item.list(|item| item.table(listener).flatten());
    for (n, (listener, place)) in placed.iter().enumerate() {
        let before = placed.iter().take(n);
        let taken =
            before.map(|(other, _)| other).find(|other| other.address.collides_with(&listener.address));
        if let Some(other) = taken {
            t.fault_at(
                *place,
                format!(
                    "`listeners.address` is {}, but a listener above has {}; use another port",
                    listener.address, other.address
                ),
            );
        }
    }
    if item.is_empty_list() {
        item.fault(format!("is empty; {WHY}"));
    }
    placed.into_iter().map(|(listener, _)| listener).collect()
}

fn listener(t: &mut Table<'_>) -> Option<(Listener, Place)> {
    let address = t.require("address", "where callers connect, such as \"0.0.0.0:8080\"");
    let tls = t.take("tls").and_then(|item| item.table(listener_tls));
    let proxy_protocol = t.flag("proxy_protocol", false);
    let place = address.as_ref()?.place();
    Some((Listener { address: address?.parsed()?, tls, proxy_protocol }, place))
}

fn listener_tls(t: &mut Table<'_>) -> ListenerTls {
    let single = t.has("cert") | t.has("key");
    let several = t.take("certificates");
    let mut certificates = Vec::new();
    match &several {
        Some(item) if single => item.fault("excludes `cert` and `key` beside it; put all into the list"),
        Some(item) if item.is_empty_list() => item.fault("is empty; add { cert = …, key = … }"),
        None if !single => t.fault("needs `cert` and `key`, or `certificates` with several of them"),
        _ => {}
    }
    if single {
        certificates.extend(certificate(t));
    }
    if let Some(item) = several {
        certificates.extend(item.list(|item| item.table(certificate).flatten()));
    }
    ListenerTls { certificates, client_auth: client_auth(t), only_tls13: t.flag("only_tls13", false) }
}

pub(super) fn certificate(t: &mut Table<'_>) -> Option<Certificate> {
    let cert = t.require("cert", "the path of a PEM certificate chain");
    let key = t.require("key", "the path of the certificate's PEM private key");
    let cert = cert.and_then(|item| item.file(forms::certificates));
    let key = key.and_then(|item| item.file(forms::private_key));
    Some(Certificate { cert: cert?, key: key? })
}

fn client_auth(t: &mut Table<'_>) -> ClientAuth {
    let ca = t.take("client_ca");
    let mode = t.take("client_auth");
    if let (None, Some(mode)) = (&ca, &mode) {
        mode.fault(
            "needs `client_ca` beside it: the PEM bundle that callers' certificates are verified against",
        );
    }
    // A bundle alone asks for certificates; requiring them is the side to err on.
    let required =
        mode.and_then(|item| item.choice(&[("optional", false), ("required", true)])).unwrap_or(true);
    match ca.and_then(|item| item.file(forms::certificates)) {
        None => ClientAuth::Off,
        Some(ca) if required => ClientAuth::Required { ca },
        Some(ca) => ClientAuth::Optional { ca },
    }
}

fn callers(t: &mut Table<'_>) -> Callers {
    let d = Callers::default();
    Callers {
        max_connections: t.number("max_connections", d.max_connections, 1..=MAX_COUNT),
        header_timeout: t.duration("header_timeout", d.header_timeout),
        idle_timeout: t.duration("idle_timeout", d.idle_timeout),
        handshake_timeout: t.duration("handshake_timeout", d.handshake_timeout),
        stall_timeout: t.duration("stall_timeout", d.stall_timeout),
        max_header_bytes: t.size("max_header_bytes", d.max_header_bytes, ByteSize::kib(1)..=ByteSize::mib(1)),
        max_header_count: t.number("max_header_count", d.max_header_count, 1..=1_000),
        // `http::Uri` ends at 64 KiB whatever stands here.
        max_uri_bytes: t.size("max_uri_bytes", d.max_uri_bytes, ByteSize(256)..=ByteSize::kib(63)),
        max_body_bytes: t.take("max_body_bytes").and_then(|item| item.size(&(BYTE..=MAX_SIZE))),
        max_concurrent_streams: t.number("max_concurrent_streams", d.max_concurrent_streams, 1..=10_000),
        max_idle_http2: t.number("max_idle_http2", d.max_idle_http2, 1..=MAX_COUNT),
        keep_ready: t.number("keep_ready", d.keep_ready, 0..=MAX_COUNT),
        trust_forwarded: t.flag("trust_forwarded", d.trust_forwarded),
    }
}

fn lane(t: &mut Table<'_>) -> Lane {
    let d = Lane::default();
    Lane {
        threads: threads(t, "threads", d.threads),
        queue: t.number("queue", d.queue, 1..=1_000_000),
        max_bytes: t.size("max_bytes", d.max_bytes, ByteSize::kib(64)..=MAX_SIZE),
    }
}

fn services<'t>(t: &mut Table<'t>, listeners: &[Address]) -> Vec<Routed<'t>> {
    const WHY: &str = "add [services.NAME] with a `source`";
    let Some(item) = t.require("services", WHY) else { return Vec::new() };
    let place = item.place();
    let Some(named) = item.named() else { return Vec::new() };
    if named.is_empty() {
        t.fault_at(place, format!("`services` is empty; {WHY}"));
    }
    let mut read = Vec::new();
    for (name, place, item) in named {
        if !forms::is_service_name(name) {
            t.fault_at(
                place,
                format!(
                    "{name:?} cannot name a service; use at most 63 letters, digits, \"-\", \"_\" or \".\""
                ),
            );
        }
        read.extend(item.table(|t| service(t, name, place, listeners)));
    }
    read
}
