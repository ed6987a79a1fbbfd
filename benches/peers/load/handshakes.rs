//! A new TLS connection for each request. The tools that are around resume sessions or open connections in bursts.

use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::percentiles;
use super::tls::TlsCaller;
use crate::Outcome;
use crate::figures::{Figure, Figures};

const REQUEST: &[u8] = b"GET /bytes/1024 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
/// One that takes longer has hung.
const TIMEOUT: Duration = Duration::from_secs(5);

/// From connecting to the end of the answer, in microseconds; and how many failed.
type Seen = (Histogram<u64>, u64);

pub struct Handshakes(Vec<JoinHandle<Outcome<Seen>>>);

impl Handshakes {
    pub fn start(certificate: &Path, port: u16, at_once: usize, duration: Duration) -> Outcome<Self> {
        let caller = TlsCaller::new(certificate, port)?;
        let end = Instant::now() + duration;
        let one = |_| {
            let caller = caller.clone();
            spawn(move || {
                let mut seen = (Histogram::new(3)?, 0);
                while Instant::now() < end {
                    let start = Instant::now();
                    if exchange(&caller).is_ok() {
                        seen.0.record(start.elapsed().as_micros() as u64)?;
                    } else {
                        seen.1 += 1;
                    }
                }
                Ok(seen)
            })
        };
        Ok(Self((0..at_once).map(one).collect()))
    }

    pub fn finish(self) -> Outcome<Figures> {
        let mut latency = Histogram::<u64>::new(3)?;
        let mut failed = 0;
        for thread in self.0 {
            let (of_one, failed_of_one) = thread.join().map_err(|_| "a caller's thread has died")??;
            latency.add(of_one)?;
            failed += failed_of_one;
        }
        let mut figures = percentiles(&latency);
        figures.insert(Figure::Errors, failed as f64);
        Ok(figures)
    }
}

fn exchange(caller: &TlsCaller) -> Outcome<()> {
    let mut stream = caller.connect()?;
    stream.sock.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(REQUEST)?;
    let mut answer = Vec::with_capacity(2048);
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        // A server may close without saying goodbye; the length of the answer tells whether it was whole.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(error.into()),
    }
    let whole = answer.starts_with(b"HTTP/1.1 200") && answer.len() > 1024;
    if whole { Ok(()) } else { Err("not the answer that was asked for".into()) }
}
