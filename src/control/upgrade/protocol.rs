//! What two processes say to each other: one JSON object a line, over a Unix socket that can carry open
//! sockets as well.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::config::{self, InstanceName, Settings};
use crate::proxy::gate::controller::MemberId;
use crate::proxy::gate::local::Blocker;
use crate::proxy::gate::member::Generation;
use crate::proxy::gate::{Command, Event};
use crate::store::{ActiveRecord, Fingerprint};

/// Rises when an older process could misread what a newer one says. Only `hello` and `refused` have to
/// stay readable for ever.
pub(super) const PROTOCOL: u32 = 1;

/// The kernel passes no more at once (`SCM_MAX_FD`).
const MOST_SOCKETS: usize = 253;
/// An offer of a thousand services has half of this.
const LONGEST_LINE: usize = 1 << 20;
const READ: usize = 16 * 1024;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum FromSuccessor {
    Hello {
        protocol: u32,
        version: String,
    },
    /// It could serve callers now.
    Ready,
    Gate {
        service: Arc<str>,
        command: Command,
    },
    HoldFor {
        service: Arc<str>,
        timeout: Duration,
    },
    /// `number` comes back with the answer.
    Cut {
        number: u64,
        service: Arc<str>,
        generation: Generation,
    },
    Blockers {
        number: u64,
        service: Arc<str>,
        generation: Generation,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum FromPredecessor {
    Refused {
        reason: String,
    },
    Offer(Offer),
    /// From here on the successor is the one that serves.
    Yours,
    Told {
        member: MemberId,
        service: Arc<str>,
        event: Event,
    },
    Cut {
        number: u64,
        count: usize,
    },
    Blockers {
        number: u64,
        blockers: Vec<Blocker>,
    },
}

/// What goes over, apart from the sockets themselves.
#[derive(Debug, Serialize, Deserialize)]
pub struct Offer {
    pub(super) version: String,
    /// Sockets that come with it: to notice when some did not arrive.
    pub(super) sockets: usize,
    /// Each is a member of every service's gate, numbered from 0.
    pub(super) workers: MemberId,
    pub(super) services: Vec<OfferedService>,
}

/// A service's gate, which is open.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OfferedService {
    pub name: Arc<str>,
    pub generation: Generation,
    pub active: InstanceName,
    /// The instances as they are: migrations may have filled and emptied the slots.
    #[serde(flatten)]
    pub effective: Instances,
    /// As the settings name them. `None`: a process that knew of no migrations says so, and the two are the same.
    #[serde(default)]
    pub configured: Option<Instances>,
}

/// The endpoints of a service's instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Instances {
    pub source: Fingerprint,
    pub shadow: Option<Fingerprint>,
}

/// Both processes would send callers to different instances under the same name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "service `{0}` has other endpoints here than in the running process; upgrade with the same ones, then change them \
     and reload"
)]
pub struct OtherEndpoints(pub Arc<str>);

// === impl Instances ===

impl Instances {
    pub fn of(settings: &config::Service) -> Self {
        Self {
            source: Fingerprint::of(&settings.source.endpoints),
            shadow: settings.shadow.as_ref().map(|shadow| Fingerprint::of(&shadow.endpoints)),
        }
    }
}

// === impl Offer ===

impl Offer {
    /// A predecessor names instances by `source` and `shadow`, so these have to mean the same in both
    /// processes for as long as both serve. What migrations have put there comes to both from the store.
    pub(super) fn check(&self, settings: &Settings) -> Result<(), OtherEndpoints> {
        for offered in &self.services {
            let Some(service) = settings.services.get(&*offered.name) else { continue };
            if offered.configured.unwrap_or(offered.effective) != Instances::of(service) {
                return Err(OtherEndpoints(Arc::clone(&offered.name)));
            }
        }
        Ok(())
    }

    /// Brings what the store says up to what the predecessor's gates say: a switchover that was given
    /// up raises the generation of a gate, not that of the store.
    pub(in crate::control) fn overlay(&self, recorded: &mut Vec<(String, ActiveRecord)>) {
        for offered in &self.services {
            let fingerprint = match offered.active {
                InstanceName::Source => offered.effective.source,
                InstanceName::Shadow => offered.effective.shadow.unwrap_or(offered.effective.source),
            };
            let known =
                recorded.iter_mut().find(|(name, _)| **name == *offered.name).map(|(_, record)| record);
            match known {
                Some(record) => {
                    record.instance = offered.active;
                    record.generation = record.generation.max(offered.generation);
                    record.fingerprint = fingerprint;
                }
                None => recorded.push((
                    offered.name.to_string(),
                    ActiveRecord {
                        instance: offered.active,
                        generation: offered.generation,
                        fingerprint,
                        changed_at: 0,
                    },
                )),
            }
        }
    }
}

/// The end of the line that speaks.
#[derive(Clone, Debug)]
pub(super) struct Sender(Arc<UnixStream>);

/// The end of the line that listens. Waiting on it may be given up without losing anything.
#[derive(Debug)]
pub(super) struct Receiver {
    stream: Arc<UnixStream>,
    read: Vec<u8>,
    sockets: Vec<OwnedFd>,
}

pub(super) fn line(stream: UnixStream) -> (Sender, Receiver) {
    let stream = Arc::new(stream);
    (Sender(Arc::clone(&stream)), Receiver { stream, read: Vec::new(), sockets: Vec::new() })
}

// === impl Sender ===

impl Sender {
    pub async fn send(&self, message: &impl Serialize) -> io::Result<()> {
        self.send_with(message, &[]).await
    }

    /// The sockets arrive with the message or before it.
    pub async fn send_with(&self, message: &impl Serialize, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let (mut rest, mut sockets) = (line.as_slice(), sockets);
        while !rest.is_empty() {
            let sent = self.0.async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
                    return Err(io::Error::other(format!(
                        "more than {MOST_SOCKETS} sockets cannot be passed on"
                    )));
                }
                Ok(rustix::net::sendmsg(&*self.0, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL)?)
            });
            rest = rest.get(sent.await?..).unwrap_or_default();
            sockets = &[];
        }
        Ok(())
    }
}

// === impl Receiver ===

impl Receiver {
    /// The next message; `None` once the other side has closed the line.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(end + 1);
                let line = std::mem::replace(&mut self.read, rest);
                return serde_json::from_slice(&line).map(Some).map_err(io::Error::from);
            }
            if self.read.len() > LONGEST_LINE {
                return Err(io::Error::other("the other process does not speak this protocol"));
            }
            if self.read_some().await? == 0 {
                let whole = self.read.is_empty();
                return if whole { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// The sockets that came with the messages so far.
    pub fn take_sockets(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.sockets)
    }

    async fn read_some(&mut self) -> io::Result<usize> {
        let (read, sockets, stream) = (&mut self.read, &mut self.sockets, &self.stream);
        let receive = || {
            let mut bytes = [0; READ];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let into = &mut [IoSliceMut::new(&mut bytes)];
            let got = rustix::net::recvmsg(&**stream, into, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(passed) = message {
                    sockets.extend(passed);
                }
            }
            read.extend_from_slice(bytes.get(..got).unwrap_or_default());
            Ok(got)
        };
        stream.async_io(Interest::READABLE, receive).await
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsFd as _;

    use super::*;

    #[tokio::test]
    async fn messages_come_whole_and_sockets_with_them() {
        let (here, there) = UnixStream::pair().unwrap();
        let (sender, mut receiver) = (line(here).0, line(there).1);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // Longer than one read, and than a socket's buffer.
        let reason = "x".repeat(LONGEST_LINE - 100);
        let sending = async {
            sender.send_with(&FromPredecessor::Refused { reason }, &[listener.as_fd()]).await.unwrap();
            sender.send(&FromPredecessor::Yours).await.unwrap();
            drop((sender, listener));
        };
        let receiving = async {
            let first = receiver.receive().await.unwrap();
            assert!(
                matches!(first, Some(FromPredecessor::Refused { reason }) if reason.len() == LONGEST_LINE - 100)
            );
            assert!(matches!(receiver.receive().await.unwrap(), Some(FromPredecessor::Yours)));
            receiver.take_sockets()
        };
        let ((), mut sockets) = tokio::join!(sending, receiving);
        // The original is closed; this is the same socket.
        let socket = std::net::TcpListener::from(sockets.pop().unwrap());
        assert!(sockets.is_empty());
        let caller = std::net::TcpStream::connect(address).unwrap();
        drop(caller);
        assert_eq!(socket.accept().unwrap().0.read(&mut [0; 1]).unwrap(), 0);
    }

    #[tokio::test]
    async fn an_end_is_an_end_and_a_torn_message_is_not() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut receiver = line(there).1;
        drop(here);
        assert!(receiver.receive::<FromPredecessor>().await.unwrap().is_none());

        let (here, there) = UnixStream::pair().unwrap();
        let mut receiver = line(there).1;
        here.try_write(b"{\"say\":\"yours\"").unwrap();
        drop(here);
        let torn = receiver.receive::<FromPredecessor>().await.unwrap_err();
        assert_eq!(torn.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn what_never_becomes_a_line_is_given_up() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut receiver = line(there).1;
        let endless = async {
            while here.writable().await.is_ok() {
                if matches!(here.try_write(&[b'x'; 4096]), Err(error) if error.kind() != io::ErrorKind::WouldBlock)
                {
                    return;
                }
            }
        };
        tokio::select! {
            () = endless => unreachable!("the receiver keeps the line open"),
            received = receiver.receive::<FromPredecessor>() => assert!(received.is_err()),
        }
    }

    fn settings(source: &str) -> Settings {
        let text = format!(
            "[[listeners]]\naddress = \"127.0.0.1:0\"\n[services.web]\nsource = {{ endpoints = [\"{source}\"] }}\n"
        );
        config::parse(&text, "test.toml").unwrap()
    }

    fn offer(settings: &Settings, generation: Generation) -> Offer {
        let services = settings.services.iter().map(|(name, service)| OfferedService {
            name: name.as_str().into(),
            generation,
            active: InstanceName::Source,
            effective: Instances::of(service),
            configured: Some(Instances::of(service)),
        });
        Offer { version: String::new(), sockets: 0, workers: 1, services: services.collect() }
    }

    #[test]
    fn names_have_to_mean_the_same_endpoints_in_both_processes() {
        let here = settings("http://127.0.0.1:1");
        assert_eq!(offer(&here, 1).check(&here), Ok(()));
        assert_eq!(offer(&here, 1).check(&settings("http://127.0.0.1:2")), Err(OtherEndpoints("web".into())));
    }

    #[test]
    fn what_a_migration_has_moved_is_compared_by_what_the_settings_say_of_it() {
        let (here, moved) = (settings("http://127.0.0.1:1"), settings("http://127.0.0.1:2"));
        let mut offered = offer(&here, 1);
        let effective = Instances::of(moved.services.get("web").unwrap());
        offered.services.first_mut().unwrap().effective = effective;
        let line = serde_json::to_value(&offered).unwrap();
        let received = |line: &serde_json::Value| serde_json::from_value::<Offer>(line.clone()).unwrap();
        assert_eq!(received(&line).check(&here), Ok(()));
        assert_eq!(received(&line).check(&moved), Err(OtherEndpoints("web".into())));
        let mut recorded = Vec::new();
        received(&line).overlay(&mut recorded);
        assert_eq!(recorded.first().unwrap().1.fingerprint, effective.source, "what serves is what serves");

        // From a process that was built before there were migrations.
        let mut old = serde_json::to_value(offer(&here, 1)).unwrap();
        assert!(old["services"][0].as_object_mut().unwrap().remove("configured").is_some());
        assert!(old["services"][0]["source"].is_array(), "where such a process has it: {old}");
        assert_eq!(received(&old).check(&here), Ok(()));
        assert_eq!(received(&old).check(&moved), Err(OtherEndpoints("web".into())));
    }

    #[test]
    fn the_predecessors_gate_is_ahead_of_the_store() {
        let here = settings("http://127.0.0.1:1");
        let mut recorded = Vec::new();
        offer(&here, 4).overlay(&mut recorded);
        offer(&here, 7).overlay(&mut recorded);
        let generations: Vec<_> =
            recorded.iter().map(|(name, record)| (name.as_str(), record.generation)).collect();
        assert_eq!(generations, [("web", 7)]);
    }
}
