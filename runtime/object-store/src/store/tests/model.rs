//! Random clients on a small store: whatever happens, bytes that are in use do not change, every request is
//! answered, and nothing is left at the end.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const CLIENTS: u64 = 3;
const OBJECTS: u32 = 6;
const PAGES: u64 = 12;

#[derive(Debug, Clone)]
enum Step {
    Create {
        by: u64,
        number: u32,
        pages: u64,
    },
    Finish {
        index: usize,
        abort: bool,
    },
    Get {
        by: u64,
        number: u32,
        here: bool,
        elsewhere: bool,
    },
    Release {
        index: usize,
    },
    Free {
        number: u32,
    },
    ClientGone {
        by: u64,
    },
    ClientLeft {
        by: u64,
    },
    OwnerGone,
    Job {
        index: usize,
        fail: bool,
    },
    PullRoom {
        index: usize,
        pages: u64,
    },
    PullEnd {
        index: usize,
        fail: bool,
    },
    Push {
        number: u32,
    },
    PushEnd {
        index: usize,
    },
    Pass {
        seconds: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let by = 0..CLIENTS;
    let number = 0..OBJECTS;
    let index = any::<usize>();
    let step = prop_oneof![
        6 => (by.clone(), number.clone(), 1..PAGES + 3)
            .prop_map(|(by, number, pages)| Step::Create { by, number, pages }),
        6 => (index, prop::bool::weighted(0.2)).prop_map(|(index, abort)| Step::Finish { index, abort }),
        6 => (by.clone(), number.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(by, number, here, elsewhere)| Step::Get { by, number, here, elsewhere }),
        5 => index.prop_map(|index| Step::Release { index }),
        2 => number.clone().prop_map(|number| Step::Free { number }),
        1 => by.clone().prop_map(|by| Step::ClientGone { by }),
        1 => by.prop_map(|by| Step::ClientLeft { by }),
        1 => Just(Step::OwnerGone),
        6 => (index, prop::bool::weighted(0.2)).prop_map(|(index, fail)| Step::Job { index, fail }),
        2 => (index, 1..PAGES + 3).prop_map(|(index, pages)| Step::PullRoom { index, pages }),
        2 => (index, any::<bool>()).prop_map(|(index, fail)| Step::PullEnd { index, fail }),
        2 => number.prop_map(|number| Step::Push { number }),
        2 => index.prop_map(|index| Step::PushEnd { index }),
        3 => (1_u64..12).prop_map(|seconds| Step::Pass { seconds }),
    ];
    prop::collection::vec(step, 1..120)
}

struct Writing {
    by: ClientId,
    number: u32,
    range: MappedRange,
}

struct Reading {
    by: ClientId,
    object: ObjectId,
    range: MappedRange,
    stamp: u64,
}

/// What the clients know.
struct Model {
    harness: Harness,
    /// The client numbers in use now; a client that died comes back under a new one.
    clients: Vec<u64>,
    next_client: u64,
    creates: HashMap<u64, (u64, u32)>,
    gets: HashMap<u64, (u64, u32)>,
    writing: Vec<Writing>,
    reading: Vec<Reading>,
    pulling: Vec<(PullTicket, ObjectId, Vec<ObjectLocation>)>,
    pushing: Vec<(PushSource, u64)>,
    pushes_waiting: HashSet<u64>,
    next_stamp: u64,
}

/// The object and one of its lives.
fn stamp(number: u32, life: u64) -> u64 {
    (u64::from(number) << 32) | life
}

fn fill(range: &mut MappedRange, stamp: u64) {
    for word in range.as_mut_slice().chunks_exact_mut(8) {
        word.copy_from_slice(&stamp.to_le_bytes());
    }
}

/// The stamp, which all words must have.
fn read_stamp(bytes: &[u8]) -> u64 {
    let first: [u8; 8] = bytes[..8].try_into().unwrap();
    assert!(
        bytes.chunks_exact(8).all(|word| word == first),
        "the bytes of an object are of one life"
    );
    u64::from_le_bytes(first)
}

impl Model {
    fn new() -> Self {
        Self {
            harness: Harness::new(PAGES),
            clients: (0..CLIENTS).collect(),
            next_client: CLIENTS,
            creates: HashMap::new(),
            gets: HashMap::new(),
            writing: Vec::new(),
            reading: Vec::new(),
            pulling: Vec::new(),
            pushing: Vec::new(),
            pushes_waiting: HashSet::new(),
            next_stamp: 1,
        }
    }

    fn new_stamp(&mut self, number: u32) -> u64 {
        self.next_stamp += 1;
        stamp(number, self.next_stamp)
    }

    /// Hears the answers, and stops the pulls that are cancelled.
    fn listen(&mut self) {
        self.hear_answers();
        while let Some(ticket) = self.harness.cancelled.pop() {
            self.end_pull(ticket, true);
            self.hear_answers();
        }
    }

    fn hear_answers(&mut self) {
        let created: Vec<(u64, Answer)> = self.harness.created.drain().collect();
        for (correlation, answer) in created {
            let (by, number) = self
                .creates
                .remove(&correlation)
                .expect("only requests are answered, and once");
            if let Answer::Write(mut range) = answer {
                let by = client(by);
                // A create that was repeated is answered with the same room; written anew.
                self.writing
                    .retain(|writing| writing.by != by || writing.number != number);
                let stamp = self.new_stamp(number);
                fill(&mut range, stamp);
                self.writing.push(Writing { by, number, range });
            }
        }
        let ready: Vec<_> = self.harness.ready.drain().collect();
        for (correlation, answers) in ready {
            for (object, answer) in answers {
                let (by, number) = self
                    .gets
                    .remove(&correlation)
                    .expect("only requests are answered, and once");
                assert_eq!(object, super::object(number));
                if let Answer::Read(range) = answer {
                    let stamp = read_stamp(range.as_slice());
                    assert_eq!(
                        (stamp >> 32) as u32,
                        number,
                        "the bytes are of the object that was asked for"
                    );
                    self.reading.push(Reading {
                        by: client(by),
                        object,
                        range,
                        stamp,
                    });
                }
            }
        }
        self.pulling.append(&mut self.harness.pulls);
        for (correlation, source) in std::mem::take(&mut self.harness.pushed) {
            assert!(
                self.pushes_waiting.remove(&correlation),
                "only requests are answered, and once"
            );
            if let Ok(source) = source {
                let stamp = read_stamp(&source.bytes.read(0, usize::MAX).unwrap());
                self.pushing.push((source, stamp));
            }
        }
    }

    fn end_pull(&mut self, ticket: PullTicket, fail: bool) {
        let target = self.harness.rooms.remove(&ticket);
        let place = self.pulling.iter().position(|(known, _, _)| *known == ticket);
        let object = place.map(|place| self.pulling.swap_remove(place).1);
        match (target, object) {
            (Some(mut target), Some(object)) if !fail => {
                let stamp = self.new_stamp(object.index());
                fill(&mut target, stamp);
                self.harness.store.pull_finished(ticket, target);
            }
            (target, _) => {
                drop(target);
                self.harness.store.pull_failed(ticket, "the other node is gone");
            }
        }
        self.harness.settle();
    }

    fn check_readers(&self) {
        for reading in &self.reading {
            assert_eq!(
                read_stamp(reading.range.as_slice()),
                reading.stamp,
                "objects in use do not change"
            );
        }
        for (source, stamp) in &self.pushing {
            assert_eq!(read_stamp(&source.bytes.read(0, usize::MAX).unwrap()), *stamp);
        }
    }

    fn release(&mut self, index: usize) {
        // The store cannot tell two lives apart: this client's oldest use goes first, as in `Uses`.
        let reading = self.reading.remove(index);
        let (by, object) = (reading.by, reading.object);
        let others = self
            .reading
            .iter()
            .any(|other| other.by == by && other.object == object);
        if others {
            // Keeps what it still reads valid only together: check that, then let all go.
            let mut count = 1;
            self.check_readers();
            self.reading.retain(|other| {
                let same = other.by == by && other.object == object;
                count += usize::from(same);
                !same
            });
            drop(reading);
            for _ in 0..count {
                self.harness.release(by.0, object.index());
            }
            return;
        }
        drop(reading);
        self.harness.release(by.0, object.index());
    }

    fn finish(&mut self, index: usize, abort: bool) {
        let writing = self.writing.remove(index);
        drop(writing.range);
        if abort {
            self.harness.abort(writing.by.0, writing.number);
        } else {
            self.harness.seal(writing.by.0, writing.number);
        }
    }

    /// Its process goes on: it reads and writes what it has, and lets go of it later.
    fn client_left(&mut self, place: usize) {
        let left = std::mem::replace(&mut self.clients[place], self.next_client);
        self.next_client += 1;
        self.creates.retain(|_, (by, _)| *by != left);
        self.gets.retain(|_, (by, _)| *by != left);
        self.harness.store.client_left(client(left));
        self.harness.settle();
    }

    fn client_gone(&mut self, place: usize) {
        let gone = std::mem::replace(&mut self.clients[place], self.next_client);
        self.next_client += 1;
        self.writing.retain(|writing| writing.by.0 != gone);
        self.reading.retain(|reading| reading.by.0 != gone);
        self.creates.retain(|_, (by, _)| *by != gone);
        self.gets.retain(|_, (by, _)| *by != gone);
        self.harness.store.client_gone(client(gone));
        self.harness.settle();
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Create { by, number, pages } => {
                let by = self.clients[by as usize];
                let correlation = self.harness.next_correlation;
                self.creates.insert(correlation, (by, number));
                assert_eq!(self.harness.create(by, number, pages), correlation);
            }
            Step::Finish { index, abort } if !self.writing.is_empty() => {
                self.finish(index % self.writing.len(), abort);
            }
            Step::Get {
                by,
                number,
                here,
                elsewhere,
            } => {
                let by = self.clients[by as usize];
                let mut nodes = Vec::new();
                if here {
                    nodes.push(self.harness.node);
                }
                if elsewhere {
                    nodes.push(NodeId::random());
                }
                let correlation = self.harness.next_correlation;
                self.gets.insert(correlation, (by, number));
                assert_eq!(self.harness.get_from(by, number, &nodes), correlation);
            }
            Step::Release { index } if !self.reading.is_empty() => self.release(index % self.reading.len()),
            Step::Free { number } => self.harness.free(number),
            Step::ClientGone { by } => self.client_gone(by as usize),
            Step::ClientLeft { by } => self.client_left(by as usize),
            Step::OwnerGone => {
                let worker = std::mem::replace(&mut self.harness.owner.worker_id, WorkerId::random());
                self.harness.store.owner_gone(worker);
                self.harness.settle();
            }
            Step::Job { index, fail } if !self.harness.jobs.is_empty() => {
                let index = index % self.harness.jobs.len();
                if fail {
                    self.harness.fail_job(index);
                } else {
                    self.harness.run_job(index);
                }
            }
            Step::PullRoom { index, pages } if !self.pulling.is_empty() => {
                let ticket = self.pulling[index % self.pulling.len()].0;
                let owner = self.harness.owner.clone();
                self.harness.store.pull_room(ticket, pages * PAGE_SIZE, owner);
                self.harness.settle();
            }
            Step::PullEnd { index, fail } if !self.pulling.is_empty() => {
                let ticket = self.pulling[index % self.pulling.len()].0;
                self.end_pull(ticket, fail || !self.harness.rooms.contains_key(&ticket));
            }
            Step::Push { number } => {
                let correlation = self.harness.next_correlation;
                self.harness.next_correlation += 1;
                self.pushes_waiting.insert(correlation);
                self.harness
                    .store
                    .push(client(u64::MAX), correlation, super::object(number));
                self.harness.settle();
            }
            Step::PushEnd { index } if !self.pushing.is_empty() => {
                let (source, _) = self.pushing.swap_remove(index % self.pushing.len());
                let (ticket, size) = (source.ticket, source.size);
                drop(source);
                self.harness.store.push_finished(ticket, size);
                self.harness.settle();
            }
            Step::Pass { seconds } => self.harness.pass(Duration::from_secs(seconds)),
            Step::Finish { .. }
            | Step::Release { .. }
            | Step::Job { .. }
            | Step::PullRoom { .. }
            | Step::PullEnd { .. }
            | Step::PushEnd { .. } => {}
        }
        self.listen();
        self.check_readers();
    }

    /// Everybody does what is expected of him until nothing changes: then every request must have been answered.
    fn finish_all(&mut self) {
        for _ in 0..200 {
            while !self.writing.is_empty() {
                self.finish(0, false);
                self.listen();
            }
            while !self.reading.is_empty() {
                self.release(0);
                self.listen();
            }
            while let Some((source, _)) = self.pushing.pop() {
                let (ticket, size) = (source.ticket, source.size);
                drop(source);
                self.harness.store.push_finished(ticket, size);
                self.harness.settle();
                self.listen();
            }
            while let Some((ticket, _, _)) = self.pulling.first() {
                let ticket = *ticket;
                self.end_pull(ticket, true);
                self.listen();
            }
            while !self.harness.jobs.is_empty() {
                self.harness.run_job(0);
                self.listen();
            }
            // What nobody has announced yet is made now.
            let waited_for: Vec<u32> = self.gets.values().map(|(_, number)| *number).collect();
            for number in waited_for {
                if !self.harness.store.contains(super::object(number)) && self.creates.is_empty() {
                    self.apply(Step::Create {
                        by: 0,
                        number,
                        pages: 1,
                    });
                }
            }
            self.harness.pass(Duration::from_secs(11));
            self.listen();
        }
        assert!(
            self.creates.is_empty(),
            "creates without an answer: {:?}",
            self.creates
        );
        assert!(self.gets.is_empty(), "gets without an answer: {:?}", self.gets);
        assert!(
            self.pushes_waiting.is_empty(),
            "pushes without an answer: {:?}",
            self.pushes_waiting
        );
        for number in 0..OBJECTS {
            self.harness.free(number);
        }
        self.harness.run_jobs();
        let store = &self.harness.store;
        assert!(store.slots.is_empty(), "slots are left: {:?}", store.slots);
        assert!(store.owners.is_empty() && store.demands.is_empty() && store.fallbacks.is_empty());
        assert!(store.opened.is_empty());
        assert!(store.pulls.is_empty() && store.pushes.is_empty());
        assert_eq!(
            (
                store.memory.allocated(),
                store.memory.busy(),
                store.disk.allocated()
            ),
            (0, 0, 0)
        );
        assert!(
            store.segments.keys().all(|segment| !segment.is_on_disk()),
            "segments on disk are closed"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn bytes_in_use_do_not_change_and_every_request_is_answered(steps in steps()) {
        let mut model = Model::new();
        for step in steps {
            model.apply(step);
        }
        model.finish_all();
    }
}
