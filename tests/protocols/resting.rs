//! Connections that have nothing to do cost next to nothing, and work when they are used again.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::http2;
use crate::support::certificates::{Authority, TlsCaller};
use crate::support::raw::{RawOrigin, Reply, Wire};
use crate::support::{PATIENCE, Segue, free_port, until};

/// Nothing is kept ready: what is idle rests soon, however little there is.
pub const EAGER: &str = "[callers]\nkeep_ready = 0\n";

pub fn status(segue: &Segue, what: &str) -> u64 {
    segue.call("GET", "/v1/status", "").1[what].as_u64().unwrap()
}

pub fn resting(segue: &Segue) -> u64 {
    status(segue, "resting")
}

/// So many connections, each of which has been used once and rests.
fn rested(segue: &Segue, count: usize) -> Vec<Wire> {
    let wires: Vec<Wire> = (0..count)
        .map(|_| {
            let mut wire = Wire::open(segue.address);
            assert_eq!(wire.get("/").status, 200);
            wire
        })
        .collect();
    until("all to rest", || (resting(segue) == status(segue, "connections")).then_some(()));
    wires
}

#[test]
fn an_idle_connection_rests_and_wakes() {
    let origin = RawOrigin::start();
    let authority = Authority::new();
    let files = authority.issue("web", &["web.test"]);
    let port = free_port();
    let rest =
        format!("{EAGER}[[listeners]]\naddress = \"127.0.0.1:{port}\"\ntls = {{ {} }}\n", files.toml());
    let segue = Segue::with(&origin.url(), None, "", &rest);
    let mut clear = Wire::open(segue.address);
    let tls = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut secure = authority.connect(tls, &TlsCaller::to("web.test")).unwrap().wire;
    for round in 0..3 {
        assert_eq!((clear.get("/").status, secure.get("/").status), (200, 200), "round {round}");
        until("both to rest", || (resting(&segue) == 2).then_some(()));
    }
    assert!(clear.is_silent(Duration::from_secs(2)), "resting is not closing");
    assert_eq!((clear.get("/").status, secure.get("/").status), (200, 200));
    // A head in pieces, the first of which wakes it.
    until("both to rest", || (resting(&segue) == 2).then_some(()));
    clear.send("GET /pieces HTT");
    assert!(clear.is_silent(Duration::from_millis(900)), "a partial head is not rested");
    clear.send("P/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(clear.answer().status, 200);
}

/// Resident memory, when what was used meanwhile has been given back to the system.
fn settled_memory(segue: &Segue) -> u64 {
    let mut last = (segue.memory(), Instant::now());
    until("the memory to settle", || {
        let now = segue.memory();
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_secs(2)).then_some(now)
    })
}

#[test]
fn thousands_of_idle_connections_cost_little() {
    const GROUPS: u64 = 7;
    /// Enough that memory is given back as soon as one has gone to rest.
    const GROUP: usize = 300;
    /// An upper bound, mostly for what the allocator keeps of busier times: too coarse to tell a task from an entry.
    const LITTLE: u64 = 3500;
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "upstream = { idle_timeout = \"2s\" }\n", EAGER);
    // What the first ones cost is the process's own growth. No more than a group is ever in use, or this
    // would measure what the allocator keeps of busier times.
    let mut wires = rested(&segue, GROUP);
    let before = settled_memory(&segue);
    for _ in 0..GROUPS {
        wires.extend(rested(&segue, GROUP));
    }
    let mut lowest = u64::MAX;
    // What they held while they were in use goes back to the system a little later.
    until("the memory to be given back", || {
        let each = segue.memory().saturating_sub(before) / (GROUPS * GROUP as u64);
        if each < lowest {
            lowest = each;
            eprintln!("an idle connection takes {each} bytes of resident memory");
        }
        (each < LITTLE).then_some(())
    });
    for wire in wires.iter_mut().step_by(50) {
        assert_eq!(wire.get("/").status, 200);
    }
}

/// Sockets in pollers that nothing else is in: a runtime's own also has the event that wakes it.
pub fn bare_sockets(segue: &Segue) -> usize {
    let process = PathBuf::from(format!("/proc/{}", segue.pid()));
    let target = |fd: &str| fs::read_link(process.join("fd").join(fd)).unwrap_or_default();
    let of_poller = |fd: &str| -> usize {
        let info = fs::read_to_string(process.join("fdinfo").join(fd)).unwrap_or_default();
        let watched = info.lines().filter_map(|line| line.strip_prefix("tfd:")?.split_whitespace().next());
        let targets: Vec<_> = watched.map(target).collect();
        let all = targets.iter().all(|target| target.to_string_lossy().starts_with("socket:"));
        if all { targets.len() } else { 0 }
    };
    let fds = fs::read_dir(process.join("fd"))
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    fds.filter(|fd| target(fd).to_string_lossy() == "anon_inode:[eventpoll]").map(|fd| of_poller(&fd)).sum()
}

#[test]
fn only_the_sockets_of_resting_connections_are_kept() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", EAGER);
    let _wires = rested(&segue, 50);
    assert_eq!(bare_sockets(&segue), 50);
}

#[test]
fn many_that_wake_at_once_are_all_answered() {
    const COUNT: usize = 2000;
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", EAGER);
    let mut wires = rested(&segue, COUNT);
    origin.take();
    // As many at once as an instance's connections allow without waiting.
    for group in wires.chunks_mut(500) {
        for wire in &mut *group {
            wire.send("GET /again HTTP/1.1\r\nhost: test\r\n\r\n");
        }
        for wire in group {
            assert_eq!(wire.answer().status, 200);
        }
    }
    let heard = origin.take();
    assert_eq!(heard.len(), COUNT);
    assert!(heard.iter().all(|of| of.header("x-forwarded-for") == Some("127.0.0.1")), "known after rest too");
    until("all to rest again", || (resting(&segue) == COUNT as u64).then_some(()));
    assert_eq!(status(&segue, "connections"), COUNT as u64);
}

fn ask_all(wires: &mut [Wire]) -> bool {
    wires.iter_mut().all(|wire| wire.get("/").status == 200)
}

#[test]
fn a_few_idle_connections_stay_ready_for_a_while() {
    const READY: u64 = 5;
    let origin = RawOrigin::start();
    let rest = format!("workers = 1\n[callers]\nkeep_ready = {READY}\n");
    let segue = Segue::with(&origin.url(), None, "", &rest);
    // They are never taken apart, and take nobody's place for it.
    let _http2 = [(); READY as usize + 1].map(|()| http2::answered(&segue));
    let mut wires: Vec<_> = (0..READY + 3).map(|_| Wire::open(segue.address)).collect();
    assert!(ask_all(&mut wires));
    until("those beyond to rest", || (resting(&segue) == 3).then_some(()));
    assert!(ask_all(&mut wires[3..]));
    assert_eq!(resting(&segue), 3, "those that were idle longest");
    assert!(wires[0].is_silent(Duration::from_secs(2)), "several sweeps, and nobody is closed");
    assert_eq!(resting(&segue), 3, "the others stay");
    assert!(ask_all(&mut wires));
    until("all to rest after a longer time", || (resting(&segue) == READY + 3).then_some(()));
}

#[test]
fn one_that_never_spoke_rests_too_and_may_speak_either_protocol() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", EAGER);
    let mut http1 = Wire::open(segue.address);
    let mut http2 = Wire::open(segue.address).into_inner();
    until("both to rest", || (resting(&segue) == 2).then_some(()));
    assert!(http1.is_silent(Duration::from_millis(900)), "resting is not closing");
    assert_eq!((resting(&segue), status(&segue, "connections")), (2, 2));
    assert_eq!(http1.get("/").status, 200);
    // The preface in two parts, and empty settings.
    http2.write_all(b"PRI * HT").unwrap();
    http2.write_all(b"TP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut frame = [0; 9];
    http2.read_exact(&mut frame).unwrap();
    assert_eq!(frame[3], 4, "its own settings: {frame:?}");
}

#[test]
fn the_idle_timeout_closes_what_rests() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", &format!("{EAGER}idle_timeout = \"3s\"\n"));
    let mut silent = Wire::open(segue.address);
    let mut wires = rested(&segue, 20);
    assert_eq!(status(&segue, "connections"), 21);
    silent.assert_closed();
    wires.iter_mut().for_each(Wire::assert_closed);
    until("none to be left", || (status(&segue, "connections") == 0).then_some(()));
    assert_eq!(resting(&segue), 0);
}

#[test]
fn the_idle_timeout_and_a_shutdown_close_what_is_ready() {
    let origin = RawOrigin::answering(|heard| {
        if heard.line().contains("/slow") {
            std::thread::sleep(PATIENCE * 2);
        }
        Reply::ok("ok")
    });
    for rest in ["[callers]\nidle_timeout = \"2s\"\n", "shutdown_grace = \"120s\"\n"] {
        let segue = Segue::with(&origin.url(), None, "", rest);
        let mut wires: Vec<_> = (0..20).map(|_| Wire::open(segue.address)).collect();
        // The others say nothing.
        assert!(ask_all(&mut wires[10..]));
        let _busy = Wire::sent(segue.address, "GET /slow HTTP/1.1\r\nhost: test\r\n\r\n");
        until("it to be in flight", || (segue.service()["in_flight"] == 1).then_some(()));
        if !rest.contains("idle_timeout") {
            segue.signal("TERM");
        }
        wires.iter_mut().for_each(Wire::assert_closed);
    }
}

#[test]
fn one_that_the_caller_closes_leaves_the_count() {
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", &format!("{EAGER}max_connections = 10\n"));
    let mut wires = rested(&segue, 10);
    assert_eq!(Wire::open(segue.address).answer().status, 503, "resting connections count");
    drop(wires.split_off(5));
    until("five to be left", || (status(&segue, "connections") == 5).then_some(()));
    assert_eq!(resting(&segue), 5);
    wires.extend(rested(&segue, 5));
    assert_eq!(Wire::open(segue.address).answer().status, 503);
    for wire in &mut wires {
        assert_eq!(wire.get("/").status, 200);
    }
}

#[test]
fn shutdown_closes_what_rests() {
    let origin = RawOrigin::answering(|heard| {
        if heard.line().contains("/slow") {
            std::thread::sleep(PATIENCE * 2);
        }
        Reply::ok("ok")
    });
    let segue = Segue::with(&origin.url(), None, "", &format!("shutdown_grace = \"120s\"\n{EAGER}"));
    let mut silent = Wire::open(segue.address);
    let mut wires = rested(&segue, 20);
    until("all to rest", || (resting(&segue) == 21).then_some(()));
    let _busy = Wire::sent(segue.address, "GET /slow HTTP/1.1\r\nhost: test\r\n\r\n");
    until("it to be in flight", || (segue.service()["in_flight"] == 1).then_some(()));
    segue.signal("TERM");
    // The process itself waits for what is in flight.
    silent.assert_closed();
    wires.iter_mut().for_each(Wire::assert_closed);
}

#[test]
fn one_that_speaks_as_it_goes_to_rest_is_answered() {
    const COUNT: usize = 400;
    const ROUNDS: usize = 5;
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "", EAGER);
    let mut wires = rested(&segue, COUNT);
    origin.take();
    for _ in 0..ROUNDS {
        for wire in &mut wires {
            wire.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
            // All together takes the time within which those of the last round go to rest, and many do
            // at once.
            std::thread::sleep(Duration::from_micros(fastrand::u64(..1500)));
        }
        for wire in &mut wires {
            assert_eq!(wire.answer().status, 200);
        }
        std::thread::sleep(Duration::from_millis(fastrand::u64(200..450)));
    }
    assert_eq!(origin.heard().len(), COUNT * ROUNDS, "each once");
}
