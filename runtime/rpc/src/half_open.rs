//! Callers that have not proved themselves yet: how many may be there, and which goes when there are more.
//!
//! Invariants:
//! 1. A caller always gets in. When its address has too many, the oldest of that address goes; when all together are too
//!    many, the oldest of the address that has most. An honest caller needs milliseconds, so that the oldest is none.
//! 2. Whoever floods from one address pushes out only those of that address, as long as the whole has room.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use tokio::task::AbortHandle;

/// Callers of one address at a time. A node of many workers that all call workers of one other node stays below it.
pub(crate) const MOST_OF_ONE_ADDRESS: usize = 512;
/// Callers at a time.
pub(crate) const MOST: usize = 4096;

/// Where a caller comes from; `None`: from this node.
pub(crate) type Origin = Option<IpAddr>;

#[derive(Debug, Default)]
pub(crate) struct HalfOpen {
    callers: HashMap<Origin, VecDeque<(u64, AbortHandle)>>,
    count: usize,
    next: u64,
}

impl HalfOpen {
    /// The number for the next caller.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Takes a caller in. Returns whether another one had to go for it.
    pub(crate) fn add(&mut self, origin: Origin, number: u64, task: AbortHandle) -> bool {
        let callers = self.callers.entry(origin).or_default();
        callers.push_back((number, task));
        let too_many = callers.len() > MOST_OF_ONE_ADDRESS;
        self.count += 1;
        let fullest = if too_many {
            Some(origin)
        } else if self.count > MOST {
            let fullest = self.callers.iter().max_by_key(|(_, callers)| callers.len());
            fullest.map(|(origin, _)| *origin)
        } else {
            None
        };
        let oldest = fullest.and_then(|origin| self.callers.get_mut(&origin)?.pop_front());
        if let Some((_, task)) = &oldest {
            task.abort();
            self.count -= 1;
        }
        oldest.is_some()
    }

    /// A caller is through, or gone.
    pub(crate) fn remove(&mut self, origin: Origin, number: u64) {
        let Some(callers) = self.callers.get_mut(&origin) else {
            return;
        };
        if let Ok(index) = callers.binary_search_by_key(&number, |(number, _)| *number) {
            callers.remove(index);
            self.count -= 1;
        }
        if callers.is_empty() {
            self.callers.remove(&origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> tokio::task::JoinHandle<()> {
        tokio::spawn(std::future::pending())
    }

    fn address(last: u8) -> Origin {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    fn enter(table: &mut HalfOpen, origin: Origin) -> (u64, tokio::task::JoinHandle<()>) {
        let (number, task) = (table.number(), task());
        table.add(origin, number, task.abort_handle());
        (number, task)
    }

    #[tokio::test]
    async fn a_flood_pushes_out_the_oldest_of_its_own_address() {
        let mut table = HalfOpen::default();
        let (number, honest) = enter(&mut table, address(1));
        let flood: Vec<_> = (0..2000).map(|_| enter(&mut table, address(2)).1).collect();
        let mut ended = 0;
        for task in flood.iter().take(2000 - MOST_OF_ONE_ADDRESS) {
            while !task.is_finished() {
                tokio::task::yield_now().await;
            }
            ended += 1;
        }
        assert_eq!(ended, 2000 - MOST_OF_ONE_ADDRESS);
        assert!(!flood[1999].is_finished());
        assert!(!honest.is_finished());
        assert_eq!(table.count, MOST_OF_ONE_ADDRESS + 1);
        table.remove(address(1), number);
        assert_eq!(table.count, MOST_OF_ONE_ADDRESS);
    }

    #[tokio::test]
    async fn when_all_are_too_many_the_fullest_address_loses_its_oldest() {
        let mut table = HalfOpen::default();
        let (_, honest) = enter(&mut table, address(0));
        let mut flood = Vec::new();
        for last in 1..=20 {
            flood.extend((0..400).map(|_| enter(&mut table, address(last)).1));
        }
        assert_eq!(table.count, MOST);
        while flood.iter().filter(|task| task.is_finished()).count() < flood.len() + 1 - MOST {
            tokio::task::yield_now().await;
        }
        assert!(!honest.is_finished());
    }

    #[tokio::test]
    async fn who_is_through_leaves_nothing() {
        let mut table = HalfOpen::default();
        for round in 0..10 {
            let (number, task) = enter(&mut table, address(round));
            table.remove(address(round), number);
            table.remove(address(round), number);
            task.abort();
        }
        assert!(table.callers.is_empty() && table.count == 0);
    }
}
