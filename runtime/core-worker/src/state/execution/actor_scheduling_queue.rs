//! Order and duplicates of calls at an actor: what each caller has sent, and what it has been told.
//!
//! A call starts once. When its caller sends it again, because a connection broke, the answer goes where the newest
//! one came from: at once if it is known, else when the call ends. The newest is the one that was sent last, not the one
//! that arrived last: after a pause an old connection may still deliver what another one has brought already. Answers are
//! kept until they are acknowledged.

use std::cmp::Ordering;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sparkray_common::WorkerId;

use super::IncomingTask;
use crate::hash::IdMap;
use crate::state::links::ConnId;

/// How far a call is.
#[derive(Debug)]
enum Progress {
    /// It waits or runs; the answer goes there.
    Running { conn: ConnId, correlation: u64 },
    /// The frame that answers it.
    Answered(Bytes),
    /// The caller has the answer.
    Acknowledged,
}

/// The calls of one caller.
#[derive(Debug, Default)]
struct ActorSchedulingQueue {
    /// The caller has the answers of all calls before it.
    first: u64,
    /// Calls from `first` on, in order.
    calls: VecDeque<Progress>,
    /// Calls that came before their turn.
    early: BTreeMap<u64, IncomingTask>,
}

impl ActorSchedulingQueue {
    fn next(&self) -> u64 {
        self.first + self.calls.len() as u64
    }

    fn place(&mut self, sequence: u64) -> Option<&mut Progress> {
        let index = sequence.checked_sub(self.first)?;
        self.calls.get_mut(index as usize)
    }

    fn acknowledge_before(&mut self, sequence: u64) {
        while self.first < sequence {
            match self.calls.front() {
                Some(Progress::Answered(_) | Progress::Acknowledged) => {
                    self.calls.pop_front();
                    self.first += 1;
                }
                // A caller cannot have the answer of a call that runs.
                Some(Progress::Running { .. }) => return,
                // It has the answers of calls that did not come: they could not be read, and were refused.
                None => self.first = sequence,
            }
        }
    }

    /// Starts calls that came early and whose turn it is.
    fn start_early(&mut self, start: &mut impl FnMut(IncomingTask)) {
        while let Some((sequence, _)) = self.early.first_key_value() {
            let (sequence, next) = (*sequence, self.next());
            if sequence > next {
                return;
            }
            if let (Some(task), true) = (self.early.remove(&sequence), sequence == next) {
                self.start(task, start);
            }
        }
    }

    fn start(&mut self, task: IncomingTask, start: &mut impl FnMut(IncomingTask)) {
        self.calls.push_back(Progress::Running {
            conn: task.conn,
            correlation: task.correlation,
        });
        start(task);
    }

    fn drop_acknowledged(&mut self) {
        while let Some(Progress::Acknowledged) = self.calls.front() {
            self.calls.pop_front();
            self.first += 1;
        }
    }

    fn is_idle(&self) -> bool {
        self.early.is_empty()
            && !self
                .calls
                .iter()
                .any(|call| matches!(call, Progress::Running { .. }))
    }
}

/// The calls of all callers of this actor.
#[derive(Debug, Default)]
pub(in crate::state) struct ActorSchedulingQueues {
    callers: IdMap<WorkerId, ActorSchedulingQueue>,
}

impl ActorSchedulingQueues {
    /// A call came. `start` takes those whose turn it is. Gives the answer of one that came before and was answered.
    pub(super) fn arrive(
        &mut self,
        task: IncomingTask,
        sequence: u64,
        acknowledged: u64,
        mut start: impl FnMut(IncomingTask),
    ) -> Option<Bytes> {
        // A caller that is not known any more has acknowledged whatever came before.
        let caller = self
            .callers
            .entry(task.caller.worker_id)
            .or_insert_with(|| ActorSchedulingQueue {
                first: acknowledged,
                ..ActorSchedulingQueue::default()
            });
        caller.acknowledge_before(acknowledged);
        if !caller.early.is_empty() {
            caller.start_early(&mut start);
        }
        let next = caller.next();
        match sequence.cmp(&next) {
            Ordering::Greater => match caller.early.entry(sequence) {
                Entry::Vacant(place) => {
                    place.insert(task);
                }
                Entry::Occupied(mut earlier) => {
                    if task.correlation > earlier.get().correlation {
                        earlier.insert(task);
                    }
                }
            },
            Ordering::Equal => {
                caller.start(task, &mut start);
                caller.start_early(&mut start);
            }
            Ordering::Less => match caller.place(sequence) {
                Some(Progress::Answered(answer)) => return Some(answer.clone()),
                Some(Progress::Running { conn, correlation }) => {
                    // An older connection may deliver it last. Correlations of a caller grow.
                    if task.correlation > *correlation {
                        (*conn, *correlation) = (task.conn, task.correlation);
                    }
                }
                Some(Progress::Acknowledged) | None => {}
            },
        }
        None
    }

    /// A call that came before its turn.
    pub(super) fn early(&mut self, caller: WorkerId, sequence: u64) -> Option<&mut IncomingTask> {
        self.callers.get_mut(&caller)?.early.get_mut(&sequence)
    }

    /// Where the answer of a call goes.
    pub(super) fn place_of(&mut self, caller: WorkerId, sequence: u64) -> Option<(ConnId, u64)> {
        match self.callers.get_mut(&caller)?.place(sequence)? {
            Progress::Running { conn, correlation } => Some((*conn, *correlation)),
            Progress::Answered(_) | Progress::Acknowledged => None,
        }
    }

    /// A call was answered with `frame`.
    pub(super) fn answered(&mut self, caller: WorkerId, sequence: u64, frame: Bytes) {
        let place = self
            .callers
            .get_mut(&caller)
            .and_then(|caller| caller.place(sequence));
        if let Some(place) = place {
            *place = Progress::Answered(frame);
        }
    }

    /// A caller has the answers of all calls before `first`, and of `sequences`. `start` takes calls that waited for one
    /// that did not come, because it could not be read.
    pub(super) fn acknowledge(
        &mut self,
        caller: WorkerId,
        first: u64,
        sequences: &[u64],
        mut start: impl FnMut(IncomingTask),
    ) {
        let Some(caller) = self.callers.get_mut(&caller) else {
            return;
        };
        caller.acknowledge_before(first);
        for sequence in sequences {
            if let Some(place @ Progress::Answered(_)) = caller.place(*sequence) {
                *place = Progress::Acknowledged;
            } else if *sequence == caller.next() {
                caller.calls.push_back(Progress::Acknowledged);
                caller.start_early(&mut start);
            }
        }
        caller.drop_acknowledged();
        caller.start_early(&mut start);
    }

    /// A caller is dead: nobody will ask for its answers.
    pub(super) fn forget_idle(&mut self, caller: WorkerId) {
        if self
            .callers
            .get(&caller)
            .is_some_and(ActorSchedulingQueue::is_idle)
        {
            self.callers.remove(&caller);
        }
    }

    #[cfg(test)]
    pub(in crate::state) fn kept_answers(&self) -> usize {
        self.callers
            .values()
            .flat_map(|caller| &caller.calls)
            .filter(|call| matches!(call, Progress::Answered(_)))
            .count()
    }

    #[cfg(test)]
    pub(in crate::state) fn len(&self) -> usize {
        self.callers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sparkray_common::{FunctionId, JobId, NodeId, TaskId, WorkerAddress};

    fn task(caller: WorkerId, conn: ConnId) -> IncomingTask {
        IncomingTask {
            task_id: TaskId::NIL,
            name: String::new(),
            method: String::new(),
            function_id: FunctionId::NIL,
            num_returns: 1,
            attempt: 0,
            num_threads: 0,
            bundle: None,
            job_id: JobId::NIL,
            arguments: Bytes::new(),
            keyword_names: Vec::new(),
            references: Vec::new(),
            unreadable: None,
            caller: WorkerAddress {
                node_id: NodeId::NIL,
                worker_id: caller,
                node_address: String::new(),
            },
            sequence: None,
            conn,
            correlation: 100 + conn,
            started: 0,
        }
    }

    struct Actor {
        queues: ActorSchedulingQueues,
        caller: WorkerId,
        started: u32,
    }

    impl Actor {
        fn arrive(&mut self, sequence: u64, acknowledged: u64, conn: ConnId) -> Option<Bytes> {
            let started = &mut self.started;
            let call = task(self.caller, conn);
            self.queues
                .arrive(call, sequence, acknowledged, |_| *started += 1)
        }

        fn acknowledge(&mut self, first: u64, sequences: &[u64]) {
            let started = &mut self.started;
            self.queues
                .acknowledge(self.caller, first, sequences, |_| *started += 1);
        }
    }

    fn actor() -> Actor {
        Actor {
            queues: ActorSchedulingQueues::default(),
            caller: WorkerId::from_array([1; 16]),
            started: 0,
        }
    }

    #[test]
    fn calls_that_come_early_wait_for_their_turn() {
        let mut actor = actor();
        actor.arrive(2, 0, 1);
        actor.arrive(1, 0, 1);
        assert_eq!(actor.started, 0);
        actor.arrive(0, 0, 1);
        assert_eq!(actor.started, 3);
    }

    #[test]
    fn a_call_that_comes_again_is_answered_where_it_came_from() {
        let mut actor = actor();
        actor.arrive(0, 0, 1);
        // While it runs.
        assert_eq!(actor.arrive(0, 0, 2), None);
        assert_eq!(actor.queues.place_of(actor.caller, 0), Some((2, 102)));
        actor
            .queues
            .answered(actor.caller, 0, Bytes::from_static(b"answer"));
        // And after it was answered.
        assert_eq!(actor.arrive(0, 0, 3), Some(Bytes::from_static(b"answer")));
        assert_eq!(actor.started, 1);
    }

    #[test]
    fn the_answer_goes_where_the_call_was_sent_last_not_where_it_arrived_last() {
        let mut actor = actor();
        // Connection 3 is the newest; what was sent over connection 2 arrives after it.
        actor.arrive(1, 0, 3);
        actor.arrive(1, 0, 2);
        actor.arrive(0, 0, 3);
        actor.arrive(0, 0, 2);
        assert_eq!(actor.started, 2);
        for sequence in [0, 1] {
            assert_eq!(actor.queues.place_of(actor.caller, sequence), Some((3, 103)));
        }
    }

    #[test]
    fn answers_are_forgotten_when_they_are_acknowledged() {
        let mut actor = actor();
        for sequence in 0..4 {
            actor.arrive(sequence, 0, 1);
        }
        for sequence in [1, 2, 3] {
            actor.queues.answered(actor.caller, sequence, Bytes::new());
        }
        // The first runs for long; the others are acknowledged one by one.
        actor.acknowledge(0, &[1, 3]);
        assert_eq!(actor.queues.kept_answers(), 1);
        actor.queues.answered(actor.caller, 0, Bytes::new());
        actor.arrive(4, 4, 1);
        assert_eq!(actor.queues.kept_answers(), 0);
        actor.queues.answered(actor.caller, 4, Bytes::new());
        actor.acknowledge(5, &[]);
        actor.queues.forget_idle(actor.caller);
        assert_eq!(actor.queues.len(), 0);
        // Its next call says where it is.
        let started = actor.started;
        actor.arrive(5, 5, 1);
        assert_eq!(actor.started, started + 1);
    }

    #[test]
    fn a_call_that_never_came_in_readable_form_is_skipped_once_its_caller_knows() {
        let mut actor = actor();
        actor.arrive(0, 0, 1);
        // The second and third were refused; the fourth waits for them.
        actor.arrive(3, 0, 1);
        assert_eq!(actor.started, 1);
        actor.acknowledge(0, &[1, 2]);
        assert_eq!(actor.started, 2);
        // All before the seventh are answered, the fifth and sixth by refusals.
        for sequence in [0, 3] {
            actor.queues.answered(actor.caller, sequence, Bytes::new());
        }
        actor.arrive(6, 6, 1);
        assert_eq!(actor.started, 3);
        // The eighth is refused while the seventh runs, and known by the ninth.
        actor.arrive(8, 6, 1);
        assert_eq!(actor.started, 3);
        actor.queues.answered(actor.caller, 6, Bytes::new());
        actor.arrive(9, 8, 1);
        assert_eq!(actor.started, 5);
    }

    #[test]
    fn a_caller_whose_calls_run_is_not_forgotten() {
        let mut actor = actor();
        actor.arrive(0, 0, 1);
        actor.queues.forget_idle(actor.caller);
        assert_eq!(actor.queues.len(), 1);
        actor.queues.answered(actor.caller, 0, Bytes::new());
        actor.queues.forget_idle(actor.caller);
        assert_eq!(actor.queues.len(), 0);
    }
}
