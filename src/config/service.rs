//! One `[services.NAME]`: where it is reached, what is teed, what is a read, how it switches over.

use std::collections::{HashMap, HashSet};

use super::document::{MAX_COUNT, MAX_SIZE, certificate};
use super::fault::Place;
use super::reader::{Item, Table};
use super::run;
use super::{
    Address, ByteSize, Classify, DrainPolicy, Endpoint, HealthCheck, Instance, Park, Percent, Rule,
    RuleClass, Sampling, Service, SessionKey, Switchover, Tee, Upstream, UpstreamTls, format_duration, forms,
    migration,
};

/// A tee beyond this is a load test of the shadow rather than a sample, and has to be asked for by name.
const USUAL_PERCENT: f64 = 5.0;

/// A service, and what routes to it.
pub(super) struct Routed<'t> {
    pub name: &'t str,
    pub place: Place,
    pub service: Service,
    /// False when its hosts or paths have faults, so that an empty list does not mean any.
    routes_known: bool,
}

pub(super) fn service<'t>(
    t: &mut Table<'t>,
    name: &'t str,
    place: Place,
    listeners: &[Address],
) -> Routed<'t> {
    let source = t.require(
        "source",
        "the instance that serves callers, such as { endpoints = [\"http://HOST:PORT\"] }",
    );
    let source = source.and_then(|item| instance(item, listeners, true));
    let shadow = t.take("shadow").and_then(|item| instance(item, listeners, false));
    let service = Service {
        hosts: t.conditions("hosts", forms::host_pattern),
        paths: t.conditions("paths", forms::path_prefix),
        source: source.unwrap_or(Instance::at(Vec::new())),
        shadow,
        upstream: t.group("upstream", upstream),
        tee: t.group("tee", tee),
        classify: t.group("classify", classify),
        switchover: t.group("switchover", switchover),
        migration: t.group("migration", migration::read::migration),
        checks: migration::read::checks(t),
    };
    let (hooks, held) = (service.migration.hook_time(), service.switchover.park_timeout);
    if hooks >= held {
        t.fault(format!(
            "has hooks that may take {} together, and `switchover.park_timeout` is {}, so no switchover would be \
             begun; give the hooks a shorter `timeout`, or raise it",
            format_duration(hooks),
            format_duration(held)
        ));
    }
    let routes_known =
        t.has("hosts") != service.hosts.is_empty() && t.has("paths") != service.paths.is_empty();
    Routed { name, place, service, routes_known }
}

/// Two services that claim the same host and the same path prefix leave no rule to choose by.
pub(super) fn report_overlaps(t: &Table<'_>, services: &[Routed<'_>]) {
    let mut in_order: Vec<_> = services.iter().filter(|routed| routed.routes_known).collect();
    in_order.sort_by_key(|routed| routed.place);
    let claims: Vec<_> = in_order.iter().map(|of| (&*of.service.hosts, &*of.service.paths)).collect();
    for Overlap { first, second, what } in overlaps(&claims) {
        let (Some(first), Some(second)) = (in_order.get(first), in_order.get(second)) else { continue };
        t.fault_at(
            second.place,
            format!(
                "services `{}` and `{}` both match {what}; set different `hosts` or `paths`",
                first.name, second.name
            ),
        );
    }
}

/// The hosts and paths of one service. An empty list means any; so does a list that says `any host` or `/`.
type Claim<'a> = (&'a [String], &'a [String]);

#[derive(Debug, PartialEq, Eq)]
struct Overlap {
    first: usize,
    second: usize,
    what: String,
}

const ANY_HOST: &str = "any host";
const ANY_PATH: &str = "/";

/// Each claim that overlaps an earlier one, with the first of those.
fn overlaps(claims: &[Claim<'_>]) -> Vec<Overlap> {
    let mut claimed = HashMap::new();
    let mut found = Vec::new();
    for (second, (hosts, paths)) in claims.iter().enumerate() {
        let mut first: Option<usize> = None;
        for host in or_any(hosts, ANY_HOST) {
            for path in or_any(paths, ANY_PATH) {
                let by = *claimed.entry((host, path)).or_insert(second);
                if by != second {
                    first = Some(first.map_or(by, |first| first.min(by)));
                }
            }
        }
        if let Some(first) = first
            && let Some(what) = claims.get(first).and_then(|of| claimed_by_both(*of, (hosts, paths)))
        {
            found.push(Overlap { first, second, what });
        }
    }
    found
}

fn or_any<'a>(list: &'a [String], any: &'a str) -> impl Iterator<Item = &'a str> {
    list.iter().map(String::as_str).chain(list.is_empty().then_some(any))
}

/// What two services share, as the first of them orders it.
fn claimed_by_both(a: Claim<'_>, b: Claim<'_>) -> Option<String> {
    let host = common(a.0, b.0, ANY_HOST, ANY_HOST)?;
    let path = common(a.1, b.1, ANY_PATH, "any path")?;
    Some(format!("{host} and {path}"))
}

fn common<'a>(a: &'a [String], b: &'a [String], any: &'a str, any_name: &'a str) -> Option<&'a str> {
    let theirs: HashSet<_> = or_any(b, any).collect();
    let shared = or_any(a, any).find(|one| theirs.contains(one))?;
    Some(if shared == any { any_name } else { shared })
}

fn instance(item: Item<'_>, listeners: &[Address], may_run: bool) -> Option<Instance> {
    item.table(|t| {
        if may_run && t.has("provider") {
            return run::run(t).map(|run| Instance { endpoints: Vec::new(), run: Some(run) });
        }
        let list =
            t.require("endpoints", "where the instance answers, such as [\"http://127.0.0.1:3000\"]")?;
        if list.is_empty_list() {
            list.fault("is empty; add where the instance answers, such as \"http://127.0.0.1:3000\"");
        }
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for (endpoint, item) in list.list(|item| Some((item.parsed::<Endpoint>()?, item))) {
            if endpoints.contains(&endpoint) {
                item.fault(format!("names {endpoint} twice; drop one"));
            } else if let Some(listener) = listeners.iter().find(|listener| endpoint.leads_to(listener)) {
                item.fault(format!(
                    "has {endpoint}, which leads back to this proxy's own listener {listener}"
                ));
            }
            endpoints.push(endpoint);
        }
        Some(Instance::at(endpoints))
    })
    .flatten()
}

fn upstream(t: &mut Table<'_>) -> Upstream {
    let d = Upstream::default();
    Upstream {
        max_connections: t.number("max_connections", d.max_connections, 1..=MAX_COUNT),
        connect_timeout: t.duration("connect_timeout", d.connect_timeout),
        answer_timeout: t.duration("answer_timeout", d.answer_timeout),
        idle_timeout: t.duration("idle_timeout", d.idle_timeout),
        queue_timeout: t.duration("queue_timeout", d.queue_timeout),
        dns_interval: t.duration("dns_interval", d.dns_interval),
        tls: t.group("tls", upstream_tls),
        health: t.take("health").and_then(|item| item.table(health)),
        eject_after: t.number("eject_after", d.eject_after, 0..=1_000_000),
        eject_for: t.duration("eject_for", d.eject_for),
    }
}

fn upstream_tls(t: &mut Table<'_>) -> UpstreamTls {
    UpstreamTls {
        ca: t.take("ca").and_then(|item| item.file(forms::certificates)),
        server_name: t.take("server_name").and_then(|item| item.text_as(forms::server_name)),
        client: t.take("client").and_then(|item| item.table(certificate)).flatten(),
    }
}

fn health(t: &mut Table<'_>) -> HealthCheck {
    let path = t.require("path", "what to GET, such as \"/healthz\"");
    let d = HealthCheck::at(path.and_then(|item| item.text_as(forms::health_path)).unwrap_or_default());
    HealthCheck {
        interval: t.duration("interval", d.interval),
        timeout: t.duration("timeout", d.timeout),
        healthy_after: t.number("healthy_after", d.healthy_after, 1..=1_000),
        unhealthy_after: t.number("unhealthy_after", d.unhealthy_after, 1..=1_000),
        path: d.path,
    }
}

fn tee(t: &mut Table<'_>) -> Tee {
    let d = Tee::default();
    let above = t.flag("allow_above_5_percent", false);
    Tee {
        percent: t.take("percent").and_then(|item| percent(&item, above)).unwrap_or(d.percent),
        sampling: t.take("sampling").and_then(sampling).unwrap_or(d.sampling),
        max_requests_per_second: t.number(
            "max_requests_per_second",
            d.max_requests_per_second,
            1..=1_000_000,
        ),
        max_bytes_per_second: t.size(
            "max_bytes_per_second",
            d.max_bytes_per_second,
            // The limiter counts a second's bytes in 32 bits.
            ByteSize::kib(1)..=ByteSize::mib(4095),
        ),
        max_concurrency: t.number("max_concurrency", d.max_concurrency, 1..=100_000),
        max_connections: t.number("max_connections", d.max_connections, 1..=100_000),
        max_body_bytes: t.size("max_body_bytes", d.max_body_bytes, ByteSize(0)..=MAX_SIZE),
        max_answer_bytes: t.size("max_answer_bytes", d.max_answer_bytes, ByteSize::kib(1)..=MAX_SIZE),
        connect_timeout: t.duration("connect_timeout", d.connect_timeout),
        deadline: t.duration("deadline", d.deadline),
        breaker_after: t.number("breaker_after", d.breaker_after, 0..=1_000_000),
        breaker_for: t.duration("breaker_for", d.breaker_for),
        trace_sampled: t.flag("trace_sampled", d.trace_sampled),
    }
}

fn percent(item: &Item<'_>, allow_above: bool) -> Option<Percent> {
    let number = item.decimal()?;
    let Some(percent) = Percent::new(number) else {
        item.fault(format!("is {number}; it must be from 0 (off) to 100"));
        return None;
    };
    if number > 0.0 && percent == Percent::ZERO {
        item.fault(format!(
            "is {number}, finer than the smallest step of 0.0001; write 0 to switch the tee off"
        ));
    }
    if number > USUAL_PERCENT && !allow_above {
        item.fault(format!(
            "is {number}; above {USUAL_PERCENT} it needs `allow_above_5_percent = true` beside it"
        ));
    }
    Some(percent)
}

fn sampling(item: Item<'_>) -> Option<Sampling> {
    if !item.is_table() {
        if item.is("request") {
            return Some(Sampling::Request);
        }
        if item.is("address") {
            return Some(Sampling::Session(SessionKey::ClientAddress));
        }
        item.wrong("\"request\", \"address\", { cookie = \"NAME\" } or { header = \"NAME\" }");
        return None;
    }
    item.table(|t| {
        let key = match (t.take("cookie"), t.take("header")) {
            (Some(item), None) => item.text_as(forms::cookie_name).map(SessionKey::Cookie),
            (None, Some(item)) => item.text_as(forms::header_name).map(SessionKey::Header),
            _ => {
                t.fault("needs exactly one of `cookie` and `header`, the key of a session");
                None
            }
        };
        key.map(Sampling::Session)
    })
    .flatten()
}

fn classify(t: &mut Table<'_>) -> Classify {
    let rules = t.take("rules").map(|item| item.list(|item| item.table(rule).flatten()));
    let (jsonrpc_paths, jsonrpc_methods) =
        t.take("jsonrpc").and_then(|item| item.table(jsonrpc)).unwrap_or_default();
    Classify {
        rules: rules.unwrap_or_default(),
        graphql_paths: t.texts("graphql", forms::request_path),
        grpc_methods: t.texts("grpc_methods", forms::grpc_method),
        grpc_descriptor_set: t.take("grpc_descriptor_set").and_then(|item| item.file(forms::any_content)),
        jsonrpc_paths,
        jsonrpc_methods,
        search_paths: t.texts("search", forms::request_path),
        git: t.flag("git", false),
    }
}

fn jsonrpc(t: &mut Table<'_>) -> (Vec<String>, Vec<String>) {
    let paths = t.require("paths", "where JSON-RPC is spoken");
    let methods = t.require("methods", "which methods are reads");
    let texts = |item: Option<Item<'_>>, form: fn(&str) -> Result<String, String>| {
        item.map(|item| item.list(|item| item.text_as(form))).unwrap_or_default()
    };
    (texts(paths, forms::request_path), texts(methods, forms::not_empty))
}

fn rule(t: &mut Table<'_>) -> Option<Rule> {
    let class = t.require("class", "\"read\" or \"write\", what a request that matches counts as");
    let conditions = ["methods", "host", "path", "header", "query"];
    if conditions.into_iter().filter(|key| t.has(key)).count() == 0 {
        t.fault(format!(
            "has no condition and would match every request; set one of {}",
            conditions.join(", ")
        ));
    }
    let class = class.and_then(|item| item.choice(&[("read", RuleClass::Read), ("write", RuleClass::Write)]));
    let rule = Rule {
        methods: t.conditions("methods", forms::method),
        host: t.take("host").and_then(|item| item.text_as(forms::host_pattern)),
        path: t.take("path").and_then(|item| item.text_as(forms::regex)),
        header: t.take("header").and_then(|item| named_match(item, "name", forms::header_name)),
        query: t.take("query").and_then(|item| named_match(item, "key", forms::not_empty)),
        class: class?,
    };
    Some(rule)
}

fn named_match(
    item: Item<'_>,
    key: &'static str,
    form: fn(&str) -> Result<String, String>,
) -> Option<(String, String)> {
    item.table(|t| {
        let name = t.require(key, "what to look at").and_then(|item| item.text_as(form));
        let matches =
            t.require("matches", "a regex on the value").and_then(|item| item.text_as(forms::regex));
        Some((name?, matches?))
    })
    .flatten()
}

fn switchover(t: &mut Table<'_>) -> Switchover {
    let d = Switchover::default();
    Switchover {
        park: t.choice("park", d.park, &[("all", Park::All), ("writes", Park::Writes)]),
        park_timeout: t.duration("park_timeout", d.park_timeout),
        max_parked: t.number("max_parked", d.max_parked, 1..=MAX_COUNT),
        drain_timeout: t.duration("drain_timeout", d.drain_timeout),
        on_drain_deadline: t.choice(
            "on_drain_deadline",
            d.on_drain_deadline,
            &[("abort", DrainPolicy::Abort), ("cut", DrainPolicy::Cut)],
        ),
        release_per_second: t.number("release_per_second", d.release_per_second, 1..=10_000_000),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Each service against each one before it.
    fn pairwise(claims: &[Claim<'_>]) -> Vec<Overlap> {
        fn shared<'a>(a: &'a [String], b: &[String], any: &'a str) -> Option<&'a str> {
            let has = |list: &[String], wanted: &str| {
                list.iter().any(|one| one == wanted) || list.is_empty() && wanted == any
            };
            a.iter().map(String::as_str).chain([any]).find(|one| has(a, one) && has(b, one))
        }
        let both = |a: Claim<'_>, b: Claim<'_>| {
            let host = shared(a.0, b.0, ANY_HOST)?;
            let path = shared(a.1, b.1, ANY_PATH)?;
            Some(format!("{host} and {}", if path == ANY_PATH { "any path" } else { path }))
        };
        let earlier = |second: usize| {
            (0..second)
                .find_map(|first| Some(Overlap { first, second, what: both(claims[first], claims[second])? }))
        };
        (0..claims.len()).filter_map(earlier).collect()
    }

    fn lists(of: &[&'static str]) -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec(prop::sample::select(of.to_vec()).prop_map(str::to_owned), 0..4)
    }

    proptest! {
        #[test]
        fn overlaps_are_those_of_all_pairs(
            services in proptest::collection::vec(
                (lists(&["a", "b", "c", "*.d", "any host"]), lists(&["/", "/x", "/y", "/z", "/x/y"])),
                0..12,
            ),
        ) {
            let claims: Vec<Claim<'_>> =
                services.iter().map(|(hosts, paths)| (hosts.as_slice(), paths.as_slice())).collect();
            prop_assert_eq!(overlaps(&claims), pairwise(&claims));
        }
    }

    #[test]
    fn many_services_are_compared_in_time_that_grows_as_they_do() {
        let seconds = |count: usize| {
            let hosts: Vec<_> = (0..count).map(|n| vec![format!("host-{n}.test")]).collect();
            let paths = vec!["/a".to_owned(), "/b".to_owned()];
            let claims: Vec<Claim<'_>> =
                hosts.iter().map(|hosts| (hosts.as_slice(), paths.as_slice())).collect();
            let started = std::time::Instant::now();
            assert_eq!(overlaps(&claims), []);
            started.elapsed().as_secs_f64()
        };
        // The best of a few: what else the machine does only ever adds. Eight times as many in pairs take 64 times as long.
        let best = |count| (0..5).map(|_| seconds(count)).fold(f64::INFINITY, f64::min);
        let (few, many) = (best(2_500), best(20_000));
        assert!(many < few * 30.0, "2,500 services: {few} s, 20,000 services: {many} s");
    }
}
