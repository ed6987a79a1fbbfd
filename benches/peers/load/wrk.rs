//! wrk: the closed loop over HTTP/1.1, in clear and over TLS.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::Outcome;
use crate::figures::{Figure, Figures};
use crate::process::find;
use crate::scenario::Ask;

/// Prints what is needed in a form that does not depend on wrk's own.
const REPORT: &str = r#"
done = function(summary, latency, requests)
    local e = summary.errors
    io.write(string.format("RESULT %d %d %d %d %d\n", e.connect + e.read + e.write + e.timeout + e.status,
        summary.requests, latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"#;

pub struct Wrk(Child);

impl Wrk {
    pub fn start(
        folder: &Path,
        base: &str,
        connections: usize,
        ask: Ask,
        duration: Duration,
    ) -> Outcome<Self> {
        let program = find(&["wrk"]).ok_or("wrk is not installed")?;
        let (path, body) = match ask {
            Ask::Answer { bytes } => (format!("/bytes/{bytes}"), String::new()),
            Ask::Upload { bytes } => {
                let body = format!("wrk.method = 'POST'\nwrk.body = string.rep('x', {bytes})\n");
                ("/upload".to_owned(), body)
            }
        };
        let script = folder.join("wrk.lua");
        fs::write(&script, format!("{body}{REPORT}"))?;
        let mut command = Command::new(program);
        // wrk counts in whole seconds.
        let seconds = duration.as_secs_f64().ceil().max(1.0);
        command.args(["-t", "1", "-c", &connections.to_string(), "-d", &format!("{seconds:.0}s")]);
        command.args(["--timeout", "10s", "-s"]).arg(script).arg(format!("{base}{path}"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Self(child))
    }

    /// It asks nothing any more, until it may go on.
    pub fn halt(&self) {
        self.signal(Signal::STOP);
    }

    pub fn go_on(&mut self) -> Outcome<()> {
        if let Some(status) = self.0.try_wait()? {
            return Err(format!("wrk ended too soon, with {status}").into());
        }
        self.signal(Signal::CONT);
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.0.id().cast_signed()) {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }

    /// Without its figures.
    pub fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    pub fn finish(self) -> Outcome<Figures> {
        let output = self.0.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let result = text.lines().find_map(|line| line.strip_prefix("RESULT "));
        let numbers =
            result.map(|line| line.split(' ').filter_map(|n| n.parse::<f64>().ok()).collect::<Vec<_>>());
        let Some(&[errors, _requests, p50, p99, p999]) = numbers.as_deref() else {
            return Err(format!("wrk: {}{text}", String::from_utf8_lossy(&output.stderr)).into());
        };
        Ok(Figures::from([
            (Figure::Errors, errors),
            (Figure::P50Ms, p50 / 1e3),
            (Figure::P99Ms, p99 / 1e3),
            (Figure::P999Ms, p999 / 1e3),
        ]))
    }
}
