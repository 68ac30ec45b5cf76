//! The virtual clock, and what is to happen at which time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use sparkray_common::{NodeId, ObjectId, WorkerId};
use sparkray_object_store::{IoJob, MappedRange, PullTicket, PushTicket};
use sparkray_proto::Failure;
use sparkray_raylet::simulation::ChildEnd;

/// Something that happens at a time. Numbers are places in the cluster's lists.
#[derive(Debug)]
pub(crate) enum Event {
    /// What is on the way to one end of a link arrives.
    Deliver {
        link: usize,
        side: usize,
    },
    /// One end of a link hears nothing through a cut and gives the connection up.
    GiveUp {
        link: usize,
        side: usize,
    },
    /// A slow link is as fast as others again.
    LetGo {
        link: usize,
    },
    HeadTick,
    /// The head runs again.
    HeadContinues,
    RayletTick {
        node: usize,
    },
    Heartbeat {
        node: usize,
    },
    /// A question to the head, or an attempt to attach, has taken too long.
    TooLate {
        link: usize,
    },
    /// The manager of a host starts a raylet.
    StartNode {
        host: usize,
    },
    /// A worker was forked, or has come as far as its registration.
    Forked {
        node: usize,
        process: usize,
    },
    Registers {
        process: usize,
    },
    ChildEnded {
        node: usize,
        pid: u32,
        end: ChildEnd,
    },
    ProcessGone {
        node: usize,
        connection: u64,
    },
    /// A worker had time to end by itself.
    KillLater {
        node: usize,
        worker: WorkerId,
    },
    StoreWork {
        node: usize,
        job: IoJob,
    },
    Pushed {
        node: usize,
        ticket: PushTicket,
        bytes: u64,
    },
    PullEnded {
        node: usize,
        ticket: PullTicket,
        object: ObjectId,
        outcome: Box<Result<MappedRange, Failure>>,
    },
    RetryPull {
        node: usize,
        ticket: PullTicket,
    },
    /// An exchange between raylets has taken too long.
    ExchangeTooLate {
        node: usize,
        exchange: u64,
    },
    StallAnswered {
        node: usize,
        asked: Duration,
        stall: Option<Duration>,
    },
    FreesTold {
        node: usize,
        target: NodeId,
        left: Vec<sparkray_proto::FreeEntry>,
    },
    /// A process does what it does by itself.
    Wake {
        process: usize,
    },
    /// A process's timers.
    Timer {
        process: usize,
    },
    /// The driver's program, and what goes wrong.
    Program,
    Fault,
    Heal,
}

/// The clock.
#[derive(Debug)]
pub(crate) struct Agenda {
    began: Instant,
    /// Microseconds.
    pub(crate) now: u64,
    order: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    last: u64,
}

impl Agenda {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            // Clocks count from before the simulation.
            now: 1_000_000,
            order: BinaryHeap::new(),
            events: BTreeMap::new(),
            last: 0,
        }
    }

    /// The time as the parts want it.
    pub(crate) fn instant(&self) -> Instant {
        self.began + self.clock()
    }

    /// The time since the clock's zero.
    pub(crate) fn clock(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    pub(crate) fn at(&mut self, time: u64, event: Event) {
        self.last += 1;
        self.order.push(Reverse((time.max(self.now), self.last)));
        self.events.insert(self.last, event);
    }

    pub(crate) fn after(&mut self, micros: u64, event: Event) {
        self.at(self.now + micros, event);
    }

    /// The next event until `end`; the time is its time then. `None`: the time is `end`.
    pub(crate) fn next(&mut self, end: u64) -> Option<Event> {
        let Some(Reverse((time, number))) = self.order.peek().copied().filter(|next| next.0.0 <= end) else {
            self.now = self.now.max(end);
            return None;
        };
        self.order.pop();
        self.now = time;
        self.events.remove(&number)
    }
}
