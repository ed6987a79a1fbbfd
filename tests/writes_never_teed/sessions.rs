//! With whole sessions sampled, a session is teed wholly or not at all, over whatever connections and
//! workers it comes.

use std::collections::BTreeMap;

use crate::support::Segue;
use crate::support::client::{Ask, Client};
use crate::support::recorder::Recorder;
use crate::support::tee::{EVERYTHING, settled, skipped, teed};

const SESSIONS: usize = 60;
const READS: usize = 7;

fn wholly_or_not_at_all(sampling: &str, name: impl Fn(Ask, usize, usize) -> Ask) {
    let (source, shadow) = (Recorder::start(), Recorder::start());
    let tee = EVERYTHING.replace("percent = 100,", &format!("percent = 40, sampling = {sampling},"));
    let segue = Segue::with(&source.url(), Some(&shadow.url()), &tee, "workers = 2\n");
    for read in 0..READS {
        for session in 0..SESSIONS {
            // A connection of its own, and none of them says which session came before.
            let ask = Ask::get(&format!("/page/{read}")).with("x-session", &session.to_string());
            assert_eq!(Client::new(segue.address).ask(&name(ask, session, read)).status, 200);
        }
    }
    // A caller without a session is no candidate.
    assert_eq!(Client::new(segue.address).get("/").status, 200);
    let service = settled(&segue, (SESSIONS * READS + 1) as u64);
    assert_eq!(skipped(&service, "session_key_missing"), 1);

    let mut seen = BTreeMap::<String, usize>::new();
    for request in shadow.take() {
        *seen.entry(request.header("x-session").unwrap().to_owned()).or_default() += 1;
    }
    assert!(seen.values().all(|reads| *reads == READS), "torn apart: {seen:?}");
    // Binomial(60, 40 %): mean 24, σ 3.8; five of them.
    assert!((5..=43).contains(&seen.len()), "{} sessions of {SESSIONS}", seen.len());
    assert_eq!(teed(&service), (seen.len() * READS) as u64);
}

#[test]
fn by_cookie() {
    wholly_or_not_at_all("{ cookie = \"sid\" }", |ask, session, read| {
        // The other cookies change all the time.
        ask.with("cookie", &format!("seen={read}; sid=s{session}; ab={}", read * session))
    });
}

#[test]
fn by_header() {
    wholly_or_not_at_all("{ header = \"x-user\" }", |ask, session, read| {
        ask.with("x-user", &format!("user-{session}")).with("cookie", &format!("sid={read}"))
    });
}
