//! What user code started and a dead worker left behind.
//!
//! Processes below a worker become children of this one, their subreaper, when the worker ends. Those that carry its id in
//! their environment were started by it; those that look like a worker but are none were forked by one. A process that
//! a living worker sent into the background on purpose is left alone.

use std::collections::HashSet;
use std::fs;

use rustix::process::{Pid, Signal};
use sparkray_common::{NodeId, WorkerId};
use tracing::info;

use super::descendants::descendants_of;

/// The worker sets it for what it starts.
const WORKER_VARIABLE: &str = "SPARKRAY_WORKER_ID=";
/// The zygote has it and everything below it.
const NODE_VARIABLE: &str = "SPARKRAY_NODE_ID=";

/// To whom a child of this process belongs.
#[derive(Debug, PartialEq, Eq)]
enum Origin<'a> {
    /// Started by this worker.
    Worker(&'a str),
    /// Forked by some worker.
    Forked,
    /// Nothing is known, or it has ended.
    Unknown,
}

fn origin_of<'a>(environment: &'a str, node: &str) -> Origin<'a> {
    let mut variables = environment.split('\0');
    let mut of_node = false;
    for variable in variables.by_ref() {
        if let Some(worker) = variable.strip_prefix(WORKER_VARIABLE) {
            return Origin::Worker(worker);
        }
        of_node |= variable.strip_prefix(NODE_VARIABLE) == Some(node);
    }
    if of_node { Origin::Forked } else { Origin::Unknown }
}

/// Kills what workers that are `gone` left behind. Children that are `known` live on, with all below them.
pub(crate) fn kill_orphans(node: NodeId, gone: &HashSet<WorkerId>, known: &HashSet<u32>) {
    let gone: HashSet<String> = gone.iter().map(ToString::to_string).collect();
    let node = node.to_string();
    for pid in children() {
        if known.contains(&pid) || !is_left_behind(pid, &node, &gone) {
            continue;
        }
        let Some(root) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            continue;
        };
        info!(pid, "killing a process that a dead worker left behind");
        for pid in std::iter::once(root).chain(descendants_of(root)) {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

fn children() -> Vec<u32> {
    let own = std::process::id();
    let text = fs::read_to_string(format!("/proc/self/task/{own}/children")).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

fn is_left_behind(pid: u32, node: &str, gone: &HashSet<String>) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    match origin_of(&String::from_utf8_lossy(&environment), node) {
        Origin::Worker(worker) => gone.contains(worker),
        Origin::Forked => true,
        Origin::Unknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_of_a_process_is_in_its_environment() {
        assert_eq!(
            origin_of("A=1\0SPARKRAY_NODE_ID=n\0SPARKRAY_WORKER_ID=w\0", "n"),
            Origin::Worker("w")
        );
        assert_eq!(origin_of("A=1\0SPARKRAY_NODE_ID=n\0", "n"), Origin::Forked);
        assert_eq!(origin_of("SPARKRAY_NODE_ID=other\0", "n"), Origin::Unknown);
        assert_eq!(origin_of("", "n"), Origin::Unknown);
    }
}
