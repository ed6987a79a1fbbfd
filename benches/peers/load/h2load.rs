//! h2load: the closed loop over HTTP/2, all streams on one connection.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::percentiles;
use crate::Outcome;
use crate::figures::{Figure, Figures};
use crate::process::find;

pub struct H2load {
    child: Child,
    log: PathBuf,
}

impl H2load {
    pub fn start(folder: &Path, base: &str, streams: usize, duration: Duration) -> Outcome<Self> {
        let program = find(&["h2load"]).ok_or("h2load is not installed")?;
        let log = folder.join("h2load.log");
        let mut command = Command::new(program);
        let seconds = duration.as_secs_f64().ceil().max(1.0);
        command.args(["-t", "1", "-c", "1", "-m", &streams.to_string(), "-D", &format!("{seconds:.0}")]);
        // A line a request: when it began, its status, microseconds.
        command.arg("--log-file").arg(&log).arg(format!("{base}/bytes/1024"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Self { child, log })
    }

    pub fn finish(self) -> Outcome<Figures> {
        let output = self.child.wait_with_output()?;
        if !output.status.success() {
            return Err(format!("h2load: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let mut latency = Histogram::<u64>::new(3)?;
        let mut errors = 0_u64;
        for line in fs::read_to_string(&self.log)?.lines() {
            let mut fields = line.split('\t').skip(1);
            let status = fields.next().and_then(|status| status.parse::<i32>().ok());
            let micros = fields.next().and_then(|micros| micros.parse().ok());
            match (status, micros) {
                (Some(200), Some(micros)) => latency.record(micros)?,
                _ => errors += 1,
            }
        }
        if latency.is_empty() {
            return Err(format!("h2load: {}", String::from_utf8_lossy(&output.stdout)).into());
        }
        let mut figures = percentiles(&latency);
        figures.insert(Figure::Errors, errors as f64);
        Ok(figures)
    }
}
