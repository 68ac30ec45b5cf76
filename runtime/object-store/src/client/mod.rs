//! The client's side: mapping what the store's replies name.

mod blocking;
mod segments;

pub use blocking::{BlockingStoreClient, GetEntry, ReadableObject, WritableObject};
pub use segments::SegmentTable;
