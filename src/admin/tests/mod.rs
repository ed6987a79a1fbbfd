//! The API over real sockets: a whole control plane with two sample instances behind it.

mod calls;
mod contract;
mod migrations;
mod scrape;
mod who;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::runtime::{Builder, LocalOptions};

use super::Running;
use crate::config::{Address, Percent, Settings};
use crate::control::{Control, Sockets};
use crate::origin::{self, Origin, OriginSettings};
use crate::store::Store;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn run(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE * 2, test).await.unwrap() });
}

pub fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A proxy with one service `web`, and its API.
pub struct Stand {
    pub control: Arc<Control>,
    pub api: Running,
    pub proxy: SocketAddr,
    pub source: origin::Running,
    pub shadow: Option<origin::Running>,
}

impl Stand {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let instance = || Origin::start(OriginSettings::on_loopback()).unwrap();
        let (source, shadow) = (instance(), instance());
        let endpoint = |of: &origin::Running| format!("http://{}", of.addr().unwrap()).parse().unwrap();
        let mut settings = Settings::smallest(loopback(), endpoint(&source), Some(endpoint(&shadow)));
        settings.services.get_mut("web").unwrap().tee.percent = Percent::new(100.0).unwrap();
        change(&mut settings);
        let control =
            Control::start(settings, Store::in_memory().unwrap(), Sockets::default()).await.unwrap();
        let socket = crate::net::bind(&Address::Tcp(loopback())).unwrap();
        let api = super::serve(Arc::clone(&control), socket, None).unwrap();
        let proxy = control.sockets().addresses()[0];
        Self { control, api, proxy, source, shadow: Some(shadow) }
    }

    /// A call of the API.
    pub async fn call(&self, method: &str, path: &str, body: &str) -> Reply {
        let host = self.api.address().unwrap().to_string();
        send(self.api.address().unwrap(), method, path, &[("host", &host)], body).await
    }

    pub async fn get(&self, path: &str) -> Value {
        let reply = self.call("GET", path, "").await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text);
        reply.json()
    }

    pub async fn service(&self) -> Value {
        self.get("/v1/services/web").await
    }

    /// A caller's request.
    pub async fn request(&self, method: &str, path: &str) -> Reply {
        send(self.proxy, method, path, &[("host", "app.example")], "").await
    }

    pub async fn read(&self, times: usize) {
        for _ in 0..times {
            assert_eq!(self.request("GET", "/item/1").await.status, 200);
        }
    }

    /// Waits until so many pairs were compared: they end after their callers have been answered.
    pub async fn pairs(&self, compared: u64) -> Value {
        let waiting = async {
            loop {
                let service = self.service().await;
                if service["pairs"]["compared"] == compared {
                    return service;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the pairs come in time")
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// That this is a problem document of that status for that path; its detail and reason.
    #[track_caller]
    pub fn problem(&self, status: u16, path: &str) -> (String, Option<String>) {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let json = self.json();
        assert_eq!((&json["type"], &json["instance"]), (&"about:blank".into(), &path.into()), "{json}");
        assert_eq!((&json["status"], json["title"].is_string()), (&status.into(), true), "{json}");
        (json["detail"].as_str().unwrap().to_owned(), json["reason"].as_str().map(str::to_owned))
    }
}

pub async fn send(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    send_over(stream, method, path, headers, body).await
}

pub async fn send_over(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Reply {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::task::spawn_local(connection);
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Reply { status: parts.status, headers: parts.headers, text: String::from_utf8_lossy(&body).into_owned() }
}
