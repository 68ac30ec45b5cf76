//! The raylet that runs beside this process, for whoever in the executor's JVM reads or writes objects.

use std::time::{Duration, Instant};

use sparkray_common::NodeId;
use sparkray_common::sync::{Condvar, Mutex};
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
static CURRENT: Mutex<Current> = Mutex::new(Current {
    handle: None,
    keepers: 0,
});
static CHANGED: Condvar = Condvar::new();

struct Current {
    handle: Option<RayletHandle>,
    /// Keepers at work: while there is one, a missing raylet is being started.
    keepers: usize,
}

/// What to do when a raylet is gone.
static ON_GONE: Mutex<Vec<fn(NodeId)>> = Mutex::new(Vec::new());

/// Has `action` called whenever the raylet of this executor is gone, so that connections to it are let go of and with
/// them the memory of its store.
pub fn on_raylet_gone(action: fn(NodeId)) {
    ON_GONE.lock().push(action);
}

/// The raylet of this executor; `None` while none runs.
pub fn current_raylet() -> Option<RayletHandle> {
    CURRENT.lock().handle.clone()
}

/// The raylet of this executor, other than `gone`; waits while one is being started, at most `patience`. `None` at once
/// when no raylet is kept here: its cluster was stopped, or it died too often.
pub fn wait_for_raylet(gone: Option<NodeId>, patience: Duration) -> Option<RayletHandle> {
    let now = Instant::now();
    wait(gone, now, now + patience)
}

/// As [`wait_for_raylet`], where a keeper may come until `expected_until`.
pub(super) fn wait_for_expected_raylet(expected_until: Instant, patience: Duration) -> Option<RayletHandle> {
    wait(None, expected_until, Instant::now() + patience)
}

fn wait(gone: Option<NodeId>, expected_until: Instant, deadline: Instant) -> Option<RayletHandle> {
    let mut current = CURRENT.lock();
    loop {
        let found = current
            .handle
            .clone()
            .filter(|handle| Some(handle.node_id) != gone);
        let until = if current.keepers == 0 {
            expected_until.min(deadline)
        } else {
            deadline
        };
        if found.is_some() || Instant::now() >= until {
            return found;
        }
        (current, _) = CHANGED.wait_until(current, until);
    }
}

/// A keeper is at work until this is dropped.
pub(super) struct Keeping(());

pub(super) fn keeping() -> Keeping {
    CURRENT.lock().keepers += 1;
    CHANGED.notify_all();
    Keeping(())
}

impl Drop for Keeping {
    fn drop(&mut self) {
        CURRENT.lock().keepers -= 1;
        CHANGED.notify_all();
    }
}

/// Makes a raylet known until it is dropped.
pub(super) struct Published(NodeId);

pub(super) fn publish(handle: RayletHandle) -> Published {
    let published = Published(handle.node_id);
    CURRENT.lock().handle = Some(handle);
    CHANGED.notify_all();
    published
}

impl Drop for Published {
    fn drop(&mut self) {
        let mut current = CURRENT.lock();
        if current
            .handle
            .as_ref()
            .is_some_and(|handle| handle.node_id == self.0)
        {
            current.handle = None;
        }
        drop(current);
        let actions = ON_GONE.lock().clone();
        for action in actions {
            action(self.0);
        }
    }
}
