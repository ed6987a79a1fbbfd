//! The end of a process: nobody new, then everybody out, in order.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Control;
use crate::proxy::worker::Order;

/// HTTP/2 callers are told to go over this much of the grace period, so that they do not all come back
/// to the successor in the same instant.
const STAGGER_SHARE: u32 = 8;
const STAGGER_MOST: Duration = Duration::from_secs(3);
/// How often the end looks whether everybody has gone.
const LOOK: Duration = Duration::from_millis(20);

impl Control {
    /// Stops taking connections and closes those that have nothing in flight; the others as they finish.
    /// Returns when all are gone or `grace` is over, and says how many had to be cut.
    pub async fn drain(&self, grace: Duration) -> usize {
        self.ending.store(true, Ordering::Relaxed);
        self.crew.order(|| Order::StopAccepting);
        let stagger = (grace / STAGGER_SHARE).min(STAGGER_MOST);
        self.crew.order(|| Order::Close { stagger });
        let deadline = Instant::now() + grace;
        while self.crew.connections() > 0 && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
        let cut = self.crew.connections();
        if cut > 0 {
            self.crew.order(|| Order::CutAll);
            tokio::time::sleep(LOOK).await;
        }
        cut
    }

    /// Ends everything. The store is closed, so that another process may open it.
    pub async fn stop(self: Arc<Self>) {
        self.crew.stop();
        if let Err(error) = self.store.close().await {
            tracing::warn!(%error, "the store did not close in order");
        }
    }
}
