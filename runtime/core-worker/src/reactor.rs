//! Sockets of a core worker, and the turn-taking of the threads that wait on them.
//!
//! The thread that needs an answer reads the sockets itself (the *leader*): a hop to an I/O thread and back
//! would cost more than the rest of a call. Others that wait meanwhile (*followers*) are woken when something
//! changed, or to lead. A helper thread leads when nobody has for a millisecond, so that pushes are taken in
//! and corked frames leave while user code runs.
//!
//! Invariants:
//! 1. At most one thread leads: it holds `lead`.
//! 2. A thread checks its condition after it became leader and before it sleeps in epoll.
//! 3. A leader that leaves wakes a follower, and the helper if it is parked.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use sparkray_rpc::{ClientHandshake, Endpoint, Frame, Identity, Target, connect_nonblocking};

use crate::connection::{Connection, Flushed};

/// Names a connection within this process.
pub(crate) type ConnId = u64;
/// The connection to the local raylet.
pub(crate) const RAYLET_CONN: ConnId = 0;
const KICK: u64 = u64::MAX;
const MAX_EVENTS: usize = 256;

/// What happened on a connection.
#[derive(Debug)]
pub(crate) enum Incident {
    Frames(ConnId, Vec<Frame>),
    Closed(ConnId, String),
}

pub(crate) struct Reactor {
    epoll: OwnedFd,
    kick: OwnedFd,
    kicked: AtomicBool,
    identity: Identity,
    connections: Mutex<HashMap<ConnId, Arc<Connection>>>,
    /// Connections with corked frames.
    dirty: Mutex<Vec<ConnId>>,
    /// Connections that failed outside of the leader's reading.
    broken: Mutex<Vec<(ConnId, String)>>,
}

impl Reactor {
    pub(crate) fn new(identity: Identity) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &kick, EventData::new_u64(KICK), EventFlags::IN)?;
        Ok(Self {
            epoll,
            kick,
            kicked: AtomicBool::new(false),
            identity,
            connections: Mutex::new(HashMap::new()),
            dirty: Mutex::new(Vec::new()),
            broken: Mutex::new(Vec::new()),
        })
    }

    /// Adds a socket past the handshake.
    pub(crate) fn adopt(&self, id: ConnId, socket: OwnedFd, peer: String) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let connection = Arc::new(Connection::established(socket, peer));
        self.connections.lock().insert(id, Arc::clone(&connection));
        epoll::add(
            &self.epoll,
            connection.socket(),
            EventData::new_u64(id),
            EventFlags::IN,
        )?;
        Ok(())
    }

    /// Begins to connect; a failure is reported by a later [`Reactor::drive`].
    pub(crate) fn open(&self, id: ConnId, endpoint: &Endpoint, target: Target) {
        let outcome = connect_nonblocking(endpoint).and_then(|socket| {
            let handshake = ClientHandshake::new(&self.identity, target);
            let connection = Arc::new(Connection::connecting(socket, handshake, endpoint.to_string()));
            self.connections.lock().insert(id, Arc::clone(&connection));
            epoll::add(
                &self.epoll,
                connection.socket(),
                EventData::new_u64(id),
                EventFlags::IN | EventFlags::OUT,
            )?;
            Ok(())
        });
        if let Err(error) = outcome {
            self.report_broken(id, format!("cannot connect to {endpoint}: {error}"));
        }
    }

    /// Queues a frame; it leaves at the next flush, or now when enough waits or `urgent`.
    pub(crate) fn append(&self, id: ConnId, frame: &[u8], urgent: bool) -> Option<Arc<Connection>> {
        let connection = self.connections.lock().get(&id).map(Arc::clone)?;
        let full = connection.append(frame);
        if urgent || full {
            return Some(connection);
        }
        let mut dirty = self.dirty.lock();
        if dirty.last() != Some(&id) {
            dirty.push(id);
        }
        None
    }

    /// Writes what waits on one connection.
    pub(crate) fn flush(&self, id: ConnId, connection: &Connection) {
        match connection.flush() {
            Flushed::Done => {}
            Flushed::Blocked => self.watch(id, connection, EventFlags::IN | EventFlags::OUT),
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

    fn watch(&self, id: ConnId, connection: &Connection, flags: EventFlags) {
        if let Err(error) = epoll::modify(&self.epoll, connection.socket(), EventData::new_u64(id), flags) {
            self.report_broken(id, format!("cannot watch a socket: {error}"));
        }
    }

    fn report_broken(&self, id: ConnId, cause: String) {
        self.broken.lock().push((id, cause));
        self.wake();
    }

    /// Closes a connection and forgets it.
    pub(crate) fn close(&self, id: ConnId) {
        if let Some(connection) = self.connections.lock().remove(&id) {
            connection.flush();
            connection.close();
        }
    }

    /// Makes the leader return from epoll.
    pub(crate) fn wake(&self) {
        if !self.kicked.swap(true, Ordering::AcqRel) {
            // A full counter means that it is readable already.
            let _ = rustix::io::write(&self.kick, &1_u64.to_ne_bytes());
        }
    }

    /// Waits up to `timeout` and reads what arrived. Only the leader calls it.
    pub(crate) fn drive(&self, timeout: Duration, incidents: &mut Vec<Incident>) -> io::Result<()> {
        self.flush_dirty();
        let mut events: [std::mem::MaybeUninit<Event>; MAX_EVENTS] =
            [const { std::mem::MaybeUninit::uninit() }; MAX_EVENTS];
        let no_wait = !self.broken.lock().is_empty();
        let timeout = if no_wait { Duration::ZERO } else { timeout };
        let timespec = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let (ready, _) = match epoll::wait(&self.epoll, &mut events, Some(&timespec)) {
            Ok(outcome) => outcome,
            // A signal: the caller looks whether it concerns it.
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for event in ready.iter() {
            let id = event.data.u64();
            if id == KICK {
                let mut counter = [0; 8];
                let _ = rustix::io::read(&self.kick, &mut counter);
                self.kicked.store(false, Ordering::Release);
                continue;
            }
            let flags = event.flags;
            self.handle(id, flags, incidents);
        }
        for (id, cause) in std::mem::take(&mut *self.broken.lock()) {
            self.forget(id);
            incidents.push(Incident::Closed(id, cause));
        }
        Ok(())
    }

    fn handle(&self, id: ConnId, flags: EventFlags, incidents: &mut Vec<Incident>) {
        let Some(connection) = self.connections.lock().get(&id).map(Arc::clone) else {
            return;
        };
        if flags.intersects(EventFlags::OUT) {
            match connection.on_writable() {
                Ok(Flushed::Done) => self.watch(id, &connection, EventFlags::IN),
                Ok(_) => {}
                Err(error) => {
                    self.forget(id);
                    incidents.push(Incident::Closed(id, error.to_string()));
                    return;
                }
            }
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
        let cause = match outcome {
            Ok(true) => {
                // The handshake may just have ended: frames that waited for it leave now.
                self.flush(id, &connection);
                return;
            }
            Ok(false) => "the other side closed the connection".to_owned(),
            Err(error) => error.to_string(),
        };
        self.forget(id);
        incidents.push(Incident::Closed(id, cause));
    }

    fn forget(&self, id: ConnId) {
        if let Some(connection) = self.connections.lock().remove(&id) {
            // Closing the last descriptor would remove it too, but clones may live.
            let _ = epoll::delete(&self.epoll, connection.socket().as_fd());
            connection.close();
        }
    }
}
