//! `segue migrate watch`: a page that is drawn anew on a terminal, a line for each event elsewhere.
//!
//! The stream is read by a thread of its own, so that the page's clock and numbers go on while nothing happens. It
//! outlives an upgrade or a restart of Segue: it asks again from the last event that it has seen.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::page::{self, Numbers};
use super::{MigrateError, Result, path, text};
use crate::cli::admin_client::{Client, ClientError, Event};

/// How often numbers that nobody announces are asked for.
const REFRESH: Duration = Duration::from_secs(1);
/// Between two tries to reach a Segue that is away.
const AGAIN: Duration = Duration::from_millis(500);
/// A restart takes less; then somebody should look.
const AWAY: Duration = Duration::from_mins(1);

/// How a migration is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    Page,
    Lines,
    /// Its JSON, once it is over.
    Outcome,
}

impl Show {
    pub fn for_stdout() -> Self {
        if io::stdout().is_terminal() { Self::Page } else { Self::Lines }
    }
}

/// Returns at the migration's end; anything but done is an error.
pub(super) fn follow(client: &Client, id: u64, show: Show) -> Result {
    let (heard, events) = mpsc::channel();
    let (to_listen, stream) = (client.clone(), format!("{}/events", path(id)));
    std::thread::spawn(move || listen(&to_listen, &stream, &heard));
    let mut screen = Screen {
        show,
        client,
        view: Value::Null,
        numbers: Numbers::default(),
        asked: None,
        drawn: 0,
        lines: Lines::default(),
    };
    loop {
        match events.recv_timeout(REFRESH) {
            Ok(Ok(event)) => screen.take(&event)?,
            Ok(Err(error)) => return Err(error.into()),
            Err(RecvTimeoutError::Timeout) => screen.draw()?,
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let view = client.get(&path(id))?;
    if show == Show::Outcome {
        writeln!(io::stdout(), "{view}")?;
    }
    match view["phase"].as_str() {
        Some("done") => Ok(ExitCode::SUCCESS),
        phase => {
            let phase = phase.unwrap_or("unknown").to_owned();
            Err(MigrateError::Ended { id, phase, reason: text(&view, "reason") })
        }
    }
}

/// Passes everything on until the migration is over; the end of the channel is the end of the migration.
fn listen(client: &Client, stream: &str, heard: &Sender<std::result::Result<Event, ClientError>>) {
    let (mut seen, mut reached) = (None, None);
    loop {
        match client.events(stream, seen.as_deref()) {
            Ok(None) => return,
            Ok(Some(events)) => {
                for event in events {
                    reached = Some(Instant::now());
                    let over = event.name == "migration" && is_over(&event.data);
                    seen = event.id.clone().or(seen);
                    if heard.send(Ok(event)).is_err() || over {
                        return;
                    }
                }
            }
            Err(error) => {
                let is_away = reached.is_some_and(|at: Instant| at.elapsed() < AWAY);
                if !(is_away && error.is_transient()) {
                    let _ = heard.send(Err(error));
                    return;
                }
            }
        }
        std::thread::sleep(AGAIN);
    }
}

fn is_over(view: &str) -> bool {
    serde_json::from_str::<Value>(view).is_ok_and(|view| view["over"] == true)
}

struct Screen<'c> {
    show: Show,
    client: &'c Client,
    view: Value,
    numbers: Numbers,
    /// When the numbers were asked for.
    asked: Option<Instant>,
    /// Lines of the page that is on the screen.
    drawn: usize,
    lines: Lines,
}

impl Screen<'_> {
    fn take(&mut self, event: &Event) -> Result<()> {
        let data: Value = serde_json::from_str(&event.data).map_err(ClientError::from)?;
        if event.name == "migration" {
            self.view = data;
            if self.show == Show::Lines
                && let Some(line) = self.lines.waiting(&self.view)
            {
                writeln!(io::stdout(), "{line}")?;
            }
            return self.draw();
        }
        if self.show == Show::Lines && event.name == "step" {
            writeln!(io::stdout(), "{}", self.lines.step(&data))?;
        }
        Ok(())
    }

    /// Over the page that is there.
    fn draw(&mut self) -> Result<()> {
        if self.show != Show::Page || self.view.is_null() {
            return Ok(());
        }
        if self.asked.is_none_or(|at| at.elapsed() >= REFRESH) {
            self.numbers = page::numbers(self.client, &self.view);
            self.asked = Some(Instant::now());
        }
        let page = page::of(&self.view, &self.numbers, page::unix_millis());
        // Back to its first line, everything below cleared, and no line longer than the screen: a wrapped one would
        // count as two.
        let back = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
        let mut out = io::stdout().lock();
        write!(out, "{back}\r\x1b[J\x1b[?7l{page}\x1b[?7h")?;
        out.flush()?;
        self.drawn = page.lines().count();
        Ok(())
    }
}

/// Events as lines.
#[derive(Default)]
struct Lines {
    /// Unix time in milliseconds of the first event: times are counted from it.
    began: Option<u64>,
    /// The step that was said to wait.
    waits: Option<String>,
}

impl Lines {
    fn step(&mut self, event: &Value) -> String {
        let at = event["at"].as_u64().unwrap_or_default();
        let since = at.saturating_sub(*self.began.get_or_insert(at)) as f64 / 1000.0;
        let detail = &event["detail"];
        let came = match (event["phase"].as_str(), detail["came"].as_str()) {
            (Some("intent"), _) => "begins".to_owned(),
            (_, Some("done")) => "done".to_owned(),
            (_, Some(came)) => {
                format!("{}: {}", came.replace('_', " "), text(detail, "reason").replace('\n', " "))
            }
            // Something that was asked for, or seen.
            (_, None) => match text(detail, "reason").replace('\n', " ") {
                reason if reason.is_empty() => "noted".to_owned(),
                reason => format!("noted: {reason}"),
            },
        };
        let next = match detail["next"].as_str() {
            Some(next) if came != "begins" => format!("; {next} now"),
            _ => String::new(),
        };
        format!("{since:>9.3} s  {:<18} {came}{next}", text(event, "step"))
    }

    /// What a step waits for, the first time that it does: the counts in it change all the time.
    fn waiting(&mut self, view: &Value) -> Option<String> {
        let step = view["step"].as_str()?;
        let reason = text(view, "reason");
        if !reason.starts_with("waits for") || self.waits.as_deref() == Some(step) {
            return None;
        }
        self.waits = Some(step.to_owned());
        Some(format!("{:11}  {step:<18} {}", "", reason.replace('\n', " ")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_a_line_and_a_wait_is_said_once() {
        let mut lines = Lines::default();
        let requested = json!({ "id": 1, "step": "requested", "phase": "outcome", "detail": {}, "at": 5000 });
        assert_eq!(lines.step(&requested), "    0.000 s  requested          noted");
        let seen = json!({
            "id": 1, "step": "bypass_seen", "phase": "outcome", "detail": { "reason": "1 connection" }, "at": 5000,
        });
        assert_eq!(lines.step(&seen), "    0.000 s  bypass_seen        noted: 1 connection");
        let intent = json!({ "id": 2, "step": "observe", "phase": "intent", "detail": null, "at": 5250 });
        assert_eq!(lines.step(&intent), "    0.250 s  observe            begins");
        let view =
            |pairs: u64| json!({ "step": "observe", "reason": format!("waits for {pairs} more pairs") });
        assert_eq!(
            lines.waiting(&view(3)).unwrap(),
            "             observe            waits for 3 more pairs"
        );
        assert_eq!(lines.waiting(&view(2)), None);
        assert_eq!(lines.waiting(&json!({ "step": "judge", "reason": "it failed" })), None);
        let turned = json!({
            "id": 3, "step": "observe", "phase": "outcome", "at": 17_000,
            "detail": { "came": "turned_back", "next": "unwinding", "reason": "it was\ncancelled" },
        });
        assert_eq!(
            lines.step(&turned),
            "   12.000 s  observe            turned back: it was cancelled; unwinding now"
        );
    }
}
