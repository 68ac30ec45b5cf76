//! What executors attach to: one stream each way, behind the handshake.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sparkray_proto::manager_server::{Manager, ManagerServer};
use sparkray_proto::{ManagerCommand, ManagerEvent, ManagerHello, manager_event::Event};
use sparkray_rpc::{
    Accepted, ConnectionInfo, Identity, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, Listener, Refusal,
    SecuredSocket, Target, accept_loop, tonic_incoming,
};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::state::Shared;

/// An executor says hello as soon as it is connected.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// Commands that may wait for one executor.
const COMMAND_QUEUE: usize = 64;
/// Connections between handshake and tonic.
const INCOMING_QUEUE: usize = 64;

struct Service {
    shared: Arc<Shared>,
    readers: TaskTracker,
    cancel: CancellationToken,
}

/// Serves until `cancel`.
pub(super) async fn serve(
    listener: Listener,
    identity: Identity,
    shared: Arc<Shared>,
    cancel: CancellationToken,
) {
    let (accepted, callers) = mpsc::channel::<Accepted>(INCOMING_QUEUE);
    let (sockets, incoming) = mpsc::channel(INCOMING_QUEUE);
    let tasks = TaskTracker::new();
    let admit = |target| {
        if target == Target::Manager {
            Ok(())
        } else {
            Err(Refusal::NoSuchTarget)
        }
    };
    tasks.spawn(accept_loop(listener, identity, cancel.clone(), admit, accepted));
    tasks.spawn(pass_on(callers, sockets));
    let readers = TaskTracker::new();
    let service = Service {
        shared,
        readers: readers.clone(),
        cancel: cancel.clone(),
    };
    // A dead process closes its connection; this finds a dead machine.
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .serve_with_incoming(ManagerServer::new(service), tonic_incoming(incoming));
    // Its connections do not end by themselves: executors hold them for as long as both live.
    tokio::select! {
        () = cancel.cancelled() => {}
        outcome = server => {
            if let Err(error) = outcome {
                warn!(%error, "the driver's manager stopped serving");
            }
            cancel.cancel();
        }
    }
    readers.close();
    readers.wait().await;
    tasks.close();
    tasks.wait().await;
}

async fn pass_on(mut callers: mpsc::Receiver<Accepted>, sockets: mpsc::Sender<SecuredSocket>) {
    while let Some(caller) = callers.recv().await {
        if sockets.send(caller.socket).await.is_err() {
            return;
        }
    }
}

#[tonic::async_trait]
impl Manager for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<ManagerCommand, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<ManagerEvent>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let connection = request.extensions().get::<ConnectionInfo>();
        let reached_at = connection.and_then(ConnectionInfo::local_ip);
        let mut events = request.into_inner();
        let hello = tokio::time::timeout(HELLO_DEADLINE, read_hello(&mut events))
            .await
            .map_err(|_| Status::deadline_exceeded("no hello within 10 s"))??;
        let executor_id = hello.executor_id.clone();
        let (outbox, commands) = mpsc::channel(COMMAND_QUEUE);
        let key = self.shared.join(hello, outbox, reached_at);
        let shared = Arc::clone(&self.shared);
        let cancel = self.cancel.clone();
        self.readers.spawn(async move {
            loop {
                let next = tokio::select! {
                    () = cancel.cancelled() => break,
                    next = events.message() => next,
                };
                match next {
                    Ok(Some(event)) => shared.event(key, event),
                    Ok(None) | Err(_) => break,
                }
            }
            shared.leave(key);
            info!(executor_id, "executor left");
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(commands))))
    }
}

async fn read_hello(events: &mut Streaming<ManagerEvent>) -> Result<ManagerHello, Status> {
    match events.message().await? {
        Some(ManagerEvent {
            event: Some(Event::Hello(hello)),
        }) => Ok(hello),
        _ => Err(Status::invalid_argument("the first event must be a hello")),
    }
}
