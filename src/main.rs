//! Parses the command line and hands over to [`segue::cli`].

use std::process::ExitCode;

/// Returns memory to the system when connections end, and allocates without a lock across threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    segue::cli::main()
}
