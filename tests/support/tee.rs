//! What Segue says about its tee, and instances that misbehave.

use segue::origin::{Fault, Origin, OriginSettings, Running};
use serde_json::Value;

use super::{Segue, free_port, until};

/// Reasons by which a request never was a candidate; all others come after the sampling.
const NOT_ELIGIBLE: [&str; 5] = ["off", "stopped", "no_shadow", "write", "session_key_missing"];

/// Every read is teed, and no limit but memory and queue is in the way.
pub const EVERYTHING: &str = "tee = { percent = 100, allow_above_5_percent = true, \
    max_requests_per_second = 1000000, max_bytes_per_second = \"4095 MiB\", max_concurrency = 10000, \
    max_connections = 256, breaker_after = 0, deadline = \"1s\" }";

/// The sample application, on two threads.
pub fn origin(faults: &[&str]) -> Running {
    let faults = faults.iter().map(|fault| fault.parse::<Fault>().unwrap()).collect();
    let two = std::num::NonZeroUsize::new(2).unwrap();
    Origin::start(OriginSettings { faults, workers: two, ..OriginSettings::on_loopback() }).unwrap()
}

pub fn url(instance: &Running) -> String {
    format!("http://{}", instance.addr().unwrap())
}

/// A shadow that does wrong, until this is dropped.
pub struct Wrong {
    pub url: String,
    pub instance: Option<Running>,
}

impl Wrong {
    /// `dead`, where nothing ever listened, or one of the sample application's faults.
    pub fn shadow(fault: &str) -> Self {
        if fault == "dead" {
            return Self { url: format!("http://127.0.0.1:{}", free_port()), instance: None };
        }
        let instance = origin(&[fault]);
        Self { url: url(&instance), instance: Some(instance) }
    }
}

/// One counter of the tee, by its path.
pub fn count(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

/// How often pairs got this verdict.
pub fn verdicts(service: &Value, verdict: &str) -> u64 {
    count(service, &format!("/pairs/verdicts/{verdict}"))
}

/// Skips for this reason, whether or not the body had to be read first.
pub fn skipped(service: &Value, reason: &str) -> u64 {
    let by_head = count(service, &format!("/tee/skipped/{reason}"));
    by_head + count(service, &format!("/tee/by_body/skipped/{reason}"))
}

/// Reads that took part in the sampling, of both kinds.
pub fn eligible(service: &Value) -> u64 {
    count(service, "/tee/eligible") + count(service, "/tee/by_body/eligible")
}

pub fn teed(service: &Value) -> u64 {
    count(service, "/tee/teed") + count(service, "/tee/by_body/teed")
}

/// The service once nothing of the tee is under way any more: all that was picked was teed or skipped
/// for a reason, and every pair that came of it is counted. Its callers have to be done.
pub fn settled_somehow(segue: &Segue) -> Value {
    let service = until("the tee to settle", || {
        let service = segue.service();
        let over = ["/tee", "/tee/by_body"].into_iter().all(|which| {
            count(&service, &format!("{which}/sampled"))
                == count(&service, &format!("{which}/teed")) + left_out(&service, which, true)
        });
        over.then_some(service)
    });
    let unseen = skipped(&service, "connect_failed") + skipped(&service, "connections");
    assert_eq!(count(&service, "/pairs/compared"), teed(&service) + unseen, "{service:#}");
    service
}

/// The same, where `asked` is how many requests callers made: each of them is a candidate, or counted
/// by a reason why not.
pub fn settled(segue: &Segue, asked: u64) -> Value {
    let service = settled_somehow(segue);
    let never = left_out(&service, "/tee", false) + left_out(&service, "/tee/by_body", false);
    assert_eq!(eligible(&service) + never, asked, "{:#}", service["tee"]);
    service
}

fn left_out(service: &Value, which: &str, after_sampling: bool) -> u64 {
    let skipped = service.pointer(&format!("{which}/skipped")).and_then(Value::as_object);
    let counted = |(reason, count): (&String, &Value)| {
        (NOT_ELIGIBLE.contains(&reason.as_str()) != after_sampling).then(|| count.as_u64().unwrap())
    };
    skipped.into_iter().flatten().filter_map(counted).sum()
}

/// Changes the rate from now on.
pub fn set_percent(segue: &Segue, percent: f64) {
    let change = format!("{{\"percent\":{percent},\"allow_above_5_percent\":true}}");
    let (status, answer) = segue.call("PATCH", "/v1/services/web/tee", &change);
    assert_eq!(status, 200, "{answer}");
}
