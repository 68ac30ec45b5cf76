//! Leases: who may use this node's resources, and what becomes of them when their owners go.

pub(crate) mod cluster_view;
pub(crate) mod manager;
pub(crate) mod owner_service;
pub(crate) mod owners;
pub(crate) mod service;
