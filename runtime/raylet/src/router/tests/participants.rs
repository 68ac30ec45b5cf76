//! Processes that take part in a job whose driver is elsewhere.

use sparkray_proto::JoinJob;

use super::*;

impl Bench {
    /// A registered participant that has asked for its job.
    fn participant(&mut self) -> u64 {
        let connection = self.router.clients.connected(true, None, self.now);
        let register = RegisterClient {
            worker_id: WorkerId::random().to_vec().into(),
            kind: ClientKind::Participant.into(),
            pid: 8,
            sparkray_version: VERSION.to_owned(),
            ..RegisterClient::default()
        };
        self.say(connection, FrameKind::RegisterClient, &register);
        let request = HeadRequest {
            request: Some(head_request::Request::JoinJob(JoinJob::default())),
        };
        self.say(connection, FrameKind::HeadRequest, &request);
        let asked = self.take_effects(|effect| match effect {
            Effect::Head(HeadEffect::AskForJob { connection, .. }) => Some(*connection),
            _ => None,
        });
        assert_eq!(asked.last(), Some(&connection));
        connection
    }

    fn job_is_over(&mut self) {
        let over = head_message::Message::JobFinished(JobFinished {
            job_id: JOB.to_vec().into(),
        });
        self.put(Input::Head(HeadEvent::Message(Box::new(over))));
    }

    /// Whether a participant was told that its job is over.
    fn told_of_the_end(&mut self, participant: u64) -> bool {
        let told = self.sent::<JobFinished>(participant, FrameKind::JobFinished);
        assert!(told.iter().all(|(_, message)| message.job_id == JOB.to_vec()));
        !told.is_empty()
    }
}

#[test]
fn the_end_of_a_participant_is_reported_and_ends_no_job() {
    let mut bench = Bench::new(1.0);
    let driver = bench.driver();
    let participant = bench.participant();
    bench.answer_job(participant, bench.correlation);
    assert_eq!(bench.log_from_head(), vec![driver], "output is the driver's");
    while bench.to_head.try_recv().is_ok() {}
    bench.put(Input::Closed {
        connection: participant,
        cause: "its connection closed".to_owned(),
    });
    let deaths: Vec<_> = std::iter::from_fn(|| bench.to_head.try_recv().ok())
        .filter_map(|told| match told.message {
            Some(node_message::Message::WorkerDeath(death)) => Some(death),
            _ => None,
        })
        .collect();
    assert_eq!(deaths.len(), 1);
    assert!(deaths[0].job_id.is_empty() && deaths[0].cause.contains("participant"));
    assert_eq!(bench.log_from_head(), vec![driver], "its job goes on");
}

#[test]
fn participants_hear_of_the_end_of_their_job_also_when_it_crosses_the_answer() {
    let mut bench = Bench::new(1.0);
    let early = bench.participant();
    bench.answer_job(early, bench.correlation);
    let late = bench.participant();
    let correlation = bench.correlation;
    bench.job_is_over();
    assert!(bench.told_of_the_end(early));
    assert!(!bench.told_of_the_end(late), "it has no job yet");
    bench.answer_job(late, correlation);
    assert!(bench.told_of_the_end(late));
}
