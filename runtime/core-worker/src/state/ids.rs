//! New ids: a random prefix for each process and a counter, so that making one costs next to nothing, and so that the
//! simulation's are the same for the same seed.

use sparkray_common::{LeaseId, TaskId};

/// Makes ids that no other process makes.
#[derive(Debug)]
pub(crate) struct IdSource {
    prefix: u64,
    made: u64,
}

impl IdSource {
    /// `prefix`: random, and of this process alone.
    pub(crate) fn new(prefix: u64) -> Self {
        Self { prefix, made: 0 }
    }

    /// A prefix from the operating system.
    pub(crate) fn random() -> Self {
        let mut prefix = [0; 8];
        prefix.copy_from_slice(&LeaseId::random().as_bytes()[..8]);
        Self::new(u64::from_le_bytes(prefix))
    }

    fn next(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.prefix.to_le_bytes());
        bytes[8..].copy_from_slice(&self.made.to_le_bytes());
        self.made += 1;
        bytes
    }

    pub(crate) fn next_task(&mut self) -> TaskId {
        TaskId::from_array(self.next())
    }

    pub(crate) fn next_lease(&mut self) -> LeaseId {
        LeaseId::from_array(self.next())
    }
}

/// Names a connection within this process.
pub(crate) type ConnId = u64;
/// The connection to the local raylet.
pub(crate) const RAYLET_CONN: ConnId = 0;

/// Names a scheduling class in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SchedulingClassId(pub(super) u64);
