//! Usage of an instance that somebody else runs, from a page of metrics that somebody else serves.
//!
//! A page of cAdvisor is about many containers. The URL's fragment, which is not sent, chooses: `#name=web` keeps the
//! rows with that label, and several labels are separated by `,`. Rows of more than one container say nothing, unless
//! nothing was chosen: then the machine's own, `id="/"`, stands for an instance that has the machine for itself.

mod exposition;

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{InvalidUri, Scheme};
use http::{Uri, header};
use http_body_util::Full;
use tokio::net::TcpStream;

pub use self::exposition::counter;
use self::exposition::read;
use super::Usage;
use super::wire::{WireError, exchange};

/// A node exporter's page has about 100 KiB, cAdvisor's some 20 KiB for each container.
const MAX_PAGE: usize = 4 << 20;
/// For the whole page; usage is looked at every few seconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where a page is, and which of its rows are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    uri: Uri,
    chosen: Vec<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
pub enum PageError {
    #[error("{0:?} is no page of metrics; write http://HOST:PORT/PATH")]
    NotHttp(String),
    #[error("{text:?} is no page of metrics: {error}")]
    Uri { text: String, error: InvalidUri },
    #[error("`#{0}` chooses no rows; write #LABEL=VALUE, such as #name=web")]
    Chosen(String),
}

#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    #[error("{0} cannot be reached: {1}")]
    Connect(String, std::io::Error),
    #[error("{0} breaks off: {1}")]
    Http(String, hyper::Error),
    #[error("{0} answers {1}")]
    Status(String, http::StatusCode),
    #[error("{0} is not read to its end: {1}")]
    Body(String, Box<dyn std::error::Error + Send + Sync>),
    #[error("{0} is larger than {MAX_PAGE} bytes; let the exporter give less")]
    TooLarge(String),
    #[error("{0} has not answered within {PATIENCE:?}")]
    Timeout(String),
}

impl FromStr for Page {
    type Err = PageError;

    fn from_str(text: &str) -> Result<Self, PageError> {
        let (url, chosen) = text.split_once('#').unwrap_or((text, ""));
        let uri: Uri = url.parse().map_err(|error| PageError::Uri { text: text.to_owned(), error })?;
        let named = uri.host().is_some_and(|host| !host.is_empty());
        if uri.scheme() != Some(&Scheme::HTTP) || !named {
            return Err(PageError::NotHttp(text.to_owned()));
        }
        let wrong = || PageError::Chosen(chosen.to_owned());
        let pair = |of: &str| {
            let (label, value) =
                of.split_once('=').filter(|(label, _)| !label.is_empty()).ok_or_else(wrong)?;
            Ok((label.to_owned(), value.to_owned()))
        };
        let chosen = chosen.split(',').filter(|of| !of.is_empty()).map(pair).collect::<Result<_, _>>()?;
        Ok(Self { uri, chosen })
    }
}

impl Page {
    /// One look; what the page does not have is `None`.
    pub async fn usage(&self) -> Result<Usage, ScrapeError> {
        let text = tokio::time::timeout(PATIENCE, self.fetch()).await;
        let text = text.map_err(|_| ScrapeError::Timeout(self.uri.to_string()))??;
        Ok(read(&String::from_utf8_lossy(&text), &self.chosen))
    }

    /// On a connection of its own, which ends with the page.
    async fn fetch(&self) -> Result<Bytes, ScrapeError> {
        let page = || self.uri.to_string();
        let connect = |error| ScrapeError::Connect(page(), error);
        let host = self.uri.host().unwrap_or_default();
        // The brackets are of the URL, not of the address.
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let stream = TcpStream::connect((host, self.uri.port_u16().unwrap_or(80))).await.map_err(connect)?;
        let target = self.uri.path_and_query().map_or("/", |target| target.as_str());
        let request = http::Request::get(target)
            .header(header::HOST, self.uri.authority().map_or("", |authority| authority.as_str()))
            .header(header::USER_AGENT, "segue")
            .header(header::ACCEPT, "text/plain;version=0.0.4")
            .header(header::CONNECTION, "close")
            .body(Full::default())
            .map_err(|error| connect(std::io::Error::other(error)))?;
        let answer = exchange(stream, request, MAX_PAGE).await.map_err(|error| match error {
            WireError::Http(error) => ScrapeError::Http(page(), error),
            WireError::Body(error) => ScrapeError::Body(page(), error),
            WireError::TooLarge(_) => ScrapeError::TooLarge(page()),
        })?;
        if !answer.status().is_success() {
            return Err(ScrapeError::Status(page(), answer.status()));
        }
        Ok(answer.into_body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_an_http_url() {
        for bad in [
            "",
            "host:9100",
            "/metrics",
            "https://host/",
            "unix:/x",
            "http:///x",
            "http://h#=x",
            "http://h#name",
        ] {
            assert!(bad.parse::<Page>().is_err(), "{bad}");
        }
        let page: Page = "http://[::1]:9100/metrics?x=1#name=web,image=a=b".parse().unwrap();
        assert_eq!(page.uri, "http://[::1]:9100/metrics?x=1");
        assert_eq!(page.chosen.last().unwrap(), &("image".to_owned(), "a=b".to_owned()));
    }
}
