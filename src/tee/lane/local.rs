//! A worker's own part of the lane: the legs that it asks itself, and what is handed to the lane's threads.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use super::heard::Heard;
use super::pools::Pools;
use super::{Begun, Form, Job, JobBody, LaneHandle, Offer, Work};
use crate::tee::compare::Outcome;
use crate::tee::skip::Skip;

/// Pairs that are settled together: enough that waking a lane thread costs next to nothing for each.
const BATCH: usize = 32;
/// Heard pairs that wait for a lane thread; with more of them nothing is asked.
const WAITING: usize = 16 * BATCH;

pub struct LocalLane {
    threads: LaneHandle,
    pools: Pools,
    heard: RefCell<Vec<Heard>>,
}

impl LocalLane {
    pub fn new(threads: LaneHandle) -> Rc<Self> {
        Rc::new(Self { threads, pools: Pools::default(), heard: RefCell::default() })
    }

    /// Takes a read on, or says why not.
    pub fn offer(self: &Rc<Self>, offer: Offer<'_>, now: Instant) -> Result<oneshot::Sender<Outcome>, Skip> {
        let bare = matches!(offer.body, JobBody::Empty) && offer.judge.is_none();
        if bare && offer.shadow.is_plain() { self.ask(offer, now) } else { self.hand_over(offer, now) }
    }

    fn ask(self: &Rc<Self>, offer: Offer<'_>, now: Instant) -> Result<oneshot::Sender<Outcome>, Skip> {
        if self.heard.borrow().len() >= WAITING {
            return Err(Skip::QueueFull);
        }
        let Begun { job, claim, outcome } = Job::begin(offer, Form::Lines, now)?;
        let pool = self.pools.of(&job.shadow);
        let lane = Rc::clone(self);
        // On the heap before it is a task, which is moved about.
        tokio::task::spawn_local(Box::pin(async move {
            let heard = job.hear(claim, Bytes::new(), &pool).await;
            lane.keep(heard);
        }));
        Ok(outcome)
    }

    fn hand_over(&self, offer: Offer<'_>, now: Instant) -> Result<oneshot::Sender<Outcome>, Skip> {
        let place = self.threads.queue.try_reserve().map_err(|_| Skip::QueueFull)?;
        let Begun { job, claim, outcome } = Job::begin(offer, Form::Map, now)?;
        place.send(Work::Ask(job, claim));
        Ok(outcome)
    }

    fn keep(&self, heard: Heard) {
        let waiting = {
            let mut all = self.heard.borrow_mut();
            if all.capacity() == 0 {
                all.reserve_exact(BATCH);
            }
            all.push(heard);
            all.len()
        };
        if waiting.is_multiple_of(BATCH) {
            self.flush();
        }
    }

    /// Has what was heard settled.
    pub fn flush(&self) {
        let heard = std::mem::take(&mut *self.heard.borrow_mut());
        if heard.is_empty() {
            return;
        }
        // Where the queue is closed the process is ending.
        if let Err(TrySendError::Full(Work::Settle(heard))) = self.threads.queue.try_send(Work::Settle(heard))
        {
            // For the next time.
            *self.heard.borrow_mut() = heard;
        }
    }

    /// Closes what rested too long, and keeps no pair waiting because few come.
    pub fn sweep(&self, now: Instant) {
        self.flush();
        self.pools.sweep(now);
    }
}
