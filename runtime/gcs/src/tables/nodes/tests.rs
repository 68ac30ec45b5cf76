use std::sync::Arc;
use std::time::Duration;

use sparkray_common::ResourceSet;

use super::*;

#[test]
fn the_dead_are_listed_until_there_are_too_many() {
    let mut table = NodeTable::default();
    let ids: Vec<_> = (0..=KEPT_DEAD_NODES).map(|_| NodeId::random()).collect();
    for id in &ids {
        table.join(&NodeDescription {
            id: *id,
            address: String::new(),
            hostname: String::new(),
            pid: 1,
            labels: Arc::default(),
            total: ResourceSet::default(),
            silence: Duration::ZERO,
        });
    }
    assert_eq!(table.living_ids().len(), ids.len());
    for id in &ids {
        table.die(*id);
        table.die(*id);
    }
    assert!(table.living_ids().is_empty());
    assert!(table.get(ids[0]).is_none());
    assert_eq!(table.all().count(), KEPT_DEAD_NODES);
}
