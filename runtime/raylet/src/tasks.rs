//! The tasks of a raylet: each has an owner, a common end and a join.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where every task of a raylet is begun; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// No tasks; those to come end with `stop`.
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop,
        }
    }

    /// Begins a task. At the raylet's end it is dropped where it waits.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                // First, so that a task does not take the end of the others for a failure.
                biased;
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// For what has its own way to end.
    pub(crate) fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    /// Ends all tasks and waits until they have ended.
    pub(crate) async fn end(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_task_does_not_hear_of_what_ends_with_it() {
        let tasks = Tasks::new(CancellationToken::new());
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<()>(1);
        let heard = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&heard);
        tasks.spawn(async move {
            receiver.recv().await;
            noted.store(true, Ordering::Release);
        });
        tokio::task::yield_now().await;
        drop(sender);
        tasks.end().await;
        assert!(!heard.load(Ordering::Acquire));
    }

    #[tokio::test]
    async fn the_end_waits_for_every_task() {
        let tasks = Tasks::new(CancellationToken::new());
        let held = Arc::new(());
        for _ in 0..3 {
            let held = Arc::clone(&held);
            tasks.spawn(async move {
                std::future::pending::<()>().await;
                drop(held);
            });
        }
        tasks.end().await;
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
