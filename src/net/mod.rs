//! Sockets: the one stream type that both sides of the proxy speak over, and the executor that
//! keeps hyper's tasks on the thread that owns the connection.

mod body;
mod listen;
mod socket;
mod stream;
mod tls;

pub use body::{EitherBody, EitherFault};
pub use listen::{Listening, bind, local_address};
pub use stream::{Detached, Stream};

use std::future::Future;

/// Spawns hyper's HTTP/2 tasks on the current thread's [`tokio::runtime::LocalRuntime`].
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
