//! Blocks of feeds: provisional until the owner names the winners.

use std::collections::{HashMap, HashSet, VecDeque};

use sparkray_common::{ErrorCode, FeedId, ObjectId};
use sparkray_proto::Failure;

use super::ObjectStore;
use super::slot::SlotId;

/// Adopted feeds that are remembered, so that late attempts are dropped.
const REMEMBERED: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct AdoptedFeeds {
    winners: HashMap<FeedId, HashSet<ObjectId>>,
    order: VecDeque<FeedId>,
}

impl AdoptedFeeds {
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
        let mut slots: Vec<SlotId> = self.feeds.get(&feed).into_iter().flatten().copied().collect();
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
        if let Some(blocks) = self.feeds.get_mut(&feed) {
            blocks.remove(&slot);
            if blocks.is_empty() {
                self.feeds.remove(&feed);
            }
        }
    }
}
