//! Logging set-up of the processes that sparkray starts.

/// Sends `tracing` events at or above `filter` (or the environment variable `SPARKRAY_LOG`) to standard
/// error, which the parent directs to a file. A second call in one process does nothing.
pub fn init_tracing(filter: &str) {
    let filter = std::env::var("SPARKRAY_LOG").unwrap_or_else(|_| filter.to_owned());
    let outcome = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
    if outcome.is_err() {
        tracing::debug!("tracing was set up already");
    }
}
