//! Workers of several environments, and zygotes that start none.

use sparkray_common::{ErrorCode, RuntimeEnvironment, WorkerKey};
use sparkray_proto as proto;

use super::*;
use crate::workers::START_DEADLINE;

pub(super) fn key(value: &str) -> WorkerKey {
    let environment = RuntimeEnvironment::new([("A".to_owned(), value.to_owned())].into());
    WorkerKey {
        environment: environment.unwrap(),
        ..WorkerKey::default()
    }
}

impl Bench {
    pub(super) fn ask_for_lease_with(&mut self, driver: u64, key: &WorkerKey) -> LeaseId {
        let lease = LeaseId::random();
        let request = RequestWorkerLease {
            lease_id: lease.to_vec().into(),
            job_id: JOB.to_vec().into(),
            resources: Some((&resources(&[("CPU", 1.0)])).into()),
            worker: Some(proto::WorkerKey::from(key)),
            ..RequestWorkerLease::default()
        };
        self.say(driver, FrameKind::RequestWorkerLease, &request);
        lease
    }

    fn zygote(&mut self, zygote: u64, event: ZygoteEvent) {
        self.put(Input::Zygote { zygote, event });
    }

    fn ready(&mut self, zygote: u64, python_version: &str) {
        self.zygote(
            zygote,
            ZygoteEvent::Ready {
                pid: 50,
                python_version: python_version.to_owned(),
                sparkray_version: VERSION.to_owned(),
            },
        );
    }

    pub(super) fn tick_after(&mut self, time: Duration) {
        self.now += time;
        let (clock, head_stall) = (Duration::ZERO, None);
        self.put(Input::Tick { clock, head_stall });
    }

    fn ended_zygotes(&mut self) -> Vec<u64> {
        self.take_effects(|effect| match effect {
            Effect::EndZygote { zygote } => Some(*zygote),
            _ => None,
        })
    }

    fn refusals(&mut self, driver: u64) -> Vec<ErrorCode> {
        let replies = self.granted(driver).into_iter();
        replies
            .filter_map(|(_, reply)| reply.failure.map(|failure| failure.error_code()))
            .collect()
    }
}

#[test]
fn a_zygote_is_asked_for_one_worker_until_it_can_fork_and_leaves_room_for_others() {
    let mut bench = Bench::new(8.0);
    let driver = bench.driver();
    for _ in 0..3 {
        bench.ask_for_lease_with(driver, &key("1"));
    }
    let first = bench.births();
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].zygote, &first[0].key), (1, &key("1")));
    bench.ask_for_lease(driver);
    let own = bench.births();
    assert_eq!((own.len(), own[0].zygote), (1, 0));
    bench.register(&own[0]);
    assert_eq!(bench.granted(driver).len(), 1);
    bench.ready(1, "3.11");
    let others = bench.births();
    assert_eq!(others.len(), 2);
    for birth in first.iter().chain(&others) {
        bench.register(birth);
    }
    assert_eq!(bench.granted(driver).len(), 3);
}

#[test]
fn a_zygote_that_hangs_leaves_nothing_when_it_gives_up() {
    let mut bench = Bench::new(4.0);
    let driver = bench.driver();
    bench.ask_for_lease_with(driver, &key("1"));
    let birth = bench.births().remove(0);
    // It is late: it will not be waited for.
    bench.tick_after(START_DEADLINE);
    assert!(bench.refusals(driver).is_empty());
    bench.zygote(
        birth.zygote,
        ZygoteEvent::GaveUp {
            cause: "it was not ready".to_owned(),
        },
    );
    assert_eq!(bench.refusals(driver), [ErrorCode::RuntimeEnvSetup]);
    assert_eq!(bench.ended_zygotes(), [birth.zygote]);
    bench.zygote(
        birth.zygote,
        ZygoteEvent::Failed {
            worker_id: birth.worker,
            error: "it was not ready".to_owned(),
        },
    );
    let late: Vec<Birth> = bench.births();
    for birth in &late {
        bench.zygote(
            birth.zygote,
            ZygoteEvent::Failed {
                worker_id: birth.worker,
                error: "it was not ready".to_owned(),
            },
        );
    }
    assert_eq!(bench.router.workers.len(), 0);
    // Whoever asks next begins anew.
    bench.ask_for_lease_with(driver, &key("1"));
    let again = bench.births();
    assert!(again[0].zygote > birth.zygote);
    // What the one before says late is none of its.
    bench.zygote(
        birth.zygote,
        ZygoteEvent::GaveUp {
            cause: "late".to_owned(),
        },
    );
    assert!(bench.refusals(driver).is_empty());
    bench.register(&again[0]);
    assert_eq!(bench.granted(driver).len(), 1);
}

#[test]
fn another_python_of_an_environment_is_not_that_of_the_node() {
    let mut bench = Bench::new(4.0);
    let driver = bench.driver();
    bench.ask_for_lease_with(driver, &key("1"));
    let birth = bench.births().remove(0);
    bench.ready(birth.zygote, "3.9");
    assert_eq!(bench.refusals(driver), [ErrorCode::RuntimeEnvSetup]);
    bench.ask_for_lease(driver);
    let own = bench.births().remove(0);
    bench.register(&own);
    assert_eq!(bench.granted(driver).len(), 1);
}

#[test]
fn a_zygote_that_nobody_needs_ends() {
    let mut bench = Bench::new(4.0);
    let driver = bench.driver();
    bench.ask_for_lease_with(driver, &key("1"));
    let birth = bench.births().remove(0);
    bench.ready(birth.zygote, "3.11");
    bench.register(&birth);
    bench.tick_after(Duration::from_secs(30));
    assert!(bench.ended_zygotes().is_empty());
    bench.tick_after(Duration::from_secs(30));
    assert_eq!(bench.ended_zygotes(), [birth.zygote]);
    assert_eq!(bench.router.workers.len(), 1);
}
