use std::cell::RefCell;
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use sparkray_proto::{FrameKind, WorkerLabel};

use super::*;

fn pair() -> (Connection, Connection) {
    let (one, other) = UnixStream::pair().unwrap();
    for stream in [&one, &other] {
        stream.set_nonblocking(true).unwrap();
    }
    (
        Connection::established(one.into(), "one".to_owned()),
        Connection::established(other.into(), "other".to_owned()),
    )
}

fn label(name: &str, payload: usize) -> Vec<u8> {
    let message = WorkerLabel {
        name: name.to_owned(),
        job_id: Bytes::new(),
    };
    let mut bytes = Vec::new();
    sparkray_rpc::encode_frame_head(&mut bytes, FrameKind::WorkerLabel, 0, &message, payload);
    bytes.resize(bytes.len() + payload, 7);
    bytes
}

#[test]
fn frames_wait_until_enough_of_them_do() {
    let (near, far) = pair();
    assert!(!near.append(&mut label("a", 10)));
    assert!(!near.append(&mut label("b", 10)));
    let mut frames = Vec::new();
    assert!(far.on_readable(&mut frames).unwrap());
    assert!(frames.is_empty(), "nothing was written before the flush");
    assert!(near.append(&mut label("c", CORK_BYTES)), "now it should leave");
    assert_eq!(near.flush(|_| panic!("the socket has room")), Flushed::Done);
    while frames.len() < 3 {
        assert!(far.on_readable(&mut frames).unwrap());
    }
    let names: Vec<String> = frames
        .iter()
        .map(|frame| frame.decode::<WorkerLabel>().unwrap().name)
        .collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn what_a_full_socket_does_not_take_leaves_when_it_is_writable() {
    let (near, far) = pair();
    let frame = label("large", 8 << 20);
    near.append(&mut frame.clone());
    let watched = RefCell::new(Vec::new());
    near.flush(|writable| watched.borrow_mut().push(writable));
    assert_eq!(*watched.borrow(), [true]);
    // More is queued behind it.
    near.append(&mut label("after", 0));
    let mut frames = Vec::new();
    while frames.len() < 2 {
        assert!(far.on_readable(&mut frames).unwrap());
        near.on_writable().unwrap();
        near.flush(|writable| watched.borrow_mut().push(writable));
    }
    assert_eq!(
        *watched.borrow(),
        [true, false],
        "watched once, and no longer than needed"
    );
    assert_eq!(frames[0].payload.len(), 8 << 20);
    assert!(frames[0].payload.iter().all(|byte| *byte == 7));
}

#[test]
fn the_end_comes_after_what_was_sent() {
    let (near, far) = pair();
    near.append(&mut label("last", 3));
    near.flush(|_| {});
    near.close();
    assert!(!near.append(&mut label("too late", 0)));
    let mut frames = Vec::new();
    while far.on_readable(&mut frames).unwrap() {}
    assert_eq!(frames.len(), 1);
    // Writing to the other side's closed socket breaks.
    far.append(&mut label("lost", 0));
    assert_eq!(far.flush(|_| {}), Flushed::Broken);
}

#[test]
fn bytes_that_are_no_frame_break_the_connection() {
    let (near, far) = pair();
    near.append(&mut vec![0xff; 64]);
    near.flush(|_| {});
    assert!(far.on_readable(&mut Vec::new()).is_err());
}
