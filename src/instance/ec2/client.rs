//! The way to the API: a signed request on a connection of its own, sent again when it is turned away for a reason that
//! passes, and what a failure means.
//!
//! Every call that is made here may be sent twice without harm, so one whose answer was lost is sent again too.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use rustls_pki_types::UnixTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::answer::{self, Part, Refusal};
use super::call::Call;
use super::credentials::{self, Credentials, Environment, Keys};
use super::patience::Patience;
use super::sign::{self, Scope};
use super::{Ec2Error, NAME};
use crate::config::{Ec2Access, Endpoint, Scheme, Target, UpstreamTls};
use crate::instance::wire::{WireError, exchange};
use crate::instance::{InstanceId, ProviderError};
use crate::upstream::tls::ClientTls;

/// A thousand machines are described in about 10 MB.
const MAX_ANSWER: usize = 32 << 20;
/// A refusal may bring kilobytes of ciphertext with it.
const MAX_MESSAGE: usize = 500;

/// The API has too much to do.
const BUSY: [&str; 10] = [
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "EC2ThrottledException",
    "RequestThrottled",
    "InternalError",
    "InternalFailure",
    "ServiceUnavailable",
    "Unavailable",
    "RequestTimeout",
];
/// Keys that were lent have ended, and there may be others by now.
const STALE: [&str; 3] = ["ExpiredToken", "ExpiredTokenException", "AuthFailure"];
const NOT_TAKEN: [&str; 4] = ["AuthFailure", "InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken"];
const DENIED: [&str; 2] = ["UnauthorizedOperation", "AccessDenied"];
/// AWS has no room at the moment.
const NO_ROOM: [&str; 3] =
    ["InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientReservedInstanceCapacity"];

pub(super) struct Client {
    region: String,
    endpoint: Endpoint,
    tls: ClientTls,
    credentials: Credentials,
    pub patience: Patience,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// The API's word, and what can be done about it.
    Refused { code: String, message: String },
    /// No answer that says anything, or always that it is too busy.
    Silent(String),
}

impl Client {
    pub fn new(access: &Ec2Access, environment: Environment, patience: Patience) -> Result<Self, Ec2Error> {
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        let region = access.region.clone();
        let region = region.or_else(|| set("AWS_REGION")).or_else(|| set("AWS_DEFAULT_REGION"));
        let region = region
            .or_else(|| credentials::region(&environment, access.profile.as_deref()))
            .ok_or(Ec2Error::NoRegion)?;
        let url = set("AWS_ENDPOINT_URL_EC2").or_else(|| set("AWS_ENDPOINT_URL"));
        let endpoint = match (&access.endpoint_url, url) {
            (Some(endpoint), _) => endpoint.clone(),
            (None, Some(url)) => parse(url.trim_end_matches('/'))?,
            (None, None) => parse(&of_region(&region))?,
        };
        let trusted = UpstreamTls { ca: set("AWS_CA_BUNDLE").map(PathBuf::from), ..UpstreamTls::default() };
        let tls = ClientTls::new(&trusted, UnixTime::now())?;
        let credentials = Credentials::new(environment, access.profile.as_deref());
        Ok(Self { region, endpoint, tls, credentials, patience })
    }

    /// `look` reads the answer.
    pub async fn ask<T>(&self, call: &Call, look: impl Fn(Part<'_>) -> T) -> Result<T, Failure> {
        let form = Bytes::from(call.form());
        let mut renewed = false;
        let mut attempt = 1;
        loop {
            let refused = |message| Failure::Refused { code: "NoCredentials".to_owned(), message };
            let found = self.credentials.get().await.map_err(refused)?;
            let asked =
                tokio::time::timeout(self.patience.attempt, self.once(&found.keys, form.clone())).await;
            let late = || Err(Silence(format!("it has not answered within {:?}", self.patience.attempt)));
            let why = match asked.unwrap_or_else(|_| late()) {
                Ok(Answer { text, status }) if status.is_success() => {
                    return answer::read(&text, look).ok_or_else(|| self.no_ec2(call));
                }
                Ok(Answer { text, status }) => match answer::refusal(&text) {
                    Some(refusal) if STALE.contains(&refusal.code.as_str()) && !renewed => {
                        renewed = true;
                        self.credentials.forget().await;
                        continue;
                    }
                    Some(refusal) if !BUSY.contains(&refusal.code.as_str()) => {
                        return Err(explained(refusal, call, &found.origin));
                    }
                    Some(Refusal { code, message }) => format!("it says {code}: {message}"),
                    None if status.is_server_error() => format!("it answers {status}"),
                    None => return Err(self.no_ec2(call)),
                },
                Err(Silence(why)) => why,
            };
            if attempt == self.patience.attempts {
                return Err(Failure::Silent(format!(
                    "{} at {}, asked {attempt} times: {why}",
                    call.action, self.endpoint
                )));
            }
            attempt += 1;
            tokio::time::sleep(self.patience.pause(attempt, fastrand::f64())).await;
        }
    }

    async fn once(&self, keys: &Keys, form: Bytes) -> Result<Answer, Silence> {
        let Target::Host { name, port } = &self.endpoint.target else {
            return Err(Silence("it is not reached by TCP".to_owned()));
        };
        let host = authority(name, *port, self.endpoint.scheme);
        let scope = Scope { region: &self.region, service: "ec2" };
        let signed = sign::headers(keys, scope, &host, &form, SystemTime::now());
        let request =
            Request::post("/").header(header::USER_AGENT, "segue").header(header::CONNECTION, "close");
        let request = signed.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        let request = request.body(Full::new(form)).map_err(silence)?;
        let tcp = TcpStream::connect((name.as_str(), *port)).await.map_err(silence)?;
        let answer = if self.endpoint.scheme == Scheme::Https {
            let name = self.tls.server_name(name).map_err(silence)?;
            let session = TlsConnector::from(Arc::clone(&self.tls.http1)).connect(name, tcp).await;
            exchange(session.map_err(silence)?, request, MAX_ANSWER).await
        } else {
            exchange(tcp, request, MAX_ANSWER).await
        };
        let answer = answer.map_err(|error: WireError| silence(error))?;
        Ok(Answer { status: answer.status(), text: String::from_utf8_lossy(answer.body()).into_owned() })
    }

    fn no_ec2(&self, call: &Call) -> Failure {
        Failure::Silent(format!(
            "what {} answers to {} is not understood; is it EC2's API? See `ec2.endpoint_url`",
            self.endpoint, call.action
        ))
    }
}

struct Answer {
    status: http::StatusCode,
    text: String,
}

/// Nothing was heard.
struct Silence(String);

fn silence(error: impl std::fmt::Display) -> Silence {
    Silence(error.to_string())
}

impl Failure {
    pub fn is(&self, known: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == known)
    }

    pub fn about(self, id: &InstanceId) -> ProviderError {
        match self {
            Self::Refused { code, message } if !NO_ROOM.contains(&code.as_str()) => {
                ProviderError::Refused { id: id.clone(), message }
            }
            other => other.anywhere(),
        }
    }

    /// Of a call that is about no instance.
    pub fn anywhere(self) -> ProviderError {
        ProviderError::Unavailable { provider: NAME, message: self.into_message() }
    }

    pub fn into_message(self) -> String {
        match self {
            Self::Refused { message, .. } | Self::Silent(message) => message,
        }
    }
}

fn explained(Refusal { code, message }: Refusal, call: &Call, origin: &str) -> Failure {
    let among = |known: &[&str]| known.contains(&code.as_str());
    let way_out = if among(&NOT_TAKEN) {
        format!("; the credentials are those of {origin}, see whether they are still good")
    } else if among(&DENIED) {
        format!("; allow `ec2:{}` to the owner of {origin}", call.action)
    } else if among(&["RequestExpired"]) {
        "; see whether this machine's clock is right".to_owned()
    } else {
        String::new()
    };
    let message = format!("EC2 says to {}: {code}: {}{way_out}", call.action, shortened(&message));
    Failure::Refused { code, message }
}

fn shortened(message: &str) -> &str {
    message.get(..message.floor_char_boundary(MAX_MESSAGE)).unwrap_or(message).trim_end_matches('.')
}

fn of_region(region: &str) -> String {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://ec2.{region}.{domain}")
}

fn parse(url: &str) -> Result<Endpoint, Ec2Error> {
    url.parse().map_err(|error| Ec2Error::Endpoint { url: url.to_owned(), error })
}

/// As it is sent and signed: a port that goes without saying is left out.
fn authority(name: &str, port: u16, scheme: Scheme) -> String {
    let name = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
    let usual = if scheme == Scheme::Https { 443 } else { 80 };
    if port == usual { name } else { format!("{name}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(
        settings: &Ec2Access,
        set: &'static [(&'static str, &'static str)],
    ) -> Result<Client, Ec2Error> {
        let environment: Environment = Arc::new(|name| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        });
        Client::new(settings, environment, Patience::default())
    }

    #[test]
    fn settings_come_before_the_environment() {
        let made =
            |settings: Ec2Access, set| client(&settings, set).map(|made| made.endpoint.to_string()).unwrap();
        let named = || Ec2Access { region: Some("eu-central-1".into()), ..Ec2Access::default() };
        assert_eq!(
            made(named(), &[("AWS_REGION", "us-east-1")]),
            "https://ec2.eu-central-1.amazonaws.com:443"
        );
        let none = Ec2Access::default;
        assert_eq!(
            made(none(), &[("AWS_REGION", "cn-north-1")]),
            "https://ec2.cn-north-1.amazonaws.com.cn:443"
        );
        let set = &[("AWS_ENDPOINT_URL", "http://a"), ("AWS_ENDPOINT_URL_EC2", "http://b:1/")];
        assert_eq!(made(named(), set), "http://b:1");
        let own = Ec2Access { endpoint_url: Some("http://c:2".parse().unwrap()), ..named() };
        assert_eq!(made(own, set), "http://c:2");
        let error = client(&none(), &[]).err().unwrap().to_string();
        assert!(error.contains("`ec2.region`"), "{error}");
        let error = client(&named(), &[("AWS_ENDPOINT_URL", "b")]).err().unwrap().to_string();
        assert!(error.contains("AWS_ENDPOINT_URL"), "{error}");
    }

    #[test]
    fn a_port_that_goes_without_saying_is_not_signed() {
        assert_eq!(authority("ec2.test", 443, Scheme::Https), "ec2.test");
        assert_eq!(authority("ec2.test", 443, Scheme::Http), "ec2.test:443");
        assert_eq!(authority("::1", 80, Scheme::Http), "[::1]");
    }

    #[test]
    fn a_refusal_names_the_way_out() {
        let call = Call::new("RunInstances");
        let said = |code: &str| {
            let refusal = Refusal { code: code.into(), message: format!("no. {}", "ö".repeat(900)) };
            explained(refusal, &call, "profile `ops`")
        };
        let message = said("UnauthorizedOperation").into_message();
        assert!(message.contains("allow `ec2:RunInstances` to the owner of profile `ops`"), "{message}");
        assert!(message.len() < 800);
        assert!(said("AuthFailure").into_message().contains("those of profile `ops`"));
        let id = InstanceId::new("web-1").unwrap();
        assert!(said("InsufficientInstanceCapacity").about(&id).is_transient());
        assert!(!said("AuthFailure").about(&id).is_transient());
    }
}
