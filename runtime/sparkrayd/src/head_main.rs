//! `sparkrayd head`.

use anyhow::Context;
use sparkray_common::HeadConfig;

use crate::process::{self, StartedBy};

/// Runs the head until it is told to end.
pub(crate) fn run() -> anyhow::Result<()> {
    process::run(
        StartedBy::Parent,
        |config: &HeadConfig| config.parent_pid,
        async |config, _notices, cancel| {
            let ready = process::announcer(&cancel);
            sparkray_gcs::run(config, ready, cancel)
                .await
                .context("the head failed")
        },
    )
}
