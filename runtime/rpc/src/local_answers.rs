//! One answer for each process of this user that calls, over an abstract Unix socket, without a handshake: for what must be
//! known before one is possible.
//!
//! Invariants:
//! 1. Nobody of another uid gets a byte (see `Listener`), and nobody who is not admitted.
//! 2. At most so many callers are served at a time, each for at most [`ANSWER_DEADLINE`]; others wait in the socket's queue.

use std::future::Future;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::process::Pid;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::accept::Listener;
use crate::exact_io::write_all;
use crate::socket::register;

const ANSWER_DEADLINE: Duration = Duration::from_mins(1);
/// After a failed accept, for example without free descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// Sends each caller what `answer` gives, and hangs up, until `cancel`; at most `limit` callers at a time. `admits` is
/// asked of the caller's pid: others are hung up on without a word.
pub async fn answer_callers<F>(
    listener: Listener,
    limit: usize,
    cancel: CancellationToken,
    admits: impl Fn(Pid) -> bool,
    answer: impl Fn() -> F,
) where
    F: Future<Output = Vec<u8>> + Send + 'static,
{
    let mut callers = JoinSet::new();
    loop {
        let outcome = tokio::select! {
            // Those who are being served end with the set.
            () = cancel.cancelled() => return,
            Some(_) = callers.join_next(), if !callers.is_empty() => continue,
            outcome = listener.accept(), if callers.len() < limit => outcome,
        };
        let socket = match outcome {
            Ok(Some((socket, _, _))) => socket,
            Ok(None) => continue,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if !socket_peercred(&socket).is_ok_and(|caller| admits(caller.pid)) {
            debug!("hung up on a process of somebody else");
            continue;
        }
        let answer = answer();
        callers.spawn(async move {
            let told = tokio::time::timeout(ANSWER_DEADLINE, async {
                let bytes = answer.await;
                write_all(&register(socket)?, &bytes).await
            });
            match told.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "a caller did not take its answer"),
                Err(_) => debug!("a caller was not answered in time"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sparkray_common::ClusterId;
    use sparkray_common::sync::Mutex;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::exact_io::read_exact;
    use crate::socket::{Endpoint, connect_nonblocking};

    async fn try_to_ask(name: &str) -> std::io::Result<Vec<u8>> {
        let socket = connect_nonblocking(&Endpoint::Abstract(name.to_owned()))?;
        let mut answer = vec![0; 3];
        read_exact(&register(socket)?, &mut answer).await?;
        Ok(answer)
    }

    async fn ask(name: &str) -> Vec<u8> {
        try_to_ask(name).await.unwrap()
    }

    #[tokio::test]
    async fn a_process_that_is_not_admitted_hears_nothing() {
        let name = format!("sparkray-test-{}", ClusterId::random());
        let listener = Listener::bind_abstract(&name).unwrap();
        let cancel = CancellationToken::new();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let of_whom = Arc::clone(&asked);
        let admits = move |caller| {
            of_whom.lock().push(caller);
            of_whom.lock().len() > 1
        };
        let answer = || async { b"yes".to_vec() };
        let serving = tokio::spawn(answer_callers(listener, 2, cancel.clone(), admits, answer));
        assert!(try_to_ask(&name).await.is_err());
        assert_eq!(ask(&name).await, b"yes");
        assert_eq!(*asked.lock(), [rustix::process::getpid(); 2]);
        cancel.cancel();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn each_caller_is_answered_and_those_above_the_limit_wait() {
        let name = format!("sparkray-test-{}", ClusterId::random());
        let listener = Listener::bind_abstract(&name).unwrap();
        let cancel = CancellationToken::new();
        let may_answer = Arc::new(Semaphore::new(0));
        let (gate, started) = (Arc::clone(&may_answer), Arc::new(Semaphore::new(0)));
        let begun = Arc::clone(&started);
        let answer = move || {
            begun.add_permits(1);
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                b"yes".to_vec()
            }
        };
        let serving = tokio::spawn(answer_callers(listener, 2, cancel.clone(), |_| true, answer));
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let name = name.clone();
                tokio::spawn(async move { ask(&name).await })
            })
            .collect();
        started.acquire_many(2).await.unwrap().forget();
        assert_eq!(started.available_permits(), 0, "the third waits");
        may_answer.add_permits(3);
        for caller in callers {
            assert_eq!(caller.await.unwrap(), b"yes");
        }
        cancel.cancel();
        serving.await.unwrap();
    }
}
