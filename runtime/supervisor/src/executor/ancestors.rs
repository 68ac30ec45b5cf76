//! Whether a process descends from this one, by the parents that `/proc` tells.

use std::fs;

use rustix::process::{Pid, getpid};

/// More are between no process of a task and its JVM: a daemon, the worker, perhaps programs that it started.
const MAX_GENERATIONS: usize = 64;

/// Whether this process started it, or what this process started did, at whatever remove.
pub(super) fn is_below_this_process(pid: Pid) -> bool {
    std::iter::successors(parent_of(pid), |above| parent_of(*above))
        .take(MAX_GENERATIONS)
        .any(|above| above == getpid())
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Pid::from_raw(parent.trim().parse().ok()?)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn children_and_their_children_are_below_and_others_are_not() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 60 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let grandchild = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
        assert!(is_below_this_process(Pid::from_child(&child)));
        assert!(is_below_this_process(grandchild));
        assert!(!is_below_this_process(getpid()));
        assert!(!is_below_this_process(rustix::process::getppid().unwrap()));

        rustix::process::kill_process(grandchild, rustix::process::Signal::KILL).unwrap();
        child.wait().unwrap();
        assert!(!is_below_this_process(grandchild), "it is gone");
    }
}
