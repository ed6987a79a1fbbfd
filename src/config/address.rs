//! How addresses and endpoints are written: `127.0.0.1:8080`, `http://host:port`, `unix:/path`.
//!
//! Displaying and reading are inverse, so the admin API and the store can keep the text.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use super::{Address, Endpoint, Scheme, Target};

/// The kernel's `sun_path` has 108 bytes, the last of them a NUL.
const MAX_SOCKET_PATH: usize = 107;
/// RFC 1035, section 2.3.4, less the length octet and the root label.
const MAX_NAME: usize = 253;

/// Why an address or endpoint could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error(
        "{0:?} is not an endpoint; write http://HOST:PORT, https://HOST:PORT, h2c://HOST:PORT or unix:/PATH"
    )]
    Scheme(String),
    #[error("{0:?} has something after host and port; an endpoint takes whole requests, so drop the rest")]
    Path(String),
    #[error("{0:?} carries a user name; drop it: an endpoint is host and port only")]
    UserInfo(String),
    #[error("{0:?} has no valid host; write a DNS name, an IPv4 address or an IPv6 address in brackets")]
    Host(String),
    #[error("{0:?} has no valid port; use 1 to 65535")]
    Port(String),
    #[error(
        "{0:?} is not a socket path; write unix: and an absolute path of at most {MAX_SOCKET_PATH} bytes"
    )]
    Socket(String),
    #[error("{0:?} is not an address to listen on; write IP:PORT (0.0.0.0:PORT for all IPv4) or unix:/PATH")]
    Listen(String),
}

impl Address {
    /// Whether only this host can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Whether both cannot be listened on at once.
    pub(super) fn collides_with(&self, other: &Self) -> bool {
        let (Self::Tcp(a), Self::Tcp(b)) = (self, other) else { return self == other };
        let same_family = a.is_ipv4() == b.is_ipv4();
        let one_takes_all = a.ip().is_unspecified() || b.ip().is_unspecified();
        a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || same_family && one_takes_all)
    }
}

impl Endpoint {
    /// Whether it plainly leads back to a listener at `address`; names other than `localhost` are not resolved.
    pub(super) fn leads_to(&self, address: &Address) -> bool {
        match (&self.target, address) {
            (Target::Unix(path), Address::Unix(listener)) => path == listener,
            (Target::Host { name, port }, Address::Tcp(listener)) => {
                let ip = match name.as_str() {
                    "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                    name => name.parse().ok(),
                };
                *port == listener.port()
                    && ip.is_some_and(|ip: IpAddr| {
                        ip == listener.ip()
                            || listener.ip().is_unspecified() && (ip.is_loopback() || ip.is_unspecified())
                    })
            }
            _ => false,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(text, path).map(Self::Unix);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Tcp(address));
        }
        match text.strip_prefix("localhost:") {
            Some(port) => {
                let port = port_number(port).ok_or_else(|| AddressError::Port(text.into()))?;
                Ok(Self::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
            }
            None => Err(AddressError::Listen(text.into())),
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H2c => "h2c",
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.scheme, &self.target) {
            (Scheme::Http, Target::Unix(path)) => write!(f, "unix:{}", path.display()),
            (scheme, Target::Unix(path)) => write!(f, "{scheme}+unix:{}", path.display()),
            (scheme, Target::Host { name, port }) => write!(f, "{scheme}://{}:{port}", host_text(name)),
        }
    }
}

impl FromStr for Endpoint {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        for (prefix, scheme) in [("unix:", Scheme::Http), ("h2c+unix:", Scheme::H2c)] {
            if let Some(path) = text.strip_prefix(prefix) {
                return Ok(Self { scheme, target: Target::Unix(socket_path(text, path)?) });
            }
        }
        let (scheme, authority) = text.split_once("://").ok_or_else(|| AddressError::Scheme(text.into()))?;
        let (scheme, default_port) = match scheme {
            "http" => (Scheme::Http, 80),
            "https" => (Scheme::Https, 443),
            "h2c" => (Scheme::H2c, 80),
            _ => return Err(AddressError::Scheme(text.into())),
        };
        if authority.contains(['/', '?', '#']) {
            return Err(AddressError::Path(text.into()));
        }
        if authority.contains('@') {
            return Err(AddressError::UserInfo(text.into()));
        }
        let (name, port) = split_port(authority).ok_or_else(|| AddressError::Host(text.into()))?;
        let port = match port {
            None => default_port,
            Some(port) => {
                port_number(port).filter(|port| *port != 0).ok_or_else(|| AddressError::Port(text.into()))?
            }
        };
        Ok(Self { scheme, target: Target::Host { name, port } })
    }
}

/// A host as it stands before a port.
pub(super) fn host_text(host: &str) -> Cow<'_, str> {
    if host.contains(':') { format!("[{host}]").into() } else { host.into() }
}

/// `HOST:PORT`, both of them there.
pub(super) fn host_and_port(authority: &str) -> Option<(String, u16)> {
    let (host, port) = split_port(authority)?;
    Some((host, port_number(port?).filter(|port| *port != 0)?))
}

/// The host in its canonical form, and the port if there is one.
fn split_port(authority: &str) -> Option<(String, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (literal, after) = rest.split_once(']')?;
        let name = literal.parse::<Ipv6Addr>().ok()?.to_string();
        return match after {
            "" => Some((name, None)),
            _ => Some((name, Some(after.strip_prefix(':')?))),
        };
    }
    let (name, port) = match authority.split_once(':') {
        Some((name, port)) if !port.contains(':') => (name, Some(port)),
        Some(_) => return None,
        None => (authority, None),
    };
    is_host_name(name).then(|| (name.to_ascii_lowercase(), port))
}

/// Letters, digits, hyphens and (common in container networks) underscores in labels that are not empty.
pub(super) fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        !label.is_empty() && label.bytes().all(plain)
    };
    name.len() <= MAX_NAME && name.strip_suffix('.').unwrap_or(name).split('.').all(label)
}

fn port_number(text: &str) -> Option<u16> {
    text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn socket_path(text: &str, path: &str) -> Result<PathBuf, AddressError> {
    let usable = path.starts_with('/') && path.len() <= MAX_SOCKET_PATH && !path.contains('\0');
    usable.then(|| PathBuf::from(path)).ok_or_else(|| AddressError::Socket(text.into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(scheme: Scheme, name: &str, port: u16) -> Endpoint {
        Endpoint { scheme, target: Target::Host { name: name.into(), port } }
    }

    #[test]
    fn endpoints_are_read_with_default_ports() {
        for (text, endpoint) in [
            ("http://app", host(Scheme::Http, "app", 80)),
            ("https://App.example:8443", host(Scheme::Https, "app.example", 8443)),
            ("https://app.example", host(Scheme::Https, "app.example", 443)),
            ("h2c://[::1]:50051", host(Scheme::H2c, "::1", 50051)),
            ("http://[2001:DB8:0::1]", host(Scheme::Http, "2001:db8::1", 80)),
            ("h2c+unix:/a", Endpoint { scheme: Scheme::H2c, target: Target::Unix("/a".into()) }),
            (
                "unix:/run/app.sock",
                Endpoint { scheme: Scheme::Http, target: Target::Unix("/run/app.sock".into()) },
            ),
        ] {
            assert_eq!(text.parse(), Ok(endpoint), "{text}");
        }
    }

    #[test]
    fn what_is_not_an_endpoint_says_why() {
        let error = |text: &str| text.parse::<Endpoint>().unwrap_err();
        let socket = format!("unix:/{}", "x".repeat(MAX_SOCKET_PATH));
        for (text, expected) in [
            ("app:3000", AddressError::Scheme as fn(String) -> AddressError),
            ("ftp://app", AddressError::Scheme),
            ("HTTP://app", AddressError::Scheme),
            ("http://app/", AddressError::Path),
            ("http://app?x", AddressError::Path),
            ("http://me@app", AddressError::UserInfo),
            ("http://", AddressError::Host),
            ("http://:80", AddressError::Host),
            ("http://::1:80", AddressError::Host),
            ("http://[::1", AddressError::Host),
            ("http://[::1]80", AddressError::Host),
            ("http://a..b", AddressError::Host),
            ("http://a b", AddressError::Host),
            ("http://app:", AddressError::Port),
            ("http://app:0", AddressError::Port),
            ("http://app:+80", AddressError::Port),
            ("http://app:65536", AddressError::Port),
            ("unix:run/app.sock", AddressError::Socket),
            (&socket, AddressError::Socket),
        ] {
            assert_eq!(error(text), expected(text.into()), "{text}");
        }
    }

    #[test]
    fn addresses_to_listen_on() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        assert_eq!("0.0.0.0:80".parse(), Ok(tcp("0.0.0.0:80")));
        assert_eq!("localhost:80".parse(), Ok(tcp("127.0.0.1:80")));
        assert_eq!("[::1]:0".parse(), Ok(tcp("[::1]:0")));
        assert_eq!("unix:/run/a".parse(), Ok(Address::Unix("/run/a".into())));
        for text in [":80", "*:80", "app:80", "80", "127.0.0.1", "::1:80", "http://127.0.0.1:80"] {
            assert_eq!(text.parse::<Address>(), Err(AddressError::Listen(text.into())), "{text}");
        }
    }

    #[test]
    fn only_loopback_and_sockets_are_local() {
        let local = |text: &str| text.parse::<Address>().unwrap().is_local();
        assert!(
            local("127.8.8.8:1") && local("[::1]:1") && local("[::ffff:127.0.0.1]:1") && local("unix:/a")
        );
        assert!(!local("0.0.0.0:1") && !local("[::]:1") && !local("10.0.0.1:1"));
    }

    #[test]
    fn a_wildcard_address_collides_with_each_of_its_family() {
        let collide = |a: &str, b: &str| {
            let (a, b) = (a.parse::<Address>().unwrap(), b.parse::<Address>().unwrap());
            assert_eq!(a.collides_with(&b), b.collides_with(&a));
            a.collides_with(&b)
        };
        assert!(collide("0.0.0.0:80", "127.0.0.1:80"));
        assert!(collide("127.0.0.1:80", "127.0.0.1:80"));
        assert!(collide("unix:/a", "unix:/a"));
        assert!(!collide("127.0.0.1:80", "127.0.0.2:80"));
        assert!(!collide("0.0.0.0:80", "127.0.0.1:81"));
        assert!(!collide("0.0.0.0:80", "[::1]:80"));
        assert!(!collide("127.0.0.1:0", "127.0.0.1:0"), "port 0 is a new port each time");
    }

    fn any_endpoint() -> impl Strategy<Value = Endpoint> {
        let scheme = prop_oneof![Just(Scheme::Http), Just(Scheme::Https), Just(Scheme::H2c)];
        let name = prop_oneof![
            "[a-z0-9_-]{1,20}(\\.[a-z0-9-]{1,20}){0,4}",
            any::<Ipv4Addr>().prop_map(|ip| ip.to_string()),
            any::<Ipv6Addr>().prop_map(|ip| ip.to_string()),
        ];
        let tcp = (scheme, name, 1..=u16::MAX).prop_map(|(scheme, name, port)| host(scheme, &name, port));
        let unix = (prop_oneof![Just(Scheme::Http), Just(Scheme::H2c)], "/[ -~]{1,60}")
            .prop_map(|(scheme, path)| Endpoint { scheme, target: Target::Unix(path.into()) });
        prop_oneof![tcp, unix]
    }

    proptest! {
        #[test]
        fn endpoints_round_trip(endpoint in any_endpoint()) {
            prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        }

        #[test]
        fn addresses_round_trip(address in prop_oneof![
            any::<(IpAddr, u16)>().prop_map(|address| Address::Tcp(SocketAddr::from(address))),
            "/[ -~]{1,60}".prop_map(|path| Address::Unix(path.into())),
        ]) {
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn nothing_that_is_written_makes_reading_panic(text in "(http://|unix:|\\[)?.{0,30}") {
            let _ = text.parse::<Endpoint>();
            let _ = text.parse::<Address>();
        }
    }
}
