use super::*;

#[test]
fn the_oldest_are_forgotten_when_there_are_too_many() {
    let mut dead = DeadWorkers::default();
    let workers: Vec<_> = (0..=KEPT_DEAD_WORKERS).map(|_| WorkerId::random()).collect();
    for worker in &workers {
        dead.remember(*worker);
        dead.remember(*worker);
    }
    assert!(!dead.contains(workers[0]));
    assert!(dead.contains(workers[1]) && dead.contains(workers[KEPT_DEAD_WORKERS]));
}
