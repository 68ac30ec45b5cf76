//! What is counted, by what happens; asked for as a client asks.

use sparkray_common::{ErrorCode, ObjectId};
use sparkray_proto::{
    CancelWorkerLease, Failure, GetMetrics, GetObjectEntry, GetObjects, KillActorOnNode, MetricsText,
    location_of,
};

use super::*;

impl Bench {
    /// The number behind a name and its labels, as the raylet tells it to a client.
    fn counted(&mut self, client: u64, sample: &str) -> u64 {
        self.say(client, FrameKind::GetMetrics, &GetMetrics {});
        let (_, reply) = self.sent::<MetricsText>(client, FrameKind::MetricsText).remove(0);
        let mut numbers = reply
            .text
            .lines()
            .filter_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok());
        numbers
            .next()
            .unwrap_or_else(|| panic!("no {sample} in\n{}", reply.text))
    }
}

#[test]
fn leases_are_counted_by_what_became_of_them_and_by_their_wait() {
    let mut bench = Bench::new(1.0);
    let driver = bench.driver();
    bench.ask_for_lease(driver);
    bench.now += Duration::from_secs(2);
    let (birth, pid) = bench.bear().remove(0);
    let (second, _) = bench.ask_for_lease(driver);
    assert_eq!(bench.counted(driver, "ray_scheduler_lease_requests_total"), 2);
    let replies = |outcome| format!("ray_scheduler_lease_replies_total{{Outcome=\"{outcome}\"}}");
    assert_eq!(bench.counted(driver, &replies("Granted")), 1);
    let below_a_second = "ray_scheduler_lease_wait_time_seconds_bucket{le=\"1.0\"}";
    assert_eq!(bench.counted(driver, below_a_second), 0);
    let below_three = "ray_scheduler_lease_wait_time_seconds_bucket{le=\"3.0\"}";
    assert_eq!(bench.counted(driver, below_three), 1);
    let leases = |state| format!("ray_scheduler_leases{{State=\"{state}\"}}");
    assert_eq!(bench.counted(driver, &leases("Granted")), 1);
    assert_eq!(bench.counted(driver, &leases("Queued")), 1);
    let cancel = CancelWorkerLease {
        lease_id: second.to_vec().into(),
    };
    bench.say(driver, FrameKind::CancelWorkerLease, &cancel);
    assert_eq!(bench.counted(driver, &replies("Cancelled")), 1);
    assert_eq!(bench.counted(driver, &replies("Refused")), 0);
    bench.die(birth, pid);
    assert_eq!(bench.counted(driver, "ray_scheduler_leases_broken_total"), 1);
    assert_eq!(bench.counted(driver, &leases("Granted")), 0);
}

#[test]
fn workers_are_counted_from_birth_to_end() {
    let mut bench = Bench::new(2.0);
    let driver = bench.driver();
    bench.ask_for_lease(driver);
    let started = "ray_internal_num_processes_started_total";
    assert_eq!(bench.counted(driver, started), 1);
    let workers = |state| format!("ray_workers{{State=\"{state}\"}}");
    assert_eq!(bench.counted(driver, &workers("Starting")), 1);
    bench.now += Duration::from_millis(50);
    let (birth, pid) = bench.bear().remove(0);
    assert_eq!(bench.counted(driver, &workers("Busy")), 1);
    let clients = "ray_raylet_clients{Kind=\"Worker\"}";
    assert_eq!(bench.counted(driver, clients), 1);
    let quick = "ray_worker_register_time_seconds_bucket{le=\"0.03\"}";
    assert_eq!(bench.counted(driver, quick), 0);
    let registered = "ray_worker_register_time_seconds_count";
    assert_eq!(bench.counted(driver, registered), 1);
    bench.die(birth, pid);
    assert_eq!(bench.counted(driver, "ray_workers_ended_total"), 1);
    assert_eq!(bench.counted(driver, &workers("Busy")), 0);
    let failed = "ray_scheduler_failed_worker_startup_total";
    assert_eq!(bench.counted(driver, failed), 0);
}

#[test]
fn actors_of_a_node_are_counted_by_what_became_of_them() {
    let mut bench = Bench::new(2.0);
    let driver = bench.driver();
    let mut born = Vec::new();
    for error in [Vec::new(), vec![1]] {
        bench.place_actor(ActorId::random());
        let (birth, pid) = bench.bear().remove(0);
        let (creation, _) = bench
            .sent::<CreateActor>(birth.connection, FrameKind::CreateActor)
            .remove(0);
        let reply = CreateActorReply {
            error: error.into(),
            ..CreateActorReply::default()
        };
        bench.answer(birth.connection, FrameKind::CreateActorReply, creation, &reply);
        born.push((birth, pid));
    }
    assert_eq!(bench.counted(driver, "ray_raylet_actors_placed_total"), 2);
    let outcome = |outcome| format!("ray_raylet_actor_creations_total{{Outcome=\"{outcome}\"}}");
    assert_eq!(bench.counted(driver, &outcome("Alive")), 1);
    assert_eq!(bench.counted(driver, &outcome("Raised")), 1);
    let alive = "ray_raylet_actors{State=\"Alive\"}";
    assert_eq!(bench.counted(driver, alive), 1);
    let took = "ray_raylet_actor_creation_time_seconds_count";
    assert_eq!(bench.counted(driver, took), 1);
    let (birth, pid) = born.remove(0);
    bench.die(birth, pid);
    assert_eq!(bench.counted(driver, "ray_raylet_actors_ended_total"), 1);
    assert_eq!(bench.counted(driver, alive), 0);
    assert_eq!(bench.counted(driver, &outcome("Failed")), 0);
}

#[test]
fn fetches_are_counted_with_what_became_of_them() {
    let mut bench = Bench::new(1.0);
    let driver = bench.driver();
    let object = ObjectId::from_array([7; 20]);
    let entry = GetObjectEntry {
        object_id: object.to_vec().into(),
        locations: vec![location_of(NodeId::random(), "other:1")],
    };
    bench.say(
        driver,
        FrameKind::GetObjects,
        &GetObjects { objects: vec![entry] },
    );
    assert!(bench.router.collect_store_events());
    let Some(Effect::Object(ObjectEffect::Pull { ticket, .. })) = bench.router.next_effect() else {
        panic!("the object is not fetched");
    };
    assert_eq!(bench.counted(driver, "ray_pull_manager_started_pulls_total"), 1);
    bench.put(Input::PullEnded {
        ticket,
        object,
        took: Duration::from_secs(1),
        outcome: Err(Failure::new(ErrorCode::ObjectLost, "it is not there")),
    });
    assert_eq!(bench.counted(driver, "ray_pull_manager_failed_pulls_total"), 1);
    let fetched = "ray_pull_manager_object_request_time_seconds_count";
    assert_eq!(bench.counted(driver, fetched), 0);
}

#[test]
fn what_the_head_is_told_is_counted() {
    let mut bench = Bench::new(1.0);
    let driver = bench.driver();
    let (clock, head_stall) = (Duration::ZERO, None);
    bench.put(Input::Tick { clock, head_stall });
    assert_eq!(bench.counted(driver, "ray_raylet_resource_reports_total"), 1);
    assert_eq!(bench.counted(driver, "ray_raylet_head_messages_total"), 1);
    // The driver's job.
    let relayed = "ray_raylet_relayed_head_requests_total";
    assert_eq!(bench.counted(driver, relayed), 1);
    let sent = Duration::ZERO;
    bench.put(Input::Head(HeadEvent::Acknowledged { sent }));
    let acknowledged = "ray_raylet_heartbeats_acknowledged_total";
    assert_eq!(bench.counted(driver, acknowledged), 1);
    let silences = "ray_raylet_head_silences_total";
    assert_eq!(bench.counted(driver, silences), 0);
    let waiting = "ray_raylet_head_messages_waiting";
    assert_eq!(bench.counted(driver, waiting), 0);
    let room = bench.to_head.capacity();
    for _ in 0..room + 5 {
        // Answered also when the actor is not here.
        let kill = head_message::Message::KillActor(KillActorOnNode {
            actor_id: ActorId::random().to_vec().into(),
            ..KillActorOnNode::default()
        });
        bench.put(Input::Head(HeadEvent::Message(Box::new(kill))));
    }
    assert_eq!(bench.counted(driver, waiting), 5);
}
