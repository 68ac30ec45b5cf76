//! Commands on their way to executors.
//!
//! A command is never dropped for an executor that goes on: what one does not take in, so that its queue is full, ends its
//! stream. Then it ends what it runs, as it does when the driver is gone, and joins anew.

use std::collections::BTreeMap;

use sparkray_proto::ManagerCommand;
use tokio::sync::mpsc;
use tonic::Status as TonicStatus;
use tracing::warn;

use super::membership::MemberKey;

/// The way of commands to one executor.
pub(super) type Outbox = mpsc::Sender<Result<ManagerCommand, TonicStatus>>;

/// Those of all executors that are there.
#[derive(Default)]
pub(super) struct Outboxes(BTreeMap<MemberKey, Outbox>);

impl Outboxes {
    pub(super) fn add(&mut self, key: MemberKey, outbox: Outbox) {
        self.0.insert(key, outbox);
    }

    pub(super) fn remove(&mut self, key: MemberKey) {
        self.0.remove(&key);
    }

    pub(super) fn send(&mut self, key: MemberKey, command: ManagerCommand) {
        let Some(outbox) = self.0.get(&key) else {
            return;
        };
        if let Err(error) = outbox.try_send(Ok(command)) {
            warn!(%error, "an executor takes no commands: its connection is given up");
            self.0.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sparkray_proto::{StopCluster, manager_command::Command};

    fn stop() -> ManagerCommand {
        ManagerCommand {
            command: Some(Command::StopCluster(StopCluster::default())),
        }
    }

    #[test]
    fn an_executor_that_takes_nothing_in_loses_its_stream_and_no_command_in_silence() {
        let (outbox, mut commands) = mpsc::channel(1);
        let mut outboxes = Outboxes::default();
        let key = MemberKey::default();
        outboxes.add(key, outbox);
        outboxes.send(key, stop());
        outboxes.send(key, stop());
        // It gets what was queued, and then the end.
        assert!(matches!(commands.try_recv(), Ok(Ok(command)) if command == stop()));
        assert!(matches!(
            commands.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        ));
        outboxes.send(key, stop());
    }
}
