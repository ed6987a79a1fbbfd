//! Any mixture of reads and writes through a real proxy to a shadow that remembers: it has seen every
//! read, whole, and no write.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::dresses::{CLASSIFY, read, write};
use crate::support::Segue;
use crate::support::client::{Ask, Client};
use crate::support::recorder::{Recorded, Recorder};
use crate::support::tee::{EVERYTHING, settled_somehow, skipped, teed};

/// About a dozen requests each.
const CASES: u32 = 160;

#[derive(Clone, Debug)]
struct Marked {
    ask: Ask,
    writes: bool,
}

fn traffic() -> impl Strategy<Value = Vec<Marked>> {
    let reads = read().prop_map(|ask| Marked { ask, writes: false });
    let writes = write().prop_map(|ask| Marked { ask, writes: true });
    prop::collection::vec(prop_oneof![1 => reads, 2 => writes], 1..25)
}

fn by_id(seen: Vec<Recorded>) -> BTreeMap<usize, Recorded> {
    let with_id = |request: Recorded| (request.header("x-id").unwrap().parse().unwrap(), request);
    seen.into_iter().map(with_id).collect()
}

#[test]
fn the_shadow_sees_every_read_and_no_write() {
    let (source, shadow) = (Recorder::start(), Recorder::start());
    let segue = Segue::with(&source.url(), Some(&shadow.url()), &format!("{EVERYTHING}\n{CLASSIFY}"), "");
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let ran = TestRunner::new(config).run(&traffic(), |traffic| {
        let mut client = Client::new(segue.address);
        for (id, marked) in traffic.iter().enumerate() {
            let answer = client.ask(&marked.ask.clone().with("x-id", &id.to_string()));
            prop_assert!(marked.writes || answer.status == 200, "{:?}: {}", marked.ask, answer.head);
        }
        settled_somehow(&segue);
        let (at_source, at_shadow) = (source.take(), shadow.take());
        prop_assert_eq!(at_shadow.len(), traffic.iter().filter(|marked| !marked.writes).count());
        let (at_source, at_shadow) = (by_id(at_source), by_id(at_shadow));
        for (id, marked) in traffic.iter().enumerate() {
            let seen = at_shadow.get(&id);
            if marked.writes {
                prop_assert!(seen.is_none(), "a write was teed: {:?}", marked.ask);
                continue;
            }
            let seen = seen.ok_or_else(|| TestCaseError::fail(format!("not teed: {:?}", marked.ask)))?;
            prop_assert_eq!(&seen.method, &marked.ask.method);
            prop_assert_eq!(&seen.target, &marked.ask.target);
            prop_assert!(
                seen.body == marked.ask.body.clone().unwrap_or_default(),
                "another body: {:?}",
                marked.ask
            );
            let original = &at_source[&id];
            prop_assert_eq!((original.header("host"), &original.body), (seen.header("host"), &seen.body));
        }
        Ok(())
    });
    ran.unwrap();
    let service = settled_somehow(&segue);
    println!(
        "{} reads teed, {} writes kept back",
        teed(&service),
        skipped(&service, "write") + skipped(&service, "body_is_write")
    );
    assert!(skipped(&service, "write") > 100 && skipped(&service, "body_is_write") > 10);
}

#[test]
fn without_opt_ins_nothing_that_posts_is_teed() {
    let (source, shadow) = (Recorder::start(), Recorder::start());
    let segue = Segue::with(&source.url(), Some(&shadow.url()), EVERYTHING, "");
    let config = Config { cases: 16, failure_persistence: None, ..Config::default() };
    let ran = TestRunner::new(config).run(&prop::collection::vec(read(), 1..25), |asks| {
        let mut client = Client::new(segue.address);
        for ask in &asks {
            client.ask(ask);
        }
        settled_somehow(&segue);
        for seen in shadow.take() {
            prop_assert!(["GET", "HEAD", "OPTIONS"].contains(&seen.method.as_str()), "{seen:?}");
            prop_assert!(seen.body.is_empty());
        }
        source.take();
        Ok(())
    });
    ran.unwrap();
    assert!(teed(&settled_somehow(&segue)) > 0);
}
