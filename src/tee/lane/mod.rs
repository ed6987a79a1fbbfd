//! The lane: it asks the shadow, and compares, without any caller waiting for it.
//!
//! ```text
//!  worker: sampled read ── offer ──┬─ plain and without a body ──► the worker asks ──┐
//!     │                            └─ else ── queue ──► a lane thread asks ──────────┤
//!     └── source's answer ends ── Outcome ───────────────────────────────────────────┴─► lane thread: settle
//! ```
//!
//! A thread of its own for every leg costs more than the leg: on a full machine it is woken, and displaces the worker,
//! for each copy. What is cheap to send and to read (plain HTTP/1.1, no request body) is therefore asked from the worker,
//! as one more connection among its callers'; TLS, HTTP/2, bodies and whatever has to be parsed go to the lane's threads,
//! and so does the comparing, many pairs at a time.
//!
//! From `offer` on nothing of a caller's waits for the shadow. What a job holds is counted in bytes by its permit and
//! released with it, and a job lives no longer than `tee.deadline` beyond its source. A queue that is full drops and counts.

mod ask;
mod copy;
mod heard;
mod local;
mod pools;
mod run;

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use http::uri::PathAndQuery;
use tokio::sync::{mpsc, oneshot};

pub use self::copy::Original;
use self::copy::{Copy, Form, size_of};
use self::heard::Heard;
use super::breaker::{Breaker, Pass};
use super::budget::{Budget, Permit};
use super::compare::{Asked, Outcome};
use super::shadow::ShadowRecords;
use super::skip::Skip;
use crate::config::{InstanceName, Tee};
use crate::upstream::{Added, Instance};

pub use local::LocalLane;
pub use run::{Lane, LaneError};

/// What the lane has to know of a service; replaced as a whole when its settings change.
#[derive(Debug)]
pub struct LaneService {
    pub name: Arc<str>,
    pub tee: Tee,
    pub budget: Arc<Budget>,
    pub breaker: Arc<Breaker>,
    pub records: Arc<ShadowRecords>,
}

/// One sampled read on its way to the shadow.
pub struct Job {
    pub service: Arc<LaneService>,
    pub shadow: Arc<Instance>,
    pub generation: u64,
    pub source: InstanceName,
    pub asked: Asked,
    copy: Copy,
    pub body: JobBody,
    /// Where only the body tells whether this is a read.
    pub judge: Option<Judge>,
    by_body: bool,
    pub started: Instant,
    /// What became of the read at the source.
    pub outcome: oneshot::Receiver<Outcome>,
}

/// What a pair has been granted, for as long as the shadow is being asked.
struct Claim {
    permit: Permit,
    pass: Pass,
}

/// A pair that has been taken on.
struct Begun {
    /// Boxed once; it goes from hand to hand until it is settled.
    job: Box<Job>,
    claim: Claim,
    outcome: oneshot::Sender<Outcome>,
}

/// A copy of the request's body.
pub enum JobBody {
    Empty,
    /// It is still passing by on its way to the source.
    Arriving(oneshot::Receiver<Copied>),
}

/// A body that passed by.
#[derive(Debug, PartialEq, Eq)]
pub enum Copied {
    Whole(bytes::Bytes),
    TooLarge,
}

/// Whether a request with this body is a read. Runs on the lane.
pub type Judge = Box<dyn FnOnce(&HeaderMap, &PathAndQuery, &[u8]) -> bool + Send>;

/// A worker's end of the queue to one lane thread.
#[derive(Clone, Debug)]
pub struct LaneHandle {
    queue: mpsc::Sender<Work>,
}

/// What the lane's threads do.
enum Work {
    Ask(Box<Job>, Claim),
    Settle(Vec<Heard>),
}

impl Job {
    /// The original and what is `added` are as the instance will get them.
    fn begin(offer: Offer<'_>, form: Form, now: Instant) -> Result<Begun, Skip> {
        let Offer { service, shadow, generation, source, original, added, body, judge, credentials } = offer;
        let bytes = size_of(&original);
        let pass = service.breaker.try_pass(now)?;
        let permit = service.budget.try_take(bytes, now)?;
        let (sender, outcome) = oneshot::channel();
        let by_body = judge.is_some() || matches!(body, JobBody::Arriving(_));
        let job = Box::new(Self {
            asked: Asked::of(original.method, original.headers, credentials),
            copy: Copy::new(&original, added, bytes, form, service.tee.trace_sampled),
            service,
            shadow,
            generation,
            source,
            body,
            judge,
            by_body,
            started: now,
            outcome,
        });
        Ok(Begun { job, claim: Claim { permit, pass }, outcome: sender })
    }
}

/// The arguments of [`LocalLane::offer`].
pub struct Offer<'a> {
    pub service: Arc<LaneService>,
    pub shadow: Arc<Instance>,
    pub generation: u64,
    pub source: InstanceName,
    pub original: Original<'a>,
    pub added: &'a Added,
    pub body: JobBody,
    pub judge: Option<Judge>,
    pub credentials: bool,
}
