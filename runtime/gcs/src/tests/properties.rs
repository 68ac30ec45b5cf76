//! Random events against nodes that behave as raylets do, late and in any interleaving.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use sparkray_common::{ActorId, NodeId, WorkerAddress, WorkerId};
use sparkray_proto::actor_report::Outcome;
use sparkray_proto::head_message::Message;
use sparkray_proto::node_message::Message as FromNode;
use sparkray_proto::{ActorReport, ActorSpec, ActorState, ResourceReport, WorkerDeath};

use super::{Cluster, actor_id, cpus};
use crate::tables::actor::Phase;

#[derive(Debug, Clone)]
enum Event {
    Attach {
        cpu: u8,
    },
    Detach {
        node: u8,
    },
    Register {
        cpu: u8,
        max_restarts: i32,
        name: Option<u8>,
        detached: bool,
        owner: Option<u8>,
    },
    Kill {
        actor: u8,
        no_restart: bool,
    },
    /// A node acts on the oldest message from the head.
    NodeReads {
        node: u8,
    },
    /// The head hears the oldest message of a node.
    HeadReads {
        node: u8,
    },
    Construct {
        node: u8,
        raises: bool,
    },
    ProcessEnds {
        node: u8,
        exits: bool,
    },
    Report {
        node: u8,
    },
    Tick,
    /// Another head goes on with the journal of the first.
    HeadRestarts,
}

fn events() -> impl Strategy<Value = Event> {
    let number = any::<u8>;
    prop_oneof![
        2 => (0_u8..5).prop_map(|cpu| Event::Attach { cpu }),
        1 => number().prop_map(|node| Event::Detach { node }),
        6 => (0_u8..4, -1..3_i32, prop::option::of(0_u8..3), prop::bool::weighted(0.2), prop::option::of(number()))
            .prop_map(|(cpu, max_restarts, name, detached, owner)| Event::Register { cpu, max_restarts, name, detached, owner }),
        2 => (number(), any::<bool>()).prop_map(|(actor, no_restart)| Event::Kill { actor, no_restart }),
        10 => number().prop_map(|node| Event::NodeReads { node }),
        10 => number().prop_map(|node| Event::HeadReads { node }),
        6 => (number(), prop::bool::weighted(0.1)).prop_map(|(node, raises)| Event::Construct { node, raises }),
        3 => (number(), any::<bool>()).prop_map(|(node, exits)| Event::ProcessEnds { node, exits }),
        3 => number().prop_map(|node| Event::Report { node }),
        3 => Just(Event::Tick),
        1 => Just(Event::HeadRestarts),
    ]
}

struct Process {
    incarnation: u64,
    cpu: f64,
    /// Known once its constructor ran.
    worker: Option<WorkerAddress>,
}

/// What a raylet is to the head.
#[derive(Default)]
struct FakeNode {
    cpu: f64,
    from_head: VecDeque<Message>,
    to_head: VecDeque<FromNode>,
    processes: BTreeMap<ActorId, Process>,
}

impl FakeNode {
    fn available(&self) -> f64 {
        self.cpu - self.processes.values().map(|process| process.cpu).sum::<f64>()
    }

    fn tell(&mut self, actor: ActorId, incarnation: u64, outcome: Outcome) {
        let actor_id = actor.to_vec().into();
        self.to_head.push_back(FromNode::Actor(ActorReport {
            actor_id,
            incarnation,
            outcome: Some(outcome),
            pid: 1,
        }));
    }

    fn end(&mut self, actor: ActorId, outcome: Outcome) {
        let Some(process) = self.processes.remove(&actor) else {
            return;
        };
        self.tell(actor, process.incarnation, outcome);
        if let Some(worker) = process.worker {
            let worker_id = worker.worker_id.to_vec().into();
            self.to_head.push_back(FromNode::WorkerDeath(WorkerDeath {
                worker_id,
                ..WorkerDeath::default()
            }));
        }
    }

    fn read(&mut self) {
        match self.from_head.pop_front() {
            Some(Message::PlaceActor(place)) => {
                let spec = place.spec.unwrap();
                let actor = ActorId::from_slice(&spec.actor_id).unwrap();
                let cpu = spec.resources.unwrap().units["CPU"];
                if cpu > self.available() {
                    return self.tell(actor, place.incarnation, Outcome::Rejected("full".to_owned()));
                }
                let process = Process {
                    incarnation: place.incarnation,
                    cpu,
                    worker: None,
                };
                assert!(
                    self.processes.insert(actor, process).is_none(),
                    "the actor is here twice"
                );
            }
            Some(Message::KillActor(kill)) => {
                let actor = ActorId::from_slice(&kill.actor_id).unwrap();
                if self
                    .processes
                    .get(&actor)
                    .is_some_and(|process| process.incarnation == kill.incarnation)
                {
                    self.end(actor, Outcome::WorkerDied("killed".to_owned()));
                }
            }
            _ => {}
        }
    }
}

struct World {
    cluster: Cluster,
    nodes: BTreeMap<NodeId, FakeNode>,
    counter: u8,
    seen: HashMap<ActorId, (u64, bool)>,
    ticks: u32,
}

impl World {
    fn pick(&self, number: u8) -> Option<NodeId> {
        let nodes: Vec<_> = self.nodes.keys().copied().collect();
        (!nodes.is_empty()).then(|| nodes[number as usize % nodes.len()])
    }

    fn next(&mut self) -> u8 {
        self.counter += 1;
        self.counter
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Attach { cpu } => {
                let id = NodeId::from_array([self.next(); 16]);
                self.cluster.attach(id, f64::from(cpu)).unwrap();
                self.nodes.insert(
                    id,
                    FakeNode {
                        cpu: f64::from(cpu),
                        ..FakeNode::default()
                    },
                );
            }
            Event::Detach { node } => {
                let Some(id) = self.pick(node) else { return };
                self.nodes.remove(&id);
                self.cluster.state.detach(self.cluster.now, id, "gone");
            }
            Event::Register {
                cpu,
                max_restarts,
                name,
                detached,
                owner,
            } => {
                let number = self.next();
                let mut spec: ActorSpec = self.cluster.spec(number, f64::from(cpu));
                // Without CPUs the map would lack the key that the fake node reads.
                spec.resources = Some(cpus(f64::from(cpu)));
                spec.max_restarts = max_restarts;
                spec.detached = detached;
                spec.name = name.map(|name| format!("name{name}")).unwrap_or_default();
                let workers: Vec<_> = self.workers();
                if let Some(owner) = owner.filter(|_| !workers.is_empty()) {
                    spec.owner = Some((&workers[owner as usize % workers.len()]).into());
                }
                let _ = self.cluster.register(spec);
            }
            Event::Kill { actor, no_restart } => {
                let _ = self.cluster.kill(actor % self.counter.max(1) + 1, no_restart);
            }
            Event::NodeReads { node } => {
                if let Some(id) = self.pick(node) {
                    self.nodes.get_mut(&id).unwrap().read();
                }
            }
            Event::HeadReads { node } => {
                let Some(id) = self.pick(node) else { return };
                if let Some(message) = self.nodes.get_mut(&id).unwrap().to_head.pop_front() {
                    self.cluster.say(id, message);
                }
            }
            Event::Construct { node, raises } => {
                let Some(id) = self.pick(node) else { return };
                let worker = super::worker(id, self.next());
                let node = self.nodes.get_mut(&id).unwrap();
                let starting = node
                    .processes
                    .iter_mut()
                    .find(|(_, process)| process.worker.is_none());
                let Some((actor, process)) = starting else { return };
                let (actor, incarnation) = (*actor, process.incarnation);
                if raises {
                    return node.end(actor, Outcome::ConstructorError("error".into()));
                }
                process.worker = Some(worker.clone());
                node.tell(actor, incarnation, Outcome::Alive((&worker).into()));
            }
            Event::ProcessEnds { node, exits } => {
                let Some(id) = self.pick(node) else { return };
                let node = self.nodes.get_mut(&id).unwrap();
                let Some(actor) = node.processes.keys().next().copied() else {
                    return;
                };
                let cause = "ended".to_owned();
                node.end(
                    actor,
                    if exits {
                        Outcome::Exited(cause)
                    } else {
                        Outcome::WorkerDied(cause)
                    },
                );
            }
            Event::Report { node } => {
                let Some(id) = self.pick(node) else { return };
                let node = self.nodes.get_mut(&id).unwrap();
                let report = ResourceReport {
                    available: Some(cpus(node.available())),
                    ..ResourceReport::default()
                };
                node.to_head.push_back(FromNode::Report(report));
            }
            Event::HeadRestarts => self.cluster.restart_head(),
            Event::Tick => {
                // Nodes are slow here, but not so slow that the head gives up on them.
                if self.ticks < 40 {
                    self.ticks += 1;
                    self.cluster.pass(Duration::from_millis(100));
                }
            }
        }
        self.deliver();
    }

    fn workers(&self) -> Vec<WorkerAddress> {
        let processes = self.nodes.values().flat_map(|node| node.processes.values());
        processes.filter_map(|process| process.worker.clone()).collect()
    }

    /// Moves what the head sent to the nodes' queues; messages for dead nodes are lost.
    fn deliver(&mut self) {
        self.cluster.collect();
        for (id, messages) in std::mem::take(&mut self.cluster.inboxes) {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.from_head.extend(messages);
            }
        }
    }

    fn check(&mut self) {
        let table = &self.cluster.state.tables().actors;
        let live = self.cluster.state.live();
        let mut names = BTreeSet::new();
        let mut on_nodes: BTreeMap<NodeId, BTreeSet<ActorId>> = BTreeMap::new();
        let mut pending = BTreeSet::new();
        let mut living = BTreeSet::new();
        for actor in table.all() {
            let id = &actor.parts.id;
            let is_dead = matches!(actor.phase, Phase::Dead { .. });
            let (incarnation, was_dead) = self
                .seen
                .insert(*id, (actor.incarnation, is_dead))
                .unwrap_or_default();
            assert!(actor.incarnation >= incarnation, "incarnation fell");
            assert!(is_dead || !was_dead, "a dead actor came back");
            if is_dead {
                continue;
            }
            living.insert(*id);
            let name = (&actor.spec.namespace, &actor.spec.name);
            assert!(
                actor.spec.name.is_empty() || names.insert(name),
                "two living actors have the name {name:?}"
            );
            match actor.node() {
                Some(node) => {
                    assert!(self.nodes.contains_key(&node), "an actor is on a dead node");
                    on_nodes.entry(node).or_default().insert(*id);
                }
                None => assert!(pending.insert(*id)),
            }
        }
        assert_eq!(BTreeSet::from_iter(table.living_where(|_| true)), living);
        assert_eq!(table.pending().collect::<BTreeSet<_>>(), pending);
        assert_eq!(table.pending().count(), pending.len(), "an actor is queued twice");
        for node in self.nodes.keys() {
            assert_eq!(
                table.hosted(*node).collect::<BTreeSet<_>>(),
                on_nodes.remove(node).unwrap_or_default()
            );
        }
        for candidate in self.cluster.candidates() {
            for id in &pending {
                let actor = table.get(*id).unwrap();
                let waits_for_no_reason =
                    !live.waits.has_refusals(*id) && candidate.available.covers(&actor.parts.demand.needs);
                assert!(!waits_for_no_reason, "{id} waits and {} has room", candidate.node);
            }
        }
        for id in table.all().map(|actor| actor.parts.id) {
            let processes = self
                .nodes
                .values()
                .filter(|node| node.processes.contains_key(&id))
                .count();
            assert!(processes <= 1, "{id} has {processes} processes");
        }
    }

    /// Everybody reads everything, constructors run, time passes.
    fn settle(&mut self) {
        for _ in 0..40 {
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                while !self.nodes[&id].from_head.is_empty() {
                    self.nodes.get_mut(&id).unwrap().read();
                }
                for _ in 0..self.nodes[&id].processes.len() {
                    let index = self.nodes.keys().position(|other| *other == id).unwrap() as u8;
                    self.apply(Event::Construct {
                        node: index,
                        raises: false,
                    });
                }
                let available = Some(cpus(self.nodes[&id].available()));
                let report = FromNode::Report(ResourceReport {
                    available,
                    ..ResourceReport::default()
                });
                self.nodes.get_mut(&id).unwrap().to_head.push_back(report);
                while let Some(message) = self.nodes.get_mut(&id).unwrap().to_head.pop_front() {
                    self.cluster.say(id, message);
                }
                self.deliver();
                self.check();
            }
            let driver_node = self.cluster.driver_node;
            self.cluster.state.heard(self.cluster.now, driver_node);
            self.cluster.pass(Duration::from_millis(100));
            self.deliver();
        }
    }

    fn check_settled(&mut self) {
        let actors = self.cluster.state.tables().actors.all();
        let ids: Vec<_> = actors.map(|actor| actor.parts.id).collect();
        for id in ids {
            let number = id.as_bytes()[0];
            assert_eq!(id, actor_id(number));
            let update = self.cluster.update(number);
            let actor = self.cluster.state.tables().actors.get(id).unwrap();
            let found = self
                .nodes
                .iter()
                .find(|(_, node)| node.processes.contains_key(&id));
            match update.state() {
                ActorState::Dead => assert!(found.is_none(), "a dead actor has a process"),
                ActorState::Alive => {
                    let (node, process) = found
                        .map(|(id, node)| (*id, node))
                        .expect("an alive actor has a process");
                    let process = &process.processes[&id];
                    assert_eq!(
                        (Some(node), process.incarnation),
                        (actor.node(), update.incarnation)
                    );
                    let told = WorkerId::from_slice(&update.address.unwrap().worker_id).unwrap();
                    assert_eq!(process.worker.as_ref().map(|worker| worker.worker_id), Some(told));
                }
                ActorState::Pending | ActorState::Restarting => {
                    assert!(found.is_none(), "a waiting actor has a process");
                    let needs = actor.parts.demand.needs.get("CPU");
                    let roomy = self
                        .nodes
                        .values()
                        .find(|node| node.available() >= needs && node.cpu >= needs);
                    assert!(roomy.is_none(), "an actor was forgotten though there is room");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_interleaving_of_events_breaks_an_invariant(events in prop::collection::vec(events(), 0..140)) {
        let cluster = Cluster::new();
        let mut world = World { cluster, nodes: BTreeMap::new(), counter: 0, seen: HashMap::new(), ticks: 0 };
        // The driver's node hosts what asks for nothing.
        let driver_node = world.cluster.driver_node;
        world.nodes.insert(driver_node, FakeNode::default());
        for event in events {
            if let Event::Detach { node } = event {
                if world.pick(node) == Some(driver_node) {
                    continue;
                }
            }
            world.apply(event);
            world.check();
        }
        world.settle();
        world.check_settled();
    }
}
