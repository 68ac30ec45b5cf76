//! Where a node's files go: into the YARN container when there is one, so that they end with it.

use std::path::{Path, PathBuf};

use tracing::warn;

use crate::manager_thread::blocking;

/// Directories of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeDirs {
    /// For logs of head, raylet and workers; YARN collects it.
    pub(crate) logs: PathBuf,
    /// Roots under which spilled objects go.
    pub(crate) spill_roots: Vec<PathBuf>,
    /// Where workers start.
    pub(crate) working: PathBuf,
    /// YARN's container id, empty elsewhere.
    pub(crate) container_id: String,
}

impl NodeDirs {
    /// From the environment that YARN gives to a container. `work_dir`, which ends with the process, is used elsewhere.
    pub(crate) fn find(
        variable: impl Fn(&str) -> Option<String>,
        current_dir: &Path,
        work_dir: &Path,
    ) -> Self {
        let container_id = variable("CONTAINER_ID").unwrap_or_default();
        let list = |name: &str| -> Vec<PathBuf> {
            let value = variable(name).unwrap_or_default();
            value
                .split(',')
                .filter(|path| path.starts_with('/'))
                .map(PathBuf::from)
                .collect()
        };
        if container_id.is_empty() {
            return Self {
                logs: work_dir.join("logs"),
                spill_roots: vec![work_dir.join("spill")],
                working: current_dir.to_owned(),
                container_id,
            };
        }
        // YARN deletes `<local dir>/<container id>` on every disk when the container ends.
        let mut spill_roots: Vec<PathBuf> = list("LOCAL_DIRS")
            .into_iter()
            .map(|directory| directory.join(&container_id))
            .collect();
        if spill_roots.is_empty() {
            spill_roots.push(current_dir.to_owned());
        }
        let logs = list("LOG_DIRS")
            .into_iter()
            .next()
            .unwrap_or_else(|| current_dir.join("logs"));
        Self {
            logs,
            spill_roots,
            working: current_dir.to_owned(),
            container_id,
        }
    }

    /// As [`NodeDirs::find`], from this process's environment.
    pub(crate) fn of_this_process(work_dir: &Path) -> Self {
        let current_dir = std::env::current_dir().unwrap_or_else(|_| work_dir.to_owned());
        Self::find(|name| std::env::var(name).ok(), &current_dir, work_dir)
    }

    /// Directories for the objects that one start of a raylet spills.
    pub(crate) fn spill_dirs(&self, node_id: &str) -> Vec<PathBuf> {
        self.spill_roots
            .iter()
            .map(|root| root.join(format!("sparkray-spill-{node_id}")))
            .collect()
    }
}

/// Name of this machine.
pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Removes what a node that ended has left.
pub(crate) async fn remove_leftovers(directories: Vec<PathBuf>) {
    let removed = blocking(move || {
        for directory in directories {
            remove(&directory);
        }
    });
    if let Err(error) = removed.await {
        warn!(%error, "what a dead node left was not removed");
    }
}

fn remove(directory: &Path) {
    match std::fs::remove_dir_all(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => warn!(directory = %directory.display(), %error, "cannot remove what a dead node left"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_container_everything_is_where_yarn_deletes_or_collects_it() {
        let variable = |name: &str| match name {
            "CONTAINER_ID" => Some("container_1".to_owned()),
            "LOCAL_DIRS" => Some("/disk1/app,/disk2/app".to_owned()),
            "LOG_DIRS" => Some("/logs1/c,/logs2/c".to_owned()),
            _ => None,
        };
        let dirs = NodeDirs::find(variable, Path::new("/cwd"), Path::new("/container"));
        assert_eq!(dirs.logs, Path::new("/logs1/c"));
        assert_eq!(
            dirs.spill_roots,
            [
                PathBuf::from("/disk1/app/container_1"),
                PathBuf::from("/disk2/app/container_1")
            ]
        );
        assert_eq!(dirs.working, Path::new("/cwd"));
        assert_eq!(
            dirs.spill_dirs("ab")[0],
            Path::new("/disk1/app/container_1/sparkray-spill-ab")
        );
    }

    #[test]
    fn elsewhere_everything_is_in_the_directory_of_the_process() {
        let dirs = NodeDirs::find(|_| None, Path::new("/cwd"), Path::new("/container"));
        assert_eq!(dirs.logs, Path::new("/container/logs"));
        assert_eq!(dirs.spill_roots, [PathBuf::from("/container/spill")]);
        assert_eq!(dirs.container_id, "");
    }
}
