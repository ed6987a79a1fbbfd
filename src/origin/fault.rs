//! Faults on purpose: what an instance may do wrong, how often, and which request it hits.
//!
//! Shares are exact, not random: each fault saves up its share at every request and strikes when a
//! whole one has been saved (error diffusion), so a fault of 1 % strikes once in any hundred requests
//! in a row. When two are due at once the first listed strikes and the other one keeps its savings
//! for the next request, so that each keeps its rate as long as they do not add up to more than 100 %.
//! Delays do not compete with anything: they are added to whatever else happens.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;

use super::quantity::{duration, size};
use crate::config::{ByteSize, Percent};

/// One thing that goes wrong, and for how many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    pub kind: FaultKind,
    /// Share of requests; of connections for [`FaultKind::HangAfterAccept`]; not used by
    /// [`FaultKind::Refuse`].
    pub percent: Percent,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FaultKind {
    /// Nobody listens. All or nothing; open connections live on.
    Refuse,
    /// The connection is accepted and never read.
    HangAfterAccept,
    /// The request is handled; the head of the answer comes, its body never does.
    HangAfterHeader,
    /// The request is neither handled nor answered.
    Hang,
    /// Added before the answer. `slow` and `extra-latency` are the same thing in two sizes.
    Delay { name: &'static str, by: Duration },
    /// The request is handled; the answer's body never ends.
    EndlessBody,
    /// The request is handled; the answer has a body of this size.
    HugeBody(ByteSize),
    /// The request is handled; garbage stands where the status line should.
    Malformed,
    /// The request is handled; the connection is reset in the middle of the body (TCP RST; over
    /// HTTP/2 the stream).
    Reset,
    /// The request is handled; the body ends before its announced length.
    Truncate,
    /// The request is not handled, and answered with this status.
    Error(StatusCode),
    /// The request is handled; one byte of the body is not what it should be.
    WrongBody,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FaultError {
    #[error(
        "no fault is called {0:?}; there are refuse, hang-after-accept, hang-after-header, hang, slow, \
         extra-latency, endless-body, huge-body, malformed, reset, truncate, error and wrong-body"
    )]
    Unknown(String),
    #[error("cannot read {argument:?} as the argument of the fault {kind}; write for example {example}")]
    Argument { kind: String, argument: String, example: &'static str },
    #[error("the fault {0} takes no argument; leave out what follows =")]
    NoArgument(String),
    #[error("cannot read {0:?} as a percentage; write a number from 0 to 100 after @")]
    Percent(String),
    #[error("refuse closes the listener for all, so it has no percentage; leave out what follows @")]
    RefuseShare,
}

impl FromStr for Fault {
    type Err = FaultError;

    /// `KIND[=ARG][@PERCENT]`; without a percentage it hits everything.
    fn from_str(text: &str) -> Result<Self, FaultError> {
        let (what, share) = match text.trim().split_once('@') {
            Some((what, share)) => (what, Some(share)),
            None => (text.trim(), None),
        };
        let (name, argument) = match what.split_once('=') {
            Some((name, argument)) => (name, Some(argument)),
            None => (what, None),
        };
        let wrong = |example| FaultError::Argument {
            kind: name.to_owned(),
            argument: argument.unwrap_or_default().to_owned(),
            example,
        };
        let delay = |name: &'static str, usual: Duration, example: &'static str| {
            let by = argument.map_or(Some(usual), duration).ok_or_else(|| wrong(example))?;
            Ok(FaultKind::Delay { name, by })
        };
        let plain = |kind| match argument {
            None => Ok(kind),
            Some(_) => Err(FaultError::NoArgument(name.to_owned())),
        };
        let kind = match name {
            "refuse" => plain(FaultKind::Refuse)?,
            "hang-after-accept" => plain(FaultKind::HangAfterAccept)?,
            "hang-after-header" => plain(FaultKind::HangAfterHeader)?,
            "hang" => plain(FaultKind::Hang)?,
            "slow" => delay("slow", Duration::from_secs(10), "slow=10s")?,
            "extra-latency" => delay("extra-latency", Duration::from_millis(5), "extra-latency=5ms")?,
            "endless-body" => plain(FaultKind::EndlessBody)?,
            "huge-body" => FaultKind::HugeBody(
                argument.map_or(Some(ByteSize::mib(1024)), size).ok_or_else(|| wrong("huge-body=1GiB"))?,
            ),
            "malformed" => plain(FaultKind::Malformed)?,
            "reset" => plain(FaultKind::Reset)?,
            "truncate" => plain(FaultKind::Truncate)?,
            "error" => FaultKind::Error(
                StatusCode::from_bytes(argument.unwrap_or("500").as_bytes())
                    .ok()
                    .filter(|status| status.as_u16() >= 200)
                    .ok_or_else(|| wrong("error=500"))?,
            ),
            "wrong-body" => plain(FaultKind::WrongBody)?,
            unknown => return Err(FaultError::Unknown(unknown.to_owned())),
        };
        let percent = match share {
            Some(_) if kind == FaultKind::Refuse => return Err(FaultError::RefuseShare),
            Some(share) => share.trim().trim_end_matches('%').parse().ok().and_then(Percent::new),
            None => Percent::new(100.0),
        };
        let percent = percent.ok_or_else(|| FaultError::Percent(share.unwrap_or_default().to_owned()))?;
        Ok(Self { kind, percent })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            FaultKind::Refuse => return f.write_str("refuse"),
            FaultKind::HangAfterAccept => f.write_str("hang-after-accept"),
            FaultKind::HangAfterHeader => f.write_str("hang-after-header"),
            FaultKind::Hang => f.write_str("hang"),
            FaultKind::Delay { name, by } => write!(f, "{name}={}us", by.as_micros()),
            FaultKind::EndlessBody => f.write_str("endless-body"),
            FaultKind::HugeBody(size) => write!(f, "huge-body={}", size.bytes()),
            FaultKind::Malformed => f.write_str("malformed"),
            FaultKind::Reset => f.write_str("reset"),
            FaultKind::Truncate => f.write_str("truncate"),
            FaultKind::Error(status) => write!(f, "error={}", status.as_u16()),
            FaultKind::WrongBody => f.write_str("wrong-body"),
        }?;
        write!(f, "@{}", self.percent.as_f64())
    }
}

/// What is done to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Strike {
    pub delay: Duration,
    pub fault: Option<FaultKind>,
}

/// The faults in force. Free of cost while there are none.
#[derive(Debug, Default)]
pub(super) struct Faults {
    any: AtomicBool,
    armed: Mutex<Vec<Armed>>,
}

#[derive(Debug)]
struct Armed {
    fault: Fault,
    /// Parts of [`Percent::WHOLE`] saved up.
    saved: u32,
}

impl Armed {
    fn save(&mut self) {
        self.saved = self.saved.saturating_add(self.fault.percent.parts());
    }

    fn spend(&mut self) -> bool {
        let due = self.saved >= Percent::WHOLE;
        if due {
            self.saved -= Percent::WHOLE;
        }
        due
    }
}

impl Faults {
    /// Replaces all of them, and forgets what was saved.
    pub fn set(&self, faults: &[Fault]) {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        *armed = faults.iter().map(|&fault| Armed { fault, saved: 0 }).collect();
        self.any.store(!armed.is_empty(), Ordering::Release);
    }

    pub fn list(&self) -> Vec<Fault> {
        let armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        armed.iter().map(|armed| armed.fault).collect()
    }

    /// Whether this connection is accepted only to be left alone.
    pub fn strike_connection(&self) -> bool {
        self.armed_any() && {
            let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
            let mut connection =
                armed.iter_mut().filter(|armed| armed.fault.kind == FaultKind::HangAfterAccept);
            connection.any(|armed| {
                armed.save();
                armed.spend()
            })
        }
    }

    pub fn strike_request(&self) -> Strike {
        let mut strike = Strike::default();
        if !self.armed_any() {
            return strike;
        }
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        for armed in armed.iter_mut() {
            match armed.fault.kind {
                FaultKind::Refuse | FaultKind::HangAfterAccept => {}
                FaultKind::Delay { by, .. } => {
                    armed.save();
                    if armed.spend() {
                        strike.delay += by;
                    }
                }
                kind => {
                    armed.save();
                    if strike.fault.is_none() && armed.spend() {
                        strike.fault = Some(kind);
                    }
                }
            }
        }
        strike
    }

    fn armed_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [&str; 13] = [
        "refuse",
        "hang-after-accept@50",
        "hang-after-header@1",
        "hang@0.5",
        "slow=10s@3",
        "extra-latency=5ms@100",
        "endless-body@1",
        "huge-body=1GiB@2",
        "malformed@1",
        "reset@1",
        "truncate@1",
        "error=503@2.5",
        "wrong-body@1",
    ];

    #[test]
    fn what_is_shown_can_be_typed_again() {
        for text in ALL {
            let fault: Fault = text.parse().unwrap();
            assert_eq!(fault.to_string().parse(), Ok(fault), "{text}");
        }
    }

    #[test]
    fn a_mistake_says_what_would_be_right() {
        let message = |text: &str| text.parse::<Fault>().unwrap_err().to_string();
        assert!(message("slowly").contains("extra-latency"));
        assert!(message("slow=ten").contains("slow=10s"));
        assert!(message("error=99").contains("error=500"));
        assert!(message("hang=3").contains("no argument"));
        assert!(message("hang@101").contains("0 to 100"));
        assert!(message("refuse@50").contains("no percentage"));
    }

    proptest! {
        /// At any prefix each fault has struck exactly its share, rounded down.
        #[test]
        fn shares_are_exact_at_every_prefix(tenths in 0_u32..=1000, requests in 1_usize..3000) {
            let faults = Faults::default();
            let percent = Percent::new(f64::from(tenths) / 10.0).unwrap();
            faults.set(&[Fault { kind: FaultKind::Hang, percent }]);
            let mut struck = 0_u64;
            for n in 1..=requests as u64 {
                struck += u64::from(faults.strike_request().fault.is_some());
                prop_assert_eq!(struck, n * u64::from(percent.parts()) / u64::from(Percent::WHOLE));
            }
        }
    }

    #[test]
    fn faults_that_collide_keep_their_rates_and_delays_join_in() {
        let faults = Faults::default();
        let parsed: Vec<Fault> = ["hang@10", "reset@20", "extra-latency=1ms@100"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        faults.set(&parsed);
        let strikes: Vec<Strike> = (0..1001).map(|_| faults.strike_request()).collect();
        let count = |kind| strikes.iter().filter(|strike| strike.fault == Some(kind)).count();
        assert_eq!(count(FaultKind::Hang), 100);
        assert_eq!(count(FaultKind::Reset), 200);
        assert!(strikes.iter().all(|strike| strike.delay == Duration::from_millis(1)));
    }
}
