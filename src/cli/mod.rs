//! The command line: one file per verb. Data goes to stdout; progress, logs and errors to stderr.

mod admin_client;
mod check;
mod demo;
mod launch;
mod migrate;
mod origin;
mod run;
mod status;

use std::fmt::Display;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Bad usage or configuration.
const BAD_INPUT: u8 = 2;

/// Move a running HTTP service to another instance before anyone notices.
#[derive(Debug, Parser)]
#[command(name = "segue", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the proxy and its controller
    Run(run::RunArgs),
    /// Validate a configuration, or explain how a request would be classed
    Check(check::CheckArgs),
    /// Show the whole job on embedded parts: two instances, load, tee, switchover
    Demo(demo::DemoArgs),
    /// Serve the sample application
    Origin(origin::OriginArgs),
    /// Become an instance; Segue starts it so
    #[command(hide = true)]
    Launch(launch::LaunchArgs),
    /// Move a service of a running Segue to a new instance, and see how far it has come
    #[command(subcommand)]
    Migrate(migrate::MigrateVerb),
    /// Show services, active instances, tees and latencies of a running Segue
    Status(status::StatusArgs),
}

/// Runs the verb that the command line names. clap itself exits with 2 on bad usage.
pub fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::Run(args) => run::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Origin(args) => ended(origin::run(args)),
        Verb::Launch(args) => launch::run(&args),
        Verb::Migrate(verb) => migrate::run(&verb),
        Verb::Status(args) => status::run(&args),
    }
}

fn ended<E: Display>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Says what went wrong; the exit code is 1.
fn failed(error: &impl Display) -> ExitCode {
    eprintln!("segue: {error}");
    ExitCode::FAILURE
}

/// The same for bad input; the exit code is 2.
fn refused(error: &impl Display) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(BAD_INPUT)
}
