//! One thread's connections to shadows.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::ask::Whole;
use crate::upstream::{Instance, Pool};

/// A pool for each shadow instance that this thread has been asked about.
#[derive(Default)]
pub struct Pools(RefCell<HashMap<usize, Rc<Pool<Whole>>>>);

impl Pools {
    pub fn of(&self, instance: &Arc<Instance>) -> Rc<Pool<Whole>> {
        let key = Arc::as_ptr(instance) as usize;
        let mut pools = self.0.borrow_mut();
        Rc::clone(pools.entry(key).or_insert_with(|| Pool::new(Arc::clone(instance))))
    }

    pub fn sweep(&self, now: Instant) {
        let mut pools = self.0.borrow_mut();
        for pool in pools.values() {
            pool.sweep(now);
        }
        // Only this pool still knows the instance: its settings were replaced.
        pools.retain(|_, pool| Arc::strong_count(pool.instance()) > 1 || Rc::strong_count(pool) > 1);
    }
}
