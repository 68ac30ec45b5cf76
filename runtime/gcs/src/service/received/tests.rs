use super::*;

#[test]
fn a_message_is_acknowledged_when_its_records_are_durable() {
    let mut received = Received::default();
    received.took(1, 4);
    received.took(2, 4);
    received.took(3, 7);
    assert_eq!(received.acknowledged(3), 0);
    assert_eq!(received.acknowledged(6), 2);
    received.took(4, 7);
    assert_eq!(received.acknowledged(7), 4);
    assert_eq!(received.acknowledged(7), 4);
}
