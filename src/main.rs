//! Parses the command line and hands over to [`segue::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    segue::cli::main()
}
