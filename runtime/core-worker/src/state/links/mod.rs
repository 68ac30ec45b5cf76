//! Connections to other processes: who is at their other ends, what was asked over them, and what waits to be sent.
//!
//! Everything of the state stands on this part, so it also carries what all others need: this process, its timers, what it
//! leaves behind for others, and the deaths that it knows of.
//!
//! Invariants:
//! 1. A correlation id is pending on one connection at most, and every pending request is answered or handed out by
//!    [`Links::close`], once.
//! 2. `peers` names open connections only.
//! 3. Frames of one connection leave in the order in which they were queued.

mod ends;
mod frames;
mod metrics;
mod opening;
mod pending;
mod timers;
mod unreachable;

use std::collections::HashMap;

use prost::Message;
use sparkray_common::{FunctionId, LeaseId, Metrics, NodeId, WorkerAddress, WorkerId};
use sparkray_proto::FrameKind;
use tracing::debug;

use super::deaths::Deaths;
pub(super) use super::ids::{ConnId, RAYLET_CONN};
use super::outbox::Outbox;
use super::process::Process;
use crate::error::CoreError;
use crate::hash::{IdMap, IdSet};

pub(super) use ends::ClosedLink;
pub(super) use frames::{PayloadReader, encode_frame, id_bytes, with_correlation};
use metrics::LinkMetrics;
use pending::Slots;
pub(crate) use pending::{Pending, SlotResult};
pub(super) use timers::{Timer, Timers};
use unreachable::Unreachable;
pub(super) use unreachable::delay_before;

/// An empty buffer of a connection keeps at most this much memory.
const KEPT_BUFFER: usize = 64 * 1024;

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseCause {
    /// For people.
    pub message: String,
    /// The process that was called does not exist any more.
    pub gone: bool,
    /// The handshake was not over: no frame has left.
    pub unused: bool,
}

impl CloseCause {
    /// A connection that was in use ended.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            gone: false,
            unused: false,
        }
    }

    /// The process at the other end is dead.
    pub(super) fn death(message: impl Into<String>) -> Self {
        Self {
            gone: true,
            ..Self::new(message)
        }
    }
}

/// A process that this one talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PeerKey {
    LocalRaylet,
    Raylet(NodeId),
    Worker(WorkerId),
}

/// The request was not sent: its connection is closed.
#[derive(Debug)]
#[must_use]
pub(super) struct IsClosed;

#[derive(Debug, Default)]
struct Link {
    peer: Option<PeerKey>,
    /// Who is at the other end: who was called, or who said hello.
    remote: Option<WorkerAddress>,
    pending: IdMap<u64, Pending>,
    /// Functions whose code this connection has carried.
    functions_sent: IdSet<FunctionId>,
    /// The lease whose worker is at the other end.
    lease: Option<LeaseId>,
    /// The greatest correlation id of a function whose results came; for workers of other nodes only.
    answered: u64,
    /// The other side has said something.
    registered: bool,
    /// Encoded frames that have not been handed on.
    out: Vec<u8>,
    /// One of them should leave at once.
    urgent: bool,
}

impl Link {
    fn new(peer: Option<PeerKey>) -> Self {
        Self {
            peer,
            ..Self::default()
        }
    }

    fn is_quiet(&self) -> bool {
        self.pending.is_empty() && self.lease.is_none() && self.out.is_empty()
    }
}

pub(super) struct Links {
    pub(super) process: Process,
    pub(super) timers: Timers,
    pub(super) out: Outbox,
    pub(super) deaths: Deaths,
    /// Name of the local raylet's abstract socket.
    raylet_socket: String,
    links: IdMap<ConnId, Link>,
    peers: HashMap<PeerKey, ConnId>,
    /// Connections with frames that have not been handed on.
    touched: Vec<ConnId>,
    /// Connections to processes that are said to be dead, and why they died.
    closing: IdMap<ConnId, String>,
    /// Processes that this one has ties to and no connection with.
    unreachable: IdMap<WorkerId, Unreachable>,
    slots: Slots,
    next_conn: ConnId,
    next_correlation: u64,
    metrics: LinkMetrics,
}

impl Links {
    pub(super) fn new(process: Process, raylet_socket: String) -> Self {
        Self {
            process,
            timers: Timers::default(),
            out: Outbox::default(),
            deaths: Deaths::default(),
            raylet_socket,
            links: [(RAYLET_CONN, Link::new(Some(PeerKey::LocalRaylet)))]
                .into_iter()
                .collect(),
            peers: [(PeerKey::LocalRaylet, RAYLET_CONN)].into_iter().collect(),
            touched: Vec::new(),
            closing: IdMap::default(),
            unreachable: IdMap::default(),
            slots: Slots::default(),
            next_conn: RAYLET_CONN + 1,
            next_correlation: 1,
            metrics: LinkMetrics::default(),
        }
    }

    // ---- sending -------------------------------------------------------------------------------------------

    /// The buffer of frames for a connection; `None`: it is closed.
    fn outgoing(&mut self, conn: ConnId, urgent: bool) -> Option<&mut Vec<u8>> {
        let link = self.links.get_mut(&conn)?;
        if link.out.is_empty() {
            self.touched.push(conn);
        }
        link.urgent |= urgent;
        Some(&mut link.out)
    }

    /// Queues a frame for a connection.
    pub(super) fn send<M: Message>(
        &mut self,
        conn: ConnId,
        kind: FrameKind,
        correlation: u64,
        message: &M,
        payload: &[&[u8]],
        urgent: bool,
    ) {
        if let Some(out) = self.outgoing(conn, urgent) {
            encode_frame(out, kind, correlation, &[], message, payload);
        }
    }

    /// Queues a frame that is encoded already.
    pub(super) fn send_encoded(&mut self, conn: ConnId, frame: &[u8], urgent: bool) {
        if let Some(out) = self.outgoing(conn, urgent) {
            out.extend_from_slice(frame);
        }
    }

    pub(super) fn tell_raylet<M: Message>(&mut self, kind: FrameKind, message: &M, urgent: bool) {
        self.send(RAYLET_CONN, kind, 0, message, &[], urgent);
    }

    /// Queues a request and remembers what its reply is for.
    pub(super) fn request<M: Message>(
        &mut self,
        conn: ConnId,
        pending: Pending,
        kind: FrameKind,
        message: &M,
    ) -> Result<(), IsClosed> {
        self.request_with(conn, pending, kind, &[], message, &[])
    }

    /// As [`Links::request`], with fields that are encoded already and a payload.
    pub(super) fn request_with<M: Message>(
        &mut self,
        conn: ConnId,
        pending: Pending,
        kind: FrameKind,
        prefix: &[u8],
        message: &M,
        payload: &[&[u8]],
    ) -> Result<(), IsClosed> {
        let correlation = self.next_correlation;
        let link = self.links.get_mut(&conn).ok_or(IsClosed)?;
        self.next_correlation += 1;
        // With nothing else under way the other side waits for this frame; else it may travel with others.
        let urgent = link.pending.len() < 2;
        link.pending.insert(correlation, pending);
        if let Some(out) = self.outgoing(conn, urgent) {
            encode_frame(out, kind, correlation, prefix, message, payload);
        }
        Ok(())
    }

    /// A request to the local raylet for which a thread waits.
    pub(super) fn ask_raylet<M: Message>(
        &mut self,
        pending: impl FnOnce(u64) -> Pending,
        kind: FrameKind,
        message: &M,
    ) -> u64 {
        self.ask(RAYLET_CONN, pending, kind, message)
    }

    /// A request to another process for which a thread waits.
    pub(super) fn ask<M: Message>(
        &mut self,
        conn: ConnId,
        pending: impl FnOnce(u64) -> Pending,
        kind: FrameKind,
        message: &M,
    ) -> u64 {
        let slot = self.slots.add();
        if self.request(conn, pending(slot), kind, message).is_err() {
            self.fill_slot(
                slot,
                SlotResult::Failed(lost_connection("the connection is closed")),
            );
        }
        slot
    }

    /// Hands every queued frame to `take`: connection, bytes, and whether they should leave at once.
    pub(super) fn take_outgoing(&mut self, mut take: impl FnMut(ConnId, &mut Vec<u8>, bool)) {
        for conn in self.touched.drain(..) {
            let Some(link) = self.links.get_mut(&conn) else {
                continue;
            };
            self.metrics.sent(link.out.len());
            take(conn, &mut link.out, link.urgent);
            link.out.clear();
            link.out.shrink_to(KEPT_BUFFER);
            link.urgent = false;
        }
    }

    pub(super) fn has_outgoing(&self) -> bool {
        !self.touched.is_empty()
    }

    // ---- replies -------------------------------------------------------------------------------------------

    /// What a reply is for; `None`: for nothing that is awaited.
    pub(super) fn take_pending(&mut self, conn: ConnId, correlation: u64) -> Option<Pending> {
        let link = self.links.get_mut(&conn)?;
        link.registered = true;
        let pending = link.pending.remove(&correlation);
        if pending.is_none() && correlation != 0 {
            debug!(conn, correlation, "a reply to nothing that was asked");
        }
        pending
    }

    /// One of the objects of a read is answered.
    pub(super) fn read_answered(
        &mut self,
        conn: ConnId,
        correlation: u64,
        object: &sparkray_common::ObjectId,
    ) {
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        if let Some(Pending::Read(waiting)) = link.pending.get_mut(&correlation) {
            waiting.remove(object);
            if waiting.is_empty() {
                link.pending.remove(&correlation);
            }
        }
    }

    /// The requests of threads to the head, which will not be answered any more.
    pub(super) fn fail_head_requests(&mut self, error: &CoreError) {
        let Some(raylet) = self.links.get_mut(&RAYLET_CONN) else {
            return;
        };
        let asked = raylet
            .pending
            .extract_if(|_, pending| matches!(pending, Pending::Head(_)));
        let asked: Vec<Pending> = asked.map(|(_, pending)| pending).collect();
        for pending in asked {
            if let Pending::Head(slot) = pending {
                self.fill_slot(slot, SlotResult::Failed(error.clone()));
            }
        }
    }

    pub(super) fn fill_slot(&mut self, slot: u64, result: SlotResult) {
        if self.slots.fill(slot, result) {
            self.out.news();
        }
    }

    pub(super) fn take_slot(&mut self, slot: u64) -> Option<SlotResult> {
        self.slots.take(slot)
    }

    /// Nobody waits for this reply.
    pub(super) fn forget_slot(&mut self, slot: u64) {
        self.slots.remove(slot);
    }

    /// Whoever waits for a reply gets this error.
    pub(super) fn fail_slots(&mut self, error: &CoreError) {
        self.slots.fail_all(error);
    }

    // ---- who is at the other end ---------------------------------------------------------------------------

    pub(super) fn is_open(&self, conn: ConnId) -> bool {
        self.links.contains_key(&conn)
    }

    pub(super) fn peer_of(&self, conn: ConnId) -> Option<PeerKey> {
        self.links.get(&conn)?.peer
    }

    /// The open connection to a process.
    pub(super) fn conn_of(&self, peer: PeerKey) -> Option<ConnId> {
        self.peers.get(&peer).copied()
    }

    /// Who speaks on a connection, once it has said so.
    pub(super) fn remote_of(&self, conn: ConnId) -> Option<&WorkerAddress> {
        self.links.get(&conn)?.remote.as_ref()
    }

    /// Whether the other side has said something.
    pub(super) fn is_registered(&self, conn: ConnId) -> bool {
        self.links.get(&conn).is_some_and(|link| link.registered)
    }

    /// Whether there is a connection to a process, one that is being made included.
    pub(super) fn is_connected(&self, worker: WorkerId) -> bool {
        let mut remotes = self.links.values().filter_map(|link| link.remote.as_ref());
        remotes.any(|remote| remote.worker_id == worker)
    }

    /// Connections to one process.
    pub(super) fn conns_of_worker(&self, worker: WorkerId) -> Vec<ConnId> {
        let is_theirs = |link: &Link| {
            let remote = link.remote.as_ref();
            remote.is_some_and(|remote| remote.worker_id == worker)
        };
        self.conns_where(is_theirs)
    }

    /// Connections to the processes of one node.
    pub(super) fn conns_of_node(&self, node: NodeId) -> Vec<ConnId> {
        self.conns_where(|link| {
            let remote = link.remote.as_ref();
            link.peer == Some(PeerKey::Raylet(node)) || remote.is_some_and(|remote| remote.node_id == node)
        })
    }

    /// Connections that this process opened and that nobody has answered.
    pub(super) fn unanswered_conns(&self) -> Vec<ConnId> {
        self.conns_where(|link| {
            let called = matches!(link.peer, Some(PeerKey::Worker(_) | PeerKey::Raylet(_)));
            called && !link.registered
        })
    }

    fn conns_where(&self, fits: impl Fn(&Link) -> bool) -> Vec<ConnId> {
        let links = self.links.iter();
        links
            .filter(|(_, link)| fits(link))
            .map(|(conn, _)| *conn)
            .collect()
    }

    // ---- what a connection to a leased worker carries ------------------------------------------------------

    pub(super) fn lease_of(&self, conn: ConnId) -> Option<LeaseId> {
        self.links.get(&conn)?.lease
    }

    pub(super) fn set_lease(&mut self, conn: ConnId, lease: Option<LeaseId>) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.lease = lease;
        }
    }

    /// Notes that the code of a function travels over a connection, and tells what was answered there last. True: for the
    /// first time.
    pub(super) fn carry_function(&mut self, conn: ConnId, function: FunctionId) -> (bool, u64) {
        match self.links.get_mut(&conn) {
            Some(link) => (link.functions_sent.insert(function), link.answered),
            None => (false, 0),
        }
    }

    /// The code of a function may not have been read at the other end.
    pub(super) fn forget_function(&mut self, conn: ConnId, function: &FunctionId) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.functions_sent.remove(function);
        }
    }

    /// A function was answered by a worker; those on other nodes are told with the next one.
    pub(super) fn function_answered(&mut self, conn: ConnId, correlation: u64) {
        let here = self.process.me.node_id;
        if let Some(link) = self.links.get_mut(&conn) {
            if link.remote.as_ref().is_some_and(|remote| remote.node_id != here) {
                link.answered = correlation;
            }
        }
    }

    /// Lists the connections that there are, and what was counted.
    pub(super) fn list_metrics(&self, into: &mut Metrics) {
        into.gauge(
            "ray_core_worker_open_connections",
            "Connections, that to the raylet included",
            self.links.len() as u64,
        );
        self.metrics.list(into);
    }

    // ---- checking ------------------------------------------------------------------------------------------

    /// Panics where an invariant does not hold.
    pub(super) fn check(&self) {
        let mut correlations = IdSet::default();
        for (conn, link) in &self.links {
            for correlation in link.pending.keys() {
                assert!(
                    correlations.insert(*correlation),
                    "{correlation} is pending twice"
                );
            }
            let waits = self.touched.iter().filter(|touched| *touched == conn).count();
            assert_eq!(
                waits,
                usize::from(!link.out.is_empty()),
                "frames of {conn}: {waits}"
            );
        }
        for (peer, conn) in &self.peers {
            assert!(self.links.contains_key(conn), "{peer:?} has no connection {conn}");
        }
        for conn in self.closing.keys() {
            assert!(
                self.links.contains_key(conn),
                "no connection {conn} is to be closed"
            );
        }
    }

    pub(super) fn check_empty(&self, who: &str) {
        assert!(self.slots.is_empty(), "{who}: slots {:?}", self.slots);
        assert!(
            self.unreachable.is_empty(),
            "{who}: unreachable {:?}",
            self.unreachable
        );
        assert!(self.closing.is_empty(), "{who}: closing {:?}", self.closing);
        assert_eq!(self.timers.len(), 0, "{who}: timers {:?}", self.timers);
        for (conn, link) in &self.links {
            assert!(link.is_quiet(), "{who}: connection {conn} {link:?}");
        }
    }

    #[cfg(test)]
    pub(super) fn any_worker(&self) -> Option<ConnId> {
        self.conns_where(|link| matches!(link.peer, Some(PeerKey::Worker(_))))
            .first()
            .copied()
    }
}

/// The answer to a request will not come.
pub(super) fn lost_connection(cause: &str) -> CoreError {
    CoreError::new(
        sparkray_common::ErrorCode::Unavailable,
        format!("the connection was lost: {cause}"),
    )
}
