//! A fault of Segue itself in the middle of a migration is met like a crash, without the process ending.

use crate::stage::{SLOW_SOURCE, Stage};

#[test]
fn a_driver_that_panics_goes_on_where_its_journal_says() {
    // In a step, between two, and while callers are held.
    for point in ["judge.intended", "resize.done", "switchover.drained", "switchover.swapped"] {
        let stage = Stage::with(&[("SEGUE_FAILPOINT", point), ("SEGUE_PANICS", "1")], "", &SLOW_SOURCE);
        let load = stage.load(200.0);
        let id = stage.start(&stage.request(&[]));
        stage.until_phase(id, "done");
        assert!(stage.segue.log().contains("panicked"), "{point} was reached");
        stage.assert_all_is_undone_but("shadow");
        assert_eq!(stage.finish(load).failed, 0, "{point}");
    }
}

#[test]
fn one_that_panics_again_and_again_is_undone_and_says_so() {
    let stage = Stage::with(&[("SEGUE_FAILPOINT", "judge.done"), ("SEGUE_PANICS", "3")], "", &SLOW_SOURCE);
    let load = stage.load(200.0);
    let id = stage.start(&stage.request(&[]));
    let view = stage.until_phase(id, "failed");
    assert!(view["reason"].as_str().unwrap().contains("the step `judge` panicked"), "{view:#}");
    stage.assert_all_is_undone_but("source");
    let id = stage.start(&stage.request(&[]));
    let view = stage.until_over(id);
    assert_eq!(view["phase"], "done", "the next one is driven: {view:#}");
    assert_eq!(stage.finish(load).failed, 0);
}
