//! What is counted, by what happens.

use super::process::Process;
use super::value::Item;
use super::{DRIVER, Simulation};

impl Process {
    /// The number behind a name and its labels.
    fn counted(&self, sample: &str) -> u64 {
        let text = self.state.render_metrics();
        let mut numbers = text
            .lines()
            .filter_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok());
        numbers.next().unwrap_or_else(|| panic!("no {sample} in\n{text}"))
    }
}

impl Simulation {
    fn counted_by_driver(&self, sample: &str) -> u64 {
        self.processes[DRIVER].counted(sample)
    }

    /// The sum over all workers.
    fn counted_by_workers(&self, sample: &str) -> u64 {
        let workers = self.processes[DRIVER + 1..].iter();
        workers.map(|worker| worker.counted(sample)).sum()
    }
}

fn number(value: u64) -> Vec<Item> {
    vec![Item::Number(value)]
}

#[test]
fn calls_are_counted_by_how_they_ended() {
    let mut simulation = Simulation::new(1, 1, 2);
    let driver = &mut simulation.processes[DRIVER];
    for index in 0..5 {
        driver.submit("value", &number(index), &[]);
    }
    let failing = driver.submit("error", &number(5), &[]);
    driver.submit("value", &number(6), &[failing]);
    let submitted = "ray_tasks_submitted_total{Type=\"NORMAL_TASK\"}";
    assert_eq!(driver.counted(submitted), 7);
    assert_eq!(driver.counted("ray_tasks_unfinished"), 7);
    simulation.settle();
    let ended = |outcome| format!("ray_tasks_ended_total{{Outcome=\"{outcome}\"}}");
    assert_eq!(simulation.counted_by_driver(&ended("Finished")), 5);
    // The second one never ran: its argument had failed.
    assert_eq!(simulation.counted_by_driver(&ended("Failed")), 2);
    assert_eq!(simulation.counted_by_driver(&ended("Raised")), 0);
    assert_eq!(simulation.counted_by_driver("ray_task_time_seconds_count"), 7);
    assert_eq!(simulation.counted_by_driver("ray_tasks_unfinished"), 0);
    assert_eq!(simulation.counted_by_driver("ray_tasks_retried_total"), 0);
    let ran = |outcome| format!("ray_core_worker_executions_total{{Outcome=\"{outcome}\"}}");
    assert_eq!(simulation.counted_by_workers(&ran("Finished")), 5);
    assert_eq!(simulation.counted_by_workers(&ran("Refused")), 1);
    let time = "ray_core_worker_execution_time_seconds_count";
    assert_eq!(simulation.counted_by_workers(time), 5);
    simulation.check_nothing_left();
}

#[test]
fn leases_are_counted_and_so_are_connections() {
    let mut simulation = Simulation::new(2, 1, 1);
    simulation.processes[DRIVER].submit("value", &number(0), &[]);
    simulation.settle();
    let requests = simulation.counted_by_driver("ray_core_worker_lease_requests_total");
    assert_eq!(requests, 1);
    let granted = "ray_core_worker_lease_replies_total{Outcome=\"Granted\"}";
    assert_eq!(simulation.counted_by_driver(granted), 1);
    let wait = "ray_core_worker_lease_wait_time_seconds_count";
    assert_eq!(simulation.counted_by_driver(wait), 1);
    assert_eq!(
        simulation.counted_by_driver("ray_core_worker_tasks_pushed_total"),
        1
    );
    let opened = "ray_core_worker_connections_total{Event=\"Opened\"}";
    assert_eq!(simulation.counted_by_driver(opened), 1);
    let accepted = "ray_core_worker_connections_total{Event=\"Accepted\"}";
    assert_eq!(simulation.counted_by_workers(accepted), 1);
    assert!(simulation.counted_by_driver("ray_core_worker_sent_bytes_total") > 0);
    simulation.check_nothing_left();
}

#[test]
fn a_task_whose_worker_dies_counts_as_tried_again() {
    let mut simulation = Simulation::new(3, 1, 1);
    simulation.processes[DRIVER].submit("value", &number(0), &[]);
    let started = "ray_core_worker_executions_started_total";
    while simulation.counted_by_workers(started) == 0 {
        assert!(simulation.step());
    }
    simulation.kill(DRIVER + 1);
    simulation.settle();
    assert_eq!(simulation.counted_by_driver("ray_tasks_retried_total"), 1);
    let finished = "ray_tasks_ended_total{Outcome=\"Finished\"}";
    assert_eq!(simulation.counted_by_driver(finished), 1);
    simulation.check_nothing_left();
}

#[test]
fn calls_of_actors_are_counted() {
    let mut simulation = Simulation::new(4, 1, 1);
    let actor = simulation.create_actor(DRIVER, 0);
    for _ in 0..3 {
        simulation.processes[DRIVER].call_actor(actor, "value", &[], &[]);
    }
    simulation.settle();
    let submitted = "ray_tasks_submitted_total{Type=\"ACTOR_TASK\"}";
    assert_eq!(simulation.counted_by_driver(submitted), 3);
    let pushed = "ray_core_worker_actor_calls_pushed_total";
    assert_eq!(simulation.counted_by_driver(pushed), 3);
    assert_eq!(simulation.counted_by_driver("ray_core_worker_known_actors"), 1);
    let link = simulation.breakable()[0];
    simulation.processes[DRIVER].call_actor(actor, "value", &[], &[]);
    simulation.break_link(link);
    simulation.settle();
    let again = "ray_core_worker_actor_calls_pushed_again_total";
    assert_eq!(simulation.counted_by_driver(again), 1);
    let reconnections = "ray_core_worker_actor_reconnections_total";
    assert_eq!(simulation.counted_by_driver(reconnections), 1);
    simulation.end_actors();
    simulation.check_nothing_left();
}

#[test]
fn values_that_are_read_from_the_store_are_counted() {
    let mut simulation = Simulation::new(5, 1, 1);
    let driver = &mut simulation.processes[DRIVER];
    let id = driver.submit("big", &number(0), &[]);
    driver.fetch(id);
    simulation.settle();
    let asked = "ray_core_worker_store_reads_total{Outcome=\"Asked\"}";
    assert_eq!(simulation.counted_by_driver(asked), 1);
    let failed = "ray_core_worker_store_reads_total{Outcome=\"Failed\"}";
    assert_eq!(simulation.counted_by_driver(failed), 0);
    simulation.check_nothing_left();
}
