//! Sockets of a core worker: one epoll set, driven by whichever thread leads (see `waiting`).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use sparkray_common::sync::Mutex;
use sparkray_rpc::{
    Agreement, CHECK_INTERVAL, ClientHandshake, Endpoint, Frame, Identity, Refusal, RpcError, SILENCE,
    Target, connect_nonblocking,
};

use crate::hash::IdMap;
use crate::io::connection::{Connection, Flushed};
use crate::io::names::Names;
use crate::kick::Kick;
use crate::state::{CloseCause, ConnId};

const KICK: u64 = u64::MAX;
const MAX_EVENTS: usize = 256;
/// Frames that need not leave at once leave after this time, with others.
const CORK_TIME: Duration = Duration::from_millis(1);

/// Why a connection is over, after a failure. `unused`: no frame has left.
fn cause_of(error: &RpcError, unused: bool) -> CloseCause {
    let gone = match error {
        RpcError::Refused { refusal, .. } => *refusal != Refusal::Busy,
        _ => false,
    };
    CloseCause {
        message: error.to_string(),
        gone,
        unused,
    }
}

/// What happened on a connection.
#[derive(Debug)]
pub(crate) enum Incident {
    Frames(ConnId, Vec<Frame>),
    Closed(ConnId, CloseCause),
}

/// Why [`Reactor::drive`] returned, beside incidents.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// By a signal that the calling thread got.
    Signal,
    /// By anything else.
    Other,
}

pub(crate) struct Reactor {
    epoll: OwnedFd,
    kick: Arc<Kick>,
    identity: Identity,
    connections: Mutex<IdMap<ConnId, Arc<Connection>>>,
    /// Those that wait for the address of a host.
    names: Names,
    /// Connections with corked frames.
    dirty: Mutex<Vec<ConnId>>,
    /// Connections that failed outside of the leader's reading.
    broken: Mutex<Vec<(ConnId, String)>>,
    begun: Instant,
    /// When connections were last checked, in milliseconds since `begun`.
    checked: AtomicU64,
}

impl Reactor {
    pub(crate) fn new(identity: Identity) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let kick = Arc::new(Kick::new()?);
        epoll::add(&epoll, &kick, EventData::new_u64(KICK), EventFlags::IN)?;
        Ok(Self {
            epoll,
            identity,
            connections: Mutex::default(),
            names: Names::new(Arc::clone(&kick)),
            kick,
            dirty: Mutex::new(Vec::new()),
            broken: Mutex::new(Vec::new()),
            begun: Instant::now(),
            checked: AtomicU64::new(0),
        })
    }

    pub(crate) fn kick(&self) -> &Arc<Kick> {
        &self.kick
    }

    /// Adds a socket past the handshake; `agreement` is that of its ends. A failure is reported by a later
    /// [`Reactor::drive`].
    pub(crate) fn adopt(&self, id: ConnId, socket: OwnedFd, agreement: Agreement, peer: &str) {
        let outcome = rustix::io::ioctl_fionbio(&socket, true)
            .map_err(io::Error::from)
            .and_then(|()| {
                self.add(
                    id,
                    Connection::called(socket, agreement, self.identity.token.clone(), peer.to_owned()),
                    EventFlags::IN,
                )
            });
        if let Err(error) = outcome {
            self.report_broken(id, format!("cannot take over a connection of {peer}: {error}"));
        }
    }

    /// Begins to connect. A failure is reported by a later [`Reactor::drive`]. Waits for nobody: the state's lock is held.
    pub(crate) fn open(&self, id: ConnId, endpoint: &Endpoint, target: Target) {
        let outcome = match endpoint {
            Endpoint::Tcp(address) if address.parse::<SocketAddr>().is_err() => {
                self.names.look_up(id, address, target)
            }
            _ => self.connect(id, endpoint, target, endpoint.to_string(), &mut Vec::new()),
        };
        if let Err(error) = outcome {
            self.report_broken(id, format!("cannot connect to {endpoint}: {error}"));
        }
    }

    /// `frames`: what waited for this connection.
    fn connect(
        &self,
        id: ConnId,
        endpoint: &Endpoint,
        target: Target,
        peer: String,
        frames: &mut Vec<u8>,
    ) -> io::Result<()> {
        let socket = connect_nonblocking(endpoint)?;
        let handshake = ClientHandshake::new(&self.identity, target);
        let connection = Connection::connecting(socket, handshake, peer);
        connection.append(frames);
        self.add(id, connection, EventFlags::IN | EventFlags::OUT)
    }

    /// Begins to connect to the hosts whose names were looked up.
    fn connect_resolved(&self) {
        self.names.take_answered(|id, mut unresolved, found| {
            let outcome = found.and_then(|address| {
                let endpoint = Endpoint::Tcp(address.to_string());
                let peer = unresolved.address.clone();
                self.connect(id, &endpoint, unresolved.target, peer, &mut unresolved.frames)
            });
            if let Err(error) = outcome {
                self.report_broken(id, format!("cannot connect to {}: {error}", unresolved.address));
            }
        });
    }

    fn add(&self, id: ConnId, connection: Connection, flags: EventFlags) -> io::Result<()> {
        let connection = Arc::new(connection);
        self.connections.lock().insert(id, Arc::clone(&connection));
        epoll::add(&self.epoll, connection.socket(), EventData::new_u64(id), flags)?;
        Ok(())
    }

    /// Queues frames; they leave with others a little later. Gives the connection when they should leave at once,
    /// by [`Reactor::flush`].
    pub(crate) fn append(&self, id: ConnId, frames: &mut Vec<u8>, urgent: bool) -> Option<Arc<Connection>> {
        let known = self.connections.lock().get(&id).map(Arc::clone);
        let connection = match known {
            Some(connection) => connection,
            None if self.names.append(id, frames) => return None,
            // Its name may just have been answered.
            None => self.connections.lock().get(&id).map(Arc::clone)?,
        };
        let full = connection.append(frames);
        if urgent || full {
            return Some(connection);
        }
        let mut dirty = self.dirty.lock();
        let first = dirty.is_empty();
        if dirty.last() != Some(&id) {
            dirty.push(id);
        }
        drop(dirty);
        if first {
            self.kick.later();
        }
        None
    }

    /// Writes what waits on one connection.
    pub(crate) fn flush(&self, id: ConnId, connection: &Connection) {
        let watch = |writable| {
            let flags = if writable {
                EventFlags::IN | EventFlags::OUT
            } else {
                EventFlags::IN
            };
            if let Err(error) = epoll::modify(&self.epoll, connection.socket(), EventData::new_u64(id), flags)
            {
                self.report_broken(id, format!("cannot watch a socket: {error}"));
            }
        };
        match connection.flush(watch) {
            Flushed::Done => {}
            // Reading will find the end, and what the other side said before it.
            Flushed::Broken => {}
        }
    }

    /// Writes corked frames.
    pub(crate) fn flush_dirty(&self) {
        let dirty = std::mem::take(&mut *self.dirty.lock());
        for id in dirty {
            let connection = self.connections.lock().get(&id).map(Arc::clone);
            if let Some(connection) = connection {
                self.flush(id, &connection);
            }
        }
    }

    fn report_broken(&self, id: ConnId, cause: String) {
        self.broken.lock().push((id, cause));
        self.kick.now();
    }

    /// Closes a connection and forgets it.
    pub(crate) fn close(&self, id: ConnId) {
        self.names.forget(id);
        let connection = self.connections.lock().remove(&id);
        if let Some(connection) = connection {
            connection.flush(|_| {});
            connection.close();
        }
    }

    /// Closes all connections.
    pub(crate) fn close_all(&self) {
        let ids: Vec<ConnId> = self.connections.lock().keys().copied().collect();
        for id in ids {
            self.close(id);
        }
    }

    /// Waits up to `timeout` and reads what arrived. Only the leader calls it.
    pub(crate) fn drive(&self, timeout: Duration, incidents: &mut Vec<Incident>) -> io::Result<Woken> {
        self.flush_dirty();
        self.connect_resolved();
        let now = Instant::now();
        self.check_reachability(now);
        let deadline = now + timeout;
        let mut corked = self.kick.fall_asleep();
        let mut patience = if corked { timeout.min(CORK_TIME) } else { timeout };
        let outcome = loop {
            if corked {
                // What comes now is taken along too: nobody needs to say so.
                self.kick.awake();
            }
            match self.wait(patience, incidents) {
                Ok(kicked) => {
                    // Somebody corked frames, or left something to release: both are taken along a little later.
                    let more = kicked && incidents.is_empty() && !corked && !self.kick.take_now();
                    if !more {
                        break Ok(Woken::Other);
                    }
                    corked = true;
                    patience = deadline.saturating_duration_since(Instant::now()).min(CORK_TIME);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => break Ok(Woken::Signal),
                Err(error) => break Err(error),
            }
        };
        self.kick.awake();
        for (id, message) in std::mem::take(&mut *self.broken.lock()) {
            let unused = self.forget(id);
            let cause = CloseCause {
                unused,
                ..CloseCause::new(message)
            };
            incidents.push(Incident::Closed(id, cause));
        }
        outcome
    }

    /// Once a second: finds connections whose other end has vanished while something was under way. The leader's sleep
    /// is never much longer.
    fn check_reachability(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.begun).as_millis() as u64;
        // Only the leader writes it.
        if millis < self.checked.load(Ordering::Relaxed) + CHECK_INTERVAL.as_millis() as u64 {
            return;
        }
        self.checked.store(millis, Ordering::Relaxed);
        let connections = self.connections.lock();
        for (id, connection) in &*connections {
            if !connection.is_reachable(now) {
                let peer = connection.peer();
                let cause = format!("{peer} has not acknowledged anything for {} s", SILENCE.as_secs());
                self.report_broken(*id, cause);
            }
        }
    }

    /// Waits for events once, and reads. Whether somebody kicked.
    fn wait(&self, timeout: Duration, incidents: &mut Vec<Incident>) -> io::Result<bool> {
        let mut events: [std::mem::MaybeUninit<Event>; MAX_EVENTS] =
            [const { std::mem::MaybeUninit::uninit() }; MAX_EVENTS];
        let timespec = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let (ready, _) = epoll::wait(&self.epoll, &mut events, Some(&timespec))?;
        let mut kicked = false;
        for event in ready.iter() {
            let id = event.data.u64();
            if id == KICK {
                self.kick.drain();
                kicked = true;
                continue;
            }
            let flags = event.flags;
            self.handle(id, flags, incidents);
        }
        Ok(kicked)
    }

    fn handle(&self, id: ConnId, flags: EventFlags, incidents: &mut Vec<Incident>) {
        let Some(connection) = self.connections.lock().get(&id).map(Arc::clone) else {
            return;
        };
        if flags.intersects(EventFlags::OUT) {
            if let Err(error) = connection.on_writable() {
                let unused = self.forget(id);
                incidents.push(Incident::Closed(id, cause_of(&error, unused)));
                return;
            }
            self.flush(id, &connection);
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR | EventFlags::RDHUP)
            || connection.is_connecting()
        {
            return;
        }
        let mut frames = Vec::new();
        let outcome = connection.on_readable(&mut frames);
        if !frames.is_empty() {
            incidents.push(Incident::Frames(id, frames));
        }
        let outcome = match outcome {
            Ok(true) => {
                // The handshake may just have ended: frames that waited for it leave now.
                self.flush(id, &connection);
                return;
            }
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        let unused = self.forget(id);
        let cause = match outcome {
            Ok(()) => CloseCause {
                unused,
                ..CloseCause::new("the other side closed the connection")
            },
            Err(error) => cause_of(&error, unused),
        };
        incidents.push(Incident::Closed(id, cause));
    }

    /// Forgets a connection that ended. Whether it was never used.
    fn forget(&self, id: ConnId) -> bool {
        self.names.forget(id);
        let connection = self.connections.lock().remove(&id);
        let Some(connection) = connection else {
            return true;
        };
        // Closing the last descriptor would remove it too, but clones may live.
        let _ = epoll::delete(&self.epoll, connection.socket().as_fd());
        connection.close();
        !connection.was_open()
    }
}

#[cfg(test)]
mod tests;
