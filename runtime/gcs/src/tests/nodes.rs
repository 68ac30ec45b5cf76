//! Membership, the cluster view, deaths of nodes, logs.

use std::time::Duration;

use sparkray_common::{ErrorCode, JobId, NodeId};
use sparkray_proto::head_message::Message;
use sparkray_proto::head_reply::Reply;
use sparkray_proto::head_request::Request;
use sparkray_proto::node_message::Message as FromNode;
use sparkray_proto::{
    InfeasibleLeases, ListNodes, LogBatch, LogLine, NodeMessage, NodeView, ResourceReport, Resources,
};

use super::{Cluster, code, cpus, node_id, register_node, worker};

fn views(messages: &[Message]) -> Vec<NodeView> {
    let view = |message: &Message| match message {
        Message::View(view) => view.nodes.clone(),
        _ => Vec::new(),
    };
    messages.iter().flat_map(view).collect()
}

fn ids(views: &[NodeView]) -> Vec<NodeId> {
    views
        .iter()
        .map(|view| NodeId::from_slice(&view.node_id).unwrap())
        .collect()
}

#[test]
fn a_node_of_another_version_or_epoch_or_with_a_used_id_is_refused() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    let mut other_version = register_node(node_id(2), 1.0);
    other_version.sparkray_version = "0.0.1".to_owned();
    let failure = cluster.state.attach(cluster.now, other_version).unwrap_err();
    assert_eq!(failure.error_code(), ErrorCode::VersionMismatch);
    assert!(failure.message.contains("0.0.1"), "{}", failure.message);

    let mut other_epoch = register_node(node_id(2), 1.0);
    other_epoch.head_epoch += 1;
    assert_eq!(
        code(cluster.state.attach(cluster.now, other_epoch)),
        ErrorCode::Stale
    );

    cluster.state.detach(cluster.now, node_id(1), "gone");
    assert_eq!(code(cluster.attach(node_id(1), 1.0)), ErrorCode::Stale);
    assert!(
        cluster
            .state
            .take_effects()
            .iter()
            .all(|effect| !format!("{effect:?}").contains("View"))
    );

    let mut malformed = register_node(node_id(2), 1.0);
    malformed.node_id = vec![1, 2].into();
    assert_eq!(
        code(cluster.state.attach(cluster.now, malformed)),
        ErrorCode::InvalidArgument
    );
}

#[test]
fn a_new_node_gets_the_whole_view_and_the_others_the_change_with_the_next_tick() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    cluster.state.detach(cluster.now, node_id(1), "gone");
    cluster.pass(Duration::from_millis(100));
    cluster.inboxes.clear();

    cluster.attach(node_id(2), 4.0).unwrap();
    let view = cluster.state.view().nodes;
    assert_eq!(ids(&view), [node_id(1), node_id(2), cluster.driver_node]);
    assert!(!view[0].alive, "the dead are listed as dead");
    assert!(cluster.inbox(node_id(2)).is_empty());
    assert!(cluster.inbox(cluster.driver_node).is_empty());

    cluster.pass(Duration::from_millis(100));
    let change = views(&cluster.inbox(cluster.driver_node));
    assert_eq!(ids(&change), [node_id(2)]);
    assert_eq!(change[0].available, Some(cpus(4.0)));

    cluster.pass(Duration::from_millis(100));
    assert!(cluster.inbox(cluster.driver_node).is_empty(), "nothing changed");
    cluster.report_resources(node_id(2), 4.0);
    cluster.pass(Duration::from_millis(100));
    assert!(cluster.inbox(cluster.driver_node).is_empty(), "nothing changed");

    cluster.report_resources(node_id(2), 3.0);
    cluster.report_resources(node_id(2), 2.0);
    cluster.pass(Duration::from_millis(100));
    let change = views(&cluster.inbox(cluster.driver_node));
    assert_eq!(change.len(), 1, "changes between ticks are one");
    assert_eq!(change[0].available, Some(cpus(2.0)));
}

#[test]
fn a_silent_node_dies_and_all_others_are_told_at_once() {
    let mut cluster = Cluster::with_nodes(&[1.0, 1.0]);
    cluster.pass_alive(Duration::from_millis(9900), &[node_id(1)]);
    assert!(cluster.detached.is_empty());
    cluster.inboxes.clear();
    cluster.pass_alive(Duration::from_millis(200), &[node_id(1)]);
    assert_eq!(cluster.detached, [node_id(2)]);
    let inbox = cluster.inbox(node_id(1));
    assert!(
        inbox
            .iter()
            .any(|message| matches!(message, Message::NodeDeath(notice)
            if notice.node_id == node_id(2).to_vec() && notice.cause.contains("silent"))),
        "{inbox:?}"
    );
    assert!(cluster.inbox(node_id(2)).is_empty());

    // What it says afterwards is not heard.
    cluster.report_resources(node_id(2), 1.0);
    let Ok(Reply::Nodes(list)) = cluster.request(Request::ListNodes(ListNodes {})) else {
        panic!("no list")
    };
    let alive: Vec<_> = list.nodes.iter().map(|node| node.alive).collect();
    assert_eq!(alive, [true, false, true], "the dead stay listed");
    assert_eq!(list.nodes[1].available, Some(Resources::default()));
}

#[test]
fn a_head_that_was_stopped_itself_declares_nobody_dead() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    cluster.pass_alive(Duration::from_millis(300), &[node_id(1)]);
    cluster.pass(Duration::from_mins(1));
    assert!(cluster.detached.is_empty());
    for _ in 0..101 {
        cluster.pass(Duration::from_millis(100));
    }
    assert_eq!(cluster.detached.len(), 2, "but who stays silent is dead");
}

#[test]
fn a_node_that_attaches_again_keeps_all_that_it_had() {
    let mut cluster = Cluster::with_nodes(&[2.0, 2.0]);
    let node = cluster.alive(cluster.spec(1, 1.0), 5);
    cluster.report_resources(node, 0.5);
    cluster.pass(Duration::from_millis(100));
    cluster.inboxes.clear();
    let mut nodes = [node_id(1), node_id(2)].to_vec();
    nodes.retain(|other| *other != node);
    cluster.pass_alive(Duration::from_secs(9), &nodes);
    assert_eq!(cluster.attach(node, 2.0).unwrap(), node);
    cluster.pass_alive(Duration::from_secs(9), &nodes);
    assert!(cluster.detached.is_empty(), "its registration was heard");
    assert!(cluster.inbox(node_id(1)).is_empty() && cluster.inbox(node_id(2)).is_empty());
    assert_eq!(cluster.actor_state(1), sparkray_proto::ActorState::Alive);
    cluster.pass_alive(Duration::from_secs(2), &nodes);
    assert_eq!(cluster.detached, [node]);
    assert_eq!(code(cluster.attach(node, 2.0)), ErrorCode::Stale);
}

#[test]
fn the_node_of_a_driver_is_given_more_time() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    let mut patient = register_node(node_id(2), 1.0);
    patient.silence_seconds = 60;
    cluster.state.attach(cluster.now, patient).unwrap();
    let mut endless = register_node(node_id(3), 1.0);
    endless.silence_seconds = u32::MAX;
    cluster.state.attach(cluster.now, endless).unwrap();
    cluster.pass_alive(Duration::from_secs(59), &[node_id(1)]);
    assert!(cluster.detached.is_empty());
    cluster.pass_alive(Duration::from_secs(2), &[node_id(1)]);
    assert_eq!(cluster.detached, [node_id(2)]);
    cluster.pass_alive(Duration::from_mins(5), &[node_id(1)]);
    assert_eq!(cluster.detached, [node_id(2), node_id(3)]);
}

#[test]
fn amounts_below_zero_count_as_nothing_and_broken_messages_are_errors() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    cluster.report_resources(node_id(1), -1.0);
    assert_eq!(cluster.candidates()[0].available.get("CPU"), 0.0);
    let endless = ResourceReport {
        available: Some(cpus(f64::INFINITY)),
        ..ResourceReport::default()
    };
    for message in [
        Some(FromNode::Report(endless)),
        Some(FromNode::UnwatchActor("short".into())),
        None,
    ] {
        assert!(
            cluster
                .state
                .node_message(
                    cluster.now,
                    node_id(1),
                    NodeMessage {
                        message,
                        ..NodeMessage::default()
                    }
                )
                .is_err()
        );
    }
    assert!(cluster.state.tables().nodes.is_alive(node_id(1)));
}

#[test]
fn output_of_workers_goes_to_the_node_of_the_jobs_driver() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    let line = LogLine {
        name: "f".to_owned(),
        pid: 1,
        ip: "10.0.0.1".to_owned(),
        text: "hi".to_owned(),
        is_stderr: false,
    };
    let batch = LogBatch {
        job_id: cluster.job.to_vec().into(),
        lines: vec![line],
    };
    cluster.say(node_id(1), FromNode::Log(batch.clone()));
    assert_eq!(cluster.inbox(cluster.driver_node), [Message::Log(batch.clone())]);

    let unknown = LogBatch {
        job_id: JobId::from_array([9; 4]).to_vec().into(),
        ..batch.clone()
    };
    cluster.say(node_id(1), FromNode::Log(unknown));
    cluster.worker_dies(&cluster.driver.clone());
    cluster.inboxes.clear();
    cluster.say(node_id(1), FromNode::Log(batch));
    assert!(
        cluster.inboxes.is_empty(),
        "a job that is over or unknown has no driver"
    );
}

#[test]
fn a_workers_death_is_told_to_all_nodes_once() {
    let mut cluster = Cluster::with_nodes(&[1.0, 1.0]);
    let dead = worker(node_id(1), 5);
    cluster.worker_dies(&dead);
    cluster.worker_dies(&dead);
    for node in [node_id(1), node_id(2), cluster.driver_node] {
        let inbox = cluster.inbox(node);
        let [Message::WorkerDeath(notice)] = &inbox[..] else {
            panic!("{inbox:?}")
        };
        assert_eq!(notice.worker_id, dead.worker_id.to_vec());
        assert_eq!(notice.node_id, node_id(1).to_vec());
        assert_eq!(notice.cause, "killed");
    }
}

#[test]
fn leases_that_no_node_can_meet_are_told_to_their_driver_until_they_or_their_node_go() {
    let mut cluster = Cluster::with_nodes(&[1.0, 1.0]);
    let leases = InfeasibleLeases {
        job_id: cluster.job.to_vec().into(),
        resources: Some(cpus(8.0)),
        strategy: None,
        task_name: "large".to_owned(),
        count: 3,
    };
    let report = ResourceReport {
        available: Some(cpus(1.0)),
        queued_leases: 3,
        infeasible: vec![leases],
        ..ResourceReport::default()
    };
    let all = [node_id(1), node_id(2)];
    for node in all {
        cluster.say(node, FromNode::Report(report.clone()));
    }
    cluster.pass_alive(Duration::from_secs(4), &all);
    let told = cluster.infeasible_demand();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].shapes.len(), 1);
    assert_eq!(told[0].shapes[0].waiters[0].count, 6);

    cluster.report_resources(node_id(1), 1.0);
    cluster.state.detach(cluster.now, node_id(2), "it is gone");
    cluster.pass_alive(Duration::from_secs(40), &[node_id(1)]);
    assert!(cluster.infeasible_demand().is_empty());
}
