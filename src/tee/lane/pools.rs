//! One thread's connections to shadows.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::ask::Whole;
use crate::upstream::{Instance, Pool};

/// A pool for each shadow instance that this thread has been asked about, by the instance's address. There are as many as
/// services with a shadow: too few to be worth a hash.
#[derive(Default)]
pub struct Pools(RefCell<Vec<(usize, Rc<Pool<Whole>>)>>);

impl Pools {
    pub fn of(&self, instance: &Arc<Instance>) -> Rc<Pool<Whole>> {
        let address = Arc::as_ptr(instance) as usize;
        let mut pools = self.0.borrow_mut();
        if let Some((_, pool)) = pools.iter().find(|(of, _)| *of == address) {
            return Rc::clone(pool);
        }
        let pool = Pool::new(Arc::clone(instance));
        pools.push((address, Rc::clone(&pool)));
        pool
    }

    pub fn sweep(&self, now: Instant) {
        let mut pools = self.0.borrow_mut();
        for (_, pool) in pools.iter() {
            pool.sweep(now);
        }
        // Only this pool still knows the instance: its settings were replaced.
        pools.retain(|(_, pool)| Arc::strong_count(pool.instance()) > 1 || Rc::strong_count(pool) > 1);
    }
}
