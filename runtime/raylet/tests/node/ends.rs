//! How nodes and clients come and go.

use sparkray_common::ErrorCode;
use sparkray_proto::{FrameKind, NodeDied};

use crate::support::{Cluster, Driver, STAND_IN, alone, children};

#[test]
fn a_client_of_another_version_is_refused() {
    alone("ends::a_client_of_another_version_is_refused", async {
        let cluster = Cluster::start().await;
        let node = cluster.raylet(0.0, None, None).await;
        let mut stranger = Driver::dial(&cluster, &node).await;
        let failure = stranger.register("0.0.1").await.failure.unwrap();
        assert_eq!(failure.error_code(), ErrorCode::VersionMismatch);
        assert!(failure.message.contains("0.0.1"), "{}", failure.message);
        assert!(stranger.receiver.next().await.unwrap().is_none());
        node.stop().await;
    });
}

#[test]
fn others_hear_of_the_end_of_a_node() {
    alone("ends::others_hear_of_the_end_of_a_node", async {
        let cluster = Cluster::start().await;
        let first = cluster.raylet(0.0, None, None).await;
        let second = cluster.raylet(0.0, None, Some(&first.ready.address)).await;
        let mut driver = Driver::connect(&cluster, &first).await;
        let id = second.id;
        second.stop().await;
        let died = driver.until(|frame| frame.kind == FrameKind::NodeDied).await;
        let died: NodeDied = died.decode().unwrap();
        assert_eq!(died.node_id[..], id.as_bytes()[..]);
        first.stop().await;
    });
}

#[test]
fn a_node_leaves_no_process_and_no_directory() {
    alone("ends::a_node_leaves_no_process_and_no_directory", async {
        let cluster = Cluster::start().await;
        let node = cluster.raylet(1.0, Some(STAND_IN), None).await;
        let mut driver = Driver::connect(&cluster, &node).await;
        driver.register_job(&node).await;
        let (_, correlation) = driver.request_lease(1.0);
        assert_eq!(driver.lease_reply(correlation).await.failure, None);
        assert!(!children().is_empty());
        node.stop().await;
        assert!(children().is_empty(), "{:?}", children());
        let left = std::fs::read_dir(cluster.directory.path()).unwrap();
        let left: Vec<String> = left
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(!left.iter().any(|name| name.starts_with("spill")), "{left:?}");
    });
}
