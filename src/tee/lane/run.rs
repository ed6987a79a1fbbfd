//! The lane's threads.

use std::io;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use super::ask::Whole;
use super::heard::Heard;
use super::pools::Pools;
use super::{Claim, Copied, Job, JobBody, LaneHandle, Work};
use crate::tee::budget::Permit;
use crate::tee::skip::Skip;
use crate::upstream::Pool;

/// How often connections that rested too long are closed.
const SWEEP: Duration = Duration::from_secs(1);

/// Parsing a hostile GraphQL document takes up to 1.5 MiB of it in a debug build.
const STACK: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    #[error("starting a lane thread: {0}")]
    Start(#[from] io::Error),
}

/// The lane's threads; they end when this and every handle is dropped.
#[derive(Debug)]
pub struct Lane {
    handles: Vec<LaneHandle>,
}

impl Lane {
    pub fn start(threads: NonZeroUsize, queue: usize) -> Result<Self, LaneError> {
        let mut handles = Vec::new();
        for number in 0..threads.get() {
            let (sender, receiver) = mpsc::channel(queue.max(1));
            let (started, ready) = std::sync::mpsc::channel();
            thread::Builder::new().name(format!("lane-{number}")).stack_size(STACK).spawn(move || {
                let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
                match runtime {
                    Ok(runtime) => {
                        // Whoever started this thread is waiting for the word.
                        let _ = started.send(Ok(()));
                        runtime.block_on(serve(receiver));
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            })?;
            ready.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")))?;
            handles.push(LaneHandle { queue: sender });
        }
        Ok(Self { handles })
    }

    /// The queue for worker `number`.
    pub fn handle(&self, number: usize) -> Option<LaneHandle> {
        let count = self.handles.len().max(1);
        self.handles.get(number % count).cloned()
    }
}

async fn serve(mut queue: mpsc::Receiver<Work>) {
    let pools = Rc::new(Pools::default());
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            work = queue.recv() => match work {
                Some(Work::Ask(job, claim)) => {
                    let pool = pools.of(&job.shadow);
                    tokio::task::spawn_local(pair(job, claim, pool));
                }
                Some(Work::Settle(heard)) => heard.into_iter().for_each(Heard::settle),
                None => return,
            },
            _ = sweep.tick() => pools.sweep(Instant::now()),
        }
    }
}

/// One pair from its two beginnings to its verdict.
async fn pair(mut job: Box<Job>, mut claim: Claim, pool: Rc<Pool<Whole>>) {
    match job.body(&mut claim.permit).await {
        Ok(body) => job.hear(claim, body, &pool).await.settle(),
        Err(reason) => {
            let mut records = job.service.records.lock();
            let counts = if job.by_body { &mut records.by_body } else { &mut records.counts };
            counts.skip(reason);
        }
    }
}

impl Job {
    /// The whole body, once it has come and is known to be a read's.
    async fn body(&mut self, permit: &mut Permit) -> Result<Bytes, Skip> {
        let body = match std::mem::replace(&mut self.body, JobBody::Empty) {
            JobBody::Empty => Bytes::new(),
            // The caller's upload has its own timeouts; the receiver fails when it breaks off.
            JobBody::Arriving(copied) => match copied.await {
                Ok(Copied::Whole(body)) => body,
                Ok(Copied::TooLarge) => return Err(Skip::BodyTooLarge),
                Err(_) => return Err(Skip::BodyIncomplete),
            },
        };
        if let Some(judge) = self.judge.take()
            && !judge(&self.copy.headers, &self.copy.target, &body)
        {
            return Err(Skip::BodyIsWrite);
        }
        permit.hold(body.len() as u64)?;
        permit.charge(body.len() as u64);
        Ok(body)
    }
}
