//! What is spoken at an endpoint, told by the first bytes that come back: an instance that listens and speaks something
//! else looks healthy to whoever only connects.
//!
//! A request that changes nothing is sent, in the protocol that the endpoint is said to speak. Whatever else is there
//! answers in its own: a server of HTTP/1 refuses a preface of HTTP/2 in words, one of HTTP/2 sends a frame, one of TLS
//! an alert.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::config::{Endpoint, Scheme, Target};

/// Of an answer this much tells.
const HEAD: usize = 16;

const HTTP1: &[u8] =
    b"HEAD / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: segue-check\r\nConnection: close\r\n\r\n";
/// The preface of RFC 9113, section 3.4, and an empty SETTINGS frame.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
/// A `ClientHello` of TLS 1.2 that offers one cipher, without extensions: whoever speaks TLS answers it with a record,
/// most likely an alert.
const TLS: &[u8] = b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x03\
    segue-check segue-check segue-ch\x00\x00\x02\xc0\x2f\x01\x00";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    Http1,
    /// Without TLS.
    Http2,
    Tls,
    /// None of these.
    Other,
}

#[derive(Debug, thiserror::Error)]
pub enum NotTold {
    #[error("it closed the connection without a word")]
    Closed,
    #[error("it said nothing within {0:?}")]
    Silent(Duration),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Spoken {
    pub const fn wanted(scheme: Scheme) -> Self {
        match scheme {
            Scheme::Http => Self::Http1,
            Scheme::H2c => Self::Http2,
            Scheme::Https => Self::Tls,
        }
    }

    /// By the first bytes of an answer.
    fn by(head: &[u8]) -> Self {
        match head {
            [b'H', b'T', b'T', b'P', b'/', ..] => Self::Http1,
            // A record of TLS: an alert, or a handshake.
            [0x15 | 0x16, 3, ..] => Self::Tls,
            // The type of the frame that a server begins with is SETTINGS; of one that refuses it is GOAWAY.
            [_, _, _, 4 | 7, _, 0, 0, 0, 0, ..] => Self::Http2,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2 in clear",
            Self::Tls => "TLS",
            Self::Other => "something else",
        })
    }
}

/// Asks in the protocol of the endpoint's scheme.
pub async fn spoken(endpoint: &Endpoint, patience: Duration) -> Result<Spoken, NotTold> {
    let question = match endpoint.scheme {
        Scheme::Http => HTTP1,
        Scheme::H2c => HTTP2,
        Scheme::Https => TLS,
    };
    let mut head = Vec::with_capacity(HEAD);
    let asking = async {
        match &endpoint.target {
            Target::Host { name, port } => {
                let stream = TcpStream::connect((name.as_str(), *port)).await?;
                hear(stream, question, &mut head).await
            }
            Target::Unix(path) => hear(UnixStream::connect(path).await?, question, &mut head).await,
        }
    };
    let heard = tokio::time::timeout(patience, asking).await;
    match (head.is_empty(), heard) {
        // What came before it fell silent still tells.
        (false, _) => Ok(Spoken::by(&head)),
        (true, Err(_)) => Err(NotTold::Silent(patience)),
        (true, Ok(heard)) => Err(heard.err().map_or(NotTold::Closed, NotTold::Io)),
    }
}

/// Until it is known who answers.
async fn hear(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    question: &[u8],
    head: &mut Vec<u8>,
) -> io::Result<()> {
    stream.write_all(question).await?;
    let mut answer = stream.take(HEAD as u64);
    while Spoken::by(head) == Spoken::Other && answer.read_buf(head).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_answer_is_known_by_its_first_bytes() {
        for (head, spoken) in [
            (&b"HTTP/1.1 400 Bad Request"[..], Spoken::Http1),
            (b"HTTP/1.0 200", Spoken::Http1),
            (b"\x15\x03\x01\x00\x02\x02\x46", Spoken::Tls),
            (b"\x16\x03\x03\x00\x7a\x02", Spoken::Tls),
            (b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05", Spoken::Http2),
            (b"\x00\x00\x08\x07\x00\x00\x00\x00\x00", Spoken::Http2),
            (b"SSH-2.0-OpenSSH_9", Spoken::Other),
            (b"-ERR unknown command", Spoken::Other),
        ] {
            assert_eq!(Spoken::by(head), spoken, "{head:?}");
        }
    }

    async fn told(scheme: &str, answer: &'static [u8]) -> Result<Spoken, NotTold> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("{scheme}://{}", listener.local_addr().unwrap()).parse().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            // All of it: a connection with bytes that nobody has read is reset.
            let mut question = [0; 256];
            assert!(stream.read(&mut question).await.unwrap() > 24);
            stream.write_all(answer).await.unwrap();
            // It waits for more, as servers do.
            (!answer.is_empty()).then_some(stream)
        };
        tokio::join!(server, spoken(&endpoint, Duration::from_secs(20))).1
    }

    #[tokio::test]
    async fn a_server_is_asked_and_one_that_says_nothing_is_no_riddle() {
        let settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";
        assert_eq!(told("http", b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap(), Spoken::Http1);
        assert_eq!(told("h2c", settings).await.unwrap(), Spoken::Http2);
        assert_eq!(told("h2c", b"HTTP/1.1 505 No\r\n\r\n").await.unwrap(), Spoken::Http1);
        assert_eq!(told("https", b"\x15\x03\x03\x00\x02\x02\x28").await.unwrap(), Spoken::Tls);
        assert!(matches!(told("http", b"").await, Err(NotTold::Closed)));
        let nobody = "http://127.0.0.1:1".parse().unwrap();
        assert!(matches!(spoken(&nobody, Duration::from_secs(20)).await, Err(NotTold::Io(_))));
    }
}
