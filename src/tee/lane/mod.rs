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

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use tokio::sync::{mpsc, oneshot};

use self::heard::Heard;
use super::breaker::{Breaker, Pass};
use super::budget::{Budget, Permit};
use super::compare::{Asked, Outcome};
use super::shadow::ShadowRecords;
use super::skip::Skip;
use crate::config::{InstanceName, Tee};
use crate::upstream::{Added, Instance};

pub use copy::size_of;
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
    pub target: PathAndQuery,
    pub headers: HeaderMap,
    pub body: JobBody,
    /// Where only the body tells whether this is a read.
    pub judge: Option<Judge>,
    by_body: bool,
    pub started: Instant,
    /// What became of the read at the source.
    pub outcome: oneshot::Receiver<Outcome>,
    permit: Permit,
    pass: Pass,
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
    Ask(Box<Job>),
    Settle(Vec<Heard>),
}

impl Job {
    /// `parts` and what is `added` are as the instance will get them.
    fn new(offer: Offer<'_>, now: Instant) -> Result<(Self, oneshot::Sender<Outcome>), Skip> {
        let Offer { service, shadow, generation, source, parts, added, body, judge, credentials } = offer;
        let bytes = size_of(parts);
        let pass = service.breaker.try_pass(now)?;
        let permit = service.budget.try_take(bytes, now)?;
        let (sender, outcome) = oneshot::channel();
        let (target, headers) = copy::owned(parts, added);
        let by_body = judge.is_some() || matches!(body, JobBody::Arriving(_));
        let job = Self {
            asked: Asked::of(&parts.method, &parts.headers, credentials),
            service,
            shadow,
            generation,
            source,
            target,
            headers,
            body,
            judge,
            by_body,
            started: now,
            outcome,
            permit,
            pass,
        };
        Ok((job, sender))
    }
}

/// The arguments of [`LocalLane::offer`].
pub struct Offer<'a> {
    pub service: Arc<LaneService>,
    pub shadow: Arc<Instance>,
    pub generation: u64,
    pub source: InstanceName,
    pub parts: &'a Parts,
    pub added: &'a Added,
    pub body: JobBody,
    pub judge: Option<Judge>,
    pub credentials: bool,
}

impl Asked {
    fn of(method: &Method, headers: &HeaderMap, credentials: bool) -> Self {
        use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, RANGE};
        let conditions = [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE];
        Self {
            method: method.clone(),
            conditional: conditions.iter().any(|name| headers.contains_key(name)),
            ranged: headers.contains_key(RANGE),
            credentials,
        }
    }
}
