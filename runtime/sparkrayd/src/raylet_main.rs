//! `sparkrayd raylet`.

use anyhow::Context;
use sparkray_common::RayletConfig;

use crate::process::{self, StartedBy};

/// Runs the raylet until it is told to end.
pub(crate) fn run(started_by: StartedBy) -> anyhow::Result<()> {
    process::run(
        started_by,
        |config: &RayletConfig| config.parent_pid,
        async |config, notices, cancel| {
            let ready = process::announcer(&cancel);
            sparkray_raylet::run(config, ready, notices, cancel)
                .await
                .context("the raylet failed")
        },
    )
}
