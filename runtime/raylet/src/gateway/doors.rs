//! The node's two doors: a TCP port for other nodes and an abstract Unix socket for this one. Callers that proved
//! themselves are led to the process that they asked for.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sparkray_common::sync::{Mutex, MutexGuard};
use sparkray_common::{NodeId, WorkerId};
use sparkray_rpc::{Accepted, Identity, Listener, Protection, Refusal, Target, accept_loop};
use tokio::sync::mpsc;

use crate::error::RayletError;
use crate::input::Input;
use crate::tasks::Tasks;

const ARRIVALS: usize = 256;

/// The head of this node. That it has ended is a verdict, which a node that never had one must not give.
#[derive(Debug, Default)]
struct HeadRoute {
    has_ended: AtomicBool,
}

/// Which processes can be reached through this node.
#[derive(Debug)]
pub(crate) struct Routes {
    node: NodeId,
    head: Option<HeadRoute>,
    closing: AtomicBool,
    workers: Mutex<HashSet<WorkerId>>,
}

impl Routes {
    /// Routes of `node`; `head`: the head runs on it.
    pub(crate) fn new(node: NodeId, head: bool) -> Self {
        Self {
            node,
            head: head.then(HeadRoute::default),
            closing: AtomicBool::new(false),
            workers: Mutex::new(HashSet::new()),
        }
    }

    fn workers(&self) -> MutexGuard<'_, HashSet<WorkerId>> {
        self.workers.lock()
    }

    /// A client registered.
    pub(crate) fn add(&self, worker: WorkerId) {
        self.workers().insert(worker);
    }

    /// A client is gone.
    pub(crate) fn remove(&self, worker: WorkerId) {
        self.workers().remove(&worker);
    }

    /// The head has ended: callers are told that there is none.
    pub(crate) fn head_ended(&self) {
        if let Some(head) = &self.head {
            head.has_ended.store(true, Ordering::Release);
        }
    }

    /// Refuses everybody from now on.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Whether a caller that asked for `target` is let in.
    pub(crate) fn admit(&self, target: Target) -> Result<(), Refusal> {
        if self.closing.load(Ordering::Acquire) {
            return Err(Refusal::ShuttingDown);
        }
        match target {
            Target::Raylet(node) if node == self.node => Ok(()),
            Target::Worker(node, worker) if node == self.node => {
                if self.workers().contains(&worker) {
                    Ok(())
                } else {
                    Err(Refusal::NoSuchTarget)
                }
            }
            Target::Raylet(_) | Target::Worker(..) => Err(Refusal::OtherNode),
            Target::Head => match &self.head {
                Some(head) if head.has_ended.load(Ordering::Acquire) => Err(Refusal::HeadEnded),
                Some(_) => Ok(()),
                None => Err(Refusal::NoSuchTarget),
            },
            Target::HeadGateway | Target::Manager => Err(Refusal::NoSuchTarget),
        }
    }
}

/// Where the doors are.
pub(crate) struct Doors<'a> {
    /// To bind to.
    pub(crate) host: &'a str,
    /// 0: any.
    pub(crate) port: u16,
    /// Of connections over TCP.
    pub(crate) protection: Protection,
    pub(crate) socket_name: &'a str,
}

impl Doors<'_> {
    /// Opens both doors and returns the TCP port. Callers arrive as [`Input::Accepted`].
    pub(crate) async fn open(
        self,
        identity: &Identity,
        routes: &Arc<Routes>,
        inputs: &mpsc::Sender<Input>,
        tasks: &Tasks,
    ) -> Result<u16, RayletError> {
        let tcp = Listener::bind_tcp(self.host, self.port, self.protection).await?;
        let port = tcp.local_port();
        let unix = Listener::bind_abstract(self.socket_name)?;
        for (listener, local) in [(tcp, false), (unix, true)] {
            let (accepted, arrivals) = mpsc::channel(ARRIVALS);
            let routes = Arc::clone(routes);
            let admit = move |target| routes.admit(target);
            let stop = tasks.stop_token().clone();
            tasks.spawn(accept_loop(listener, identity.clone(), stop, admit, accepted));
            tasks.spawn(forward(arrivals, local, inputs.clone()));
        }
        Ok(port)
    }
}

async fn forward(mut arrivals: mpsc::Receiver<Accepted>, local: bool, inputs: mpsc::Sender<Input>) {
    while let Some(accepted) = arrivals.recv().await {
        if inputs.send(Input::Accepted { accepted, local }).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_let_in_to_processes_that_are_here() {
        let (node, other) = (NodeId::random(), NodeId::random());
        let worker = WorkerId::random();
        let routes = Routes::new(node, false);
        assert_eq!(routes.admit(Target::Raylet(node)), Ok(()));
        assert_eq!(routes.admit(Target::Raylet(other)), Err(Refusal::OtherNode));
        assert_eq!(
            routes.admit(Target::Worker(node, worker)),
            Err(Refusal::NoSuchTarget)
        );
        routes.add(worker);
        assert_eq!(routes.admit(Target::Worker(node, worker)), Ok(()));
        assert_eq!(
            routes.admit(Target::Worker(other, worker)),
            Err(Refusal::OtherNode)
        );
        assert_eq!(routes.admit(Target::Head), Err(Refusal::NoSuchTarget));
        let beside_head = Routes::new(node, true);
        assert_eq!(beside_head.admit(Target::Head), Ok(()));
        beside_head.head_ended();
        assert_eq!(beside_head.admit(Target::Head), Err(Refusal::HeadEnded));
        routes.close();
        assert_eq!(routes.admit(Target::Raylet(node)), Err(Refusal::ShuttingDown));
    }
}
