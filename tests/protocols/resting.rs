//! Connections that have nothing to do cost next to nothing, and work when they are used again.

use std::time::Duration;

use crate::support::certificates::{Authority, TlsCaller};
use crate::support::raw::{RawOrigin, Wire};
use crate::support::{Segue, free_port, until};

fn resting(segue: &Segue) -> u64 {
    segue.call("GET", "/v1/status", "").1["resting"].as_u64().unwrap()
}

#[test]
fn an_idle_connection_rests_and_wakes() {
    let origin = RawOrigin::start();
    let authority = Authority::new();
    let files = authority.issue("web", &["web.test"]);
    let port = free_port();
    let rest = format!("[[listeners]]\naddress = \"127.0.0.1:{port}\"\ntls = {{ {} }}\n", files.toml());
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

#[test]
fn a_thousand_idle_connections_cost_little() {
    const COUNT: u64 = 1000;
    let origin = RawOrigin::start();
    let segue = Segue::with(&origin.url(), None, "upstream = { idle_timeout = \"2s\" }\n", "");
    let open = |count: u64| {
        let wires: Vec<Wire> = (0..count)
            .map(|_| {
                let mut wire = Wire::open(segue.address);
                assert_eq!(wire.get("/").status, 200);
                wire
            })
            .collect();
        wires
    };
    // What the first ones cost is the process's own growth.
    let mut first = open(100);
    until("the first to rest", || (resting(&segue) == 100).then_some(()));
    let before = segue.memory();
    let mut wires = open(COUNT);
    until("all to rest", || (resting(&segue) == COUNT + 100).then_some(()));
    let mut lowest = u64::MAX;
    // What they held while they were in use goes back to the system a little later.
    let each = until("the memory to be given back", || {
        let each = segue.memory().saturating_sub(before) / COUNT;
        if each < lowest {
            lowest = each;
            eprintln!("an idle connection takes {each} bytes of resident memory");
        }
        (each < 4096).then_some(each)
    });
    assert!(each < 4096);
    for wire in first.iter_mut().chain(&mut wires).step_by(50) {
        assert_eq!(wire.get("/").status, 200);
    }
}
