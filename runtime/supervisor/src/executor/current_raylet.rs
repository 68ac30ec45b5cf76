//! The raylet that runs beside this process, for whoever in the executor's JVM reads or writes objects.

use parking_lot::Mutex;
use sparkray_common::NodeId;
use sparkray_rpc::Identity;

/// How to reach a raylet as a client of its node.
#[derive(Debug, Clone)]
pub struct RayletHandle {
    /// What the handshake needs.
    pub identity: Identity,
    /// Its abstract Unix socket.
    pub socket_name: String,
    /// Its node.
    pub node_id: NodeId,
    /// `host:port` at which other nodes reach it.
    pub node_address: String,
}

/// A process belongs to one executor, and an executor has one raylet.
static CURRENT: Mutex<Option<RayletHandle>> = Mutex::new(None);

/// The raylet of this executor; `None` while none runs.
pub fn current_raylet() -> Option<RayletHandle> {
    CURRENT.lock().clone()
}

/// Makes a raylet known until it is dropped.
pub(super) struct Published(NodeId);

pub(super) fn publish(handle: RayletHandle) -> Published {
    let published = Published(handle.node_id);
    *CURRENT.lock() = Some(handle);
    published
}

impl Drop for Published {
    fn drop(&mut self) {
        let mut current = CURRENT.lock();
        if current.as_ref().is_some_and(|handle| handle.node_id == self.0) {
            *current = None;
        }
    }
}
