//! Clients put, get, delete and list keys.

use prost::bytes::Bytes;
use sparkray_proto::{KvDelete, KvGet, KvKeyList, KvKeys, KvPut, KvValue};

use crate::change::Change;
use crate::record::Record;
use crate::tables::KvTable;

/// Stores a value, unless the key has one that must not be replaced. The answer's `found` says whether the key was there
/// before, and carries no value.
pub(crate) fn put(change: &mut Change<'_>, request: KvPut) -> KvValue {
    let found = change.tables().kv.get(&request.namespace, &request.key).is_some();
    if !found || request.overwrite {
        change.commit(Record::KeyPut {
            namespace: request.namespace,
            key: request.key,
            value: request.value,
        });
    }
    KvValue {
        found,
        value: Bytes::new(),
    }
}

/// Removes a key; `found` says whether it was there.
pub(crate) fn delete(change: &mut Change<'_>, request: KvDelete) -> KvValue {
    let found = change.tables().kv.get(&request.namespace, &request.key).is_some();
    if found {
        change.commit(Record::KeyDeleted {
            namespace: request.namespace,
            key: request.key,
        });
    }
    KvValue {
        found,
        value: Bytes::new(),
    }
}

/// The value of a key.
pub(crate) fn get(table: &KvTable, request: &KvGet) -> KvValue {
    match table.get(&request.namespace, &request.key) {
        Some(value) => KvValue {
            found: true,
            value: value.clone(),
        },
        None => KvValue::default(),
    }
}

/// The keys that begin with a prefix, sorted.
pub(crate) fn keys(table: &KvTable, request: &KvKeys) -> KvKeyList {
    KvKeyList {
        keys: table.keys(&request.namespace, &request.prefix),
    }
}
