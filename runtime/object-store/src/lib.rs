//! The object store of a node: immutable objects in shared memory, spilled to disk when memory is full.
//!
//! Three users:
//! - the **raylet** drives [`ObjectStore`], a state machine without I/O. It calls a method for every frame of
//!   a client, then drains [`StoreEvent`]s and acts on them: replies (with the descriptor of a segment that the
//!   client has not seen yet), disk work for [`IoExecutor`], pulls from other nodes;
//! - **core workers** speak frames themselves and use [`SegmentTable`] and [`MappedRange`] to map what the
//!   replies name;
//! - **executor JVMs** use [`BlockingStoreClient`], usable from many threads at once.
//!
//! How the raylet drives it:
//!
//! ```text
//! frame CreateObject   -> store.create(client, correlation, &message)?     reply: StoreEvent::Created
//!       SealObject     -> store.seal(client, &message)?
//!       AbortObject    -> store.abort(client, &message)?
//!       GetObjects     -> store.get(client, correlation, &message)?        replies: StoreEvent::Ready, one for each
//!       ReleaseObjects -> store.release(client, &message)?
//!       FreeObjects    -> store.free(&message)?      (the raylet forwards it to the other locations)
//!       AdoptFeed      -> store.adopt_feed(&message)?          (the raylet forwards it and answers Empty)
//!       PullObject     -> store.push(client, correlation, object)          reply: StoreEvent::PushReady,
//!                         then store.push_finished(source.ticket, bytes_sent), or push_failed when reading failed
//! client's socket ended, after draining it -> store.client_gone(client); its worker died -> store.owner_gone(..)
//! StoreEvent::Io(job)  -> executor.start(job);  outcome from the executor's channel -> store.io_done(outcome)
//! StoreEvent::StartPull{ticket, object, locations} -> ask the locations in turn; at the first chunk
//!                         store.pull_room(ticket, size, owner)             answer: StoreEvent::PullRoom,
//!                         write the chunks there, then store.pull_finished(ticket, target)
//!                         or store.pull_failed(ticket, reason) at any time
//! every 100 ms or so   -> store.tick(now)
//! ```
//!
//! An `Err` from a method that takes a message means that the client broke the protocol: close its connection.

mod allocator;
mod checksum;
mod client;
mod config;
mod error;
mod event;
mod io;
mod nameless_file;
mod shm;
mod spill;
mod store;

pub use client::{BlockingStoreClient, GetEntry, ReadableObject, SegmentTable, WritableObject};
pub use config::StoreConfig;
pub use error::StoreError;
pub use event::{ClientId, PullTicket, PushBytes, PushSource, PushTicket, StoreEvent};
pub use io::{IoExecutor, IoJob, IoOutcome};
pub use shm::{Access, MappedRange, PAGE_SIZE, Segment, SegmentId};
pub use spill::SpillFile;
pub use store::ObjectStore;
