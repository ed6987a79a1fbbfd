//! `segue status`: asks a running Segue over its admin API.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::{failed, refused};
use crate::config::{self, Address};

const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
pub struct StatusArgs {
    /// The admin API's address, HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9900", conflicts_with = "config")]
    admin: Address,
    /// Take the address and the token from this configuration
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The token, where the API wants one
    #[arg(long, value_name = "TOKEN", env = "SEGUE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    /// Print nothing; exit 0 if callers may be sent here, else 1
    #[arg(long, conflicts_with = "json")]
    ready: bool,
}

/// Exit 1 when Segue does not answer.
pub fn run(args: &StatusArgs) -> ExitCode {
    let (address, token) = match &args.config {
        None => (args.admin.clone(), args.token.clone()),
        Some(path) => match config::load(path) {
            Err(faults) => return refused(&faults),
            Ok(settings) => match settings.admin.listen {
                None => return refused(&format!("{}: `admin.listen` is off", path.display())),
                Some(listen) => (listen, args.token.clone().or(settings.admin.token)),
            },
        },
    };
    let path = if args.ready { "/readyz" } else { "/v1/status" };
    let (status, body) = match get(&address, path, token.as_deref()) {
        Ok(answer) => answer,
        Err(error) => return failed(&format!("no answer from the admin API on {address}: {error}")),
    };
    if status != 200 {
        return failed(&format!("the admin API on {address} answered {status}: {}", body.trim()));
    }
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

trait Both: Read + Write {}
impl<T: Read + Write> Both for T {}

fn get(address: &Address, path: &str, token: Option<&str>) -> io::Result<(u16, String)> {
    let mut stream: Box<dyn Both> = match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Box::new(stream)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Box::new(stream)
        }
    };
    let authorization = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    // HTTP/1.0, so that the end of the connection is the end of the answer.
    write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n{authorization}\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("what answers there does not speak HTTP"))?;
    Ok((status, body.to_owned()))
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
