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
