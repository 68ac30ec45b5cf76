use sparkray_common::WorkerId;

use super::*;

#[test]
fn memory_is_durable_at_once() {
    let mut journal = MemoryJournal::default();
    let durable = journal.durable();
    assert_eq!(*durable.borrow(), 0);
    let died = || Record::WorkerDied {
        worker: WorkerId::random(),
    };
    assert_eq!(journal.append(vec![died(), died()]), 2);
    assert_eq!(*durable.borrow(), 2);
    assert_eq!(journal.append(vec![died()]), 3);
    assert_eq!(*durable.borrow(), 3);
}
