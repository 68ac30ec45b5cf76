//! `sparkrayd raylet`.

use sparkray_common::RayletConfig;

use crate::process;

/// Runs the raylet until it is told to end.
pub(crate) fn run() -> anyhow::Result<()> {
    process::run(
        |config: &RayletConfig| config.parent_pid,
        async |_config, _cancel| anyhow::bail!("this build of sparkrayd has no raylet"),
    )
}
