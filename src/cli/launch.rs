//! `segue launch`: between Segue and an instance that it starts; never called by hand.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::instance::process::launch;

#[derive(Args, Debug)]
pub struct LaunchArgs {
    /// Of the instance
    #[arg(long, value_name = "FOLDER")]
    folder: PathBuf,
}

/// Becomes the application. What goes wrong is in the log of the instance too, which is this process's stderr.
pub fn run(args: &LaunchArgs) -> ExitCode {
    match launch::become_application(&args.folder) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("segue: {error}");
            ExitCode::from(launch::NOT_STARTED)
        }
    }
}
