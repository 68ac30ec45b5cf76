//! Logging set-up of the processes that sparkray starts.
//!
//! Spans have the level debug. Their fields are called `task_id`, `actor_id`, `lease_id`, `object_id`, `feed_id` and so on
//! everywhere, as those of events are: the ids are what joins the lines of several processes.

use tracing_subscriber::fmt::format::FmtSpan;

/// The environment variable with a filter: a level, or levels of modules.
const FILTER: &str = "SPARKRAY_LOG";

/// As [`init_tracing`], where the environment variable `SPARKRAY_LOG` asks for it: for processes whose standard error is the
/// program's.
pub fn init_tracing_if_asked() {
    if std::env::var_os(FILTER).is_some() {
        init_tracing("off");
    }
}

/// Sends `tracing` events at or above `filter` (or the environment variable `SPARKRAY_LOG`) to standard
/// error, which the parent directs to a file. The end of a span is an event, with the time that it took. A second call in
/// one process does nothing.
pub fn init_tracing(filter: &str) {
    let filter = std::env::var(FILTER).unwrap_or_else(|_| filter.to_owned());
    let outcome = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
    if outcome.is_err() {
        tracing::debug!("tracing was set up already");
    }
}
