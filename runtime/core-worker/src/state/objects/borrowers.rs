//! Other processes that hold references to objects of this one.
//!
//! Invariants:
//! 1. A borrower stays until it gives its references up, or until its death is known. The end of a connection is neither.
//! 2. Registrations are numbered by the borrower, upwards. The first message with a greater number names everything that
//!    it holds; what still comes with a smaller one, over an older connection, is ignored.
//! 3. The number is forgotten with the last reference, and a smaller one counts again. If it came over a connection that
//!    breaks, the borrower is asked what it holds; else the borrower, which gets the answer, registers once more.

use sparkray_common::{NodeId, ObjectId, WorkerAddress, WorkerId};
use sparkray_proto::{self as proto, FrameKind};
use tracing::debug;

use super::Objects;
use crate::error::CoreError;
use crate::hash::IdSet;
use crate::state::links::{ConnId, Links};

/// A process that holds references to objects of this one.
#[derive(Debug)]
pub(super) struct Borrower {
    pub(super) node: NodeId,
    registration: u64,
    objects: IdSet<ObjectId>,
}

impl Borrower {
    pub(super) fn holds(&self, id: &ObjectId) -> bool {
        self.objects.contains(id)
    }
}

fn read_ids(messages: &[bytes::Bytes]) -> Result<Vec<ObjectId>, CoreError> {
    let ids = messages.iter().map(|bytes| ObjectId::from_slice(bytes));
    Ok(ids.collect::<Result<_, _>>()?)
}

impl Objects {
    pub(in crate::state) fn on_add_borrower(
        &mut self,
        links: &mut Links,
        conn: ConnId,
        correlation: u64,
        message: &proto::AddBorrower,
    ) -> Result<(), CoreError> {
        let ids = read_ids(&message.object_ids)?;
        let sender = links.sender_of(conn)?;
        if !links.deaths.is_dead(&sender) {
            self.take_registration(links, &sender, message.registration, ids);
        }
        links.send(conn, FrameKind::Empty, correlation, &proto::Empty {}, &[], true);
        Ok(())
    }

    fn take_registration(
        &mut self,
        links: &mut Links,
        sender: &WorkerAddress,
        registration: u64,
        ids: Vec<ObjectId>,
    ) {
        let worker = sender.worker_id;
        let entry = self.borrowers.entry(worker).or_insert_with(|| Borrower {
            node: sender.node_id,
            registration,
            objects: IdSet::default(),
        });
        if registration < entry.registration {
            debug!(worker_id = %worker, "a registration came too late");
            return;
        }
        let mut earlier = IdSet::default();
        if registration > entry.registration {
            entry.registration = registration;
            earlier = std::mem::take(&mut entry.objects);
        }
        for id in ids {
            match self.table.get_mut(&id) {
                Some(object) => {
                    object.ties().borrowers.insert(worker);
                    entry.objects.insert(id);
                }
                None => debug!(object_id = %id, "a borrower came for an object that was freed"),
            }
        }
        earlier.retain(|id| !entry.objects.contains(id));
        if entry.objects.is_empty() {
            self.borrowers.remove(&worker);
        }
        for id in earlier {
            self.remove_borrower(links, id, worker);
        }
    }

    pub(in crate::state) fn on_remove_borrower(
        &mut self,
        links: &mut Links,
        conn: ConnId,
        message: &proto::RemoveBorrower,
    ) -> Result<(), CoreError> {
        let ids = read_ids(&message.object_ids)?;
        let worker = links.sender_of(conn)?.worker_id;
        let Some(entry) = self.borrowers.get_mut(&worker) else {
            return Ok(());
        };
        if entry.registration != message.registration {
            return Ok(());
        }
        for id in &ids {
            entry.objects.remove(id);
        }
        if entry.objects.is_empty() {
            self.borrowers.remove(&worker);
        }
        for id in ids {
            self.remove_borrower(links, id, worker);
        }
        Ok(())
    }

    /// A borrower is dead.
    pub(super) fn forget_borrower(&mut self, links: &mut Links, worker: WorkerId) {
        if let Some(borrower) = self.borrowers.remove(&worker) {
            for id in borrower.objects {
                self.remove_borrower(links, id, worker);
            }
        }
    }
}
