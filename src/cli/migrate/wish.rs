//! `segue migrate approve`, `switchover`, `rollback`, `retire` and `cancel`.

use std::process::ExitCode;

use serde_json::json;

use super::{Result, path, resolve, text};
use crate::cli::admin_client::Client;

pub(super) fn ask(client: &Client, id: &str, wish: &str) -> Result {
    let id = resolve(client, id)?;
    let view = client.post(&format!("{}/{wish}", path(id)), &json!({}))?;
    let (service, phase) = (text(&view, "service"), text(&view, "phase"));
    println!(
        "migration {id} of {service} has heard it, while {phase}; `segue migrate watch {id}` follows it"
    );
    Ok(ExitCode::SUCCESS)
}
