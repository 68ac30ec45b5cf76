//! Who is connected to this raylet: drivers, participants, workers and executor JVMs of this node, owners and raylets of
//! others. Pure.
//!
//! Invariants:
//! 1. A connection's number is never used again.
//! 2. A process of this node is registered over at most one connection.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use sparkray_common::{JobId, Metrics, NodeId, WorkerId};
use sparkray_proto::ClientKind;

use super::metrics::GatewayMetrics;

/// A caller registers by then.
const REGISTER_DEADLINE: Duration = Duration::from_secs(10);
/// Jobs that are over and still known as such, for a participant whose answer crossed the news.
const KEPT_FINISHED_JOBS: usize = 64;

/// Who a registered client is.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) kind: ClientKind,
    pub(crate) worker_id: WorkerId,
    /// The node of a remote client.
    pub(crate) node_id: Option<NodeId>,
    pub(crate) pid: u32,
    /// Drivers and participants only, once the head has given it.
    pub(crate) job_id: Option<JobId>,
    pub(crate) log_to_driver: bool,
}

impl Client {
    /// Whether it runs on this node and is a process that owns objects.
    pub(crate) fn is_local(&self) -> bool {
        self.kind != ClientKind::Remote
    }
}

#[derive(Debug)]
struct Connection {
    /// Over a Unix socket, which carries descriptors.
    local: bool,
    /// Set by RegisterClient.
    client: Option<Client>,
    /// A worker that the zygote was asked for: nobody else may register here.
    expected: Option<WorkerId>,
    since: Instant,
}

/// Who was behind a connection that is over.
#[derive(Debug)]
pub(crate) struct Departed {
    pub(crate) client: Option<Client>,
    /// The worker that the zygote was asked for.
    pub(crate) expected: Option<WorkerId>,
}

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    connections: HashMap<u64, Connection>,
    by_worker: HashMap<WorkerId, u64>,
    /// Oldest first.
    finished_jobs: VecDeque<JobId>,
    last: u64,
    metrics: GatewayMetrics,
}

impl Clients {
    /// A connection begins; its number.
    pub(crate) fn connected(&mut self, local: bool, expected: Option<WorkerId>, now: Instant) -> u64 {
        self.last += 1;
        self.metrics.connected();
        let connection = Connection {
            local,
            client: None,
            expected,
            since: now,
        };
        self.connections.insert(self.last, connection);
        self.last
    }

    /// Connections whose other end has proved that it knows the token, and has not said who it is in time.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<u64> {
        let late = self.connections.iter().filter(|(_, connection)| {
            // Workers that the zygote was asked for take as long as their imports.
            let waits = connection.client.is_none() && connection.expected.is_none();
            waits && now.saturating_duration_since(connection.since) >= REGISTER_DEADLINE
        });
        late.map(|(id, _)| *id).collect()
    }

    /// Whether a connection has not ended.
    pub(crate) fn is_known(&self, id: u64) -> bool {
        self.connections.contains_key(&id)
    }

    /// Whether a connection carries descriptors; `None` when it has ended.
    pub(crate) fn is_local(&self, id: u64) -> Option<bool> {
        Some(self.connections.get(&id)?.local)
    }

    /// The worker for which a connection was made.
    pub(crate) fn expected(&self, id: u64) -> Option<WorkerId> {
        self.connections.get(&id)?.expected
    }

    /// The client of a connection, when it registered.
    pub(crate) fn client(&self, id: u64) -> Option<&Client> {
        self.connections.get(&id)?.client.as_ref()
    }

    /// Notes who speaks on a connection.
    pub(crate) fn register(&mut self, id: u64, client: Client) {
        self.metrics.registered();
        if client.is_local() {
            self.by_worker.insert(client.worker_id, id);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.client = Some(client);
        }
    }

    /// The head has given a driver or participant its job. Nothing if that is gone.
    pub(crate) fn set_job(&mut self, id: u64, job: JobId) {
        let connection = self.connections.get_mut(&id);
        if let Some(client) = connection.and_then(|connection| connection.client.as_mut())
            && matches!(client.kind, ClientKind::Driver | ClientKind::Participant)
        {
            client.job_id = Some(job);
        }
    }

    /// A job is over; those who took part in it.
    pub(crate) fn job_finished(&mut self, job: JobId) -> Vec<u64> {
        if !self.is_finished(job) {
            self.finished_jobs.push_back(job);
            if self.finished_jobs.len() > KEPT_FINISHED_JOBS {
                self.finished_jobs.pop_front();
            }
        }
        self.registered()
            .filter(|(_, client)| client.kind == ClientKind::Participant && client.job_id == Some(job))
            .map(|(id, _)| id)
            .collect()
    }

    /// Whether a job is over, as far as is still known.
    pub(crate) fn is_finished(&self, job: JobId) -> bool {
        self.finished_jobs.contains(&job)
    }

    /// The connection of a process of this node.
    pub(crate) fn of_worker(&self, worker: WorkerId) -> Option<u64> {
        self.by_worker.get(&worker).copied()
    }

    /// A connection is over.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Departed> {
        let connection = self.connections.remove(&id)?;
        if let Some(client) = &connection.client
            && self.by_worker.get(&client.worker_id) == Some(&id)
        {
            self.by_worker.remove(&client.worker_id);
        }
        Some(Departed {
            client: connection.client,
            expected: connection.expected,
        })
    }

    /// Registered clients of this node that have a use for notices. Store clients have none and may not read for a
    /// long time.
    pub(crate) fn with_notices(&self) -> impl Iterator<Item = u64> {
        self.registered()
            .filter(|(_, client)| client.is_local() && client.kind != ClientKind::Store)
            .map(|(id, _)| id)
    }

    /// The driver of a job, when it runs on this node.
    pub(crate) fn driver_of(&self, job: JobId) -> Option<(u64, &Client)> {
        self.registered()
            .find(|(_, client)| client.kind == ClientKind::Driver && client.job_id == Some(job))
    }

    /// Connections from another node.
    pub(crate) fn of_node(&self, node: NodeId) -> impl Iterator<Item = u64> {
        self.registered()
            .filter(move |(_, client)| !client.is_local() && client.node_id == Some(node))
            .map(|(id, _)| id)
    }

    /// Lists who is connected, and what was counted.
    pub(crate) fn list_metrics(&self, into: &mut Metrics) {
        let count = |kind| {
            let of_kind = self.registered().filter(|(_, client)| client.kind == kind);
            of_kind.count() as u64
        };
        into.gauges(
            "ray_raylet_clients",
            "Registered connections",
            "Kind",
            &[
                ("Driver", count(ClientKind::Driver)),
                ("Participant", count(ClientKind::Participant)),
                ("Worker", count(ClientKind::Worker)),
                ("Store", count(ClientKind::Store)),
                ("Remote", count(ClientKind::Remote)),
            ],
        );
        self.metrics.list(into);
    }

    fn registered(&self) -> impl Iterator<Item = (u64, &Client)> {
        self.connections
            .iter()
            .filter_map(|(id, connection)| Some((*id, connection.client.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_register_is_named_in_time() {
        let now = Instant::now();
        let mut clients = Clients::default();
        let stranger = clients.connected(true, None, now);
        let _born = clients.connected(true, Some(WorkerId::random()), now);
        let driver = clients.connected(true, None, now);
        let client = Client {
            kind: ClientKind::Driver,
            worker_id: WorkerId::random(),
            node_id: None,
            pid: 1,
            job_id: None,
            log_to_driver: false,
        };
        clients.register(driver, client);
        assert!(clients.overdue(now).is_empty(), "nobody is late yet");
        assert_eq!(clients.overdue(now + REGISTER_DEADLINE), vec![stranger]);
    }
}
