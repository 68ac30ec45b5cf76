//! What is counted, by what happens.

use std::time::Duration;

use sparkray_common::Metrics;
use sparkray_proto::ActorSpec;
use sparkray_proto::actor_report::Outcome;

use super::{Cluster, node_id, worker};

impl Cluster {
    pub(super) fn counted(&self, name: &str, label: &str) -> u64 {
        let mut metrics = Metrics::default();
        self.state.list_metrics(&mut metrics);
        metrics
            .value(name, label)
            .unwrap_or_else(|| panic!("{name} is not listed"))
    }
}

#[test]
fn nodes_that_join_come_back_and_fall_silent_are_counted() {
    let mut cluster = Cluster::with_nodes(&[1.0, 1.0]);
    assert_eq!(cluster.counted("ray_gcs_nodes_joined", ""), 3);
    assert_eq!(cluster.counted("ray_gcs_nodes", "Alive"), 3);
    cluster.attach(node_id(1), 1.0).unwrap();
    assert_eq!(cluster.counted("ray_gcs_nodes_attached_again", ""), 1);
    assert_eq!(cluster.counted("ray_gcs_nodes_joined", ""), 3);
    cluster.state.detach(cluster.now, node_id(1), "gone");
    assert_eq!(cluster.counted("ray_gcs_nodes_died", ""), 1);
    assert_eq!(cluster.counted("ray_gcs_nodes_fell_silent", ""), 0);
    let driver_node = cluster.driver_node;
    cluster.pass_alive(Duration::from_secs(11), &[driver_node]);
    assert_eq!(cluster.counted("ray_gcs_nodes_died", ""), 2);
    assert_eq!(cluster.counted("ray_gcs_nodes_fell_silent", ""), 1);
    assert_eq!(cluster.counted("ray_gcs_nodes", "Alive"), 1);
    assert_eq!(cluster.counted("ray_gcs_nodes", "Dead"), 2);
}

#[test]
fn the_life_of_an_actor_is_counted() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    let spec = ActorSpec {
        max_restarts: 2,
        ..cluster.spec(1, 1.0)
    };
    let node = cluster.alive(spec, 1);
    for name in [
        "ray_gcs_actors_registered",
        "ray_gcs_actors_placed",
        "ray_gcs_actors_created",
        "ray_gcs_actor_creation_time_seconds",
    ] {
        assert_eq!(cluster.counted(name, ""), 1, "{name}");
    }
    assert_eq!(cluster.counted("ray_gcs_actors_count", "Alive"), 1);
    // A restart that was asked for counts once, though it has two steps.
    cluster.kill(1, false).unwrap();
    cluster.tell(node, 1, 0, Outcome::WorkerDied("killed".to_owned()));
    assert_eq!(cluster.counted("ray_gcs_actors_restarted", ""), 1);
    let (node, incarnation) = cluster.placement(1).unwrap();
    cluster.tell(node, 1, incarnation, Outcome::Alive((&worker(node, 2)).into()));
    cluster.tell(node, 1, incarnation, Outcome::WorkerDied("killed".to_owned()));
    assert_eq!(cluster.counted("ray_gcs_actors_restarted", ""), 2);
    assert_eq!(cluster.counted("ray_gcs_actors_created", ""), 2);
    assert_eq!(cluster.counted("ray_gcs_actors_died", ""), 0);
    cluster.kill(1, true).unwrap();
    assert_eq!(cluster.counted("ray_gcs_actors_died", ""), 1);
    assert_eq!(cluster.counted("ray_gcs_actors_count", "Dead"), 1);
}
