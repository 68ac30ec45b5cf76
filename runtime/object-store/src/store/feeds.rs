//! Blocks of feeds: provisional until the owner names the winners.
//!
//! The owner names them once, to the nodes that it knows then. A node that joined later, or could not be told, asks by
//! itself; age alone says nothing, because a job may run for hours.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use sparkray_common::{ErrorCode, FeedId, ObjectId, WorkerAddress};
use sparkray_proto::Failure;

use super::ObjectStore;
use super::slot::SlotId;
use crate::event::StoreEvent;

/// Adopted feeds that are remembered, so that late attempts are dropped and other nodes can ask.
const REMEMBERED: usize = 1024;

/// A feed whose winners are not known.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) slots: HashSet<SlotId>,
    owner: WorkerAddress,
    /// When a block was begun or sealed, or the owner was asked.
    last_sign: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct AdoptedFeeds {
    winners: HashMap<FeedId, HashSet<ObjectId>>,
    order: VecDeque<FeedId>,
}

impl AdoptedFeeds {
    pub(super) fn winners_of(&self, feed: FeedId) -> Option<&HashSet<ObjectId>> {
        self.winners.get(&feed)
    }

    fn remember(&mut self, feed: FeedId, winners: HashSet<ObjectId>) {
        if self.winners.insert(feed, winners).is_none() {
            self.order.push_back(feed);
        }
        if self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.winners.remove(&oldest);
            }
        }
    }
}

impl ObjectStore {
    pub(super) fn adopt(&mut self, feed: FeedId, winners: HashSet<ObjectId>) {
        let mut slots: Vec<SlotId> = match self.feeds.get(&feed) {
            Some(feed) => feed.slots.iter().copied().collect(),
            None => Vec::new(),
        };
        slots.sort_unstable();
        self.adopted.remember(feed, winners);
        for slot in slots {
            self.settle_block(slot);
        }
    }

    /// Once the winners of its feed are known, a block is kept for good or dropped.
    pub(super) fn settle_block(&mut self, slot: SlotId) {
        let Some(feed) = self.slots[&slot].feed else {
            return;
        };
        let Some(winners) = self.adopted.winners.get(&feed) else {
            return;
        };
        let object = self.slots[&slot].object;
        if winners.contains(&object) {
            self.leave_feed(slot);
            return;
        }
        let reason =
            format!("object {object} is a block of a Spark task attempt that did not win and was dropped");
        self.detach(slot, &Failure::new(ErrorCode::ObjectLost, reason));
    }

    pub(super) fn leave_feed(&mut self, slot: SlotId) {
        let Some(feed) = self.slot(slot).feed.take() else {
            return;
        };
        if let Some(entry) = self.feeds.get_mut(&feed) {
            entry.slots.remove(&slot);
            if entry.slots.is_empty() {
                self.feeds.remove(&feed);
            }
        }
    }

    pub(super) fn join_feed(&mut self, slot: SlotId, feed: FeedId, owner: &WorkerAddress) {
        let now = self.now;
        let entry = self.feeds.entry(feed).or_insert_with(|| Feed {
            slots: HashSet::new(),
            owner: owner.clone(),
            last_sign: now,
        });
        entry.slots.insert(slot);
        entry.last_sign = now;
    }

    pub(super) fn note_sign_of_feed(&mut self, slot: SlotId) {
        let feed = self.slots[&slot].feed;
        if let Some(entry) = feed.and_then(|feed| self.feeds.get_mut(&feed)) {
            entry.last_sign = self.now;
        }
    }

    /// Asks about feeds that have been silent for long.
    pub(super) fn ask_about_silent_feeds(&mut self) {
        for (feed, entry) in &mut self.feeds {
            if self.now.saturating_duration_since(entry.last_sign) >= self.config.feed_patience {
                entry.last_sign = self.now;
                self.events.push(StoreEvent::AskFeed {
                    feed: *feed,
                    owner: entry.owner.clone(),
                });
            }
        }
    }
}
