//! `WebSocket`s through the tunnel: frames of every size, and who said goodbye how.

use std::net::TcpStream;

use segue::origin::{Origin, OriginSettings};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

use crate::support::Segue;
use crate::support::certificates::Authority;
use crate::support::free_port;

fn exchange<S: std::io::Read + std::io::Write>(mut socket: WebSocket<S>) {
    for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 5 << 20] {
        let payload: Vec<u8> = (0..size as u32).map(|n| n as u8).collect();
        socket.send(Message::Binary(payload.clone().into())).unwrap();
        let echoed = loop {
            match socket.read().unwrap() {
                Message::Binary(echoed) => break echoed,
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        };
        assert!(echoed == payload, "{size} bytes");
    }
    socket.send(Message::Text("ünïcode".into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Text("ünïcode".into()));
    socket.close(Some(CloseFrame { code: CloseCode::Library(4321), reason: "done".into() })).unwrap();
    let farewell = loop {
        match socket.read() {
            Ok(Message::Close(frame)) => break frame,
            Ok(_) => {}
            Err(error) => panic!("no farewell: {error}"),
        }
    };
    assert_eq!(farewell.map(|frame| u16::from(frame.code)), Some(4321));
    assert!(socket.read().is_err(), "then the connection ends");
}

#[test]
fn in_clear() {
    let origin = Origin::start(OriginSettings::on_loopback()).unwrap();
    let segue = Segue::with(&format!("http://{}", origin.addr().unwrap()), None, "", "");
    let tcp = TcpStream::connect(segue.address).unwrap();
    let (socket, answer) = client(format!("ws://{}/ws", segue.address), tcp).unwrap();
    assert_eq!(answer.status(), 101);
    exchange(socket);
    crate::support::until("the exchange to be over", || (segue.service()["in_flight"] == 0).then_some(()));
}

#[test]
fn over_tls() {
    let origin = Origin::start(OriginSettings::on_loopback()).unwrap();
    let authority = Authority::new();
    let files = authority.issue("web", &["web.test"]);
    let port = free_port();
    let rest = format!("[[listeners]]\naddress = \"127.0.0.1:{port}\"\ntls = {{ {} }}\n", files.toml());
    let _segue = Segue::with(&format!("http://{}", origin.addr().unwrap()), None, "", &rest);
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let caller = crate::support::certificates::TlsCaller::to("web.test");
    let stream = authority.connect(address, &caller).unwrap().wire.into_inner();
    let (socket, answer) = client("ws://web.test/ws", stream).unwrap();
    assert_eq!(answer.status(), 101);
    exchange(socket);
}
