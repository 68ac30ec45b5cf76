//! Ending every process below this one.
//!
//! The raylet is the subreaper of its workers and of whatever they start, so all of them are found by
//! following parents in `/proc` down from this process, until there are none.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};

use crate::input::ChildEnd;

/// Kills all descendants of this process and reaps them; true when none is left before `deadline`.
/// Blocks for at most that time.
pub fn kill_all(deadline: Duration) -> bool {
    let end = Instant::now() + deadline;
    loop {
        let descendants = descendants_of(rustix::process::getpid());
        if descendants.is_empty() {
            return true;
        }
        for pid in &descendants {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(*pid, Signal::KILL);
        }
        reap_all();
        if Instant::now() >= end {
            return false;
        }
        // The kernel needs a moment to end them; there is nothing else to wait for.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Collects every child that has ended, with its pid and its end in words.
pub(crate) fn reap_all() -> Vec<(u32, ChildEnd)> {
    let mut ended = Vec::new();
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        let end = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => ChildEnd::Exited(code),
            (None, Some(signal)) => ChildEnd::Killed(signal),
            (None, None) => continue,
        };
        ended.push((pid.as_raw_nonzero().get().cast_unsigned(), end));
    }
    ended
}

/// All processes below `root`.
pub(crate) fn descendants_of(root: Pid) -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    for entry in entries.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        if let Some(parent) = std::fs::read_to_string(entry.path().join("stat"))
            .ok()
            .and_then(|stat| parent_of(&stat))
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![root.as_raw_nonzero().get()];
    while let Some(parent) = open.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            open.push(child);
            found.extend(Pid::from_raw(child));
        }
    }
    found
}

/// The parent in a line of `/proc/<pid>/stat`: the second field after the name, which may hold anything.
fn parent_of(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_read_behind_any_name() {
        assert_eq!(parent_of("12 (a) b) c) S 7 12 12 0"), Some(7));
        assert_eq!(parent_of("garbage"), None);
    }

    #[test]
    fn children_and_their_children_are_found() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & wait"])
            .spawn()
            .unwrap();
        let root = rustix::process::getpid();
        let deadline = Instant::now() + Duration::from_secs(5);
        while descendants_of(root).len() < 2 {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        let child_pid = Pid::from_child(&child);
        let below = descendants_of(child_pid);
        assert_eq!(below.len(), 1);
        rustix::process::kill_process(below[0], Signal::KILL).unwrap();
        rustix::process::kill_process(child_pid, Signal::KILL).unwrap();
        child.wait().unwrap();
    }
}
