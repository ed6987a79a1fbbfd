//! `kill -9` of Segue around the durable swap.

use std::time::Duration;

use segue::load::{Load, LoadSettings, audit};

use crate::stage::{Stage, block_on, instance_of, name_of, post, recorded};
use crate::support::{try_request, until};

const ROUNDS: usize = 12;

#[test]
fn no_acknowledged_write_is_lost_or_doubled_by_kill_9() {
    let mut stage = Stage::new("", &["--latency", "exp:2ms"]);
    let target: segue::config::Endpoint = stage.segue.url().parse().unwrap();
    let (mut active, mut generation, mut swaps) = ("a", 1, 0);
    for round in 0..ROUNDS {
        let mut settings = LoadSettings::new(target.clone(), 400.0);
        settings.write_share = 0.6;
        settings.max_connections = 16;
        settings.seed = round as u64;
        let load = Load::start(settings).unwrap();
        until("the load to be under way", || (load.live().done() >= 40).then_some(()));

        let admin = stage.segue.admin;
        let switchover = std::thread::spawn(move || {
            let request =
                "POST /v1/services/web/switchover HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
            try_request(admin, request)
        });
        // Anywhere around the swap, or in the moment when the other instance has taken its first write.
        let mut taken = false;
        if round % 2 == 0 {
            std::thread::sleep(Duration::from_micros(fastrand::u64(..30_000)));
        } else {
            until("the other instance to take a write", || {
                let answer = post(stage.address(), "/ledger/probe");
                (instance_of(&answer) != active).then_some(())
            });
            taken = true;
        }
        stage.segue.kill();
        let answer = switchover.join().unwrap();

        // Without a record the configured source is active, in generation 1.
        let (now, its_generation) = recorded(&stage.segue).unwrap_or(("source".to_owned(), 1));
        let swapped = now != name_of(active);
        assert!(swapped || !taken, "the other instance took a write before the swap was durable");
        if let Ok(answer) = answer {
            assert!(answer.status == 200 && answer.text().contains("completed"), "{}", answer.text());
            assert!(swapped, "told that it had completed, and it had not");
        }
        if swapped {
            active = if active == "a" { "b" } else { "a" };
            swaps += 1;
        }
        assert_eq!(its_generation, generation + u64::from(swapped));
        generation = its_generation;

        stage.segue.restart();
        let service = stage.segue.service();
        assert_eq!(service["active"], name_of(active));
        assert_eq!(service["generation"], generation);
        assert_eq!(stage.answering(), active);
        let report = block_on(load.finish()).unwrap();
        let found = audit(&report, &stage.counts());
        assert!(found.is_exact(), "round {round}: {found:?}");
        eprintln!("round {round}: swapped {swapped}, {} of {} failed", report.failed, report.sent);
    }
    let writers = stage.writers();
    assert!(writers.len() <= swaps + 1, "{swaps} swaps, and writes were taken by {writers:?}");
    assert_eq!(stage.segue.switchover("{}")["outcome"], "completed");
    stage.assert_quiet();
}
