//! The resting set: a worker's connections that have nothing to do.
//!
//! A task, a runtime's registration and what a request needs to know take kilobytes. A connection in
//! here is a bare socket in a poller of its own, with its TLS session if it has one, and one task waits for them
//! all: the poller's descriptor is readable when one of them is. Who speaks is taken out and built up again.
//!
//! A socket leaves the poller before it leaves the set, and what one wait reports is dealt with before
//! anything else may run, so an event always means the entry that its key names.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use slab::Slab;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::net::Detached;
use crate::proxy::loads::Counted;
use crate::proxy::worker::Worker;

const FLAGS: EventFlags = EventFlags::IN.union(EventFlags::RDHUP);
/// Connections built up again before others get their turn.
pub const BATCH: usize = 16;
/// The most of them, once more and more turns have not sufficed.
const LARGEST_BATCH: usize = 256;
/// Room that is kept, however few are left.
const ROOM: usize = 256;
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// All that is kept of a resting connection.
#[derive(Debug)]
pub struct Entry {
    pub socket: Detached,
    pub peer: Option<IpAddr>,
    /// It has spoken HTTP/1 before.
    pub known: bool,
    pub since: Instant,
    pub counted: Counted,
}

/// A place in the set that is being watched already.
#[derive(Debug)]
pub struct Seat(usize);

impl Entry {
    fn has_rested(&self, now: Instant, idle: Duration) -> bool {
        now.saturating_duration_since(self.since) >= idle
    }
}

/// What one step of expiry has come to.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    pub closed: usize,
    /// The key that the next one begins with.
    pub next: Option<usize>,
}

#[derive(Debug)]
pub struct Resting {
    /// None: the system gave no poller, and each connection keeps its task.
    poller: Option<AsyncFd<OwnedFd>>,
    entries: RefCell<Slab<Entry>>,
}

impl Resting {
    /// Belongs to the runtime that this is called on.
    pub fn open() -> Self {
        let poller = create().inspect_err(|error| {
            tracing::warn!(%error, "no poller for resting connections; they will take more memory");
        });
        Self { poller: poller.ok(), entries: RefCell::default() }
    }

    pub fn count(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Watches `socket`, for the entry that is put into its seat next. `None`: the system has no room.
    pub fn seat(&self, socket: &impl AsFd) -> Option<Seat> {
        let poller = self.poller.as_ref()?;
        let key = self.entries.borrow().vacant_key();
        epoll::add(poller.get_ref(), socket, data(key), FLAGS).ok()?;
        Some(Seat(key))
    }

    pub fn put(&self, Seat(seat): Seat, entry: Entry) {
        let key = self.entries.borrow_mut().insert(entry);
        debug_assert_eq!(key, seat, "somebody else was put in between");
    }

    /// Closes them all.
    pub fn clear(&self) {
        for entry in self.entries.borrow_mut().drain() {
            self.close(entry);
        }
    }

    /// Closes those with a key in `keys` that have rested for `idle`, `most` of them.
    pub fn expire(&self, keys: Range<usize>, now: Instant, idle: Duration, most: usize) -> Step {
        let mut entries = self.entries.borrow_mut();
        let end = entries.capacity();
        let mut closed = 0;
        for key in keys.start..keys.end.min(end) {
            if closed == most {
                return Step { closed, next: Some(key) };
            }
            if entries.get(key).is_some_and(|entry| entry.has_rested(now, idle)) {
                self.close(entries.remove(key));
                closed += 1;
            }
        }
        Step { closed, next: (keys.end < end).then_some(keys.end) }
    }

    fn close(&self, mut entry: Entry) {
        self.forget(&entry.socket);
        entry.socket.say_goodbye();
    }

    /// Gives back the room that many once took.
    pub fn compact(&self) {
        let mut entries = self.entries.borrow_mut();
        if entries.capacity() <= ROOM || entries.len() > entries.capacity() / 4 {
            return;
        }
        let Some(poller) = &self.poller else { return };
        entries
            .compact(|entry, _, to| epoll::modify(poller.get_ref(), &entry.socket, data(to), FLAGS).is_ok());
    }

    /// Takes out those that speak, as long as the set lives.
    ///
    /// In a busy worker all others have their turn between two of this. Were each of its turns small, thousands that speak
    /// again at once would wait many times as long as those that never rested; were the first one large, all others would
    /// wait for it.
    async fn take(&self, mut with: impl FnMut(Entry)) {
        let Some(poller) = &self.poller else { return };
        let mut most = BATCH;
        // It fails when the runtime ends.
        while let Ok(mut readable) = poller.readable().await {
            if self.take_ready(most, &mut with) {
                most = (most * 2).min(LARGEST_BATCH);
                tokio::task::yield_now().await;
            } else {
                most = BATCH;
                readable.clear_ready();
            }
        }
    }

    /// Takes out those that have spoken, `most` at most; true if there may be more of them. Those that
    /// left without a word are closed.
    pub fn take_ready(&self, most: usize, mut with: impl FnMut(Entry)) -> bool {
        let Some(poller) = &self.poller else { return false };
        let mut room = [const { MaybeUninit::<Event>::uninit() }; LARGEST_BATCH];
        let most = most.min(LARGEST_BATCH);
        let room = room.get_mut(..most).unwrap_or_default();
        // It does not wait, so nothing can interrupt it.
        let Ok((events, _)) = epoll::wait(poller.get_ref(), room, Some(&AT_ONCE)) else { return false };
        for &mut Event { flags, data } in &mut *events {
            let key = usize::try_from(data.u64()).unwrap_or(usize::MAX);
            let Some(entry) = self.remove(key) else { continue };
            // What it said before it stopped speaking is still to be answered.
            if !(flags.contains(EventFlags::RDHUP) && entry.socket.is_over()) {
                with(entry);
            }
        }
        events.len() == most
    }

    fn remove(&self, key: usize) -> Option<Entry> {
        let entry = self.entries.borrow_mut().try_remove(key)?;
        self.forget(&entry.socket);
        Some(entry)
    }

    fn forget(&self, socket: &Detached) {
        if let Some(poller) = &self.poller {
            // It is in there, or it would not be in the set.
            let _ = epoll::delete(poller.get_ref(), socket);
        }
    }
}

#[expect(
    deprecated,
    reason = "sound for a descriptor that is owned; its successor can only be called unsafely"
)]
fn create() -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(epoll::create(epoll::CreateFlags::CLOEXEC)?, Interest::READABLE)
}

fn data(key: usize) -> EventData {
    EventData::new_u64(key as u64)
}

/// Wakes those that speak, for as long as the worker runs.
pub async fn watch(worker: Rc<Worker>) {
    worker.resting.take(|entry| super::rouse(&worker, entry)).await;
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write;
    use std::net::Ipv4Addr;
    use std::os::unix::net::UnixStream;

    use tokio::sync::Notify;

    use super::*;
    use crate::proxy::loads::Loads;

    /// Connections of which each is known by its caller's address, and their callers.
    fn rested(count: u32) -> (tokio::runtime::LocalRuntime, Resting, Vec<UnixStream>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        let load = Loads::new(1).of(0);
        let (set, callers) = runtime.block_on(async {
            let set = Resting::open();
            let callers = (0..count).map(|number| {
                let (caller, socket) = UnixStream::pair().unwrap();
                let peer = Some(Ipv4Addr::from(number).into());
                let (since, counted) = (Instant::now(), Counted::new(&load));
                let entry = Entry { socket: Detached::Unix(socket), peer, known: true, since, counted };
                set.put(set.seat(&entry.socket).unwrap(), entry);
                caller
            });
            let callers = callers.collect();
            (set, callers)
        });
        (runtime, set, callers)
    }

    fn take_all(set: &Resting) -> Vec<u32> {
        let mut taken = Vec::new();
        let mut note = |entry: Entry| {
            let Some(IpAddr::V4(ip)) = entry.peer else { panic!("not made here: {entry:?}") };
            taken.push(u32::from(ip));
        };
        while set.take_ready(BATCH, &mut note) {}
        taken.sort_unstable();
        taken
    }

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Entry>() <= 64, "{}", size_of::<Entry>());
    }

    #[test]
    fn who_speaks_is_taken_out_once() {
        let (_runtime, set, mut callers) = rested(200);
        assert!(take_all(&set).is_empty());
        for caller in callers.iter_mut().step_by(2) {
            caller.write_all(b"x").unwrap();
        }
        assert_eq!(take_all(&set), (0..200).step_by(2).collect::<Vec<_>>());
        assert_eq!((take_all(&set), set.count()), (vec![], 100));
    }

    #[test]
    fn many_that_speak_at_once_do_not_wait_for_many_turns_of_the_others() {
        const COUNT: usize = 400;
        let (runtime, set, mut callers) = rested(COUNT as u32);
        for caller in &mut callers {
            caller.write_all(b"x").unwrap();
        }
        let turns = Rc::new(Cell::new(0));
        let mut taken_at = Vec::new();
        runtime.block_on(async {
            let others = Rc::clone(&turns);
            tokio::task::spawn_local(async move {
                loop {
                    others.set(others.get() + 1);
                    tokio::task::yield_now().await;
                }
            });
            let all = Notify::new();
            let take = set.take(|_| {
                taken_at.push(turns.get());
                if taken_at.len() == COUNT {
                    all.notify_one();
                }
            });
            tokio::select! {
                () = take => panic!("the set lives"),
                () = all.notified() => {}
            }
        });
        let (first, last) = (taken_at[0], taken_at[COUNT - 1]);
        assert!(taken_at.iter().filter(|at| **at == first).count() <= BATCH, "others wait: {taken_at:?}");
        assert!(last - first <= 8, "{} turns of the others", last - first);
    }

    #[test]
    fn who_leaves_is_closed_unless_it_said_something_before() {
        let (_runtime, set, mut callers) = rested(3);
        callers[0].write_all(b"x").unwrap();
        callers.truncate(1);
        callers[0].shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!((take_all(&set), set.count()), (vec![0], 0));
    }

    #[test]
    fn only_those_that_rested_long_enough_expire() {
        let (_runtime, set, _callers) = rested(3);
        let idle = Duration::from_secs(5);
        let start = set.entries.borrow()[0].since;
        set.entries.borrow_mut()[1].since = start + idle;
        let all = || 0..usize::MAX;
        assert_eq!(set.expire(all(), start, idle, 9), Step { closed: 0, next: None });
        let now = Instant::now() + idle;
        assert_eq!(set.expire(0..1, now, idle, 9), Step { closed: 1, next: Some(1) });
        assert_eq!(set.expire(1..9, now, idle, 0), Step { closed: 0, next: Some(1) });
        assert_eq!((set.expire(all(), now, idle, 9).closed, set.count()), (1, 1));
        assert_eq!(set.expire(all(), now + idle, idle, 9).closed, 1);
    }

    #[test]
    fn room_that_many_took_is_given_back_and_the_rest_still_wake() {
        const COUNT: u32 = ROOM as u32 + 50;
        let (_runtime, set, mut callers) = rested(COUNT);
        let room = set.entries.borrow().capacity();
        let (gone, stay) = callers.split_at_mut(ROOM);
        for caller in gone {
            caller.write_all(b"x").unwrap();
        }
        assert_eq!(take_all(&set).len(), ROOM);
        set.compact();
        assert!(set.entries.borrow().capacity() < room / 4);
        for caller in stay {
            caller.write_all(b"x").unwrap();
        }
        assert_eq!(take_all(&set), (ROOM as u32..COUNT).collect::<Vec<_>>());
    }
}
