//! Errors of calls that never ran because an argument has failed. Such an error says so, names the call, and carries the
//! argument's own error.
//!
//! The bodies of errors are pickles, which this crate does not read. So a layer is put before the body of the
//! argument's error; `sparkray._private.serialization.load_error` takes layers off. A pickle begins with 0x80, a layer with
//! one of the letters below.

use sparkray_common::{ActorId, TaskId, ValueFormat, ValueHeader};

use super::Tasks;
use crate::state::links::Links;
use crate::state::objects::{Objects, Value};

/// `D`, the length of the call's name in two bytes (little-endian), the name, the argument's error.
const DEPENDENT: u8 = b'D';
/// `C`, the id of the actor whose creation needed the argument, the argument's error.
const CREATION: u8 = b'C';
/// Long chains of calls: those nearest to the failure are named.
const MOST_LAYERS: usize = 32;
/// Errors that are longer travel as they are.
const LONGEST_BODY: usize = 64 * 1024;

/// How many calls are named before the error.
fn layers_of(mut body: &[u8]) -> usize {
    let mut count = 0;
    while let [DEPENDENT, low, high, rest @ ..] = body {
        let name = usize::from(u16::from_le_bytes([*low, *high]));
        body = rest.get(name..).unwrap_or_default();
        count += 1;
    }
    count
}

fn layered(value: &Value, layer: &[u8]) -> Option<Value> {
    let Value::Raised(bytes) = value else { return None };
    let header = ValueHeader::read(bytes).ok()?;
    let body = header.body(bytes);
    let is_long = body.len() > LONGEST_BODY || layers_of(body) >= MOST_LAYERS;
    if header.format != ValueFormat::Error || is_long {
        return None;
    }
    Some(Value::Raised(
        ValueHeader::encode(ValueFormat::Error, &[layer, body].concat()).into(),
    ))
}

/// The error of an actor's calls when an argument of its constructor has failed.
pub(in crate::state) fn creation_failed(actor_id: ActorId, argument: Value) -> Value {
    let layer = [&[CREATION], &actor_id.as_bytes()[..]].concat();
    layered(&argument, &layer).unwrap_or(argument)
}

impl Tasks {
    /// A call cannot run because of an argument.
    pub(in crate::state) fn fail_for_argument(
        &mut self,
        objects: &mut Objects,
        links: &mut Links,
        task_id: TaskId,
        argument: &Value,
    ) {
        let wrapped = self.table.get(&task_id).and_then(|task| {
            let name = task.kind.name();
            let length = u16::try_from(name.len()).ok()?;
            let layer = [&[DEPENDENT], &length.to_le_bytes()[..], name.as_bytes()].concat();
            layered(argument, &layer)
        });
        self.finish(objects, links, task_id, wrapped.as_ref().unwrap_or(argument));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(value: &Value) -> Vec<u8> {
        let Value::Raised(bytes) = value else {
            panic!("{value:?} is not inline")
        };
        ValueHeader::read(bytes).unwrap().body(bytes).to_vec()
    }

    #[test]
    fn layers_go_before_the_body_until_there_are_enough() {
        let error = |body: &[u8]| Value::Raised(ValueHeader::encode(ValueFormat::Error, body).into());
        let actor = ActorId::from_array([7; 16]);
        let body = body_of(&creation_failed(actor, error(b"\x80x")));
        assert_eq!(
            (body[0], &body[1..17], &body[17..]),
            (b'C', &[7; 16][..], &b"\x80x"[..])
        );
        let long = vec![0x80; LONGEST_BODY + 1];
        assert_eq!(body_of(&creation_failed(actor, error(&long))), long);
        let mut chain = error(b"\x80x");
        for count in 1..=MOST_LAYERS {
            chain = layered(&chain, b"D\x01\0f").unwrap();
            assert_eq!(layers_of(&body_of(&chain)), count);
        }
        assert!(layered(&chain, b"D\x01\0f").is_none());
        let plain = Value::Raised(ValueHeader::encode(ValueFormat::Raw, b"no error").into());
        assert!(layered(&plain, b"D").is_none());
    }
}
