//! One cluster as the driver sees it: what was asked for, its head, and how it failed.

use std::collections::BTreeMap;

use sparkray_common::ErrorCode;
use sparkray_proto::{Failure, HeadStarted, ManagerHello, RayletStarted, Resources, StartHead, StartRaylet};

use super::checks;
use super::membership::MemberKey;
use crate::SupervisorError;
use crate::request::{ClusterNames, InitRequest};

#[derive(Debug)]
pub(super) struct Head {
    pub(super) member: MemberKey,
    pub(super) executor_id: String,
    pub(super) host: String,
    pub(super) serving: Option<HeadStarted>,
}

#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) names: ClusterNames,
    pub(super) request: InitRequest,
    pub(super) head: Option<Head>,
    /// Of the raylet beside the head.
    pub(super) head_address: String,
    pub(super) driver_raylet: Option<RayletStarted>,
    pub(super) driver_store_bytes: u64,
    pub(super) ready_once: bool,
    pub(super) failure: Option<SupervisorError>,
}

impl Cluster {
    pub(super) fn fail(&mut self, code: ErrorCode, message: String) {
        // The first cause is the one to report.
        if self.failure.is_none() {
            self.failure = Some(SupervisorError::refused(code, message));
        }
    }

    pub(super) fn fail_with(&mut self, failure: &Failure, who: &str, what: &str) {
        self.fail(failure.error_code(), format!("{who} {what}: {}", failure.message));
    }

    pub(super) fn driver_asked(&self) -> bool {
        self.driver_raylet.is_some()
    }

    pub(super) fn start_head(&self) -> StartHead {
        StartHead {
            cluster_id: self.names.id.to_vec().into(),
            token: self.names.token.expose_bytes().to_vec().into(),
            head_epoch: self.names.head_epoch,
        }
    }

    pub(super) fn start_raylet(&self, hello: &ManagerHello, beside_head: bool) -> StartRaylet {
        let store = checks::store_bytes(self.request.object_store_bytes, hello.memory_budget_bytes);
        let mut units: BTreeMap<String, f64> = self.request.node_resources.clone();
        units.insert("CPU".to_owned(), self.request.node_cpus);
        if hello.memory_budget_bytes > store {
            units.insert("memory".to_owned(), (hello.memory_budget_bytes - store) as f64);
        }
        let labels = [
            ("executor_id", &hello.executor_id),
            ("container_id", &hello.container_id),
            ("hostname", &hello.hostname),
        ];
        StartRaylet {
            cluster_id: self.names.id.to_vec().into(),
            token: self.names.token.expose_bytes().to_vec().into(),
            head_epoch: self.names.head_epoch,
            head_address: if beside_head {
                String::new()
            } else {
                self.head_address.clone()
            },
            resources: Some(Resources {
                units: units.into_iter().collect(),
            }),
            object_store_bytes: store,
            worker_env: self.request.worker_env.clone().into_iter().collect(),
            labels: labels
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.clone()))
                .collect(),
            prestart_workers: self.request.prestart_workers,
            python: self.request.python.clone(),
            python_version: self.request.python_version.clone(),
            sparkray_version: self.request.sparkray_version.clone(),
            unencrypted: !self.request.encryption,
        }
    }
}
