//! The lane's threads.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use super::ask::{Leg, Question, Whole, ask};
use super::{Copied, Job, JobBody, LaneHandle};
use crate::config::InstanceName;
use crate::record::{Direction, Exchange, Side};
use crate::tee::compare::{End, Outcome, Pair, Parties, compare};
use crate::tee::skip::Skip;
use crate::upstream::{Instance, Pool};

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

/// This thread's pools, one for each shadow instance it has been asked about.
#[derive(Default)]
struct Pools(RefCell<HashMap<usize, Rc<Pool<Whole>>>>);

impl Pools {
    fn of(&self, instance: &Arc<Instance>) -> Rc<Pool<Whole>> {
        let key = Arc::as_ptr(instance) as usize;
        let mut pools = self.0.borrow_mut();
        Rc::clone(pools.entry(key).or_insert_with(|| Pool::new(Arc::clone(instance))))
    }

    fn sweep(&self, now: Instant) {
        let mut pools = self.0.borrow_mut();
        for pool in pools.values() {
            pool.sweep(now);
        }
        // Only this pool still knows the instance: its settings were replaced.
        pools.retain(|_, pool| Arc::strong_count(pool.instance()) > 1 || Rc::strong_count(pool) > 1);
    }
}

async fn serve(mut jobs: mpsc::Receiver<Job>) {
    let pools = Rc::new(Pools::default());
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            job = jobs.recv() => match job {
                Some(job) => {
                    let pool = pools.of(&job.shadow);
                    tokio::task::spawn_local(pair(job, pool));
                }
                None => return,
            },
            _ = sweep.tick() => pools.sweep(Instant::now()),
        }
    }
}

/// One pair from its two beginnings to its verdict.
async fn pair(job: Job, pool: Rc<Pool<Whole>>) {
    let Job { service, body, judge, headers, target, asked, mut permit, pass, started, outcome, .. } = job;
    let by_body = judge.is_some() || matches!(&body, JobBody::Arriving(_));
    let skip = |reason: Skip| {
        let mut records = service.records.lock();
        let counts = if by_body { &mut records.by_body } else { &mut records.counts };
        counts.skip(reason);
    };
    let deadline = service.tee.deadline;
    let body = match body {
        JobBody::Empty => Bytes::new(),
        // The caller's upload has its own timeouts; the receiver fails when it breaks off.
        JobBody::Arriving(copied) => match copied.await {
            Ok(Copied::Whole(body)) => body,
            Ok(Copied::TooLarge) => return skip(Skip::BodyTooLarge),
            Err(_) => return skip(Skip::BodyIncomplete),
        },
    };
    if let Some(judge) = judge
        && !judge(&headers, &target, &body)
    {
        return skip(Skip::BodyIsWrite);
    }
    if let Err(reason) = permit.hold(body.len() as u64) {
        return skip(reason);
    }
    permit.charge(body.len() as u64);
    let question = Question {
        method: &asked.method,
        target: &target,
        headers,
        body,
        trace_sampled: service.tee.trace_sampled,
        max_answer_bytes: service.tee.max_answer_bytes.bytes(),
    };
    let sent = Cell::new(false);
    let asking = ask(&pool, question, &permit, &sent);
    let leg = tokio::time::timeout(deadline, asking).await.unwrap_or_else(|_| Leg {
        outcome: Outcome::without_head(End::TimedOut),
        connect: None,
        unseen: (!sent.get()).then_some(Skip::ConnectFailed),
        retried: false,
    });
    match leg.outcome.end {
        End::Complete | End::TooLarge => pass.succeeded(),
        _ => pass.failed(Instant::now()),
    }
    // The shadow has had its say, so its budget is free; the source may take as long as its caller.
    drop(permit);
    let source = outcome.await.unwrap_or_else(|_| Outcome::without_head(End::CallerLeft));

    let comparison = compare(&asked, &source, &leg.outcome);
    let parties = Parties {
        service: Arc::clone(&service.name),
        generation: job.generation,
        source_instance: job.source.as_str().into(),
        shadow_instance: job.shadow.name.as_str().into(),
    };
    tracing::trace!(service = %service.name, verdict = comparison.verdict.as_str(), age = ?started.elapsed(), "pair");
    let pair =
        Pair::new(SystemTime::now(), &parties, &asked, target.as_str(), &source, &leg.outcome, comparison);
    let mut records = service.records.lock();
    let counts = if by_body { &mut records.by_body } else { &mut records.counts };
    match leg.unseen {
        Some(reason) => counts.skip(reason),
        None => counts.teed += 1,
    }
    records.stale_retries += u64::from(leg.retried);
    let direction = match job.source {
        InstanceName::Source => Direction::Forward,
        InstanceName::Shadow => Direction::Reverse,
    };
    let source_status = source.head.as_ref().map(|head| head.status);
    for (side, outcome) in [(Side::Source, &source), (Side::Shadow, &leg.outcome)] {
        let exchange = Exchange {
            side,
            direction,
            status: outcome.head.as_ref().map(|head| head.status),
            first_byte: outcome.first_byte,
            last_byte: outcome.last_byte.filter(|_| !outcome.caller_slow),
        };
        records.recorder.record(&exchange);
        records.recorder.record_route(target.path(), source_status, &exchange);
    }
    if let Some(connect) = leg.connect {
        records.recorder.connect(Side::Shadow, direction, connect);
    }
    records.remember(pair);
}
