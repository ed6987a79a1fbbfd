//! Tools of other projects that a test talks to.

use std::process::Command;

/// The Python that Debian's packages belong to, whatever other one comes first in PATH.
pub const PYTHON: &str = "/usr/bin/python3";

/// moto, which speaks the APIs of AWS, below the root of the sources.
pub const MOTO: &str = "target/moto/bin/moto_server";
const MOTO_IS_WHOLE: &str = "target/moto/whole";

/// Whether `tool` is here: a command, as `python3-x` the module x of [`PYTHON`], or `moto`. `scripts/test` names
/// those that could not be had in `SEGUE_TEST_WITHOUT`; a test that needs one of these says so and is
/// skipped. Any other missing tool is a failure.
pub fn has(tool: &str) -> bool {
    let without = std::env::var("SEGUE_TEST_WITHOUT").unwrap_or_default();
    if without.split_whitespace().any(|missing| missing == tool) {
        eprintln!("SKIPPED: needs {tool}");
        return false;
    }
    let found = match tool.strip_prefix("python3-") {
        None if tool == "moto" => Command::new("test").args(["-e", MOTO_IS_WHOLE]).output(),
        Some(module) => Command::new(PYTHON).args(["-c", &format!("import {module}")]).output(),
        None => Command::new("sh").args(["-c", &format!("command -v {tool}")]).output(),
    };
    let found = found.unwrap();
    assert!(found.status.success(), "`{tool}` is not installed; scripts/prepare-tests installs it");
    true
}
