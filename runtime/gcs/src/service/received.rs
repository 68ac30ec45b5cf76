//! What the head may acknowledge to a node: a message that it has taken, when what came of it is durable. Until then the
//! node keeps the message, and sends it again to a head that starts without it.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::record::RecordNumber;

/// Messages of one node that were taken.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// The last one of those that may be acknowledged.
    safe: u64,
    /// Later ones, each with the record that must be durable before. Those that wait for the same record are one.
    waiting: VecDeque<(RecordNumber, u64)>,
}

impl Received {
    /// A message was taken, and this is the last record since.
    pub(super) fn took(&mut self, sequence: u64, after: RecordNumber) {
        match self.waiting.back_mut() {
            Some((last, waiting)) if *last == after => *waiting = sequence,
            _ => self.waiting.push_back((after, sequence)),
        }
    }

    /// The last message that may be acknowledged when all records up to this one are durable.
    pub(super) fn acknowledged(&mut self, durable: RecordNumber) -> u64 {
        while let Some((after, sequence)) = self.waiting.front()
            && *after <= durable
        {
            self.safe = *sequence;
            self.waiting.pop_front();
        }
        self.safe
    }
}
