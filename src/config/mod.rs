//! What the operator wrote, turned into settings that the rest of the house can trust.
//!
//! [`settings`] holds plain, validated values; nothing outside this folder sees TOML. A file that has
//! faults yields no settings, and all of its faults with their places.

mod address;
mod allocation;
mod document;
#[cfg(test)]
mod examples;
mod fault;
mod forms;
mod migration;
mod reader;
mod reload;
mod requirement;
mod run;
mod service;
pub mod settings;
mod units;
mod window;
mod workload;

pub use address::AddressError;
pub use allocation::{Allocation, AllocationError, LEAST_CPU, Millicores};
pub use document::{load, parse};
pub use fault::{Fault, Faults};
pub use migration::{
    Call, Check, Expect, Hook, HttpProbe, Metrics, Migration, Policy, Probe, Reading, ReadingOf,
    RequestCounter, Warm,
};
pub use reload::{Refusal, refusals};
pub use requirement::{Requirement, RequirementError};
pub use settings::*;
pub use units::{ByteSize, Percent, UnitError, format_duration, parse_duration};
pub use window::{Window, WindowError};
pub use workload::{Docker, Ec2, External, Process, ServiceProtocol, Volume, Workload};

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    const SERVICE: &str = "\n[services.web]\nsource.endpoints = [\"http://127.0.0.1:3000\"]\n";
    const LISTENER: &str = "\n[[listeners]]\naddress = \"0.0.0.0:8080\"\n";

    fn faults(text: &str) -> Vec<String> {
        parse(text, "f")
            .map_or_else(|faults| faults.iter().map(ToString::to_string).collect(), |_| Vec::new())
    }

    /// Each text, completed with what it lacks, has exactly these faults.
    fn expect(completion: &str, cases: &[(&str, &[&str])]) {
        assert_eq!(faults(&format!("{LISTENER}{SERVICE}")), [""; 0], "the completion itself is sound");
        for (text, expected) in cases {
            assert_eq!(faults(&format!("{text}\n{completion}")), *expected, "{text}");
        }
    }

    #[test]
    fn syntax_is_reported_alone_and_once_a_line() {
        expect(
            "nonsense = 1",
            &[
                (
                    "workers = \n[log\nx = = 3",
                    &[
                        "f:1:11: string values must be quoted, expected literal string",
                        "f:2:5: unclosed table, expected `]`",
                        "f:3:5: extra `=`, expected nothing",
                    ],
                ),
                ("workers = 1\nworkers = 2", &["f:2:1: duplicate key"]),
                ("[admin]\nlisten = \"off", &["f:2:14: invalid basic string, expected `\"`"]),
            ],
        );
    }

    #[test]
    fn what_is_missing() {
        expect(
            "",
            &[
                (
                    "",
                    &[
                        "f:1:1: this file needs `listeners`: add [[listeners]] with an `address` where callers connect",
                        "f:1:1: this file needs `services`: add [services.NAME] with a `source`",
                    ],
                ),
                (
                    "listeners = []\nservices = {}",
                    &[
                        "f:1:13: `listeners` is empty; add [[listeners]] with an `address` where callers connect",
                        "f:2:12: `services` is empty; add [services.NAME] with a `source`",
                    ],
                ),
                (
                    "listeners = 3\nservices = 3",
                    &[
                        "f:1:13: `listeners` must be a list, not the number 3",
                        "f:2:12: `services` must be a table, not the number 3",
                    ],
                ),
            ],
        );
    }

    #[test]
    fn bad_values_outside_services() {
        expect(
            &format!("{LISTENER}{SERVICE}"),
            &[
                ("worker = 2", &["f:1:1: unknown key `worker`; did you mean `workers`?"]),
                (
                    "zzz = 2",
                    &[
                        "f:1:1: unknown key `zzz`; known here, nearest first: ec2, log, lane, admin, state, workers, \
                callers, services, listeners, shutdown_grace",
                    ],
                ),
                (
                    "[log]\nformt = \"json\"\nfilter = 7",
                    &[
                        "f:2:1: unknown key `log.formt`; did you mean `format`?",
                        "f:3:10: `log.filter` must be a string, not the number 7",
                    ],
                ),
                ("workers = 0", &["f:1:11: `workers` is 0; it must be from 1 to 1024"]),
                ("workers = -1", &["f:1:11: `workers` is -1; it must be from 1 to 1024"]),
                (
                    "workers = \"two\"",
                    &["f:1:11: `workers` must be a whole number from 1 to 1024, not \"two\""],
                ),
                ("log = 3", &["f:1:7: `log` must be a table, not the number 3"]),
                (
                    "shutdown_grace = 5",
                    &["f:1:18: `shutdown_grace` must be a duration with its unit, such as \"250ms\", \
                \"5s\", \"2m\" or \"1h\", not the number 5"],
                ),
                (
                    "shutdown_grace = \"5\"",
                    &["f:1:18: `shutdown_grace`: \"5\" is not a duration; write a whole number \
                and a unit (ms, s, m or h), such as \"250ms\""],
                ),
                (
                    "shutdown_grace = \"0s\"",
                    &["f:1:18: `shutdown_grace` is \"0s\"; it must be longer than zero and at \
                most 24h"],
                ),
                (
                    "shutdown_grace = \"25h\"",
                    &["f:1:18: `shutdown_grace` is \"25h\"; it must be longer than zero and at \
                most 24h"],
                ),
                (
                    "[admin]\nlisten = \"0.0.0.0:9900\"",
                    &["f:2:10: `admin.listen` is 0.0.0.0:9900, which others can \
                reach; set `admin.token` or `admin.token_file`, or listen on loopback or unix:/PATH"],
                ),
                (
                    "[admin]\nlisten = \":9900\"",
                    &["f:2:10: `admin.listen`: \":9900\" is not an address to listen on; \
                write IP:PORT (0.0.0.0:PORT for all IPv4) or unix:/PATH"],
                ),
                (
                    "[admin]\nlisten = \"127.0.0.1:8080\"",
                    &["f:2:10: `admin.listen` is 127.0.0.1:8080, but a listener \
                already has 0.0.0.0:8080; use another port"],
                ),
                (
                    "[admin]\ntoken = \"${TOKEN}\"",
                    &["f:2:9: `admin.token`: variables are not expanded; put the token \
                into a file and name it in `token_file`"],
                ),
                (
                    "[admin]\ntoken = \"a\"\ntoken_file = \"b\"",
                    &["f:3:14: `admin.token_file` and `admin.token` exclude \
                each other; keep one"],
                ),
                (
                    "[log]\nformat = \"xml\"",
                    &["f:2:10: `log.format` must be \"text\" or \"json\", not \"xml\""],
                ),
                (
                    "[callers]\nmax_header_bytes = 10\nmax_body_bytes = \"1 apple\"",
                    &[
                        "f:2:20: `callers.max_header_bytes` is 10 B; it must be from 1 KiB to 1 MiB",
                        "f:3:18: `callers.max_body_bytes`: \"1 apple\" is not a size; write a whole number and a unit (B, \
                    kB, MB, GB, TB, KiB, MiB, GiB or TiB)",
                    ],
                ),
                ("[state]\nstore = \"\"", &["f:2:9: `state.store` must be a path"]),
                (
                    "[lane]\nmax_bytes = true",
                    &["f:2:13: `lane.max_bytes` must be a size, such as \"64 KiB\", \"1 MB\" or \
                a whole number of bytes, not true"],
                ),
                (
                    "[[listeners]]\ntls = {}",
                    &[
                        "f:1:1: `listeners` needs `address`: where callers connect, such as \"0.0.0.0:8080\"",
                        "f:2:7: `listeners.tls` needs `cert` and `key`, or `certificates` with several of them",
                    ],
                ),
                (
                    "[[listeners]]\naddress = \"0.0.0.0:1\"\ntls = { cert = \"c\" }",
                    &["f:3:7: `listeners.tls` needs `key`: the path of the certificate's PEM private key"],
                ),
                (
                    "[[listeners]]\naddress = \"0.0.0.0:1\"\ntls = { cert = \"c\", key = \"k\", certificates = [] }",
                    &[
                        "f:3:47: `listeners.tls.certificates` excludes `cert` and `key` beside it; put all into the list",
                    ],
                ),
                (
                    "[[listeners]]\naddress = \"0.0.0.0:1\"\ntls = { cert = \"c\", key = \"k\", client_auth = \"required\" }",
                    &[
                        "f:3:46: `listeners.tls.client_auth` needs `client_ca` beside it: the PEM bundle that callers' \
                    certificates are verified against",
                    ],
                ),
                (
                    "[[listeners]]\naddress = \"127.0.0.1:8080\"",
                    &[
                        "f:5:11: `listeners.address` is 0.0.0.0:8080, but a listener above has 127.0.0.1:8080; use another port",
                    ],
                ),
            ],
        );
    }

    #[test]
    fn bad_routes_and_instances() {
        expect(
            LISTENER,
            &[
                (
                    "[services.web]\nhosts = [\"a\"]",
                    &["f:1:1: `services.web` needs `source`: the instance that serves \
                callers, such as { endpoints = [\"http://HOST:PORT\"] }"],
                ),
                (
                    "[services.\"my app\"]\nsource = \"x\"",
                    &[
                        "f:1:11: \"my app\" cannot name a service; use at most 63 letters, digits, \"-\", \"_\" or \".\"",
                        "f:2:10: `services.\"my app\".source` must be a table, not \"x\"",
                    ],
                ),
                (
                    "[services.web]\nsource = { endpoints = [] }\nhosts = []\npaths=[\"api\"]\nshaddow = 3",
                    &[
                        "f:2:24: `services.web.source.endpoints` is empty; add where the instance answers, such as \
                    \"http://127.0.0.1:3000\"",
                        "f:3:9: `services.web.hosts` is empty and would match nothing; leave it out to match any",
                        "f:4:8: `services.web.paths`: \"api\" is not a path; write it as in a request: a leading slash, no query",
                        "f:5:1: unknown key `services.web.shaddow`; did you mean `shadow`?",
                    ],
                ),
                (
                    "[services.web.source]\nendpoints = [\"ftp://a\", \"http://a\", \"http://a:80\", \"http://127.0.0.1:8080\"]",
                    &[
                        "f:2:14: `services.web.source.endpoints`: \"ftp://a\" is not an endpoint; write http://HOST:PORT, \
                    https://HOST:PORT, h2c://HOST:PORT or unix:/PATH",
                        "f:2:37: `services.web.source.endpoints` names http://a:80 twice; drop one",
                        "f:2:52: `services.web.source.endpoints` has http://127.0.0.1:8080, which leads back to this \
                    proxy's own listener 0.0.0.0:8080",
                    ],
                ),
                (
                    "[services.a]\nsource.endpoints = [\"http://a\"]\nhosts = [\"x\", \"y\"]\npaths = [\"/p/\"]\n\
                [services.b]\nsource.endpoints = [\"http://b\"]\nhosts = [\"Y\"]\npaths = [\"/q\", \"/p\"]",
                    &["f:5:11: services `a` and `b` both match y and /p; set different `hosts` or `paths`"],
                ),
                (
                    "[services.b]\nsource.endpoints = [\"http://a\"]\n[services.a]\nsource.endpoints = [\"http://b\"]\n\
                paths = [\"/\"]",
                    &[
                        "f:3:11: services `b` and `a` both match any host and any path; set different `hosts` or `paths`",
                    ],
                ),
                (
                    "[services.a]\nsource.endpoints = [\"http://a\"]\n[services.b]\nsource.endpoints = [\"http://b\"]\n\
                hosts = [\"x:1\"]",
                    &[
                        "f:5:10: `services.b.hosts`: \"x:1\" is not a host; write a name without scheme and port, or *.suffix",
                    ],
                ),
                (
                    "[services.a]\nsource.endpoints = [\"http://a\"]\n[services.b]\nsource.endpoints = [\"http://b\"]\n\
                hosts = [\"x\"]\n[services.c]\nsource.endpoints = [\"http://c\"]\nhosts = [\"x\"]\npaths = [\"/c\"]",
                    &[],
                ),
            ],
        );
    }

    #[test]
    fn bad_sources_that_segue_runs() {
        const ALLOCATION: &str = "allocation = { cpu = 1, memory = \"1 GiB\", storage = \"1 GiB\" }";
        let source = |text: &str| format!("[services.web]\nsource = {{ {text} }}");
        let cases: Vec<(String, &[&str])> = vec![
            (source(&format!("provider = \"process\", command = [\"app\"], {ALLOCATION}")), &[]),
            (source(&format!("provider = \"docker\", image = \"app\", port = 80, {ALLOCATION}")), &[]),
            (
                source("provider = \"process\", command = []"),
                &[
                    "f:2:10: `services.web.source` has an empty `command`; write the program and its arguments",
                    "f:2:10: `services.web.source` needs `allocation`: what it is granted, such as { cpu = 2, memory = \
                \"1 GiB\", storage = \"10 GiB\" }",
                ],
            ),
            (
                source(&format!("provider = \"process\", command = [\"app\"], egress = [], {ALLOCATION}")),
                &[
                    "f:2:10: `services.web.source` has `egress`, which is for shadows only; add `keep_egress = true` to \
                have it restricted for life",
                ],
            ),
            (
                source(&format!(
                    "provider = \"process\", command = [\"app\"], keep_egress = true, {ALLOCATION}"
                )),
                &[
                    "f:2:10: `services.web.source` has `keep_egress`, and no `egress` that it could keep; add `egress = \
                []`",
                ],
            ),
            (
                source(&format!(
                    "provider = \"docker\", image = \"a\", port = 80, network = \"n\", keep_egress = true, {ALLOCATION}"
                )),
                &[
                    "f:2:10: `services.web.source` has both `network` and `keep_egress`; what is on a network reaches \
                what that leads to, so drop one",
                ],
            ),
            (
                source(&format!("provider = \"podman\", {ALLOCATION}")),
                &[
                    "f:2:23: `services.web.source.provider` must be \"process\" or \"docker\" or \"ec2\", not \"podman\"",
                ],
            ),
            (
                source(
                    "provider = \"docker\", image = \"a\", port = 0, allocation = { cpu = 0, memory = 1, storage = 1 }",
                ),
                &[
                    "f:2:53: `services.web.source.port` is 0; it must be from 1 to 65535",
                    "f:2:77: `services.web.source.allocation.cpu` is 0; it must be from 0.01 to 4096 cores",
                    "f:2:89: `services.web.source.allocation.memory` is 1 B; it must be from 1 MiB to 1 TiB",
                ],
            ),
            (
                format!(
                    "{}\nshadow = {{ provider = \"process\" }}",
                    source(&format!("provider = \"process\", command = [\"app\"], {ALLOCATION}"))
                ),
                &[
                    "f:3:10: `services.web.shadow` needs `endpoints`: where the instance answers, such as \
                [\"http://127.0.0.1:3000\"]",
                    "f:3:12: unknown key `services.web.shadow.provider`; known here, nearest first: endpoints",
                ],
            ),
        ];
        let cases: Vec<_> = cases.iter().map(|(text, faults)| (text.as_str(), *faults)).collect();
        expect(LISTENER, &cases);
    }

    #[test]
    fn bad_settings_of_ec2() {
        const WITHOUT: &str = "needs a Segue that was built with it; build one with `cargo build --release \
                               --features ec2`";
        let text = format!(
            "[ec2]\nregion = \"\"\nendpoint_url = \"h2c://a\"\n[services.web]\nsource = {{ provider = \"ec2\", types = [], \
             subnet = \"s\", security_groups = [\"\"], port = 80, allocation = {{ cpu = 1, memory = \"1 GiB\", \
             storage = \"1 GiB\" }} }}\n{LISTENER}"
        );
        let mut expected = vec![
            "f:2:10: `ec2.region`: must not be empty",
            "f:3:16: `ec2.endpoint_url`: \"h2c://a\" is no URL of an API; write https://HOST",
            "f:5:10: `services.web.source` needs `image`: the id of an AMI",
            "f:5:38: `services.web.source.types` is empty; name the instance types that may be used, such as \
             [\"t3.small\", \"t3.large\"]",
            "f:5:75: `services.web.source.security_groups`: must not be empty",
        ];
        let (section, provider) =
            (format!("f:1:1: `ec2` {WITHOUT}"), format!("f:5:23: `services.web.source.provider` {WITHOUT}"));
        if !cfg!(feature = "ec2") {
            expected.insert(0, &section);
            expected.insert(4, &provider);
        }
        assert_eq!(faults(&text), expected);
    }

    #[test]
    fn bad_values_in_services() {
        const BEFORE: &str = "[services.a]\nsource.endpoints = [\"http://a\"]\n";
        let cases: &[(&str, &[&str])] = &[
            ("tee = { percent = 5.0 }", &[]),
            ("tee = { percent = 12, allow_above_5_percent = true }", &[]),
            (
                "tee = { percent = 5.1 }",
                &["f:3:19: `services.a.tee.percent` is 5.1; above 5 it needs \
                `allow_above_5_percent = true` beside it"],
            ),
            (
                "tee = { percent = 101, allow_above_5_percent = true }",
                &["f:3:19: `services.a.tee.percent` is 101; it must be from 0 (off) to 100"],
            ),
            (
                "tee = { percent = nan }",
                &["f:3:19: `services.a.tee.percent` is NaN; it must be from 0 (off) to 100"],
            ),
            (
                "tee = { percent = 0.00001, sampling = \"user\", deadline = \"0s\" }",
                &[
                    "f:3:19: `services.a.tee.percent` is 0.00001, finer than the smallest step of 0.0001; write 0 to switch \
                    the tee off",
                    "f:3:39: `services.a.tee.sampling` must be \"request\", \"address\", { cookie = \"NAME\" } or { header = \
                    \"NAME\" }, not \"user\"",
                    "f:3:58: `services.a.tee.deadline` is \"0s\"; it must be longer than zero and at most 24h",
                ],
            ),
            (
                "tee = { percent = \"2 %\", sampling = { cookie = \"a\", header = \"b\" } }",
                &[
                    "f:3:19: `services.a.tee.percent` must be a number, not \"2 %\"",
                    "f:3:37: `services.a.tee.sampling` needs exactly one of `cookie` and `header`, the key of a session",
                ],
            ),
            (
                "upstream.tls = { client = { cert = \"c\" }, server_name = \"-\" }",
                &[
                    "f:3:27: `services.a.upstream.tls.client` needs `key`: the path of the certificate's PEM private key",
                    "f:3:57: `services.a.upstream.tls.server_name`: \"-\" is not a server name; write a DNS name or an IP \
                    address",
                ],
            ),
            (
                "upstream.health = { path = \"x\", interval = \"1d\" }",
                &[
                    "f:3:28: `services.a.upstream.health.path`: \"x\" is not a path; write it as in a request, with a \
                    leading slash",
                    "f:3:44: `services.a.upstream.health.interval`: \"1d\" is not a duration; write a whole number and a \
                    unit (ms, s, m or h), such as \"250ms\"",
                ],
            ),
            (
                "classify.rules = [{ class = \"reed\", path = \"a(\" }, { class = \"read\" }, { methods = [\"get\"] }]",
                &[
                    "f:3:29: `services.a.classify.rules.class` must be \"read\" or \"write\", not \"reed\"",
                    "f:3:44: `services.a.classify.rules.path`: \"a(\" is not a regex: unclosed group",
                    "f:3:52: `services.a.classify.rules` has no condition and would match every request; set one of \
                    methods, host, path, header, query",
                    "f:3:72: `services.a.classify.rules` needs `class`: \"read\" or \"write\", what a request that matches \
                    counts as",
                    "f:3:85: `services.a.classify.rules.methods`: \"get\" is not a method; write it in capitals, such as \
                    \"GET\"",
                ],
            ),
            (
                "classify.rules = [{ class = \"read\", header = { name = \"a b\" }, query = { key = \"\", matches = \"\" } }]",
                &[
                    "f:3:46: `services.a.classify.rules.header` needs `matches`: a regex on the value",
                    "f:3:55: `services.a.classify.rules.header.name`: \"a b\" is not a header name",
                    "f:3:80: `services.a.classify.rules.query.key`: must not be empty",
                ],
            ),
            (
                "classify = { graphql = [\"graphql\"], grpc_methods = [\"/a.B/C\"], jsonrpc = { paths = [\"/rpc\"] }, git = 1 }",
                &[
                    "f:3:25: `services.a.classify.graphql`: \"graphql\" is not a path; write it as in a request: a leading \
                    slash, no query",
                    "f:3:53: `services.a.classify.grpc_methods`: \"/a.B/C\" is not a gRPC method; write \
                    package.Service/Method",
                    "f:3:74: `services.a.classify.jsonrpc` needs `methods`: which methods are reads",
                    "f:3:102: `services.a.classify.git` must be true or false, not the number 1",
                ],
            ),
            (
                "classify.rules = [{ class = \"read\", path = \"a{9999}{9999}\" }]",
                &[
                    "f:3:44: `services.a.classify.rules.path`: \"a{9999}{9999}\" is too large a regex; make it simpler",
                ],
            ),
            (
                "switchover = { park = \"none\", max_parked = 0 }",
                &[
                    "f:3:23: `services.a.switchover.park` must be \"all\" or \"writes\", not \"none\"",
                    "f:3:44: `services.a.switchover.max_parked` is 0; it must be from 1 to 10000000",
                ],
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(faults(&format!("{BEFORE}{text}\n{LISTENER}")), *expected, "{text}");
        }
    }

    #[test]
    fn named_files_are_opened_on_load_and_their_faults_placed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let signed = rcgen::generate_simple_self_signed(vec!["a.example".into()]).unwrap();
        fs::write(at("a.pem"), signed.cert.pem()).unwrap();
        fs::write(at("a.key"), signed.signing_key.serialize_pem()).unwrap();
        fs::write(at("token"), "s3cret\n").unwrap();
        fs::write(at("two"), "two words").unwrap();
        let file = |tls: &str, token: &str| {
            let text = format!(
                "admin.token_file = \"{token}\"\nlisteners = [{{ address = \"0.0.0.0:443\", tls = {{ {tls} }} }}]{SERVICE}"
            );
            fs::write(at("segue.toml"), text).unwrap();
            load(&folder.path().join("segue.toml"))
        };

        let settings = file("cert = \"a.pem\", key = \"a.key\"", "token").unwrap();
        assert_eq!(settings.admin.token.as_deref(), Some("s3cret"));
        let tls = settings.listeners[0].tls.as_ref().unwrap();
        assert_eq!(tls.certificates[0].cert, PathBuf::from(at("a.pem")), "relative to the file's folder");
        assert!(!format!("{settings:?}").contains("s3cret"), "a token is not for logs");

        let faults = file("cert = \"a.key\", key = \"none.key\"", "two").unwrap_err().to_string();
        let expected = [
            format!(
                "1:20: `admin.token_file` names {}, which holds no token: a token is visible ASCII characters \
                without spaces, at least one",
                at("two")
            ),
            format!("2:56: `listeners.tls.cert` names {}, which holds no PEM certificate", at("a.key")),
            format!(
                "2:71: `listeners.tls.key` names {}, which cannot be read: No such file or directory (os error 2)",
                at("none.key")
            ),
        ];
        assert_eq!(faults, expected.map(|line| format!("{}:{line}", at("segue.toml"))).join("\n"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_a_fault_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segue.toml");
        let fault =
            |path: &Path| load(path).unwrap_err().to_string().replace(&path.display().to_string(), "f");
        assert_eq!(fault(&path), "f:1:1: cannot be read: No such file or directory (os error 2)");
        fs::write(&path, b"a = 1\nb = \"\xff\"").unwrap();
        assert_eq!(fault(&path), "f:2:6: is not UTF-8 from here on; save the file as UTF-8");
    }
}
