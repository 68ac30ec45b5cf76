use super::*;

#[test]
fn a_refusal_counts_until_the_node_reports_or_time_has_passed() {
    let (mut waits, now) = (Waits::default(), Instant::now());
    let (actor, node) = (ActorId::random(), NodeId::random());
    waits.refused(now, actor, node, 3);
    assert_eq!(waits.refusals(now, actor, |_| 3), [node]);
    assert!(waits.refusals(now, actor, |_| 4).is_empty());
    waits.refused(now, actor, node, 4);
    assert!(waits.refusals(now + REFUSAL_AGE, actor, |_| 4).is_empty());
}

#[test]
fn a_wait_is_reported_once_and_begins_anew_with_the_next_incarnation() {
    let (mut waits, now) = (Waits::default(), Instant::now());
    let actor = ActorId::random();
    waits.begin(now, actor);
    let later = now + Duration::from_secs(2);
    assert_eq!(waits.unreported(later, actor), Some(Duration::from_secs(2)));
    waits.reported(actor);
    assert_eq!(waits.unreported(later, actor), None);
    waits.begin_again(later, actor);
    assert_eq!(waits.unreported(later, actor), Some(Duration::ZERO));
    waits.end(now, actor);
    assert_eq!(waits.unreported(later, actor), None);
}

#[test]
fn an_end_that_does_not_come_is_asked_for_again_and_again() {
    let (mut waits, now) = (Waits::default(), Instant::now());
    let actor = ActorId::random();
    waits.stopping(now, actor);
    assert!(waits.overdue_ends(now).is_empty());
    let later = now + STOP_DEADLINE;
    assert_eq!(waits.overdue_ends(later), [actor]);
    assert!(waits.overdue_ends(later).is_empty());
    assert_eq!(waits.overdue_ends(later + STOP_DEADLINE), [actor]);
    waits.begin_again(later, actor);
    assert!(waits.overdue_ends(later + STOP_DEADLINE).is_empty());
}
