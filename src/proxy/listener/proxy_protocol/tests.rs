//! Both versions, as a load balancer would send them and as it never would.

use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn whole(input: &[u8]) -> (usize, Header) {
    match parse(input).unwrap() {
        Parsed::Header { consumed, header } => (consumed, header),
        Parsed::Incomplete { .. } => panic!("incomplete: {}", input.escape_ascii()),
    }
}

fn addresses(source: &str, destination: &str) -> Addresses {
    Addresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [V2_SIGNATURE, &[0x20 | command, family], &length, body].concat()
}

fn v2_body(addresses: &Addresses) -> (u8, Vec<u8>) {
    let ports = [addresses.source.port().to_be_bytes(), addresses.destination.port().to_be_bytes()].concat();
    match (addresses.source.ip(), addresses.destination.ip()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => (0x11, [&s.octets()[..], &d.octets(), &ports].concat()),
        (IpAddr::V6(s), IpAddr::V6(d)) => (0x21, [&s.octets()[..], &d.octets(), &ports].concat()),
        _ => unreachable!("one family"),
    }
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

#[test]
fn version_1_names_both_ends() {
    let (consumed, header) = whole(b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET / HTTP/1.1\r\n");
    assert_eq!(consumed, 45);
    assert_eq!(header.addresses, Some(addresses("192.0.2.1:56324", "198.51.100.2:443")));
    let (_, header) = whole(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n");
    assert_eq!(header.addresses, Some(addresses("[2001:db8::1]:1", "[::1]:65535")));
}

#[test]
fn without_addresses_the_sockets_own_hold() {
    let long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_MAX - 16));
    assert_eq!(long.len(), V1_MAX);
    for input in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ffff:: ffff:: 65535 65535\r\n".to_vec(),
        long.into_bytes(),
        v2(0, 0x00, b""),
        v2(0, 0x11, b"short"),
        v2(1, 0x00, b"whatever"),
        v2(1, 0x31, &[0; 216]),
        v2(1, 0x12, &[1; 12]),
    ] {
        let (consumed, header) = whole(&input);
        assert_eq!((consumed, header.addresses), (input.len(), None), "{}", input.escape_ascii());
    }
}

#[test]
fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
    for input in [
        &b"G"[..],
        b"PROXX",
        b"PROXY TCP5",
        b"PROXY UNKNOWNX",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1",
        b"PROXY TCP4 1.2.3.4\n",
        b"PROXY TCP4 1.2.3.4\rX",
        b"PROXY \r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        b"PROXY TCP4 1.2.3.4  1.2.3.4 1 1\r\n",
        b"PROXY TCP4 ::1 ::1 1 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n",
        b"PROXY TCP4 \xff.2.3.4 1.2.3.4 1 1\r\n",
        b"\r\n\r\nX",
        b"\r\n\r\n\0\r\nQUIT\n\x11",
        b"\r\n\r\n\0\r\nQUIT\n\x22",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x41",
        &v2(1, 0x11, &[0; 11]),
        &v2(1, 0x21, &[0; 35]),
        &v2(1, 0x31, &[0; 215]),
        &v2(1, 0x11, &[&[0; 12][..], &[4, 0]].concat()),
        &v2(1, 0x11, &[&[0; 12][..], &[4, 0, 9, 1]].concat()),
        &[b'P'; 200],
        format!("PROXY UNKNOWN {}", "f".repeat(V1_MAX)).as_bytes(),
    ] {
        assert!(parse(input).is_err(), "{}", input.escape_ascii());
    }
}

#[test]
fn an_oversized_version_2_header_is_refused_before_it_is_read() {
    let huge = v2(1, 0x11, &[0; V2_MAX]);
    assert!(matches!(parse(&huge[..V2_FIXED]), Err(Error::TooLong(_))));
}

#[test]
fn extensions_are_skipped_and_tell_of_tls() {
    let plain = [&[9; 12][..], &tlv(0x02, b"host"), &tlv(0x04, b"")].concat();
    assert!(!whole(&v2(1, 0x11, &plain)).1.tls);
    for (client, tls) in [(1, true), (0, false), (7, true), (2, false)] {
        let body = [&[9; 12][..], &tlv(0xEA, &[1, 2, 3]), &tlv(TLV_SSL, &[client, 0, 0, 0, 0])].concat();
        assert_eq!(whole(&v2(1, 0x11, &body)).1.tls, tls, "{client}");
    }
}

#[test]
fn a_checksum_is_verified() {
    assert_eq!(crc32c(b"123456789", 0..0), 0xE306_9283);
    let body = [&[9; 12][..], &tlv(0x02, b"host"), &tlv(TLV_CRC32C, &[0; 4]), &tlv(0x04, b"")].concat();
    let mut header = v2(1, 0x11, &body);
    let sum = crc32c(&header, 0..0);
    let at = header.len() - 3 - 4;
    header[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(whole(&header).0, header.len());
    header[V2_FIXED] ^= 1;
    assert!(matches!(parse(&header), Err(Error::Checksum)));
}

#[tokio::test]
async fn no_byte_beyond_the_header_is_read() {
    let v2 = v2(1, 0x11, &[&[9; 12][..], &tlv(0x04, &[0; 500])].concat());
    for header in [&b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n"[..], b"PROXY TCP6 :: :: 0 0\r\n", &v2] {
        let (mut near, mut far) = tokio::io::duplex(8192);
        far.write_all(&[header, b"\r\nnext layer"].concat()).await.unwrap();
        drop(far);
        assert_eq!(read_header(&mut near, SECOND).await.unwrap(), whole(header).1);
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"\r\nnext layer", "after {}", header.escape_ascii());
    }
}

#[tokio::test]
async fn a_peer_that_leaves_or_stalls_is_told_apart() {
    let (mut near, far) = tokio::io::duplex(64);
    drop(far);
    assert!(matches!(read_header(&mut near, SECOND).await, Err(Error::Closed)));

    let (mut near, mut far) = tokio::io::duplex(64);
    far.write_all(b"PROXY TC").await.unwrap();
    let stalled = read_header(&mut near, Duration::from_millis(1)).await;
    assert!(matches!(stalled, Err(Error::TimedOut(_))), "{stalled:?}");
    drop(far);
    let cut = read_header(&mut near, SECOND).await;
    assert!(matches!(cut, Err(Error::Closed)), "{cut:?}");

    let (mut near, mut far) = tokio::io::duplex(64);
    far.write_all(b"PROXY TC").await.unwrap();
    drop(far);
    assert!(matches!(read_header(&mut near, SECOND).await, Err(Error::Io(_))));
}

/// Short spellings as often as long ones: they are what a wrong minimum would trip over.
fn any_addresses() -> impl Strategy<Value = Addresses> {
    let pair = |(source, destination): (IpAddr, IpAddr), (s, d): (u16, u16)| Addresses {
        source: SocketAddr::new(source, s),
        destination: SocketAddr::new(destination, d),
    };
    let port = prop_oneof![0..10_u16, any::<u16>()];
    let v4 = prop_oneof![any::<[u8; 4]>(), any::<[bool; 4]>().prop_map(|bits| bits.map(u8::from))]
        .prop_map(|octets| IpAddr::from(Ipv4Addr::from(octets)));
    let v6 = prop_oneof![any::<[u16; 8]>(), (0..10_u16).prop_map(|last| [0, 0, 0, 0, 0, 0, 0, last])]
        .prop_map(|groups| IpAddr::from(Ipv6Addr::from(groups)));
    (prop_oneof![(v4.clone(), v4), (v6.clone(), v6)], (port.clone(), port))
        .prop_map(move |(ips, ports)| pair(ips, ports))
}

fn any_header() -> impl Strategy<Value = (Vec<u8>, Option<Addresses>)> {
    let extensions = prop::collection::vec((5_u8..0x20, prop::collection::vec(any::<u8>(), 0..40)), 0..4);
    prop_oneof![
        any_addresses().prop_map(|both| {
            let family = if both.source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (source, destination) = (both.source, both.destination);
            let (ips, ports) = ((source.ip(), destination.ip()), (source.port(), destination.port()));
            let line = format!("PROXY {family} {} {} {} {}\r\n", ips.0, ips.1, ports.0, ports.1);
            (line.into_bytes(), Some(both))
        }),
        "[ -~]{0,91}".prop_map(|rest| (format!("PROXY UNKNOWN {rest}\r\n").into_bytes(), None)),
        (any_addresses(), extensions).prop_map(|(both, extensions)| {
            let (family, mut body) = v2_body(&both);
            for (kind, value) in &extensions {
                body.extend(tlv(*kind, value));
            }
            (v2(1, family, &body), Some(both))
        }),
    ]
}

proptest! {
    #[test]
    fn a_header_is_read_and_each_prefix_asks_for_no_more_than_is_left(
        (header, both) in any_header(),
        next in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let followed = [&header[..], &next].concat();
        let expected = Header { addresses: both, tls: false };
        prop_assert_eq!(whole(&followed), (header.len(), expected));
        for have in 0..header.len() {
            match parse(&header[..have]) {
                Ok(Parsed::Incomplete { at_least }) => {
                    prop_assert!((1..=header.len() - have).contains(&at_least), "{have} + {at_least}");
                }
                other => prop_assert!(false, "{have} bytes: {other:?}"),
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_judged(
        start in prop_oneof![
            Just(&b""[..]), Just(V1_PREFIX), Just(&b"PROXY TCP4 "[..]), Just(&b"PROXY TCP6 "[..]), Just(V2_SIGNATURE),
            Just(&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"[..]), Just(&b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0"[..]),
        ],
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let input = [start, &rest].concat();
        match parse(&input) {
            Ok(Parsed::Header { consumed, .. }) => prop_assert!((V1_MIN..=input.len()).contains(&consumed)),
            Ok(Parsed::Incomplete { at_least }) => prop_assert!(at_least > 0 && input.len() < V2_MAX),
            Err(_) => {}
        }
    }
}
