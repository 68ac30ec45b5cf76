//! What no node can meet: the head hears of it, and the driver what the head makes of it.

use std::time::Duration;

use sparkray_proto::{InfeasibleDemand, InfeasibleLeases};

use super::*;

impl Bench {
    fn ask_for(&mut self, driver: u64, name: &str, cpus: f64) {
        let request = RequestWorkerLease {
            lease_id: LeaseId::random().to_vec().into(),
            job_id: JOB.to_vec().into(),
            resources: Some((&resources(&[("CPU", cpus)])).into()),
            task_name: name.to_owned(),
            ..RequestWorkerLease::default()
        };
        self.say(driver, FrameKind::RequestWorkerLease, &request);
    }

    /// What the next report tells the head.
    fn infeasible(&mut self) -> Vec<InfeasibleLeases> {
        self.now += Duration::from_secs(1);
        self.put(Input::Tick {
            clock: Duration::from_secs(1),
            head_stall: None,
        });
        let mut reported = None;
        while let Ok(message) = self.to_head.try_recv() {
            if let Some(node_message::Message::Report(report)) = message.message {
                reported = Some(report.infeasible);
            }
        }
        reported.expect("a report")
    }
}

#[test]
fn the_head_hears_of_requests_that_no_node_can_meet_while_they_wait() {
    let mut bench = Bench::new(1.0);
    let driver = bench.driver();
    for name in ["large", "large", "other"] {
        bench.ask_for(driver, name, 8.0);
    }
    for _ in 0..3 {
        bench.ask_for(driver, "fits", 1.0);
    }
    let told = bench.infeasible();
    let counts: Vec<_> = told
        .iter()
        .map(|kind| (kind.task_name.as_str(), kind.count))
        .collect();
    assert_eq!(counts, [("large", 2), ("other", 1)]);
    bench.put(Input::Closed {
        connection: driver,
        cause: "its connection closed".to_owned(),
    });
    assert!(bench.infeasible().is_empty());
}

#[test]
fn the_driver_of_the_job_hears_what_the_head_says() {
    let mut bench = Bench::new(1.0);
    let driver = bench.driver();
    let demand = InfeasibleDemand {
        job_id: JOB.to_vec().into(),
        left_out: 7,
        ..InfeasibleDemand::default()
    };
    let of_another_job = InfeasibleDemand {
        job_id: JobId::from_array([9; 4]).to_vec().into(),
        ..demand.clone()
    };
    for demand in [demand.clone(), of_another_job] {
        let message = head_message::Message::InfeasibleDemand(demand);
        bench.put(Input::Head(HeadEvent::Message(Box::new(message))));
    }
    let told = bench.take_effects(|effect| match effect {
        Effect::SendIfRead { connection, frame } => Some((*connection, frame.decode().unwrap())),
        _ => None,
    });
    assert_eq!(told, [(driver, demand)]);
}
