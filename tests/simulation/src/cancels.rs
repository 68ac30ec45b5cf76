//! Calls that the driver cancels: each ends once, with its value or as cancelled, whatever else happens just then.

use sparkray_common::{ErrorCode, ObjectId};
use sparkray_core_worker::{Cancellation, CoreError};

use crate::cluster::{Cluster, DRIVER};
use crate::program::Program;
use crate::runs::come_to_rest;
use crate::scenarios::{cluster, is_told, plan, under_seeds};
use crate::value::Item;

impl Program {
    /// Whether a call failed because it, or what it needed, was cancelled.
    pub(crate) fn was_cancelled(&self, error: &CoreError) -> bool {
        let names = |task: &_| error.message == format!("Task: {task} was cancelled.");
        error.code == ErrorCode::Cancelled && self.cancelled.iter().any(names)
    }
}

impl Cluster {
    /// The driver cancels a call, or does nothing because that is over, or is no call's.
    pub(crate) fn cancels(&mut self) {
        if let Some(id) = self.some_object() {
            let how = Cancellation {
                force: self.program.random.chance(25),
                recursive: self.program.random.chance(50),
            };
            self.cancel(id, how);
        }
    }

    fn cancel(&mut self, id: ObjectId, how: Cancellation) {
        self.say(|| format!("driver: cancels {id}, {how:?}"));
        self.program.cancelled.insert(id.task_id());
        self.processes[DRIVER].core.cancel(id, how);
    }

    /// Calls a function; its result and the key of the value.
    fn submits(&mut self, name: &'static str) -> (ObjectId, u64) {
        let number = self.program.number();
        let driver = &mut self.processes[DRIVER];
        driver.core.set_now(self.agenda.now);
        let id = driver.submit(name, &[Item::Number(number)], &[]);
        (id, driver.fetch(id))
    }

    /// Breaks a connection, or kills a worker.
    fn disturb(&mut self) {
        let breakable = self.network.breakable();
        if self.random.chance(50)
            && let Some(link) = self.random.choose(&breakable).copied()
        {
            self.network.break_link(&mut self.agenda, link);
            return;
        }
        let workers: Vec<usize> = (DRIVER + 1..self.processes.len())
            .filter(|process| self.processes[*process].is_worker())
            .collect();
        if let Some(worker) = self.random.choose(&workers).copied() {
            self.losses.killed += 1;
            self.kill_process(worker);
        }
    }
}

/// Every call but the cancelled one has its value; that one has it too, or is cancelled.
fn check_ends(cluster: &Cluster, calls: &[(ObjectId, u64)]) {
    for (id, key) in calls {
        match &cluster.processes[DRIVER].fetches[key].value {
            Some(Ok(_)) => {}
            Some(Err(error)) => assert!(
                cluster.program.cancelled.contains(&id.task_id()) && cluster.program.was_cancelled(error),
                "{id} failed: {error}"
            ),
            None => panic!("{id} did not end"),
        }
    }
}

/// At any moment of the lives of some calls one of them is cancelled: before it is leased a worker, while the grant, the push
/// or the answer is on the way, while it runs, and when it is over. Sometimes a connection breaks or a worker dies just then.
#[test]
fn a_call_that_is_cancelled_ends_once_and_the_others_have_their_values() {
    for force in [false, true] {
        let scenario = move |seed, disturbed| {
            let mut cluster = cluster(seed, plan());
            let names = ["sum", "big", "nest"];
            let calls: Vec<_> = (0..24).map(|number| cluster.submits(names[number % 3])).collect();
            cluster.outputs(DRIVER);
            let time = cluster.random.between(1, 60_000);
            cluster.pass(time);
            for _ in 0..3 {
                let (id, _) = *cluster.random.choose(&calls).expect("a call");
                let how = Cancellation {
                    force,
                    recursive: cluster.random.chance(50),
                };
                cluster.processes[DRIVER].core.set_now(cluster.agenda.now);
                cluster.cancel(id, how);
                if disturbed {
                    cluster.disturb();
                }
                cluster.outputs(DRIVER);
                let time = cluster.random.between(1, 3_000);
                cluster.pass(time);
            }
            cluster.until("every call ends", 60, |cluster| {
                calls.iter().all(|(_, key)| is_told(cluster, *key))
            });
            check_ends(&cluster, &calls);
            for (_, key) in calls {
                cluster.processes[DRIVER].fetches.remove(&key);
            }
            come_to_rest(&mut cluster);
        };
        under_seeds(move |seed| scenario(seed, false));
        under_seeds(move |seed| scenario(seed + 1000, true));
    }
}
