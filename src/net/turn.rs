//! A worker's turn: all that it does between two looks at its poller.
//!
//! Who finds its socket readable reads and decides at once, but sends only when others who were ready have done so as
//! well. One send after another finds the kernel's way through TCP in the processor's cache, where other work in
//! between would have displaced it; and those who are sent to wake up to several requests or answers instead of one.
//!
//! Not when hundreds are ready: a connection that comes back only after all of them is displaced itself.

use std::cell::Cell;
use std::task::{Context, Poll};

/// Those of a thread who may stand back at the same time.
const MOST: usize = 16;

thread_local! {
    static STANDING_BACK: Cell<usize> = const { Cell::new(0) };
}

/// Standing back behind all who are ready, once.
#[derive(Debug, Default)]
pub enum StandBack {
    #[default]
    NotYet,
    Stands,
    Done,
}

impl StandBack {
    /// Ready when the others have had their go, or are too many. (tokio's own `yield_now` would have the poller asked before.)
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        let standing = STANDING_BACK.get();
        match self {
            Self::NotYet if standing < MOST => {
                STANDING_BACK.set(standing + 1);
                *self = Self::Stands;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Stands => {
                STANDING_BACK.set(standing.saturating_sub(1));
                *self = Self::Done;
                Poll::Ready(())
            }
            Self::NotYet | Self::Done => {
                *self = Self::Done;
                Poll::Ready(())
            }
        }
    }
}

impl Drop for StandBack {
    fn drop(&mut self) {
        if matches!(self, Self::Stands) {
            // On a thread that is ending nobody counts.
            let _ = STANDING_BACK.try_with(|standing| standing.set(standing.get().saturating_sub(1)));
        }
    }
}

/// Lets others who are ready go first.
pub async fn stand_back() {
    let mut back = StandBack::default();
    std::future::poll_fn(|cx| back.poll(cx)).await;
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::task::Waker;

    use super::*;

    /// What so many tasks have done that were ready together, in its order.
    fn done_by(count: usize) -> Vec<(&'static str, usize)> {
        let options = tokio::runtime::LocalOptions::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build_local(options).unwrap();
        let done = Rc::new(RefCell::new(Vec::new()));
        runtime.block_on(async {
            let one = |name| {
                let done = Rc::clone(&done);
                tokio::task::spawn_local(async move {
                    done.borrow_mut().push(("reads", name));
                    stand_back().await;
                    done.borrow_mut().push(("sends", name));
                })
            };
            let all: Vec<_> = (0..count).map(one).collect();
            for task in all {
                task.await.unwrap();
            }
        });
        done.take()
    }

    #[test]
    fn a_few_all_read_before_any_of_them_sends() {
        let expected = ["reads", "sends"].map(|what| (0..MOST).map(move |name| (what, name)));
        assert_eq!(done_by(MOST), expected.into_iter().flatten().collect::<Vec<_>>());
    }

    #[test]
    fn of_many_most_send_at_once() {
        let done = done_by(10 * MOST);
        let at_once = done.windows(2).filter(|pair| matches!(pair, [("reads", a), ("sends", b)] if a == b));
        assert_eq!(at_once.count(), 9 * MOST);
        assert_eq!(STANDING_BACK.get(), 0);
    }

    #[test]
    fn who_is_dropped_stands_back_no_more() {
        let mut back = StandBack::default();
        assert!(back.poll(&Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(STANDING_BACK.get(), 1);
        drop(back);
        assert_eq!(STANDING_BACK.get(), 0);
    }
}
