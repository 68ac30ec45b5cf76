//! What threads and futures wait for. Each object tells its waits once; a wait is over when its count is zero, so that
//! looking at it costs the same for one reference and for a hundred thousand.

use sparkray_common::{ErrorCode, ObjectId};

use super::{Objects, Value, Waiter};
use crate::error::CoreError;
use crate::hash::IdMap;
use crate::state::links::Links;
use crate::state::outbox::Notice;
use crate::values::Fetched;

pub(crate) type WaitId = u64;

/// The value of one object.
pub(crate) type FetchedResult = Result<Fetched, CoreError>;

#[derive(Debug)]
struct Wait {
    /// Objects that are still to be heard of.
    missing: usize,
    /// Those that know this wait.
    objects: Vec<ObjectId>,
    /// For waits for values: each in its place.
    values: Vec<Option<FetchedResult>>,
    /// It is over with the first value that is a failure, whatever else is missing.
    until_failure: bool,
    /// Told to the embedding code when it is over.
    notify: Option<u64>,
}

/// All waits of this process.
#[derive(Debug, Default)]
pub(super) struct Waits {
    table: IdMap<WaitId, Wait>,
    last: WaitId,
}

/// A wait that was begun.
#[derive(Debug)]
pub(crate) enum Begun<T> {
    /// Nothing is missing.
    Done(T),
    Waiting(WaitId),
}

/// An object that this process does not know.
pub(crate) fn unknown_object(id: ObjectId) -> CoreError {
    CoreError::new(
        ErrorCode::ObjectLost,
        format!(
            "object {id} is not known to this process: its cluster was stopped, or all its references are gone"
        ),
    )
}

/// Whether there is no value, or it is the error of the task that should have made it.
fn is_failure(value: &FetchedResult) -> bool {
    match value {
        Err(_) => true,
        Ok(value) => value.is_error(),
    }
}

impl Waits {
    fn add(&mut self, wait: Wait) -> WaitId {
        self.last += 1;
        self.table.insert(self.last, wait);
        self.last
    }

    /// One object of a wait is heard of.
    pub(super) fn met(&mut self, links: &mut Links, wait: WaitId) {
        let Some(entry) = self.table.get_mut(&wait) else {
            return;
        };
        if entry.missing == 0 {
            // It was ended by a failure.
            return;
        }
        entry.missing -= 1;
        if entry.missing == 0 {
            self.over(links, wait);
        }
    }

    fn over(&mut self, links: &mut Links, wait: WaitId) {
        let notify = self.table.get(&wait).and_then(|entry| entry.notify);
        let Some(key) = notify else {
            links.out.news();
            return;
        };
        // It waits for one value, which is there: no object knows it any more.
        let entry = self.table.remove(&wait);
        let value = entry.and_then(|mut entry| entry.values.pop().flatten());
        if let Some(value) = value {
            links.out.notify(Notice::Fetched(key, value));
        }
    }

    pub(super) fn check(&self) {
        for (wait, entry) in &self.table {
            let empty = entry.values.iter().filter(|value| value.is_none()).count();
            assert!(
                entry.values.is_empty() || entry.missing == empty || entry.missing == 0,
                "wait {wait} misses {} of {empty} values",
                entry.missing
            );
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

impl Objects {
    // ---- existence -----------------------------------------------------------------------------------------

    /// Indices of the first `wanted` objects that exist; fewer when there are not as many.
    pub(crate) fn existing(&mut self, ids: &[ObjectId], wanted: usize) -> Vec<usize> {
        let mut found = Vec::with_capacity(wanted.min(ids.len()));
        for (index, id) in ids.iter().enumerate() {
            if found.len() == wanted {
                break;
            }
            match self.table.get_mut(id) {
                Some(object) if !object.is_resolved() => {}
                Some(object) => {
                    object.was_looked_at = true;
                    found.push(index);
                }
                None => found.push(index),
            }
        }
        found
    }

    /// Waits for `missing` more of those objects that do not exist.
    pub(in crate::state) fn wait_for_existence(
        &mut self,
        links: &mut Links,
        ids: &[ObjectId],
        missing: usize,
    ) -> WaitId {
        let wait = self.waits.add(Wait {
            missing,
            objects: Vec::new(),
            values: Vec::new(),
            until_failure: false,
            notify: None,
        });
        let mut objects = Vec::new();
        for id in ids {
            let Some(object) = self.table.get_mut(id) else {
                continue;
            };
            object.was_looked_at = true;
            if !object.is_resolved() {
                object.waiters.push(Waiter::Exists(wait));
                objects.push(*id);
            }
        }
        // Afterwards, because an owner that is known to be dead resolves its object at once.
        for id in &objects {
            self.want(links, *id);
        }
        if let Some(entry) = self.waits.table.get_mut(&wait) {
            entry.objects = objects;
        }
        wait
    }

    pub(crate) fn is_wait_over(&self, wait: WaitId) -> bool {
        let entry = self.waits.table.get(&wait);
        entry.is_none_or(|entry| entry.missing == 0)
    }

    /// Forgets a wait whose thread goes on.
    pub(crate) fn end_wait(&mut self, wait: WaitId) {
        if let Some(entry) = self.waits.table.remove(&wait) {
            self.leave_objects(wait, entry.objects);
        }
    }

    /// Objects need not tell a wait that is over.
    fn leave_objects(&mut self, wait: WaitId, objects: Vec<ObjectId>) {
        let is_other = |waiter: &Waiter| match waiter {
            Waiter::Dependent(_) => true,
            Waiter::Exists(other) | Waiter::Value(other, _) => *other != wait,
        };
        for id in objects {
            if let Some(object) = self.table.get_mut(&id) {
                object.waiters.retain(is_other);
            }
        }
    }

    // ---- values --------------------------------------------------------------------------------------------

    /// Waits for the value of one object, and has `notify` told instead of a thread that looks.
    pub(in crate::state) fn fetch_for(
        &mut self,
        links: &mut Links,
        id: ObjectId,
        notify: u64,
    ) -> Begun<Vec<FetchedResult>> {
        self.begin_fetch(links, &[id], false, Some(notify))
    }

    /// Waits for the values of objects. `until_failure`: the first that is a failure ends the wait; the values are then
    /// those that are there, in order, and one of them is a failure.
    pub(in crate::state) fn fetch(
        &mut self,
        links: &mut Links,
        ids: &[ObjectId],
        until_failure: bool,
    ) -> Begun<Vec<FetchedResult>> {
        self.begin_fetch(links, ids, until_failure, None)
    }

    fn begin_fetch(
        &mut self,
        links: &mut Links,
        ids: &[ObjectId],
        until_failure: bool,
        notify: Option<u64>,
    ) -> Begun<Vec<FetchedResult>> {
        let mut values: Vec<Option<FetchedResult>> = Vec::with_capacity(ids.len());
        let mut missing = Vec::new();
        for (place, id) in ids.iter().enumerate() {
            let value = self.value_now(*id);
            if value.is_none() {
                missing.push((place, *id));
            }
            values.push(value);
        }
        let failed = || values.iter().flatten().any(is_failure);
        if missing.is_empty() || (until_failure && failed()) {
            return Begun::Done(values.into_iter().flatten().collect());
        }
        let wait = self.waits.add(Wait {
            missing: missing.len(),
            objects: missing.iter().map(|(_, id)| *id).collect(),
            values,
            until_failure,
            notify,
        });
        for (place, id) in &missing {
            if let Some(object) = self.table.get_mut(id) {
                object.waiters.push(Waiter::Value(wait, *place as u32));
            }
        }
        for (_, id) in missing {
            self.want_value(links, id);
        }
        Begun::Waiting(wait)
    }

    /// The value of an object, if it can be given without waiting.
    fn value_now(&mut self, id: ObjectId) -> Option<FetchedResult> {
        let Some(object) = self.table.get_mut(&id) else {
            return Some(Err(unknown_object(id)));
        };
        object.was_looked_at = true;
        match &object.value {
            Value::Pending => None,
            Value::Inline(bytes) | Value::Raised(bytes) => Some(Ok(Fetched::Inline(bytes.clone()))),
            Value::Failed(error) => Some(Err(CoreError::clone(error))),
            Value::Stored { .. } => object.mapped.upgrade().map(|value| Ok(Fetched::Mapped(value))),
        }
    }

    /// Tells a wait the value of a resolved object, or asks the store for it.
    pub(super) fn deliver(&mut self, links: &mut Links, id: ObjectId, wait: WaitId, place: u32) {
        match self.value_now(id) {
            Some(value) => self.fill(links, wait, place, value),
            None => {
                if let Some(object) = self.table.get_mut(&id) {
                    object.waiters.push(Waiter::Value(wait, place));
                    self.want_value(links, id);
                }
            }
        }
    }

    pub(super) fn fill(&mut self, links: &mut Links, wait: WaitId, place: u32, value: FetchedResult) {
        let Some(entry) = self.waits.table.get_mut(&wait) else {
            return;
        };
        let ends = entry.until_failure && entry.missing > 1 && is_failure(&value);
        let Some(slot) = entry.values.get_mut(place as usize) else {
            return;
        };
        if slot.replace(value).is_some() {
            return;
        }
        if ends {
            entry.missing = 0;
            self.waits.over(links, wait);
        } else {
            self.waits.met(links, wait);
        }
    }

    /// The values of a wait that is over.
    pub(crate) fn take_values(&mut self, wait: WaitId) -> Option<Vec<FetchedResult>> {
        if self.waits.table.get(&wait)?.missing > 0 {
            return None;
        }
        let entry = self.waits.table.remove(&wait)?;
        if entry.values.iter().any(Option::is_none) {
            self.leave_objects(wait, entry.objects);
        }
        Some(entry.values.into_iter().flatten().collect())
    }
}
