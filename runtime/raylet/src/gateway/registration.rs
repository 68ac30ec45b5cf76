//! Who may register over which connection. Pure.

use sparkray_common::{ErrorCode, NodeId, VERSION, WorkerId};
use sparkray_proto::{ClientKind, Failure, MessageError, RegisterClient};

use super::clients::{Client, Clients};

impl Clients {
    /// The client that a registration describes, or why it is refused. `node`: this node's address, for messages.
    pub(crate) fn check(
        &self,
        connection: u64,
        message: &RegisterClient,
        node: &str,
    ) -> Result<Result<Client, Failure>, MessageError> {
        if message.sparkray_version != VERSION {
            let text = format!(
                "this process runs sparkray {}, node {node} runs {VERSION}: install the same version everywhere",
                message.sparkray_version
            );
            return Ok(Err(Failure::new(ErrorCode::VersionMismatch, text)));
        }
        let Some(is_local) = self.is_local(connection) else {
            return Err(MessageError::Missing("connection"));
        };
        let expected = self.expected(connection);
        let kind = message.kind();
        let worker_id = match kind {
            ClientKind::Remote => WorkerId::from_slice(&message.worker_id).unwrap_or(WorkerId::NIL),
            _ => WorkerId::from_slice(&message.worker_id)?,
        };
        if let Some(expected) = expected
            && (expected != worker_id || kind != ClientKind::Worker)
        {
            let text = format!("this connection is for worker {expected}, not for {worker_id}");
            return Ok(Err(Failure::new(ErrorCode::InvalidArgument, text)));
        }
        if (kind != ClientKind::Remote) != is_local || (kind == ClientKind::Worker && expected.is_none()) {
            let text = format!("a client of kind {kind:?} cannot register over this connection");
            return Ok(Err(Failure::new(ErrorCode::InvalidArgument, text)));
        }
        if kind != ClientKind::Remote && self.of_worker(worker_id).is_some() {
            let text = format!("worker id {worker_id} is registered already; a process registers once");
            return Ok(Err(Failure::new(ErrorCode::AlreadyExists, text)));
        }
        Ok(Ok(Client {
            kind,
            worker_id,
            node_id: NodeId::from_slice(&message.node_id).ok(),
            pid: message.pid,
            job_id: None,
            log_to_driver: message.log_to_driver,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn registration(kind: ClientKind, worker: WorkerId) -> RegisterClient {
        RegisterClient {
            worker_id: worker.to_vec().into(),
            kind: kind.into(),
            sparkray_version: VERSION.to_owned(),
            ..RegisterClient::default()
        }
    }

    #[test]
    fn each_kind_registers_over_its_own_connection_and_once() {
        let mut clients = Clients::default();
        let now = Instant::now();
        let born = WorkerId::random();
        let local = clients.connected(true, None, now);
        let remote = clients.connected(false, None, now);
        let for_worker = clients.connected(true, Some(born), now);
        let other = WorkerId::random();
        let code = |clients: &Clients, connection, kind, worker| {
            let outcome = clients
                .check(connection, &registration(kind, worker), "h:1")
                .unwrap();
            outcome.err().map(|failure| failure.error_code())
        };
        let refused = Some(ErrorCode::InvalidArgument);
        assert_eq!(code(&clients, local, ClientKind::Driver, other), None);
        assert_eq!(code(&clients, local, ClientKind::Worker, other), refused);
        assert_eq!(code(&clients, local, ClientKind::Remote, other), refused);
        assert_eq!(code(&clients, remote, ClientKind::Remote, other), None);
        assert_eq!(code(&clients, remote, ClientKind::Driver, other), refused);
        assert_eq!(code(&clients, for_worker, ClientKind::Worker, born), None);
        assert_eq!(code(&clients, for_worker, ClientKind::Worker, other), refused);
        let message = registration(ClientKind::Driver, other);
        let driver = clients.check(local, &message, "h:1").unwrap().unwrap();
        clients.register(local, driver);
        let second = clients.connected(true, None, now);
        let twice = code(&clients, second, ClientKind::Driver, other);
        assert_eq!(twice, Some(ErrorCode::AlreadyExists));
        let mut old = message;
        "0.0.1".clone_into(&mut old.sparkray_version);
        let failure = clients.check(second, &old, "h:1").unwrap().unwrap_err();
        assert_eq!(failure.error_code(), ErrorCode::VersionMismatch);
    }
}
