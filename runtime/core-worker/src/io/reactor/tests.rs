use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use sparkray_common::{ClusterId, ClusterToken, NodeId, WorkerId};
use sparkray_proto::{FrameKind, WorkerLabel};
use sparkray_rpc::{CLIENT_PROOF_LEN, HELLO_LEN, Protection, ServerHandshake};

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn identity() -> Identity {
    Identity {
        cluster_id: ClusterId::random(),
        token: ClusterToken::random(),
        head_epoch: 1,
    }
}

fn frame() -> Vec<u8> {
    let mut bytes = Vec::new();
    sparkray_rpc::encode_frame_head(&mut bytes, FrameKind::WorkerLabel, 0, &WorkerLabel::default(), 0);
    bytes
}

/// Drives until something happens.
fn next(reactor: &Reactor) -> Incident {
    let until = Instant::now() + SOON;
    let mut incidents = Vec::new();
    while incidents.is_empty() {
        assert!(Instant::now() < until, "nothing happens");
        reactor.drive(Duration::from_millis(50), &mut incidents).unwrap();
    }
    incidents.remove(0)
}

fn listen(identity: &Identity) -> (UnixListener, Endpoint) {
    let name = format!("sparkray-test-{}", identity.cluster_id);
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    (listener, Endpoint::Abstract(name))
}

fn shake_hands(identity: &Identity, mut stream: &UnixStream, verdict: Result<(), Refusal>) {
    let mut hello = [0; HELLO_LEN];
    stream.read_exact(&mut hello).unwrap();
    let handshake = ServerHandshake::new(identity, hello, Protection::Plain).unwrap();
    stream.write_all(&handshake.proof()).unwrap();
    let mut proof = [0; CLIENT_PROOF_LEN];
    stream.read_exact(&mut proof).unwrap();
    stream.write_all(&[ServerHandshake::verdict(verdict)]).unwrap();
}

#[test]
fn frames_that_were_queued_before_the_handshake_leave_after_it() {
    let identity = identity();
    let (listener, endpoint) = listen(&identity);
    let reactor = Reactor::new(identity.clone()).unwrap();
    let target = Target::Worker(NodeId::random(), WorkerId::random());
    reactor.open(1, &endpoint, target);
    reactor.append(1, &mut frame(), false);
    let callee = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        shake_hands(&identity, &stream, Ok(()));
        let mut received = vec![0; frame().len()];
        stream.read_exact(&mut received).unwrap();
        stream.write_all(&received).unwrap();
        received
    });
    match next(&reactor) {
        Incident::Frames(1, frames) => assert_eq!(frames[0].kind, FrameKind::WorkerLabel),
        other => panic!("{other:?}"),
    }
    assert_eq!(callee.join().unwrap(), frame());
    match next(&reactor) {
        Incident::Closed(1, cause) => assert!(!cause.gone && !cause.unused, "{cause:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_refusal_says_whether_the_process_is_gone() {
    for (refusal, gone) in [(Refusal::NoSuchTarget, true), (Refusal::Busy, false)] {
        let identity = identity();
        let (listener, endpoint) = listen(&identity);
        let reactor = Reactor::new(identity.clone()).unwrap();
        reactor.open(1, &endpoint, Target::Raylet(NodeId::random()));
        let callee = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            shake_hands(&identity, &stream, Err(refusal));
        });
        match next(&reactor) {
            Incident::Closed(1, cause) => {
                assert_eq!(cause.gone, gone, "{cause:?}");
                assert!(cause.unused);
            }
            other => panic!("{other:?}"),
        }
        callee.join().unwrap();
    }
}

#[test]
fn nobody_listens() {
    let identity = identity();
    let reactor = Reactor::new(identity.clone()).unwrap();
    let endpoint = Endpoint::Abstract(format!("sparkray-test-{}", identity.cluster_id));
    reactor.open(3, &endpoint, Target::Raylet(NodeId::random()));
    match next(&reactor) {
        Incident::Closed(3, cause) => assert!(!cause.gone && cause.unused, "{cause:?}"),
        other => panic!("{other:?}"),
    }
    assert!(reactor.append(3, &mut frame(), true).is_none());
}

#[test]
fn a_host_is_found_by_its_name_and_frames_wait_for_that() {
    let identity = identity();
    let listener = std::net::TcpListener::bind("localhost:0").unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let reactor = Reactor::new(identity).unwrap();
    reactor.open(1, &Endpoint::Tcp(address), Target::Raylet(NodeId::random()));
    assert!(
        reactor.append(1, &mut frame(), true).is_none(),
        "nothing can leave yet"
    );
    let callee = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; HELLO_LEN]).unwrap();
    });
    match next(&reactor) {
        Incident::Closed(1, cause) => assert!(cause.unused, "{cause:?}"),
        other => panic!("{other:?}"),
    }
    callee.join().unwrap();
}

#[test]
fn a_name_that_nobody_has_breaks_its_connection() {
    let reactor = Reactor::new(identity()).unwrap();
    let endpoint = Endpoint::Tcp("localhost:no-port".to_owned());
    reactor.open(1, &endpoint, Target::Raylet(NodeId::random()));
    match next(&reactor) {
        Incident::Closed(1, cause) => {
            assert!(
                cause.unused && cause.message.contains("localhost:no-port"),
                "{cause:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(reactor.append(1, &mut frame(), true).is_none());
    // One that is closed before the answer is not begun any more.
    let listener = std::net::TcpListener::bind("localhost:0").unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    reactor.open(2, &Endpoint::Tcp(address), Target::Raylet(NodeId::random()));
    reactor.close(2);
    reactor.drive(Duration::from_millis(1), &mut Vec::new()).unwrap();
    assert!(reactor.append(2, &mut frame(), true).is_none());
}

#[test]
fn a_sleeping_leader_takes_corked_frames_along() {
    let reactor = Arc::new(Reactor::new(identity()).unwrap());
    let (near, mut far) = UnixStream::pair().unwrap();
    reactor.adopt(1, near.into(), Agreement::plain(), "far");
    let leader = Arc::clone(&reactor);
    let driving = std::thread::spawn(move || {
        let mut incidents = Vec::new();
        while incidents.is_empty() {
            leader.drive(SOON, &mut incidents).unwrap();
        }
    });
    for _ in 0..3 {
        assert!(
            reactor.append(1, &mut frame(), false).is_none(),
            "it need not leave at once"
        );
        let mut received = vec![0; frame().len()];
        far.read_exact(&mut received).unwrap();
        assert_eq!(received, frame());
    }
    drop(far);
    driving.join().unwrap();
}

#[test]
fn a_kick_is_noticed_before_and_during_the_sleep() {
    let reactor = Arc::new(Reactor::new(identity()).unwrap());
    reactor.kick().now();
    let begun = Instant::now();
    reactor.drive(SOON, &mut Vec::new()).unwrap();
    assert!(begun.elapsed() < SOON);
    let leader = Arc::clone(&reactor);
    let driving = std::thread::spawn(move || leader.drive(SOON * 10, &mut Vec::new()).unwrap());
    reactor.kick().now();
    assert_eq!(driving.join().unwrap(), Woken::Other);
}
