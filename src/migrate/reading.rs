//! What an instance says about itself in one line, such as its version.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;

use super::checks::client::{AskError, Client, Question};
use super::checks::command::{self, CommandError};
use super::checks::probe::quoted;
use super::checks::{ClientError, Patient};
use crate::config::{self, ReadingOf};

/// Asks instances of one service.
pub struct Reader {
    service: String,
    client: Client,
}

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ReadingError(Fault);

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("the answer is no JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("the answer has nothing at {0:?}")]
    NoValue(String),
    #[error("it said nothing")]
    Nothing,
}

impl Reader {
    /// `tls`: an endpoint that speaks TLS is going to be asked; its credentials are read now.
    pub fn new(service: &str, settings: &config::Service, tls: bool) -> Result<Self, ClientError> {
        Ok(Self { service: service.to_owned(), client: Client::new(&settings.upstream.tls, tls)? })
    }

    /// One line, shortened. Runs on a `LocalRuntime`.
    pub async fn read(&self, reading: &config::Reading, of: Patient<'_>) -> Result<String, ReadingError> {
        let said = self.ask(reading, of).await.map_err(ReadingError)?;
        if said.is_empty() { Err(ReadingError(Fault::Nothing)) } else { Ok(said) }
    }

    async fn ask(&self, reading: &config::Reading, of: Patient<'_>) -> Result<String, Fault> {
        match &reading.of {
            ReadingOf::Command(command) => {
                Ok(command::run(command, &of.variables(&self.service), reading.timeout).await?)
            }
            ReadingOf::Http { path, json } => {
                let question = Question {
                    method: Method::GET,
                    target: path,
                    headers: HeaderMap::new(),
                    body: Bytes::new(),
                };
                let answer = self.client.ask(of.endpoint, question, reading.timeout).await?;
                if !answer.status.is_success() {
                    return Err(Fault::Status(answer.status));
                }
                match json {
                    Some(pointer) => at(&answer.body, pointer),
                    None => Ok(first_line(&answer.body)),
                }
            }
        }
    }
}

fn at(body: &[u8], pointer: &str) -> Result<String, Fault> {
    let document: Value = serde_json::from_slice(body)?;
    match document.pointer(pointer) {
        None | Some(Value::Null) => Err(Fault::NoValue(pointer.to_owned())),
        Some(Value::String(text)) => Ok(quoted(text.as_bytes())),
        Some(other) => Ok(quoted(other.to_string().as_bytes())),
    }
}

fn first_line(body: &[u8]) -> String {
    let line = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).find(|line| !line.is_empty());
    quoted(line.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::checks::tests::{Scripted, run};
    use super::*;
    use crate::config::{Endpoint, Instance, Reading, Service};
    use crate::instance::{InstanceId, Role};

    async fn read(of: ReadingOf, endpoint: &Endpoint) -> Result<String, String> {
        let settings = Service::new(Instance::at(Vec::new()), None);
        let reader = Reader::new("web", &settings, false).unwrap();
        let instance = InstanceId::new("web-2").unwrap();
        let patient = Patient { instance: &instance, role: Role::Shadow, endpoint };
        let reading = Reading { of, timeout: Duration::from_mins(1) };
        reader.read(&reading, patient).await.map_err(|error| error.to_string())
    }

    #[test]
    fn an_instance_is_asked_over_http() {
        run(async {
            for (status, body, json, said) in [
                ("200 OK", r#"{"build":{"version":"1.4.0"}}"#, Some("/build/version"), Ok("1.4.0")),
                ("200 OK", r#"{"schema":41}"#, Some("/schema"), Ok("41")),
                ("200 OK", "\n v7 \nmore", None, Ok("v7")),
                ("200 OK", "{}", Some("/schema"), Err("the answer has nothing at \"/schema\"")),
                ("200 OK", "7", Some("/x"), Err("the answer has nothing at \"/x\"")),
                ("200 OK", "\n", None, Err("it said nothing")),
                ("404 Not Found", "v7", None, Err("answered 404 Not Found")),
            ] {
                let text = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                let app = Scripted::new(text).await;
                let of = ReadingOf::Http { path: "/info?x".into(), json: json.map(str::to_owned) };
                let expected = said.map(str::to_owned).map_err(str::to_owned);
                assert_eq!(read(of, &app.endpoint).await, expected, "{body}");
                assert!(app.requests.borrow()[0].starts_with("GET /info?x HTTP/1.1\r\n"));
            }
        });
    }

    #[test]
    fn or_by_a_command_that_knows_whom_to_ask() {
        run(async {
            let endpoint = "http://127.0.0.1:3001".parse().unwrap();
            let command = |script: &str| ReadingOf::Command(["sh", "-c", script].map(str::to_owned).to_vec());
            let told = "echo connecting; echo $SEGUE_SERVICE $SEGUE_INSTANCE $SEGUE_ROLE $SEGUE_ENDPOINT";
            let expected = "web web-2 shadow http://127.0.0.1:3001".to_owned();
            assert_eq!(read(command(told), &endpoint).await, Ok(expected));
            let failed = read(command("echo no table >&2; exit 3"), &endpoint).await.unwrap_err();
            assert!(failed.contains("exit status: 3") && failed.contains("no table"), "{failed}");
        });
    }
}
