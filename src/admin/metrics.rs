//! The metrics page: everything measured at one moment, as `OpenMetrics` or in Prometheus' older format.
//!
//! Nothing is counted here. A scrape asks the workers for what they have counted, so the callers' path
//! pays nothing for the metrics, and the numbers are those of the API.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::config::InstanceName;
use crate::control::{BySide, Measurements, ServiceMeasurements, ServiceStatus};
use crate::record::{Distribution, Side};
use crate::tee::compare::Verdict;
use crate::tee::skip::TeeCounts;

/// Upper bounds of all histograms: about 2.5 to a decade, around what an HTTP answer takes.
pub(super) const BOUNDS: [Duration; 15] = [
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    OpenMetrics,
    Prometheus,
}

impl Format {
    /// The older format only for who asks for it and does not know the newer one.
    pub fn accepted<'a>(accept: impl Iterator<Item = &'a str>) -> Self {
        let mut plain = false;
        for range in accept.flat_map(|value| value.split(',')) {
            let media = range.split(';').next().unwrap_or_default().trim();
            if media.eq_ignore_ascii_case("application/openmetrics-text") {
                return Self::OpenMetrics;
            }
            plain |= media.eq_ignore_ascii_case("text/plain");
        }
        if plain { Self::Prometheus } else { Self::OpenMetrics }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

pub(super) fn page(measured: Measurements, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(measured)));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(match format {
        Format::OpenMetrics => page,
        Format::Prometheus => in_older_format(&page),
    })
}

/// There a counter's family is named as its samples are, and nothing marks the end.
fn in_older_format(page: &str) -> String {
    let mut older = String::with_capacity(page.len());
    let mut help = None;
    for line in page.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some(text) = line.strip_prefix("# HELP ") {
            help = text.split_once(' ');
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, text)) = help.take() {
                older.extend(["# HELP ", name, suffix, " ", text, "\n"]);
            }
            older.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
            continue;
        }
        older.push_str(line);
        older.push('\n');
    }
    older
}

#[derive(Debug)]
struct Scrape(Measurements);

/// Name, help, and where the values are.
type Counted = (&'static str, &'static str, fn(&ServiceStatus) -> u64);
type Timed = (&'static str, &'static str, fn(&ServiceMeasurements) -> &BySide);

/// Writes one family after the other.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn counter<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, count) in rows {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&count, None)?;
        }
        Ok(())
    }

    fn gauge<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in rows {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn histogram<'d, L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, &'d Distribution)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, distribution) in rows {
            buckets(family.encode_family(&labels)?, distribution)?;
        }
        Ok(())
    }

    /// Of the process as a whole, so without labels.
    fn single_gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn single_histogram(&mut self, name: &str, help: &str, distribution: &Distribution) -> fmt::Result {
        buckets(self.0.encode_descriptor(name, help, None, MetricType::Histogram)?, distribution)
    }
}

fn buckets(mut metric: MetricEncoder<'_>, distribution: &Distribution) -> fmt::Result {
    let mut below = 0;
    let mut buckets = Vec::with_capacity(BOUNDS.len() + 1);
    for (bound, at_most) in BOUNDS.iter().zip(&distribution.at_most) {
        buckets.push((bound.as_secs_f64(), at_most - below));
        below = *at_most;
    }
    buckets.push((f64::INFINITY, distribution.count - below));
    let sum = distribution.sum.as_secs_f64();
    metric.encode_histogram::<NoLabelSet>(sum, distribution.count, &buckets, None)
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        let services = &self.0.process.services;
        requests(&mut families, services)?;
        tee(&mut families, services)?;
        gates(&mut families, services, &self.0.pauses)?;
        durations(&mut families, &self.0.services)?;
        process(&mut families, &self.0)
    }
}

fn service(of: &ServiceStatus) -> (&'static str, &str) {
    ("service", &*of.name)
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

fn requests(families: &mut Families<'_>, services: &[ServiceStatus]) -> fmt::Result {
    let rows = services.iter().flat_map(|of| {
        of.requests.iter().map(move |row| {
            let labels = [service(of), ("instance", row.instance.as_str()), ("class", row.class)];
            ((labels, [("code", row.code)]), row.count)
        })
    });
    families.counter("segue_requests", "Answers of instances to callers.", rows)?;
    let reasons = services.iter().flat_map(|of| labelled(of, "reason", &of.classified));
    families.counter("segue_classified", "Requests by the reason of their class.", reasons)?;
    let suspects = services.iter().flat_map(|of| labelled(of, "reason", &of.suspects));
    families.counter("segue_suspects", "Reads whose answer suggests a side effect.", suspects)?;
    let single: [Counted; 5] = [
        ("segue_retries", "Requests sent to the instance a second time.", |of| of.retries),
        (
            "segue_informational_answers",
            "Answers before the final one, such as 103, which are not passed on.",
            |of| of.informational,
        ),
        ("segue_cut", "Exchanges cut at a drain deadline.", |of| of.cut),
        ("segue_abandoned", "Writes whose caller left, and that were heard out.", |of| of.abandoned),
        ("segue_caller_left", "Answers whose caller left before their end.", |of| of.caller_left),
    ];
    for (name, help, count) in single {
        families.counter(name, help, services.iter().map(|of| ([service(of)], count(of))))?;
    }
    Ok(())
}

fn labelled<'a>(
    of: &'a ServiceStatus,
    label: &'static str,
    counts: &'a std::collections::BTreeMap<&'static str, u64>,
) -> impl Iterator<Item = ([(&'static str, &'a str); 2], u64)> {
    counts.iter().map(move |(value, count)| ([service(of), (label, *value)], *count))
}

fn tee(families: &mut Families<'_>, services: &[ServiceStatus]) -> fmt::Result {
    let outcomes = ("segue_tee", "Reads by how far they came on their way to the shadow.");
    let skipped = ("segue_tee_skipped", "Requests that were not teed.");
    tee_counts(families, services, outcomes, skipped, |of| &of.tee.counts)?;
    let outcomes = ("segue_tee_by_body", "The same for reads that only their body shows to be reads.");
    let skipped = ("segue_tee_by_body_skipped", "Such requests that were not teed.");
    tee_counts(families, services, outcomes, skipped, |of| &of.tee.by_body)?;
    let verdicts = services.iter().flat_map(|of| {
        Verdict::ALL.into_iter().map(move |verdict| {
            let verdict = verdict.as_str();
            let count = of.pairs.verdicts.get(verdict).copied().unwrap_or_default();
            ([service(of), ("verdict", verdict)], count)
        })
    });
    families.counter("segue_pairs", "Compared pairs.", verdicts)?;
    let retries = services.iter().map(|of| ([service(of)], of.tee.stale_retries));
    let help = "Pairs sent again because the shadow had just closed the connection.";
    families.counter("segue_tee_stale_retries", help, retries)?;
    let percent = services.iter().map(|of| ([service(of)], of.tee.configured_percent));
    families.gauge("segue_tee_percent", "Reads that the tee is set to copy, in per cent.", percent)?;
    let breakers = services.iter().flat_map(|of| {
        ["closed", "half_open", "open"]
            .map(|state| ([service(of), ("state", state)], flag(of.tee.breaker == state)))
    });
    families.gauge("segue_tee_breaker", "1 for the state that the tee's breaker is in.", breakers)
}

fn tee_counts(
    families: &mut Families<'_>,
    services: &[ServiceStatus],
    (name, help): (&str, &str),
    (skipped, skipped_help): (&str, &str),
    counts: fn(&ServiceStatus) -> &TeeCounts,
) -> fmt::Result {
    let outcomes = services.iter().flat_map(|of| {
        let counts = counts(of);
        [("eligible", counts.eligible), ("sampled", counts.sampled), ("teed", counts.teed)]
            .map(|(outcome, count)| ([service(of), ("outcome", outcome)], count))
    });
    families.counter(name, help, outcomes)?;
    let reasons = services.iter().flat_map(|of| {
        let reasons = counts(of).skipped.iter();
        reasons.map(move |(reason, count)| ([service(of), ("reason", reason.as_str())], count))
    });
    families.counter(skipped, skipped_help, reasons)
}

fn gates(families: &mut Families<'_>, services: &[ServiceStatus], pauses: &Distribution) -> fmt::Result {
    let in_flight = services.iter().map(|of| ([service(of)], of.in_flight as f64));
    families.gauge("segue_in_flight", "Exchanges with instances under way.", in_flight)?;
    let parked = services.iter().map(|of| ([service(of)], of.parked as f64));
    families.gauge("segue_parked", "Requests held at the gate.", parked)?;
    let active = services.iter().flat_map(|of| {
        [InstanceName::Source, InstanceName::Shadow]
            .map(|name| ([service(of), ("instance", name.as_str())], flag(of.active == name)))
    });
    families.gauge("segue_active", "1 for the instance that callers' requests go to.", active)?;
    let generation = services.iter().map(|of| ([service(of)], of.generation as f64));
    families.gauge("segue_generation", "Grows with every swap.", generation)?;
    let healthy = services.iter().flat_map(|of| {
        of.endpoints.iter().map(move |endpoint| {
            let labels =
                [service(of), ("instance", endpoint.instance.as_str()), ("endpoint", &*endpoint.address)];
            (labels, flag(endpoint.healthy))
        })
    });
    families.gauge("segue_endpoint_healthy", "1 while the endpoint's health check succeeds.", healthy)?;
    let ended = services.iter().flat_map(|of| {
        [("completed", of.switchovers.completed), ("aborted", of.switchovers.aborted)]
            .map(|(outcome, count)| ([service(of), ("outcome", outcome)], count))
    });
    families.counter("segue_switchovers", "Switchovers and rollbacks by how they ended.", ended)?;
    let help = "How long completed switchovers held requests.";
    families.single_histogram("segue_switchover_pause_seconds", help, pauses)
}

fn durations(families: &mut Families<'_>, services: &[ServiceMeasurements]) -> fmt::Result {
    let kinds: [Timed; 3] = [
        (
            "segue_request_duration_seconds",
            "Time to the last byte: of callers' answers, and of the shadow's to teed requests.",
            |of| &of.last_byte,
        ),
        ("segue_first_byte_seconds", "Time to the first byte of the same answers.", |of| &of.first_byte),
        (
            "segue_pair_duration_seconds",
            "Time to the last byte on both sides of the same requests: comparable.",
            |of| &of.paired,
        ),
    ];
    for (name, help, sides) in kinds {
        let rows = services.iter().flat_map(|of| {
            let BySide { source, shadow } = sides(of);
            [(Side::Source, source), (Side::Shadow, shadow)]
                .map(|(side, of_side)| ([("service", &*of.service), ("side", side.as_str())], of_side))
        });
        families.histogram(name, help, rows)?;
    }
    let held = services.iter().map(|of| ([("service", &*of.service)], &of.held));
    families.histogram("segue_parked_seconds", "How long parked requests were held.", held)
}

fn process(families: &mut Families<'_>, measured: &Measurements) -> fmt::Result {
    let process = &measured.process;
    // An empty label is none: what was refused before it was known whose it is.
    let nobodys =
        process.refused.iter().map(|(reason, count)| ([("service", ""), ("reason", *reason)], *count));
    let services = process.services.iter().flat_map(|of| labelled(of, "reason", &of.refused));
    families.counter("segue_refused", "Requests that Segue answered itself.", services.chain(nobodys))?;
    let ended = process.ended.iter().map(|(reason, count)| ([("reason", *reason)], *count));
    families.counter("segue_connections_ended", "Callers' connections that did not end in order.", ended)?;
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    families.gauge("segue_build_info", "The version that runs.", [(version, 1.0)])?;
    for (name, help, value) in [
        ("segue_uptime_seconds", "Since the process began.", process.uptime_s as f64),
        ("segue_workers", "Threads that serve callers.", process.workers as f64),
        ("segue_connections", "Callers' connections.", process.connections as f64),
        ("segue_connections_resting", "Of these, those with nothing to do.", process.resting as f64),
        ("segue_tees_stopped", "1 while the one switch stops all tees.", flag(process.tees_stopped)),
        ("segue_lane_bytes", "Held by queued and running pairs.", process.lane_bytes as f64),
    ] {
        families.single_gauge(name, help, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_is_for_who_asks_for_it_alone() {
        for (accept, format) in [
            ("", Format::OpenMetrics),
            ("*/*", Format::OpenMetrics),
            ("text/plain", Format::Prometheus),
            ("text/plain;version=0.0.4;q=0.3, */*;q=0.1", Format::Prometheus),
            ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", Format::OpenMetrics),
        ] {
            assert_eq!(Format::accepted([accept].into_iter()), format, "{accept}");
        }
    }

    #[test]
    fn in_the_older_format_a_counter_is_named_as_its_samples() {
        let page = "# HELP a Some a.\n# TYPE a counter\na_total{x=\"# TYPE\"} 1\n\
                    # HELP b Some b.\n# TYPE b gauge\nb 2.0\n# EOF\n";
        let older = "# HELP a_total Some a.\n# TYPE a_total counter\na_total{x=\"# TYPE\"} 1\n\
                     # HELP b Some b.\n# TYPE b gauge\nb 2.0\n";
        assert_eq!(in_older_format(page), older);
    }
}
