//! `segue migrate`: asks a running Segue for migrations, over its admin API. Nothing is decided here.

mod page;
mod show;
mod start;
mod watch;
mod wish;

use std::io;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::admin_client::{ApiArgs, Client, ClientError};
use super::failed;

#[derive(Debug, Subcommand)]
pub enum MigrateVerb {
    /// Begin to move a service to a new instance
    Start(Box<start::StartArgs>),
    /// List migrations, the newest first
    List(show::ListArgs),
    /// Show one migration
    Status(show::StatusArgs),
    /// Follow a migration to its end; exit 0 only if it is done
    Watch(OneArgs),
    /// Say yes to the switch of a migration whose policy is manual, beforehand or when it waits
    Approve(OneArgs),
    /// The same as approve: a migration switches by itself once it is ready and approved
    Switchover(OneArgs),
    /// Go back to the source, until that is being retired
    Rollback(OneArgs),
    /// End the source's grace period: it is ended and removed now
    Retire(OneArgs),
    /// Undo a migration that has not switched yet
    Cancel(OneArgs),
}

/// One migration, and where to ask about it.
#[derive(Args, Debug)]
pub struct OneArgs {
    /// Its number, or the name of a service for its newest migration
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, thiserror::Error)]
enum MigrateError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("service `{0}` has no migration; `segue migrate start {0}` begins one")]
    NoneOf(String),
    #[error("migration {id} ended as {phase}{}{reason}", if reason.is_empty() { "" } else { ": " })]
    Ended { id: u64, phase: String, reason: String },
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
}

type Result<T = ExitCode> = std::result::Result<T, MigrateError>;

pub fn run(verb: &MigrateVerb) -> ExitCode {
    match verb {
        MigrateVerb::Start(args) => start::run(args),
        MigrateVerb::List(args) => with(&args.api, |client| show::list(client, args.json)),
        MigrateVerb::Status(args) => with(&args.one.api, |client| show::one(client, args)),
        MigrateVerb::Watch(args) => with(&args.api, |client| {
            let id = resolve(client, &args.id)?;
            watch::follow(client, id, watch::Show::for_stdout())
        }),
        MigrateVerb::Approve(args) => with(&args.api, |client| wish::ask(client, &args.id, "approve")),
        MigrateVerb::Switchover(args) => with(&args.api, |client| wish::ask(client, &args.id, "switchover")),
        MigrateVerb::Rollback(args) => with(&args.api, |client| wish::ask(client, &args.id, "rollback")),
        MigrateVerb::Retire(args) => with(&args.api, |client| wish::ask(client, &args.id, "retire")),
        MigrateVerb::Cancel(args) => with(&args.api, |client| wish::ask(client, &args.id, "cancel")),
    }
}

fn with(api: &ApiArgs, work: impl FnOnce(&Client) -> Result) -> ExitCode {
    match api.client() {
        Ok(client) => work(&client).unwrap_or_else(|error| failed(&error)),
        Err(code) => code,
    }
}

/// A number is a migration; anything else is a service.
fn resolve(client: &Client, id: &str) -> Result<u64> {
    if let Ok(id) = id.parse() {
        return Ok(id);
    }
    let all = client.get("/v1/migrations")?;
    let newest = all["migrations"].as_array().into_iter().flatten().find(|of| of["service"] == id);
    newest.and_then(|of| of["id"].as_u64()).ok_or_else(|| MigrateError::NoneOf(id.to_owned()))
}

fn path(id: u64) -> String {
    format!("/v1/migrations/{id}")
}

/// The text at a key, empty where there is none. What an instance wrote may be in it, so nothing but lines gets
/// through to the terminal.
fn text(value: &Value, key: &str) -> String {
    let plain = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    value[key].as_str().unwrap_or_default().chars().map(plain).collect()
}
