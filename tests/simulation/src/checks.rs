//! What must hold: at any time, and at the end.

use sparkray_common::{ActorId, WorkerId};

use crate::cluster::{Cluster, DRIVER};
use crate::program::Expected;
use crate::value::sum;

impl Cluster {
    /// No two processes live that are one actor.
    pub(crate) fn check_one_life(&self, process: usize, actor: ActorId) {
        for (other, found) in self.processes.iter().enumerate() {
            let is_same = found.alive && found.actor.is_some_and(|(id, _)| id == actor);
            assert!(
                other == process || !is_same,
                "processes {other} and {process} are both actor {actor}"
            );
        }
    }

    /// Calls of a caller to one life of an actor run in order, once at most.
    pub(crate) fn check_order(&mut self, actor: ActorId, incarnation: u64, caller: WorkerId, number: u64) {
        let before = self.program.ran.insert((actor, incarnation, caller), number);
        assert!(
            before.is_none_or(|before| before < number),
            "call {number} of {caller} ran after {before:?} in actor {actor}"
        );
    }

    /// A reference of a living process whose owner lives leads to an object that exists. What an actor holds that was killed
    /// counts no more, though its process may not have heard of that yet.
    pub(crate) fn check_references(&self) {
        for (process, found) in self.processes.iter().enumerate() {
            let was_killed = found
                .actor
                .is_some_and(|(actor, _)| self.program.killed.contains(&actor));
            if !found.alive || was_killed {
                continue;
            }
            for (id, owner) in found.held() {
                let owner = self.workers.get(&owner.worker_id);
                let owner = owner.map(|owner| &self.processes[*owner]);
                let is_there = owner.is_none_or(|owner| !owner.alive || owner.core.has(*id));
                assert!(
                    is_there || self.orphans.contains(id),
                    "process {process} refers to object {id}, which its owner has freed"
                );
            }
        }
    }

    /// Values that came are what they must be.
    pub(crate) fn check_values(&mut self) {
        let driver = &mut self.processes[DRIVER];
        let came: Vec<u64> = self
            .program
            .awaited
            .keys()
            .filter(|key| driver.fetches.get(key).is_some_and(|fetch| fetch.value.is_some()))
            .copied()
            .collect();
        for key in came {
            let fetch = driver.fetches.remove(&key);
            let expected = self.program.awaited.remove(&key);
            let (Some(fetch), Some(expected)) = (fetch, expected) else {
                continue;
            };
            let Expected {
                sum: known,
                fails,
                on_nodes,
                by_processes,
            } = expected;
            // What cannot be reached for long is an error too.
            let lost_nodes = self.losses.nodes > 0 || self.losses.cuts > 0;
            let lost_processes = lost_nodes || self.losses.processes > 0;
            match fetch.value {
                Some(Ok(items)) => {
                    assert!(!fails, "{} should be an error", fetch.id);
                    let found = sum(&items);
                    assert!(
                        known.is_none_or(|known| known == found),
                        "{} is {found}, not {known:?}",
                        fetch.id
                    );
                }
                // A dead process may have passed on a reference that it kept alone.
                Some(Err(error)) if lost_processes && error.message.contains("was freed by its owner") => {}
                Some(Err(_)) if driver.core.broken().is_some() => {}
                Some(Err(error)) if self.program.was_cancelled(&error) => {}
                Some(Err(error)) => assert!(
                    fails || (on_nodes && lost_nodes) || (by_processes && lost_processes),
                    "{} is lost without a reason: {error} ({expected:?}, {:?})",
                    fetch.id,
                    self.losses
                ),
                None => {}
            }
        }
    }

    /// Without deaths no function runs twice.
    pub(crate) fn check_runs(&self) {
        let twice = self.program.runs.iter().find(|(_, runs)| **runs > 1);
        assert!(
            twice.is_none() || self.losses.killed > 0 || self.losses.nodes > 0,
            "a function ran twice: {twice:?}"
        );
    }

    /// What is awaited, in words; empty when nothing is.
    pub(crate) fn missing(&self) -> String {
        let driver = &self.processes[DRIVER];
        let missing: Vec<String> = self
            .program
            .awaited
            .keys()
            .filter_map(|key| Some(driver.fetches.get(key)?.id.to_string()))
            .collect();
        missing.join(", ")
    }

    /// When nobody refers to anything any more, nothing is left; in words what is.
    pub(crate) fn leftovers(&self) -> String {
        let mut left = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let Some(raylet) = &node.raylet else { continue };
            let leases = raylet.leases_left();
            if !leases.is_empty() {
                left.push(format!("node {number}: {leases}"));
            }
            let objects = raylet.store().object_count;
            // Until its owner ends a store keeps copies of an object whose first node died, to be evicted, and results of a
            // worker that died before its answer arrived, when the function ran again on another node.
            let had_deaths = self.losses.nodes > 0 || self.losses.killed > 0;
            if objects > 0 && !had_deaths {
                left.push(format!("node {number}: {objects} objects in its store"));
            }
        }
        for (process, found) in self.processes.iter().enumerate() {
            // The head may hear of an actor after its creator has given it up, over another connection.
            let lives = found.alive && self.losses.questions == 0;
            if let Some((actor, _)) = found.actor.filter(|_| lives) {
                left.push(format!("process {process} is actor {actor}"));
            }
        }
        left.join("; ")
    }

    pub(crate) fn check_nothing_left(&self) {
        let left = self.leftovers();
        assert!(left.is_empty(), "{left}");
        // A driver without its raylet can give nothing back.
        let first = if self.driver_takes_part() {
            DRIVER
        } else {
            DRIVER + 1
        };
        let processes = self.processes.iter().enumerate().skip(first);
        for (number, process) in processes.filter(|(_, found)| found.alive) {
            process.core.check_empty(&format!("process {number}"));
        }
    }
}
