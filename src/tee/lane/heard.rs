//! A pair from its two beginnings to its verdict.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;

use super::ask::{Leg, Question, Whole, ask};
use super::{Claim, Job};
use crate::config::InstanceName;
use crate::record::{Direction, Exchange, Side};
use crate::tee::compare::{End, Outcome, Pair, Parties, compare};
use crate::tee::skip::Skip;
use crate::upstream::Pool;

/// A pair of which both sides have ended. It pins no buffer of a connection's, and no connection.
pub struct Heard {
    job: Box<Job>,
    outcome: Outcome,
    leg: Leg,
}

impl Job {
    /// Asks the shadow, and waits for the source.
    pub(super) async fn hear(
        mut self: Box<Self>,
        claim: Claim,
        body: Bytes,
        pool: &Rc<Pool<Whole>>,
    ) -> Heard {
        let Claim { permit, pass } = claim;
        let deadline = self.service.tee.deadline;
        let question = Question {
            method: &self.asked.method,
            copy: &mut self.copy,
            body,
            max_answer_bytes: self.service.tee.max_answer_bytes.bytes(),
        };
        let sent = Cell::new(false);
        let leg = {
            // Where it is, as it is large; what is too late ends with this block.
            let asking = pin!(ask(pool, question, &permit, &sent));
            tokio::time::timeout(deadline, asking).await.unwrap_or_else(|_| Leg {
                outcome: Outcome::without_head(End::TimedOut),
                connect: None,
                unseen: (!sent.get()).then_some(Skip::ConnectFailed),
                retried: false,
            })
        };
        match leg.outcome.end {
            End::Complete | End::TooLarge => pass.succeeded(),
            _ => pass.failed(Instant::now()),
        }
        // The shadow has had its say, so its budget is free; the source may take as long as its caller.
        drop(permit);
        let outcome = (&mut self.outcome).await.unwrap_or_else(|_| Outcome::without_head(End::CallerLeft));
        Heard { job: self, outcome, leg }
    }
}

impl Heard {
    /// Compares and records.
    pub fn settle(self) {
        let Self { job, outcome: source, leg } = &self;
        let (service, asked, target) = (&job.service, &job.asked, &job.copy.target);
        let comparison = compare(asked, source, &leg.outcome);
        let parties = Parties {
            service: Arc::clone(&service.name),
            generation: job.generation,
            source_instance: job.source,
            shadow_instance: job.shadow.name,
        };
        let verdict = comparison.verdict.as_str();
        tracing::trace!(service = %service.name, verdict, age = ?job.started.elapsed(), "pair");
        let pair =
            Pair::new(SystemTime::now(), parties, asked, target.as_str(), source, &leg.outcome, comparison);
        let mut records = service.records.lock();
        let counts = if job.by_body { &mut records.by_body } else { &mut records.counts };
        match leg.unseen {
            Some(reason) => counts.skip(reason),
            None => counts.teed += 1,
        }
        if !job.by_body && leg.unseen.is_none() {
            records.recent.note(asked, job.copy.host.as_ref(), target.as_str());
        }
        records.stale_retries += u64::from(leg.retried);
        let direction = match job.source {
            InstanceName::Source => Direction::Forward,
            InstanceName::Shadow => Direction::Reverse,
        };
        // Times of another allocation would pass for times of this one.
        if records.is_fresh(job.started) {
            let exchanges =
                [(Side::Source, source), (Side::Shadow, &leg.outcome)].map(|(side, outcome)| Exchange {
                    side,
                    direction,
                    status: outcome.head.as_ref().map(|head| head.status),
                    first_byte: outcome.first_byte,
                    last_byte: outcome.last_byte.filter(|_| !outcome.caller_slow),
                });
            for exchange in &exchanges {
                records.recorder.record(exchange);
            }
            let [of_source, _] = &exchanges;
            records.recorder.record_route(target.path(), of_source.status, &exchanges);
        }
        if let Some(connect) = leg.connect {
            records.recorder.connect(Side::Shadow, direction, connect);
        }
        records.remember(pair, job.started);
    }
}
