//! A WebSocket through Segue.

use std::net::{SocketAddr, TcpStream};

use tokio_tungstenite::tungstenite::client::client;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket as Socket};

use crate::support::PATIENCE;

pub struct WebSocket {
    socket: Socket<TcpStream>,
    pub instance: String,
    sent: usize,
}

impl WebSocket {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, answer) = client(format!("ws://{address}/ws"), stream).unwrap();
        let instance = answer.headers()["x-instance"].to_str().unwrap().to_owned();
        Self { socket, instance, sent: 0 }
    }

    /// Both directions work.
    pub fn echo(&mut self) {
        self.sent += 1;
        let message = Message::text(format!("message {}", self.sent));
        self.socket.send(message.clone()).unwrap();
        assert_eq!(self.socket.read().unwrap(), message);
    }

    /// Sends without reading what comes back.
    pub fn send(&mut self, message: Message) -> Result<(), Error> {
        self.socket.send(message)
    }

    pub fn stream(&self) -> &TcpStream {
        self.socket.get_ref()
    }

    /// Waits for the other side's Close.
    pub fn closed(mut self) -> CloseFrame {
        match self.socket.read().unwrap() {
            Message::Close(Some(frame)) => frame,
            other => panic!("{other:?} came instead of a Close"),
        }
    }
}
