//! What tonic calls: requests of clients, and a stream for each node.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use sparkray_proto::head_server::Head;
use sparkray_proto::{
    HeadMessage, HeadReply, HeadRequest, MetricsText, NodeMessage, head_reply, head_request,
};
use sparkray_rpc::ConnectionInfo;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::SharedHead;
use super::session::{Batch, QUEUE};

/// The messages of a node's queue, one after the other.
#[derive(Debug)]
pub(crate) struct NodeMessages {
    queue: mpsc::Receiver<Batch>,
    begun: std::vec::IntoIter<HeadMessage>,
}

impl Stream for NodeMessages {
    type Item = Result<HeadMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(message) = self.begun.next() {
                return Poll::Ready(Some(Ok(message)));
            }
            match ready!(self.queue.poll_recv(context)) {
                Some(Ok(batch)) => self.begun = batch.into_iter(),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// The service that tonic calls.
#[derive(Debug, Clone)]
pub(crate) struct HeadService(pub(crate) Arc<SharedHead>);

#[tonic::async_trait]
impl Head for HeadService {
    type AttachNodeStream = NodeMessages;

    async fn attach_node(
        &self,
        request: Request<Streaming<NodeMessage>>,
    ) -> Result<Response<Self::AttachNodeStream>, Status> {
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let head = Arc::clone(&self.0);
        let connection = request.extensions().get::<ConnectionInfo>().cloned();
        self.0.tasks.spawn(async move {
            head.serve_node(request.into_inner(), outgoing, connection).await;
        });
        let begun = Vec::new().into_iter();
        Ok(Response::new(NodeMessages { queue, begun }))
    }

    async fn call(&self, request: Request<HeadRequest>) -> Result<Response<HeadReply>, Status> {
        let request = request.into_inner();
        if let Some(head_request::Request::GetMetrics(_)) = request.request {
            let text = self.0.render_metrics();
            return Ok(Response::new(HeadReply {
                failure: None,
                reply: Some(head_reply::Reply::Metrics(MetricsText { text })),
            }));
        }
        let reply = match request.request {
            Some(head_request::Request::GetPlacementGroup(question)) if question.wait_millis > 0 => {
                self.0.await_group(question).await
            }
            _ => self.0.request(|state, now| state.request(now, request)).await,
        };
        reply
            .map(Response::new)
            .ok_or_else(|| Status::unavailable("the head ends"))
    }
}
