//! What happened, for people: on when `TRACE` is set.

use std::io::Write;

#[derive(Debug)]
pub(crate) struct Trace(std::io::Stderr);

impl Trace {
    pub(crate) fn wanted() -> Option<Self> {
        std::env::var_os("TRACE").map(|_| Self(std::io::stderr()))
    }

    pub(crate) fn say(&mut self, now: u64, text: String) {
        let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
        let _ = writeln!(self.0, "{seconds:>4}.{micros:06} {text}");
    }
}
