//! The object store of this executor's node, as tasks reach it.

use std::sync::Once;
use std::time::{Duration, Instant};

use sparkray_common::sync::Mutex;
use sparkray_common::{ClusterId, ErrorCode, FeedId, NodeId, ObjectId, WorkerAddress, WorkerId};
use sparkray_object_store::{BlockingStoreClient, GetEntry, ReadableObject, StoreError};
use sparkray_proto::ObjectLocation;
use sparkray_supervisor::{RayletHandle, current_raylet, on_raylet_gone, wait_for_raylet};

use crate::error::NativeError;
use crate::guard::is_task_interrupted;

/// A raylet that died is back in a second or two; Spark's attempts at a task would all be over by then.
const RESTART_PATIENCE: Duration = Duration::from_secs(10);
/// The raylet runs on this machine and answers at once.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// A full store spills before it refuses, which takes as long as its disk; it gives up by itself when nothing moves.
const CREATE_PATIENCE: Duration = Duration::from_mins(5);
/// A block comes from another node or from disk at worst.
const GET_PATIENCE: Duration = Duration::from_mins(5);

/// One connection for all tasks of this process. Locked for a moment only: the manager, whose heartbeats must go on, lets
/// go of it.
static CONNECTION: Mutex<Option<BlockingStoreClient>> = Mutex::new(None);
/// Held by the task that connects. Others wait for its connection.
static CONNECTING: Mutex<()> = Mutex::new(());
static LETS_GO: Once = Once::new();

/// Lets go of the connection to a raylet that is gone, and of its store's memory. Tasks that still read keep theirs
/// until they end.
fn let_go(node_id: NodeId) {
    let mut connection = CONNECTION.lock();
    if connection
        .as_ref()
        .is_some_and(|client| client.node_id() == node_id)
    {
        *connection = None;
    }
}

/// The connection that there is, when it leads to this raylet.
fn connection_to(raylet: &RayletHandle) -> Option<BlockingStoreClient> {
    let connection = CONNECTION.lock();
    let client = connection.as_ref()?;
    (client.node_id() == raylet.node_id && client.failure().is_none()).then(|| client.clone())
}

fn find_raylet(cluster_id: ClusterId, gone: Option<NodeId>) -> Result<RayletHandle, NativeError> {
    let raylet = wait_for_raylet(gone, RESTART_PATIENCE).ok_or_else(|| {
        let message = "no raylet runs on this executor: its cluster was stopped, or its raylet has died and was not \
                       back in time";
        NativeError::refused(ErrorCode::Unavailable, message)
    })?;
    if raylet.identity.cluster_id != cluster_id {
        let message = format!(
            "the objects belong to cluster {cluster_id}, which was stopped; this executor is part of cluster {}",
            raylet.identity.cluster_id
        );
        return Err(NativeError::refused(ErrorCode::Stale, message));
    }
    Ok(raylet)
}

/// The store of this node.
pub(crate) struct NodeStore {
    client: BlockingStoreClient,
}

impl NodeStore {
    /// Connects, or uses the connection that there is; waits for a raylet that is being started again. Refuses when
    /// this executor's node belongs to no or another cluster.
    pub(crate) fn connect(cluster_id: ClusterId) -> Result<Self, NativeError> {
        let raylet = find_raylet(cluster_id, None)?;
        match Self::connect_to(&raylet) {
            // It has just died perhaps, and nobody has seen it yet.
            Err(error) => match find_raylet(cluster_id, Some(raylet.node_id)) {
                Ok(another) => Ok(Self::connect_to(&another)?),
                Err(_) => Err(error.into()),
            },
            Ok(store) => Ok(store),
        }
    }

    fn connect_to(raylet: &RayletHandle) -> Result<Self, StoreError> {
        if let Some(client) = connection_to(raylet) {
            return Ok(Self { client });
        }
        let turn = CONNECTING.lock();
        if let Some(client) = connection_to(raylet) {
            return Ok(Self { client });
        }
        let client = BlockingStoreClient::connect_interruptible(
            &raylet.identity,
            &raylet.socket_name,
            raylet.node_id,
            WorkerId::random(),
            CONNECT_PATIENCE,
            is_task_interrupted,
        )?;
        LETS_GO.call_once(|| on_raylet_gone(let_go));
        *CONNECTION.lock() = Some(client.clone());
        drop(turn);
        if current_raylet().is_none_or(|current| current.node_id != raylet.node_id) {
            // It went while this connected: nobody else would let go.
            let_go(raylet.node_id);
        }
        Ok(Self { client })
    }

    pub(crate) fn node_id(&self) -> NodeId {
        self.client.node_id()
    }

    pub(crate) fn node_address(&self) -> &str {
        self.client.node_address()
    }

    /// Writes a provisional object of a feed; waits while the store makes room.
    pub(crate) fn write(
        &self,
        object: ObjectId,
        size: usize,
        owner: &WorkerAddress,
        feed: FeedId,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), NativeError> {
        let deadline = Instant::now() + CREATE_PATIENCE;
        let room = self
            .client
            .create(object, size as u64, owner, Some(feed), deadline)
            .map_err(why)?;
        let Some(mut room) = room else {
            let message = format!("object {object} exists already although its id was just made");
            return Err(NativeError::refused(ErrorCode::Internal, message));
        };
        fill(room.as_mut_slice());
        Ok(room.seal()?)
    }

    /// Waits until the store has seen the seal of this object, and of those that were sealed before it.
    pub(crate) fn confirm(&self, object: ObjectId) -> Result<(), NativeError> {
        drop(self.read(object, &[])?);
        Ok(())
    }

    /// Maps an object; waits while it is pulled or restored.
    pub(crate) fn read(
        &self,
        object: ObjectId,
        locations: &[ObjectLocation],
    ) -> Result<ReadableObject, NativeError> {
        let entry = GetEntry {
            object,
            locations: locations.to_vec(),
        };
        self.read_all(&[entry]).pop().unwrap_or_else(|| {
            let message = format!("the store gave no answer about object {object}");
            Err(NativeError::refused(ErrorCode::Internal, message))
        })
    }

    /// The same for several objects at once: one answer for each, in their order.
    pub(crate) fn read_all(&self, entries: &[GetEntry]) -> Vec<Result<ReadableObject, NativeError>> {
        let answers = self.client.get(entries, Instant::now() + GET_PATIENCE);
        answers.into_iter().map(|answer| answer.map_err(why)).collect()
    }
}

/// A wait that ends because the task was killed looks like one that took too long.
fn why(error: StoreError) -> NativeError {
    if matches!(error, StoreError::Deadline { .. }) && is_task_interrupted() {
        return NativeError::refused(
            ErrorCode::Cancelled,
            "the task was killed while it waited for the store",
        );
    }
    error.into()
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};

    use sparkray_common::ClusterToken;
    use sparkray_rpc::Identity;

    use super::*;

    #[test]
    fn a_raylet_that_does_not_answer_holds_up_nobody_but_the_tasks_that_need_it() {
        let identity = Identity {
            cluster_id: ClusterId::random(),
            token: ClusterToken::random(),
            head_epoch: 1,
        };
        let socket_name = format!("sparkray-test-{}", identity.cluster_id);
        let name = SocketAddr::from_abstract_name(&socket_name).unwrap();
        let listener = UnixListener::bind_addr(&name).unwrap();
        let raylet = RayletHandle {
            identity,
            socket_name,
            node_id: NodeId::random(),
            node_address: String::new(),
        };
        let node_id = raylet.node_id;
        let task = std::thread::spawn(move || NodeStore::connect_to(&raylet).map(|_| ()));
        let (silent, _) = listener.accept().unwrap();
        // The task waits for an answer now. What the manager does on its thread is not held up by that.
        let (free, hears) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(CONNECTION.lock());
            free.send(())
        });
        hears
            .recv_timeout(Duration::from_secs(5))
            .expect("the connection is locked while a task connects");
        let_go(node_id);
        drop(silent);
        task.join().unwrap().unwrap_err();
    }
}
