//! The admin API of a running Segue, from the command line: one connection for each call.
//!
//! HTTP/1.0, so that the end of the connection is the end of the answer and nothing has to be taken apart.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::refused;
use crate::config::{self, Address};

/// For a connection, and for a look at what is there.
const PATIENCE: Duration = Duration::from_secs(5);
/// For a call that changes something: an engine may have to be asked first.
const CHANGE_PATIENCE: Duration = Duration::from_mins(1);
/// A stream says something every quarter of a minute; one that misses two of these is dead.
const STREAM_PATIENCE: Duration = Duration::from_secs(40);
/// Longer than any head, and than any line of a stream.
const LONGEST_LINE: u64 = 1 << 20;

/// Where the API is, and what it wants to see.
#[derive(Args, Clone, Debug)]
pub struct ApiArgs {
    /// The admin API's address, HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9900", conflicts_with = "config")]
    admin: Address,
    /// Take the address and the token from this configuration
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The token, where the API wants one
    #[arg(long, value_name = "TOKEN", env = "SEGUE_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

#[derive(Clone)]
pub struct Client {
    address: Address,
    token: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no answer from the admin API on {address}: {error}")]
    NoAnswer { address: Address, error: io::Error },
    /// What was asked for is impossible, and the detail says why.
    #[error("{detail}")]
    Refused { status: u16, detail: String },
    #[error("the admin API on {address} answered {status}: {}", body.trim())]
    Failed { address: Address, status: u16, body: String },
    #[error("the admin API's answer is no JSON: {0}")]
    NotJson(#[from] serde_json::Error),
}

/// Server-sent events, one after the other.
pub struct Events {
    lines: BufReader<Box<dyn Both + Send>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub id: Option<String>,
    pub data: String,
}

// === impl ApiArgs ===

impl ApiArgs {
    /// A configuration that is wrong, or has no API, has been complained about.
    pub fn client(&self) -> Result<Client, ExitCode> {
        let Some(path) = &self.config else {
            return Ok(Client { address: self.admin.clone(), token: self.token.clone() });
        };
        let settings = config::load(path).map_err(|faults| refused(&faults))?;
        match settings.admin.listen {
            None => Err(refused(&format!("{}: `admin.listen` is off", path.display()))),
            Some(address) => Ok(Client { address, token: self.token.clone().or(settings.admin.token) }),
        }
    }
}

// === impl Client ===

impl Client {
    /// The answer as it came.
    pub fn get_text(&self, path: &str) -> Result<String, ClientError> {
        self.call("GET", path, None, PATIENCE)
    }

    pub fn get(&self, path: &str) -> Result<Value, ClientError> {
        Ok(serde_json::from_str(&self.get_text(path)?)?)
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.post_within(CHANGE_PATIENCE, path, body)
    }

    /// For a call that is known to take its time.
    pub fn post_within(&self, patience: Duration, path: &str, body: &Value) -> Result<Value, ClientError> {
        Ok(serde_json::from_str(&self.call("POST", path, Some(body), patience)?)?)
    }

    /// `None`: there is nothing more to come.
    pub fn events(&self, path: &str, after: Option<&str>) -> Result<Option<Events>, ClientError> {
        let seen = after.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        let sent =
            self.send("GET", path, &format!("accept: text/event-stream\r\n{seen}"), "", STREAM_PATIENCE);
        let (status, mut lines) = sent.map_err(|error| self.no_answer(error))?;
        match status {
            200 => Ok(Some(Events { lines })),
            204 => Ok(None),
            _ => {
                let mut body = String::new();
                lines.read_to_string(&mut body).map_err(|error| self.no_answer(error))?;
                Err(self.failed(status, body))
            }
        }
    }

    fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<String, ClientError> {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let head = match body.len() {
            0 => String::new(),
            length => format!("content-type: application/json\r\ncontent-length: {length}\r\n"),
        };
        let answer = self.send(method, path, &head, &body, patience).and_then(|(status, mut rest)| {
            let mut answer = String::new();
            rest.read_to_string(&mut answer)?;
            Ok((status, answer))
        });
        match answer.map_err(|error| self.no_answer(error))? {
            (200..300, answer) => Ok(answer),
            (status, answer) => Err(self.failed(status, answer)),
        }
    }

    /// Reads the status and the head; the rest is the body.
    fn send(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
        patience: Duration,
    ) -> io::Result<(u16, BufReader<Box<dyn Both + Send>>)> {
        let mut stream: Box<dyn Both + Send> = match &self.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_read_timeout(Some(patience))?;
                Box::new(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(patience))?;
                Box::new(stream)
            }
        };
        let token = self.token.as_ref().map(|token| format!("authorization: Bearer {token}\r\n"));
        let token = token.unwrap_or_default();
        let request = format!("{method} {path} HTTP/1.0\r\nhost: localhost\r\n{token}{headers}\r\n{body}");
        stream.write_all(request.as_bytes())?;
        let mut answer = BufReader::new(stream);
        let foreign = || io::Error::other("what answers there does not speak HTTP");
        let status = read_line(&mut answer)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(foreign)?;
        while read_line(&mut answer)?.is_some_and(|line| !line.is_empty()) {}
        Ok((status, answer))
    }

    fn no_answer(&self, error: io::Error) -> ClientError {
        ClientError::NoAnswer { address: self.address.clone(), error }
    }

    fn failed(&self, status: u16, body: String) -> ClientError {
        let problem = serde_json::from_str::<Value>(&body).unwrap_or_default();
        match problem["detail"].as_str() {
            Some(detail) => ClientError::Refused { status, detail: detail.to_owned() },
            None => ClientError::Failed { address: self.address.clone(), status, body },
        }
    }
}

impl ClientError {
    /// Whether the process may merely be away, as in an upgrade or a restart.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::NoAnswer { .. } | Self::Refused { status: 503, .. })
    }
}

// === impl Events ===

impl Iterator for Events {
    type Item = Event;

    /// `None` at the stream's end, however it came about.
    fn next(&mut self) -> Option<Event> {
        let mut event = Event::default();
        loop {
            let line = read_line(&mut self.lines).ok()??;
            if line.is_empty() {
                if event != Event::default() {
                    return Some(event);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match field {
                "event" => event.name = value,
                "id" => event.id = Some(value),
                "data" if event.data.is_empty() => event.data = value,
                "data" => event.data.extend(["\n", &value]),
                // A comment, which says that the other end is there, or something of a later version.
                _ => {}
            }
        }
    }
}

pub trait Both: Read + Write {}
impl<T: Read + Write> Both for T {}

/// Without its end; `None` at the end of the connection.
fn read_line(from: &mut BufReader<Box<dyn Both + Send>>) -> io::Result<Option<String>> {
    let mut line = String::new();
    if from.by_ref().take(LONGEST_LINE).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    if !line.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(Some(line))
}

/// A name as a segment of a path.
pub fn segment(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encode = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers one call with these bytes, and gives what was asked.
    fn answering(answer: &'static str) -> (Client, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client {
            address: Address::Tcp(listener.local_addr().unwrap()),
            token: Some("secret".to_owned()),
        };
        let asked = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut asked = Vec::new();
            // What is left unread would reset the connection.
            let has_body = |asked: &[u8]| String::from_utf8_lossy(asked).starts_with("POST ");
            while !asked.ends_with(if has_body(&asked) { b"\r\n\r\n{}" } else { b"\r\n\r\n" as &[u8] }) {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                asked.extend(byte);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(asked).unwrap()
        });
        (client, asked)
    }

    #[test]
    fn events_are_read_one_by_one_and_a_torn_one_is_none() {
        let (client, asked) = answering(
            "HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n:\n\nevent: step\nid: 7\ndata: {\"a\":1}\n\n\
             : still here\n\ndata:one\ndata: two\n\nevent: step\nid: 8\ndata: {\"torn",
        );
        let events = client.events("/v1/migrations/1/events", Some("6")).unwrap().unwrap();
        let of = |name: &str, id: Option<&str>, data: &str| Event {
            name: name.to_owned(),
            id: id.map(ToOwned::to_owned),
            data: data.to_owned(),
        };
        assert_eq!(
            events.collect::<Vec<_>>(),
            [of("step", Some("7"), "{\"a\":1}"), of("", None, "one\ntwo")]
        );
        let asked = asked.join().unwrap();
        assert!(asked.contains("\r\nlast-event-id: 6\r\n"), "{asked}");
        assert!(asked.contains("\r\nauthorization: Bearer secret\r\n"), "{asked}");
    }

    #[test]
    fn a_refusal_is_its_detail_and_anything_else_what_it_is() {
        let refuse = "HTTP/1.0 409 Conflict\r\n\r\n{\"detail\":\"migration 7 is over: done\",\"status\":409}";
        let (client, asked) = answering(refuse);
        let error = client.post("/v1/migrations/7/cancel", &serde_json::json!({})).unwrap_err();
        assert_eq!(error.to_string(), "migration 7 is over: done");
        assert!(!error.is_transient());
        assert!(asked.join().unwrap().ends_with("content-length: 2\r\n\r\n{}"));

        let (client, _) = answering("HTTP/1.0 502 Bad Gateway\r\n\r\nnobody home\n");
        let error = client.get("/").unwrap_err().to_string();
        assert!(error.ends_with("answered 502: nobody home"), "{error}");
        let (client, _) = answering("SSH-2.0-x\r\n");
        assert!(client.get("/").unwrap_err().to_string().contains("does not speak HTTP"));
    }

    #[test]
    fn a_name_cannot_leave_its_segment() {
        assert_eq!(segment("web-1.a_b~"), "web-1.a_b~");
        assert_eq!(segment("a/b?c d%é"), "a%2Fb%3Fc%20d%25%C3%A9");
    }
}
