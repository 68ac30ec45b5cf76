use super::*;

fn numbered(number: u32) -> JobId {
    JobId::from_array(number.to_be_bytes())
}

fn driver() -> WorkerAddress {
    WorkerAddress {
        node_id: NodeId::random(),
        worker_id: WorkerId::random(),
        node_address: String::new(),
    }
}

#[test]
fn ids_count_and_do_not_come_again_when_a_job_is_forgotten() {
    let mut table = JobTable::default();
    let driver = driver();
    for expected in 1..=4 {
        let id = table.next_id();
        assert_eq!(id, numbered(expected));
        table.begin(id, &driver, "space");
    }
    for number in 1..=4 {
        table.end(numbered(number));
    }
    for _ in 0..=KEPT_FINISHED_JOBS {
        let id = table.next_id();
        table.begin(id, &driver, "space");
        table.end(id);
    }
    assert!(table.get(numbered(1)).is_none(), "it is forgotten");
    assert_eq!(table.next_id(), numbered(KEPT_FINISHED_JOBS as u32 + 6));
}

#[test]
fn ids_that_begin_again_pass_by_those_in_use() {
    let mut table = JobTable::default();
    table.begin(numbered(1), &driver(), "space");
    table.last_given = u32::MAX;
    assert_eq!(table.next_id(), numbered(2));
}

#[test]
fn jobs_that_are_over_are_known_until_there_are_too_many() {
    let mut table = JobTable::default();
    let driver = driver();
    let ids: Vec<_> = (0..=KEPT_FINISHED_JOBS as u32).map(numbered).collect();
    for id in &ids {
        table.begin(*id, &driver, "space");
    }
    assert_eq!(table.with_driver(driver.worker_id), ids);
    assert_eq!(table.with_driver_on(driver.node_id), ids);
    for id in &ids {
        table.end(*id);
        table.end(*id);
        assert!(table.running(*id).is_none());
    }
    assert!(table.get(ids[0]).is_none());
    assert!(table.get(ids[1]).is_some_and(|job| !job.running));
}
