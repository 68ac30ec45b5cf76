//! Connections to hosts that are known by name. The system's resolver may take as long as it likes, so it runs on a thread
//! of its own, and what is to be sent waits here meanwhile.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use sparkray_common::sync::Mutex;
use sparkray_rpc::Target;

use crate::kick::Kick;
use crate::state::ConnId;

/// Names that are looked up at once: one thread each.
const MAX_LOOKUPS: usize = 64;

/// A connection that cannot be begun yet.
pub(crate) struct Unresolved {
    pub(crate) target: Target,
    /// Host and port.
    pub(crate) address: String,
    /// Frames that wait for it.
    pub(crate) frames: Vec<u8>,
}

/// What the resolver said.
type Answer = (ConnId, io::Result<SocketAddr>);

/// Connections whose names are looked up.
pub(crate) struct Names {
    waiting: Mutex<HashMap<ConnId, Unresolved>>,
    answers: Arc<Mutex<Vec<Answer>>>,
    kick: Arc<Kick>,
}

impl Names {
    pub(crate) fn new(kick: Arc<Kick>) -> Self {
        Self {
            waiting: Mutex::new(HashMap::new()),
            answers: Arc::default(),
            kick,
        }
    }

    /// Begins to look up where `address`, host and port, is.
    pub(crate) fn look_up(&self, id: ConnId, address: &str, target: Target) -> io::Result<()> {
        let mut waiting = self.waiting.lock();
        // Each thread holds the answers, also when its connection is not wanted any more.
        if Arc::strong_count(&self.answers) > MAX_LOOKUPS {
            let message =
                format!("{MAX_LOOKUPS} other names of hosts are being looked up, and none is answered");
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        let (name, answers, kick) = (
            address.to_owned(),
            Arc::clone(&self.answers),
            Arc::clone(&self.kick),
        );
        let look_up = move || {
            let found = name.to_socket_addrs().and_then(|mut found| {
                let missing = || io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
                found.next().ok_or_else(missing)
            });
            answers.lock().push((id, found));
            kick.now();
        };
        std::thread::Builder::new()
            .name("sparkray-names".to_owned())
            .spawn(look_up)?;
        let unresolved = Unresolved {
            target,
            address: address.to_owned(),
            frames: Vec::new(),
        };
        waiting.insert(id, unresolved);
        Ok(())
    }

    /// Keeps frames for a connection that waits for its name. False: none of that id does any more.
    pub(crate) fn append(&self, id: ConnId, frames: &mut Vec<u8>) -> bool {
        let mut waiting = self.waiting.lock();
        let Some(unresolved) = waiting.get_mut(&id) else {
            return false;
        };
        unresolved.frames.append(frames);
        true
    }

    /// Hands connections whose names were answered to `begin`. Nothing is appended to them meanwhile.
    pub(crate) fn take_answered(&self, mut begin: impl FnMut(ConnId, Unresolved, io::Result<SocketAddr>)) {
        let answers = std::mem::take(&mut *self.answers.lock());
        for (id, found) in answers {
            let mut waiting = self.waiting.lock();
            // It may have been closed meanwhile.
            if let Some(unresolved) = waiting.remove(&id) {
                begin(id, unresolved, found);
            }
        }
    }

    /// The connection is not wanted any more.
    pub(crate) fn forget(&self, id: ConnId) {
        self.waiting.lock().remove(&id);
    }
}
