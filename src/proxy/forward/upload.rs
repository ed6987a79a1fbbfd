//! A caller's body on its way to the instance.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use crate::proxy::connection::RequestBody;
use crate::tee::lane::Copied;

/// curl's wait for `100 Continue`; an instance that knows nothing of it gets the body after that.
const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);

/// The body of a request to an instance.
#[derive(Default)]
pub enum Upload {
    #[default]
    Empty,
    Streaming(Box<Streaming>),
}

pub struct Streaming {
    body: RequestBody,
    state: Rc<UploadState>,
    max_bytes: u64,
    hold: Option<Hold>,
    copy: Option<BodyCopy>,
}

/// What the exchange has to know of its upload: the body itself is the connection's by then.
#[derive(Debug)]
pub struct UploadState {
    pub bytes: Cell<u64>,
    /// When it last moved.
    pub progress: Cell<Instant>,
    pub ended: Cell<bool>,
    /// The instance wants more and the caller has not sent it.
    pub starved: Cell<bool>,
    /// It was polled: something of it may be on the wire.
    pub touched: Cell<bool>,
    pub fault: Cell<Option<UploadFault>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UploadFault {
    #[error("the caller's body is larger than allowed")]
    TooLarge,
    #[error("the caller's body broke off")]
    Broke,
}

/// Keeps a body back until the instance has said `100 Continue`: the caller is invited to send as soon as
/// the body is first polled.
struct Hold {
    /// `None` once nobody can release it: then the final answer came first, and an invitation after
    /// all would contradict it.
    released: Option<oneshot::Receiver<()>>,
    patience: Pin<Box<Sleep>>,
}

/// Copies a body for the shadow's lane, up to a cap. The caller's bytes do not wait for it.
pub struct BodyCopy {
    bytes: BytesMut,
    cap: usize,
    done: Option<oneshot::Sender<Copied>>,
}

// === impl Upload ===

impl Upload {
    pub fn new(body: RequestBody) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        let state = Rc::new(UploadState {
            bytes: Cell::new(0),
            progress: Cell::new(Instant::now()),
            ended: Cell::new(false),
            starved: Cell::new(false),
            touched: Cell::new(false),
            fault: Cell::new(None),
        });
        Self::Streaming(Box::new(Streaming { body, state, max_bytes: u64::MAX, hold: None, copy: None }))
    }

    /// Lets so much of it pass; how far it is can be told from what this gives. `None` = it is empty.
    pub fn measure(&mut self, max_bytes: Option<u64>) -> Option<Rc<UploadState>> {
        let Self::Streaming(streaming) = self else { return None };
        streaming.max_bytes = max_bytes.unwrap_or(u64::MAX);
        Some(Rc::clone(&streaming.state))
    }

    pub const fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// Holds the body back until `released` fires, or a second has passed.
    pub fn hold_until(&mut self, released: oneshot::Receiver<()>) {
        if let Self::Streaming(streaming) = self {
            let patience = Box::pin(tokio::time::sleep(CONTINUE_PATIENCE));
            streaming.hold = Some(Hold { released: Some(released), patience });
        }
    }

    /// A copy of the body arrives when all of it has passed. The sender is dropped without a word if
    /// it never does.
    pub fn copy_to(&mut self, cap: usize) -> Option<oneshot::Receiver<Copied>> {
        let Self::Streaming(streaming) = self else { return None };
        let (done, copied) = oneshot::channel();
        streaming.copy = Some(BodyCopy { bytes: BytesMut::new(), cap, done: Some(done) });
        Some(copied)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streaming(streaming) => streaming.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(streaming) => streaming.state.ended.get(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming(streaming) => streaming.body.size_hint(),
        }
    }
}

// === impl Hold ===

impl Hold {
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(released) = &mut self.released
            && let Poll::Ready(released) = Pin::new(released).poll(cx)
        {
            if released.is_ok() {
                return true;
            }
            self.released = None;
        }
        self.patience.as_mut().poll(cx).is_ready()
    }
}

// === impl Streaming ===

impl Streaming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        if let Some(hold) = &mut self.hold {
            if !hold.is_over(cx) {
                return Poll::Pending;
            }
            self.hold = None;
        }
        self.state.touched.set(true);
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.state.starved.set(frame.is_pending());
        let frame = ready!(frame);
        self.state.progress.set(Instant::now());
        match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let bytes = self.state.bytes.get() + data.len() as u64;
                    self.state.bytes.set(bytes);
                    if bytes > self.max_bytes {
                        return Poll::Ready(Some(Err(self.fail(UploadFault::TooLarge))));
                    }
                    if let Some(copy) = &mut self.copy {
                        copy.take(data);
                    }
                }
                if self.body.is_end_stream() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(_)) => Poll::Ready(Some(Err(self.fail(UploadFault::Broke)))),
            None => {
                self.end();
                Poll::Ready(None)
            }
        }
    }

    fn fail(&mut self, fault: UploadFault) -> UploadFault {
        self.state.fault.set(Some(fault));
        self.copy = None;
        fault
    }

    fn end(&mut self) {
        self.state.ended.set(true);
        if let Some(copy) = self.copy.take() {
            copy.finish();
        }
    }
}

impl BodyCopy {
    fn take(&mut self, data: &Bytes) {
        if self.done.is_none() {
            return;
        }
        if self.bytes.len() + data.len() > self.cap {
            self.bytes = BytesMut::new();
            if let Some(done) = self.done.take() {
                let _ = done.send(Copied::TooLarge);
            }
            return;
        }
        self.bytes.extend_from_slice(data);
    }

    fn finish(self) {
        if let Some(done) = self.done {
            let _ = done.send(Copied::Whole(self.bytes.freeze()));
        }
    }
}

/// Lets go of a held body, once.
pub struct Release(Cell<Option<oneshot::Sender<()>>>);

impl Release {
    pub fn channel() -> (Self, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Cell::new(Some(sender))), receiver)
    }

    pub fn now(&self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(());
        }
    }
}
