//! What somebody between two hosts can do: read, change, replay. And what strangers can do to a door.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sparkray_common::sync::Mutex;
use sparkray_common::{ClusterId, ClusterToken, NodeId, WorkerId};
use sparkray_proto::{FrameKind, WorkerLabel};
use sparkray_rpc::{
    Accepted, Endpoint, Frame, FrameReceiver, FrameSender, Identity, Listener, Protection, RpcError, Target,
    accept_loop, dial, frame_connection, take_over,
};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

const PATIENCE: Duration = Duration::from_mins(1);
const SECRET: &[u8] = b"what nobody else is to read";

/// A door on TCP.
struct Door {
    identity: Identity,
    address: String,
    arrivals: mpsc::Receiver<Accepted>,
    _stop: DropGuard,
}

impl Door {
    async fn open(protection: Protection) -> Self {
        let identity = Identity {
            cluster_id: ClusterId::random(),
            token: ClusterToken::random(),
            head_epoch: 1,
        };
        let listener = Listener::bind_tcp("127.0.0.1", 0, protection).await.unwrap();
        let address = format!("127.0.0.1:{}", listener.local_port());
        let stop = CancellationToken::new();
        let (accepted, arrivals) = mpsc::channel(4096);
        let admit = |_: Target| Ok(());
        tokio::spawn(accept_loop(
            listener,
            identity.clone(),
            stop.clone(),
            admit,
            accepted,
        ));
        Self {
            identity,
            address,
            arrivals,
            _stop: stop.drop_guard(),
        }
    }

    /// Both ends of a connection to `target`, dialled at `address`.
    async fn connection(
        &mut self,
        address: &str,
        target: Target,
    ) -> ((FrameSender, FrameReceiver), (FrameSender, FrameReceiver)) {
        let endpoint = Endpoint::Tcp(address.to_owned());
        let identity = self.identity.clone();
        let near = tokio::spawn(async move { dial(&identity, &endpoint, target, PATIENCE).await });
        let far = self.arrivals.recv().await.unwrap();
        assert_eq!(far.target, target);
        let far = if matches!(target, Target::Worker(..) | Target::Head) {
            // As another process does to which the socket was handed on.
            take_over(far.socket.socket, &far.agreement, &self.identity.token, PATIENCE)
                .await
                .unwrap()
        } else {
            far.socket
        };
        let near = near.await.unwrap().unwrap();
        (frame_connection(near).unwrap(), frame_connection(far).unwrap())
    }
}

fn label(name: &str, payload: Vec<u8>) -> Frame {
    let message = WorkerLabel {
        name: name.to_owned(),
        job_id: Bytes::new(),
    };
    Frame::new(FrameKind::WorkerLabel, 1, &message).with_payload(Bytes::from(payload))
}

/// Somebody on the way: passes on what was said, keeps it, and changes it where `change` says so. Gives the way.
fn eavesdropper(
    address: &str,
    change: impl Fn(usize, &mut [u8]) + Send + Sync + 'static,
) -> (String, Arc<Mutex<Vec<u8>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let change = Arc::new(change);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let way = listener.local_addr().unwrap().to_string();
    let (record, address) = (Arc::clone(&heard), address.to_owned());
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let near = near.unwrap();
            let far = TcpStream::connect(&address).unwrap();
            for (mut from, mut to, changes) in [
                (near.try_clone().unwrap(), far.try_clone().unwrap(), true),
                (far, near, false),
            ] {
                let (record, change) = (Arc::clone(&record), Arc::clone(&change));
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 64 * 1024];
                    let mut passed = 0;
                    while let Ok(read @ 1..) = from.read(&mut buffer) {
                        record.lock().extend_from_slice(&buffer[..read]);
                        if changes {
                            change(passed, &mut buffer[..read]);
                        }
                        passed += read;
                        if to.write_all(&buffer[..read]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    (way, heard)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn what_is_sealed_cannot_be_read_on_the_way_whoever_serves_it() {
    for target in [
        Target::Raylet(NodeId::random()),
        Target::Worker(NodeId::random(), WorkerId::random()),
        Target::Head,
    ] {
        for (protection, readable) in [(Protection::Sealed, false), (Protection::Checked, true)] {
            let mut door = Door::open(protection).await;
            let (way, heard) = eavesdropper(&door.address, |_, _| {});
            let (near, mut far) = door.connection(&way, target).await;
            let payload = SECRET.repeat(20_000);
            near.0.send_wait(label("a name", payload.clone())).await.unwrap();
            let frame = far.1.next().await.unwrap().unwrap();
            assert_eq!(frame.decode::<WorkerLabel>().unwrap().name, "a name");
            assert!(frame.payload[..] == payload[..]);
            let heard = heard.lock();
            assert_eq!(contains(&heard, SECRET), readable, "{target:?} {protection:?}");
            assert_eq!(contains(&heard, b"a name"), readable, "{target:?} {protection:?}");
            assert!(!contains(&heard, door.identity.token.expose_bytes()));
        }
    }
}

#[tokio::test]
async fn one_flipped_bit_ends_the_connection_and_no_wrong_byte_is_seen() {
    // After the handshake and the keys: in the first record's header, its body, and deep in a large payload.
    let handshake: usize = 104 + 32 + 48;
    for protection in [Protection::Sealed, Protection::Checked] {
        let begin = if protection == Protection::Sealed {
            handshake
        } else {
            104 + 32
        };
        for place in [begin, begin + 3, begin + 20, begin + 300_000] {
            let mut door = Door::open(protection).await;
            let (way, _) = eavesdropper(&door.address, move |passed, bytes| {
                if let Some(byte) = place.checked_sub(passed).and_then(|index| bytes.get_mut(index)) {
                    *byte ^= 0x10;
                }
            });
            let (near, mut far) = door.connection(&way, Target::Raylet(NodeId::random())).await;
            near.0.send_wait(label("first", vec![7; 1 << 20])).await.unwrap();
            let error = tokio::time::timeout(PATIENCE, far.1.next())
                .await
                .expect("nobody waits for what does not come")
                .expect_err("the change is noticed");
            assert!(
                matches!(error, RpcError::NotSecure(_)),
                "{protection:?} {place}: {error}"
            );
        }
    }
}

#[tokio::test]
async fn who_passes_a_handshake_on_gets_no_keys_of_his_own() {
    let mut door = Door::open(Protection::Sealed).await;
    // The one on the way keeps the caller's proof as it is, and puts a message of his own in the place of the keys.
    let (way, _) = eavesdropper(&door.address, |passed, bytes| {
        for (index, byte) in bytes.iter_mut().enumerate() {
            if (104 + 32..104 + 32 + 32).contains(&(passed + index)) {
                *byte ^= 0xff;
            }
        }
    });
    let endpoint = Endpoint::Tcp(way);
    let outcome = dial(&door.identity, &endpoint, Target::Manager, PATIENCE).await;
    assert!(outcome.is_err());
    assert!(door.arrivals.try_recv().is_err(), "nobody was let in");
}

#[tokio::test]
async fn a_flood_of_silent_callers_from_one_address_keeps_no_other_out() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let mut door = Door::open(Protection::Sealed).await;
    let port: u16 = door.address.rsplit(':').next().unwrap().parse().unwrap();
    let flood: Vec<TcpStream> = tokio::task::spawn_blocking(move || {
        (0..2000)
            .map_while(|_| connect_from("127.0.0.2", port).ok())
            .collect()
    })
    .await
    .unwrap();
    assert_eq!(flood.len(), 2000, "the test has descriptors enough");
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let begin = Instant::now();
        let address = door.address.clone();
        let ((sender, _), _) = door.connection(&address, Target::Manager).await;
        assert!(!sender.is_closed());
        slowest = slowest.max(begin.elapsed());
    }
    // Far above what it takes, and far below the time after which silent callers go by themselves.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    drop(flood);
}

fn connect_from(source: &str, port: u16) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType};
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let from = std::net::SocketAddrV4::new(source.parse().unwrap(), 0);
    rustix::net::bind(&socket, &from)?;
    let to = std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port);
    rustix::net::connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

#[tokio::test]
async fn a_caller_that_was_pushed_out_comes_again() {
    let mut door = Door::open(Protection::Sealed).await;
    let address = door.address.clone();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let way = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for (number, near) in listener.incoming().enumerate() {
            let near = near.unwrap();
            if number < 3 {
                continue;
            }
            let far = TcpStream::connect(&address).unwrap();
            for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    let ((near, _), _) = door.connection(&way, Target::Manager).await;
    assert!(!near.is_closed());
}
