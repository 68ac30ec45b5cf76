//! The loop: one input after the other, none of them waits.
//!
//! Invariant: only the loop touches the parts; tasks talk to it by [`Input`]s over one bounded channel, and the loop
//! never waits for a task.

use std::time::Instant;

use sparkray_common::ParentNotice;
use sparkray_object_store::IoOutcome;
use tokio::sync::mpsc;

use crate::error::RayletError;
use crate::input::{HeadEvent, Input};
use crate::io::Io;
use crate::router::Router;

/// Inputs handled before leases and the store are looked at.
const BATCH: usize = 256;

/// What decides, and what does.
pub(crate) struct Raylet {
    router: Router,
    io: Io,
}

/// What the loop listens to.
pub(crate) struct Sources {
    pub(crate) inputs: mpsc::Receiver<Input>,
    pub(crate) store_io: mpsc::Receiver<IoOutcome>,
    pub(crate) children: tokio::signal::unix::Signal,
    pub(crate) ticks: tokio::time::Interval,
    /// From the process that started this one.
    pub(crate) notices: mpsc::Receiver<ParentNotice>,
}

impl Raylet {
    pub(crate) fn new(router: Router, io: Io) -> Self {
        Self { router, io }
    }

    /// Handles inputs until they end or the raylet cannot go on.
    pub(crate) async fn run(&mut self, mut sources: Sources) -> Result<(), RayletError> {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            self.settle();
            if let Some(failure) = self.router.take_failure() {
                return Err(failure);
            }
            tokio::select! {
                count = sources.inputs.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return Ok(());
                    }
                    for input in batch.drain(..) {
                        self.handle(input);
                    }
                }
                Some(outcome) = sources.store_io.recv() => self.handle(Input::StoreIo(outcome)),
                _ = sources.children.recv() => {
                    if let Some(input) = self.io.reap_children() {
                        self.handle(input);
                    }
                }
                _ = sources.ticks.tick() => {
                    let input = self.io.tick();
                    self.handle(input);
                }
                Some(notice) = sources.notices.recv() => match notice {
                    ParentNotice::HeadLost { cause } => {
                        self.handle(Input::Head(HeadEvent::Lost { cause }));
                    }
                },
            }
        }
    }

    fn handle(&mut self, input: Input) {
        self.router.handle(input, Instant::now());
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.router.next_effect() {
            if let Some(input) = self.io.carry_out(effect) {
                self.router.handle(input, Instant::now());
            }
        }
    }

    fn settle(&mut self) {
        self.router.schedule(Instant::now());
        self.carry_out();
        while self.router.collect_store_events() {
            self.carry_out();
        }
        self.router.send_store_replies();
        self.carry_out();
    }
}
