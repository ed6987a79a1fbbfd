//! Validated settings. Every field has its default in one place: the `Default` of its group.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Allocation, ByteSize, Check, Migration, Percent, Workload};

/// One whole configuration file, defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub workers: NonZeroUsize,
    pub admin: Admin,
    pub state: State,
    /// `None` = no instance is on EC2.
    pub ec2: Option<Ec2Access>,
    pub log: Log,
    pub listeners: Vec<Listener>,
    pub callers: Callers,
    pub lane: Lane,
    /// How long SIGTERM waits for exchanges in flight before connections are cut.
    pub shutdown_grace: Duration,
    pub services: BTreeMap<String, Service>,
}

/// Where the admin API listens, and who may use it.
#[derive(Clone, PartialEq)]
pub struct Admin {
    /// `None` = no admin API.
    pub listen: Option<Address>,
    /// Required when `listen` is neither loopback nor a Unix socket.
    pub token: Option<String>,
}

/// A socket to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Directory of durable state; `None` = kept in memory, and said so at start.
    pub store: Option<PathBuf>,
}

/// How the API of EC2 is reached. What is absent is taken from where AWS's own tools take it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ec2Access {
    /// Where its instances are, such as `eu-central-1`.
    pub region: Option<String>,
    /// Of the shared files of credentials and settings.
    pub profile: Option<String>,
    /// Another one than the region's own.
    pub endpoint_url: Option<Endpoint>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    pub format: LogFormat,
    /// `tracing` filter directives, such as `info` or `segue=debug`.
    pub filter: String,
    /// Access log: one JSON line a request; `None` = off.
    pub access: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub address: Address,
    pub tls: Option<ListenerTls>,
    /// Expect a PROXY protocol header (v1 or v2) on every connection, and trust it.
    pub proxy_protocol: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTls {
    /// Chosen by SNI; the first is the default.
    pub certificates: Vec<Certificate>,
    pub client_auth: ClientAuth,
    /// Refuse TLS 1.2.
    pub only_tls13: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Mutual TLS.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientAuth {
    Off,
    Optional { ca: PathBuf },
    Required { ca: PathBuf },
}

/// Limits and timeouts on the callers' side.
#[derive(Clone, Debug, PartialEq)]
pub struct Callers {
    pub max_connections: usize,
    /// From the first byte of a head to its end; beyond it 408.
    pub header_timeout: Duration,
    /// A connection with nothing in flight is closed after this.
    pub idle_timeout: Duration,
    /// TLS and PROXY protocol handshakes.
    pub handshake_timeout: Duration,
    /// A caller that takes no byte of its answer, or sends no byte of its body, for this long is cut.
    pub stall_timeout: Duration,
    pub max_header_bytes: ByteSize,
    pub max_header_count: usize,
    pub max_uri_bytes: ByteSize,
    /// Beyond it 413. `None` = unlimited.
    pub max_body_bytes: Option<ByteSize>,
    pub max_concurrent_streams: u32,
    /// HTTP/2 connections with nothing in flight that are kept; of more, those idle longest are told to go.
    pub max_idle_http2: usize,
    /// So many connections are kept ready when they fall idle, for ten seconds; of more, those idle longest rest at once.
    pub keep_ready: usize,
    /// Trust the caller's `X-Forwarded-*` and `Forwarded` (append to them) instead of replacing them.
    pub trust_forwarded: bool,
}

/// The shadow's lane, shared by all services.
#[derive(Clone, Debug, PartialEq)]
pub struct Lane {
    pub threads: NonZeroUsize,
    /// Pairs queued from one worker to the lane before new ones are dropped and counted.
    pub queue: usize,
    /// Bytes that all queued and running pairs may hold.
    pub max_bytes: ByteSize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Exact or `*.suffix`, in lower case; empty = any host.
    pub hosts: Vec<String>,
    /// Path prefixes, on segment boundaries, without a final slash (but `/`); empty = any path.
    pub paths: Vec<String>,
    pub source: Instance,
    pub shadow: Option<Instance>,
    pub upstream: Upstream,
    pub tee: Tee,
    pub classify: Classify,
    pub switchover: Switchover,
    pub migration: Migration,
    /// Whether an instance is healthy; empty = it has to answer at `upstream.health`'s path, or at all.
    pub checks: Vec<Check>,
}

/// One running copy of the application.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Empty where Segue runs it and so finds out itself.
    pub endpoints: Vec<Endpoint>,
    pub run: Option<Run>,
}

/// An instance that Segue runs itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub workload: Workload,
    pub allocation: Allocation,
}

impl Instance {
    /// One that somebody else runs.
    pub const fn at(endpoints: Vec<Endpoint>) -> Self {
        Self { endpoints, run: None }
    }
}

/// Where an instance answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub scheme: Scheme,
    pub target: Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP/1.1 in clear.
    Http,
    /// TLS; HTTP/2 or HTTP/1.1 by ALPN.
    Https,
    /// HTTP/2 in clear, prior knowledge.
    H2c,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Host name or address literal (IPv6 without brackets), and port.
    Host {
        name: String,
        port: u16,
    },
    Unix(PathBuf),
}

/// How instances of one service are reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Connections to one instance, over all workers.
    pub max_connections: usize,
    pub connect_timeout: Duration,
    /// From the end of the request to the head of the answer; beyond it 504.
    pub answer_timeout: Duration,
    /// Pooled connections that rested longer are closed.
    pub idle_timeout: Duration,
    /// How long a request may wait for a connection when `max_connections` are busy; beyond it 503.
    pub queue_timeout: Duration,
    pub dns_interval: Duration,
    pub tls: UpstreamTls,
    /// Active health checks; `None` = endpoints are judged by real traffic alone.
    pub health: Option<HealthCheck>,
    /// Failures in a row (connect errors, resets, 502/503/504) that eject an endpoint; 0 = never.
    pub eject_after: u32,
    pub eject_for: Duration,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct UpstreamTls {
    /// PEM bundle to verify against instead of the built-in web roots.
    pub ca: Option<PathBuf>,
    /// Name to verify and to send as SNI; default: the endpoint's host.
    pub server_name: Option<String>,
    /// Certificate to present.
    pub client: Option<Certificate>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    pub path: String,
    pub interval: Duration,
    pub timeout: Duration,
    /// Successes in a row that bring an endpoint back.
    pub healthy_after: u32,
    /// Failures in a row that take it out.
    pub unhealthy_after: u32,
}

/// What is copied to the shadow, and how much of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tee {
    pub percent: Percent,
    pub sampling: Sampling,
    pub max_requests_per_second: u32,
    pub max_bytes_per_second: ByteSize,
    /// Pairs in flight to the shadow at once.
    pub max_concurrency: usize,
    pub max_connections: usize,
    /// Bodies of opted-in reads beyond this are skipped and counted.
    pub max_body_bytes: ByteSize,
    /// The shadow's answer is read to here, then cut and counted.
    pub max_answer_bytes: ByteSize,
    pub connect_timeout: Duration,
    /// From the start of a pair to the last byte of the shadow's answer.
    pub deadline: Duration,
    /// Failures in a row that open the breaker; 0 = never.
    pub breaker_after: u32,
    /// How long the breaker stays open before one pair may probe.
    pub breaker_for: Duration,
    /// Set the sampled flag of the shadow leg's own `traceparent`.
    pub trace_sampled: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Sampling {
    /// Each eligible read counts; exact rate.
    Request,
    /// All reads of a session or none, by hash of the key.
    Session(SessionKey),
}

#[derive(Clone, Debug, PartialEq)]
pub enum SessionKey {
    Cookie(String),
    Header(String),
    ClientAddress,
}

/// What counts as a read.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Classify {
    /// Tried in order, before the defaults; the first that matches decides.
    pub rules: Vec<Rule>,
    /// Opt-in: paths at which GraphQL documents (by POST or GET) are parsed.
    pub graphql_paths: Vec<String>,
    /// Opt-in: gRPC methods that are reads, as `package.Service/Method`.
    pub grpc_methods: Vec<String>,
    /// Opt-in: descriptor set; methods with `idempotency_level = NO_SIDE_EFFECTS` are reads.
    pub grpc_descriptor_set: Option<PathBuf>,
    /// Opt-in: JSON-RPC endpoints and the methods that are reads.
    pub jsonrpc_paths: Vec<String>,
    pub jsonrpc_methods: Vec<String>,
    /// Opt-in: path suffixes such as `/_search` whose POST is a read.
    pub search_paths: Vec<String>,
    /// Opt-in: `git-upload-pack` (fetch, clone) is a read.
    pub git: bool,
}

/// All conditions that are present must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Empty = any method.
    pub methods: Vec<String>,
    pub host: Option<String>,
    /// Linear-time regex on the raw path.
    pub path: Option<String>,
    /// Header name, and a regex on its value.
    pub header: Option<(String, String)>,
    /// Query key, and a regex on its decoded value.
    pub query: Option<(String, String)>,
    pub class: RuleClass,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleClass {
    Read,
    Write,
}

/// How a switchover holds, drains and gives up.
#[derive(Clone, Debug, PartialEq)]
pub struct Switchover {
    pub park: Park,
    pub park_timeout: Duration,
    /// Requests of one service held at once, over all workers; beyond it 503 with `Retry-After`.
    pub max_parked: usize,
    pub drain_timeout: Duration,
    pub on_drain_deadline: DrainPolicy,
    /// Parked requests let go per second on resume.
    pub release_per_second: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Park {
    All,
    Writes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainPolicy {
    /// Resume the source.
    Abort,
    /// Cut what is still in flight, counted, and go on.
    Cut,
}

impl fmt::Display for Ec2Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.endpoint_url.as_ref().map(ToString::to_string);
        let parts = [("region", &self.region), ("profile", &self.profile), ("endpoint_url", &endpoint)];
        let said: Vec<_> =
            parts.iter().filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?))).collect();
        f.write_str(if said.is_empty() { "as the environment says" } else { "" })?;
        f.write_str(&said.join(", "))
    }
}

impl Settings {
    /// Long enough for most answers, and shorter than the 30 s that Kubernetes waits before it kills.
    pub const DEFAULT_SHUTDOWN_GRACE: Duration = Duration::from_secs(25);

    /// One worker for each core that this process may use.
    pub fn default_workers() -> NonZeroUsize {
        std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
    }

    /// What the smallest useful file says: one listener, and one service named `web` for all that arrives there.
    pub fn smallest(listen: SocketAddr, source: Endpoint, shadow: Option<Endpoint>) -> Self {
        let instance = |endpoint| Instance::at(vec![endpoint]);
        let web = Service::new(instance(source), shadow.map(instance));
        Self {
            workers: Self::default_workers(),
            admin: Admin::default(),
            state: State::default(),
            ec2: None,
            log: Log::default(),
            listeners: vec![Listener { address: Address::Tcp(listen), tls: None, proxy_protocol: false }],
            callers: Callers::default(),
            lane: Lane::default(),
            shutdown_grace: Self::DEFAULT_SHUTDOWN_GRACE,
            services: BTreeMap::from([("web".to_owned(), web)]),
        }
    }
}

impl Service {
    /// Any host and path, and the defaults for everything else.
    pub fn new(source: Instance, shadow: Option<Instance>) -> Self {
        Self {
            hosts: Vec::new(),
            paths: Vec::new(),
            source,
            shadow,
            upstream: Upstream::default(),
            tee: Tee::default(),
            classify: Classify::default(),
            switchover: Switchover::default(),
            migration: Migration::default(),
            checks: Vec::new(),
        }
    }
}

impl HealthCheck {
    /// Checks of `path` at the default pace: an endpoint that hangs is out after about 15 s.
    pub fn at(path: String) -> Self {
        Self {
            path,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            healthy_after: 2,
            unhealthy_after: 3,
        }
    }
}

/// The token stays out of logs.
impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "***");
        f.debug_struct("Admin").field("listen", &self.listen).field("token", &token).finish()
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: Some(Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 9900)))), token: None }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".into(), access: None }
    }
}

impl Default for Callers {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            handshake_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_mins(1),
            max_header_bytes: ByteSize::kib(32),
            max_header_count: 100,
            max_uri_bytes: ByteSize::kib(8),
            max_body_bytes: None,
            max_concurrent_streams: 100,
            max_idle_http2: 2_000,
            keep_ready: 256,
            trust_forwarded: false,
        }
    }
}

impl Default for Lane {
    fn default() -> Self {
        Self { threads: NonZeroUsize::MIN, queue: 1024, max_bytes: ByteSize::mib(16) }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            connect_timeout: Duration::from_secs(2),
            answer_timeout: Duration::from_mins(1),
            idle_timeout: Duration::from_secs(30),
            queue_timeout: Duration::from_secs(2),
            dns_interval: Duration::from_secs(10),
            tls: UpstreamTls::default(),
            health: None,
            eject_after: 5,
            eject_for: Duration::from_secs(10),
        }
    }
}

impl Default for Tee {
    fn default() -> Self {
        Self {
            percent: Percent::new(2.0).unwrap_or(Percent::ZERO),
            sampling: Sampling::Request,
            max_requests_per_second: 1_000,
            max_bytes_per_second: ByteSize::mib(32),
            max_concurrency: 64,
            max_connections: 64,
            max_body_bytes: ByteSize::kib(64),
            max_answer_bytes: ByteSize::mib(8),
            connect_timeout: Duration::from_secs(1),
            deadline: Duration::from_secs(10),
            breaker_after: 10,
            breaker_for: Duration::from_secs(5),
            trace_sampled: false,
        }
    }
}

impl Default for Switchover {
    fn default() -> Self {
        Self {
            park: Park::All,
            park_timeout: Duration::from_secs(5),
            max_parked: 10_000,
            drain_timeout: Duration::from_secs(10),
            on_drain_deadline: DrainPolicy::Abort,
            release_per_second: 20_000,
        }
    }
}

/// The two instances of a service, by their names in the configuration. Which of them is *active*
/// is durable state, not configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceName {
    Source,
    Shadow,
}

impl InstanceName {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Shadow => "shadow",
        }
    }

    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Source => Self::Shadow,
            Self::Shadow => Self::Source,
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        [Self::Source, Self::Shadow].into_iter().find(|known| known.as_str() == name)
    }
}
