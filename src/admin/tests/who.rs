//! Who is answered, and how much anybody may hold.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::{PATIENCE, Stand, loopback, run, send, send_over};
use crate::admin::{AdminError, serve};
use crate::config::Address;

#[test]
fn with_a_token_only_probes_go_without_it() {
    run(async {
        let stand = Stand::start().await;
        let socket = crate::net::bind(&Address::Tcp(loopback())).unwrap();
        let api = serve(Arc::clone(&stand.control), socket, Some("secret")).unwrap();
        let to = api.address().unwrap();
        for path in ["/v1/services", "/metrics", "/openapi.json", "/nothing"] {
            let reply = send(to, "GET", path, &[("host", "segue.example")], "").await;
            reply.problem(401, path);
            assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"segue\"");
        }
        for path in ["/healthz", "/readyz"] {
            assert_eq!(send(to, "GET", path, &[("host", "10.1.2.3")], "").await.status, 200);
        }
        let wrong = [("host", "segue.example"), ("authorization", "Bearer secreT")];
        let body = r#"{"stopped":true}"#;
        send(to, "PATCH", "/v1/tee", &wrong, body).await.problem(401, "/v1/tee");
        assert!(!stand.control.tees_are_stopped());
        let right = [("host", "segue.example"), ("authorization", "Bearer secret")];
        assert_eq!(send(to, "PATCH", "/v1/tee", &right, body).await.status, 200);
        assert!(stand.control.tees_are_stopped());
    });
}

#[test]
fn a_page_in_a_browser_cannot_call_without_a_token() {
    run(async {
        let stand = Stand::start().await;
        let to = stand.api.address().unwrap();
        let own = to.to_string();
        let path = "/v1/services/web/switchover";
        let rebound = send(to, "POST", path, &[("host", "evil.example")], "").await;
        assert_eq!(rebound.problem(403, path).1.as_deref(), Some("foreign_host"));
        let forged = [("host", &*own), ("origin", "https://evil.example")];
        let forged = send(to, "POST", path, &forged, "").await;
        assert_eq!(forged.problem(403, path).1.as_deref(), Some("foreign_origin"));
        assert_eq!(stand.service().await["active"], "source");
        let origin = format!("http://{own}");
        let at_home = [("host", &*own), ("origin", &*origin)];
        assert_eq!(send(to, "POST", path, &at_home, "").await.status, 200);
    });
}

#[test]
fn a_unix_socket_serves_whoever_may_open_it() {
    run(async {
        let stand = Stand::start().await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let socket = crate::net::bind(&Address::Unix(path.clone())).unwrap();
        let api = serve(Arc::clone(&stand.control), socket, None).unwrap();
        let stream = UnixStream::connect(&path).await.unwrap();
        let reply = send_over(stream, "GET", "/v1/services/web", &[("host", "whatever")], "").await;
        assert_eq!((reply.status.as_u16(), reply.json()["name"].as_str()), (200, Some("web")));
        assert_eq!(api.address(), None);
    });
}

#[test]
fn an_open_address_needs_a_token() {
    run(async {
        let stand = Stand::start().await;
        let everywhere = || crate::net::bind(&Address::Tcp(([0, 0, 0, 0], 0).into())).unwrap();
        let refused = serve(Arc::clone(&stand.control), everywhere(), None);
        assert!(matches!(refused, Err(AdminError::Exposed(_))));
        assert!(serve(Arc::clone(&stand.control), everywhere(), Some("t")).is_ok());
    });
}

#[test]
fn the_next_connection_waits_for_a_place() {
    run(async {
        let stand = Stand::start().await;
        let to = stand.api.address().unwrap();
        let mut idle = Vec::new();
        for _ in 0..crate::admin::server::MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(to).await.unwrap();
            // Answered once, so that it certainly has its place.
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            idle.push(stream);
        }
        let mut waiting = std::pin::pin!(send(to, "GET", "/healthz", &[("host", "localhost")], ""));
        let early = tokio::time::timeout(Duration::from_millis(100), waiting.as_mut()).await;
        assert!(early.is_err(), "there was no place for it");
        idle.pop();
        let reply = tokio::time::timeout(PATIENCE, waiting).await.unwrap();
        assert_eq!(reply.status, 200);
    });
}

#[test]
fn what_is_under_way_ends_when_the_api_stops() {
    run(async {
        let stand = Stand::start().await;
        let to = stand.api.address().unwrap();
        let mut idle = TcpStream::connect(to).await.unwrap();
        idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        assert!(idle.read(&mut [0; 1024]).await.unwrap() > 0);
        stand.api.stop().await;
        assert_eq!(idle.read(&mut [0; 64]).await.unwrap(), 0, "an idle connection is closed");
        assert!(TcpStream::connect(to).await.is_err(), "nobody listens any more");
    });
}
