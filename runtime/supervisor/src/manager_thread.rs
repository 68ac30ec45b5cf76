//! The one thread in which a manager's tokio runtime lives inside a JVM, and its helpers.

use std::future::Future;

use sparkray_common::ErrorCode;
use tokio::runtime::{Builder, Handle};

use crate::SupervisorError;
use crate::signals::spawn_quiet_thread;

/// Helper threads for what blocks: waits for children, Python's answer, removal of files.
const HELPER_THREADS: usize = 16;

/// Runs `body` to its end on a new single-threaded runtime in a new thread.
pub(crate) fn spawn_manager_thread<F, B>(name: &str, body: B) -> Result<(), SupervisorError>
where
    B: FnOnce(Handle) -> F + Send + 'static,
    F: Future<Output = ()>,
{
    let refuse = |error: std::io::Error| {
        SupervisorError::refused(
            ErrorCode::Internal,
            format!("cannot start the manager's thread: {error}"),
        )
    };
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(HELPER_THREADS)
        .build()
        .map_err(refuse)?;
    let thread = move || {
        let handle = runtime.handle().clone();
        runtime.block_on(body(handle));
        runtime.shutdown_background();
    };
    spawn_quiet_thread(name, thread).map(drop).map_err(refuse)
}

/// Runs what blocks in a helper thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SupervisorError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| SupervisorError::refused(ErrorCode::Internal, format!("a helper thread: {error}")))
}
