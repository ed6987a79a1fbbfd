//! A worker's own part of the lane: the legs that it asks itself, and what is handed to the lane's threads.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, oneshot};

use super::ask::Whole;
use super::company::{Company, Leaving};
use super::heard::Heard;
use super::pools::Pools;
use super::{Begun, Claim, Form, Job, JobBody, LaneHandle, Offer, Work};
use crate::config::Percent;
use crate::tee::compare::Outcome;
use crate::tee::skip::Skip;
use crate::upstream::Pool;

/// Pairs that are settled together: enough that waking a lane thread costs next to nothing for each.
const BATCH: usize = 32;
/// Heard pairs that wait for a lane thread; with more of them nothing is asked.
const WAITING: usize = 16 * BATCH;
/// Up to here copies leave in twos. Of more the shadow hardly sleeps in between; and each is served so long that another
/// one beside it would be seen to wait.
const TOGETHER: Percent = Percent::FIVE;

pub struct LocalLane {
    threads: LaneHandle,
    pools: Pools,
    company: RefCell<Company<Ready>>,
    /// Somebody waits for company.
    waits: Notify,
    heard: RefCell<Vec<Heard>>,
}

/// What only has to be asked.
struct Ready {
    job: Box<Job>,
    claim: Claim,
    pool: Rc<Pool<Whole>>,
}

impl LocalLane {
    pub fn new(threads: LaneHandle) -> Rc<Self> {
        Rc::new(Self {
            threads,
            pools: Pools::default(),
            company: RefCell::new(Company::new()),
            waits: Notify::new(),
            heard: RefCell::default(),
        })
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
        let is_scarce = job.service.tee.percent <= TOGETHER;
        let ready = Ready { job, claim, pool };
        let leaving =
            if is_scarce { self.company.borrow_mut().join(ready, now) } else { Leaving::Alone(ready) };
        match leaving {
            Leaving::Alone(one) => self.send(one),
            Leaving::Both(one, other) => {
                self.send(one);
                self.send(other);
            }
            Leaving::Nobody => self.waits.notify_one(),
        }
        Ok(outcome)
    }

    fn send(self: &Rc<Self>, ready: Ready) {
        let lane = Rc::clone(self);
        // On the heap before it is a task, which is moved about.
        tokio::task::spawn_local(Box::pin(async move {
            let Ready { job, claim, pool } = ready;
            let heard = job.hear(claim, Bytes::new(), &pool).await;
            lane.keep(heard);
        }));
    }

    /// Sends who waited for company in vain. Never returns.
    pub async fn watch(self: Rc<Self>) {
        loop {
            // One timer for all: it is still set when others wait by then.
            let due = self.company.borrow().due();
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => self.waits.notified().await,
            }
            let overdue = self.company.borrow_mut().overdue(Instant::now());
            if let Some(one) = overdue {
                self.send(one);
            }
        }
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
