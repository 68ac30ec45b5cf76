//! Faults that were seen once, each with what must be true instead, under a few seeds.

use std::cell::Cell;

use sparkray_common::ActorId;
use sparkray_raylet::simulation::ChildEnd;

use crate::cluster::{Cluster, DRIVER, Plan, SECOND};
use crate::process::Fetch;
use crate::runs::{ask_for_all, await_values, come_to_rest, on_its_own};

/// A host's verdict, an error, and everything that follows from them are there in this time, in seconds.
pub(crate) const VERDICT: u64 = 15;
const SEEDS: u64 = 12;

/// Three hosts: the driver's, the head's and another one.
pub(crate) fn plan() -> Plan {
    Plan {
        hosts: 3,
        cpus: 2,
        head_host: 1,
        store_bytes: 1 << 22,
        spill_dirs: Vec::new(),
    }
}

pub(crate) fn cluster(seed: u64, plan: Plan) -> Cluster {
    let hosts = plan.hosts;
    let mut cluster = Cluster::new(seed, plan);
    cluster.until("the driver has its job", 30, |cluster| cluster.program.has_job);
    cluster.until("all nodes are up", 30, |cluster| {
        (0..hosts).all(|host| is_up(cluster, host))
    });
    cluster
}

fn is_up(cluster: &Cluster, host: usize) -> bool {
    cluster
        .node_on(host)
        .is_some_and(|node| cluster.nodes[node].is_up())
}

/// Runs a scenario under some seeds, each on its own.
pub(crate) fn under_seeds(scenario: impl Fn(u64) + Copy + Send + 'static) {
    for seed in 0..SEEDS {
        if let Err(panic) = on_its_own(seed, move || scenario(seed)) {
            println!("seed {seed} of the scenario fails");
            std::panic::resume_unwind(panic);
        }
    }
}

/// The process that an actor is.
fn process_of(cluster: &Cluster, actor: ActorId) -> Option<usize> {
    let mut processes = cluster.processes.iter();
    processes.position(|process| process.alive && process.actor.is_some_and(|(id, _)| id == actor))
}

/// Actors until one is on this host.
fn actor_on(cluster: &mut Cluster, host: usize, max_restarts: i32) -> ActorId {
    for _ in 0..20 {
        let actor = cluster.create_actor(max_restarts);
        cluster.outputs(DRIVER);
        cluster.until("the actor is made", 30, |cluster| {
            process_of(cluster, actor).is_some()
        });
        let node = process_of(cluster, actor).map(|process| cluster.processes[process].node);
        if node.is_some_and(|node| cluster.nodes[node].host == host) {
            return actor;
        }
    }
    panic!("no actor was placed on host {host}");
}

/// Calls an actor; the key of the value.
fn call(cluster: &mut Cluster, actor: ActorId) -> u64 {
    cluster.processes[DRIVER].core.set_now(cluster.agenda.now);
    let id = cluster.call_actor(actor, "echo");
    let key = cluster.processes[DRIVER].fetch(id);
    cluster.outputs(DRIVER);
    key
}

pub(crate) fn is_told(cluster: &Cluster, key: u64) -> bool {
    let fetch = cluster.processes[DRIVER].fetches.get(&key);
    fetch.is_some_and(|fetch: &Fetch| fetch.value.is_some())
}

/// A host and the head's are parted for 40 s, the driver reaches both: calls to the host end in time, it comes back by
/// itself as a new node, and no actor that restarts lives twice (which is looked at whenever one is made).
#[test]
fn a_host_that_the_head_does_not_hear_comes_back_and_no_actor_lives_twice() {
    under_seeds(|seed| {
        let mut cluster = cluster(seed, plan());
        let actor = actor_on(&mut cluster, 2, -1);
        let before = cluster.node_on(2);
        cluster.network.cut(&mut cluster.agenda, 1, 2);
        cluster.pass(SECOND);
        let key = call(&mut cluster, actor);
        cluster.until("the call ends", VERDICT, |cluster| is_told(cluster, key));
        cluster.until("the actor lives elsewhere", VERDICT, |cluster| {
            process_of(cluster, actor).is_some_and(|process| Some(cluster.processes[process].node) != before)
        });
        cluster.pass(25 * SECOND);
        cluster.heal();
        cluster.until("the host is back", VERDICT, |cluster| is_up(cluster, 2));
        assert_ne!(cluster.node_on(2), before);
        let key = call(&mut cluster, actor);
        cluster.until("the actor answers", VERDICT, |cluster| is_told(cluster, key));
        cluster.begin_program(30);
        cluster.until("the program is over", 60, |cluster| cluster.is_program_over());
        come_to_rest(&mut cluster);
    });
}

/// Nobody hears the head's host any more: whoever waits for something there, or for the head, hears of it.
#[test]
fn when_the_heads_host_vanishes_nobody_waits_for_ever() {
    under_seeds(|seed| {
        let mut cluster = cluster(seed, plan());
        let there = actor_on(&mut cluster, 1, -1);
        let elsewhere = actor_on(&mut cluster, 2, 0);
        cluster.begin_program(40);
        cluster.pass(SECOND);
        for host in [0, 2] {
            cluster.network.cut(&mut cluster.agenda, 1, host);
        }
        let keys = [call(&mut cluster, there), call(&mut cluster, elsewhere)];
        cluster.until("the program is over", 60, |cluster| cluster.is_program_over());
        ask_for_all(&mut cluster);
        cluster.until("every wait ends", VERDICT, |cluster| {
            keys.iter().all(|key| is_told(cluster, *key)) && cluster.missing().is_empty()
        });
    });
}

/// A head that is stopped for 20 s loses no node and no call.
#[test]
fn a_head_that_stands_still_loses_nothing() {
    under_seeds(|seed| {
        let mut cluster = cluster(seed, plan());
        let actor = actor_on(&mut cluster, 2, 0);
        cluster.begin_program(60);
        cluster.pass(SECOND);
        cluster.stop_head();
        cluster.pass(SECOND);
        let key = call(&mut cluster, actor);
        cluster.until("the actor answers without the head", VERDICT, |cluster| {
            is_told(cluster, key)
        });
        cluster.pass(18 * SECOND);
        cluster.head_continues();
        cluster.until("the program is over", 60, |cluster| cluster.is_program_over());
        let key = call(&mut cluster, actor);
        cluster.until("the actor answers", VERDICT, |cluster| is_told(cluster, key));
        assert_eq!((cluster.losses.nodes, cluster.nodes.len()), (0, 3));
        come_to_rest(&mut cluster);
    });
}

/// The connection to an actor breaks again and again while calls are on the way: each call is answered, and runs once in its
/// order (which is looked at with every call that runs).
#[test]
fn calls_of_an_actor_outlast_connections_that_break() {
    under_seeds(|seed| {
        let mut cluster = cluster(seed, plan());
        let actor = actor_on(&mut cluster, 2, 0);
        let mut keys = Vec::new();
        for _ in 0..40 {
            keys.push(call(&mut cluster, actor));
            let pause = cluster.random.between(100, 60_000);
            cluster.pass(pause);
            if cluster.random.chance(30) {
                for link in cluster.links_between(DRIVER, actor) {
                    cluster.network.break_link(&mut cluster.agenda, link);
                }
            }
        }
        cluster.until("all calls are answered", 60, |cluster| {
            keys.iter().all(|key| is_told(cluster, *key))
        });
        for key in keys {
            let value = &cluster.processes[DRIVER].fetches[&key].value;
            assert!(matches!(value, Some(Ok(_))), "{value:?}");
        }
    });
}

/// More actors than there is room for at once, with calls that wait for them: all run.
#[test]
fn calls_of_many_actors_all_run() {
    under_seeds(|seed| {
        let mut cluster = cluster(seed, plan());
        let actors: Vec<ActorId> = (0..60).map(|_| cluster.create_actor(0)).collect();
        cluster.outputs(DRIVER);
        let keys: Vec<u64> = actors.iter().map(|actor| call(&mut cluster, *actor)).collect();
        cluster.until("all calls are answered", 120, |cluster| {
            keys.iter().all(|key| is_told(cluster, *key))
        });
        assert_eq!(cluster.losses.processes, 0);
        come_to_rest(&mut cluster);
    });
}

/// More bytes than the stores have: what was spilled is read again, with the right values, and nothing of it is left.
#[test]
fn what_was_spilled_is_what_it_was() {
    under_seeds(|seed| {
        // Made and removed by the stores.
        let name = format!("sparkray-simulation-{}-{seed}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let plan = Plan {
            store_bytes: 64 << 10,
            spill_dirs: vec![directory],
            ..plan()
        };
        let mut cluster = cluster(seed, plan);
        cluster.begin_program(600);
        let spilled = Cell::new(0);
        cluster.until("the program is over", 300, |cluster| {
            let raylets = cluster.nodes.iter().filter_map(|node| node.raylet.as_ref());
            spilled.set(
                spilled
                    .get()
                    .max(raylets.map(|raylet| raylet.store().spilled_bytes).sum::<u64>()),
            );
            cluster.is_program_over()
        });
        assert!(spilled.get() > 0, "nothing was spilled");
        come_to_rest(&mut cluster);
    });
}

/// The driver dies in the middle of its program: its job ends, and its actors, leases and objects on any node with it. A
/// worker that another worker has returned just then stays, idle: it may own what a detached actor still needs.
#[test]
fn the_end_of_a_driver_leaves_nothing() {
    under_seeds(|seed| {
        let mut cluster = cluster(seed, plan());
        cluster.program.with_actors = true;
        cluster.begin_program(200);
        let time = cluster.random.between(1000, 3 * SECOND);
        cluster.pass(time);
        cluster.process_ends(DRIVER, ChildEnd::Killed(9));
        cluster.until("everything is given back", 60, |cluster| {
            cluster.leftovers().is_empty()
        });
    });
}

/// The head ends for good: what runs goes on, nothing waits for it, and what needs it is an error.
#[test]
fn when_the_head_ends_what_runs_goes_on() {
    under_seeds(|seed| {
        let mut cluster = cluster(seed, plan());
        let actor = actor_on(&mut cluster, 2, 0);
        cluster.begin_program(40);
        cluster.pass(SECOND / 2);
        cluster.end_head();
        cluster.until("the program is over", 60, |cluster| cluster.is_program_over());
        let late = cluster.create_actor(0);
        let keys = [call(&mut cluster, actor), call(&mut cluster, late)];
        cluster.until("both calls end", VERDICT, |cluster| {
            keys.iter().all(|key| is_told(cluster, *key))
        });
        let [lives, never_was] = keys.map(|key| cluster.processes[DRIVER].fetches[&key].value.clone());
        assert!(matches!(lives, Some(Ok(_))), "{lives:?}");
        assert!(matches!(never_was, Some(Err(_))), "{never_was:?}");
        await_values(&mut cluster);
    });
}
