//! Ids are newtypes over fixed-size byte arrays. Random ids come from the operating system; task ids
//! are a random prefix for each process and a counter, so that making one costs a few nanoseconds.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::Mutex;

/// Bytes that are not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} needs {expected} bytes, got {actual}")]
pub struct IdError {
    /// Name of the id type.
    pub kind: &'static str,
    /// Length of an id of that type.
    pub expected: usize,
    /// Length that was given.
    pub actual: usize,
}

macro_rules! define_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;
            /// The id that names nothing.
            pub const NIL: Self = Self([0; $len]);

            /// Wraps raw bytes.
            pub const fn from_array(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// Reads an id from a message; refuses any other length.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, IdError> {
                match <[u8; $len]>::try_from(bytes) {
                    Ok(array) => Ok(Self(array)),
                    Err(_) => Err(IdError { kind: stringify!($name), expected: $len, actual: bytes.len() }),
                }
            }

            /// Reads the hexadecimal form that `Display` writes.
            pub fn from_hex(text: &str) -> Result<Self, IdError> {
                let refuse = || IdError { kind: stringify!($name), expected: $len, actual: text.len() / 2 };
                if text.len() != $len * 2 || !text.is_ascii() {
                    return Err(refuse());
                }
                let mut bytes = [0; $len];
                for (index, byte) in bytes.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).map_err(|_| refuse())?;
                }
                Ok(Self(bytes))
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The raw bytes, owned, for a message.
            pub fn to_vec(self) -> Vec<u8> {
                self.0.to_vec()
            }

            /// Whether this is [`Self::NIL`].
            pub fn is_nil(&self) -> bool {
                self.0 == [0; $len]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                for byte in self.0 {
                    write!(formatter, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

define_id!(
    /// One cluster: new for every `init`.
    ClusterId, 16);
define_id!(
    /// One start of a raylet; a restarted raylet has a new one.
    NodeId, 16);
define_id!(
    /// One process that runs or submits tasks: driver, worker or executor JVM.
    WorkerId, 16);
define_id!(
    /// One driver program.
    JobId, 4);
define_id!(
    /// One submitted task or actor call; also the prefix of the ids of its results.
    TaskId, 16);
define_id!(
    /// One actor, the same over its restarts.
    ActorId, 16);
define_id!(
    /// One request for a worker, chosen by the requester, so that a repeated request is recognised.
    LeaseId, 16);
define_id!(
    /// One placement group.
    PlacementGroupId, 16);
define_id!(
    /// One transfer of a DataFrame into the object store.
    FeedId, 16);
define_id!(
    /// Hash of a pickled function or class.
    FunctionId, 16);
define_id!(
    /// One object: the task that makes it and the index of the result, little-endian.
    ObjectId, 20);

fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
    bytes
}

macro_rules! random_id {
    ($($name:ident),*) => {
        $(impl $name {
            /// A new random id.
            pub fn random() -> Self {
                Self(random_bytes())
            }
        })*
    };
}
random_id!(
    ClusterId,
    NodeId,
    WorkerId,
    JobId,
    ActorId,
    LeaseId,
    PlacementGroupId,
    FeedId
);

static TASK_PREFIX: Mutex<Option<[u8; 8]>> = Mutex::new(None);
static TASK_PREFIX_FAST: AtomicU64 = AtomicU64::new(0);
static TASK_COUNTER: AtomicU64 = AtomicU64::new(0);

/// Forgets this process's prefix of task ids. A forked child calls it before it makes any id.
pub fn reseed_after_fork() {
    *TASK_PREFIX.lock() = Some(random_bytes());
    TASK_PREFIX_FAST.store(0, Ordering::Release);
    TASK_COUNTER.store(0, Ordering::Release);
}

fn task_prefix() -> u64 {
    let cached = TASK_PREFIX_FAST.load(Ordering::Acquire);
    if cached != 0 {
        return cached;
    }
    let mut prefix = TASK_PREFIX.lock();
    let bytes = *prefix.get_or_insert_with(random_bytes);
    let value = u64::from_le_bytes(bytes) | 1;
    TASK_PREFIX_FAST.store(value, Ordering::Release);
    value
}

impl TaskId {
    /// A new id, unique among all processes by this process's random prefix.
    pub fn next() -> Self {
        let counter = TASK_COUNTER.fetch_add(1, Ordering::Relaxed);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&task_prefix().to_le_bytes());
        bytes[8..].copy_from_slice(&counter.to_le_bytes());
        Self(bytes)
    }
}

impl ObjectId {
    /// The `index`-th result of `task`.
    pub fn for_result(task: TaskId, index: u32) -> Self {
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(task.as_bytes());
        bytes[16..].copy_from_slice(&index.to_le_bytes());
        Self(bytes)
    }

    /// The task that makes this object.
    pub fn task_id(&self) -> TaskId {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.0[..16]);
        TaskId(bytes)
    }

    /// Which result of that task this is.
    pub fn index(&self) -> u32 {
        u32::from_le_bytes([self.0[16], self.0[17], self.0[18], self.0[19]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_ids_name_their_task_and_index() {
        let task = TaskId::next();
        let object = ObjectId::for_result(task, 7);
        assert_eq!(object.task_id(), task);
        assert_eq!(object.index(), 7);
        assert_ne!(ObjectId::for_result(TaskId::next(), 7), object);
    }

    #[test]
    fn hexadecimal_form_is_read_back_and_bad_forms_are_refused() {
        let node = NodeId::random();
        assert_eq!(NodeId::from_hex(&node.to_string()), Ok(node));
        assert!(NodeId::from_hex("zz").is_err());
        assert!(NodeId::from_hex(&"é".repeat(16)).is_err());
        assert!(NodeId::from_slice(&[1, 2, 3]).is_err());
    }

    #[test]
    fn task_ids_differ_after_a_fork() {
        let before = TaskId::next();
        reseed_after_fork();
        let after = TaskId::next();
        assert_ne!(before.as_bytes()[..8], after.as_bytes()[..8]);
    }
}
