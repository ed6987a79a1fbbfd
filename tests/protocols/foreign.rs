//! Instances that are not built on the same library: nginx, and a Python framework. Where one is not
//! installed its test says so and passes.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tokio_tungstenite::tungstenite::{Message, client};

use crate::support::raw::Wire;
use crate::support::{Segue, free_port, tools, try_request, until};

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn await_port(port: u16) {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    until("the instance to answer", || {
        try_request(address, "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").ok()
    });
}

fn nginx(folder: &std::path::Path, port: u16) -> Option<Running> {
    if !tools::has("nginx") {
        return None;
    }
    let text = format!(
        "daemon off; master_process off; pid {0}/pid; error_log {0}/error.log; events {{}}\n\
         http {{ access_log off; client_body_temp_path {0}/body; keepalive_requests 7; keepalive_timeout 1s;\n\
         proxy_temp_path {0}/p; fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n\
         server {{ listen 127.0.0.1:{port}; root {0}/root;\n\
         location /echo {{ client_max_body_size 1m; return 200 \"$request_method $http_host $http_x_forwarded_for\"; }} }} }}\n",
        folder.display()
    );
    std::fs::create_dir(folder.join("root")).unwrap();
    std::fs::write(folder.join("root/index.html"), "from nginx\n").unwrap();
    std::fs::write(folder.join("root/large"), vec![b'l'; 3 << 20]).unwrap();
    std::fs::write(folder.join("nginx.conf"), text).unwrap();
    let child = Command::new("nginx")
        .args(["-p"])
        .arg(folder)
        .arg("-c")
        .arg(folder.join("nginx.conf"))
        .stderr(Stdio::null())
        .spawn();
    Some(Running(child.unwrap()))
}

#[test]
fn nginx_as_the_instance() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let Some(_nginx) = nginx(folder.path(), port) else { return };
    await_port(port);
    let segue = Segue::with(&format!("http://127.0.0.1:{port}"), None, "", "");
    let mut wire = Wire::open(segue.address);
    // It closes its connections after seven requests.
    for n in 0..100 {
        let answer = wire.get("/");
        assert_eq!((answer.status, answer.text().as_str()), (200, "from nginx\n"), "read {n}");
    }
    let fresh = wire.get("/");
    let tag = fresh.header("etag").unwrap().to_owned();
    wire.send(format!("GET / HTTP/1.1\r\nhost: test\r\nif-none-match: {tag}\r\n\r\n"));
    let answer = wire.answer();
    assert_eq!((answer.status, answer.header("etag")), (304, Some(tag.as_str())));
    assert_eq!(wire.get("/large").body.len(), 3 << 20);
    wire.send("GET /large HTTP/1.1\r\nhost: test\r\nrange: bytes=-5\r\n\r\n");
    let answer = wire.answer();
    assert_eq!((answer.status, answer.text().as_str()), (206, "lllll"));
    wire.send("HEAD /large HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(wire.answer_to_head().header("content-length"), Some("3145728"));
    for body in ["content-length: 3\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"] {
        wire.send(format!("POST /echo HTTP/1.1\r\nhost: test\r\n{body}"));
        assert_eq!(wire.answer().text(), "POST test 127.0.0.1");
    }
    assert_eq!(wire.get("/absent").status, 404);
    // Nor does its idle timeout of a second fail a read.
    for _ in 0..3 {
        assert!(wire.is_silent(std::time::Duration::from_millis(1050)));
        assert_eq!(wire.get("/").status, 200);
    }
}

const APPLICATION: &str = r#"
import sys
from aiohttp import web

async def hello(request):
    return web.json_response({"host": request.host, "for": request.headers["X-Forwarded-For"]})

async def echo(request):
    return web.Response(body=await request.read())

async def stream(request):
    answer = web.StreamResponse()
    await answer.prepare(request)
    async for chunk in request.content.iter_chunked(4096):
        await answer.write(chunk)
    await answer.write_eof()
    return answer

async def socket(request):
    peer = web.WebSocketResponse()
    await peer.prepare(request)
    async for message in peer:
        await peer.send_str(message.data.upper())
    return peer

app = web.Application(client_max_size=64 << 20)
app.add_routes([web.get("/", hello), web.post("/echo", echo), web.post("/stream", stream), web.get("/ws", socket)])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"#;

#[test]
fn aiohttp_as_the_instance() {
    if !tools::has("python3-aiohttp") {
        return;
    }
    let port = free_port();
    let child = Command::new(tools::PYTHON)
        .args(["-c", APPLICATION, &port.to_string()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _running = Running(child);
    await_port(port);
    let segue = Segue::with(&format!("http://127.0.0.1:{port}"), None, "", "");
    let mut wire = Wire::open(segue.address);
    let answer: serde_json::Value = serde_json::from_slice(&wire.get("/").body).unwrap();
    assert_eq!(answer, serde_json::json!({"host": "test", "for": "127.0.0.1"}));
    let body = "b".repeat(500_000);
    for path in ["/echo", "/stream"] {
        wire.send(format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        let answer = wire.answer();
        assert!(answer.status == 200 && answer.text() == body, "{path}");
    }
    let tcp = std::net::TcpStream::connect(segue.address).unwrap();
    let (mut socket, _) = client(format!("ws://{}/ws", segue.address), tcp).unwrap();
    socket.send(Message::Text("loud".into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Text("LOUD".into()));
}
