use super::*;
use crate::config::parse;

const SERVICE: &str = "\n[services.web]\nsource.endpoints = [\"http://127.0.0.1:3000\"]\n";
const LISTENER: &str = "\n[[listeners]]\naddress = \"0.0.0.0:8080\"\n";

fn faults(text: &str) -> Vec<String> {
    parse(text, "f").map_or_else(|faults| faults.iter().map(ToString::to_string).collect(), |_| Vec::new())
}

#[test]
fn bad_values_in_migrations_and_checks() {
    const BEFORE: &str = "[services.a]\nsource.endpoints = [\"http://a\"]\n";
    let cases: &[(&str, &[&str])] = &[
        (
            "migration = { policy = \"yes\", windows = [\"daily 25:00-26:00\"], deadline = \"3d\", min_pairs = 0 }",
            &[
                "f:3:24: `services.a.migration.policy` must be \"auto\" or \"manual\", not \"yes\"",
                "f:3:42: `services.a.migration.windows`: \"25:00\" is not a time; write HH:MM from 00:00 to 23:59 (a \
                window may end at 24:00)",
                "f:3:75: `services.a.migration.deadline`: \"3d\" is not a duration; write a whole number and a unit \
                (ms, s, m or h), such as \"250ms\"",
                "f:3:93: `services.a.migration.min_pairs` is 0; it must be from 1 to 1000000",
            ],
        ),
        (
            "migration = { on_promote = { http = \"http://a/p\" }, on_demote = { http = \"POST a/p\" } }",
            &[
                "f:3:37: `services.a.migration.on_promote.http`: \"http://a/p\" is no method and URL; write them as in \
                \"POST http://127.0.0.1:8000/promoted\"",
                "f:3:74: `services.a.migration.on_demote.http`: \"POST a/p\" is no method and URL; write them as in \
                \"POST http://127.0.0.1:8000/promoted\"",
            ],
        ),
        (
            "migration = { on_promote = { http = \"POST http://a:x/p\" }, on_demote = { command = [] } }",
            &[
                "f:3:37: `services.a.migration.on_promote.http`: \"http://a:x\" has no valid port; use 1 to 65535",
                "f:3:84: `services.a.migration.on_demote.command` names no program; write [\"PROGRAM\", \"ARGUMENT\", …]",
            ],
        ),
        (
            "migration.on_promote = { timeout = \"1s\" }",
            &["f:3:24: `services.a.migration.on_promote` needs exactly one of `http` (such as \"POST \
                http://HOST:PORT/PATH\") and `command`"],
        ),
        (
            "migration.on_promote = { command = [\"a\"], timeout = \"3s\" }\nswitchover.park_timeout = \"3s\"",
            &[
                "f:1:1: `services.a` has hooks that may take 3s together, and `switchover.park_timeout` is 3s, so no \
                switchover would be begun; give the hooks a shorter `timeout`, or raise it",
            ],
        ),
        (
            "migration = { requires = [\"db:5432\", \"pg://u:secret@db:1\"], version = { path = \"v\", json = \"a\" }, \
            schema_version = { command = [\"v\"], json = \"/a\" } }",
            &[
                "f:3:27: `services.a.migration.requires`: \"db:5432\" is nothing that can be looked for; write \
                SCHEME://HOST:PORT, such as \"postgres://10.0.0.5:5432\", or an absolute path",
                "f:3:38: `services.a.migration.requires`: an endpoint of `requires` is host and port only; drop user, \
                password and whatever follows the port",
                "f:3:80: `services.a.migration.version.path`: \"v\" is not a path; write it as in a request, with a \
                leading slash",
                "f:3:92: `services.a.migration.version.json`: \"a\" is no JSON pointer; begin it with \"/\", as in \
                \"/version\"",
                "f:3:142: `services.a.migration.schema_version.json` belongs to a `path`, and this has a `command`",
            ],
        ),
        (
            "migration.bypass = { metrics = \"metrics\", counter = \"a{b}\" }",
            &[
                "f:3:32: `services.a.migration.bypass.metrics`: \"metrics\" is no page; write a path of the instance or \
                http://HOST:PORT/PATH",
                "f:3:53: `services.a.migration.bypass.counter`: \"a{b}\" is not the name of a metric; write it as it \
                stands on the page, without its labels",
            ],
        ),
        (
            "migration.warm = { per_second = 0, concurrency = 65 }",
            &[
                "f:3:18: `services.a.migration.warm` has nothing to ask for; set `requests` (paths to GET), `recent` (how \
                many teed reads), or both",
                "f:3:33: `services.a.migration.warm.per_second` is 0; it must be from 1 to 1000",
                "f:3:50: `services.a.migration.warm.concurrency` is 65; it must be from 1 to 64",
            ],
        ),
        (
            "migration.warm = { requests = [\"a\"], recent = 0 }",
            &[
                "f:3:32: `services.a.migration.warm.requests`: \"a\" is not a path; write it as in a request, with a \
                leading slash",
                "f:3:47: `services.a.migration.warm.recent` is 0; it must be from 1 to 1000",
            ],
        ),
        (
            "migration.bypass = { labels = { a = 1 } }",
            &[
                "f:3:20: `services.a.migration.bypass` needs `counter`: such as \"http_requests_total\"",
                "f:3:20: `services.a.migration.bypass` needs `metrics`: a path of the instance, such as \"/metrics\", \
                or an http:// URL",
                "f:3:37: `services.a.migration.bypass.labels.a` must be a string, not the number 1",
            ],
        ),
        (
            "migration.version = { path = \"/v\", command = [\"v\"] }\nmigration.schema_version = {}",
            &[
                "f:3:21: `services.a.migration.version` needs exactly one of `path` (what to GET) and `command`",
                "f:4:28: `services.a.migration.schema_version` needs exactly one of `path` (what to GET) and `command`",
            ],
        ),
        (
            "checks = [{ path = \"/\" }, { name = \"a\" }, { name = \"b\", path = \"/\", command = [\"c\"] }]",
            &[
                "f:3:11: `services.a.checks` needs `name`: what the check is called in reports",
                "f:3:27: `services.a.checks` needs exactly one of `path` (what to ask for) and `command`",
                "f:3:43: `services.a.checks` needs exactly one of `path` (what to ask for) and `command`",
            ],
        ),
        (
            "checks = [{ name = \"a\", path = \"/\" }, { name = \"a\", command = [\"\"] }, { name = \"a\", command = \
            [\"c\"], expect = {} }]",
            &[
                "f:3:63: `services.a.checks.command` names no program; write [\"PROGRAM\", \"ARGUMENT\", …]",
                "f:3:71: two checks are named \"a\"; rename one",
                "f:3:111: `services.a.checks.expect` belongs to a check with `path`, and this one has `command`",
            ],
        ),
        (
            "checks = [{ name = \"a\", path = \"x\", method = \"get\", headers = { \"a b\" = \"\", c = \"\\u0001\" } }]",
            &[
                "f:3:32: `services.a.checks.path`: \"x\" is not a path; write it as in a request, with a leading slash",
                "f:3:46: `services.a.checks.method`: \"get\" is not a method; write it in capitals, such as \"GET\"",
                "f:3:73: `services.a.checks.headers.\"a b\"` stands under a bad name: \"a b\" is not a header name",
                "f:3:81: `services.a.checks.headers.c`: \"\\u{1}\" is not a header's value",
            ],
        ),
        (
            "checks = [{ name = \"a\", path = \"/\", expect = { status = [99], headers = { a = \"(\" }, json = { b = 1, \
            \"/c\" = [] }, body = \"(\", within = \"0s\", latency = 1 } }]",
            &[
                "f:3:58: `services.a.checks.expect.status` is 99; it must be from 200 to 599",
                "f:3:79: `services.a.checks.expect.headers.a`: \"(\" is not a regex: unclosed group",
                "f:3:99: `services.a.checks.expect.json.b` stands under no JSON pointer; begin it with \"/\", as in \
                \"/status\"",
                "f:3:109: `services.a.checks.expect.json.\"/c\"` must be a string, a number, true or false, not a list",
                "f:3:122: `services.a.checks.expect.body`: \"(\" is not a regex: unclosed group",
                "f:3:136: `services.a.checks.expect.within` is \"0s\"; it must be longer than zero and at most 24h",
                "f:3:142: unknown key `services.a.checks.expect.latency`; known here, nearest first: status, \
                headers, json, body, within",
            ],
        ),
        (
            "checks = [{ name = \"a\", path = \"/\", expect.status = [] }]",
            &[
                "f:3:53: `services.a.checks.expect.status` is empty and would accept nothing; leave it out to accept any 2xx",
            ],
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(faults(&format!("{BEFORE}{text}\n{LISTENER}")), *expected, "{text}");
    }
}

#[test]
fn migrations_and_checks_are_read_as_they_are_written() {
    let text = format!(
        r#"{LISTENER}{SERVICE}
        [services.web.migration]
        policy = "manual"
        windows = ["Mon-Fri 02:00-04:30"]
        on_promote = {{ http = "PUT https://hub.test/a/b?c" }}
        on_demote = {{ command = ["demote", ""], timeout = "100ms" }}
        bypass = {{ metrics = "http://127.0.0.1:9100", counter = "a:requests_total", labels = {{ code = "200" }} }}
        warm = {{ requests = ["/", "/stock?of=all"], recent = 200 }}
        requires = ["amqp://Broker:5672", "/srv/app"]
        version = {{ path = "/info?x", json = "/build/version", timeout = "1s" }}
        schema_version = {{ command = ["schema", "--of", "web"] }}
        [[services.web.checks]]
        name = "stock"
        path = "/stock?all"
        headers = {{ X-Probe = "1" }}
        expect = {{ status = [200, 404], json = {{ "/a" = "ok", "/b" = 1.5, "/c" = -3, "/d" = false }} }}
        [[services.web.checks]]
        name = "rows"
        command = ["rows"]
        "#
    );
    let service = parse(&text, "f").unwrap().services["web"].clone();
    let promote = service.migration.on_promote.unwrap();
    let endpoint = "https://hub.test:443".parse().unwrap();
    assert_eq!(promote.call, Call::Http { method: "PUT".into(), endpoint, path: "/a/b?c".into() });
    let demote = service.migration.on_demote.unwrap();
    assert_eq!(demote.call, Call::Command(vec!["demote".into(), String::new()]));
    assert_eq!(service.migration.policy, Policy::Manual);
    let requires: Vec<_> = service.migration.requires.iter().map(ToString::to_string).collect();
    assert_eq!(requires, ["amqp://broker:5672", "/srv/app"]);
    let of = ReadingOf::Http { path: "/info?x".into(), json: Some("/build/version".into()) };
    assert_eq!(service.migration.version, Some(Reading { of, timeout: Duration::from_secs(1) }));
    let warm = service.migration.warm.unwrap();
    assert_eq!((warm.requests, warm.recent), (vec!["/".to_owned(), "/stock?of=all".to_owned()], 200));
    assert_eq!((warm.per_second, warm.concurrency), (Warm::PER_SECOND, Warm::CONCURRENCY));
    let bypass = service.migration.bypass.unwrap();
    let page = Metrics::At("http://127.0.0.1:9100".parse().unwrap(), "/".to_owned());
    assert_eq!((bypass.metrics, bypass.counter.as_str()), (page, "a:requests_total"));
    assert_eq!(bypass.labels, [("code".to_owned(), "200".to_owned())]);
    let schema = service.migration.schema_version.unwrap();
    assert_eq!(schema.of, ReadingOf::Command(["schema", "--of", "web"].map(str::to_owned).to_vec()));
    assert_eq!(schema.timeout, Check::DEFAULT_TIMEOUT);
    assert_eq!(service.migration.windows[0].to_string(), "Mon,Tue,Wed,Thu,Fri 02:00-04:30");
    let Probe::Http(stock) = &service.checks[0].probe else { panic!("{:?}", service.checks) };
    assert_eq!(stock.headers, [("x-probe".to_owned(), "1".to_owned())]);
    let json: Vec<_> = stock.expect.json.iter().map(|(at, value)| (at.as_str(), value.to_string())).collect();
    let value = |at, text: &str| (at, text.to_owned());
    assert_eq!(json, [value("/a", "\"ok\""), value("/b", "1.5"), value("/c", "-3"), value("/d", "false")]);
    assert_eq!(service.checks[1].probe, Probe::Command(vec!["rows".into()]));
}
