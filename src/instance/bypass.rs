//! Connections to an instance that do not come from Segue, by the kernel's own tables of TCP sockets.
//!
//! A connection within this machine stands there twice, once for each end; one from elsewhere only with the end that is
//! here. Whose the client's end is, its inode says: it is among the open files of the process that made it.
//!
//! ```text
//!  row   local             remote            inode
//!  an instance's end       127.0.0.1:3000    127.0.0.1:41000   of the instance
//!  its client's end        127.0.0.1:41000   127.0.0.1:3000    of Segue, or of somebody else
//! ```
//!
//! The tables are of this process's network: what runs in a network of its own, or on another machine, is not in them.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Both: an instance that listens on `[::]` has its IPv4 connections in the second.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
/// States of a socket, as the tables write them.
const ESTABLISHED: &[u8] = b"01";
const LISTEN: &[u8] = b"0A";

/// How many connections to `endpoints` are held by processes other than `ours`, remote ones included.
///
/// `None`: it cannot be seen from here. Where some of the endpoints can be seen and others cannot, what is counted is
/// counted, and nothing is `None`. Reads whole tables, so it blocks for some ten milliseconds when there are ten
/// thousand connections.
///
/// A table is not read in one moment, so connections count only if a second look finds them too.
pub fn count(endpoints: &[SocketAddr], ours: &[u32]) -> io::Result<Option<u64>> {
    let (here, elsewhere): (HashSet<_>, HashSet<_>) =
        endpoints.iter().map(canonical).partition(|endpoint| is_of_this_machine(endpoint.ip()));
    if here.is_empty() {
        return Ok(None);
    }
    let first = look(&here, ours)?;
    let mut seen = Some(first.strangers.len() as u64);
    if !first.strangers.is_empty() {
        let second = look(&here, ours)?;
        seen = Some(first.strangers.intersection(&second.strangers).count() as u64);
    }
    Ok(seen.filter(|count| *count > 0 || elsewhere.is_empty() && first.is_whole))
}

struct Look {
    /// Both ends of each connection that is not ours: the instance's, its client's.
    strangers: HashSet<(SocketAddr, SocketAddr)>,
    /// Every endpoint is listened on here; otherwise its connections go somewhere else (a packet filter may send them
    /// on to a container).
    is_whole: bool,
}

fn look(endpoints: &HashSet<SocketAddr>, ours: &[u32]) -> io::Result<Look> {
    let mut table = Table::default();
    // A connection that is opened or closed meanwhile is ours on one side of the look or on the other.
    let mut inodes = inodes(ours)?;
    for path in TABLES {
        match fs::read(path) {
            Ok(text) => table.read(&text, endpoints),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if !table.held.is_empty() {
        inodes.extend(self::inodes(ours)?);
    }
    Ok(Look { is_whole: table.listens_on_all(endpoints), strangers: table.strangers(&inodes) })
}

/// What the tables say about some endpoints.
#[derive(Debug, Default)]
struct Table {
    /// Instances' ends of connections, with the address of the other end.
    held: HashSet<(SocketAddr, SocketAddr)>,
    /// Clients' ends of connections, the same way round, with the inode.
    made: Vec<((SocketAddr, SocketAddr), u64)>,
    listening: HashSet<SocketAddr>,
}

impl Table {
    fn read(&mut self, text: &[u8], endpoints: &HashSet<SocketAddr>) {
        let rows = text.split(|byte| *byte == b'\n').filter_map(Row::parse);
        for Row { local, remote, state, inode } in rows {
            if state == LISTEN {
                self.listening.insert(local);
            } else if state == ESTABLISHED && endpoints.contains(&local) {
                self.held.insert((local, remote));
            } else if state == ESTABLISHED && endpoints.contains(&remote) {
                self.made.push(((remote, local), inode));
            }
        }
    }

    /// Connections whose client's end is not among `ours`.
    fn strangers(mut self, ours: &HashSet<u64>) -> HashSet<(SocketAddr, SocketAddr)> {
        for (ends, inode) in &self.made {
            if ours.contains(inode) {
                self.held.remove(ends);
            }
        }
        self.held
    }

    fn listens_on_all(&self, endpoints: &HashSet<SocketAddr>) -> bool {
        let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        endpoints.iter().all(|endpoint| {
            let all = any.map(|ip| SocketAddr::new(ip, endpoint.port()));
            self.listening.contains(endpoint) || all.iter().any(|all| self.listening.contains(all))
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Row<'a> {
    local: SocketAddr,
    remote: SocketAddr,
    state: &'a [u8],
    /// 0 while nobody has accepted the connection, and once nobody holds it any more.
    inode: u64,
}

impl<'a> Row<'a> {
    /// `None` for the heading, and for whatever is no row.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
        let local = fields.nth(1)?;
        let remote = fields.next()?;
        let state = fields.next()?;
        // Rows of connections that are over are many, and are not asked for.
        if state != ESTABLISHED && state != LISTEN {
            return None;
        }
        let inode = std::str::from_utf8(fields.nth(5)?).ok()?.parse().ok()?;
        Some(Self { local: address(local)?, remote: address(remote)?, state, inode })
    }
}

/// `0100007F:0BB8`: the address in words of 32 bits as they lie in memory, the port as a number.
fn address(field: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = std::str::from_utf8(field).ok()?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |from: usize| {
        u32::from_str_radix(ip.get(from..from + 8)?, 16)
            .ok()
            .map(|word| u128::from(u32::from_be_bytes(word.to_ne_bytes())))
    };
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(word(0)?).ok()?)),
        32 => {
            let bits = word(0)? << 96 | word(8)? << 64 | word(16)? << 32 | word(24)?;
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
        _ => return None,
    };
    Some(canonical(&SocketAddr::new(ip, port)))
}

/// An IPv4 connection to an IPv6 socket is written as IPv6 on one end only.
fn canonical(address: &SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Only such an address can be bound to.
fn is_of_this_machine(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// Of every socket that these processes hold; one that has ended holds none.
fn inodes(pids: &[u32]) -> io::Result<HashSet<u64>> {
    let mut inodes = HashSet::new();
    for pid in pids {
        let entries = match fs::read_dir(format!("/proc/{pid}/fd")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        let links = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        inodes.extend(links.filter_map(|link| {
            link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()
        }));
    }
    Ok(inodes)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    const V4: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 53 1 0 100 0 0 10 0
   1: 0100007F:A028 0100007F:0BB8 01 00000000:00000000 02:000000A1 00000000     0        0 70 2 0 20 4 30 10 -1
   2: 0100007F:A029 0100007F:0BB8 01 00000000:00000000 02:000000A1 00000000     0        0 71 2 0 20 4 30 10 -1
   3: 0100007F:0BB8 0100007F:A028 01 00000000:00000000 00:00000000 00000000     0        0 80 1 0 20 4 30 10 -1
   4: 0100007F:0BB8 0100007F:A029 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1
   5: 0100007F:0BB8 0100007F:A02A 06 00000000:00000000 03:00000F1A 00000000     0        0 0 3 0
";
    const V6: &str = "\
   0: 00000000000000000000000000000000:0BB9 00000000000000000000000000000000:0000 0A 0:0 00:0 0     0        0 54 1 0
   1: 0000000000000000FFFF00000100007F:0BB9 0000000000000000FFFF00000900000A:A028 01 0:0 00:0 0     0        0 90 1 0
   2: B80D0120000000000000000001000000:0BB9 B80D0120000000000000000002000000:A028 01 0:0 00:0 0     0        0 91 1 0
";

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn connections_are_told_apart_by_who_holds_the_clients_end() {
        let endpoints = HashSet::from([at("127.0.0.1:3000"), at("127.0.0.1:3001"), at("[2001:db8::1]:3001")]);
        let read = || {
            let mut table = Table::default();
            table.read(V4.as_bytes(), &endpoints);
            table.read(V6.as_bytes(), &endpoints);
            table
        };
        let remote = [
            (at("127.0.0.1:3001"), at("10.0.0.9:41000")),
            (at("[2001:db8::1]:3001"), at("[2001:db8::2]:41000")),
        ];
        let of = |number| (at("127.0.0.1:3000"), SocketAddr::from(([127, 0, 0, 1], number)));
        for (ours, strangers) in
            [(vec![70, 71], vec![]), (vec![70], vec![of(41001)]), (vec![80, 0], vec![of(41000), of(41001)])]
        {
            let expected: HashSet<_> = strangers.into_iter().chain(remote).collect();
            assert_eq!(read().strangers(&ours.iter().copied().collect()), expected, "{ours:?}");
        }
        assert!(read().listens_on_all(&endpoints));
        assert!(!read().listens_on_all(&HashSet::from([at("127.0.0.1:3002")])));
    }

    proptest! {
        #[test]
        fn no_table_is_too_odd(text in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..900) {
            let endpoints = HashSet::from([at("127.0.0.1:3000")]);
            let mut table = Table::default();
            table.read(&text, &endpoints);
            table.read(V4.as_bytes().get(..cut).unwrap_or_default(), &endpoints);
            table.read(V6.as_bytes().get(..cut).unwrap_or_default(), &endpoints);
        }
    }

    #[test]
    fn a_connection_is_ours_only_if_this_process_holds_it() {
        let ours = [std::process::id()];
        for listening in ["127.0.0.1:0", "[::]:0"] {
            // A kernel without IPv6 has less to show.
            let Ok(listener) = TcpListener::bind(listening) else { continue };
            let endpoint = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
            let mine: Vec<_> = (0..3).map(|_| TcpStream::connect(endpoint).unwrap()).collect();
            let _accepted = listener.accept().unwrap();
            assert_eq!(count(&[endpoint], &ours).unwrap(), Some(0));
            assert_eq!(count(&[endpoint], &[]).unwrap(), Some(3), "as somebody else would see them");
            drop(mine);
        }
    }

    #[test]
    fn another_process_is_a_stranger() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap();
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{}; read -r _", endpoint.port());
        let mut other = Command::new("bash").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
        let accepted = listener.accept().unwrap();
        assert_eq!(count(&[endpoint], &[std::process::id()]).unwrap(), Some(1));
        assert_eq!(count(&[endpoint], &[std::process::id(), other.id()]).unwrap(), Some(0));
        drop(other.stdin.take());
        other.wait().unwrap();
        assert_eq!(count(&[endpoint], &[]).unwrap(), Some(0), "what is closed does not count");
        drop(accepted);
    }

    #[test]
    fn what_is_elsewhere_cannot_be_seen() {
        // TEST-NET-1, which nobody has.
        let elsewhere = at("192.0.2.1:3000");
        assert_eq!(count(&[elsewhere], &[]).unwrap(), None);
        assert_eq!(count(&[], &[]).unwrap(), None);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap();
        assert_eq!(count(&[endpoint], &[]).unwrap(), Some(0));
        assert_eq!(count(&[endpoint, elsewhere], &[]).unwrap(), None, "nothing was seen of half of it");
        let _held = TcpStream::connect(endpoint).unwrap();
        assert_eq!(count(&[endpoint, elsewhere], &[]).unwrap(), Some(1));
        drop(listener);
        assert_eq!(count(&[endpoint], &[]).unwrap(), None, "nobody listens there");
    }

    #[test]
    fn ten_thousand_rows_are_one_pass() {
        let rows: Vec<String> = (0..20_000_u32)
            .map(|n| {
                let client = format!("{:08X}:{:04X}", 0x0100_007F + (n << 16), 40_000 + n % 20_000);
                let (local, remote) = (&client, "0100007F:0BB8");
                let (local, remote) =
                    if n % 2 == 0 { (local.as_str(), remote) } else { (remote, local.as_str()) };
                format!("   {n}: {local} {remote} 01 0:0 00:0 0     0        0 {n} 1 0\n")
            })
            .collect();
        let endpoints = HashSet::from([at("127.0.0.1:3000")]);
        let began = Instant::now();
        let mut table = Table::default();
        table.read(rows.concat().as_bytes(), &endpoints);
        assert_eq!((table.held.len(), table.made.len()), (10_000, 10_000));
        table.strangers(&(0..20_000).collect());
        // Something that grows with the square of them takes minutes.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
