//! Messages that outlive the stream over which they travel: numbered, kept until they are acknowledged, sent again over
//! the next stream, taken once. Pure.

use std::collections::VecDeque;

/// What one side has sent and the other has not acknowledged.
#[derive(Debug)]
pub struct Outbox<M> {
    last: u64,
    /// With the number of the last message of each batch, oldest first.
    kept: VecDeque<(u64, Vec<M>)>,
}

impl<M> Default for Outbox<M> {
    fn default() -> Self {
        Self {
            last: 0,
            kept: VecDeque::new(),
        }
    }
}

impl<M: Clone> Outbox<M> {
    /// The number of the next message.
    pub fn next(&self) -> u64 {
        self.last + 1
    }

    /// Keeps messages that were made together. Their numbers follow each other, from [`Self::next`] on.
    pub fn keep(&mut self, batch: Vec<M>) {
        if !batch.is_empty() {
            self.last += batch.len() as u64;
            self.kept.push_back((self.last, batch));
        }
    }

    /// The other side has all up to this one.
    pub fn acknowledge(&mut self, received: u64) {
        while self.kept.front().is_some_and(|(last, _)| *last <= received) {
            self.kept.pop_front();
        }
    }

    /// The message of this number, while it is kept.
    pub fn get(&self, number: u64) -> Option<&M> {
        let place = self.kept.partition_point(|(last, _)| *last < number);
        let (last, batch) = self.kept.get(place)?;
        let from_end = usize::try_from(last - number).ok()?;
        batch.get(batch.len().checked_sub(from_end + 1)?)
    }

    /// All kept messages after this number, in order.
    pub fn after(&self, received: u64) -> Vec<M> {
        let first = received + 1;
        (first..=self.last)
            .filter_map(|number| self.get(number))
            .cloned()
            .collect()
    }

    /// The number of the last message.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Batches that are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether the other side has everything.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

/// A message that cannot be the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message {number} came after message {received}: those between are lost")]
pub struct Gap {
    /// Its number.
    pub number: u64,
    /// The last one before it.
    pub received: u64,
}

/// What has arrived from the other side.
#[derive(Debug, Default)]
pub struct Inbox {
    received: u64,
}

impl Inbox {
    /// The number of the last message that was taken.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether a message is to be taken: not one that came before, over another stream.
    pub fn takes(&mut self, number: u64) -> Result<bool, Gap> {
        if number <= self.received {
            return Ok(false);
        }
        if number != self.received + 1 {
            return Err(Gap {
                number,
                received: self.received,
            });
        }
        self.received = number;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_acknowledged_is_sent_again_once() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.next(), 1);
        outbox.keep(vec!["a", "b"]);
        outbox.keep(Vec::new());
        outbox.keep(vec!["c"]);
        assert_eq!((outbox.next(), outbox.len()), (4, 2));
        assert_eq!(outbox.after(1), ["b", "c"]);
        outbox.acknowledge(1);
        assert_eq!(
            (outbox.get(1), outbox.len()),
            (Some(&"a"), 2),
            "a batch is kept as a whole"
        );
        outbox.acknowledge(2);
        assert_eq!(
            (outbox.get(1), outbox.get(3), outbox.get(4)),
            (None, Some(&"c"), None)
        );
        outbox.acknowledge(3);
        assert!(outbox.is_empty() && outbox.after(0).is_empty());
    }

    proptest! {
        #[test]
        fn streams_that_break_lose_nothing_and_repeat_nothing(
            steps in prop::collection::vec((0_u8..4, 1_usize..4), 1..200)
        ) {
            let (mut outbox, mut inbox) = (Outbox::default(), Inbox::default());
            let mut stream: VecDeque<(u64, u64)> = VecDeque::new();
            let (mut sent, mut taken) = (0_u64, Vec::new());
            for (step, count) in steps {
                match step {
                    0 => {
                        let batch: Vec<u64> = (sent + 1..=sent + count as u64).collect();
                        sent += count as u64;
                        stream.extend(batch.iter().map(|number| (*number, *number)));
                        outbox.keep(batch);
                    }
                    1 => for _ in 0..count {
                        if let Some((number, message)) = stream.pop_front()
                            && inbox.takes(number).unwrap()
                        {
                            taken.push(message);
                        }
                    },
                    2 => outbox.acknowledge(inbox.received()),
                    _ => {
                        let first = inbox.received() + 1;
                        stream = outbox.after(inbox.received()).into_iter().enumerate()
                            .map(|(place, message)| (first + place as u64, message)).collect();
                    }
                }
            }
            let expected: Vec<u64> = (1..=inbox.received()).collect();
            prop_assert_eq!(taken, expected);
        }
    }
}
