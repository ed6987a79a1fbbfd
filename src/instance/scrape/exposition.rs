//! Usage from Prometheus' text format: of cAdvisor, a node exporter, or a client library.
//!
//! They are asked in this order, and the first that the page has any series of is the only one: the page of cAdvisor
//! and of a node exporter also tells of its own process, which is not the instance.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::instance::{Pressure, Throttling, Usage};

/// One line of a page.
#[derive(Clone, Debug, PartialEq)]
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, Cow<'a, str>)>,
    value: f64,
}

impl<'a> Sample<'a> {
    /// `None` for comments, for what is no sample, and for values that no amount can have.
    fn parse(line: &'a str) -> Option<Self> {
        let line = line.trim();
        let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = Vec::new();
        if name.is_empty() || name.starts_with('#') {
            return None;
        }
        rest = rest.trim_start();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside.trim_start();
            while !rest.starts_with('}') {
                let (label, after) = rest.split_once('=')?;
                let (value, after) = quoted(after.trim_start())?;
                labels.push((label.trim(), value));
                rest = after.trim_start();
                rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
            }
            rest = rest.strip_prefix('}')?;
        }
        // A timestamp may follow.
        let value: f64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
        (value.is_finite() && value >= 0.0).then_some(Self { name, labels, value })
    }

    fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(of, _)| *of == name).map_or("", |(_, value)| value)
    }

    fn is_chosen(&self, chosen: &[(String, String)]) -> bool {
        chosen.iter().all(|(label, value)| self.label(label) == value)
    }
}

/// The text between two quotes, and what follows the second one.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let inside = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut letters = inside.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => {
                let (plain, after) = (inside.get(..at)?, inside.get(at + 1..)?);
                let escaped = plain.contains('\\');
                return Some((if escaped { Cow::Owned(value) } else { Cow::Borrowed(plain) }, after));
            }
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

/// What the page says about the rows with all of the `chosen` labels; `None` is what it does not say.
pub(super) fn read(page: &str, chosen: &[(String, String)]) -> Usage {
    let samples: Vec<_> = page.lines().filter(|line| is_wanted(line)).filter_map(Sample::parse).collect();
    let of =
        |prefix: &str| samples.iter().filter(|sample| sample.name.starts_with(prefix)).collect::<Vec<_>>();
    let (containers, node) = (of("container_"), of("node_"));
    if !containers.is_empty() {
        return container(containers, chosen);
    }
    if !node.is_empty() {
        return machine(&Series(node));
    }
    let process = Series(samples.iter().collect());
    Usage {
        cpu: process.seconds("process_cpu_seconds_total"),
        memory: process.whole("process_resident_memory_bytes"),
        ..Usage::default()
    }
}

/// The sum of a counter's rows with all of these labels; `None`: the page has no such row.
pub fn counter(page: &str, name: &str, labels: &[(String, String)]) -> Option<f64> {
    let rows = page.lines().filter(|line| line.trim_start().starts_with(name)).filter_map(Sample::parse);
    let rows = rows.filter(|sample| sample.name == name && sample.is_chosen(labels));
    rows.map(|sample| sample.value).reduce(|a, b| a + b)
}

/// Whether a line is of one of the three. A page without CPU is still that of a node exporter.
fn is_wanted(line: &str) -> bool {
    ["container_", "node_", "process_"].iter().any(|prefix| line.trim_start().starts_with(prefix))
}

fn container(mut samples: Vec<&Sample<'_>>, chosen: &[(String, String)]) -> Usage {
    samples.retain(|sample| sample.is_chosen(chosen));
    let mut by_id: BTreeMap<&str, Vec<&Sample<'_>>> = BTreeMap::new();
    for sample in samples {
        by_id.entry(sample.label("id")).or_default().push(sample);
    }
    let only = if by_id.len() == 1 { by_id.pop_first().map(|(_, samples)| samples) } else { None };
    let machines_own = || by_id.remove("/").filter(|_| chosen.is_empty());
    let Some(mut samples) = only.or_else(machines_own) else { return Usage::default() };
    // Some pages have a row for each core, some have the sum, some have both.
    let is_cpu = |sample: &Sample<'_>| sample.name == "container_cpu_usage_seconds_total";
    if samples.iter().any(|sample| is_cpu(sample) && sample.label("cpu") == "total") {
        samples.retain(|sample| !is_cpu(sample) || sample.label("cpu") == "total");
    }
    let series = Series(samples);
    let throttling = || {
        Some(Throttling {
            periods: series.whole("container_cpu_cfs_periods_total")?,
            throttled: series.whole("container_cpu_cfs_throttled_periods_total")?,
            time: series.seconds("container_cpu_cfs_throttled_seconds_total")?,
        })
    };
    Usage {
        cpu: series.seconds("container_cpu_usage_seconds_total"),
        memory: series.whole("container_memory_working_set_bytes"),
        storage: series.whole("container_fs_usage_bytes"),
        throttling: throttling(),
        ..Usage::default()
    }
}

fn machine(series: &Series<'_, '_>) -> Usage {
    let is_busy = |sample: &Sample<'_>| !matches!(sample.label("mode"), "idle" | "iowait");
    let memory = || {
        let total = series.whole("node_memory_MemTotal_bytes")?;
        Some(total.saturating_sub(series.whole("node_memory_MemAvailable_bytes")?))
    };
    let pressure = || {
        Some(Pressure {
            cpu: series.seconds("node_pressure_cpu_waiting_seconds_total")?,
            memory: series.seconds("node_pressure_memory_waiting_seconds_total")?,
            io: series.seconds("node_pressure_io_waiting_seconds_total")?,
        })
    };
    let busy = series.0.iter().copied().filter(|sample| is_busy(sample)).collect();
    Usage {
        cpu: Series(busy).seconds("node_cpu_seconds_total"),
        memory: memory(),
        pressure: pressure(),
        ..Usage::default()
    }
}

/// Rows that are about one thing: of a name there is one row, or one for each core or disk.
struct Series<'s, 'p>(Vec<&'s Sample<'p>>);

impl Series<'_, '_> {
    fn sum(&self, name: &str) -> Option<f64> {
        self.0.iter().filter(|sample| sample.name == name).map(|sample| sample.value).reduce(|a, b| a + b)
    }

    fn seconds(&self, name: &str) -> Option<Duration> {
        Duration::try_from_secs_f64(self.sum(name)?).ok()
    }

    /// Bytes, periods: what is counted in whole.
    fn whole(&self, name: &str) -> Option<u64> {
        self.sum(name).map(|sum| sum as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[test]
    fn a_counter_is_the_sum_of_its_chosen_rows() {
        let page = "# TYPE http_requests_total counter\n\
                    http_requests_total{handler=\"/\",code=\"200\"} 40 1700000000000\n\
                    http_requests_total{handler=\"/\",code=\"500\"} 2\n\
                    http_requests_total{handler=\"/metrics\",code=\"200\"} 7\n\
                    http_requests_total_created{handler=\"/\"} 9\n\
                    plain 3\n";
        let of = |label: &str, value: &str| vec![(label.to_owned(), value.to_owned())];
        assert_eq!(counter(page, "http_requests_total", &[]), Some(49.0));
        assert_eq!(counter(page, "http_requests_total", &of("handler", "/")), Some(42.0));
        assert_eq!(counter(page, "http_requests_total", &of("handler", "/x")), None);
        assert_eq!(counter(page, "http_requests", &[]), None);
        assert_eq!(counter(page, "plain", &[]), Some(3.0));
    }

    use super::super::Page;
    use super::*;

    const CADVISOR: &str = r#"# HELP container_cpu_usage_seconds_total Cumulative cpu time consumed in seconds.
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{cpu="total",id="/",image="",name=""} 5000.5 1700000000000
container_cpu_usage_seconds_total{cpu="total",id="/docker/a1",image="web:1",name="web"} 12.5 1700000000000
container_cpu_usage_seconds_total{cpu="cpu00",id="/docker/b2",image="db:1",name="db"} 1.25
container_cpu_usage_seconds_total{cpu="cpu01",id="/docker/b2",image="db:1",name="db"} 2
container_cpu_cfs_periods_total{id="/docker/a1",image="web:1",name="web"} 400
container_cpu_cfs_throttled_periods_total{id="/docker/a1",image="web:1",name="web"} 40
container_cpu_cfs_throttled_seconds_total{id="/docker/a1",image="web:1",name="web"} 3.5
container_fs_usage_bytes{device="/dev/sda1",id="/docker/a1",image="web:1",name="web"} 1.048576e+06
container_fs_usage_bytes{device="/dev/sdb1",id="/docker/a1",image="web:1",name="web"} 24
container_memory_working_set_bytes{id="/",image="",name=""} 8.589934592e+09
container_memory_working_set_bytes{id="/docker/a1",image="web:1",name="web"} 2.68435456e+08
container_memory_working_set_bytes{id="/docker/b2",image="db:1",name="db"} NaN
process_cpu_seconds_total 99
"#;

    const NODE: &str = r#"# TYPE node_cpu_seconds_total counter
node_cpu_seconds_total{cpu="0",mode="idle"} 90000.1
node_cpu_seconds_total{cpu="0",mode="iowait"} 120
node_cpu_seconds_total{cpu="0",mode="system"} 10.25
node_cpu_seconds_total{cpu="0",mode="user"} 20.25
node_cpu_seconds_total{cpu="1",mode="user"} 0.5
node_memory_MemAvailable_bytes 3.0e+09
node_memory_MemTotal_bytes 8.0e+09
node_pressure_cpu_waiting_seconds_total 1.5
node_pressure_io_waiting_seconds_total 2.5
node_pressure_memory_waiting_seconds_total 0.5
process_cpu_seconds_total 77
process_resident_memory_bytes 1.9e+07
"#;

    fn chosen(page: &str, fragment: &str) -> Usage {
        let of: Page = format!("http://host{fragment}").parse().unwrap();
        read(page, &of.chosen)
    }

    #[test]
    fn a_container_is_chosen_by_its_labels() {
        let web = chosen(CADVISOR, "#name=web");
        assert_eq!(web.cpu, Some(Duration::from_millis(12_500)));
        assert_eq!((web.memory, web.storage), (Some(256 << 20), Some((1 << 20) + 24)));
        let throttling = Throttling { periods: 400, throttled: 40, time: Duration::from_millis(3500) };
        assert_eq!(web.throttling, Some(throttling));
        let db = chosen(CADVISOR, "#name=db,image=db:1");
        assert_eq!(
            (db.cpu, db.memory),
            (Some(Duration::from_millis(3250)), None),
            "what is no number is unknown"
        );
        assert_eq!((db.throttling, db.pressure, db.storage), (None, None, None));
        let machine = chosen(CADVISOR, "");
        assert_eq!((machine.cpu, machine.memory), (Some(Duration::from_millis(5_000_500)), Some(8 << 30)));
        assert_eq!(chosen(CADVISOR, "#name=nobody"), Usage::default(), "never the exporter's own process");
    }

    #[test]
    fn a_choice_that_fits_several_containers_says_nothing() {
        let rows =
            CADVISOR.lines().filter(|line| !line.contains(r#"id="/","#)).collect::<Vec<_>>().join("\n");
        assert_eq!(chosen(&rows, ""), Usage::default());
        let one = rows.lines().filter(|line| line.contains("a1") && line.contains(r#"name="web""#));
        assert!(
            chosen(&one.collect::<Vec<_>>().join("\n"), "").cpu.is_some(),
            "the only one needs no choice"
        );
    }

    #[test]
    fn the_sum_over_cores_is_not_added_to_the_cores() {
        let both = "container_cpu_usage_seconds_total{cpu=\"total\",id=\"/a\"} 3\n\
                    container_cpu_usage_seconds_total{cpu=\"cpu00\",id=\"/a\"} 1\n\
                    container_cpu_usage_seconds_total{cpu=\"cpu01\",id=\"/a\"} 2\n";
        assert_eq!(chosen(both, "").cpu, Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_machine_is_busy_when_it_is_not_idle() {
        let usage = chosen(NODE, "");
        assert_eq!((usage.cpu, usage.memory), (Some(Duration::from_secs(31)), Some(5_000_000_000)));
        let ms = Duration::from_millis;
        assert_eq!(usage.pressure, Some(Pressure { cpu: ms(1500), memory: ms(500), io: ms(2500) }));
        let less = NODE
            .lines()
            .filter(|line| !line.contains("_io_") && !line.contains("Available"))
            .collect::<Vec<_>>()
            .join("\n");
        let usage = chosen(&less, "");
        assert_eq!((usage.memory, usage.pressure), (None, None));
        let none = "node_exporter_build_info{version=\"1\"} 1\nprocess_cpu_seconds_total 5\n";
        assert_eq!(chosen(none, ""), Usage::default(), "the exporter's own process is not the instance");
    }

    #[test]
    fn a_client_librarys_page_is_about_its_process() {
        let usage = chosen("process_cpu_seconds_total 1.5\nprocess_resident_memory_bytes 4096\n", "");
        assert_eq!((usage.cpu, usage.memory), (Some(Duration::from_millis(1500)), Some(4096)));
        for nothing in [
            "",
            "<html>process_cpu_seconds_total</html>",
            "process_cpu_seconds_total -1",
            "process_cpu_seconds_total +Inf",
        ] {
            assert_eq!(chosen(nothing, ""), Usage::default(), "{nothing}");
        }
        assert_eq!(chosen("process_cpu_seconds_total 1e300", "").cpu, None);
        assert_eq!(chosen("process_resident_memory_bytes 1e300", "").memory, Some(u64::MAX));
    }

    #[test]
    fn labels_may_have_anything_in_them() {
        let sample = Sample::parse(r#"a{ x = "}\"\\,\n" , y="",} 3 17"#).unwrap();
        assert_eq!((sample.label("x"), sample.label("y"), sample.value), ("}\"\\,\n", "", 3.0));
        for broken in [
            "a{",
            "a{x",
            "a{x=",
            "a{x=\"",
            "a{x=\"\\",
            "a{x=\"1\"",
            "a{x=\"1\"}",
            "a",
            "a x",
            "{} 1",
            "# a 1",
        ] {
            assert_eq!(Sample::parse(broken), None, "{broken}");
        }
    }

    proptest! {
        #[test]
        fn no_page_is_too_odd(page in "(process_|node_|container_)[a-z{}=\",\\\\ 0-9é.\n]{0,60}", cut in 0_usize..2000) {
            read(&page, &[]);
            let cut = CADVISOR.get(..cut).unwrap_or_default();
            read(cut, &[]);
            read(cut, &[("name".to_owned(), "web".to_owned())]);
        }
    }
}
