//! A TLS server's session without its runtime, and back.
//!
//! A session is a few kilobytes of keys and buffers that are its own; what rustls keeps of a record that has come in part
//! goes with it. What it must not hold is anything that somebody waits for: decrypted bytes that nobody has read, or records
//! that have not been sent, because then its socket would not say when to go on.

use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, LazyLock};

use futures_util::FutureExt as _;
use rustls::server::ResolvesServerCertUsingSni;
use rustls::{ServerConfig, ServerConnection};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::credentials;

/// A session that nothing is in flight on, and its socket.
#[derive(Debug)]
pub struct Parked {
    socket: StdTcpStream,
    session: ServerConnection,
}

impl Parked {
    pub(super) fn new(stream: TlsStream<TcpStream>) -> io::Result<Self> {
        let TlsStream::Server(stream) = stream else {
            return Err(io::Error::other("a TLS client's session stays on its thread"));
        };
        let (socket, session) = stream.into_inner();
        Ok(Self { socket: socket.into_std()?, session })
    }

    /// The stream that it was before.
    pub(super) fn resume(self) -> io::Result<TlsStream<TcpStream>> {
        // tokio-rustls makes a stream only of a handshake: this one is over before it begins.
        let acceptor = TlsAcceptor::from(Arc::clone(BLANK.as_ref().map_err(io::Error::other)?));
        let over = acceptor.accept_with(TcpStream::from_std(self.socket)?, |blank| *blank = self.session);
        let stream = over.now_or_never();
        Ok(stream.ok_or_else(|| io::Error::other("a resting TLS session had something to send"))??.into())
    }

    pub(super) fn say_goodbye(&mut self) {
        self.session.send_close_notify();
        // A caller that takes nothing has had its chance.
        let _ = self.session.write_tls(&mut self.socket);
    }
}

impl AsFd for Parked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A configuration for the session that is thrown away when another takes its place.
static BLANK: LazyLock<Result<Arc<ServerConfig>, rustls::Error>> = LazyLock::new(|| {
    let builder = ServerConfig::builder_with_provider(credentials::provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth();
    Ok(Arc::new(builder.with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()))))
});

/// Nothing decrypted waits to be read, nothing encrypted to be sent, and the session is in order.
pub(super) fn is_quiet(stream: &mut TlsStream<TcpStream>) -> bool {
    let TlsStream::Server(stream) = stream else { return false };
    let (_, session) = stream.get_mut();
    // Processes nothing, as whoever reads does that at once; says how things stand.
    session.process_new_packets().is_ok_and(|state| {
        state.tls_bytes_to_write() == 0 && state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed()
    }) && !session.is_handshaking()
}

#[cfg(test)]
mod tests {
    use rustls::ClientConfig;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::config::{ClientAuth, ListenerTls, UpstreamTls};
    use crate::credentials::samples::Authority;
    use crate::net::Stream;
    use crate::proxy::listener::tls::{TlsListener, prepare};
    use crate::upstream::tls::ClientTls;

    const ENOUGH: std::time::Duration = std::time::Duration::from_mins(1);

    /// A caller, and its connection as a server has it after its handshake.
    async fn connected() -> (TlsStream<TcpStream>, Stream) {
        let authority = Authority::new();
        let certificates = vec![authority.sign("web", &["web.test"])];
        let settings = ListenerTls { certificates, client_auth: ClientAuth::Off, only_tls13: true };
        let now = rustls_pki_types::UnixTime::now();
        let listener = TlsListener::new(prepare(&settings, now).unwrap());
        let trusting = UpstreamTls { ca: Some(authority.ca()), ..UpstreamTls::default() };
        let config: Arc<ClientConfig> = ClientTls::new(&trusting, now).unwrap().negotiating;
        let sockets = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(sockets.local_addr().unwrap()).await.unwrap();
        let (far, _) = sockets.accept().await.unwrap();
        let caller = TlsConnector::from(config).connect("web.test".try_into().unwrap(), near);
        let (caller, accepted) = tokio::join!(caller, listener.accept(far, ENOUGH));
        (caller.unwrap().into(), Stream::Tls(Box::new(accepted.unwrap().into())))
    }

    #[tokio::test]
    async fn a_session_goes_on_where_it_was() {
        let (mut caller, mut stream) = connected().await;
        for round in 0..3 {
            assert!(stream.is_quiet());
            stream = stream.detach().unwrap().attach().unwrap();
            assert!(stream.negotiated_h2(), "known from before");
            caller.write_all(&[round; 8]).await.unwrap();
            let mut heard = [9; 8];
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, [round; 8]);
            stream.write_all(&[round; 8]).await.unwrap();
            caller.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, [round; 8]);
        }
    }

    #[tokio::test]
    async fn what_was_decrypted_and_not_read_keeps_it_from_being_quiet() {
        let (mut caller, mut stream) = connected().await;
        caller.write_all(b"two").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b't');
        assert!(!stream.is_quiet());
        stream.read_exact(&mut [0; 2]).await.unwrap();
        assert!(stream.is_quiet());
    }

    #[tokio::test]
    async fn what_was_not_sent_keeps_it_from_being_quiet() {
        let (_caller, mut stream) = connected().await;
        let Stream::Tls(tls) = &mut stream else { panic!("no TLS") };
        let TlsStream::Server(tls) = &mut **tls else { panic!("a client") };
        io::Write::write_all(&mut tls.get_mut().1.writer(), b"unsent").unwrap();
        assert!(!stream.is_quiet());
        stream.flush().await.unwrap();
        assert!(stream.is_quiet());
    }

    #[tokio::test]
    async fn who_has_said_goodbye_is_not_quiet() {
        let (mut caller, mut stream) = connected().await;
        caller.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(!stream.is_quiet());
    }

    #[tokio::test]
    async fn a_goodbye_reaches_the_caller() {
        let (mut caller, stream) = connected().await;
        let mut resting = stream.detach().unwrap();
        resting.say_goodbye();
        drop(resting);
        assert_eq!(caller.read(&mut [0; 1]).await.unwrap(), 0, "and no error, as for a connection cut off");
    }
}
