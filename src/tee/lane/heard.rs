//! A pair from its two beginnings to its verdict.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use http::header::HOST;
use http::uri::PathAndQuery;

use super::ask::{Leg, Question, Whole, ask};
use super::{Job, LaneService};
use crate::config::InstanceName;
use crate::record::{Direction, Exchange, Side};
use crate::tee::compare::{Asked, End, Outcome, Pair, Parties, compare};
use crate::tee::skip::Skip;
use crate::upstream::{Instance, Pool};

/// A pair of which both sides have ended. It pins no buffer and no connection.
pub struct Heard {
    service: Arc<LaneService>,
    shadow: Arc<Instance>,
    generation: u64,
    source: InstanceName,
    asked: Asked,
    target: PathAndQuery,
    host: Option<HeaderValue>,
    started: Instant,
    /// Told from its body to be a read.
    by_body: bool,
    outcome: Outcome,
    leg: Leg,
}

impl Job {
    /// Asks the shadow, and waits for the source.
    pub(super) async fn hear(self, body: Bytes, pool: &Rc<Pool<Whole>>) -> Heard {
        let Self { service, shadow, generation, source, asked, target, headers, started, .. } = self;
        let Self { by_body, outcome, permit, pass, .. } = self;
        // References into the copy.
        let host = headers.get(HOST).cloned();
        let question = Question {
            method: &asked.method,
            target: &target,
            headers,
            body,
            trace_sampled: service.tee.trace_sampled,
            max_answer_bytes: service.tee.max_answer_bytes.bytes(),
        };
        let sent = Cell::new(false);
        let asking = ask(pool, question, &permit, &sent);
        let leg = tokio::time::timeout(service.tee.deadline, asking).await.unwrap_or_else(|_| Leg {
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
        let outcome = outcome.await.unwrap_or_else(|_| Outcome::without_head(End::CallerLeft));
        Heard { service, shadow, generation, source, asked, target, host, started, by_body, outcome, leg }
    }
}

impl Heard {
    /// Compares and records.
    pub fn settle(self) {
        let Self { service, asked, target, outcome: source, leg, .. } = &self;
        let comparison = compare(asked, source, &leg.outcome);
        let parties = Parties {
            service: Arc::clone(&service.name),
            generation: self.generation,
            source_instance: self.source.as_str().into(),
            shadow_instance: self.shadow.name.as_str().into(),
        };
        let (verdict, age) = (comparison.verdict.as_str(), self.started.elapsed());
        tracing::trace!(service = %service.name, verdict, ?age, "pair");
        let pair =
            Pair::new(SystemTime::now(), &parties, asked, target.as_str(), source, &leg.outcome, comparison);
        let mut records = service.records.lock();
        let counts = if self.by_body { &mut records.by_body } else { &mut records.counts };
        match leg.unseen {
            Some(reason) => counts.skip(reason),
            None => counts.teed += 1,
        }
        if !self.by_body && leg.unseen.is_none() {
            records.recent.note(asked, self.host.as_ref(), target.as_str());
        }
        records.stale_retries += u64::from(leg.retried);
        let direction = match self.source {
            InstanceName::Source => Direction::Forward,
            InstanceName::Shadow => Direction::Reverse,
        };
        let source_status = source.head.as_ref().map(|head| head.status);
        let fresh = records.is_fresh(self.started);
        for (side, outcome) in [(Side::Source, source), (Side::Shadow, &leg.outcome)] {
            let exchange = Exchange {
                side,
                direction,
                status: outcome.head.as_ref().map(|head| head.status),
                first_byte: outcome.first_byte,
                last_byte: outcome.last_byte.filter(|_| !outcome.caller_slow),
            };
            // Times of another allocation would pass for times of this one.
            if fresh {
                records.recorder.record(&exchange);
                records.recorder.record_route(target.path(), source_status, &exchange);
            }
        }
        if let Some(connect) = leg.connect {
            records.recorder.connect(Side::Shadow, direction, connect);
        }
        records.remember(pair, self.started);
    }
}
