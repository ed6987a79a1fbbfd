//! Reads and writes of a socket, each by its system call alone.
//!
//! The C library's calls are points at which a thread can be cancelled, and say so with two locked instructions around each
//! of them: eight of some fifty that a request took in all, each of which waits for what was written before it. Nobody
//! cancels threads here.
#![allow(unsafe_code, reason = "memory that the system fills need not be cleared before")]

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use rustix::io::writev;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop::poll_proceed;

/// A stream socket that tokio's poller knows.
pub trait Socket: AsFd {
    /// Runs `call` where the poller has said that it would not block; if it does, forgets that.
    fn try_io<T>(&self, interest: Interest, call: impl FnOnce() -> io::Result<T>) -> io::Result<T>;

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

macro_rules! socket {
    ($kind:ty) => {
        impl Socket for $kind {
            fn try_io<T>(&self, interest: Interest, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
                <$kind>::try_io(self, interest, call)
            }

            fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                <$kind>::poll_read_ready(self, cx)
            }

            fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                <$kind>::poll_write_ready(self, cx)
            }
        }
    };
}

socket!(TcpStream);
socket!(UnixStream);

/// Asks the system itself, not the poller, whether there is something to read, and leaves it there: 1 if so, 0 at the end.
pub fn peek(socket: impl AsFd) -> rustix::io::Result<usize> {
    let (length, _) = recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    Ok(length)
}

pub fn poll_read(socket: &impl Socket, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    loop {
        // A task whose sockets are always ready lets others have their turn, too.
        let turn = ready!(poll_proceed(cx));
        let mut read = 0;
        let called = socket.try_io(Interest::READABLE, || {
            // SAFETY: nothing is made uninitialised: `recv` only writes, and its result is used for nothing but its length.
            let room = unsafe { buf.unfilled_mut() };
            let size = room.len();
            read = recv(socket, &mut *room, RecvFlags::empty())?.1;
            // There is no more, and nobody has to ask: the poller will tell when there is.
            if 0 < read && read < size { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        if read > 0 || called.is_ok() {
            // SAFETY: `recv` has filled so many bytes.
            unsafe { buf.assume_init(read) };
            buf.advance(read);
            turn.made_progress();
            return Poll::Ready(Ok(()));
        }
        // Given back, as waiting takes one of its own.
        drop(turn);
        match called {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
            Ok(()) | Err(_) => ready!(socket.poll_read_ready(cx))?,
        }
    }
}

pub fn poll_write(socket: &impl Socket, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    // A peer that is gone is an error of this call, not a signal to the process.
    poll_put(socket, cx, bytes.len(), || Ok(send(socket, bytes, SendFlags::NOSIGNAL)?))
}

/// Here the signal is ignored, as Rust's runtime sees to.
pub fn poll_write_vectored(
    socket: &impl Socket,
    cx: &mut Context<'_>,
    parts: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let size = parts.iter().map(|part| part.len()).sum();
    poll_put(socket, cx, size, || Ok(writev(socket, parts)?))
}

fn poll_put(
    socket: &impl Socket,
    cx: &mut Context<'_>,
    size: usize,
    put: impl Fn() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        let turn = ready!(poll_proceed(cx));
        let mut wrote = 0;
        let called = socket.try_io(Interest::WRITABLE, || {
            wrote = put()?;
            // There is no more room, and nobody has to ask.
            if 0 < wrote && wrote < size { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        if wrote > 0 || called.is_ok() {
            turn.made_progress();
            return Poll::Ready(Ok(wrote));
        }
        drop(turn);
        match called {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
            Ok(()) | Err(_) => ready!(socket.poll_write_ready(cx))?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Wake, Waker};

    use tokio::io::AsyncWriteExt as _;
    use tokio::task::coop::has_budget_remaining;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn run(work: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap().block_on(work);
    }

    /// Uses up a task's turn until so much of it is left.
    fn tire(cx: &mut Context<'_>, left: usize) {
        let mut turns = 0;
        let mut held = Vec::new();
        while let Poll::Ready(turn) = poll_proceed(cx) {
            held.push(turn);
            turns += 1;
        }
        // Each gives back what was left when it was taken.
        held.truncate(turns - left);
        for turn in held {
            turn.made_progress();
        }
    }

    async fn read_all(socket: &UnixStream, room: usize) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let mut memory = vec![0; room];
            let mut buf = ReadBuf::new(&mut memory);
            poll_fn(|cx| poll_read(socket, cx, &mut buf)).await.unwrap();
            if buf.filled().is_empty() {
                return all;
            }
            all.extend_from_slice(buf.filled());
        }
    }

    #[test]
    fn what_has_arrived_is_known_before_the_poller_is_asked() {
        use std::io::Write as _;

        use crate::net::Stream;

        run(async {
            let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let ours = Stream::Unix(UnixStream::from_std(ours).unwrap());
            assert!(!ours.has_arrived());
            theirs.write_all(b"x").unwrap();
            assert!(ours.has_arrived() && ours.has_arrived(), "and stays");
            let detached = ours.detach().unwrap();
            assert!(!detached.is_over());
            drop(theirs);
            assert!(!detached.is_over(), "what it said before is still there");
            let Stream::Unix(ours) = detached.attach().unwrap() else { panic!("it was a Unix socket") };
            assert_eq!(read_all(&ours, 8).await, b"x");
            let ours = Stream::Unix(ours);
            assert!(!ours.has_arrived(), "its end is nothing that has arrived");
            assert!(ours.detach().unwrap().is_over());
        });
    }

    #[test]
    fn what_is_written_is_read_whatever_room_there_is() {
        run(async {
            let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
            for room in [7, 4096, 2_000_000] {
                let (ours, mut theirs) = UnixStream::pair().unwrap();
                let write = async {
                    let (mut left, mut writes) = (&sent[..], 0);
                    while !left.is_empty() {
                        let (some, more) = left.split_at(left.len() / 2);
                        let parts = [IoSlice::new(some), IoSlice::new(more)];
                        let wrote = poll_fn(|cx| match writes % 2 {
                            0 => poll_write(&theirs, cx, left),
                            _ => poll_write_vectored(&theirs, cx, &parts),
                        });
                        left = &left[wrote.await.unwrap()..];
                        writes += 1;
                    }
                    theirs.shutdown().await.unwrap();
                };
                let (read, ()) = tokio::join!(read_all(&ours, room), write);
                assert!(read == sent, "{} bytes through {room}", read.len());
            }
        });
    }

    #[test]
    fn writing_to_who_has_left_is_an_error() {
        run(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            drop(theirs);
            let error = poll_fn(|cx| poll_write(&ours, cx, b"x")).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        });
    }

    /// Who waits is told by the poller if it has a turn left, and by the runtime otherwise.
    #[test]
    fn whoever_waits_with_a_turn_left_waits_for_the_socket() {
        run(async {
            for left in [0, 1] {
                let (ours, mut theirs) = UnixStream::pair().unwrap();
                let woken = Arc::new(Woken::default());
                // In one poll of the task, as each begins a turn.
                poll_fn(|task| {
                    // Whether it is readable is not known before it was tried.
                    let _ = poll_read(&ours, task, &mut ReadBuf::new(&mut [0]));
                    tire(task, left);
                    let waker = Waker::from(Arc::clone(&woken));
                    let mut cx = Context::from_waker(&waker);
                    assert!(poll_read(&ours, &mut cx, &mut ReadBuf::new(&mut [0])).is_pending());
                    assert_eq!(has_budget_remaining(), left > 0);
                    Poll::Ready(())
                })
                .await;
                let is_woken = || woken.0.load(Ordering::Relaxed);
                tokio::task::yield_now().await;
                assert_eq!(is_woken(), left == 0);
                theirs.write_all(b"x").await.unwrap();
                ours.readable().await.unwrap();
                assert!(is_woken());
            }
        });
    }
}
