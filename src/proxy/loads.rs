//! How many connections each worker has, for all to see: what limits them, and who takes the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A worker with this many connections more than the least loaded one passes the next one on: whoever
/// happens to wake up first would otherwise collect them all.
const LEAD: usize = 4;

/// Connections of all workers, each on a cache line of its own.
#[derive(Debug)]
pub struct Loads(Vec<Arc<Load>>);

#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Load(AtomicUsize);

impl Loads {
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self((0..workers).map(|_| Arc::default()).collect()))
    }

    pub fn total(&self) -> usize {
        self.0.iter().map(|load| load.get()).sum()
    }

    /// The least loaded worker, if `worker` is well ahead of it.
    pub fn behind(&self, worker: usize) -> Option<usize> {
        let mine = self.0.get(worker).map_or(0, |load| load.get());
        let (least, load) = self.0.iter().map(|load| load.get()).enumerate().min_by_key(|(_, load)| *load)?;
        (mine > load + LEAD).then_some(least)
    }

    /// A worker's own; one that is not among them counts for itself.
    pub fn of(&self, worker: usize) -> Arc<Load> {
        self.0.get(worker).map(Arc::clone).unwrap_or_default()
    }
}

impl Load {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// One connection in the count, from accepting to closing, whatever it goes through meanwhile.
#[derive(Debug)]
pub struct Counted(Arc<Load>);

impl Counted {
    pub fn new(load: &Arc<Load>) -> Self {
        load.0.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_connection_goes_to_whom_has_clearly_fewer() {
        let loads = Loads::new(2);
        let mut mine: Vec<_> = (0..LEAD).map(|_| Counted::new(&loads.of(0))).collect();
        assert_eq!(loads.behind(0), None, "a small lead is no reason");
        mine.push(Counted::new(&loads.of(0)));
        assert_eq!((loads.behind(0), loads.behind(1)), (Some(1), None));
        mine.clear();
        assert_eq!((loads.total(), loads.behind(0)), (0, None));
    }
}
