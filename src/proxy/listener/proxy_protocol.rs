//! PROXY protocol, versions 1 and 2: who is behind the load balancer that connected.
//!
//! The header comes before anything else, TLS included, and what follows belongs to the next layer, so not
//! one byte too many may be read. [`parse`] therefore says for an incomplete header how many more bytes are
//! *certain* to belong to it, and [`read_header`] asks for exactly those. That works on any stream and needs
//! neither peeking nor giving bytes back; a v1 line costs some ten short reads, a v2 header three.
//!
//! Anything that is not a header is an error at its first wrong byte: on a socket that expects the protocol, a
//! peer that does not speak it must not be able to pass as a caller of its choice.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest line that version 1 allows, CR LF included.
const V1_MAX: usize = 107;
/// The shortest, `PROXY UNKNOWN\r\n`; no version 2 header is shorter either.
const V1_MIN: usize = 15;
const V1_PREFIX: &[u8] = b"PROXY ";

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED: usize = 16;
/// The format allows 64 KiB; addresses take up to 216 bytes, and the extensions in use (certificate names
/// among them) a few hundred. A peer that needs more than this is not a load balancer.
const V2_MAX: usize = 4096;

/// Extension types that are looked at.
const TLV_CRC32C: u8 = 0x03;
const TLV_SSL: u8 = 0x20;
/// Bit of the SSL extension's first byte: the caller came over TLS.
const SSL_CLIENT_TLS: u8 = 0x01;

/// What the bytes received so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// So far a header; at least this many more bytes (never 0) belong to it.
    Incomplete { at_least: usize },
    /// A whole header of `consumed` bytes; what follows belongs to the next layer.
    Header { consumed: usize, header: Header },
}

/// What the header says. Without addresses (`LOCAL`, `UNKNOWN`, a family other than TCP) the socket's own hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub addresses: Option<Addresses>,
    /// The caller used TLS towards the load balancer, as far as that one tells.
    pub tls: bool,
}

/// The connection that the load balancer accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// Why a connection has no usable PROXY header. All of them end the connection without an answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the connection does not begin with a PROXY protocol header; does the peer send one?")]
    NotProxy,
    #[error("malformed PROXY protocol header: {0}")]
    Malformed(&'static str),
    #[error("the PROXY protocol header has {0} bytes, more than the {V2_MAX} that are accepted")]
    TooLong(usize),
    #[error("the checksum of the PROXY protocol header is wrong")]
    Checksum,
    #[error("no whole PROXY protocol header within {0:?}")]
    TimedOut(Duration),
    /// The peer left without a byte, as health probes do.
    #[error("the connection was closed before a PROXY protocol header")]
    Closed,
    #[error("cannot read the PROXY protocol header: {0}")]
    Io(#[from] io::Error),
}

/// Reads one header, and no byte more, within `timeout`.
pub async fn read_header<S>(stream: &mut S, timeout: Duration) -> Result<Header, Error>
where
    S: AsyncRead + Unpin,
{
    match tokio::time::timeout(timeout, read_untimed(stream)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(Error::TimedOut(timeout)),
    }
}

async fn read_untimed<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Header, Error> {
    let mut received = Vec::with_capacity(V1_MAX);
    loop {
        let missing = match parse(&received)? {
            Parsed::Header { header, .. } => return Ok(header),
            Parsed::Incomplete { at_least } => at_least as u64,
        };
        if (&mut *stream).take(missing).read_buf(&mut received).await? == 0 {
            let cut = || Error::Io(io::ErrorKind::UnexpectedEof.into());
            return Err(if received.is_empty() { Error::Closed } else { cut() });
        }
    }
}

/// Reads a header off the front of `input`.
pub fn parse(input: &[u8]) -> Result<Parsed, Error> {
    if input.is_empty() {
        return Ok(Parsed::Incomplete { at_least: V1_MIN });
    }
    if agree(input, V2_SIGNATURE) {
        return parse_v2(input);
    }
    if agree(input, V1_PREFIX) {
        return parse_v1(input);
    }
    Err(Error::NotProxy)
}

/// One is a prefix of the other.
fn agree(input: &[u8], expected: &[u8]) -> bool {
    input.iter().zip(expected).all(|(a, b)| a == b)
}

// === version 1 ===

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

fn parse_v1(input: &[u8]) -> Result<Parsed, Error> {
    let window = input.get(..V1_MAX).unwrap_or(input);
    let Some(end) = window.iter().position(|&byte| byte == b'\r') else {
        if window.len() >= V1_MAX - 1 || window.contains(&b'\n') {
            return Err(Error::Malformed("no CR LF where the line has to end"));
        }
        let at_least = v1_missing(window)?.max(V1_MIN.saturating_sub(window.len()));
        return Ok(Parsed::Incomplete { at_least });
    };
    match window.get(end + 1) {
        Some(b'\n') => {}
        Some(_) => return Err(Error::Malformed("CR without LF")),
        None if end + 1 < V1_MAX => return Ok(Parsed::Incomplete { at_least: 1 }),
        None => return Err(Error::Malformed("no CR LF where the line has to end")),
    }
    let line = window.get(..end).unwrap_or_default();
    let addresses = match v1_protocol(line)? {
        Protocol::Known(family, fields) => Some(v1_addresses(family, fields)?),
        Protocol::Unknown => None,
        Protocol::Undecided => return Err(Error::Malformed("the line ends before its protocol")),
    };
    Ok(Parsed::Header { consumed: end + 2, header: Header { addresses, tls: false } })
}

enum Protocol<'a> {
    /// With what follows it.
    Known(Family, &'a [u8]),
    /// What follows is to be ignored.
    Unknown,
    /// Too short to tell.
    Undecided,
}

fn v1_protocol(line: &[u8]) -> Result<Protocol<'_>, Error> {
    let rest = line.get(V1_PREFIX.len()..).unwrap_or_default();
    if let Some(fields) = rest.strip_prefix(b"TCP4 ") {
        return Ok(Protocol::Known(Family::V4, fields));
    }
    if let Some(fields) = rest.strip_prefix(b"TCP6 ") {
        return Ok(Protocol::Known(Family::V6, fields));
    }
    match rest.strip_prefix(b"UNKNOWN") {
        Some([] | [b' ', ..]) => return Ok(Protocol::Unknown),
        Some(_) => return Err(Error::Malformed("unknown protocol")),
        None => {}
    }
    let undecided = [&b"TCP4 "[..], b"TCP6 ", b"UNKNOWN"].iter().any(|known| known.starts_with(rest));
    if undecided { Ok(Protocol::Undecided) } else { Err(Error::Malformed("unknown protocol")) }
}

/// How many bytes a line without its CR LF still needs, at the very least.
fn v1_missing(line: &[u8]) -> Result<usize, Error> {
    const CRLF: usize = 2;
    let Protocol::Known(family, fields) = v1_protocol(line)? else { return Ok(CRLF) };
    let shortest_address = match family {
        Family::V4 => "0.0.0.0".len(),
        Family::V6 => "::".len(),
    };
    let shortest = [shortest_address, shortest_address, 1, 1];
    let mut begun = fields.split(|&byte| byte == b' ');
    let mut missing = CRLF;
    for least in shortest {
        // A field that has not begun also lacks the space before it.
        missing += begun.next().map_or(least + 1, |field| least.saturating_sub(field.len()));
    }
    if begun.next().is_some() {
        return Err(Error::Malformed("too many fields"));
    }
    Ok(missing)
}

fn v1_addresses(family: Family, fields: &[u8]) -> Result<Addresses, Error> {
    let text = str::from_utf8(fields).map_err(|_| Error::Malformed("not ASCII"))?;
    let mut fields = text.split(' ');
    let mut next = || fields.next().ok_or(Error::Malformed("too few fields"));
    let (source, destination) = (v1_address(family, next()?)?, v1_address(family, next()?)?);
    let (source_port, destination_port) = (v1_port(next()?)?, v1_port(next()?)?);
    if fields.next().is_some() {
        return Err(Error::Malformed("too many fields"));
    }
    Ok(Addresses {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    })
}

fn v1_address(family: Family, text: &str) -> Result<IpAddr, Error> {
    let parsed = match family {
        Family::V4 => text.parse::<Ipv4Addr>().map(IpAddr::V4),
        Family::V6 => text.parse::<Ipv6Addr>().map(IpAddr::V6),
    };
    parsed.map_err(|_| Error::Malformed("not an address of the stated family"))
}

fn v1_port(text: &str) -> Result<u16, Error> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(Error::Malformed("not a port"))
}

// === version 2 ===

fn parse_v2(input: &[u8]) -> Result<Parsed, Error> {
    // Wrong values are refused as soon as they are there, not when the header is whole.
    let local = match input.get(12) {
        None | Some(0x21) => false,
        Some(0x20) => true,
        Some(_) => return Err(Error::Malformed("unknown version or command")),
    };
    // Known families: TCP and UDP over IPv4 and IPv6, Unix stream and datagram, unspecified.
    let family = match input.get(13) {
        None => 0,
        Some(&family @ (0x00 | 0x11 | 0x12 | 0x21 | 0x22 | 0x31 | 0x32)) => family,
        Some(_) => return Err(Error::Malformed("unknown address family")),
    };
    let &[.., high, low] = input.get(..V2_FIXED).unwrap_or_default() else {
        return Ok(Parsed::Incomplete { at_least: V2_FIXED - input.len() });
    };
    let consumed = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    if consumed > V2_MAX {
        return Err(Error::TooLong(consumed));
    }
    let Some(whole) = input.get(..consumed) else {
        return Ok(Parsed::Incomplete { at_least: consumed - input.len() });
    };
    let body = whole.get(V2_FIXED..).unwrap_or_default();
    if local {
        return Ok(Parsed::Header { consumed, header: Header { addresses: None, tls: false } });
    }
    let (addresses, extensions) = v2_addresses(family, body)?;
    let tls = read_extensions(whole, extensions)?;
    Ok(Parsed::Header { consumed, header: Header { addresses, tls } })
}

/// The addresses of a TCP connection, and what follows the address block.
fn v2_addresses(family: u8, body: &[u8]) -> Result<(Option<Addresses>, &[u8]), Error> {
    let short = Error::Malformed("too short for its addresses");
    match family {
        0x11 => {
            let Some((block, rest)) = body.split_first_chunk::<12>() else { return Err(short) };
            let [s0, s1, s2, s3, d0, d1, d2, d3, ports @ ..] = *block;
            let (source, destination) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
            Ok((Some(v2_pair(source.into(), destination.into(), ports)), rest))
        }
        0x21 => {
            let block = body.split_first_chunk::<16>().and_then(|(source, rest)| {
                let (destination, rest) = rest.split_first_chunk::<16>()?;
                let (ports, rest) = rest.split_first_chunk::<4>()?;
                Some((
                    v2_pair(Ipv6Addr::from(*source).into(), Ipv6Addr::from(*destination).into(), *ports),
                    rest,
                ))
            });
            let (pair, rest) = block.ok_or(short)?;
            Ok((Some(pair), rest))
        }
        other => {
            let length = match other {
                0x12 => 12,
                0x22 => 36,
                0x31 | 0x32 => 216,
                // Nothing says where addresses of an unspecified family would end.
                _ => body.len(),
            };
            Ok((None, body.get(length..).ok_or(short)?))
        }
    }
}

fn v2_pair(source: IpAddr, destination: IpAddr, [s0, s1, d0, d1]: [u8; 4]) -> Addresses {
    Addresses {
        source: SocketAddr::new(source, u16::from_be_bytes([s0, s1])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([d0, d1])),
    }
}

/// Walks the extensions, verifies a checksum if there is one, and says whether the caller used TLS.
fn read_extensions(whole: &[u8], mut extensions: &[u8]) -> Result<bool, Error> {
    let broken = || Error::Malformed("an extension reaches beyond the header");
    let mut tls = false;
    while !extensions.is_empty() {
        let (&[kind, high, low], rest) = extensions.split_first_chunk::<3>().ok_or_else(broken)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, rest) = rest.split_at_checked(length).ok_or_else(broken)?;
        match kind {
            TLV_SSL => tls = value.first().is_some_and(|client| client & SSL_CLIENT_TLS != 0),
            TLV_CRC32C => {
                let stated = <[u8; 4]>::try_from(value).map_err(|_| Error::Malformed("not a CRC-32C"))?;
                // The sum is taken with its own four bytes as zeros.
                let at = whole.len() - rest.len() - value.len();
                if crc32c(whole, at..at + value.len()) != u32::from_be_bytes(stated) {
                    return Err(Error::Checksum);
                }
            }
            _ => {}
        }
        extensions = rest;
    }
    Ok(tls)
}

/// CRC-32C of `bytes`, reading those within `zeroed` as 0. Bit by bit: it runs once per connection over some
/// hundred bytes.
fn crc32c(bytes: &[u8], zeroed: std::ops::Range<usize>) -> u32 {
    const REVERSED_POLYNOMIAL: u32 = 0x82F6_3B78;
    let mut crc = u32::MAX;
    for (index, &byte) in bytes.iter().enumerate() {
        crc ^= u32::from(if zeroed.contains(&index) { 0 } else { byte });
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ REVERSED_POLYNOMIAL } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests;
