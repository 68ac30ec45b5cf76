//! The client's side: mapping what the store's replies name.

mod blocking;
mod objects;
mod segments;

pub use blocking::{BlockingStoreClient, GetEntry};
pub use objects::{ReadableObject, WritableObject};
pub use segments::SegmentTable;
