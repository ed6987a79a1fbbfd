//! What a shadow may reach, until it is active: a network namespace of its own, joined to this machine by one cable (a veth pair), and a
//! filter on the machine's end of it.
//!
//! ```text
//!  the instance's namespace            this machine
//!  lo                                  chain SEGUE-x: answers, and what is allowed; else refused
//!  eth0  10.213.a.b+1 ──────────────── sgx  10.213.a.b
//! ```
//!
//! Segue reaches the port of the instance through the cable, wherever the application listens in its namespace: the
//! packets are handed to its loopback. What is allowed is found by address; names are looked up when the network is made,
//! and the application's own look-ups work only if its name server is allowed too. IPv6 is off, so that there is no
//! second way. Root inside the namespace can leave it: this keeps an application from doing harm by mistake, not by intent.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::tool;

/// Names and addresses, written beside the instance before anything is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    namespace: String,
    interface: String,
    chain: String,
    /// The machine's end of the cable.
    machine: Ipv4Addr,
    /// Where the instance is reached.
    pub instance: Ipv4Addr,
}

/// The first two octets of all cables: a part of 10/8 that few use, in which a free piece is looked for.
const PREFIX: [u8; 2] = [10, 213];
/// Before giving up the search for a free piece.
const ATTEMPTS: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum AllowanceError {
    #[error("{0:?} cannot be allowed; write HOST:PORT")]
    Form(String),
    #[error("{host:?} has no IPv4 address that can be allowed: {error}")]
    Unknown { host: String, error: io::Error },
    #[error("{0:?} is the shadow's own loopback there; give an address of this machine, and listen on it")]
    Loopback(String),
}

/// The addresses of an allow-list.
pub fn allowed(list: &[String]) -> Result<Vec<SocketAddrV4>, AllowanceError> {
    let mut allowed = Vec::new();
    for text in list {
        let (host, port) = text.rsplit_once(':').ok_or_else(|| AllowanceError::Form(text.clone()))?;
        let port: u16 = port.parse().map_err(|_| AllowanceError::Form(text.clone()))?;
        let unknown = |error| AllowanceError::Unknown { host: host.to_owned(), error };
        let found = (host, port).to_socket_addrs().map_err(unknown)?;
        let mut ours: Vec<SocketAddrV4> = found
            .filter_map(|address| match address.ip() {
                IpAddr::V4(ip) => Some(SocketAddrV4::new(ip, port)),
                IpAddr::V6(_) => None,
            })
            .collect();
        if ours.is_empty() {
            return Err(unknown(io::ErrorKind::AddrNotAvailable.into()));
        }
        if ours.iter().any(|address| address.ip().is_loopback()) {
            return Err(AllowanceError::Loopback(text.clone()));
        }
        allowed.append(&mut ours);
    }
    Ok(allowed)
}

/// Why none can be made here, if so.
pub fn obstacle() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root can make a network namespace; run Segue as root");
    }
    if !tool::is_there("ip") {
        return Some("the command `ip` is missing; install iproute2");
    }
    if !tool::is_there("iptables") {
        return Some("the command `iptables` is missing; install it");
    }
    None
}

/// Whether packets go on to other machines.
pub fn forwards() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1")
}

// === impl Network ===

impl Network {
    /// Names that follow from `unique`, and a free piece of network. Makes nothing.
    pub fn plan(unique: &str) -> io::Result<Self> {
        let mark: String = blake3::hash(unique.as_bytes()).to_hex().chars().take(10).collect();
        let taken = tool::said("ip", &["-o", "-4", "addr", "show"])?;
        for _ in 0..ATTEMPTS {
            let [a, b] = PREFIX;
            let (c, d) = (fastrand::u8(..), fastrand::u8(..64) * 4);
            let machine = Ipv4Addr::new(a, b, c, d + 1);
            if !taken.contains(&format!("{machine}/")) {
                return Ok(Self {
                    namespace: format!("segue-{mark}"),
                    interface: format!("sg{mark}"),
                    chain: format!("SEGUE-{mark}"),
                    machine,
                    instance: Ipv4Addr::new(a, b, c, d + 2),
                });
            }
        }
        Err(io::Error::other(format!("no free network was found in {}.{}.0.0/16", PREFIX[0], PREFIX[1])))
    }

    /// Makes it anew; nothing of the instance runs.
    pub fn make(&self, port: u16, allowed: &[SocketAddrV4]) -> io::Result<()> {
        self.remove()?;
        let Self { namespace, interface, chain, .. } = self;
        let (machine, instance) = (format!("{}/30", self.machine), format!("{}/30", self.instance));
        let port = port.to_string();
        ip(&["netns", "add", namespace])?;
        // The filter is there before the cable.
        filter(&["-N", chain])?;
        filter(&["-A", chain, "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT"])?;
        for address in allowed {
            let (host, port) = (address.ip().to_string(), address.port().to_string());
            for protocol in ["tcp", "udp"] {
                filter(&["-A", chain, "-p", protocol, "-d", &host, "--dport", &port, "-j", "ACCEPT"])?;
            }
        }
        filter(&["-A", chain, "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"])?;
        filter(&["-A", chain, "-j", "REJECT"])?;
        for (table, rule) in self.hooks(&self.instance.to_string()) {
            filter(&[&["-t", table, "-I"], rule.as_slice()].concat())?;
        }
        ip(&["link", "add", interface, "type", "veth", "peer", "name", "eth0", "netns", namespace])?;
        fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "1").or_else(missing)?;
        ip(&["addr", "add", &machine, "dev", interface])?;
        ip(&["link", "set", interface, "up"])?;

        let inside = |command: &[&str]| tool::run("ip", &[&["netns", "exec", namespace], command].concat());
        inside(&["sh", "-c", "for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 > $f || :; done"])?;
        inside(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet"])?;
        let to = ["-p", "tcp", "--dport", &port, "-j", "DNAT", "--to-destination", "127.0.0.1"];
        inside(&[&["iptables", "-w", "-t", "nat", "-A", "PREROUTING", "-i", "eth0"], &to[..]].concat())?;
        ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", namespace, "addr", "add", &instance, "dev", "eth0"])?;
        ip(&["-n", namespace, "link", "set", "eth0", "up"])?;
        if !allowed.is_empty() {
            ip(&["-n", namespace, "route", "add", "default", "via", &self.machine.to_string()])?;
        }
        Ok(())
    }

    /// Lets everything out from here on; what runs in it goes on. What listens on this machine's loopback alone stays out of
    /// reach, and so does IPv6.
    pub fn open(&self) -> io::Result<()> {
        if !self.place().exists() {
            // Gone with a reboot; whoever starts the instance makes what it needs.
            return Ok(());
        }
        let everything = [self.chain.as_str(), "-j", "ACCEPT"];
        if filter(&[&["-C"], &everything[..]].concat()).is_err() {
            filter(&[&["-I"], &everything[..]].concat())?;
        }
        let machine = self.machine.to_string();
        ip(&["-n", &self.namespace, "route", "replace", "default", "via", &machine])
    }

    /// Moves the calling thread into it.
    pub fn enter(&self) -> io::Result<()> {
        let namespace = fs::File::open(self.place())?;
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind).map_err(io::Error::from)
    }

    /// Removes all of it; what is gone is no error.
    pub fn remove(&self) -> io::Result<()> {
        // Each may be there several times, if its making was repeated.
        for (table, rule) in self.hooks(&self.instance.to_string()) {
            while filter(&[&["-t", table, "-D"], rule.as_slice()].concat()).is_ok() {}
        }
        let _ = filter(&["-F", &self.chain]);
        let _ = filter(&["-X", &self.chain]);
        let device = PathBuf::from("/sys/class/net").join(&self.interface);
        if device.exists() {
            ip(&["link", "del", &self.interface])?;
        }
        if self.place().exists() {
            ip(&["netns", "del", &self.namespace])?;
        }
        let listed = tool::said("iptables", &["-w", "-S"])?;
        match listed.lines().find(|line| line.split(' ').any(|word| word == self.chain)) {
            None => Ok(()),
            Some(rule) => Err(io::Error::other(format!("a rule of iptables cannot be removed: {rule}"))),
        }
    }

    /// The file that it is entered by.
    pub fn place(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }

    /// What leads packets to the chain, lets answers back where forwarding is refused by default, and lends the
    /// instance an address that other machines know.
    fn hooks<'a>(&'a self, instance: &'a str) -> [(&'static str, Vec<&'a str>); 4] {
        let answers = ["-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT"];
        let comment = ["-m", "comment", "--comment", &self.chain];
        let of_instance = ["POSTROUTING", "-s", instance];
        [
            ("filter", vec!["INPUT", "-i", &self.interface, "-j", &self.chain]),
            ("filter", vec!["FORWARD", "-i", &self.interface, "-j", &self.chain]),
            ("filter", [&["FORWARD", "-o", &self.interface], &answers[..]].concat()),
            ("nat", [&of_instance[..], &comment, &["-j", "MASQUERADE"]].concat()),
        ]
    }
}

fn missing(error: io::Error) -> io::Result<()> {
    // A kernel without IPv6.
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    tool::run("ip", arguments)
}

fn filter(arguments: &[&str]) -> io::Result<()> {
    tool::run("iptables", &[&["-w"], arguments].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_found_by_address() {
        let list = |texts: &[&str]| allowed(&texts.iter().map(ToString::to_string).collect::<Vec<_>>());
        let found = list(&["10.0.0.5:5432", "192.0.2.1:53"]).unwrap();
        assert_eq!(found, ["10.0.0.5:5432".parse().unwrap(), "192.0.2.1:53".parse().unwrap()]);
        for (text, words) in [
            ("10.0.0.5", "HOST:PORT"),
            ("10.0.0.5:x", "HOST:PORT"),
            ("127.0.0.1:5432", "own loopback"),
            ("::1:80", "no IPv4 address"),
        ] {
            let told = list(&[text]).unwrap_err().to_string();
            assert!(told.contains(words), "{text}: {told}");
        }
    }
}
