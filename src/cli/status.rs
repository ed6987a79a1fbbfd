//! `segue status`: asks a running Segue over its admin API.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::admin_client::ApiArgs;
use super::failed;

#[derive(Args, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    api: ApiArgs,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    /// Print nothing; exit 0 if callers may be sent here, else 1
    #[arg(long, conflicts_with = "json")]
    ready: bool,
}

/// Exit 1 when Segue does not answer.
pub fn run(args: &StatusArgs) -> ExitCode {
    let client = match args.api.client() {
        Ok(client) => client,
        Err(code) => return code,
    };
    let body = match client.get_text(if args.ready { "/readyz" } else { "/v1/status" }) {
        Ok(body) => body,
        Err(error) => return failed(&error),
    };
    if args.ready {
        return ExitCode::SUCCESS;
    }
    if args.json {
        println!("{body}");
        return ExitCode::SUCCESS;
    }
    match serde_json::from_str(&body) {
        Ok(status) => print!("{}", page(&status)),
        Err(error) => return failed(&format!("the admin API's answer is no JSON: {error}")),
    }
    ExitCode::SUCCESS
}

fn page(status: &Value) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let mut page = format!(
        "up {} s, {} connections ({} resting){}\n",
        number(&status["uptime_s"]),
        number(&status["connections"]),
        number(&status["resting"]),
        if status["tees_stopped"] == true { ", all tees stopped" } else { "" }
    );
    for service in status["services"].as_array().into_iter().flatten() {
        let tee = &service["tee"];
        let effective = tee["effective_percent"].as_f64();
        let _ = writeln!(
            page,
            "{}: {} is active (generation {}, gate {}), {} in flight, {} parked",
            service["name"].as_str().unwrap_or("?"),
            service["active"].as_str().unwrap_or("?"),
            number(&service["generation"]),
            service["gate"].as_str().unwrap_or("?"),
            number(&service["in_flight"]),
            number(&service["parked"]),
        );
        let _ = writeln!(
            page,
            "  tee {} % configured, {} effective: {} of {} reads; breaker {}",
            tee["configured_percent"],
            effective.map_or("none yet".to_owned(), |percent| format!("{percent:.3} %")),
            number(&tee["teed"]),
            number(&tee["eligible"]),
            tee["breaker"].as_str().unwrap_or("?"),
        );
        let _ = writeln!(
            page,
            "  pairs {} compared, {} mismatched",
            number(&service["pairs"]["compared"]),
            number(&service["pairs"]["mismatched"]),
        );
    }
    page
}
