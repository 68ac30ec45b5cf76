//! What every sparkray crate shares: ids, resources, the layout of a value, process
//! configuration, error codes and the lock. No I/O beyond reading randomness, no threads.

mod address;
mod bundle;
mod config;
mod error;
mod ids;
mod metrics;
mod node_lease;
mod python_start;
mod resources;
mod scheduling_strategy;
mod shared_moment;
pub mod sync;
mod telemetry;
mod token;
mod value;
mod worker_key;

pub use address::WorkerAddress;
pub use bundle::{BundleChoice, BundleId, group_named_in, group_request, is_group_named_in};
pub use config::{CUT_OFF_STATUS, HeadConfig, HeadReady, ParentNotice, RayletConfig, RayletReady};
pub use error::ErrorCode;
pub use ids::{
    ActorId, ClusterId, FeedId, FunctionId, IdError, JobId, LeaseId, NodeId, ObjectId, PlacementGroupId,
    TaskId, WorkerId, reseed_after_fork,
};
pub use metrics::{DurationHistogram, Metrics};
pub use node_lease::{
    DRIVER_NODE_SILENCE, FENCE_MARGIN, HEAD_STALL, HEARTBEAT_INTERVAL, LONGEST_SILENCE, NODE_SILENCE,
    NodeLease, PROVEN_STALL, WORKER_MARGIN,
};
pub use python_start::{hide_python_path, python_program};
pub use resources::{ResourceError, ResourceSet};
pub use scheduling_strategy::{
    LabelConstraint, LabelOperator, LabelSelector, Labels, NODE_ID_LABEL, SchedulingStrategy,
};
pub use shared_moment::{MOMENT_LEN, MomentClock, SharedMoment};
pub use telemetry::{init_tracing, init_tracing_if_asked};
pub use token::ClusterToken;
pub use value::{VALUE_ALIGNMENT, VALUE_HEADER_LEN, ValueError, ValueFormat, ValueHeader};
pub use worker_key::{BadVariable, Language, RuntimeEnvironment, WorkerKey};

/// Values up to this many bytes travel inside messages; larger ones live in the object store.
pub const MAX_INLINE_BYTES: usize = 100 * 1024;

/// The version that all processes of one cluster must share.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
