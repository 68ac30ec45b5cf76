//! Placement groups among faults: a group is whole or waits, what is called in it gives the right values, and nothing of it is
//! left when it is removed (`leases_left` of each node, which its bundles are part of).

use sparkray_common::{BundleChoice, NodeId, PlacementGroupId, SchedulingStrategy};
use sparkray_proto::head_reply::Reply;
use sparkray_proto::head_request::Request;
use sparkray_proto::{
    CreatePlacementGroup, GetPlacementGroup, PlacementGroupRecord, PlacementGroupState, PlacementStrategy,
    RemovePlacementGroup,
};

use crate::cluster::{Cluster, DRIVER, SECOND, numbered};
use crate::node::cpus;
use crate::program::{Expected, asks};
use crate::runs::{await_values, come_to_rest};
use crate::scenarios::{VERDICT, cluster, is_told, plan, under_seeds};
use crate::value::Item;

const GROUP: u8 = 7;

fn group_id() -> PlacementGroupId {
    PlacementGroupId::from_array(numbered(GROUP, 1))
}

impl Cluster {
    /// The driver asks for three bundles of a CPU, on three nodes while there are so many.
    fn create_group(&mut self) {
        let request = CreatePlacementGroup {
            placement_group_id: group_id().to_vec().into(),
            job_id: self.program.job_id.to_vec().into(),
            strategy: PlacementStrategy::Spread.into(),
            bundles: vec![(&cpus(1)).into(); 3],
            ..CreatePlacementGroup::default()
        };
        let core = &mut self.processes[DRIVER].core;
        let slot = core.ask_head(&asks(Request::CreatePlacementGroup(request)));
        core.forget_slot(slot);
        self.outputs(DRIVER);
    }

    fn remove_group(&mut self) {
        // What runs in it is killed.
        self.losses.killed += 1;
        self.losses.processes += 1;
        let request = RemovePlacementGroup {
            placement_group_id: group_id().to_vec().into(),
        };
        let core = &mut self.processes[DRIVER].core;
        let slot = core.ask_head(&asks(Request::RemovePlacementGroup(request)));
        core.forget_slot(slot);
        self.outputs(DRIVER);
    }

    /// What the head knows of it.
    fn group(&mut self) -> Option<PlacementGroupRecord> {
        let question = GetPlacementGroup {
            placement_group_id: group_id().to_vec().into(),
            ..GetPlacementGroup::default()
        };
        let now = self.agenda.instant();
        let reply = self
            .head
            .head
            .request(now, asks(Request::GetPlacementGroup(question)));
        match reply.reply {
            Some(Reply::PlacementGroup(record)) => Some(record),
            _ => None,
        }
    }

    /// The nodes of its bundles, when all have one.
    fn places(&mut self) -> Option<Vec<usize>> {
        let record = self.group()?;
        if record.state() != PlacementGroupState::Created {
            return None;
        }
        let node_of = |bundle: &sparkray_proto::BundleRecord| {
            let node = NodeId::from_slice(&bundle.node_id).ok()?;
            self.node_of(node)
        };
        record.bundles.iter().map(node_of).collect()
    }

    fn await_group(&mut self, seconds: u64) -> Vec<usize> {
        self.until("the group is created", seconds, |cluster| {
            cluster.places().is_some()
        });
        self.places().unwrap_or_default()
    }

    /// Calls a function in the group; the driver fetches its value.
    fn call_in_group(&mut self, index: Option<u32>) -> u64 {
        let number = self.program.number();
        let strategy = SchedulingStrategy::Bundle(BundleChoice {
            group: group_id(),
            index,
            captures_child_tasks: false,
        });
        let driver = &mut self.processes[DRIVER];
        let id = driver.submit_where(strategy, "sum", &[Item::Number(number)]);
        let expected = Expected {
            by_processes: true,
            ..self.program.of_call(number, &[])
        };
        self.program.expected.insert(id, expected);
        let key = self.processes[DRIVER].fetch(id);
        self.outputs(DRIVER);
        key
    }

    fn call_some_in_group(&mut self) -> Vec<u64> {
        let mut keys = Vec::new();
        for _ in 0..12 {
            let index = [None, Some(0), Some(1), Some(2)][self.random.below(4) as usize];
            keys.push(self.call_in_group(index));
            let pause = self.random.below(30_000);
            self.pass(pause);
        }
        keys
    }

    fn await_calls(&mut self, keys: &[u64]) {
        self.until("all calls in the group end", 60, |cluster| {
            keys.iter().all(|key| is_told(cluster, *key))
        });
    }

    fn assert_values(&self, keys: &[u64]) {
        for key in keys {
            let value = &self.processes[DRIVER].fetches[key].value;
            assert!(matches!(value, Some(Ok(_))), "{value:?}");
        }
    }
}

/// Removal in the middle of calls: all of them end, those that come later with an error, and nothing is left.
fn remove_amid_calls(cluster: &mut Cluster) {
    let mut keys = cluster.call_some_in_group();
    cluster.remove_group();
    keys.extend(cluster.call_some_in_group());
    cluster.until("the group is removed", VERDICT, |cluster| {
        let record = cluster.group();
        record.is_some_and(|record| record.state() == PlacementGroupState::Removed)
    });
    cluster.pass(SECOND);
    let late = cluster.call_in_group(None);
    keys.push(late);
    cluster.await_calls(&keys);
    let value = &cluster.processes[DRIVER].fetches[&late].value;
    assert!(matches!(value, Some(Err(_))), "the group is gone: {value:?}");
    come_to_rest(cluster);
}

#[test]
fn calls_in_a_group_run_and_its_removal_leaves_nothing() {
    under_seeds(|seed| {
        let mut cluster = cluster(seed, plan());
        cluster.begin_program(30);
        cluster.create_group();
        let keys = cluster.call_some_in_group();
        cluster.await_group(VERDICT);
        cluster.await_calls(&keys);
        cluster.assert_values(&keys);
        cluster.until("the program is over", 60, |cluster| cluster.is_program_over());
        await_values(&mut cluster);
        remove_amid_calls(&mut cluster);
    });
}

/// The node of a bundle is lost: the bundle goes elsewhere, and calls in it run there.
fn the_group_outlives(seed: u64, lose: fn(&mut Cluster, usize)) {
    let mut cluster = cluster(seed, plan());
    cluster.create_group();
    let places = cluster.await_group(VERDICT);
    let mut keys = cluster.call_some_in_group();
    // Neither the driver's node nor the head's.
    let lost = places.into_iter().find(|node| cluster.nodes[*node].host == 2);
    let lost = lost.expect("each of three nodes has a bundle");
    lose(&mut cluster, lost);
    keys.extend(cluster.call_some_in_group());
    cluster.until("the bundle is elsewhere", 60, |cluster| {
        cluster.places().is_some_and(|places| !places.contains(&lost))
    });
    cluster.await_calls(&keys);
    cluster.assert_values(&keys);
    cluster.heal();
    remove_amid_calls(&mut cluster);
}

#[test]
fn a_group_outlives_the_death_of_a_node() {
    under_seeds(|seed| the_group_outlives(seed, |cluster, node| cluster.node_ends(node, "it is killed")));
}

#[test]
fn a_group_outlives_a_node_that_the_head_does_not_hear() {
    under_seeds(|seed| {
        the_group_outlives(seed, |cluster, node| {
            cluster.losses.cuts += 1;
            let hosts = (cluster.plan.head_host, cluster.nodes[node].host);
            cluster.network.cut(&mut cluster.agenda, hosts.0, hosts.1);
        });
    });
}

/// A head that is stopped while nodes reserve bundles goes on where it was.
#[test]
fn a_head_that_stands_still_amid_reservations_completes_the_group() {
    under_seeds(|seed| {
        let mut cluster = cluster(seed, plan());
        cluster.create_group();
        let pause = cluster.random.below(5_000);
        cluster.pass(pause);
        cluster.stop_head();
        cluster.pass(5 * SECOND);
        cluster.head_continues();
        cluster.await_group(VERDICT);
        let keys = cluster.call_some_in_group();
        cluster.await_calls(&keys);
        cluster.assert_values(&keys);
        remove_amid_calls(&mut cluster);
    });
}
