use sparkray_common::{Language, RuntimeEnvironment};

use super::*;

fn key(value: usize) -> WorkerKey {
    let environment = RuntimeEnvironment::new([("N".to_owned(), value.to_string())].into());
    WorkerKey {
        language: Language::Python,
        environment: environment.unwrap(),
    }
}

fn number(zygotes: &mut Zygotes, key: &WorkerKey, now: Instant) -> u64 {
    zygotes.need(key, now).unwrap().number
}

#[test]
fn there_are_so_many_and_the_one_needed_longest_ago_gives_way() {
    let now = Instant::now();
    let mut zygotes = Zygotes::new();
    assert_eq!(number(&mut zygotes, &WorkerKey::default(), now), OWN);
    for index in 0..MAX_OTHERS {
        assert!(!zygotes.has_no_place_for(&key(index)));
        number(&mut zygotes, &key(index), now + Duration::from_secs(index as u64));
    }
    let another = key(MAX_OTHERS);
    let later = now + Duration::from_secs(100);
    assert!(zygotes.has_no_place_for(&another));
    assert!(!zygotes.has_no_place_for(&key(1)));
    assert_eq!(zygotes.need(&another, later), None);
    number(&mut zygotes, &key(0), later);
    let oldest = number(&mut zygotes, &key(2), now + Duration::from_secs(2));
    assert_eq!(zygotes.end_oldest(|other, _| *other != key(1)), Some(oldest));
    assert!(number(&mut zygotes, &another, later) > oldest);
    assert_eq!(zygotes.end_oldest(|_, _| false), None);
}

#[test]
fn unused_ones_end_but_for_that_of_the_node() {
    let now = Instant::now();
    let mut zygotes = Zygotes::new();
    zygotes.need(&WorkerKey::default(), now);
    let first = number(&mut zygotes, &key(1), now);
    number(&mut zygotes, &key(2), now + Duration::from_secs(1));
    assert!(zygotes.end_unused(now, |_| true).is_empty());
    assert!(zygotes.end_unused(now + UNUSED_AFTER, |_| false).is_empty());
    assert_eq!(zygotes.end_unused(now + UNUSED_AFTER, |_| true), [first]);
}

#[test]
fn one_that_starts_no_workers_is_named_and_begins_anew() {
    let now = Instant::now();
    let mut zygotes = Zygotes::new();
    for key in [WorkerKey::default(), key(1)] {
        let number = number(&mut zygotes, &key, now);
        zygotes.gave_up(number, "no such file".to_owned());
        assert_eq!(zygotes.need(&key, now), None);
        assert_eq!(zygotes.hopeless(&key), Some("no such file".to_owned()));
    }
    let ended = zygotes.end_hopeless();
    assert_eq!(ended.len(), 1);
    assert!(zygotes.is_any_hopeless());
    assert!(number(&mut zygotes, &key(1), now) > ended[0]);
    assert_eq!(zygotes.hopeless(&key(1)), None);
}

#[test]
fn news_of_one_that_has_gone_is_none_of_its_successor() {
    let now = Instant::now();
    let mut zygotes = Zygotes::new();
    let former = number(&mut zygotes, &key(1), now);
    zygotes.end_unused(now + UNUSED_AFTER, |_| true);
    let successor = number(&mut zygotes, &key(1), now + UNUSED_AFTER);
    zygotes.started(successor, 7);
    zygotes.started(former, 8);
    zygotes.ready(former);
    zygotes.start_failed(former, "late".to_owned(), now + UNUSED_AFTER);
    zygotes.gave_up(former, "late".to_owned());
    assert_eq!(zygotes.pids().collect::<Vec<_>>(), [7]);
    let asked = zygotes.need(&key(1), now + UNUSED_AFTER).unwrap();
    assert_eq!((asked.number, asked.is_ready), (successor, false));
    zygotes.ready(successor);
    assert!(zygotes.need(&key(1), now + UNUSED_AFTER).unwrap().is_ready);
}

#[test]
fn a_worker_that_did_not_start_makes_the_next_wait() {
    let now = Instant::now();
    let mut zygotes = Zygotes::new();
    let one = number(&mut zygotes, &key(1), now);
    for _ in 0..MAX_START_FAILURES {
        assert_eq!(zygotes.hopeless(&key(1)), None);
        zygotes.start_failed(one, "it did not register".to_owned(), now);
    }
    assert!(zygotes.hopeless(&key(1)).unwrap().contains("it did not register"));
    zygotes.worker_started(one);
    assert_eq!(zygotes.hopeless(&key(1)), None);
    assert_eq!(zygotes.need(&key(1), now), None);
    assert!(!zygotes.end_pauses(now));
    assert!(zygotes.end_pauses(now + START_PAUSE));
    assert!(zygotes.need(&key(1), now).is_some());
}
