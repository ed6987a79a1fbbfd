//! How long an answer takes: a distribution, sampled per request.
//!
//! The runtime's timer counts whole milliseconds and rounds up, so a sampled delay is kept to about
//! a millisecond; that is the grain of the latencies that one plays with here.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::quantity::duration;

/// The longest delay that a tail may draw; beyond it a sample says nothing that a hang would not.
const LONGEST: Duration = Duration::from_hours(1);

/// `const:5ms`, `uniform:1ms..10ms`, `exp:5ms` (mean), `lognormal:5ms,1.0` (median, sigma).
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Delay {
    #[default]
    None,
    Constant(Duration),
    Uniform {
        from: Duration,
        to: Duration,
    },
    Exponential {
        mean: Duration,
    },
    LogNormal {
        median: Duration,
        sigma: f64,
    },
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "cannot read the latency {0:?}; write const:5ms, uniform:1ms..10ms, exp:5ms or lognormal:5ms,1.0 (median, sigma)"
)]
pub struct DelayError(String);

impl Delay {
    pub fn sample(&self, random: &mut fastrand::Rng) -> Duration {
        let seconds = match *self {
            Self::None => return Duration::ZERO,
            Self::Constant(always) => return always,
            Self::Uniform { from, to } => {
                from.as_secs_f64() + random.f64() * (to.as_secs_f64() - from.as_secs_f64())
            }
            // 1 - f64() lies in (0, 1], so the logarithm is finite.
            Self::Exponential { mean } => -(1.0 - random.f64()).ln() * mean.as_secs_f64(),
            Self::LogNormal { median, sigma } => {
                let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
                let normal = radius * (std::f64::consts::TAU * random.f64()).cos();
                median.as_secs_f64() * (sigma * normal).exp()
            }
        };
        Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST).min(LONGEST)
    }
}

impl FromStr for Delay {
    type Err = DelayError;

    fn from_str(text: &str) -> Result<Self, DelayError> {
        let parse = || {
            let (kind, rest) = text.split_once(':')?;
            Some(match kind {
                "const" => Self::Constant(duration(rest)?),
                "uniform" => {
                    let (from, to) = rest.split_once("..")?;
                    let (from, to) = (duration(from)?, duration(to)?);
                    (from <= to).then_some(Self::Uniform { from, to })?
                }
                "exp" => Self::Exponential { mean: duration(rest)? },
                "lognormal" => {
                    let (median, sigma) = rest.split_once(',')?;
                    let sigma: f64 = sigma.trim().parse().ok()?;
                    let median = duration(median)?;
                    (sigma.is_finite() && sigma >= 0.0).then_some(Self::LogNormal { median, sigma })?
                }
                _ => return None,
            })
        };
        parse().ok_or_else(|| DelayError(text.to_owned()))
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Constant(always) => write!(f, "const:{always:?}"),
            Self::Uniform { from, to } => write!(f, "uniform:{from:?}..{to:?}"),
            Self::Exponential { mean } => write!(f, "exp:{mean:?}"),
            Self::LogNormal { median, sigma } => write!(f, "lognormal:{median:?},{sigma}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(text: &str) -> Vec<f64> {
        let delay: Delay = text.parse().unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        let mut all: Vec<f64> = (0..20_000).map(|_| delay.sample(&mut random).as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    fn mean(of: &[f64]) -> f64 {
        of.iter().sum::<f64>() / of.len() as f64
    }

    #[test]
    fn each_distribution_has_the_shape_it_was_asked_for() {
        assert!(samples("const:5ms").iter().all(|&ms| (ms - 5.0).abs() < 1e-9));

        let uniform = samples("uniform:1ms..10ms");
        assert!(uniform[0] >= 1.0 && uniform[19_999] <= 10.0);
        assert!((mean(&uniform) - 5.5).abs() < 0.1);

        assert!((mean(&samples("exp:5ms")) - 5.0).abs() < 0.2);

        let lognormal = samples("lognormal:5ms,1.0");
        assert!((lognormal[10_000] - 5.0).abs() < 0.3, "median {}", lognormal[10_000]);
        // One standard deviation above the median is a factor of e.
        assert!((lognormal[16_827] / 5.0 - std::f64::consts::E).abs() < 0.2);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in
            ["", "5ms", "const:", "const:5", "uniform:9ms..1ms", "exp:x", "lognormal:5ms", "lognormal:5ms,-1"]
        {
            assert!(text.parse::<Delay>().is_err(), "{text}");
        }
    }
}
