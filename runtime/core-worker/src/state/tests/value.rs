//! Values of the simulation: numbers and references, as lines of text.

use sparkray_common::{NodeId, ObjectId, WorkerAddress, WorkerId};

/// What a value holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Number(u64),
    Reference(ObjectId, WorkerAddress),
}

pub(super) fn encode(items: &[Item]) -> Vec<u8> {
    let lines: Vec<String> = items
        .iter()
        .map(|item| match item {
            Item::Number(number) => format!("n {number}"),
            Item::Reference(id, owner) => {
                format!(
                    "r {id} {} {} {}",
                    owner.node_id, owner.worker_id, owner.node_address
                )
            }
        })
        .collect();
    lines.join("\n").into_bytes()
}

pub(super) fn decode(value: &[u8]) -> Vec<Item> {
    let text = std::str::from_utf8(value).unwrap();
    text.lines()
        .map(|line| {
            let parts: Vec<&str> = line.split(' ').collect();
            match parts[..] {
                ["n", number] => Item::Number(number.parse().unwrap()),
                ["r", id, node, worker, address] => {
                    let owner = WorkerAddress {
                        node_id: NodeId::from_hex(node).unwrap(),
                        worker_id: WorkerId::from_hex(worker).unwrap(),
                        node_address: address.to_owned(),
                    };
                    let mut bytes = [0; 20];
                    for (index, byte) in bytes.iter_mut().enumerate() {
                        *byte = u8::from_str_radix(&id[2 * index..2 * index + 2], 16).unwrap();
                    }
                    Item::Reference(ObjectId::from_array(bytes), owner)
                }
                _ => panic!("{line} is not an item"),
            }
        })
        .collect()
}

/// The references in a value.
pub(super) fn references(items: &[Item]) -> Vec<(ObjectId, WorkerAddress)> {
    items
        .iter()
        .filter_map(|item| match item {
            Item::Reference(id, owner) => Some((*id, owner.clone())),
            Item::Number(_) => None,
        })
        .collect()
}
