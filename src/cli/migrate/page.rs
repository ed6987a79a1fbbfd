//! A migration on a page for people: how far it has come, what it waits for, what speaks for and against it.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::text;
use crate::cli::admin_client::{Client, segment};
use crate::migrate::phase::Phase;

/// The way of a migration that arrives, in two lines that fit a terminal of 80 columns.
const WAY: [&[Phase]; 2] = [
    &[
        Phase::Preflight,
        Phase::Provisioning,
        Phase::Replicating,
        Phase::Shadowing,
        Phase::Sizing,
        Phase::Validating,
        Phase::Ready,
    ],
    &[Phase::Switching, Phase::Watching, Phase::Retiring, Phase::Done],
];

/// What is known about the service beside the migration; null where it is not.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    pub service: Value,
    pub latency: Value,
}

/// A page is worth showing without them.
pub(super) fn numbers(client: &Client, view: &Value) -> Numbers {
    let path = format!("/v1/services/{}", segment(view["service"].as_str().unwrap_or_default()));
    Numbers {
        service: client.get(&path).unwrap_or_default(),
        latency: client.get(&format!("{path}/latency")).unwrap_or_default(),
    }
}

pub(super) fn of(view: &Value, numbers: &Numbers, now: u64) -> String {
    let mut page = head(view, now);
    page += &way(&text(view, "phase"));
    if let Some(reason) = view["reason"].as_str().filter(|reason| !reason.is_empty()) {
        let reason = if reason.starts_with("waits for") {
            text(view, "reason")
        } else {
            format!("because {}", text(view, "reason"))
        };
        let _ = writeln!(page, "  {}", reason.trim_end().replace('\n', "\n    "));
    }
    page += &warmed(&view["warmed"]);
    page += &gates(view);
    page += &bypass(view);
    page += &latency(numbers);
    page += &tee(&numbers.service);
    let wishes = [
        ("approve", "approved"),
        ("cancel", "cancelled"),
        ("rollback", "rolled back"),
        ("retire", "brought to its end now (retire)"),
    ];
    let may = wishes.into_iter().filter(|(wish, _)| view["may"][wish] == true).map(|(_, done)| done);
    let may: Vec<_> = may.collect();
    if !may.is_empty() && view["over"] != true {
        let _ = writeln!(page, "  it may be {}", may.join(" or "));
    }
    page
}

fn head(view: &Value, now: u64) -> String {
    let mut head = format!("migration {} of {}: {}", view["id"], text(view, "service"), text(view, "phase"));
    if let Some(step) = view["step"].as_str() {
        let since = now.saturating_sub(view["since"].as_u64().unwrap_or(now));
        let _ = write!(head, ", at the step {step} for {} s", since / 1000);
    }
    let endpoints = view["endpoints"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let endpoints: Vec<_> = endpoints.collect();
    let _ = write!(
        head,
        "\n  to {} ({}), the {} of its service",
        text(view, "instance"),
        text(view, "provider"),
        text(view, "slot"),
    );
    if !endpoints.is_empty() {
        let _ = write!(head, ", at {}", endpoints.join(", "));
    }
    let _ = write!(head, "\n  policy {}", text(view, "policy"));
    if view["approved"] == true {
        head += ", approved";
    }
    let millis = |key: &str| view[key].as_u64().unwrap_or_default();
    // What is shown is what the journal last had.
    let left = millis("deadline_ms").saturating_sub(millis("spent_ms"));
    if view["may"]["cancel"] == true {
        let _ = write!(head, "; to be switched within {}", coarse(Duration::from_millis(left)));
    }
    let granted = &view["allocation"];
    if let Some(serves) = allocation(&granted["serves_with"]) {
        let starts = allocation(&granted["started_with"]).unwrap_or_default();
        let _ = write!(head, "\n  started with {starts}\n  serves with {serves}");
    }
    head + "\n"
}

/// The phases, the current one marked.
fn way(phase: &str) -> String {
    let mark = |of: &str| if of == phase { format!("[{of}]") } else { of.to_owned() };
    let line = |phases: &[Phase]| phases.iter().map(|of| mark(of.as_str())).collect::<Vec<_>>().join(" ");
    let mut way = WAY.map(line).join("\n  ");
    if !WAY.iter().flat_map(|phases| phases.iter()).any(|of| of.as_str() == phase) {
        let _ = write!(way, " [{phase}]");
    }
    format!("  {way}\n")
}

fn gates(view: &Value) -> String {
    let gates = view["gates"].as_array().into_iter().flatten();
    let rows = gates.map(|gate| {
        let verdict = text(gate, "verdict").replace('_', " ");
        vec![String::new(), text(gate, "gate"), verdict, text(gate, "reason").replace('\n', " ")]
    });
    columns(&rows.collect::<Vec<_>>())
}

/// Empty where it was not to be warmed.
fn warmed(of: &Value) -> String {
    let count = |key: &str| of[key].as_u64().unwrap_or_default();
    let failure = text(of, "failure").replace('\n', " ");
    if count("sent") == 0 {
        return if failure.is_empty() { String::new() } else { format!("  not warmed: {failure}\n") };
    }
    let seconds = count("took_ms") as f64 / 1000.0;
    let mut line = format!("  warmed with {} requests in {seconds:.1} s", count("sent"));
    if count("left_out") > 0 {
        let _ = write!(line, ", for {} more there was no time", count("left_out"));
    }
    if count("failed") > 0 {
        let _ = write!(line, ", {} failed: {failure}", count("failed"));
    }
    line + "\n"
}

/// What the report gained since it was made.
fn bypass(view: &Value) -> String {
    let report = view["report"].as_array().into_iter().flatten();
    let found = report.filter(|of| of["subject"] == "bypass");
    let line = |of: &Value| {
        let gravity = text(of, "gravity").replace('_', " ");
        format!("  {gravity}: {}\n", text(of, "message").replace('\n', " "))
    };
    found.map(line).collect()
}

/// Of the side that serves callers and of the one that sees copies, in milliseconds.
fn latency(Numbers { service, latency }: &Numbers) -> String {
    if latency["service"].is_null() {
        return String::new();
    }
    let (sides, serving, other) = match service["active"].as_str() {
        Some("shadow") => (&latency["reverse"], "shadow", "source"),
        _ => (latency, "source", "shadow"),
    };
    let row = |name: String, side: &Value| {
        let millis = |key: &str| format!("{:.1}", side[key].as_f64().unwrap_or_default() / 1000.0);
        let count = side["count"].as_u64().unwrap_or_default().to_string();
        vec![String::new(), name, count, millis("p50"), millis("p90"), millis("p99"), millis("max")]
    };
    let head = ["", "latency in ms", "answers", "p50", "p90", "p99", "max"].map(ToOwned::to_owned).to_vec();
    // In the records the side that serves is always the source.
    columns(&[
        head,
        row(format!("{serving}, serves"), &sides["source"]),
        row(format!("{other}, teed"), &sides["shadow"]),
    ])
}

fn tee(service: &Value) -> String {
    let tee = &service["tee"];
    if tee.is_null() {
        return String::new();
    }
    let effective = tee["effective_percent"].as_f64();
    let effective = effective.map_or("none yet".to_owned(), |percent| format!("{percent:.3} %"));
    let stopped = if tee["stopped"] == true { "; all tees are stopped" } else { "" };
    format!("  tee {} % configured, {effective} effective{stopped}\n", tee["configured_percent"])
}

/// `None` where nobody grants anything.
pub(super) fn allocation(of: &Value) -> Option<String> {
    let nothing = |key: &str| matches!(of[key].as_str(), None | Some("0m" | "0" | "0B"));
    if ["cpu", "memory", "storage"].iter().all(|key| nothing(key)) {
        return None;
    }
    Some(format!("{} CPU, {} memory, {} storage", text(of, "cpu"), text(of, "memory"), text(of, "storage")))
}

/// Rows in columns two blanks apart; the last one is as long as it is.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(at) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let mut table = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        table += line.trim_end();
        table.push('\n');
    }
    table
}

fn coarse(left: Duration) -> String {
    match left.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

pub(super) fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view() -> Value {
        json!({
            "id": 7, "service": "web", "phase": "validating", "step": "judge", "over": false,
            "reason": "waits for its gates: comparison needs 120 more compared pairs", "instance": "s-web-1a2b",
            "provider": "process", "slot": "shadow", "endpoints": ["http://127.0.0.1:3001"], "policy": "manual",
            "approved": true, "since": 20_000, "spent_ms": 32_000, "deadline_ms": 3_620_000, "created_at": 1,
            "allocation": {
                "started_with": { "cpu": "500m", "memory": "256MiB", "storage": "1GiB" },
                "serves_with": { "cpu": "1000m", "memory": "512MiB", "storage": "1GiB" },
            },
            "gates": [
                { "gate": "health", "verdict": "not_configured", "reason": "there is no suite of checks" },
                { "gate": "comparison", "verdict": "needs_more", "reason": "0 of 180 differ; needs 120 more" },
            ],
            "may": { "approve": true, "cancel": true, "rollback": false, "retire": false },
        })
    }

    fn numbers(active: &str) -> Numbers {
        let side = |count| json!({ "count": count, "p50": 1500, "p90": 2000, "p99": 31_000, "max": 40_000 });
        Numbers {
            service: json!({
                "active": active,
                "tee": { "configured_percent": 2.0, "effective_percent": 1.99, "stopped": false },
            }),
            latency: json!({
                "service": "web", "source": side(900), "shadow": side(18),
                "reverse": { "source": side(70), "shadow": side(1) },
            }),
        }
    }

    #[test]
    fn who_bypasses_segue_is_on_the_page() {
        let mut view = view();
        let report = ["disk", "bypass"].map(
            |subject| json!({ "gravity": "warning", "subject": subject, "message": format!("of {subject}") }),
        );
        view["report"] = json!(report);
        let page = of(&view, &Numbers::default(), 62_000);
        assert!(page.contains("\n  warning: of bypass\n") && !page.contains("of disk"), "{page}");
    }

    #[test]
    fn what_it_was_warmed_with_is_on_the_page() {
        let mut view = view();
        assert!(!of(&view, &Numbers::default(), 62_000).contains("warmed"));
        view["warmed"] = json!({ "sent": 40, "failed": 0, "left_out": 0, "took_ms": 850, "failure": null });
        let page = of(&view, &Numbers::default(), 62_000);
        assert!(page.contains("\n  warmed with 40 requests in 0.8 s\n"), "{page}");
        view["warmed"] =
            json!({ "sent": 40, "failed": 2, "left_out": 5, "took_ms": 120_000, "failure": "GET /x: no" });
        let page = of(&view, &Numbers::default(), 62_000);
        let line =
            "  warmed with 40 requests in 120.0 s, for 5 more there was no time, 2 failed: GET /x: no\n";
        assert!(page.contains(line), "{page}");
        view["warmed"] =
            json!({ "sent": 0, "failed": 0, "left_out": 5, "took_ms": 0, "failure": "it is not `isolated`" });
        let page = of(&view, &Numbers::default(), 62_000);
        assert!(page.contains("\n  not warmed: it is not `isolated`\n"), "{page}");
    }

    #[test]
    fn everything_that_decides_is_on_the_page() {
        assert_eq!(
            of(&view(), &numbers("source"), 32_500),
            "migration 7 of web: validating, at the step judge for 12 s\n\
             \x20 to s-web-1a2b (process), the shadow of its service, at http://127.0.0.1:3001\n\
             \x20 policy manual, approved; to be switched within 59 min\n\
             \x20 started with 500m CPU, 256MiB memory, 1GiB storage\n\
             \x20 serves with 1000m CPU, 512MiB memory, 1GiB storage\n\
             \x20 preflight provisioning replicating shadowing sizing [validating] ready\n\
             \x20 switching watching retiring done\n\
             \x20 waits for its gates: comparison needs 120 more compared pairs\n\
             \x20 health      not configured  there is no suite of checks\n\
             \x20 comparison  needs more      0 of 180 differ; needs 120 more\n\
             \x20 latency in ms   answers  p50  p90  p99   max\n\
             \x20 source, serves  900      1.5  2.0  31.0  40.0\n\
             \x20 shadow, teed    18       1.5  2.0  31.0  40.0\n\
             \x20 tee 2.0 % configured, 1.990 % effective\n\
             \x20 it may be approved or cancelled\n"
        );
    }

    #[test]
    fn after_the_switch_the_sides_have_changed_places() {
        let page = of(&view(), &numbers("shadow"), 32_500);
        assert!(page.contains("  shadow, serves  70 "), "{page}");
        assert!(page.contains("  source, teed    1 "), "{page}");
    }

    #[test]
    fn a_way_out_is_a_phase_too_and_what_an_instance_wrote_cannot_paint() {
        let mut view = view();
        view["phase"] = json!("failed");
        view["step"] = Value::Null;
        view["over"] = json!(true);
        view["reason"] = json!("it ended with code 1; it wrote: \u{1b}[2Jgone\nand more");
        let page = of(&view, &Numbers::default(), 0);
        assert!(
            page.contains(
                "retiring done [failed]\n  because it ended with code 1; it wrote:  [2Jgone\n    and more\n"
            ),
            "{page}"
        );
        assert!(!page.contains("it may be"), "{page}");
        assert!(!page.contains("latency"), "what is not known is not shown: {page}");
    }
}
