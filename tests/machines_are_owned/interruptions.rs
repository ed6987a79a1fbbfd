//! A Segue that is killed between any two of its calls, before one arrives or before its answer does: whoever does the
//! step again ends with exactly one machine, in the state that the step promises.

use std::sync::atomic::{AtomicUsize, Ordering};

use segue::instance::ec2::{Ec2Provider, Patience};
use segue::instance::{Provider, ProviderError, Spec, State};

use crate::stage::{GRACE, HURRY, Stage, allocation, provider};
use crate::support::recorder::{Recorded, Recorder};
use crate::support::try_request;

/// Of a process that is killed: nothing is tried again.
const ONCE: Patience = Patience { attempts: 1, ..HURRY };
/// More than any step makes.
const MANY_CALLS: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    BeforeTheCall,
    BeforeTheAnswer,
}

/// Lets `calls` through to the API, and none after that; of the last one only the answer may be lost.
fn cut_after(stage: &Stage, calls: usize, cut: Cut) -> Recorder {
    let api = stage.account.address;
    let seen = AtomicUsize::new(0);
    Recorder::answering(move |request| {
        let n = seen.fetch_add(1, Ordering::Relaxed);
        if n > calls || (n == calls && cut == Cut::BeforeTheCall) {
            return None;
        }
        let answer = try_request(api, written(request)).unwrap();
        let head = format!(
            "HTTP/1.1 {} -\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            answer.status,
            answer.body.len()
        );
        (n < calls).then(|| [head.into_bytes(), answer.body].concat())
    })
}

fn written(request: &Recorded) -> Vec<u8> {
    let first = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    let headers: Vec<_> =
        request.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    [first.as_bytes(), headers.concat().as_bytes(), b"\r\n", &request.body].concat()
}

/// `prepare` brings a machine to where `step` begins; after each cut it is done again, and `promise` has to hold.
fn survives(
    stage: &Stage,
    prepare: impl Fn(&Spec),
    step: impl Fn(&Ec2Provider, &Spec) -> Result<(), ProviderError>,
    promise: impl Fn(&Spec),
) {
    for cut in [Cut::BeforeTheCall, Cut::BeforeTheAnswer] {
        for calls in 0.. {
            assert!(calls < MANY_CALLS);
            let spec = stage.spec();
            prepare(&spec);
            let front = cut_after(stage, calls, cut);
            let ended = step(&provider("mine", &front.url(), ONCE), &spec).is_ok();
            step(&stage.provider, &spec).unwrap_or_else(|error| panic!("{cut:?} {calls}: {error}"));
            promise(&spec);
            stage.wait(stage.provider.destroy(&spec.id)).unwrap();
            assert_eq!(stage.account.there(), [], "{cut:?} {calls}");
            if ended {
                assert!(calls > 0, "it was cut at least once");
                break;
            }
        }
    }
    assert_eq!(stage.account.volumes(), [0; 0]);
}

#[test]
fn making_and_starting() {
    let Some(stage) = Stage::set() else { return };
    survives(
        &stage,
        |_| (),
        |provider, spec| {
            stage.wait(provider.create(spec))?;
            stage.wait(provider.start(spec)).map(drop)
        },
        |spec| {
            assert_eq!(stage.account.there().len(), 1);
            assert_eq!(stage.state(&spec.id), State::Running);
        },
    );
}

#[test]
fn resizing() {
    let Some(stage) = Stage::set() else { return };
    survives(
        &stage,
        |spec| drop(stage.run(spec)),
        |provider, spec| stage.wait(provider.resize(&spec.id, allocation(1500, 6, 35))).map(drop),
        |spec| {
            let machine = stage.account.there().remove(0);
            assert_eq!((machine.kind.as_str(), machine.state.as_str()), ("m5.large", "running"));
            assert_eq!(stage.account.volumes(), [35]);
            assert_eq!(stage.state(&spec.id), State::Running);
        },
    );
}

#[test]
fn stopping_starting_again_and_destroying() {
    let Some(stage) = Stage::set() else { return };
    let run = |spec: &Spec| drop(stage.run(spec));
    survives(
        &stage,
        run,
        |provider, spec| stage.wait(provider.stop(&spec.id, GRACE)),
        |spec| assert_eq!(stage.state(&spec.id), State::Made),
    );
    survives(
        &stage,
        |spec| {
            run(spec);
            stage.wait(stage.provider.stop(&spec.id, GRACE)).unwrap();
        },
        |provider, spec| stage.wait(provider.start(spec)).map(drop),
        |spec| assert_eq!(stage.state(&spec.id), State::Running),
    );
    survives(
        &stage,
        run,
        |provider, spec| stage.wait(provider.destroy(&spec.id)),
        |_| assert_eq!(stage.account.there(), []),
    );
}

/// EC2 makes one machine of two requests with the same token; moto does not know tokens.
#[test]
fn a_request_to_make_one_has_the_same_token_whoever_sends_it() {
    let Some(stage) = Stage::set() else { return };
    let spec = stage.spec();
    let is_to_make =
        |request: &Recorded| request.body.windows(20).any(|part| part == b"Action=RunInstances&");
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let api = stage.account.address;
        let front = Recorder::answering(move |request| {
            if is_to_make(request) {
                return None;
            }
            let answer = try_request(api, written(request)).unwrap();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", answer.body.len());
            Some([head.into_bytes(), answer.body].concat())
        });
        let error = stage.wait(provider("mine", &front.url(), HURRY).create(&spec)).unwrap_err();
        assert!(error.is_transient(), "{error}");
        for request in front.take().iter().filter(|request| is_to_make(request)) {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            let token = body.split('&').find_map(|pair| pair.strip_prefix("ClientToken="));
            tokens.push(token.unwrap().to_owned());
        }
    }
    assert_eq!(tokens.len(), 2 * HURRY.attempts as usize);
    tokens.dedup();
    assert_eq!(tokens.len(), 1, "{tokens:?}");
}
