//! `[services.NAME.migration]` and `[[services.NAME.checks]]`.

use super::{
    Call, Check, Expect, Hook, HttpProbe, Metrics, Migration, Policy, Probe, Reading, ReadingOf,
    RequestCounter, Warm,
};
use crate::config::reader::{Item, Table};
use crate::config::{Endpoint, Requirement, Window, forms};

pub(in crate::config) fn migration(t: &mut Table<'_>) -> Migration {
    let d = Migration::default();
    Migration {
        policy: t.choice("policy", d.policy, &[("auto", Policy::Auto), ("manual", Policy::Manual)]),
        windows: t.take("windows").map(|item| item.list(|item| item.parsed::<Window>())).unwrap_or_default(),
        deadline: t.duration("deadline", d.deadline),
        watch: t.duration("watch", d.watch),
        grace: t.duration("grace", d.grace),
        min_pairs: t.number("min_pairs", d.min_pairs, 1..=1_000_000),
        on_promote: t.take("on_promote").and_then(hook),
        on_demote: t.take("on_demote").and_then(hook),
        requires: t
            .take("requires")
            .map(|item| item.list(|item| item.parsed::<Requirement>()))
            .unwrap_or_default(),
        version: t.take("version").and_then(reading),
        schema_version: t.take("schema_version").and_then(reading),
        bypass: t.take("bypass").and_then(request_counter),
        warm: t.take("warm").and_then(warm),
    }
}

fn warm(item: Item<'_>) -> Option<Warm> {
    item.table(|t| {
        let requests = t.take("requests");
        if requests.is_none() && !t.has("recent") {
            t.fault("has nothing to ask for; set `requests` (paths to GET), `recent` (how many teed reads), or both");
        }
        let paths = requests.as_ref().map(|item| item.list(|item| item.text_as(forms::health_path)));
        let paths = paths.unwrap_or_default();
        if let Some(item) = requests.filter(|_| paths.len() > Warm::MOST) {
            item.fault(format!("has {} requests; at most {} are sent", paths.len(), Warm::MOST));
        }
        Warm {
            requests: paths,
            recent: t.number("recent", 0, 1..=Warm::MOST),
            per_second: t.number("per_second", Warm::PER_SECOND, 1..=1000),
            concurrency: t.number("concurrency", Warm::CONCURRENCY, 1..=64),
        }
    })
}

fn request_counter(item: Item<'_>) -> Option<RequestCounter> {
    item.table(|t| {
        let metrics = t.require("metrics", "a path of the instance, such as \"/metrics\", or an http:// URL");
        let counter = t.require("counter", "such as \"http_requests_total\"");
        let labels = t.take("labels").and_then(Item::named).unwrap_or_default();
        let labels =
            labels.into_iter().filter_map(|(name, _, item)| Some((name.to_owned(), item.text()?.to_owned())));
        let labels = labels.collect();
        // Both are read before either is missed, so that all that is wrong is said at once.
        let metrics = metrics.and_then(|item| item.text_as(metrics_page));
        let counter = counter.and_then(|item| item.text_as(forms::metric_name));
        Some(RequestCounter { metrics: metrics?, counter: counter?, labels })
    })
    .flatten()
}

fn metrics_page(text: &str) -> Result<Metrics, String> {
    if text.starts_with('/') {
        return forms::health_path(text).map(Metrics::OfInstance);
    }
    let shape = || format!("{text:?} is no page; write a path of the instance or http://HOST:PORT/PATH");
    let (endpoint, path) = url(text).ok_or_else(shape)?;
    Ok(Metrics::At(endpoint.parse::<Endpoint>().map_err(|error| error.to_string())?, path_of(path)?))
}

/// What is before its path, and the path.
fn url(text: &str) -> Option<(&str, &str)> {
    let authority = text.find("://")? + 3;
    let path = text.get(authority..)?.find('/').map_or(text.len(), |at| authority + at);
    text.split_at_checked(path)
}

fn path_of(path: &str) -> Result<String, String> {
    if path.is_empty() { Ok("/".to_owned()) } else { forms::health_path(path) }
}

fn reading(item: Item<'_>) -> Option<Reading> {
    item.table(|t| {
        let timeout = t.duration("timeout", Check::DEFAULT_TIMEOUT);
        let json = t.take("json");
        let of = match (t.take("path"), t.take("command")) {
            (Some(path), None) => {
                let json = json.map(|item| item.text_as(forms::json_pointer));
                // A pointer that is wrong has been complained about.
                path.text_as(forms::health_path).map(|path| ReadingOf::Http { path, json: json.flatten() })
            }
            (None, Some(item)) => {
                if let Some(item) = json {
                    item.fault("belongs to a `path`, and this has a `command`");
                }
                command(&item).map(ReadingOf::Command)
            }
            _ => {
                t.fault("needs exactly one of `path` (what to GET) and `command`");
                None
            }
        };
        Some(Reading { of: of?, timeout })
    })
    .flatten()
}

fn hook(item: Item<'_>) -> Option<Hook> {
    item.table(|t| {
        let timeout = t.duration("timeout", Hook::DEFAULT_TIMEOUT);
        let call = match (t.take("http"), t.take("command")) {
            (Some(item), None) => item.text_as(http_call),
            (None, Some(item)) => command(&item).map(Call::Command),
            _ => {
                t.fault("needs exactly one of `http` (such as \"POST http://HOST:PORT/PATH\") and `command`");
                None
            }
        };
        Some(Hook { call: call?, timeout })
    })
    .flatten()
}

/// `METHOD URL`.
fn http_call(text: &str) -> Result<Call, String> {
    let shape =
        || format!("{text:?} is no method and URL; write them as in \"POST http://127.0.0.1:8000/promoted\"");
    let (method, url) = text.split_once(' ').ok_or_else(shape)?;
    let (endpoint, path) = self::url(url).ok_or_else(shape)?;
    Ok(Call::Http {
        method: forms::method(method)?,
        endpoint: endpoint.parse::<Endpoint>().map_err(|error| error.to_string())?,
        path: path_of(path)?,
    })
}

/// A program and its arguments.
fn command(item: &Item<'_>) -> Option<Vec<String>> {
    let arguments = item.list(|item| item.text_as(forms::argument));
    if item.is_empty_list() || arguments.first().is_some_and(String::is_empty) {
        item.fault("names no program; write [\"PROGRAM\", \"ARGUMENT\", …]");
        return None;
    }
    Some(arguments)
}

pub(in crate::config) fn checks(t: &mut Table<'_>) -> Vec<Check> {
    let Some(item) = t.take("checks") else { return Vec::new() };
    let placed = item.list(|item| {
        let place = item.place();
        item.table(check).flatten().map(|check| (check, place))
    });
    for (n, (check, place)) in placed.iter().enumerate() {
        if placed.iter().take(n).any(|(other, _)| other.name == check.name) {
            t.fault_at(*place, format!("two checks are named {:?}; rename one", check.name));
        }
    }
    placed.into_iter().map(|(check, _)| check).collect()
}

fn check(t: &mut Table<'_>) -> Option<Check> {
    let name = t.require("name", "what the check is called in reports");
    let name = name.and_then(|item| item.text_as(forms::not_empty));
    let timeout = t.duration("timeout", Check::DEFAULT_TIMEOUT);
    let (path, command_line) = (t.take("path"), t.take("command"));
    let of_http = ["method", "headers", "body", "expect"];
    let probe = match (path, command_line) {
        (Some(path), None) => http(t, &path).map(|probe| Probe::Http(Box::new(probe))),
        (None, Some(item)) => {
            for key in of_http {
                if let Some(item) = t.take(key) {
                    item.fault("belongs to a check with `path`, and this one has `command`");
                }
            }
            command(&item).map(Probe::Command)
        }
        _ => {
            for key in of_http {
                t.take(key);
            }
            t.fault("needs exactly one of `path` (what to ask for) and `command`");
            None
        }
    };
    Some(Check { name: name?, probe: probe?, timeout })
}

fn http(t: &mut Table<'_>, path: &Item<'_>) -> Option<HttpProbe> {
    let method = t.take("method").map_or(Some("GET".to_owned()), |item| item.text_as(forms::method));
    let headers = t.take("headers").map(|item| pairs(item, |item| item.text_as(forms::header_value)));
    let body = t.take("body").and_then(|item| item.text().map(str::to_owned));
    let expect = t.group("expect", expect);
    let path = path.text_as(forms::health_path);
    Some(HttpProbe { method: method?, path: path?, headers: headers.unwrap_or_default(), body, expect })
}

fn expect(t: &mut Table<'_>) -> Expect {
    let status = t.take("status");
    if let Some(item) = status.as_ref().filter(|item| item.is_empty_list()) {
        item.fault("is empty and would accept nothing; leave it out to accept any 2xx");
    }
    Expect {
        status: status.map(|item| item.list(|item| item.number(&(200..=599)))).unwrap_or_default(),
        headers: t
            .take("headers")
            .map(|item| pairs(item, |item| item.text_as(forms::regex)))
            .unwrap_or_default(),
        json: t.take("json").map(json).unwrap_or_default(),
        body: t.take("body").and_then(|item| item.text_as(forms::regex)),
        within: t.take("within").and_then(|item| item.duration()),
    }
}

/// A table whose keys are header names.
fn pairs<'t, T>(item: Item<'t>, read: impl Fn(&Item<'t>) -> Option<T>) -> Vec<(String, T)> {
    let mut found = Vec::new();
    for (name, _, item) in item.named().unwrap_or_default() {
        match forms::header_name(name) {
            Ok(name) => found.extend(read(&item).map(|value| (name, value))),
            Err(reason) => item.fault(format!("stands under a bad name: {reason}")),
        }
    }
    found
}

/// A table whose keys are JSON pointers.
fn json(item: Item<'_>) -> Vec<(String, serde_json::Value)> {
    let mut found = Vec::new();
    for (pointer, _, item) in item.named().unwrap_or_default() {
        if forms::json_pointer(pointer).is_ok() {
            found.extend(item.scalar().map(|value| (pointer.to_owned(), value)));
        } else {
            item.fault("stands under no JSON pointer; begin it with \"/\", as in \"/status\"");
        }
    }
    found
}
