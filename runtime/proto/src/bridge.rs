//! The messages of `bridge.proto`, which cross between Python, Java and Rust, and their encodings.

use std::any::type_name;

pub use prost::Message;

pub use crate::generated::bridge::*;

use crate::MessageError;

/// Reads a message. A failure names it: nobody can see on the bytes what they should have been.
pub fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, MessageError> {
    M::decode(bytes).map_err(|error| MessageError::Unreadable {
        name: name_of::<M>(),
        cause: error.to_string(),
    })
}

/// The bytes of a message.
pub fn encode(message: &impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

fn name_of<M>() -> &'static str {
    let path = type_name::<M>();
    path.rsplit_once("::").map_or(path, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(partition: i32) -> FeedReport {
        FeedReport {
            partitions: vec![FedPartition {
                partition,
                ..FedPartition::default()
            }],
        }
    }

    #[test]
    fn reports_that_follow_each_other_are_one() {
        let joined = [encode(&report(1)), encode(&report(2))].concat();
        let whole: FeedReport = decode(&joined).unwrap();
        assert_eq!(
            whole.partitions,
            [report(1).partitions, report(2).partitions].concat()
        );
    }

    #[test]
    fn bytes_that_are_no_message_are_refused_with_its_name() {
        let message = decode::<FeedReport>(&[0xff]).unwrap_err().to_string();
        assert!(message.starts_with("cannot read FeedReport: "), "{message}");
    }
}
