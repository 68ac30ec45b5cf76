//! Key-value pairs in namespaces.

use std::collections::{BTreeMap, HashMap};

use prost::bytes::Bytes;

/// The pairs of each namespace, sorted by key so that a prefix is a range.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct KvTable(HashMap<String, BTreeMap<Bytes, Bytes>>);

impl KvTable {
    /// The value of a key.
    pub(crate) fn get(&self, namespace: &str, key: &[u8]) -> Option<&Bytes> {
        self.0.get(namespace)?.get(key)
    }

    /// The keys that begin with a prefix, sorted.
    pub(crate) fn keys(&self, namespace: &str, prefix: &Bytes) -> Vec<Bytes> {
        let Some(pairs) = self.0.get(namespace) else {
            return Vec::new();
        };
        let from_prefix = pairs.range(prefix.clone()..).map(|(key, _)| key);
        from_prefix
            .take_while(|key| key.starts_with(prefix))
            .cloned()
            .collect()
    }

    pub(super) fn put(&mut self, namespace: &str, key: &Bytes, value: &Bytes) {
        let pairs = self.0.entry(namespace.to_owned()).or_default();
        pairs.insert(key.clone(), value.clone());
    }

    pub(super) fn delete(&mut self, namespace: &str, key: &Bytes) {
        let Some(pairs) = self.0.get_mut(namespace) else {
            return;
        };
        pairs.remove(key);
        if pairs.is_empty() {
            self.0.remove(namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_do_not_see_each_other() {
        let mut table = KvTable::default();
        table.put("a", &"k".into(), &"one".into());
        table.put("b", &"k".into(), &"two".into());
        table.put("a", &"k".into(), &"three".into());
        assert_eq!(table.get("a", b"k"), Some(&"three".into()));
        assert_eq!(table.get("b", b"k"), Some(&"two".into()));
        assert_eq!(table.get("c", b"k"), None);
    }

    #[test]
    fn keys_are_listed_by_prefix_and_an_empty_namespace_leaves_nothing() {
        let mut table = KvTable::default();
        for key in ["fun:1", "fun:2", "fun", "other", "fu"] {
            table.put("n", &key.into(), &Bytes::new());
        }
        assert_eq!(table.keys("n", &"fun:".into()), ["fun:1", "fun:2"]);
        assert_eq!(table.keys("n", &Bytes::new()).len(), 5);
        assert!(table.keys("m", &Bytes::new()).is_empty());
        table.delete("n", &"fun:1".into());
        table.delete("n", &"fun:1".into());
        assert_eq!(table.keys("n", &"fun:".into()), ["fun:2"]);
        for key in ["fun:2", "fun", "other", "fu"] {
            table.delete("n", &key.into());
        }
        assert_eq!(table, KvTable::default());
    }
}
