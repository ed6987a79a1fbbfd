//! Which requests are copied to the shadow's lane: the one place where promise "nothing that may write
//! is ever teed" meets a request.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use http::Request;
use tokio::sync::oneshot;

use super::upload::Upload;
use crate::proxy::caller::Caller;
use crate::proxy::classify::{Class, Verdict};
use crate::proxy::gate::Guard;
use crate::proxy::service::{Service, count};
use crate::tee::compare::Outcome;
use crate::tee::lane::{JobBody, Judge, Offer, Original};
use crate::tee::sample::Choice;
use crate::tee::skip::Skip;
use crate::upstream::Added;

/// Samples a request and, if it is picked, hands a copy to the lane. What comes back wants to know how
/// the source answered.
pub fn offer(
    service: &Rc<Service>,
    caller: &Caller,
    (request, added): (&mut Request<Upload>, &Added),
    verdict: Verdict,
    guard: &Guard,
    credentials: bool,
) -> Option<oneshot::Sender<Outcome>> {
    let by_body = !request.body().is_empty() || matches!(verdict, Verdict::NeedsBody(_));
    let mut counts = service.counts.borrow_mut();
    let counts = &mut *counts;
    let reason = match verdict {
        Verdict::Known(_, reason) => reason.as_str(),
        Verdict::NeedsBody(kind) => kind.as_str(),
    };
    count(&mut counts.reasons, reason, 1);
    let tally = if by_body { &mut counts.tee_by_body } else { &mut counts.tee };
    let judge: Option<Judge> = match verdict {
        Verdict::Known(Class::Write, _) => {
            counts.tee.skip(Skip::Write);
            return None;
        }
        Verdict::Known(Class::Read, _) => None,
        Verdict::NeedsBody(kind) => {
            let classifier = service.classifier.clone();
            Some(Box::new(move |headers, target, body| {
                let uri = http::Uri::from(target.clone());
                classifier.body(kind, headers, &uri, body).0 == Class::Read
            }))
        }
    };
    let tee = service.tee.borrow();
    let Some(shadow) = tee.target(guard.admitted.active) else {
        tally.skip(Skip::NoShadow);
        return None;
    };
    if caller.worker.tees_stopped().load(Ordering::Relaxed) {
        tally.skip(Skip::Stopped);
        return None;
    }
    let selection = if by_body { &tee.body_selection } else { &tee.selection };
    let choice = selection.choose(request.headers(), caller.forwarding.peer());
    tally.chosen(choice);
    if choice != Choice::Picked {
        return None;
    }
    let copied = request.body_mut().copy_to(tee.lane.tee.max_body_bytes.as_usize());
    let body = copied.map_or(JobBody::Empty, JobBody::Arriving);
    let offer = Offer {
        service: Arc::clone(&tee.lane),
        shadow: Arc::clone(shadow),
        generation: guard.admitted.generation,
        source: guard.admitted.active,
        original: Original::of(request),
        added,
        body,
        judge,
        credentials,
    };
    match caller.worker.lane.offer(offer, Instant::now()) {
        Ok(outcome) => Some(outcome),
        Err(reason) => {
            tally.skip(reason);
            None
        }
    }
}
