//! `segue migrate list` and `status`.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::page::{self, columns};
use super::{OneArgs, Result, path, resolve, text};
use crate::cli::admin_client::{ApiArgs, Client};

#[derive(Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    pub(super) api: ApiArgs,
    /// Print the API's JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    pub(super) one: OneArgs,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn list(client: &Client, json: bool) -> Result {
    let all = client.get("/v1/migrations")?;
    if json {
        println!("{all}");
    } else {
        print!("{}", table(&all));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn one(client: &Client, args: &StatusArgs) -> Result {
    let view = client.get(&path(resolve(client, &args.one.id)?))?;
    if args.json {
        println!("{view}");
    } else {
        print!("{}", page::of(&view, &page::numbers(client, &view), page::unix_millis()));
    }
    Ok(ExitCode::SUCCESS)
}

fn table(all: &Value) -> String {
    let head = ["ID", "SERVICE", "PHASE", "STEP", "PROVIDER", "INSTANCE", "REASON"];
    let mut rows = vec![head.map(ToOwned::to_owned).to_vec()];
    for view in all["migrations"].as_array().into_iter().flatten() {
        let mut row = vec![view["id"].to_string()];
        let keys = ["service", "phase", "step", "provider", "instance", "reason"];
        // A reason of several lines has its first one here; `status` has them all.
        row.extend(keys.map(|key| match text(view, key).lines().next() {
            Some(line) => line.to_owned(),
            None => "-".to_owned(),
        }));
        rows.push(row);
    }
    columns(&rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_is_in_columns_and_one_line_for_each() {
        let all = json!({ "migrations": [
            { "id": 12, "service": "web", "phase": "validating", "step": "judge", "provider": "external",
              "instance": "s-web-1", "reason": "waits for its gates" },
            { "id": 3, "service": "api", "phase": "failed", "step": null, "provider": "process",
              "instance": "s-api-2", "reason": "it ended\nwith \u{1b}[31mred" },
        ] });
        assert_eq!(
            table(&all),
            "ID  SERVICE  PHASE       STEP   PROVIDER  INSTANCE  REASON\n\
             12  web      validating  judge  external  s-web-1   waits for its gates\n\
             3   api      failed      -      process   s-api-2   it ended\n"
        );
    }
}
