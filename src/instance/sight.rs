//! What an instance sees of the world: its own network and its own files, which need not be this machine's.
//!
//! Both are held open, so that they can be looked at even after the instance has ended.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::config::Requirement;

/// For one connection; what an application needs is near it.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub struct Sight(Arc<Open>);

#[derive(Debug)]
struct Open {
    /// A namespace; `None`: this machine's network.
    network: Option<File>,
    root: File,
}

/// Why something that is required was not found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missed {
    /// It is not there, or refuses.
    Absent(String),
    /// It could not be looked for.
    Unknown(String),
}

// === impl Sight ===

impl Sight {
    /// `network` is a file of a namespace, `root` what the instance has as `/`.
    pub(super) fn open(network: Option<&Path>, root: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(Open { network: network.map(File::open).transpose()?, root: File::open(root)? })))
    }

    /// Whether the instance would find it. Connects to an endpoint, and sends nothing.
    pub async fn find(&self, requirement: &Requirement) -> Result<(), Missed> {
        let (open, requirement) = (Arc::clone(&self.0), requirement.clone());
        let (found, answer) = oneshot::channel();
        // A thread of its own: one that has moved into another network is of no use to anybody else.
        let look = move || {
            let _ = found.send(match &requirement {
                Requirement::Path(path) => open.has(path),
                Requirement::Endpoint { host, port, .. } => open.reaches(host, *port),
            });
        };
        let unknown = |what: &dyn std::fmt::Display| Missed::Unknown(what.to_string());
        std::thread::Builder::new().name("sight".into()).spawn(look).map_err(|error| unknown(&error))?;
        answer.await.unwrap_or_else(|error| Err(unknown(&error)))
    }
}

impl Open {
    /// Symbolic links lead where they lead the instance.
    fn has(&self, path: &Path) -> Result<(), Missed> {
        let inside = path.strip_prefix("/").unwrap_or(path);
        let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
        match openat2(
            &self.root,
            inside,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        ) {
            Ok(_) => Ok(()),
            Err(error @ (rustix::io::Errno::NOSYS | rustix::io::Errno::PERM)) => {
                Err(Missed::Unknown(io::Error::from(error).to_string()))
            }
            Err(error) => Err(Missed::Absent(io::Error::from(error).to_string())),
        }
    }

    fn reaches(&self, host: &str, port: u16) -> Result<(), Missed> {
        // Names are looked up here: name servers of the instance's own network are not asked.
        let addresses: Vec<SocketAddr> = match (host, port).to_socket_addrs() {
            Ok(addresses) => addresses.collect(),
            Err(error) if self.network.is_some() => {
                return Err(Missed::Unknown(format!("only the instance may know that name: {error}")));
            }
            Err(error) => return Err(Missed::Absent(format!("the name is not known: {error}"))),
        };
        if let Some(network) = &self.network {
            let entered = move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network));
            entered.map_err(|error| Missed::Unknown(format!("its network cannot be entered: {error}")))?;
        }
        let mut refused = "the name has no address".to_owned();
        for address in addresses {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(_) => return Ok(()),
                Err(error) => refused = error.to_string(),
            }
        }
        Err(Missed::Absent(refused))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::fs::symlink;

    use super::*;

    #[tokio::test]
    async fn an_endpoint_is_there_as_long_as_it_takes_connections() {
        let sight = Sight::open(None, Path::new("/")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let required: Requirement = format!("tcp://{}", listener.local_addr().unwrap()).parse().unwrap();
        assert_eq!(sight.find(&required).await, Ok(()));
        drop(listener);
        let Err(Missed::Absent(why)) = sight.find(&required).await else { panic!("it is gone") };
        assert!(why.contains("refused"), "{why}");
        let nowhere = "tcp://no-such-host.invalid:1".parse().unwrap();
        assert!(matches!(sight.find(&nowhere).await, Err(Missed::Absent(_))));
    }

    #[tokio::test]
    async fn paths_are_the_instances_own() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/licence"), "").unwrap();
        symlink("/etc/licence", root.path().join("link")).unwrap();
        symlink("/proc/self", root.path().join("out")).unwrap();
        let sight = Sight::open(None, root.path()).unwrap();
        for (path, there) in [
            ("/etc/licence", true),
            ("/link", true),
            ("/", true),
            ("/out", false),
            ("/etc/other", false),
            ("/../../../proc/self", false),
        ] {
            let found = sight.find(&Requirement::Path(path.into())).await;
            assert_eq!(found.is_ok(), there, "{path}: {found:?}");
        }
    }
}
