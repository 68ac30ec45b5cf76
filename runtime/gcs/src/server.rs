//! The head's process: its socket, the gateway through which remote raylets arrive, the timer, the end.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sparkray_common::{ClusterId, ClusterToken, HeadConfig, HeadReady, MomentClock, SharedMoment};
use sparkray_proto::head_server::HeadServer;
use sparkray_proto::{Empty, FrameKind, IncomingConnection};
use sparkray_rpc::{
    Accepted, Agreement, Frame, Identity, Listener, MomentWriter, Refusal, RpcError, SecuredSocket, Target,
    accept_loop, clock_now, frame_connection, take_over, tonic_incoming,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tracing::{debug, info, warn};

use crate::HeadError;
use crate::journal::MemoryJournal;
use crate::service::{HeadService, SharedHead};
use crate::state::{HeadState, TICK};
use crate::tables::Tables;

/// Sockets that wait for tonic.
const SOCKET_QUEUE: usize = 256;
/// An actor's specification holds its class and small arguments.
const MAX_MESSAGE_BYTES: usize = 1 << 30;
/// What a raylet may send ahead of the head's reading, on one stream and in all.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// A caller that proved itself to the raylet negotiates its keys in this time.
const TAKE_OVER_DEADLINE: Duration = Duration::from_secs(5);
/// Connections that do not end by themselves are dropped this long after the order to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(1);

/// Runs the head until `cancel`. `ready` is called once, when raylets can connect.
pub async fn run(
    config: HeadConfig,
    ready: impl FnOnce(HeadReady),
    cancel: CancellationToken,
) -> Result<(), HeadError> {
    let identity = read_identity(&config)?;
    let cluster = identity.cluster_id.to_string();
    let socket_name = format!("sparkray-{}-head-{}", &cluster[..8], config.head_epoch);
    let listener = Listener::bind_abstract(&socket_name).map_err(|source| HeadError::Listen {
        name: socket_name.clone(),
        source,
    })?;

    let pid = std::process::id();
    // Ends everything below, also when a part fails.
    let stop = cancel.child_token();
    let state = HeadState::new(Instant::now(), config.head_epoch, pid, Tables::default());
    let head = SharedHead::new(state, Box::new(MemoryJournal::default()), stop.clone());
    let (to_router, accepted) = mpsc::channel(SOCKET_QUEUE);
    let (to_tonic, sockets) = mpsc::channel(SOCKET_QUEUE);
    let mut parts = JoinSet::new();
    parts.spawn(named(
        "listener",
        accept_loop(listener, identity.clone(), stop.clone(), admit, to_router),
    ));
    let clock = Arc::new(MomentWriter::new("sparkray-head-clock").map_err(HeadError::Clock)?);
    let router = route(
        accepted,
        identity.token,
        to_tonic,
        Arc::clone(&clock),
        stop.clone(),
    );
    parts.spawn(named("router", router));
    let journaled = Arc::clone(&head);
    parts.spawn(named("journal", async move {
        journaled.release_notices().await;
    }));
    parts.spawn(named("timer", keep_time(Arc::clone(&head), clock, stop.clone())));

    let service = HeadServer::new(HeadService(Arc::clone(&head)))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let serve = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .serve_with_incoming_shutdown(service, tonic_incoming(sockets), stop.clone().cancelled_owned());

    info!(socket_name, head_epoch = config.head_epoch, pid, "head is ready");
    ready(HeadReady { socket_name, pid });

    let mut serve = std::pin::pin!(serve);
    let mut serves = true;
    let outcome = tokio::select! {
        biased;
        () = cancel.cancelled() => Ok(()),
        outcome = &mut serve => {
            serves = false;
            outcome.map_err(HeadError::from)
        }
        Some(part) = parts.join_next() => Err(unexpected_end(part)),
    };
    info!("head stops");
    stop.cancel();
    head.close().await;
    // Raylets that do not end their connections lose them when the server is dropped.
    let _ = tokio::time::timeout(STOP_DEADLINE, async {
        while parts.join_next().await.is_some() {}
        if serves {
            let _ = serve.await;
        }
    })
    .await;
    outcome
}

/// A part and its name, for the message when it ends too early.
async fn named(part: &'static str, work: impl Future<Output = ()>) -> &'static str {
    work.await;
    part
}

fn unexpected_end(part: Result<&'static str, tokio::task::JoinError>) -> HeadError {
    match part {
        Ok(part) => HeadError::Part {
            part,
            reason: "it returned".to_owned(),
        },
        Err(error) => HeadError::Part {
            part: "task",
            reason: error.to_string(),
        },
    }
}

fn read_identity(config: &HeadConfig) -> Result<Identity, HeadError> {
    let bad = |field, reason: String| HeadError::Config { field, reason };
    let cluster_id =
        ClusterId::from_hex(&config.cluster_id).map_err(|error| bad("cluster_id", error.to_string()))?;
    let token = ClusterToken::from_hex(&config.token)
        .ok_or_else(|| bad("token", "it must be 64 hexadecimal digits".to_owned()))?;
    if config.head_epoch == 0 {
        return Err(bad("head_epoch", "epochs count from 1".to_owned()));
    }
    Ok(Identity {
        cluster_id,
        token,
        head_epoch: config.head_epoch,
    })
}

fn admit(target: Target) -> Result<(), Refusal> {
    match target {
        Target::Head | Target::HeadGateway => Ok(()),
        Target::Manager | Target::Raylet(_) | Target::Worker(..) => Err(Refusal::NoSuchTarget),
    }
}

/// Ticks, and notes when: the raylet of this node proves to others by the note that the head does not run.
async fn keep_time(head: Arc<SharedHead>, clock: Arc<MomentWriter>, stop: CancellationToken) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = interval.tick() => {
                if head.tick() {
                    let of = MomentClock::Monotonic;
                    clock.write(SharedMoment { clock: of, at: clock_now(of) });
                }
            }
        }
    }
}

/// Gives sockets for the head to tonic and opens gateways.
async fn route(
    mut accepted: mpsc::Receiver<Accepted>,
    token: ClusterToken,
    to_tonic: mpsc::Sender<SecuredSocket>,
    clock: Arc<MomentWriter>,
    stop: CancellationToken,
) {
    let mut gateways = JoinSet::new();
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => break,
            next = accepted.recv() => next,
            Some(ended) = gateways.join_next() => {
                if let Err(error) = ended {
                    warn!(%error, "a gateway failed");
                }
                continue;
            }
        };
        let Some(Accepted {
            target, socket, peer, ..
        }) = next
        else {
            break;
        };
        debug!(?target, peer, "accepted a connection");
        if target == Target::HeadGateway {
            gateways.spawn(serve_gateway(
                socket,
                token.clone(),
                to_tonic.clone(),
                Arc::clone(&clock),
                stop.clone(),
            ));
        } else if to_tonic.send(socket).await.is_err() {
            break;
        }
    }
    while gateways.join_next().await.is_some() {}
}

/// Takes sockets that the raylet of this node accepted for the head, past the handshake.
async fn serve_gateway(
    socket: SecuredSocket,
    token: ClusterToken,
    to_tonic: mpsc::Sender<SecuredSocket>,
    clock: Arc<MomentWriter>,
    stop: CancellationToken,
) {
    // The sender is kept: dropping it would close the connection's sending direction.
    let (sender, mut receiver) = match frame_connection(socket) {
        Ok(connection) => connection,
        Err(error) => return warn!(%error, "cannot serve a gateway"),
    };
    let told = clock
        .share()
        .map_err(|error| error.to_string())
        .and_then(|shared| {
            let frame = Frame::new(FrameKind::HeadClock, 0, &Empty {}).with_descriptor(shared);
            sender.send(frame).map_err(|error| error.to_string())
        });
    if let Err(error) = told {
        return warn!(error, "cannot share the head's clock with a gateway");
    }
    let mut callers = JoinSet::new();
    loop {
        let frame = tokio::select! {
            () = stop.cancelled() => return,
            frame = receiver.next() => frame,
            Some(ended) = callers.join_next() => {
                if let Err(error) = ended {
                    warn!(%error, "a connection could not be taken over");
                }
                continue;
            }
        };
        let frame = match frame {
            Ok(Some(frame)) => frame,
            Ok(None) => return debug!("a gateway closed"),
            Err(error) => return warn!(%error, "a gateway broke"),
        };
        if frame.kind != FrameKind::IncomingConnection {
            return warn!(kind = ?frame.kind, "closed a gateway that sent another frame than IncomingConnection");
        }
        let agreement = agreement_of(&frame);
        match (frame.descriptor, agreement) {
            (Some(socket), Ok(agreement)) => {
                callers.spawn(serve_caller(socket, agreement, token.clone(), to_tonic.clone()));
            }
            (None, _) => warn!("a gateway passed a connection without its descriptor"),
            (_, Err(error)) => warn!(%error, "a gateway passed a connection that cannot be used"),
        }
    }
}

fn agreement_of(frame: &Frame) -> Result<Agreement, RpcError> {
    let incoming: IncomingConnection = frame.decode()?;
    Agreement::decode(&incoming.agreement)
}

/// Negotiates the keys of a connection from another node, beside the others.
async fn serve_caller(
    socket: OwnedFd,
    agreement: Agreement,
    token: ClusterToken,
    to_tonic: mpsc::Sender<SecuredSocket>,
) {
    match take_over(socket, &agreement, &token, TAKE_OVER_DEADLINE).await {
        // The receiver is gone only when the head ends.
        Ok(socket) => drop(to_tonic.send(socket).await),
        Err(error) => debug!(%error, "a connection for the head broke off"),
    }
}
