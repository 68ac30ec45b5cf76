//! The Python of this node's workers: asked once ahead of the first cluster, and again only for another one.

use std::path::{Path, PathBuf};

use sparkray_proto::StartRaylet;
use tokio::sync::OnceCell;

use crate::SupervisorError;
use crate::manager_thread::blocking;
use crate::python::{PythonAnswer, absolute, ask, compare};

type Answer = Result<PythonAnswer, String>;

/// The interpreter that this executor's settings name.
pub(super) struct WorkersPython {
    path: PathBuf,
    search_path: String,
    answer: OnceCell<Answer>,
}

impl WorkersPython {
    /// Does not ask yet.
    pub(super) fn new(python: &str, working_dir: &Path) -> Self {
        let search_path = std::env::var("PATH").unwrap_or_default();
        Self {
            path: absolute(python, working_dir, &search_path),
            search_path,
            answer: OnceCell::new(),
        }
    }

    /// What the configured interpreter says; it is run at most once.
    pub(super) async fn answer(&self) -> Answer {
        let path = self.path.clone();
        let run = || async move { run_in_background(path, StartRaylet::default()).await };
        self.answer.get_or_init(run).await.clone()
    }

    /// The interpreter for a raylet, checked against the driver's; `None` for a node without Python.
    pub(super) async fn for_command(
        &self,
        command: &StartRaylet,
        working_dir: &Path,
    ) -> Result<Option<PathBuf>, SupervisorError> {
        if command.python.is_empty() {
            return Ok(None);
        }
        let path = absolute(&command.python, working_dir, &self.search_path);
        let changes_python = command.worker_env.keys().any(|name| {
            name.starts_with("PYTHON") || name.starts_with("LD_") || name == "SPARKRAY_PACKAGE_PATH"
        });
        let answer = if path == self.path && !changes_python {
            self.answer().await
        } else {
            run_in_background(path.clone(), command.clone()).await
        };
        let answer = answer.map_err(|message| {
            let advice =
                "ship an environment with penv_archive, conda_name or --archives, or set PYSPARK_PYTHON";
            SupervisorError::refused(
                sparkray_common::ErrorCode::NotFound,
                format!("{message}; {advice}"),
            )
        })?;
        compare(&answer, &path, &command.python_version, &command.sparkray_version)?;
        Ok(Some(path))
    }
}

async fn run_in_background(path: PathBuf, command: StartRaylet) -> Answer {
    let environment = command.worker_env.into_iter().collect();
    match blocking(move || ask(&path, &environment)).await {
        Ok(answer) => answer,
        Err(error) => Err(error.to_string()),
    }
}
