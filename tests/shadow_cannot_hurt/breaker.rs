//! A shadow that fails is left alone, asked now and then, and taken back when it answers.

use crate::support::client::Client;
use crate::support::tee::{origin, settled, skipped, teed, url};
use crate::support::{Segue, until};

fn faults(list: &[&str]) -> Vec<segue::origin::Fault> {
    list.iter().map(|fault| fault.parse().unwrap()).collect()
}

#[test]
fn it_opens_probes_and_closes() {
    let (source, shadow) = (origin(&[]), origin(&["reset"]));
    let tee =
        "tee = { percent = 100, allow_above_5_percent = true, breaker_after = 4, breaker_for = \"50ms\" }";
    let segue = Segue::with(&url(&source), Some(&url(&shadow)), tee, "");
    let mut client = Client::new(segue.address);
    let mut asked = 0;
    let mut ask = || {
        assert_eq!(client.get("/").status, 200);
        asked += 1;
        asked
    };
    let breaker = || segue.service()["tee"]["breaker"].as_str().unwrap().to_owned();

    until("the breaker to open", || {
        ask();
        (breaker() == "open").then_some(())
    });
    let service = until("a request that the breaker keeps back", || {
        let service = settled(&segue, ask());
        (skipped(&service, "breaker_open") > 0).then_some(service)
    });
    // A probe or two may have been let through meanwhile, but not what callers ask.
    assert!(teed(&service) >= 4, "{:#}", service["tee"]);

    // The next probe stays with the shadow for long enough to be seen there.
    shadow.set_faults(&faults(&["slow=700ms"])).unwrap();
    until("the breaker to be half open", || {
        ask();
        (breaker() == "half_open").then_some(())
    });
    let before = shadow.seen().total;
    for _ in 0..20 {
        ask();
    }
    assert!(shadow.seen().total <= before + 1, "only one may probe");

    shadow.set_faults(&[]).unwrap();
    until("the breaker to close", || {
        ask();
        (breaker() == "closed").then_some(())
    });
    let asked_before = ask();
    let teed_before = teed(&settled(&segue, asked_before));
    for _ in 0..10 {
        ask();
    }
    assert_eq!(teed(&settled(&segue, asked_before + 10)) - teed_before, 10);
    assert_eq!(source.seen().total, asked_before + 10);
}
