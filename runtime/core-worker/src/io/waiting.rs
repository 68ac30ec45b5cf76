//! The turn-taking of threads that wait.
//!
//! The thread that needs an answer reads the sockets itself (the *leader*): a hop to an I/O thread and back would
//! cost more than the rest of a call. Others that wait meanwhile (*followers*) are woken when something happened
//! that they may wait for, or to lead. A helper thread leads when nobody has for a millisecond, so that pushes are
//! taken in and corked frames leave while user code runs.
//!
//! Invariants:
//! 1. At most one thread leads: it holds `lead`.
//! 2. A thread looks at its condition under the state's lock, and holds that until it leads or is counted as a
//!    follower: what happens afterwards wakes it.
//! 3. A leader that leaves lets go of `lead` before it looks for followers, and a follower is counted before it looks
//!    at `lead`: one of the two sees the other. The same holds for the helper and `helper_parked`.
//! 4. A thread does not lead while it looks at signals: their handlers may wait, and take as long as they like.
//! 5. A thread that was woken to lead and does not need to any more wakes another one.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use sparkray_common::ErrorCode;
use sparkray_common::sync::{Condvar, Mutex, MutexGuard};
use tracing::error;

use crate::error::{CoreError, WaitError};
use crate::io::CoreWorker;
use crate::io::reactor::{Incident, Woken};
use crate::state::State;

/// A thread that waits looks at signals this often.
const INTERRUPT_INTERVAL: Duration = Duration::from_millis(50);
/// The helper takes over when nobody has read the sockets for this long.
const HELPER_PATIENCE: Duration = Duration::from_millis(1);
/// Nobody sleeps longer than this, so that a mistake here would be a delay and not a hang.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// A worker that waits longer than this lends its CPUs.
const BLOCKED_AFTER: Duration = Duration::from_micros(500);

/// The right to read the sockets, which one thread has at a time.
#[derive(Debug, Default)]
struct Leadership {
    incidents: Mutex<Vec<Incident>>,
    /// Somebody has it, or is about to give it away.
    taken: AtomicBool,
}

impl Leadership {
    fn try_take(&self) -> Option<Lead<'_>> {
        let incidents = self.incidents.try_lock()?;
        self.taken.store(true, Ordering::SeqCst);
        Some(Lead {
            incidents,
            taken: &self.taken,
        })
    }

    fn is_taken(&self) -> bool {
        self.taken.load(Ordering::SeqCst)
    }
}

/// What a leader works with.
struct Lead<'a> {
    incidents: MutexGuard<'a, Vec<Incident>>,
    taken: &'a AtomicBool,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        // Before the lock opens: whoever takes it then says so itself.
        self.taken.store(false, Ordering::SeqCst);
    }
}

/// How a thread waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Gives up at this time.
    pub(crate) deadline: Option<Instant>,
    /// A worker that waits here for other tasks lends its CPUs.
    pub(crate) lends: bool,
    /// Looks at signals this often.
    pub(crate) interrupt_interval: Duration,
}

impl Patience {
    pub(crate) fn until(deadline: Option<Instant>) -> Self {
        Self {
            deadline,
            lends: false,
            interrupt_interval: INTERRUPT_INTERVAL,
        }
    }

    pub(crate) fn lending(self) -> Self {
        Self { lends: true, ..self }
    }

    /// For a worker without work, which nobody interrupts.
    pub(crate) fn idle() -> Self {
        Self {
            interrupt_interval: LONGEST_SLEEP,
            ..Self::until(None)
        }
    }
}

/// The state of the turn-taking.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    lead: Leadership,
    /// With the state's lock.
    changed: Condvar,
    /// Waiting threads that do not lead.
    followers: AtomicU64,
    /// Counts the times that a leader left.
    turns: AtomicU64,
    /// The helper leads.
    helper_leads: AtomicBool,
    /// The helper leads always, for processes whose threads are busy with an event loop.
    helper_always: AtomicBool,
    helper_parked: AtomicBool,
    helper_lock: Mutex<()>,
    helper_wake: Condvar,
}

/// Runs the helper until the core worker stops or is dropped.
pub(crate) fn run_helper(worker: &Weak<CoreWorker>) {
    while let Some(worker) = worker.upgrade() {
        if worker.is_stopping() || worker.is_broken_down() {
            return;
        }
        worker.help();
    }
}

impl CoreWorker {
    /// Waits until `check` gives something. Reads the sockets meanwhile, or follows the thread that does.
    pub(crate) fn wait_until<T, E>(
        &self,
        patience: Patience,
        interrupt: &dyn Fn() -> Result<(), E>,
        mut check: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, WaitError<E>> {
        if let Some(found) = self.with_state(&mut check) {
            return Ok(found);
        }
        let mut lent = false;
        let outcome = self.wait_in_turn(patience, interrupt, &mut lent, &mut check);
        if lent {
            self.with_state(|state| state.set_blocked(false));
        }
        outcome
    }

    fn wait_in_turn<T, E>(
        &self,
        patience: Patience,
        interrupt: &dyn Fn() -> Result<(), E>,
        lent: &mut bool,
        check: &mut dyn FnMut(&mut State) -> Option<T>,
    ) -> Result<T, WaitError<E>> {
        let begun = Instant::now();
        let lends = patience.lends && self.is_worker;
        let mut looked_at_signals = begun;
        let mut signal = false;
        // While this thread leads.
        let mut lead: Option<Lead<'_>> = None;
        let outcome = loop {
            let now = Instant::now();
            if signal || now - looked_at_signals >= patience.interrupt_interval {
                looked_at_signals = now;
                signal = false;
                // Code of the user may run now, wait itself, or take its time: others read the sockets meanwhile.
                self.leave(lead.take());
                if let Err(stop) = interrupt() {
                    break Err(WaitError::Interrupted(stop));
                }
            }
            let mut state = self.lock();
            if let Some(found) = check(&mut state) {
                self.carry_out(state);
                break Ok(found);
            }
            if let Some(error) = state.broken().cloned() {
                self.carry_out(state);
                break Err(WaitError::Failed(error));
            }
            if patience.deadline.is_some_and(|deadline| deadline <= now) {
                self.carry_out(state);
                break Err(WaitError::Deadline);
            }
            if lends && !*lent && now - begun >= BLOCKED_AFTER {
                *lent = true;
                state.set_blocked(true);
            }
            let mut sleep = patience.interrupt_interval;
            if let Some(deadline) = patience.deadline {
                sleep = sleep.min(deadline - now);
            }
            if lends && !*lent {
                sleep = sleep.min(BLOCKED_AFTER);
            }
            if lead.is_none() {
                lead = self.turns.lead.try_take();
            }
            match lead.as_mut() {
                Some(leading) => {
                    self.carry_out(state);
                    signal = self.drive(&mut leading.incidents, sleep) == Woken::Signal;
                    if self.turns.helper_always.load(Ordering::Acquire) {
                        // The helper became the only reader meanwhile.
                        self.leave(lead.take());
                    }
                }
                None => self.follow(state, sleep),
            }
        };
        self.leave(lead);
        outcome
    }

    /// Waits for the leader's call, or for a time.
    fn follow(&self, mut state: MutexGuard<'_, State>, sleep: Duration) {
        if state.has_output() {
            // It must not wait until this thread wakes.
            self.carry_out(state);
            return;
        }
        let turns = &self.turns;
        turns.followers.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if turns.lead.is_taken() {
            if turns.helper_leads.load(Ordering::SeqCst) && !turns.helper_always.load(Ordering::SeqCst) {
                // A thread that waits reads for itself.
                self.reactor.kick().now();
            }
            (state, _) = turns.changed.wait_for(state, sleep);
        }
        turns.followers.fetch_sub(1, Ordering::SeqCst);
        self.carry_out(state);
    }

    /// Stops leading, and sees to it that somebody else can.
    fn leave(&self, lead: Option<Lead<'_>>) {
        if let Some(lead) = lead {
            self.turns.turns.fetch_add(1, Ordering::AcqRel);
            drop(lead);
        }
        fence(Ordering::SeqCst);
        if self.turns.followers.load(Ordering::SeqCst) > 0 && !self.turns.lead.is_taken() {
            // The lock orders this after a follower that is about to sleep.
            drop(self.state.lock());
            self.turns.changed.notify_one();
        }
        if self.turns.helper_parked.load(Ordering::SeqCst) {
            self.wake_helper();
        }
    }

    /// Something happened for which threads may wait. `leads`: the caller does, and sees for itself.
    pub(crate) fn tell_waiting(&self, leads: bool) {
        fence(Ordering::SeqCst);
        if self.turns.followers.load(Ordering::SeqCst) > 0 {
            self.turns.changed.notify_all();
        }
        if !leads {
            self.reactor.kick().now();
        }
    }

    /// Reads the sockets once and lets the state take in what came. What breaks that is the end of this process's part in
    /// the cluster: nobody else would ever be answered.
    fn drive(&self, incidents: &mut Vec<Incident>, sleep: Duration) -> Woken {
        // What is half done when it panics is not used again.
        match catch_unwind(AssertUnwindSafe(|| self.drive_once(incidents, sleep))) {
            Ok(Ok(woken)) => return woken,
            Ok(Err(error)) => self.break_down(&format!("it cannot wait for its sockets: {error}")),
            Err(panic) => self.break_down(&format!("it panicked: {}", panic_message(&*panic))),
        }
        incidents.clear();
        Woken::Other
    }

    /// Nothing reads the sockets any more.
    fn break_down(&self, cause: &str) {
        error!(cause, "the core worker broke down");
        if self.is_worker {
            // The raylet sees its end, and tells those who wait for it.
            std::process::abort();
        }
        self.broken_down.store(true, Ordering::SeqCst);
        let message = format!(
            "sparkray broke down in this process ({cause}): call shutdown() and init() again, and report this"
        );
        let failure = CoreError::new(ErrorCode::Internal, message);
        let told = catch_unwind(AssertUnwindSafe(|| {
            self.with_state(|state| state.leave(failure.clone()));
        }));
        if told.is_err() {
            // Threads that wait look at this first.
            self.state.lock().break_down(failure);
        }
        self.turns.changed.notify_all();
    }

    fn drive_once(&self, incidents: &mut Vec<Incident>, sleep: Duration) -> io::Result<Woken> {
        self.reactor.kick().take_later();
        let state = self.lock();
        let tick = state.next_tick().map_or(sleep, Duration::from_micros);
        self.carry_out(state);
        let woken = self.reactor.drive(sleep.min(tick), incidents)?;
        let mut state = self.lock();
        for incident in incidents.drain(..) {
            match incident {
                Incident::Frames(conn, frames) => {
                    for frame in frames {
                        state.on_frame(conn, frame);
                    }
                }
                Incident::Closed(conn, cause) => state.on_closed(conn, &cause),
            }
        }
        let now = self.now();
        state.on_tick(now);
        self.take_in_answers(&mut state);
        self.carry_out_leading(state);
        Ok(woken)
    }

    // ---- the helper ----------------------------------------------------------------------------------------

    /// Makes the helper read the sockets always: for event loops, whose thread must not.
    pub(crate) fn lead_by_helper(&self) {
        self.turns.helper_always.store(true, Ordering::SeqCst);
        self.reactor.kick().now();
        self.wake_helper();
    }

    pub(crate) fn wake_helper(&self) {
        drop(self.turns.helper_lock.lock());
        self.turns.helper_wake.notify_all();
    }

    /// One round of the helper: waits a little, and leads when nobody else does.
    fn help(&self) {
        let turns = &self.turns;
        let turn = turns.turns.load(Ordering::Acquire);
        if !turns.helper_always.load(Ordering::SeqCst) {
            let guard = turns.helper_lock.lock();
            if self.is_stopping() {
                return;
            }
            drop(turns.helper_wake.wait_for(guard, HELPER_PATIENCE));
        }
        if self.is_stopping() {
            return;
        }
        let always = turns.helper_always.load(Ordering::SeqCst);
        if turns.turns.load(Ordering::Acquire) != turn && !always {
            // Others take turns. Frames that they corked leave at the latest now.
            self.reactor.flush_dirty();
            return;
        }
        // Before it leads: whoever finds the lead taken must find this too.
        turns.helper_leads.store(true, Ordering::SeqCst);
        let Some(mut lead) = turns.lead.try_take() else {
            turns.helper_leads.store(false, Ordering::SeqCst);
            self.park_helper();
            return;
        };
        fence(Ordering::SeqCst);
        let mut rested = false;
        while !rested && !self.is_stopping() && !self.is_broken_down() && !self.is_lead_wanted() {
            let before = Instant::now();
            self.drive(&mut lead.incidents, LONGEST_SLEEP);
            // After a quiet time the caller looks whether anybody still holds the core worker.
            rested = before.elapsed() >= LONGEST_SLEEP;
        }
        turns.helper_leads.store(false, Ordering::SeqCst);
        self.leave(Some(lead));
    }

    /// Whether a thread waits that would rather read for itself.
    fn is_lead_wanted(&self) -> bool {
        self.turns.followers.load(Ordering::SeqCst) > 0 && !self.turns.helper_always.load(Ordering::SeqCst)
    }

    /// One thread has led all this time: sleeps until it leaves.
    fn park_helper(&self) {
        let turns = &self.turns;
        let guard = turns.helper_lock.lock();
        turns.helper_parked.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if turns.lead.is_taken() && !self.is_stopping() {
            drop(turns.helper_wake.wait_for(guard, LONGEST_SLEEP));
        }
        turns.helper_parked.store(false, Ordering::SeqCst);
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

#[cfg(test)]
mod tests;
