//! New ids of workers and leases: random, but for the simulation, whose ids are the same for the same seed.

use sparkray_common::{LeaseId, WorkerId};

/// Makes ids that nobody else makes.
#[derive(Debug)]
pub(crate) struct Ids {
    /// The simulation's: a prefix of this source alone, and how many it has made.
    numbered: Option<(u64, u64)>,
}

impl Ids {
    /// Random ids.
    pub(crate) fn random() -> Self {
        Self { numbered: None }
    }

    /// Ids that follow from `prefix`.
    pub(crate) fn numbered(prefix: u64) -> Self {
        Self {
            numbered: Some((prefix, 0)),
        }
    }

    fn next_numbered(&mut self) -> Option<[u8; 16]> {
        let (prefix, made) = self.numbered.as_mut()?;
        *made += 1;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&prefix.to_le_bytes());
        bytes[8..].copy_from_slice(&made.to_le_bytes());
        Some(bytes)
    }

    pub(crate) fn next_worker(&mut self) -> WorkerId {
        self.next_numbered()
            .map_or_else(WorkerId::random, WorkerId::from_array)
    }

    pub(crate) fn next_lease(&mut self) -> LeaseId {
        self.next_numbered()
            .map_or_else(LeaseId::random, LeaseId::from_array)
    }
}
