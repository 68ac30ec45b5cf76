//! Calls that come, and the order in which they are handed out.

use bytes::Bytes;
use sparkray_common::{ActorId, BundleChoice, ErrorCode, FunctionId, JobId, TaskId};
use sparkray_proto as proto;
use sparkray_rpc::Frame;
use tracing::warn;

use super::{ArgumentValue, CreateActorWork, Execution, IncomingTask, Work, stored_argument};
use crate::error::CoreError;
use crate::state::base::Base;
use crate::state::links::{ConnId, Links, PayloadReader, with_correlation};

/// The actor and incarnation that a call is for; `None`: it is for no actor.
fn read_actor(message: &proto::PushTask) -> Result<Option<(ActorId, u64)>, CoreError> {
    if message.actor_id.is_empty() {
        return Ok(None);
    }
    let actor_id = ActorId::from_slice(&message.actor_id)?;
    Ok(Some((actor_id, message.incarnation)))
}

fn unreadable(error: &CoreError) -> CoreError {
    CoreError::new(
        ErrorCode::Internal,
        format!(
            "the worker cannot read this call ({error}): use one version of sparkray in all processes, and report this \
             if it is one"
        ),
    )
}

fn read_argument(
    argument: proto::TaskArgument,
    payload: &mut PayloadReader,
) -> Result<(u32, ArgumentValue), CoreError> {
    let value = match argument.inline_length {
        Some(length) => ArgumentValue::Inline(payload.take(length)?),
        None => stored_argument(&argument)?,
    };
    Ok((argument.slot, value))
}

impl Execution {
    /// A call came. One that cannot be read fails with an answer of its own: the connection and its other calls go on.
    pub(in crate::state) fn on_push_task(
        &mut self,
        links: &mut Links,
        conn: ConnId,
        frame: &Frame,
    ) -> Result<(), CoreError> {
        let caller = links.sender_of(conn)?;
        if links.deaths.is_dead(&caller) {
            // The news of its death came first: nobody waits for the answer.
            return Ok(());
        }
        let correlation = frame.correlation;
        let read = frame
            .decode()
            .map_err(CoreError::from)
            .and_then(|message: proto::PushTask| Ok((read_actor(&message)?, message)));
        let (actor, message) = match read {
            Ok(read) => read,
            Err(error) => {
                refuse_unreadable(links, conn, correlation, &error);
                return Ok(());
            }
        };
        let stale = if message.worker_id != links.process.me.worker_id.as_bytes()[..] {
            Some("the task is for another worker")
        } else if actor.is_some() && self.actor != actor {
            Some("the call is for another incarnation of the actor")
        } else {
            None
        };
        if let Some(reason) = stale {
            Self::refuse(
                links,
                conn,
                correlation,
                &CoreError::new(ErrorCode::Stale, reason),
            );
            return Ok(());
        }
        let (sequence, acknowledged, again) = (message.sequence, message.acknowledged, message.again);
        let mut task = IncomingTask {
            task_id: TaskId::NIL,
            name: String::new(),
            method: String::new(),
            function_id: FunctionId::NIL,
            num_returns: message.num_returns,
            attempt: message.attempt,
            num_threads: message.num_threads,
            bundle: None,
            job_id: JobId::NIL,
            arguments: Bytes::new(),
            keyword_names: Vec::new(),
            references: Vec::new(),
            unreadable: None,
            caller,
            sequence: actor.is_some().then_some(sequence),
            conn,
            correlation,
            started: 0,
        };
        if let Err(error) = self.read_call(&mut task, message, frame) {
            if actor.is_none() {
                refuse_unreadable(links, conn, correlation, &error);
                return Ok(());
            }
            // It keeps its place among its caller's calls.
            task.unreadable = Some(Box::new(unreadable(&error)));
        }
        if actor.is_some() {
            self.take_actor_call(links, task, sequence, acknowledged);
        } else {
            self.take_function(links, task, acknowledged, again);
        }
        Ok(())
    }

    /// Reads what a push says of its call, and keeps the code that came with it.
    fn read_call(
        &mut self,
        task: &mut IncomingTask,
        message: proto::PushTask,
        frame: &Frame,
    ) -> Result<(), CoreError> {
        let mut payload = PayloadReader::new(frame.payload.clone());
        if !message.function_id.is_empty() {
            task.function_id = FunctionId::from_slice(&message.function_id)?;
        }
        if message.function_length > 0 {
            let blob = payload.take(message.function_length)?;
            self.functions
                .entry(task.function_id)
                .or_insert_with(|| Bytes::copy_from_slice(&blob));
        }
        task.name = message.name;
        task.method = message.method;
        task.task_id = TaskId::from_slice(&message.task_id)?;
        task.job_id = JobId::from_slice(&message.job_id)?;
        task.bundle = message.bundle.as_ref().map(BundleChoice::try_from).transpose()?;
        task.keyword_names = message.keyword_names;
        task.arguments = payload.take(message.arguments_length)?;
        task.references.reserve(message.arguments.len());
        for argument in message.arguments {
            task.references.push(read_argument(argument, &mut payload)?);
        }
        Ok(())
    }

    fn take_actor_call(&mut self, links: &mut Links, task: IncomingTask, sequence: u64, acknowledged: u64) {
        let (conn, correlation) = (task.conn, task.correlation);
        let waiting = self.ready.len();
        let start = |task| self.ready.push_back(Work::Task(task));
        let answer = self.queues.arrive(task, sequence, acknowledged, start);
        if self.ready.len() > waiting {
            links.out.news();
        }
        if let Some(answer) = answer {
            links.send_encoded(conn, &with_correlation(&answer, correlation), true);
        }
    }

    pub(in crate::state) fn on_acknowledge_replies(
        &mut self,
        links: &mut Links,
        conn: ConnId,
        message: &proto::AcknowledgeReplies,
    ) -> Result<(), CoreError> {
        let actor = (ActorId::from_slice(&message.actor_id)?, message.incarnation);
        let caller = links.remote_of(conn).map(|remote| remote.worker_id);
        if let (Some(caller), true) = (caller, self.actor == Some(actor)) {
            let waiting = self.ready.len();
            let start = |task| self.ready.push_back(Work::Task(task));
            self.queues
                .acknowledge(caller, message.acknowledged, &message.sequences, start);
            if self.ready.len() > waiting {
                links.out.news();
            }
        }
        Ok(())
    }

    pub(in crate::state) fn on_create_actor(
        &mut self,
        links: &mut Links,
        correlation: u64,
        message: proto::CreateActor,
    ) -> Result<(), CoreError> {
        let work = CreateActorWork {
            spec: message.spec.ok_or(proto::MessageError::Missing("spec"))?,
            incarnation: message.incarnation,
            correlation,
        };
        self.add(links, Work::CreateActor(Box::new(work)));
        Ok(())
    }

    /// Queues what is to be run.
    pub(super) fn add(&mut self, links: &mut Links, work: Work) {
        self.ready.push_back(work);
        links.out.news();
    }

    /// The next call to run.
    pub(in crate::state) fn take_work(&mut self, base: &mut Base) -> Option<Work> {
        loop {
            let mut work = self.ready.pop_front()?;
            if let Work::Task(task) = &mut work {
                if let Some(error) = task.unreadable.take() {
                    self.fail_work(base, task, &error);
                    continue;
                }
                self.metrics.started();
                task.started = base.now();
                if task.sequence.is_none() {
                    self.running_since = Some(base.now());
                    self.answers.began(task.task_id, task.attempt);
                }
            }
            return Some(work);
        }
    }
}

fn refuse_unreadable(links: &mut Links, conn: ConnId, correlation: u64, error: &CoreError) {
    let error = unreadable(error);
    warn!(conn, %error, "refused a call");
    Execution::refuse(links, conn, correlation, &error);
}
