//! A worker's turn: all that it does between two looks at its poller.
//!
//! Who finds its socket readable reads and decides at once, but sends only when everybody else who was ready has done so as
//! well. One send after another finds the kernel's way through TCP in the processor's cache, where other work in
//! between would have displaced it; and those who are sent to wake up to several requests or answers instead of one.

use std::task::{Context, Poll};

/// Stepping back behind all who are ready, once.
#[derive(Debug, Default)]
pub struct StepBack(bool);

impl StepBack {
    /// Ready when their turn has come first. (tokio's own `yield_now` would have the poller asked before.)
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Lets all who are ready go first.
pub async fn step_back() {
    let mut step = StepBack::default();
    std::future::poll_fn(|cx| step.poll(cx)).await;
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn everybody_reads_before_anybody_sends() {
        let options = tokio::runtime::LocalOptions::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build_local(options).unwrap();
        let done = Rc::new(RefCell::new(Vec::new()));
        runtime.block_on(async {
            let one = |name: u8| {
                let done = Rc::clone(&done);
                tokio::task::spawn_local(async move {
                    done.borrow_mut().push(("reads", name));
                    step_back().await;
                    done.borrow_mut().push(("sends", name));
                })
            };
            let all: Vec<_> = (0..3).map(one).collect();
            for task in all {
                task.await.unwrap();
            }
        });
        let expected = ["reads", "sends"].map(|what| (0..3).map(move |name| (what, name)));
        assert_eq!(*done.borrow(), expected.into_iter().flatten().collect::<Vec<_>>());
    }
}
