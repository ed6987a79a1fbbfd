//! Logs: text or JSON lines on stderr.

use std::io;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{self, LogFormat};

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("`log.filter`: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("logging was started before: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// The running logs.
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
}

pub fn start(settings: &config::Log) -> Result<Log, LogError> {
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(&settings.filter)?);
    let lines = match settings.format {
        LogFormat::Text => fmt::layer().with_writer(io::stderr).with_target(false).boxed(),
        LogFormat::Json => fmt::layer().with_writer(io::stderr).json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(Log { filter: handle })
}

impl Log {
    /// Settings are validated before they get here; one that fails all the same changes nothing.
    pub fn set_filter(&self, filter: &str) {
        match EnvFilter::try_new(filter) {
            Ok(filter) => {
                if let Err(error) = self.filter.reload(filter) {
                    tracing::warn!(%error, "the log filter stays as it was");
                }
            }
            Err(error) => tracing::warn!(%error, "the log filter stays as it was"),
        }
    }
}
