//! Key-value pairs in namespaces.

use std::collections::{BTreeMap, HashMap};

use prost::bytes::Bytes;
use sparkray_proto::{KvDelete, KvGet, KvKeyList, KvKeys, KvPut, KvValue};

/// The pairs of each namespace, sorted by key so that a prefix is a range.
#[derive(Debug, Default)]
pub(crate) struct KvTable(HashMap<String, BTreeMap<Bytes, Bytes>>);

impl KvTable {
    /// Stores a value, unless the key has one that must not be replaced. The answer's `found` says whether
    /// the key was there before, and carries no value.
    pub(crate) fn put(&mut self, request: KvPut) -> KvValue {
        let pairs = self.0.entry(request.namespace).or_default();
        let found = pairs.contains_key(&request.key);
        if !found || request.overwrite {
            pairs.insert(request.key, request.value);
        }
        KvValue {
            found,
            value: Bytes::new(),
        }
    }

    /// The value of a key.
    pub(crate) fn get(&self, request: &KvGet) -> KvValue {
        match self
            .0
            .get(&request.namespace)
            .and_then(|pairs| pairs.get(&request.key))
        {
            Some(value) => KvValue {
                found: true,
                value: value.clone(),
            },
            None => KvValue::default(),
        }
    }

    /// Removes a key; `found` says whether it was there.
    pub(crate) fn delete(&mut self, request: &KvDelete) -> KvValue {
        let Some(pairs) = self.0.get_mut(&request.namespace) else {
            return KvValue::default();
        };
        let found = pairs.remove(&request.key).is_some();
        if pairs.is_empty() {
            self.0.remove(&request.namespace);
        }
        KvValue {
            found,
            value: Bytes::new(),
        }
    }

    /// The keys that begin with a prefix, sorted.
    pub(crate) fn keys(&self, request: &KvKeys) -> KvKeyList {
        let Some(pairs) = self.0.get(&request.namespace) else {
            return KvKeyList::default();
        };
        let from_prefix = pairs.range(request.prefix.clone()..).map(|(key, _)| key);
        KvKeyList {
            keys: from_prefix
                .take_while(|key| key.starts_with(&request.prefix))
                .cloned()
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str, namespace: &str, overwrite: bool) -> KvPut {
        KvPut {
            key: key.into(),
            value: value.into(),
            namespace: namespace.to_owned(),
            overwrite,
        }
    }

    fn get(table: &KvTable, key: &'static str, namespace: &str) -> Option<Bytes> {
        let answer = table.get(&KvGet {
            key: key.into(),
            namespace: namespace.to_owned(),
        });
        answer.found.then_some(answer.value)
    }

    #[test]
    fn namespaces_do_not_see_each_other_and_values_are_kept_unless_overwritten() {
        let mut table = KvTable::default();
        assert!(!table.put(put("k", "one", "a", true)).found);
        assert!(!table.put(put("k", "two", "b", true)).found);
        assert!(table.put(put("k", "three", "a", false)).found);
        assert_eq!(get(&table, "k", "a"), Some("one".into()));
        assert!(table.put(put("k", "three", "a", true)).found);
        assert_eq!(get(&table, "k", "a"), Some("three".into()));
        assert_eq!(get(&table, "k", "b"), Some("two".into()));
        assert_eq!(get(&table, "k", "c"), None);
    }

    #[test]
    fn keys_are_listed_by_prefix_and_deleted_once() {
        let mut table = KvTable::default();
        for key in ["fun:1", "fun:2", "fun", "other", "fu"] {
            table.put(put(key, "", "n", true));
        }
        let keys = |table: &KvTable, prefix: &'static str| {
            table
                .keys(&KvKeys {
                    prefix: prefix.into(),
                    namespace: "n".to_owned(),
                })
                .keys
        };
        assert_eq!(keys(&table, "fun:"), ["fun:1", "fun:2"]);
        assert_eq!(keys(&table, "").len(), 5);
        let delete = KvDelete {
            key: "fun:1".into(),
            namespace: "n".to_owned(),
        };
        assert!(table.delete(&delete).found);
        assert!(!table.delete(&delete).found);
        assert_eq!(keys(&table, "fun:"), ["fun:2"]);
    }
}
