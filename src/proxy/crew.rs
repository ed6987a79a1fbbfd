//! The workers, as the control plane sees them.

use std::sync::mpsc as sync_mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::loads::Loads;
use super::plan::Plan;
use super::report::{Gathered, Report};
use super::worker::{self, Order, Start, Told};
use crate::tee::lane::Lane;

#[derive(Debug, thiserror::Error)]
pub enum CrewError {
    #[error("starting a worker: {0}")]
    Start(#[from] std::io::Error),
    #[error("the lane has no thread")]
    NoLane,
}

/// A worker answers with the next turn of its loop; one that takes this long is stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// All workers of the process.
pub struct Crew {
    orders: Vec<mpsc::UnboundedSender<Order>>,
    loads: Arc<Loads>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Crew {
    /// Starts the workers; none of them accepts yet.
    pub fn start(
        workers: usize,
        plan: &Arc<Plan>,
        lane: &Lane,
        told: &mpsc::UnboundedSender<Told>,
    ) -> Result<Self, CrewError> {
        let loads = Loads::new(workers);
        let (orders, inboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let mut threads = Vec::new();
        for (number, inbox) in inboxes.into_iter().enumerate() {
            let start = Start {
                number,
                peers: orders.clone(),
                plan: Arc::clone(plan),
                lane: lane.handle(number).ok_or(CrewError::NoLane)?,
                loads: Arc::clone(&loads),
                told: told.clone(),
                orders: inbox,
            };
            let (started, ready) = sync_mpsc::channel();
            let run = move || {
                if let Err(error) = worker::run(start, || drop(started.send(Ok(())))) {
                    tracing::error!(%error, number, "a worker could not start");
                }
            };
            threads.push(thread::Builder::new().name(format!("worker-{number}")).spawn(run)?);
            // The sender is dropped unused when the worker fails before it is ready.
            ready.recv().unwrap_or_else(|_| Err(std::io::Error::other("its runtime could not be built")))?;
        }
        Ok(Self { orders, loads, threads: Mutex::new(threads) })
    }

    pub fn len(&self) -> usize {
        self.orders.len()
    }

    pub fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }

    /// Connections of callers, over all workers.
    pub fn connections(&self) -> usize {
        self.loads.total()
    }

    /// Gives every worker an order. One that has stopped needs none.
    pub fn order(&self, order: impl Fn() -> Order) {
        for worker in &self.orders {
            let _ = worker.send(order());
        }
    }

    /// Asks every worker, and collects what they answer. One that is stuck is left out.
    pub async fn ask<T>(&self, question: impl Fn(oneshot::Sender<T>) -> Order) -> Vec<T> {
        let mut answers = Vec::with_capacity(self.orders.len());
        for worker in &self.orders {
            let (reply, answer) = oneshot::channel();
            if worker.send(question(reply)).is_ok() {
                answers.push(answer);
            }
        }
        let mut all = Vec::with_capacity(answers.len());
        for answer in answers {
            if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, answer).await {
                all.push(answer);
            }
        }
        all
    }

    /// What all workers have gathered since they were last asked, by this or by [`Self::report`].
    pub async fn gather(&self) -> impl Iterator<Item = Gathered> {
        self.ask(Order::Gather).await.into_iter().flatten()
    }

    pub async fn report(&self) -> Vec<Report> {
        self.ask(Order::Report).await
    }

    /// Stops the workers and waits for their threads. What is still open is dropped.
    pub fn stop(&self) {
        self.order(|| Order::Stop);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A worker that panicked has said so by itself.
            let _ = thread.join();
        }
    }
}
