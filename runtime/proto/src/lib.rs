//! The protocols: messages and tonic services made from `protos/`, the numbers of the frames that carry
//! them, and conversions between messages and the domain types of `sparkray-common`.
//!
//! A frame's meta is one of these messages, chosen by its [`FrameKind`]; its payload is raw bytes.

pub mod bridge;
mod convert;
mod frame_kind;
mod strategy;
mod worker_key;

#[allow(clippy::all, clippy::pedantic, unreachable_pub, missing_docs)]
mod generated {
    tonic::include_proto!("sparkray");

    pub mod bridge {
        tonic::include_proto!("sparkray.bridge");
    }
}

pub use convert::{MessageError, location_of};
pub use frame_kind::FrameKind;
pub use generated::*;
