//! What clients hear of keys.

use prost::bytes::Bytes;
use sparkray_proto::head_reply::Reply;
use sparkray_proto::head_request::Request;
use sparkray_proto::{KvDelete, KvGet, KvKeys, KvPut, KvValue};

use super::Cluster;

fn value(cluster: &mut Cluster, request: Request) -> KvValue {
    match cluster.request(request) {
        Ok(Reply::Value(value)) => value,
        other => panic!("no value but {other:?}"),
    }
}

fn put(cluster: &mut Cluster, value_of_key: &'static str, overwrite: bool) -> KvValue {
    let request = KvPut {
        key: "k".into(),
        value: value_of_key.into(),
        namespace: "n".to_owned(),
        overwrite,
    };
    value(cluster, Request::KvPut(request))
}

fn get(cluster: &mut Cluster) -> Option<Bytes> {
    let request = KvGet {
        key: "k".into(),
        namespace: "n".to_owned(),
    };
    let answer = value(cluster, Request::KvGet(request));
    answer.found.then_some(answer.value)
}

#[test]
fn a_value_is_kept_unless_it_is_to_be_overwritten() {
    let mut cluster = Cluster::new();
    assert_eq!(get(&mut cluster), None);
    assert!(!put(&mut cluster, "one", false).found);
    let records = cluster.journal.len();
    assert!(put(&mut cluster, "two", false).found);
    assert_eq!(get(&mut cluster), Some("one".into()));
    assert_eq!(cluster.journal.len(), records, "nothing has changed");
    assert!(put(&mut cluster, "three", true).found);
    assert_eq!(get(&mut cluster), Some("three".into()));
}

#[test]
fn a_key_is_listed_until_it_is_deleted_and_deleted_once() {
    let mut cluster = Cluster::new();
    put(&mut cluster, "one", false);
    let list = KvKeys {
        prefix: Bytes::new(),
        namespace: "n".to_owned(),
    };
    let Ok(Reply::Keys(keys)) = cluster.request(Request::KvKeys(list)) else {
        panic!("no keys")
    };
    assert_eq!(keys.keys, ["k"]);
    let delete = KvDelete {
        key: "k".into(),
        namespace: "n".to_owned(),
    };
    assert!(value(&mut cluster, Request::KvDelete(delete.clone())).found);
    let records = cluster.journal.len();
    assert!(!value(&mut cluster, Request::KvDelete(delete)).found);
    assert_eq!(cluster.journal.len(), records, "nothing has changed");
    assert_eq!(get(&mut cluster), None);
}
