//! How long requests are held when nothing slow is in the way.

use segue::load::{Load, LoadSettings};

use crate::stage::{Stage, block_on};
use crate::support::until;

const SWITCHOVERS: usize = 8;
/// The target is 50 ms on a machine of its own; this holds on a busy one.
const GENEROUS_MS: f64 = 500.0;

#[test]
fn a_request_is_held_for_hardly_longer_than_the_drain_takes() {
    let stage = Stage::new("", &[]);
    let mut settings = LoadSettings::new(stage.segue.url().parse().unwrap(), 200.0);
    settings.write_share = 0.15;
    let load = Load::start(settings).unwrap();
    let mut slowest_drain = 0.0_f64;
    let mut slowest_swap = 0.0_f64;
    for _ in 0..SWITCHOVERS {
        let before = load.live().done();
        until("the load to go on", || (load.live().done() > before + 20).then_some(()));
        let ended = stage.segue.switchover("{}");
        assert_eq!(ended["outcome"], "completed", "{ended}");
        slowest_drain = slowest_drain.max(ended["drain_ms"].as_f64().unwrap());
        slowest_swap = slowest_swap.max(ended["swap_ms"].as_f64().unwrap());
    }
    let report = block_on(load.finish()).unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    let service = stage.segue.service();
    let held = &service["held_ms"];
    let net = held["p99"].as_f64().unwrap() - slowest_drain;
    eprintln!(
        "held: {held}; slowest drain {slowest_drain:.1} ms, slowest swap {slowest_swap:.1} ms, \
         p99 net of the drain {net:.1} ms"
    );
    // What the disk takes to make the swap durable is not Segue's, and others may be using it.
    assert!(net - slowest_swap < GENEROUS_MS, "{held}");
    stage.assert_quiet();
}
