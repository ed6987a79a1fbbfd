//! The end of a process: nobody new, then everybody out, in order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Control, Sockets};
use crate::proxy::report::Report;
use crate::proxy::worker::Order;
use crate::store::StoreError;

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
        self.accept_no_more();
        self.see_out(grace, |stagger| Order::Close { stagger }).await
    }

    /// From here on nothing new begins. The sockets are closed, unless a successor has them.
    pub(super) fn accept_no_more(&self) {
        self.turns.end();
        self.crew.order(|| Order::StopAccepting);
        self.sockets.store(Arc::new(Sockets::default()));
    }

    pub(super) async fn see_out(&self, grace: Duration, close: fn(Duration) -> Order) -> usize {
        let stagger = (grace / STAGGER_SHARE).min(STAGGER_MOST);
        self.crew.order(|| close(stagger));
        let deadline = Instant::now() + grace;
        while !self.is_empty().await && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
        let cut = self.crew.connections();
        if cut > 0 {
            self.crew.order(|| Order::CutAll);
            tokio::time::sleep(LOOK).await;
        }
        cut
    }

    /// No caller is connected, and no exchange that a caller has left goes on without it.
    async fn is_empty(&self) -> bool {
        let idle = |report: &Report| report.services.iter().all(|service| service.in_flight == 0);
        self.crew.connections() == 0 && self.reports().await.iter().all(idle)
    }

    /// Ends everything. The store is closed, so that another process may open it.
    pub async fn stop(self: Arc<Self>) {
        self.migrations.let_go();
        self.migrations.dry_runs_are_over().await;
        self.crew.stop();
        match self.store().close().await {
            // A successor has it.
            Ok(()) | Err(StoreError::Closed) => {}
            Err(error) => tracing::warn!(%error, "the store did not close in order"),
        }
    }
}
