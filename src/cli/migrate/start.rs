//! `segue migrate start`: what is asked for on the command line becomes a request.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use super::page::{allocation, columns};
use super::watch::{self, Show};
use super::{Result, text, with};
use crate::cli::admin_client::{ApiArgs, Client};
use crate::cli::refused;
use crate::config::parse_duration;

/// An instance may take two minutes to come up, and its engine some time before and after.
const DRY_RUN_PATIENCE: Duration = Duration::from_mins(5);

#[derive(Args, Debug)]
pub struct StartArgs {
    /// The service to move
    #[arg(value_name = "SERVICE")]
    service: String,
    /// What runs the new instance, and how, as JSON or TOML; without it the shadow of the settings is where it goes
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// The same on the command line, as JSON; it has `provider` and what that needs
    #[arg(long, value_name = "JSON", conflicts_with = "to")]
    to_json: Option<String>,
    /// Who decides that it switches once it is ready: its gates, or somebody who approves
    #[arg(long, value_name = "POLICY", value_parser = ["auto", "manual"])]
    policy: Option<String>,
    /// How long the new instance's answers are watched before the source is retired, such as 60s
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    watch: Option<Duration>,
    /// How long the source is left in peace after that
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    grace: Option<Duration>,
    /// By then it is switched over, or undone
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    deadline: Option<Duration>,
    /// Pairs without which nothing is judged
    #[arg(long, value_name = "N")]
    min_pairs: Option<u64>,
    /// Start the new instance, look at it, destroy it, and say whether it could run here; exit 1 if it could not.
    /// With =static nothing is started
    #[arg(long, value_name = "DEPTH", value_parser = ["full", "static"], num_args = 0..=1, require_equals = true,
        default_missing_value = "full")]
    dry_run: Option<String>,
    /// Follow it to its end; exit 0 only if it is done
    #[arg(long, conflicts_with = "dry_run")]
    follow: bool,
    /// Print the API's JSON; with --follow the migration as it ended
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: ApiArgs,
}

pub(super) fn run(args: &StartArgs) -> ExitCode {
    let request = match request(args) {
        Ok(request) => request,
        Err(reason) => return refused(&format!("segue: {reason}")),
    };
    with(&args.api, |client| match &args.dry_run {
        Some(_) => try_it(client, args, &request),
        None => begin(client, args, &request),
    })
}

fn begin(client: &Client, args: &StartArgs, request: &Value) -> Result {
    let view = client.post("/v1/migrations", request)?;
    let id = view["id"].as_u64().unwrap_or_default();
    let begun = format!("migration {id} of {} has begun, to {}", args.service, text(&view, "instance"));
    match (args.follow, args.json) {
        (true, true) => return watch::follow(client, id, Show::Outcome),
        (true, false) => {
            eprintln!("{begun}");
            return watch::follow(client, id, Show::for_stdout());
        }
        (false, true) => println!("{view}"),
        (false, false) => println!("{begun}; `segue migrate watch {id}` follows it"),
    }
    Ok(ExitCode::SUCCESS)
}

fn try_it(client: &Client, args: &StartArgs, request: &Value) -> Result {
    if args.dry_run.as_deref() != Some("static") && std::io::stderr().is_terminal() {
        eprintln!("starting the new instance to look at it; it is destroyed again");
    }
    let report = client.post_within(DRY_RUN_PATIENCE, "/v1/migrations", request)?;
    if args.json {
        println!("{report}");
    } else {
        print!("{}", table(&report));
    }
    Ok(if report["compatible"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The compatibility report.
fn table(report: &Value) -> String {
    let findings = report["report"].as_array().into_iter().flatten();
    let rows = findings.map(|of| {
        let message = text(of, "message").replace('\n', " ");
        vec![text(of, "gravity").to_uppercase().replace('_', " "), text(of, "subject"), message]
    });
    let mut table = columns(&rows.collect::<Vec<_>>());
    for (key, what) in [("starts_with", "starts with"), ("serves_with", "serves with")] {
        if let Some(granted) = allocation(&report[key]) {
            let _ = writeln!(table, "{what} {granted}");
        }
    }
    let verdict = if report["compatible"] == true { "could" } else { "cannot" };
    let what = if report["started"] == true { "; it was started and destroyed again, and" } else { ";" };
    table + &format!("the new instance {verdict} run here{what} nothing was changed\n")
}

fn request(args: &StartArgs) -> std::result::Result<Value, String> {
    let to = match (&args.to, &args.to_json) {
        (Some(file), _) => Some(read(file).map_err(|error| format!("--to {}: {error}", file.display()))?),
        (_, Some(text)) => {
            Some(object(serde_json::from_str(text)).map_err(|error| format!("--to-json: {error}"))?)
        }
        (None, None) => None,
    };
    let millis = |of: Option<Duration>| of.map(|of| json!(u64::try_from(of.as_millis()).unwrap_or(u64::MAX)));
    let asked = [
        ("service", Some(json!(args.service))),
        ("to", to),
        ("policy", args.policy.as_ref().map(|policy| json!(policy))),
        ("watch_ms", millis(args.watch)),
        ("grace_ms", millis(args.grace)),
        ("deadline_ms", millis(args.deadline)),
        ("min_pairs", args.min_pairs.map(|pairs| json!(pairs))),
        (
            "dry_run",
            args.dry_run.as_ref().map(|depth| if depth == "full" { json!(true) } else { json!(depth) }),
        ),
    ];
    let given = asked.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Ok(Value::Object(given.collect::<Map<_, _>>()))
}

fn read(file: &Path) -> std::result::Result<Value, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("json") => object(serde_json::from_str(&text)),
        Some("toml") => object(toml::from_str(&text)),
        _ => Err("write it as JSON or TOML, and end its name in .json or .toml".to_owned()),
    }
}

/// Which keys there are, Segue knows.
fn object<E: std::fmt::Display>(parsed: std::result::Result<Value, E>) -> std::result::Result<Value, String> {
    match parsed {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("it has to be an object, such as {\"provider\": \"external\", …}".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: StartArgs,
    }

    fn asked(line: &[&str]) -> std::result::Result<Value, String> {
        let line = Line::try_parse_from(std::iter::once("start").chain(line.iter().copied()));
        request(&line.map_err(|error| error.to_string())?.args)
    }

    #[test]
    fn what_is_given_is_asked_for_and_nothing_else() {
        assert_eq!(asked(&["web"]), Ok(json!({ "service": "web" })));
        let line = "web --policy manual --watch 60s --grace 500ms --deadline 1h --min-pairs 5 --dry-run";
        let expected = json!({
            "service": "web", "policy": "manual", "watch_ms": 60_000, "grace_ms": 500, "deadline_ms": 3_600_000,
            "min_pairs": 5, "dry_run": true,
        });
        assert_eq!(asked(&line.split(' ').collect::<Vec<_>>()), Ok(expected));
        let only_looked_at = json!({ "service": "web", "dry_run": "static" });
        assert_eq!(asked(&["web", "--dry-run=static"]), Ok(only_looked_at));
        for wrong in [
            "web --policy maybe",
            "web --watch 60",
            "web --min-pairs -1",
            "",
            "web --dry-run --follow",
            "web --dry-run=some",
        ] {
            assert!(asked(&wrong.split_whitespace().collect::<Vec<_>>()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_destination_is_the_same_in_toml_in_json_and_on_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let json = r#"{"provider":"process","command":["app"],"allocation":{"cpu":0.5,"memory":"64 MiB"}}"#;
        let toml = file(
            "to.toml",
            "provider = \"process\"\ncommand = [\"app\"]\nallocation = { cpu = 0.5, memory = \"64 MiB\" }\n",
        );
        let on_the_line = asked(&["web", "--to-json", json]);
        assert_eq!(on_the_line.as_ref().unwrap()["to"]["allocation"]["cpu"], 0.5);
        assert_eq!(asked(&["web", "--to", &file("to.json", json)]), on_the_line);
        assert_eq!(asked(&["web", "--to", &toml]), on_the_line);
        for (line, says) in [
            (["web", "--to", &file("to.yaml", "a: b")], "end its name in"),
            (["web", "--to", &file("list.json", "[]")], "has to be an object"),
            (["web", "--to", &file("torn.toml", "provider = ")], "TOML"),
            (["web", "--to", "/nowhere/to.json"], "No such file"),
            (["web", "--to-json", "{"], "--to-json: EOF"),
        ] {
            let refused = asked(&line).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
    }

    #[test]
    fn a_report_says_what_is_wrong_in_columns() {
        let report = json!({
            "compatible": false,
            "report": [
                { "gravity": "fine", "subject": "memory", "message": "512 MiB are free" },
                { "gravity": "fault", "subject": "architecture", "message": "the image is for arm64" },
                { "gravity": "not_known", "subject": "schema", "message": "not configured" },
            ],
            "starts_with": { "cpu": "500m", "memory": "256MiB", "storage": "1GiB" },
        });
        assert_eq!(
            table(&report),
            "FINE       memory        512 MiB are free\n\
             FAULT      architecture  the image is for arm64\n\
             NOT KNOWN  schema        not configured\n\
             starts with 500m CPU, 256MiB memory, 1GiB storage\n\
             the new instance cannot run here; nothing was changed\n"
        );
    }
}
