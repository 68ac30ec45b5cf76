//! Workers that nobody needs are asked to end; those that others need stay.

use sparkray_common::{LeaseId, WorkerKey};
use sparkray_proto::{ExitWorker, ExitWorkerReply, ReturnWorkerLease};

use super::worker_keys::key;
use super::*;
use crate::workers::IDLE_AFTER;

impl Bench {
    /// A worker with this key that has served a lease of the driver's job and is idle; its connection.
    fn idle_worker(&mut self, driver: u64, key: &WorkerKey) -> u64 {
        let lease = self.ask_for_lease_with(driver, key);
        let birth = self.births().remove(0);
        self.register(&birth);
        assert_eq!(self.granted(driver).len(), 1);
        let returned = ReturnWorkerLease {
            lease_id: lease.to_vec().into(),
            worker_failed: false,
        };
        self.say(driver, FrameKind::ReturnWorkerLease, &returned);
        self.tick_after(Duration::from_secs(1));
        birth.connection
    }

    /// Which of these workers is asked to end, if it is not needed.
    fn asked(&mut self, workers: [u64; 2]) -> Vec<u64> {
        let mut asked = Vec::new();
        for worker in workers {
            for (_, message) in self.sent::<ExitWorker>(worker, FrameKind::ExitWorker) {
                assert!(message.unless_needed);
                asked.push(worker);
            }
        }
        asked
    }

    fn answer_asked(&mut self, worker: u64, ends: bool) {
        self.say(worker, FrameKind::ExitWorkerReply, &ExitWorkerReply { ends });
    }
}

#[test]
fn of_more_idle_workers_than_cores_the_longest_idle_one_is_asked_and_serves_on_when_it_stays() {
    let mut bench = Bench::new(1.0);
    let driver = bench.driver();
    let (first, second) = (key("1"), key("2"));
    let workers = [
        bench.idle_worker(driver, &first),
        bench.idle_worker(driver, &second),
    ];
    assert!(bench.asked(workers).is_empty());
    bench.tick_after(IDLE_AFTER);
    assert_eq!(bench.asked(workers), [workers[0]]);
    bench.tick_after(IDLE_AFTER);
    assert!(bench.asked(workers).is_empty(), "it has not answered yet");

    // A lease with its key waits meanwhile, and gets it because it stays.
    let lease: LeaseId = bench.ask_for_lease_with(driver, &first);
    assert!(bench.granted(driver).is_empty());
    bench.answer_asked(workers[0], false);
    let granted = bench.granted(driver);
    assert_eq!(granted.len(), 1, "{lease}");
    assert!(bench.asked(workers).is_empty());
}

#[test]
fn a_worker_that_is_not_needed_ends_and_is_killed_if_it_does_not() {
    let mut bench = Bench::new(1.0);
    let driver = bench.driver();
    let workers = [
        bench.idle_worker(driver, &key("1")),
        bench.idle_worker(driver, &key("2")),
    ];
    bench.tick_after(IDLE_AFTER);
    assert_eq!(bench.asked(workers), [workers[0]]);
    bench.take_effects(|effect| matches!(effect, Effect::KillLater { .. }).then_some(()));
    bench.answer_asked(workers[0], true);
    let killed = bench.take_effects(|effect| matches!(effect, Effect::KillLater { .. }).then_some(()));
    assert_eq!(killed.len(), 1);
    // Nobody gets it: another one is born.
    bench.births();
    bench.ask_for_lease_with(driver, &key("1"));
    assert_eq!(bench.births().len(), 1);
    assert!(bench.granted(driver).is_empty());
    // An answer to no question changes nothing.
    bench.answer_asked(workers[1], false);
    bench.tick_after(IDLE_AFTER);
    assert!(
        bench.asked(workers).is_empty(),
        "one idle worker is kept for each core"
    );
}
