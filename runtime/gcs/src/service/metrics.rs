//! What is counted about events and the journal.

use sparkray_common::Metrics;

/// Counters since this head began.
#[derive(Debug, Default)]
pub(super) struct JournalMetrics {
    records: u64,
    events: u64,
    requests: u64,
}

impl JournalMetrics {
    /// An event changed the tables, by so many records.
    pub(super) fn appended(&mut self, records: usize) {
        self.events += 1;
        self.records += records as u64;
    }

    /// A client asked something.
    pub(super) fn asked(&mut self) {
        self.requests += 1;
    }

    pub(super) fn list(&self, into: &mut Metrics) {
        into.counter("ray_gcs_requests", "Requests of clients", self.requests);
        into.counter(
            "ray_gcs_journal_events",
            "Events that changed the tables",
            self.events,
        );
        into.counter(
            "ray_gcs_journal_records",
            "Records that were given to the journal",
            self.records,
        );
    }
}
