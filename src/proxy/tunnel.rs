//! After a `101`: bytes both ways until one side ends or the drain deadline cuts it.
//!
//! A tunnel counts as a write in flight, because nobody can tell what passes in it.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::UPGRADE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::caller::Caller;
use super::forward::upload::Upload;
use super::gate::Guard;
use super::gate::local::Stage;
use super::service::Service;
use crate::http1::Headers;
use crate::net::Stream;
use crate::upstream::{Lease, Upgraded};

/// Per direction; as much as a loopback socket hands over at once without waiting.
const BUFFER: usize = 16 * 1024;
/// How long a caller that is cut may take to take the news.
const FAREWELL: Duration = Duration::from_secs(1);
/// RFC 6455 §7.4.1 and IANA: 1012, "Service Restart": come again, perhaps elsewhere.
const CLOSE_SERVICE_RESTART: [u8; 4] = [0x88, 0x02, 0x03, 0xf4];

/// The instance agreed to switch protocols.
pub struct Ticket {
    instance: Upgraded,
    guard: Guard,
    service: Rc<Service>,
    /// Keeps the endpoint's count of outstanding requests.
    _lease: Lease<Upload>,
    websocket: bool,
}

impl Ticket {
    pub fn new(
        instance: Upgraded,
        guard: Guard,
        service: Rc<Service>,
        lease: Lease<Upload>,
        answer: &Headers,
    ) -> Self {
        let mut websocket = false;
        answer.for_each(|name, protocol| {
            websocket |= name.eq_ignore_ascii_case(UPGRADE.as_str().as_bytes())
                && protocol.eq_ignore_ascii_case(b"websocket");
        });
        Self { instance, guard, service, _lease: lease, websocket }
    }
}

/// Carries a tunnel until it ends.
pub async fn run(caller_stream: Stream, from_caller: Bytes, ticket: Ticket, caller: &Caller) {
    let Ticket { instance, guard, service, websocket, .. } = ticket;
    guard.enter(Stage::Tunnel, Instant::now());
    let (instance_stream, from_instance) = instance;
    let (mut from_a, mut to_a) = tokio::io::split(caller_stream);
    let (mut from_b, mut to_b) = tokio::io::split(instance_stream);
    let mut frames = websocket.then(Frames::default);
    // Part of what the instance sent may still be on its way to the caller.
    let unwritten = Cell::new(false);

    let upward = async {
        if !from_caller.is_empty() && to_b.write_all(&from_caller).await.is_err() {
            return;
        }
        let mut buffer = vec![0; BUFFER];
        while let Ok(read @ 1..) = from_a.read(&mut buffer).await {
            guard.took(read as u64);
            if to_b.write_all(buffer.get(..read).unwrap_or_default()).await.is_err() {
                break;
            }
        }
        let _ = to_b.shutdown().await;
    };
    let downward = async {
        let mut pass = async |bytes: &[u8]| {
            unwritten.set(true);
            to_a.write_all(bytes).await?;
            unwritten.set(false);
            if let Some(frames) = &mut frames {
                frames.follow(bytes);
            }
            std::io::Result::Ok(())
        };
        if pass(&from_instance).await.is_err() {
            return;
        }
        let mut buffer = vec![0; BUFFER];
        while let Ok(read @ 1..) = from_b.read(&mut buffer).await {
            guard.took(read as u64);
            if pass(buffer.get(..read).unwrap_or_default()).await.is_err() {
                return;
            }
        }
        let _ = to_a.shutdown().await;
    };
    // Either direction may end long before the other (a half-closed TCP stream is still a stream), but
    // when the instance is done nothing more can come of it. A cut waits for neither: a caller that
    // takes nothing must not hold it.
    {
        let (mut upward, mut downward) = (pin!(upward), pin!(downward));
        let mut cut = pin!(cut(&guard, caller));
        let mut upward_done = false;
        loop {
            tokio::select! {
                biased;
                () = &mut cut => break,
                () = &mut upward, if !upward_done => upward_done = true,
                () = &mut downward => return,
            }
        }
    }
    service.counts.borrow_mut().cut += 1;
    // Nothing more reaches the instance, so the drain need not wait for the farewell.
    drop((from_b, to_b));
    drop(guard);
    let farewell = async {
        // Inside a frame a close frame would be taken for payload; then only the connection's end can
        // tell.
        if !unwritten.get() && frames.as_ref().is_some_and(Frames::at_boundary) {
            let _ = to_a.write_all(&CLOSE_SERVICE_RESTART).await;
        }
        let _ = to_a.shutdown().await;
    };
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}

/// Waits until the exchange or its caller's connection has to end at once.
async fn cut(guard: &Guard, caller: &Caller) {
    let connection = async {
        let signal = || poll_fn(|cx| caller.link.poll_signal(cx));
        while signal().await != super::connection::Signal::Cut {}
    };
    tokio::select! {
        _ = poll_fn(|cx| guard.poll_signal(cx)) => {}
        () = connection => {}
    }
}

/// Follows RFC 6455 framing from the instance to the caller, to know whether the last byte that passed
/// ended a frame.
#[derive(Debug, Default)]
struct Frames {
    /// The header of the frame that is passing, as far as it has passed.
    header: Vec<u8>,
    /// Bytes of payload that are still to come.
    payload: u64,
}

impl Frames {
    fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let passed = (bytes.len() as u64).min(self.payload);
                self.payload -= passed;
                bytes = bytes.get(passed as usize..).unwrap_or_default();
                continue;
            }
            let Some((first, rest)) = bytes.split_first() else { return };
            self.header.push(*first);
            bytes = rest;
            if let Some(length) = payload_length(&self.header) {
                self.payload = length;
                self.header.clear();
            }
        }
    }

    fn at_boundary(&self) -> bool {
        self.payload == 0 && self.header.is_empty()
    }
}

/// The payload's length (with the mask key, if there is one) once the header is whole.
fn payload_length(header: &[u8]) -> Option<u64> {
    let &[_, second, ref extended @ ..] = header else { return None };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let length = match second & 0x7f {
        126 => u64::from(u16::from_be_bytes(extended.try_into().ok()?)),
        127 => u64::from_be_bytes(extended.try_into().ok()?),
        short => u64::from(short),
    };
    Some(length.saturating_add(mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_are_found_however_the_bytes_are_cut() {
        let mut stream = vec![0x81, 0x03, b'a', b'b', b'c'];
        stream.extend([0x82, 126, 0x01, 0x00]);
        stream.extend(vec![7; 256]);
        stream.extend([0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        stream.extend(vec![7; 65_536]);
        let boundaries = [5, 5 + 4 + 256, stream.len()];
        for cut in 0..stream.len() {
            let mut frames = Frames::default();
            frames.follow(&stream[..cut]);
            assert_eq!(frames.at_boundary(), cut == 0 || boundaries.contains(&cut), "after {cut} bytes");
            frames.follow(&stream[cut..]);
            assert!(frames.at_boundary());
        }
    }
}
