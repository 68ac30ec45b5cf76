//! Key-value pairs in namespaces.

#[cfg(test)]
mod tests;

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
