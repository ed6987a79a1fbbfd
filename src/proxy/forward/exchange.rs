//! One request's way to the active instance, until the head of the answer.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, StatusCode};

use super::answer::{Open, Times, direction};
use super::upload::{Release, Upload, UploadFault, UploadState};
use crate::http1::Reply;
use crate::proxy::classify::Class;
use crate::proxy::gate::Guard;
use crate::proxy::gate::local::{Signal, Stage};
use crate::proxy::respond::Reject;
use crate::proxy::service::Service;
use crate::record::Side;
use crate::upstream::{Added, AnswerBody, Lease, SendError, SendFault, Want};

/// A write may use a connection that rested less than this: instances close idle connections after
/// seconds, and a write that meets a closing one cannot be repeated.
const FRESH_FOR_WRITES: Duration = Duration::from_secs(1);
/// Connections tried for one request that was not sent.
const UNSENT_ATTEMPTS: usize = 4;

/// What hangs on a request that is ready to be sent.
pub struct Exchange {
    pub service: Rc<Service>,
    pub guard: Guard,
    /// To the head of the request.
    pub added: Rc<Added>,
    pub upload: Option<Rc<UploadState>>,
    pub wants_upgrade: bool,
    /// The body is held back until the instance asks for it.
    pub release: Option<Release>,
}

/// The head of an answer is there.
pub struct Answered {
    pub service: Rc<Service>,
    pub guard: Guard,
    pub reply: Reply<AnswerBody>,
    pub lease: Lease<Upload>,
    pub times: Times,
}

impl Exchange {
    pub async fn run(self, request: &mut Request<Upload>) -> Result<Answered, Reject> {
        let Self { service, guard, added, upload, wants_upgrade, release } = self;
        let active = guard.admitted.active;
        let is_write = guard.admitted.class == Class::Write;
        let pool = Rc::clone(service.pool(active));
        let want = Want { fresh_within: is_write.then_some(FRESH_FOR_WRITES), http1: wants_upgrade };
        if let Some(upload) = &upload {
            guard.attach(Rc::clone(upload));
        }
        let mut attempts = 0;
        let mut retried = false;
        let informed = |status| {
            if status != StatusCode::CONTINUE {
                service.counts.borrow_mut().informational += 1;
            } else if let Some(release) = &release {
                release.now();
            }
        };
        loop {
            attempts += 1;
            let now = Instant::now();
            if attempts == 1 {
                guard.begins(now);
            }
            let checkout = unless_signalled(&guard, pool.checkout(now, want)).await;
            let mut lease = checkout.map_err(|signal| signalled(signal, &service))??;
            if let Some(connect) = lease.connect {
                let mut counts = service.counts.borrow_mut();
                counts.recorder.connect(Side::Source, direction(active), connect);
            }
            let repeatable = !retried && request.method().is_safe() && lease.rested.is_some();
            let sent = if lease.connect.is_some() { Instant::now() } else { now };
            guard.enter(Stage::Awaiting, sent);
            match send(&mut lease, request, &added, &informed, &guard).await {
                Ok(reply) => {
                    let first_byte = sent.elapsed();
                    guard.enter(Stage::Answering, sent);
                    let times = Times { sent, first_byte };
                    return Ok(Answered { service, guard, reply, lease, times });
                }
                Err(Failed::Signal(signal)) => return Err(signalled(signal, &service)),
                Err(Failed::Send(failed)) => {
                    let SendError { error, whole, unsent, may_be_stale } = *failed;
                    if let Some(fault) = upload.as_deref().and_then(|upload| upload.fault.get()) {
                        return Err(match fault {
                            UploadFault::TooLarge => Reject::BodyTooLarge,
                            UploadFault::Broke => Reject::CallerBroke,
                        });
                    }
                    // Sent again it would be refused again, and no instance is to blame.
                    if matches!(error, SendFault::BadAuthority) {
                        return Err(Reject::BadHost("a Host header that the instance's HTTP/2 cannot carry"));
                    }
                    let untouched = upload.as_deref().is_none_or(|upload| !upload.touched.get());
                    if whole && unsent && attempts < UNSENT_ATTEMPTS && untouched {
                        // No instance has seen it.
                    } else if whole && may_be_stale && repeatable && upload.is_none() {
                        retried = true;
                    } else {
                        lease.failed(Instant::now());
                        return Err(Reject::Broken(error.to_string()));
                    }
                    guard.enter(Stage::Connecting, Instant::now());
                    service.counts.borrow_mut().retries += 1;
                }
            }
        }
    }
}

fn signalled(signal: Signal, service: &Service) -> Reject {
    match signal {
        Signal::Cut => {
            service.counts.borrow_mut().cut += 1;
            Reject::Cut
        }
        Signal::AnswerTimeout => Reject::AnswerTimeout,
        Signal::CallerStalled => Reject::CallerTooSlow,
    }
}

enum Failed {
    Send(Box<SendError>),
    Signal(Signal),
}

/// Waits for the head, or for a reason to stop waiting. Dropping the send closes the connection.
async fn send(
    lease: &mut Lease<Upload>,
    request: &mut Request<Upload>,
    added: &Added,
    informed: impl Fn(StatusCode),
    guard: &Guard,
) -> Result<Reply<AnswerBody>, Failed> {
    let answer =
        unless_signalled(guard, lease.send(request, added, informed)).await.map_err(Failed::Signal)?;
    answer.map_err(|error| Failed::Send(Box::new(error)))
}

/// Waits for a step, or for a reason to stop waiting; the step is dropped then.
async fn unless_signalled<T>(guard: &Guard, step: impl Future<Output = T>) -> Result<T, Signal> {
    let mut step = pin!(step);
    poll_fn(|cx| match step.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => guard.poll_signal(cx).map(Err),
    })
    .await
}

/// A write whose caller may leave at any time.
///
/// A request's future is dropped when its caller goes away, but the source may still commit. Then the
/// exchange goes on in a task of its own, holding its guard, so that no drain ends before it has.
pub struct Abandonable(Option<Running>, Rc<Service>);

type Running = Pin<Box<dyn Future<Output = Result<Answered, Reject>>>>;

impl Abandonable {
    pub fn new(exchange: Exchange, mut request: Request<Upload>) -> Self {
        let service = Rc::clone(&exchange.service);
        Self(Some(Box::pin(async move { exchange.run(&mut request).await })), service)
    }
}

impl Future for Abandonable {
    type Output = Result<Answered, Reject>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Polled again after it was ready, it waits for ever, as futures may.
        let Some(exchange) = &mut self.0 else { return Poll::Pending };
        let answered = std::task::ready!(exchange.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(answered)
    }
}

impl Drop for Abandonable {
    fn drop(&mut self) {
        let Some(exchange) = self.0.take() else { return };
        self.1.counts.borrow_mut().abandoned += 1;
        tokio::task::spawn_local(async move {
            if let Ok(Answered { service, guard, reply, lease, times, .. }) = exchange.await {
                let Reply { status, headers, body } = reply;
                // They pin what they were read into, and an answer may take long.
                drop(headers);
                service.count_request(guard.admitted.active, guard.admitted.class, status);
                let open = Open { body, lease, guard, service, status, times, pair: None, access: None };
                open.into_answer().hear_out().await;
            }
        });
    }
}
