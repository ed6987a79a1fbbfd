//! Keys of the role that this machine has, from the metadata service that every machine of EC2 reaches (version 2: a
//! token first, so that nobody can be tricked into asking for keys).

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::Full;
use serde::Deserialize;
use tokio::net::TcpStream;

use super::credentials::{Environment, Keys};
use crate::config::{Endpoint, Target};
use crate::instance::wire::exchange;

const SERVICE: &str = "http://169.254.169.254";
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
/// It is one hop away; elsewhere than on EC2 nobody answers at all.
const PATIENCE: Duration = Duration::from_secs(2);
const MAX_ANSWER: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Lent {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
}

/// Or why there are none.
pub(super) async fn keys(environment: &Environment) -> Result<Keys, String> {
    if environment("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Err("AWS_EC2_METADATA_DISABLED is set".to_owned());
    }
    let url = environment("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| SERVICE.to_owned());
    let service: Endpoint = url.trim_end_matches('/').parse().map_err(|error| format!("{error}"))?;
    let asked = tokio::time::timeout(PATIENCE, ask_all(&service)).await;
    asked.unwrap_or_else(|_| Err(format!("{service} does not answer")))
}

async fn ask_all(service: &Endpoint) -> Result<Keys, String> {
    let lifetime = ("x-aws-ec2-metadata-token-ttl-seconds", "60");
    let token = ask(service, Method::PUT, "/latest/api/token", lifetime).await?;
    let with_token = ("x-aws-ec2-metadata-token", token.trim());
    let roles = ask(service, Method::GET, ROLES, with_token).await?;
    let role = roles.lines().next().unwrap_or_default().trim();
    let lent = ask(service, Method::GET, &format!("{ROLES}{role}"), with_token).await?;
    let lent: Lent =
        serde_json::from_str(&lent).map_err(|error| format!("role `{role}` has no keys: {error}"))?;
    Ok(Keys { id: lent.access_key_id, secret: lent.secret_access_key, token: lent.token })
}

async fn ask(service: &Endpoint, method: Method, path: &str, with: (&str, &str)) -> Result<String, String> {
    let Target::Host { name, port } = &service.target else {
        return Err(format!("{service} is not reached by TCP"));
    };
    let stream = TcpStream::connect((name.as_str(), *port)).await.map_err(|error| error.to_string())?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, name)
        .header(with.0, with.1)
        .body(Full::<Bytes>::default())
        .map_err(|error| error.to_string())?;
    let answer = exchange(stream, request, MAX_ANSWER).await.map_err(|error| error.to_string())?;
    if !answer.status().is_success() {
        return Err(format!("{path} answers {}", answer.status()));
    }
    Ok(String::from_utf8_lossy(answer.body()).into_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_token_is_fetched_first_and_shown_from_then_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let serving = std::thread::spawn(move || {
            let lent = r#"{"Code":"Success","AccessKeyId":"A","SecretAccessKey":"s","Token":"t"}"#;
            ["tok", "web-role", lent].map(|body| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = vec![0; 4096];
                let read = stream.read(&mut head).unwrap();
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
                String::from_utf8_lossy(&head[..read]).to_lowercase()
            })
        });
        let environment: Environment =
            Arc::new(move |name| (name == "AWS_EC2_METADATA_SERVICE_ENDPOINT").then(|| url.clone()));
        let found = keys(&environment).await.unwrap();
        assert_eq!((found.id.as_str(), found.token.as_deref()), ("A", Some("t")));
        let [first, second, third] = serving.join().unwrap();
        assert!(first.starts_with("put /latest/api/token "), "{first}");
        assert!(second.contains("x-aws-ec2-metadata-token: tok\r\n"), "{second}");
        assert!(third.starts_with("get /latest/meta-data/iam/security-credentials/web-role "), "{third}");
    }

    #[tokio::test]
    async fn elsewhere_there_are_none() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let environment: Environment = Arc::new(move |name| {
            (name == "AWS_EC2_METADATA_SERVICE_ENDPOINT").then(|| format!("http://127.0.0.1:{port}"))
        });
        assert!(keys(&environment).await.is_err());
    }
}
