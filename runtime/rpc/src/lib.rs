//! Connections between sparkray's processes, and the only crate that opens sockets.
//!
//! Every connection, TCP or Unix, begins with the [`handshake`](ClientHandshake) in which both sides prove
//! that they know the cluster's token before anything else is decoded. Then it carries either
//! [`Frame`]s (core workers, executor JVMs, raylets) or HTTP/2 (tonic, to the head and the driver's manager): as they
//! are on Unix sockets, in [`Records`] on TCP, encrypted with keys that both ends negotiate from the token.
//!
//! Handshake, keys, records and framing are state machines without I/O. Three drivers run them: tokio
//! ([`dial`], [`accept_loop`], [`frame_connection`]), blocking sockets ([`BlockingConnection`]) and the core
//! worker's own reactor.

mod accept;
mod agreement;
mod blocking;
mod dial;
mod error;
mod exact_io;
mod frame;
mod frame_connection;
mod half_open;
mod handshake;
mod local_answers;
mod moment_file;
mod noise;
mod reachability;
mod records;
mod refusal;
mod secured_socket;
mod session;
mod socket;
mod tonic_bridge;
mod tonic_records;

pub use accept::{Accepted, Listener, accept_loop};
pub use agreement::{Agreement, Protection};
pub use blocking::{BlockingConnection, BlockingSender};
pub use dial::dial;
pub use error::RpcError;
pub use frame::{FRAME_HEADER_LEN, Frame, FrameDecoder, FrameHeader, encode_frame_head};
pub use frame_connection::{FrameReceiver, FrameSender, frame_connection};
pub use handshake::{
    CLIENT_PROOF_LEN, ClientHandshake, HELLO_LEN, Identity, SERVER_PROOF_LEN, ServerHandshake, Target,
};
pub use local_answers::answer_callers;
pub use moment_file::{MomentReader, MomentWriter, clock_now, sleep_until};
pub use noise::{NOISE_MESSAGE_LEN, Negotiation, answer_negotiation};
pub use reachability::{CHECK_INTERVAL, Reachability, SILENCE};
pub use records::{Opener, Records, Sealer};
pub use refusal::Refusal;
pub use secured_socket::{SecuredSocket, Securing, take_over};
pub use session::{Gap, Inbox, Outbox};
pub use socket::{
    Endpoint, MAX_DESCRIPTORS, connect_nonblocking, pass_socket_options, receive_with_descriptors, register,
    send_with_descriptor, take_socket_error,
};
pub use tonic_bridge::{
    ConnectionInfo, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, TonicSocket, connect_tonic, tonic_channel,
    tonic_incoming,
};
