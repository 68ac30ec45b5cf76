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
fn given_ids_count_pass_by_those_that_drivers_chose_and_never_come_again() {
    let mut table = JobTable::default();
    let driver = driver();
    table.begin(numbered(2), &driver, "space");
    table.begin(numbered(70), &driver, "space");
    for expected in [1, 3, 4] {
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
    assert!(table.next_id() > numbered(1000), "{}", table.next_id());
    table.last_given = u32::MAX;
    assert_ne!(table.next_id(), JobId::NIL);
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
