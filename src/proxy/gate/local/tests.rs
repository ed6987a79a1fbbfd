//! A gate on a runtime such as a worker has. Times are only ever bounded from below: a slow machine
//! makes these tests slow, not red.

use std::sync::atomic::Ordering;
use std::task::Wake;

use tokio::task::{JoinHandle, spawn_local, yield_now};

use super::*;
use crate::config::Park;

const FOR_EVER: Duration = Duration::MAX;
const LIMITS: ParkLimits = ParkLimits { timeout: FOR_EVER, max_parked: 100, release_per_second: 1_000_000 };
const CLOSE: Command = Command::Close { generation: 0, park: Park::All };
const CLOSE_TO_WRITES: Command = Command::Close { generation: 0, park: Park::Writes };
const RESUME: Command = Command::Resume { generation: 1, active: InstanceName::Shadow };

type Told = Rc<RefCell<Vec<Event>>>;

fn on_a_worker<T>(test: impl Future<Output = T>) -> T {
    let options = tokio::runtime::LocalOptions::default();
    tokio::runtime::Builder::new_current_thread().enable_all().build_local(options).unwrap().block_on(test)
}

fn gate(limits: ParkLimits) -> (Rc<Gate>, Told) {
    gate_of(limits, &Arc::default())
}

fn gate_of(limits: ParkLimits, everywhere: &Arc<AtomicUsize>) -> (Rc<Gate>, Told) {
    let told = Told::default();
    let tell = {
        let told = Rc::clone(&told);
        Box::new(move |event| told.borrow_mut().push(event))
    };
    (Gate::new(0, InstanceName::Source, limits, Arc::clone(everywhere), tell), told)
}

fn guard(gate: &Rc<Gate>, class: Class) -> Guard {
    gate.try_admit(class, None, Instant::now()).unwrap()
}

fn guard_at(gate: &Rc<Gate>, class: Class, path: &'static str, now: Instant) -> Guard {
    gate.try_admit(class, Some(&PathAndQuery::from_static(path)), now).unwrap()
}

/// A request that waits, in a task of its own.
async fn park(gate: &Rc<Gate>, class: Class) -> JoinHandle<Result<Admission, Refused>> {
    let (before, gate) = (gate.parked(), Rc::clone(gate));
    let task = {
        let gate = Rc::clone(&gate);
        spawn_local(async move { gate.admit(class, None, Instant::now(), || ()).await })
    };
    while gate.parked() == before {
        yield_now().await;
    }
    task
}

fn paths(gate: &Gate) -> Vec<String> {
    gate.blockers(0, Instant::now(), 10).into_iter().map(|blocker| blocker.path).collect()
}

fn upload(progress: Instant, ended: bool) -> Rc<UploadState> {
    Rc::new(UploadState {
        bytes: Cell::new(7),
        progress: Cell::new(progress),
        ended: Cell::new(ended),
        starved: Cell::new(!ended),
        touched: Cell::new(true),
        fault: Cell::new(None),
    })
}

/// Runs code of the test's the moment it is woken, as no good waker does.
struct Rude<F: Fn()>(F);

// The tests have one thread.
impl<F: Fn() + Send + Sync + 'static> Wake for Rude<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

thread_local! {
    static AT_HAND: RefCell<(Option<Rc<Gate>>, Vec<Guard>)> = RefCell::default();
}

/// Uses everything a gate offers, and drops the guards at hand.
fn use_everything() {
    let (gate, guards) = AT_HAND.with_borrow_mut(|(gate, guards)| (gate.clone(), std::mem::take(guards)));
    drop(guards);
    let gate = gate.unwrap();
    gate.parked();
    gate.cut(0);
    gate.sweep(Instant::now(), Duration::ZERO, Duration::ZERO);
    gate.blockers(0, Instant::now(), 1);
    drop(gate.try_admit(Class::Read, None, Instant::now()));
}

#[test]
fn parked_requests_go_to_the_new_instance_in_their_order() {
    on_a_worker(async {
        let (gate, _) = gate(ParkLimits { release_per_second: 1000, ..LIMITS });
        gate.obey(CLOSE);
        let order = Rc::new(RefCell::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..5 {
            let class = if number % 2 == 0 { Class::Read } else { Class::Write };
            let waiting = park(&gate, class).await;
            let order = Rc::clone(&order);
            tasks.push(spawn_local(async move {
                let admission = waiting.await.unwrap().unwrap();
                order.borrow_mut().push(number);
                assert!(admission.held.is_some());
                assert_eq!(admission.guard.admitted.active, InstanceName::Shadow);
            }));
        }
        gate.obey(RESUME);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.borrow(), [0, 1, 2, 3, 4]);
        assert_eq!((gate.parked(), gate.in_flight()), (0, 0));
    });
}

#[test]
fn they_go_no_faster_than_the_limit_even_below_one_a_tick() {
    on_a_worker(async {
        let (gate, _) = gate(ParkLimits { release_per_second: 100, ..LIMITS });
        gate.obey(CLOSE);
        let mut waiting = Vec::new();
        for _ in 0..6 {
            waiting.push(park(&gate, Class::Read).await);
        }
        let opened = Instant::now();
        gate.obey(RESUME);
        for task in waiting {
            drop(task.await.unwrap().unwrap());
        }
        // The first at once, the others after 10 ms each.
        assert!(opened.elapsed() >= Duration::from_millis(50), "{:?}", opened.elapsed());
    });
}

#[test]
fn a_gate_that_closes_again_keeps_those_that_still_wait_in_their_order() {
    on_a_worker(async {
        let (gate, told) = gate(LIMITS);
        gate.obey(CLOSE);
        let first = park(&gate, Class::Write).await;
        let second = park(&gate, Class::Write).await;
        gate.obey(RESUME);
        gate.obey(Command::Close { generation: 1, park: Park::All });
        assert_eq!(told.borrow().last(), Some(&Event::Drained { generation: 1 }));
        while gate.releasing.get() {
            yield_now().await;
        }
        assert_eq!((gate.parked(), gate.in_flight()), (2, 0));
        gate.set_limits(ParkLimits { release_per_second: 1000, ..LIMITS });
        gate.obey(Command::Resume { generation: 2, active: InstanceName::Source });
        let first = first.await.unwrap().unwrap();
        let second = second.await.unwrap().unwrap();
        assert!(first.guard.key < second.guard.key, "the first went first");
        assert_eq!(second.guard.admitted.active, InstanceName::Source);
    });
}

#[test]
fn reads_that_waited_go_while_only_writes_are_held() {
    on_a_worker(async {
        let (gate, _) = gate(LIMITS);
        gate.obey(CLOSE);
        let write = park(&gate, Class::Write).await;
        let read = park(&gate, Class::Read).await;
        gate.obey(RESUME);
        gate.obey(Command::Close { generation: 1, park: Park::Writes });
        drop(read.await.unwrap().unwrap());
        assert_eq!(gate.parked(), 1);
        assert!(!write.is_finished());
    });
}

#[test]
fn one_that_waited_too_long_is_refused_and_leaves_nothing_behind() {
    on_a_worker(async {
        let everywhere = Arc::default();
        let (gate, _) = gate_of(ParkLimits { timeout: Duration::from_millis(5), ..LIMITS }, &everywhere);
        gate.obey(CLOSE);
        let refused = gate.admit(Class::Read, None, Instant::now(), || ()).await.err();
        assert_eq!(refused, Some(Refused::ParkedTooLong));
        assert_eq!((gate.parked(), everywhere.load(Ordering::Relaxed)), (0, 0));
    });
}

#[test]
fn the_number_of_those_who_wait_is_limited_over_all_gates() {
    on_a_worker(async {
        let everywhere = Arc::default();
        let limits = ParkLimits { max_parked: 2, ..LIMITS };
        let ((here, _), (there, _)) = (gate_of(limits, &everywhere), gate_of(limits, &everywhere));
        here.obey(CLOSE);
        there.obey(CLOSE);
        let first = park(&here, Class::Read).await;
        let _second = park(&there, Class::Read).await;
        for gate in [&here, &there] {
            let refused = gate.admit(Class::Read, None, Instant::now(), || ()).await.err();
            assert_eq!(refused, Some(Refused::TooManyParked));
        }
        first.abort();
        assert!(first.await.is_err());
        let _third = park(&there, Class::Read).await;
        assert_eq!((here.parked(), there.parked()), (0, 2));
    });
}

#[test]
fn one_that_left_takes_nobodys_turn() {
    on_a_worker(async {
        let (gate, _) = gate(ParkLimits { release_per_second: 1, ..LIMITS });
        gate.obey(CLOSE);
        let left = park(&gate, Class::Read).await;
        let stays = park(&gate, Class::Read).await;
        left.abort();
        assert!(left.await.is_err());
        assert_eq!(gate.parked(), 1);
        gate.obey(RESUME);
        let _admission = stays.await.unwrap().unwrap();
        assert_eq!(gate.in_flight(), 1);
    });
}

#[test]
fn one_that_leaves_after_it_was_let_through_is_counted_out() {
    on_a_worker(async {
        let (gate, told) = gate(LIMITS);
        gate.obey(CLOSE);
        let mut waiting = Box::pin(gate.admit(Class::Write, None, Instant::now(), || ()));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        gate.obey(RESUME);
        while gate.in_flight() == 0 {
            yield_now().await;
        }
        drop(waiting);
        assert_eq!(gate.in_flight(), 0);
        gate.obey(Command::Close { generation: 1, park: Park::All });
        assert_eq!(told.borrow().last(), Some(&Event::Drained { generation: 1 }));
    });
}

#[test]
fn a_cut_counts_answers_out_at_once_and_asks_the_others() {
    let (gate, told) = gate(LIMITS);
    let answering = guard(&gate, Class::Write);
    answering.enter(Stage::Answering, Instant::now());
    let awaiting = guard(&gate, Class::Write);
    awaiting.enter(Stage::Awaiting, Instant::now());
    gate.obey(CLOSE);
    assert_eq!(gate.cut(0), 2);
    assert_eq!(gate.in_flight(), 1);
    assert_eq!(answering.took(1), Some(Signal::Cut));
    let cx = Context::from_waker(Waker::noop());
    assert_eq!(awaiting.poll_signal(&cx), Poll::Ready(Signal::Cut));
    assert_eq!(gate.cut(0), 0, "nobody is asked twice");
    // Its answer came just then, and may never be taken.
    awaiting.enter(Stage::Answering, Instant::now());
    assert_eq!(gate.in_flight(), 0);
    assert_eq!(told.borrow().last(), Some(&Event::Drained { generation: 0 }));
    drop((answering, awaiting));
    assert_eq!(told.borrow().len(), 2, "counted out once: {:?}", told.borrow());
}

#[test]
fn what_blocks_is_named_oldest_first() {
    let (gate, _) = gate(LIMITS);
    let now = Instant::now();
    let ago = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
    let _young = guard_at(&gate, Class::Write, "/young?secret=1", ago(1));
    let old = guard_at(&gate, Class::Write, "/old", ago(3));
    let _read = guard_at(&gate, Class::Read, "/read", ago(2));
    old.attach(upload(now, false));
    old.took(3);
    gate.obey(CLOSE);
    assert_eq!(paths(&gate), ["/old", "/read", "/young"]);
    let oldest = gate.blockers(0, now, 1);
    let expected = Blocker {
        path: "/old".to_owned(),
        class: "write".to_owned(),
        stage: Stage::Connecting,
        age_ms: 3000,
        bytes: 10,
    };
    assert_eq!(oldest, [expected]);
}

#[test]
fn an_exchange_is_as_old_as_since_it_began() {
    on_a_worker(async {
        let (gate, _) = gate(LIMITS);
        let told = Instant::now();
        let now = told + Duration::from_millis(245);
        let guard = guard_at(&gate, Class::Read, "/a", told);
        guard.begins(now);
        let oldest = gate.blockers(0, now + Duration::from_millis(1), 1);
        assert_eq!(oldest.first().map(|blocker| blocker.age_ms), Some(1));
    });
}

#[test]
fn reads_neither_block_nor_are_cut_while_only_writes_are_held() {
    let (gate, _) = gate(LIMITS);
    let now = Instant::now();
    let read = guard_at(&gate, Class::Read, "/read", now);
    let write = guard_at(&gate, Class::Write, "/write", now);
    gate.obey(CLOSE_TO_WRITES);
    assert_eq!(paths(&gate), ["/write"]);
    assert_eq!(gate.cut(0), 1);
    assert_eq!((read.took(0), write.took(0)), (None, Some(Signal::Cut)));
}

#[test]
fn the_sweep_tells_a_slow_instance_from_a_stalled_caller() {
    let second = Duration::from_secs(1);
    let (answer_timeout, stall_timeout) = (second * 10, second * 5);
    let start = Instant::now();
    // What was attached, and what is said 4, 6, 12 seconds after the request went out.
    let slow = Some(Signal::AnswerTimeout);
    let stalled = Some(Signal::CallerStalled);
    for (upload, expected) in [
        (None, [None, None, slow]),
        (Some(upload(start, true)), [None, None, slow]),
        (Some(upload(start, false)), [None, stalled, stalled]),
        (Some(upload(start + second * 3, false)), [None, None, stalled]),
    ] {
        let (gate, _) = gate(LIMITS);
        let guard = guard(&gate, Class::Write);
        if let Some(upload) = upload {
            guard.attach(upload);
        }
        gate.sweep(start + second * 100, answer_timeout, stall_timeout);
        assert_eq!(guard.took(0), None, "the pool times out what has no connection yet");
        guard.enter(Stage::Awaiting, start);
        for (seconds, expected) in [4, 6, 12].into_iter().zip(expected) {
            gate.sweep(start + second * seconds, answer_timeout, stall_timeout);
            assert_eq!(guard.took(0), expected, "after {seconds} s");
        }
    }
}

#[test]
fn time_in_the_line_is_not_held_against_an_upload() {
    let (gate, _) = gate(LIMITS);
    let arrived = Instant::now();
    let sent = arrived + Duration::from_secs(20);
    let guard = guard(&gate, Class::Write);
    guard.attach(upload(arrived, false));
    guard.enter(Stage::Awaiting, sent);
    gate.sweep(sent, Duration::from_secs(10), Duration::from_secs(10));
    assert_eq!(guard.took(0), None);
}

#[test]
fn whatever_calls_back_finds_nothing_borrowed() {
    let gate = Gate::new(0, InstanceName::Source, LIMITS, Arc::default(), Box::new(|_| use_everything()));
    AT_HAND.set((Some(Rc::clone(&gate)), Vec::new()));
    let waker = Waker::from(Arc::new(Rude(use_everything)));
    let cx = Context::from_waker(&waker);
    let awaiting = || {
        let guard = guard(&gate, Class::Write);
        guard.enter(Stage::Awaiting, Instant::now());
        guard
    };
    // A cut and a sweep wake; waking drops other guards, which tells, which uses the gate.
    for act in [
        |gate: &Gate| assert_eq!(gate.cut(9), 2),
        |gate: &Gate| gate.sweep(Instant::now(), Duration::ZERO, FOR_EVER),
    ] {
        let woken = awaiting();
        assert!(woken.poll_signal(&cx).is_pending());
        AT_HAND.with_borrow_mut(|(_, guards)| guards.push(awaiting()));
        act(&gate);
        assert!(AT_HAND.with_borrow(|(_, guards)| guards.is_empty()), "it was woken");
    }
    let answering = awaiting();
    AT_HAND.with_borrow_mut(|(_, guards)| guards.push(awaiting()));
    gate.obey(CLOSE);
    gate.cut(0);
    answering.enter(Stage::Answering, Instant::now());
    drop(answering);
    assert_eq!(gate.in_flight(), 0);
    AT_HAND.take();
}

/// Holds a guard, and is the last to hold it.
struct Keeper(#[allow(dead_code, reason = "it is kept to be dropped")] std::sync::Mutex<Option<usize>>);

impl Wake for Keeper {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Keeper {
    fn drop(&mut self) {
        use_everything();
    }
}

#[test]
fn a_waker_may_drop_what_it_keeps_when_it_is_replaced() {
    let (gate, _) = gate(LIMITS);
    AT_HAND.set((Some(Rc::clone(&gate)), Vec::new()));
    let first = guard(&gate, Class::Write);
    let second = guard(&gate, Class::Write);
    {
        let keeper = Waker::from(Arc::new(Keeper(std::sync::Mutex::default())));
        assert!(first.poll_signal(&Context::from_waker(&keeper)).is_pending());
    }
    AT_HAND.with_borrow_mut(|(_, guards)| guards.push(second));
    assert!(first.poll_signal(&Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(gate.in_flight(), 1, "the second went with the waker");
    AT_HAND.take();
}
