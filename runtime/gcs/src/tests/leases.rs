//! Cuts, pauses and kills at random, with the true time known: no actor ever has two living processes, and a head that only
//! stood still loses nothing.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use sparkray_common::{ActorId, HEARTBEAT_INTERVAL, NODE_SILENCE, NodeId, NodeLease, PROVEN_STALL};
use sparkray_proto::actor_report::Outcome;
use sparkray_proto::head_message::Message;
use sparkray_proto::node_message::Message as FromNode;
use sparkray_proto::{ActorReport, ActorState};

use super::{Cluster, actor_id, node_id, register_node, worker};

const STEP: Duration = Duration::from_millis(100);
const NODES: u8 = 3;
const ACTORS: u8 = 4;

#[derive(Debug, Clone)]
enum Event {
    /// The network between a node and the head's host drops everything from now on, or no more.
    Cut(u8, bool),
    PauseHead(bool),
    /// The raylet is stopped; its workers are not.
    PauseRaylet(u8, bool),
    KillRaylet(u8),
    /// A stream breaks: heartbeats and their answers are lost, all else is sent again.
    Break(u8),
    Restart(u8),
    Pass(u8),
}

fn events() -> impl Strategy<Value = Event> {
    let node = || 0..NODES;
    prop_oneof![
        2 => (node(), any::<bool>()).prop_map(|(node, cut)| Event::Cut(node, cut)),
        1 => any::<bool>().prop_map(Event::PauseHead),
        2 => (node(), any::<bool>()).prop_map(|(node, paused)| Event::PauseRaylet(node, paused)),
        1 => node().prop_map(Event::KillRaylet),
        1 => node().prop_map(Event::Break),
        1 => (0..ACTORS).prop_map(Event::Restart),
        6 => (1..60_u8).prop_map(Event::Pass),
    ]
}

/// A message with the time of its sending, for heartbeats.
#[derive(Debug)]
enum Up {
    Heartbeat(Duration),
    Said(FromNode),
}

#[derive(Debug)]
enum Down {
    Acknowledged(Duration),
    Told(Message),
}

/// A raylet and its workers, as processes of a real host.
#[derive(Debug)]
struct Host {
    id: NodeId,
    lease: NodeLease,
    /// What the raylet wrote for its workers.
    workers_end_at: Duration,
    last_heartbeat: Duration,
    cut: bool,
    paused: bool,
    /// The raylet runs, paused or not.
    lives: bool,
    /// Its kernel has told the head of its end, or will.
    end_is_told: bool,
    up: VecDeque<Up>,
    down: VecDeque<Down>,
    processes: BTreeMap<ActorId, u64>,
}

struct World {
    cluster: Cluster,
    begun: Instant,
    hosts: Vec<Host>,
    head_paused: bool,
    last_tick: Duration,
    births: u8,
    workers: u8,
    /// Nothing but the head's pauses has happened.
    only_pauses: bool,
}

impl World {
    fn new() -> Self {
        let mut cluster = Cluster::new();
        let begun = cluster.now;
        let mut world = Self {
            hosts: (0..NODES)
                .map(|_| Host::new(NodeId::NIL, Duration::ZERO))
                .collect(),
            head_paused: false,
            last_tick: Duration::ZERO,
            births: 0,
            workers: 0,
            only_pauses: true,
            begun,
            cluster: {
                for number in 1..=ACTORS {
                    let mut spec = cluster.spec(number, 1.0);
                    spec.max_restarts = -1;
                    cluster.register(spec).unwrap();
                }
                cluster
            },
        };
        for index in 0..NODES {
            world.join(index as usize);
        }
        world
    }

    fn now(&self) -> Duration {
        self.cluster.now - self.begun
    }

    /// A new raylet, as a new node.
    fn join(&mut self, index: usize) {
        self.births += 1;
        let id = node_id(self.births);
        if self
            .cluster
            .state
            .attach(self.cluster.now, register_node(id, 2.0))
            .is_ok()
        {
            let cut = self.hosts[index].cut;
            self.hosts[index] = Host::new(id, self.now());
            self.hosts[index].cut = cut;
        }
        self.deliver();
    }

    fn apply(&mut self, event: &Event) {
        self.only_pauses &= matches!(event, Event::PauseHead(_) | Event::Pass(_) | Event::Break(_));
        match *event {
            Event::Cut(node, cut) => self.hosts[node as usize].cut = cut,
            Event::PauseHead(paused) => self.head_paused = paused,
            Event::PauseRaylet(node, paused) => self.hosts[node as usize].paused = paused,
            Event::KillRaylet(node) => {
                let host = &mut self.hosts[node as usize];
                // The kernel ends its workers with it.
                host.processes.clear();
                host.lives = false;
            }
            Event::Break(node) => {
                let host = &mut self.hosts[node as usize];
                host.up.retain(|message| matches!(message, Up::Said(_)));
                host.down.retain(|message| matches!(message, Down::Told(_)));
            }
            Event::Restart(actor) if !self.head_paused => {
                let _ = self.cluster.kill(actor + 1, false);
                self.deliver();
            }
            Event::Restart(_) => {}
            Event::Pass(steps) => {
                for _ in 0..steps {
                    self.step();
                }
            }
        }
    }

    fn step(&mut self) {
        self.cluster.now += STEP;
        let now = self.now();
        for index in 0..self.hosts.len() {
            self.run_raylet(index, now);
            self.hosts[index].run_workers(now);
            self.check();
        }
        if !self.head_paused {
            self.run_head(now);
        }
        for index in 0..self.hosts.len() {
            // Its keeper starts another one, which needs the network.
            if !self.hosts[index].lives && !self.hosts[index].cut && !self.head_paused && self.births < 200 {
                self.hosts[index].tell_end(&mut self.cluster);
                self.join(index);
            }
        }
        self.deliver();
        self.check();
    }

    fn run_head(&mut self, now: Duration) {
        // It ticks before it has read what came while it stood still.
        self.cluster
            .state
            .heard(self.cluster.now, self.cluster.driver_node);
        self.cluster.state.tick(self.cluster.now);
        self.last_tick = now;
        self.cluster.collect();
        for host in &mut self.hosts {
            while !host.cut
                && let Some(message) = host.up.pop_front()
            {
                match message {
                    Up::Heartbeat(sent) => {
                        if self.cluster.state.tables().nodes.is_alive(host.id) {
                            self.cluster.state.heard(self.cluster.now, host.id);
                            host.down.push_back(Down::Acknowledged(sent));
                        }
                    }
                    Up::Said(message) => self.cluster.say(host.id, message),
                }
            }
        }
    }

    fn run_raylet(&mut self, index: usize, now: Duration) {
        let host = &mut self.hosts[index];
        if host.paused || !host.lives {
            return;
        }
        // The first host is the head's own: nothing lies between.
        host.cut &= index != 0;
        while !host.cut
            && let Some(message) = host.down.pop_front()
        {
            match message {
                Down::Acknowledged(sent) => host.lease.acknowledged(sent),
                Down::Told(message) => host.obey(message, &mut self.workers),
            }
        }
        if !host.cut && now >= self.last_tick + PROVEN_STALL {
            host.lease.excuse(self.last_tick, now);
        }
        if now >= host.lease.fence_at() {
            host.processes.clear();
            host.lives = false;
            return;
        }
        host.workers_end_at = host.lease.workers_end_at();
        if now >= host.last_heartbeat + HEARTBEAT_INTERVAL {
            host.last_heartbeat = now;
            host.up.push_back(Up::Heartbeat(now));
        }
    }

    /// What the head said is under way; to nodes that are gone it is lost.
    fn deliver(&mut self) {
        self.cluster.collect();
        for (id, messages) in std::mem::take(&mut self.cluster.inboxes) {
            if let Some(host) = self.hosts.iter_mut().find(|host| host.id == id) {
                host.down.extend(messages.into_iter().map(Down::Told));
            }
        }
    }

    fn check(&self) {
        for number in 1..=ACTORS {
            let id = actor_id(number);
            let homes = self.hosts.iter().filter(|host| host.processes.contains_key(&id));
            let homes: Vec<_> = homes.map(|host| host.id).collect();
            assert!(
                homes.len() <= 1,
                "actor {id} lives at {:?} on {homes:?}",
                self.now()
            );
        }
    }

    fn heal(&mut self) {
        self.head_paused = false;
        for host in &mut self.hosts {
            host.cut = false;
            host.paused = false;
        }
        for _ in 0..300 {
            self.step();
        }
    }
}

impl Host {
    fn new(id: NodeId, now: Duration) -> Self {
        let lease = NodeLease::new(now, NODE_SILENCE);
        Self {
            id,
            workers_end_at: lease.workers_end_at(),
            lease,
            last_heartbeat: now,
            cut: false,
            paused: false,
            lives: true,
            end_is_told: false,
            up: VecDeque::new(),
            down: VecDeque::new(),
            processes: BTreeMap::new(),
        }
    }

    fn run_workers(&mut self, now: Duration) {
        if now >= self.workers_end_at {
            self.processes.clear();
        }
    }

    /// What its kernel says when the raylet has ended and the network carries it.
    fn tell_end(&mut self, cluster: &mut Cluster) {
        if !std::mem::replace(&mut self.end_is_told, true) {
            cluster.state.detach(cluster.now, self.id, "its raylet ended");
        }
    }

    fn obey(&mut self, message: Message, workers: &mut u8) {
        let (actor, incarnation, outcome) = match message {
            Message::PlaceActor(place) => {
                let actor = ActorId::from_slice(&place.spec.unwrap().actor_id).unwrap();
                self.processes.insert(actor, place.incarnation);
                *workers = workers.wrapping_add(1);
                let address = worker(self.id, *workers);
                (actor, place.incarnation, Outcome::Alive((&address).into()))
            }
            Message::KillActor(kill) => {
                let actor = ActorId::from_slice(&kill.actor_id).unwrap();
                if self
                    .processes
                    .get(&actor)
                    .is_some_and(|known| *known <= kill.incarnation)
                {
                    self.processes.remove(&actor);
                }
                (actor, kill.incarnation, Outcome::WorkerDied("killed".to_owned()))
            }
            _ => return,
        };
        self.up.push_back(Up::Said(FromNode::Actor(ActorReport {
            actor_id: actor.to_vec().into(),
            incarnation,
            outcome: Some(outcome),
            pid: 1,
        })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_actor_lives_twice_and_all_come_back(events in prop::collection::vec(events(), 0..60)) {
        let mut world = World::new();
        for event in &events {
            world.apply(event);
        }
        world.heal();
        for number in 1..=ACTORS {
            prop_assert_eq!(world.cluster.actor_state(number), ActorState::Alive);
        }
        if world.only_pauses {
            prop_assert_eq!(&world.cluster.detached, &[]);
        }
    }

    #[test]
    fn a_head_that_only_stands_still_gives_nobody_up(
        stalls in prop::collection::vec((1..200_u8, 1..400_u16), 1..12)
    ) {
        let mut world = World::new();
        for (runs, stands) in stalls {
            world.apply(&Event::Pass(runs));
            world.apply(&Event::PauseHead(true));
            for _ in 0..stands {
                world.step();
            }
            world.apply(&Event::PauseHead(false));
        }
        world.heal();
        prop_assert_eq!(world.births, NODES, "a node ended itself");
        prop_assert_eq!(&world.cluster.detached, &[]);
        for number in 1..=ACTORS {
            prop_assert_eq!(world.cluster.update(number).incarnation, 0);
        }
    }
}
