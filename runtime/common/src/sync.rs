//! The lock and the condition variable of all sparkray crates: the standard library's, that do not mind poison.
//!
//! A thread that panics while it holds a lock ends its process or its task by other means; who comes next works on.
//!
//! No lock here has a table that it shares with others, as parking_lot's have. A process that forks while another of its
//! threads is just at such a table leaves it locked for ever in the child, and with it every lock of the child.

#![allow(clippy::disallowed_types)]

use std::sync::{PoisonError, TryLockError};
use std::time::{Duration, Instant};

pub use std::sync::MutexGuard;

/// Mutual exclusion, as [`std::sync::Mutex`].
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits until the lock is free, and takes it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// Waits for what another thread does, as [`std::sync::Condvar`].
#[derive(Debug, Default)]
pub struct Condvar(std::sync::Condvar);

impl Condvar {
    pub const fn new() -> Self {
        Self(std::sync::Condvar::new())
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Gives the lock away, and takes it again when notified; by chance earlier.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// [`Condvar::wait`] for `timeout` at most. The second value says whether that time is over.
    pub fn wait_for<'a, T>(&self, guard: MutexGuard<'a, T>, timeout: Duration) -> (MutexGuard<'a, T>, bool) {
        let (guard, result) = self
            .0
            .wait_timeout(guard, timeout)
            .unwrap_or_else(PoisonError::into_inner);
        (guard, result.timed_out())
    }

    /// [`Condvar::wait`] until `deadline` at most. The second value says whether that time has come.
    pub fn wait_until<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Instant,
    ) -> (MutexGuard<'a, T>, bool) {
        self.wait_for(guard, deadline.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_panic_under_the_lock_takes_it_from_nobody() {
        let lock = Arc::new(Mutex::new(1));
        let theirs = Arc::clone(&lock);
        let thread = std::thread::spawn(move || {
            let mut value = theirs.lock();
            *value = 2;
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        assert_eq!(*lock.lock(), 2);
        assert_eq!(lock.try_lock().map(|value| *value), Some(2));
    }

    #[test]
    fn a_taken_lock_is_not_taken_again() {
        let lock = Mutex::new(());
        let guard = lock.lock();
        assert!(lock.try_lock().is_none());
        drop(guard);
        assert!(lock.try_lock().is_some());
    }

    #[test]
    fn who_waits_is_woken_or_told_of_the_deadline() {
        let pair = Arc::new((Mutex::new(false), Condvar::new()));
        let theirs = Arc::clone(&pair);
        let thread = std::thread::spawn(move || {
            let (lock, changed) = &*theirs;
            *lock.lock() = true;
            changed.notify_all();
        });
        let (lock, changed) = &*pair;
        let mut done = lock.lock();
        while !*done {
            done = changed.wait(done);
        }
        thread.join().unwrap();
        let (_done, over) = changed.wait_until(done, Instant::now());
        assert!(over);
    }
}
