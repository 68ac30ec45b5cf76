//! The streams to the head, what this node has to tell it, and how long it counts on this node.
//!
//! [`Head`] decides, without I/O: what is told and when, whether the node's time is over (`lease`), who watches which actor
//! (`watches`). [`HeadSide`] and the link do: streams, calls, and the memory that workers and the head share.

mod conversation;
mod lease;
mod link;
mod metrics;
mod outgoing;
mod part;
mod side;
mod stall;
mod watches;

pub use conversation::Conversation;
pub(crate) use lease::{Lease, clock_beside};
pub(crate) use link::{Attachment, OUTGOING, attach_first, run_head_link};
pub(crate) use outgoing::Outgoing;
pub(crate) use part::Head;
pub(crate) use side::{HeadSide, open_gateway};
