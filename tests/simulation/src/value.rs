//! Values of the simulation: numbers, references and padding, as lines of text.

use sparkray_common::{NodeId, ObjectId, WorkerAddress, WorkerId};

/// What a value holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Number(u64),
    Reference(ObjectId, WorkerAddress),
    /// So many bytes more.
    Padding(usize),
}

pub(crate) fn encode(items: &[Item]) -> Vec<u8> {
    let lines: Vec<String> = items
        .iter()
        .map(|item| match item {
            Item::Number(number) => format!("n {number}"),
            Item::Reference(id, owner) => {
                let WorkerAddress {
                    node_id,
                    worker_id,
                    node_address,
                } = owner;
                format!("r {id} {node_id} {worker_id} {node_address}")
            }
            Item::Padding(length) => format!("p {}", "x".repeat(*length)),
        })
        .collect();
    lines.join("\n").into_bytes()
}

pub(crate) fn decode(value: &[u8]) -> Vec<Item> {
    let text = std::str::from_utf8(value).expect("a value of the simulation");
    text.lines().map(decode_line).collect()
}

fn decode_line(line: &str) -> Item {
    let parts: Vec<&str> = line.split(' ').collect();
    match parts[..] {
        ["n", number] => Item::Number(number.parse().expect("a number")),
        ["p", padding] => Item::Padding(padding.len()),
        ["r", id, node, worker, address] => {
            let owner = WorkerAddress {
                node_id: NodeId::from_hex(node).expect("a node's id"),
                worker_id: WorkerId::from_hex(worker).expect("a worker's id"),
                node_address: address.to_owned(),
            };
            let mut bytes = [0; ObjectId::LEN];
            for (place, byte) in bytes.iter_mut().enumerate() {
                *byte = u8::from_str_radix(&id[2 * place..2 * place + 2], 16).expect("an object's id");
            }
            Item::Reference(ObjectId::from_array(bytes), owner)
        }
        _ => panic!("{line} is not an item"),
    }
}

/// The references in a value.
pub(crate) fn references(items: &[Item]) -> Vec<(ObjectId, WorkerAddress)> {
    items
        .iter()
        .filter_map(|item| match item {
            Item::Reference(id, owner) => Some((*id, owner.clone())),
            _ => None,
        })
        .collect()
}

/// The numbers in a value, added up.
pub(crate) fn sum(items: &[Item]) -> u64 {
    items
        .iter()
        .map(|item| match item {
            Item::Number(number) => *number,
            _ => 0,
        })
        .fold(0, u64::wrapping_add)
}
