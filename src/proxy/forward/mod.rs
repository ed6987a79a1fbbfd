//! One request, from its head to the head of its answer.
//!
//! normalise → route → classify → admit (perhaps wait at the gate) → sample and offer to the lane →
//! exchange with the active instance → answer. All of it runs on the caller's worker.

pub mod answer;
mod exchange;
mod forwarding;
mod head;
mod tee;
pub mod upload;

use std::rc::Rc;
use std::time::Instant;

use http::{Request, StatusCode};

use self::answer::{Access, Answer, Open, PairSide};
use self::exchange::{Abandonable, Answered, Exchange};
pub use self::forwarding::Forwarding;
pub use self::head::{Scan, edit_answer, edit_request};
use self::head::{host_name, normalise};
use self::upload::{Release, Upload};
use super::access::{Ending, Entry};
use super::caller::Caller;
use super::classify::{Class, Head, Verdict, suspect};
use super::respond::Reject;
use super::service::{Service, count};
use super::tunnel::Ticket;
use crate::config::ByteSize;
use crate::http1::Reply;
use crate::tee::compare::{self, Outcome};

/// Answers one request of `caller`.
pub async fn handle(caller: &Rc<Caller>, request: &mut Request<Upload>) -> Reply<Answer> {
    let mut service = None;
    let log = caller.worker.table().plan.access_log.clone();
    let mut entry = log.map(|log| {
        Entry::new(&log, request.method(), request.uri().path(), caller.forwarding.peer(), Instant::now())
    });
    match serve(caller, request, &mut service, &mut entry).await {
        Ok(reply) => reply,
        Err(reject) => {
            if let Some(entry) = entry {
                let ending = Ending {
                    service: service.as_ref().map(|service| &*service.plan.name),
                    instance: None,
                    class: None,
                    status: reject.status().as_u16(),
                    bytes: 0,
                    outcome: reject.as_str(),
                };
                entry.end(&ending, &caller.worker.lines, Instant::now());
            }
            if let Some(service) = &service {
                count(&mut service.counts.borrow_mut().rejects, reject.as_str(), 1);
            } else {
                count(&mut caller.worker.rejects.borrow_mut(), reject.as_str(), 1);
            }
            tracing::debug!(error = %reject, status = reject.status().as_u16(), "request refused");
            Reply::from(reject.response()).map(|body| Answer::Own(Some(body)))
        }
    }
}

async fn serve(
    caller: &Rc<Caller>,
    request: &mut Request<Upload>,
    found: &mut Option<Rc<Service>>,
    entry: &mut Option<Box<Entry>>,
) -> Result<Reply<Answer>, Reject> {
    let table = caller.worker.table();
    let limits = &table.plan.callers;
    let scan = Scan::of(request.headers());
    normalise(request, &scan, limits)?;
    let host = host_name(request.headers());
    let service = table.find(host, request.uri().path()).ok_or(Reject::NoService)?;
    caller.worker.look_after(&service);
    *found = Some(Rc::clone(&service));
    let max_body = limits.max_body_bytes.map(ByteSize::bytes);
    // By its own account; a body without one is measured as it passes.
    if let (Some(length), Some(max)) = (scan.content_length, max_body)
        && length > max
    {
        return Err(Reject::BodyTooLarge);
    }
    let verdict = service.classifier.head(&Head {
        method: request.method(),
        uri: request.uri(),
        host,
        headers: request.headers(),
        has_body: !request.body().is_empty(),
    });
    let progress = request.body_mut().measure(max_body);
    // What can be told only from the body is a write to everything but the lane.
    let class = match verdict {
        Verdict::Known(class, _) => class,
        Verdict::NeedsBody(_) => Class::Write,
    };
    let path = request.uri().path_and_query();
    // Who leaves while it is parked makes room, and is not sent any more.
    let waits = || caller.link.watch();
    let admission = service.gate.admit(class, path, caller.worker.clock.now(), waits).await?;
    if let Some(held) = admission.held {
        let mut counts = service.counts.borrow_mut();
        counts.parked += 1;
        counts.held.push(held);
    }
    let guard = admission.guard;

    let wants_upgrade = scan.wants_upgrade() && request.version() == http::Version::HTTP_11;
    let added = edit_request(request.headers_mut(), &scan, &caller.forwarding, wants_upgrade);
    let credentials = scan.has_credentials;
    let teed = tee::offer(&service, caller, (request, &added), verdict, &guard, credentials);

    request.extensions_mut().clear();
    let release = if scan.expects_continue { hold_for_continue(request.body_mut()) } else { None };
    let service_of = Rc::clone(&service);
    let exchange = Exchange { service: service_of, guard, added, upload: progress, wants_upgrade, release };
    let answered = if class == Class::Write {
        Abandonable::new(exchange, std::mem::take(request)).await
    } else {
        exchange.run(request).await
    };
    let Answered { service, guard, reply, lease, times } = match answered {
        Ok(answered) => answered,
        Err(reject) => {
            if let Some(outcome) = teed {
                // Whether the lane still listens makes no difference here.
                let _ = outcome.send(Outcome::without_head(reject.end()));
            }
            return Err(reject);
        }
    };
    let Reply { status, mut headers, body } = reply;
    service.count_request(guard.admitted.active, class, status);
    if class == Class::Read
        && (status != StatusCode::OK || headers.may_be_suspect())
        && let Some(suspicion) = suspect(status, credentials, &headers)
    {
        count(&mut service.counts.borrow_mut().suspects, suspicion.as_str(), 1);
    }
    let pair = teed.map(|outcome| PairSide::new(outcome, compare::Head::of(status, &headers)));
    edit_answer(status, &mut headers);
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let Some(instance) = lease.take_upgraded().filter(|_| wants_upgrade) else {
            return Err(Reject::Broken("it switched protocols without having been asked".to_owned()));
        };
        caller.promise(Ticket::new(instance, guard, service, lease, &headers));
        return Ok(Reply { status, headers, body: Answer::Own(None) });
    }
    let access = entry.take().map(|entry| Access { entry, worker: Rc::clone(&caller.worker), bytes: 0 });
    let open = Open { body, lease, guard, service, status, times, pair, access };
    Ok(Reply { status, headers, body: open.into_answer() })
}

/// Invites the caller to send its body only when the instance does.
fn hold_for_continue(upload: &mut Upload) -> Option<Release> {
    if upload.is_empty() {
        return None;
    }
    let (release, released) = Release::channel();
    upload.hold_until(released);
    Some(release)
}
